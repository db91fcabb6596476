"""rawgan.init: distributions, parameters left unchanged, and dependence on the stream alone."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from rawgan.init import dcgan_init, glorot_uniform, gulrajani_uniform, he_uniform
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    InstanceNorm,
    LayerNorm,
    Linear,
    Parameters,
    Sequential,
    state,
)
from tests.support.reference import assert_same

everyone = pytest.mark.parametrize(
    "init", [dcgan_init, glorot_uniform, gulrajani_uniform, he_uniform]
)


def network():
    """Return a network with every kind of weight, large enough for narrow 5 sigma bounds."""
    conv = Sequential(Conv2d(64, 40, (5, 3), (2, 1)), InstanceNorm(2000))
    return Sequential(
        ConvTranspose2d(50, 64, 4, 2),
        BatchNorm(2000),
        conv,
        LayerNorm((5, 20, 20)),
        Linear(300, 70),
    )


def drawn(init, seed=0):
    net = network()
    init(net, np.random.default_rng(seed))
    return state(net)


def assert_moments(a, mean, std, kurtosis):
    """Assert that mean and standard deviation lie within 5 sigma of a.size independent draws."""
    assert abs(a.mean(dtype=float) - mean) < 5 * std / sqrt(a.size)
    assert abs(a.std(dtype=float) - std) < 5 * std * sqrt((kurtosis - 1) / (4 * a.size))


class TestDCGAN:
    def test_weights(self):
        for name, a in drawn(dcgan_init).items():
            if name.endswith(".w"):
                assert_moments(a, 0, 0.02, 3)
                assert stats.kstest(a.ravel() / 0.02, "norm").pvalue > 1e-6

    def test_gammas(self):
        for name, a in drawn(dcgan_init).items():
            if name.endswith(".gamma"):
                assert_moments(a, 1, 0.02, 3)
                assert stats.kstest((a.ravel() - 1) / 0.02, "norm").pvalue > 1e-6


class TestUniform:
    """Weights are U(-a, a) with a = sqrt(6 / fans).

    Glorot counts the channels of both sides, He the input channels, both times the filter taps.
    Gulrajani's convolutions use the mean of both sides, of which the side with fewer pixels is
    divided by the stride.
    """

    @pytest.mark.parametrize(
        "init, name, fans",
        [
            pytest.param(glorot_uniform, "0.w", 16 * (50 + 64), id="Glorot, ConvTranspose2d"),
            pytest.param(glorot_uniform, "2.0.w", 15 * (64 + 40), id="Glorot, Conv2d"),
            pytest.param(glorot_uniform, "4.w", 300 + 70, id="Glorot, Linear"),
            pytest.param(he_uniform, "2.0.w", 15 * 64, id="He, Conv2d"),
            pytest.param(he_uniform, "4.w", 300, id="He, Linear"),
            pytest.param(
                gulrajani_uniform, "0.w", 16 * (64 + 50 / 4) / 2, id="Gulrajani, ConvTranspose2d"
            ),
            pytest.param(
                gulrajani_uniform, "2.0.w", 15 * (64 + 40 / 2) / 2, id="Gulrajani, Conv2d"
            ),
            pytest.param(gulrajani_uniform, "4.w", 300 + 70, id="Gulrajani, Linear"),
        ],
    )
    def test_bounds(self, init, name, fans):
        a, bound = drawn(init)[name], sqrt(6 / fans)
        assert_moments(a, 0, bound / sqrt(3), 9 / 5)
        assert 0.999 * bound < np.abs(a).max() <= np.float32(bound)
        assert stats.kstest(a.ravel() / bound, "uniform", (-1, 2)).pvalue > 1e-6

    @pytest.mark.parametrize("init", [glorot_uniform, gulrajani_uniform, he_uniform])
    def test_gammas_stay_one(self, init):
        assert all((a == 1).all() for name, a in drawn(init).items() if name.endswith(".gamma"))


@everyone
def test_the_rest_is_left_alone(init):
    before = state(network())
    for name, a in drawn(init).items():
        if not name.endswith((".w", ".gamma")):
            assert_same(a, before[name], name)


@everyone
def test_the_stream_decides(init):
    got, again, other = drawn(init), drawn(init), drawn(init, seed=1)
    for name, a in got.items():
        assert_same(a, again[name], name)
        if name.endswith(".w"):
            assert (a != other[name]).mean() > 0.99


@everyone
def test_layers_do_not_share_numbers(init):
    net = Sequential(Linear(300, 70), Linear(300, 70))
    init(net, np.random.default_rng(0))
    assert (net.params["0.w"] != net.params["1.w"]).mean() > 0.99


@everyone
def test_writes_through_to_the_flat_buffer(init):
    net = network()
    parameters = Parameters(net)
    init(net, np.random.default_rng(0))
    want = drawn(init)
    assert_same(parameters.flat, np.concatenate([want[name].ravel() for name in parameters.shapes]))
