"""Linear, and the operations of ops/linear.py that it uses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawgan.layers import Linear
from rawgan.layers import linear as layer_file
from rawgan.ops.linear import bias_db, linear_dw
from tests.support.reference import assert_close, check_layer

SIZES = st.integers(1, 17)


@given(
    N=SIZES,
    C=SIZES,
    K=SIZES,
    bias=st.booleans(),
    gaps=st.booleans(),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_linear(device, N, C, K, bias, gaps, dtype):
    x = np.random.default_rng(1).normal(size=(N, C)).astype(dtype)
    check_layer(Linear(C, K, bias), x, device=device, bilinear=True, gaps=gaps)


def test_long_sums(rng, device):
    check_layer(
        Linear(1031, 7),
        rng.normal(size=(4099, 1031)).astype(np.float32),
        device=device,
        bilinear=True,
    )


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 7), (3, 5, 2, 7)])
def test_bias_db(rng, shape):
    dy = rng.normal(size=shape)
    assert_close(bias_db(dy), dy.reshape(-1, 7).sum(0))


def test_wrong_x(rng):
    layer = Linear(3, 4)
    for shape in ((2, 5), (3,), (2, 1, 3)):
        with pytest.raises(ValueError) as error:
            layer.forward(np.zeros(shape, np.float32))
        assert str(error.value) == f"Linear: expected x of shape (N, 3), got {shape}"
    with pytest.raises(ValueError, match="Linear: the batch is empty"):
        layer.forward(np.zeros((0, 3), np.float32))
    with pytest.raises(TypeError, match="Linear: x is float64 but w is float32"):
        layer.forward(np.zeros((2, 3)))


def test_repr():
    assert repr(Linear(3, 4)) == "Linear(3, 4)"
    assert repr(Linear(3, 4, False)) == "Linear(3, 4, bias=False)"


MISTAKES = {
    "averaged over the batch": ("linear_dw", lambda x, dy: linear_dw(x, dy) / len(x)),
    "bias gradient of the first sample alone": ("bias_db", lambda dy: dy[0]),
    "weight not transposed": ("linear_dx", lambda dy, w: dy @ w.T),
}


@pytest.mark.parametrize("name, wrong", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, rng, name, wrong):
    monkeypatch.setattr(layer_file, name, wrong)
    with pytest.raises(AssertionError):
        check_layer(Linear(5, 5), rng.normal(size=(3, 5)), bilinear=True)


def test_long_bias_sums_keep_their_digits(rng):
    """Long sums of a bias gradient are accurate, as over all pixels of a batch."""
    for shape in ((64, 64, 64, 4), (100_003, 1), (1025, 3)):
        dy = rng.normal(1, 1, shape).astype(np.float32)
        want = dy.reshape(-1, shape[-1]).sum(0, dtype=np.float64)
        assert (abs(bias_db(dy) / want - 1) < 2e-7).all()
