"""rawgan.models: the sizes of networks and of their outputs, and equality with their sources."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from rawgan.errors import UserError
from rawgan.init import dcgan_init, glorot_uniform
from rawgan.layers import Parameters, parameter_count
from rawgan.models import raschka
from rawgan.models.atienza import atienza_discriminator, atienza_generator
from rawgan.models.dcgan import dcgan_discriminator, dcgan_generator
from rawgan.models.limits import quarter
from rawgan.random import Random
from tests.support.reference import assert_close
from tests.support.twins import to_nchw, to_nhwc, twin

pictures = pytest.mark.parametrize(
    "size, channels", [(size, channels) for size in (16, 28, 32, 64, 128) for channels in (1, 3)]
)


class TestParameterCounts:
    def test_dcgan_64(self):
        assert parameter_count(dcgan_generator()) == 3_576_704
        assert parameter_count(dcgan_discriminator()) == 2_765_568

    def test_dcgan_32(self):
        assert parameter_count(dcgan_generator(32, 1, 32)) == 369_600
        assert parameter_count(dcgan_discriminator(32, 1, 32)) == 166_784

    def test_atienza(self):
        """Parameter counts equal Keras', which include running statistics."""
        assert parameter_count(atienza_generator(), buffers=True) == 1_301_505
        assert parameter_count(atienza_discriminator(), buffers=True) == 1_080_577

    def test_raschka(self):
        assert parameter_count(raschka.mlp_generator()) == 81_184
        assert parameter_count(raschka.mlp_discriminator()) == 78_601
        generator, critic = raschka.wgan_gp_generator(), raschka.wgan_gp_critic()
        assert (parameter_count(generator, buffers=True), parameter_count(generator)) == (
            817_824,
            804_832,
        )
        assert (parameter_count(critic, buffers=True), parameter_count(critic)) == (
            1_040_385,
            1_039_489,
        )


class TestShapes:
    @pictures
    def test_dcgan(self, size, channels):
        rng = Random(0).stream("weights")
        generator, discriminator = (
            dcgan_generator(size, channels, 2, 5),
            dcgan_discriminator(size, channels, 2),
        )
        dcgan_init(generator, rng)
        dcgan_init(discriminator, rng)
        x, _ = generator.forward(rng.standard_normal((2, 5), dtype="float32"))
        assert x.shape == (2, size, size, channels) and x.dtype == np.float32
        assert -1 <= x.min() < 0 < x.max() <= 1
        assert discriminator.forward(x)[0].shape == (2, 1, 1, 1)

    @pictures
    def test_atienza(self, size, channels):
        rng = Random(0).stream("weights")
        generator, discriminator = (
            atienza_generator(size, channels, 2, 5),
            atienza_discriminator(size, channels, 2),
        )
        glorot_uniform(generator, rng)
        glorot_uniform(discriminator, rng)
        x, _ = generator.forward(rng.uniform(-1, 1, (2, 5)).astype("float32"))
        assert x.shape == (2, size, size, channels) and x.dtype == np.float32
        assert 0 <= x.min() < 0.5 < x.max() <= 1
        assert discriminator.forward(x)[0].shape == (2, 1)

    @pytest.mark.parametrize("size", [-32, 0, 1, 4, 7, 9, 18, 27, 33, 66, 1000])
    @pytest.mark.parametrize("build", [dcgan_generator, dcgan_discriminator])
    def test_unreachable_sizes_name_reachable_ones(self, build, size):
        with pytest.raises(UserError, match=f"size {size} cannot be reached") as error:
            build(size)
        named = [int(n) for n in re.search(r"\[(.+)\]", str(error.value))[1].split(", ")]
        assert len(named) == 3
        for reachable in named:
            build(reachable, width=1)

    def test_atienza_needs_a_multiple_of_four(self):
        with pytest.raises(UserError, match="30"):
            atienza_generator(30)


@pytest.mark.parametrize("size", [-4, 0, 2, 3, 5, 6, 36])
def test_sizes_of_two_doublings(size):
    """From 4 on, in steps of 4, to the largest."""
    assert [quarter(n, 32) for n in (4, 8, 28, 32)] == [1, 2, 7, 8] and quarter(36) == 9
    with pytest.raises(UserError, match="must be a multiple of 4, at most 32"):
        quarter(size, 32)


def conv(C, K, stride=2, pad=1):
    return nn.Conv2d(C, K, 4, stride, pad, bias=False)


def conv_transpose(C, K, stride=2, pad=1):
    return nn.ConvTranspose2d(C, K, 4, stride, pad, bias=False)


class TestAsInTheSources:
    """With the same weights the networks equal those of pytorch/examples/dcgan and of the book."""

    def check(self, net, want, x):
        dcgan_init(net, np.random.default_rng(0))
        Parameters(net, dtype=np.float64)
        want.to(torch.float64).load_state_dict(twin(net).state_dict())
        got, _ = net.forward(x)
        with torch.no_grad():
            assert_close(got, to_nhwc(want(to_nchw(torch.tensor(x)))))

    def test_dcgan_64_generator(self):
        want = nn.Sequential(
            nn.Unflatten(1, (100, 1, 1)), conv_transpose(100, 512, 1, 0), nn.BatchNorm2d(512),
            nn.ReLU(),
            conv_transpose(512, 256), nn.BatchNorm2d(256), nn.ReLU(),
            conv_transpose(256, 128), nn.BatchNorm2d(128), nn.ReLU(),
            conv_transpose(128, 64), nn.BatchNorm2d(64), nn.ReLU(),
            conv_transpose(64, 3), nn.Tanh(),
        )  # fmt: skip
        self.check(dcgan_generator(), want, np.random.default_rng(1).standard_normal((2, 100)))

    def test_dcgan_64_discriminator(self):
        want = nn.Sequential(
            conv(3, 64), nn.LeakyReLU(0.2),
            conv(64, 128), nn.BatchNorm2d(128), nn.LeakyReLU(0.2),
            conv(128, 256), nn.BatchNorm2d(256), nn.LeakyReLU(0.2),
            conv(256, 512), nn.BatchNorm2d(512), nn.LeakyReLU(0.2),
            conv(512, 1, 1, 0),
        )  # fmt: skip
        self.check(
            dcgan_discriminator(), want, np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3))
        )
