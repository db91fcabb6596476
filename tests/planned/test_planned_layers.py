"""Planned steps with each arrangement of layers equal GAN.train_step, or are refused by name."""

import re
from dataclasses import replace

import numpy as np
import pytest

from rawgan import layers
from rawgan.ada import Augmentation
from rawgan.errors import UserError
from rawgan.layers import (
    BatchNorm,
    Condition,
    Conv2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    OneHot,
    Reshape,
    Sequential,
    Softplus,
    Tanh,
)
from rawgan.models.recipes import RECIPES
from rawgan.planned import plan_step
from rawgan.planned.fuse import fused_blocks
from rawgan.random import Random
from tests.support.planned_cases import CRITICS, NORMALISED_CRITICS
from tests.support.planned_runs import WHERE, results

NAMES = {
    "wgan_gp": [f"wgan_gp, {name}" for name in CRITICS],
    "raschka_wgan_gp": [f"raschka_wgan_gp, {name}" for name in CRITICS | NORMALISED_CRITICS],
}


@WHERE
@pytest.mark.parametrize("recipe", NAMES)
def test_critic_under_a_penalty(recipe, where):
    """Metrics are within 16 roundings of float64, gradients within 64, as in test_planned.py."""
    for name, result in results("compare", where, "fp32", NAMES[recipe]).items():
        metrics, *_, G, D = result["planned"]
        assert metrics <= 16 * 2**-24, name
        assert max(G, D) <= 64 * 2**-24, f"{name}: gradients of G {G:.3g}, of D {D:.3g}"


@WHERE
def test_derivative_of_the_input(where):
    """An activation with a derivative of its input is planned after BatchNorm."""
    result = results("compare", where, "fp32", ["dcgan, Softplus"])["dcgan, Softplus"]
    metrics, *_, G, D = result["planned"]
    assert metrics <= 16 * 2**-24 and max(G, D) <= 64 * 2**-24, (metrics, G, D)


def without_norm(size, channels, width, z):
    pixels = size * size * channels
    return Sequential(
        Linear(z, width), Softplus(), Linear(width, pixels), Reshape(size, size, channels)
    )


def constant_scale(size, channels, width, z):
    pixels = size * size * channels
    return Sequential(
        Linear(z, width), BatchNorm(width, trained_scale=False), LeakyReLU(0.2),
        Linear(width, pixels), Reshape(size, size, channels),
    )  # fmt: skip


def normalised_end(size, channels, width, z):
    return Sequential(
        Linear(z, size * size * channels), Reshape(size, size, channels), BatchNorm(channels),
        Tanh(),
    )  # fmt: skip


def dropout_end(size, channels, width, z):
    return Sequential(
        Linear(z, size * size * channels), LeakyReLU(0.2), Dropout(0.5),
        Reshape(size, size, channels),
    )  # fmt: skip


def padded_score(size, channels, width):
    """Return a D whose last filter is larger than its input, which is padded."""
    return Sequential(Conv2d(channels, 1, size + 2, pad=1))


def late_activation(size, channels, width):
    """Return a D with a learnt label plane and an activation that is not right after it."""
    plane = Sequential(OneHot(10), Linear(10, size * size), Reshape(size, size, 1))
    return Sequential(
        Condition(plane), Flatten(), LeakyReLU(0.2), Linear(size * size * (channels + 1), 1)
    )


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", ["dcgan", "raschka_mlp_gan", "wgan", "wgan_gp", "raschka_wgan_gp"])
@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"generator": normalised_end},
            "does not support layer 2, BatchNorm.*, at the end of the generator",
        ),
        ({"generator": without_norm}, "does not support layer 1, Softplus"),
        ({"generator": constant_scale}, "does not support layer 1, BatchNorm.*, trained_scale=F"),
        (
            {"generator": dropout_end},
            "does not support the Dropout after layer 0, Linear.*, at the end of the generator",
        ),
        (
            {"discriminator": padded_score},
            "does not support layer 0, Conv2d.*, which makes the score",
        ),
    ],
)
def test_refused_by_every_step(name, changes, words):
    """A layer that no planned step computes is refused by name, and --path auto goes without."""
    gan = replace(RECIPES[name], **changes).build(Random(0), 8, 1, 8)
    with pytest.raises(UserError, match=words):
        plan_step(gan, np.zeros((1, 8, 8, 1), np.uint8), 4)


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPool2d(),
        layers.AvgPool2d(),
        layers.Upsample2d(),
        layers.GlobalMeanPool(),
        layers.GlobalSumPool(),
        layers.PixelNorm(),
        layers.Augment(),
        layers.GaussianNoise(0.3),
        layers.MinibatchStd(),
        layers.EqualizedLR(Conv2d(2, 2, 1)),
        layers.WeightNorm(Conv2d(2, 2, 1)),
        layers.Residual(Conv2d(2, 2, 1)),
        layers.Skip(Conv2d(2, 2, 1)),
        layers.Heads(Conv2d(2, 2, 1)),
        layers.Lerp(Conv2d(2, 2, 1), Conv2d(2, 2, 1)),
        layers.ConditionalBatchNorm(2, 3),
        layers.Projection(Linear(2, 1), layers.Embedding(3, 2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_blocks_are_refused(layer):
    """Pools, blocks and reparameterized weights are refused by name, wherever they stand."""
    for i in (0, 1):
        before = [Conv2d(1, 2, 3)] * i
        words = rf"does not support layer {i}, {type(layer).__name__}\b"
        with pytest.raises(UserError, match=words):
            fused_blocks(Sequential(*before, layer), (8, 8, 2 - i), "fp32")


@pytest.mark.parametrize("name", ["dcgan", "cgan", "atienza_cgan", "wgan_gp", "wgan", "acgan"])
def test_augmentation_is_refused(name):
    """By every step, also before the labels of a conditional D, in one sentence."""
    gan = RECIPES[name].with_augmentation(Augmentation()).build(Random(0), 8, 1, 8)
    labels = np.zeros(1, np.int64) if gan.classes else None
    with pytest.raises(UserError) as refused:
        plan_step(gan, np.zeros((1, 8, 8, 1), np.uint8), 4, labels=labels)
    message = str(refused.value)
    assert re.match(r"the planned step does not support Augment\(.*\) before layer 0: ", message)


def test_activation_of_a_label_plane():
    """A learnt plane may be negative, so that an activation after Flatten is not the identity."""
    gan = replace(RECIPES["atienza_cgan"], discriminator=late_activation).build(Random(0), 8, 1, 8)
    with pytest.raises(UserError, match="does not support layer 2, LeakyReLU"):
        plan_step(gan, np.zeros((1, 8, 8, 1), np.uint8), 4, labels=np.zeros(1, np.int64))
