"""SN-GAN: parameter counts, the blocks of the authors' code, second order, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rawgan.errors import UserError
from rawgan.layers import leaves, parameter_count
from rawgan.models import sngan
from rawgan.models.recipes import RECIPES
from rawgan.penalties import R1, WGANGP
from rawgan.planned import plan_step
from rawgan.random import Random
from tests.support.recipe_twin import compare, trajectory
from tests.support.reference import assert_close, randomize
from tests.support.twins import to_nchw, to_nhwc, twin

SNGAN = ("sngan", "sngan_resnet", "sngan_projection")


@pytest.mark.parametrize(
    "name, G, D",
    [
        ("sngan", 3_828_739, 5_860_865),
        ("sngan_resnet", 4_276_739, 1_053_825),
        ("sngan_projection", 4_304_387, 1_055_105),
    ],
)
def test_parameter_counts(name, G, D):
    """The counts are those of the networks of the sources."""
    gan = RECIPES[name].build(Random(0))
    assert (parameter_count(gan.generator), parameter_count(gan.discriminator)) == (G, D)


@pytest.mark.parametrize("size, channels", [(8, 1), (16, 3), (28, 1), (32, 3)])
@pytest.mark.parametrize("name", SNGAN)
def test_shapes(name, size, channels, rng):
    recipe = RECIPES[name]
    gan = recipe.build(Random(0), size, channels, 4)
    labels = np.array([3, 9])
    z = recipe.draw_z(rng, 2)
    x, _ = gan.generator.forward((z, labels) if recipe.classes else z)
    assert x.shape == (2, size, size, channels) and -1 <= x.min() < 0 < x.max() <= 1
    scores, _ = gan.discriminator.forward((x, labels) if recipe.classes else x)
    assert scores.shape == (2, 1)


def test_sizes_and_widths_without_a_network():
    sngan.generator(10, width=4), sngan.plain_discriminator(10, width=1)
    with pytest.raises(UserError, match="size must be a multiple of 4, not 10"):
        sngan.discriminator(10, width=4)
    with pytest.raises(UserError, match="width of at least 2, not 1"):
        sngan.discriminator(16, width=1)
    for network in (sngan.generator, sngan.plain_generator, sngan.plain_discriminator):
        with pytest.raises(UserError, match="size 18 cannot be reached"):
            network(18)


# The blocks as the authors' code has them: the shortcut's convolution on the larger image


def convolutions(module):
    """Return the convolutions of a branch of a twin, with spectral normalisation or without."""
    return [child for child in module if hasattr(child, "weight") and child.weight.ndim == 4]


def test_upsampling_block(rng):
    block = sngan.upsampling_block(3)
    randomize(block, rng)
    copy = twin(block)
    b1, b2 = (child for child in copy.inner if isinstance(child, nn.BatchNorm2d))
    (c1, c2), (shortcut,) = convolutions(copy.inner), convolutions(copy.shortcut)
    x = rng.normal(size=(4, 6, 5, 3))
    h = to_nchw(torch.from_numpy(x))
    y = c2(F.relu(b2(c1(F.interpolate(F.relu(b1(h)), scale_factor=2)))))
    y = y + shortcut(F.interpolate(h, scale_factor=2))
    assert_close(block.forward(x)[0], to_nhwc(y.detach()).numpy())


@pytest.mark.parametrize("pool, first", [(True, True), (True, False), (False, False)])
def test_discriminator_block(pool, first, rng):
    block = sngan.discriminator_block(3, 5 if pool else 3, pool, first)
    randomize(block, rng)
    copy = twin(block)
    c1, c2 = convolutions(copy.inner)
    x = rng.normal(size=(4, 6, 8, 3))
    h = to_nchw(torch.from_numpy(x))
    y = c2(F.relu(c1(h if first else F.relu(h))))
    if pool:
        (shortcut,) = convolutions(copy.shortcut)
        y = F.avg_pool2d(y, 2)
        h = shortcut(F.avg_pool2d(h, 2)) if first else F.avg_pool2d(shortcut(h), 2)
    assert_close(block.forward(x)[0], to_nhwc((y + h).detach()).numpy())


def test_first_weights():
    """Xavier's gain is sqrt(2) in the 3x3 convolutions of the blocks, 1 elsewhere."""
    gan = RECIPES["sngan_projection"].build(Random(0), width=64)
    gains = set()
    for net in (gan.generator, gan.discriminator):
        for path, layer in leaves(net):
            if "w" not in layer.params:
                continue
            w = layer.params["w"]
            K, *taps, C = w.shape
            gain = 2 if ".inner." in path else 1
            want = (gain * 2 / (np.prod(taps) * (K + C))) ** 0.5
            assert abs(w.std() / want - 1) < 4 / w.size**0.5, path
            gains.add((gain, *taps))
    assert gains == {(2, 3, 3), (1, 3, 3), (1, 1, 1), (1,)}


# Second order


@pytest.mark.parametrize(
    "name, penalty",
    [("sngan", WGANGP(10)), ("sngan_resnet", R1(1.0)), ("sngan_projection", R1(1.0))],
)
def test_penalised(name, penalty):
    """A gradient penalty of D, its second derivative included, is that of autograd."""
    compare(*trajectory(replace(RECIPES[name], penalty=penalty), steps=3))


# What is refused


@pytest.mark.parametrize(
    "name, changes, reason",
    [
        ("sngan", {}, r"support layer 0, SpectralNorm\(Conv2d\(.*: it requires linear maps"),
        ("sngan_resnet", {}, "sngan_resnet has a learning rate that decays, which the planned"),
        ("sngan_projection", {}, "sngan_projection has a learning rate that decays, which the"),
        ("sngan_resnet", {"lr_decay": False}, "support layer 2, Residual of BatchNorm, "),
        ("sngan_projection", {"lr_decay": False}, "has several critic steps and classes, which"),
    ],
)
def test_not_planned(name, changes, reason):
    recipe = replace(RECIPES[name], **changes)
    images, labels = np.zeros((4, 16, 16, 1), np.uint8), np.zeros(4, np.int64)
    with pytest.raises(UserError, match=reason):
        plan_step(recipe.build(Random(0), 16, 1, 4), images, 4, labels=labels)
