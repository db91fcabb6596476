"""Networks of the recipes with random parameters and running statistics (no tests)."""

import numpy as np
import torch

from rawgan.layers import Parameters, leaves
from rawgan.models.recipes import RECIPES

SIZES = {
    "atienza_dcgan": 28,
    "raschka_wgan_gp": 28,
    "wgan_gp_mnist": 28,
}  # sizes that need crops and odd paddings; the other recipes use 16

NOT_EXPORTED = {  # the layer without a counterpart in PyTorch and ONNX, by recipe and player
    ("atienza_acgan", "discriminator"): "layer 9, Heads",
    ("sngan", "discriminator"): "layer 0, SpectralNorm",
    ("sngan_resnet", "generator"): "layer 2, Residual",
    ("sngan_resnet", "discriminator"): "layer 0, Residual",
    ("sngan_projection", "generator"): "layer 2, Residual",
    ("sngan_projection", "discriminator"): "layer 0, Residual",
}


def random_net(net, rng):
    """Draw parameters and running statistics that all differ from each other."""
    for _, leaf in leaves(net):
        for name, a in {**leaf.params, **leaf.buffers}.items():
            scale = np.prod(a.shape[1:]) ** -0.5  # avoids saturation
            a[...] = (
                rng.uniform(0.5, 1.5, a.shape)
                if name in ("gamma", "running_var")
                else scale * rng.standard_normal(a.shape)
            )
    Parameters(net)
    return net


def networks(name, rng, channels=1, width=8):
    """Return the networks of a recipe and the shapes of their inputs."""
    recipe, size = RECIPES[name], SIZES.get(name, 16)
    G = random_net(recipe.generator(size, channels, width, z=recipe.z), rng)
    D = random_net(recipe.discriminator(size, channels, width), rng)
    return recipe, size, (G, (recipe.z,)), (D, (size, size, channels))


def torched(arrays):
    """Return the arrays as tensors."""
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
