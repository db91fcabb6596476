"""Lower bound of the cost of a training step: FLOPs, bytes and kernels, from the recipe's layers.

    python -m benchmarks.kernels.roofline                     the counts
    python -m benchmarks.kernels.roofline benchmarks/results/kernels_<device>.json
                                                              and the floor at the limits measured
                                                              on that GPU

The counts assume a step that computes nothing twice and fuses everything that can be fused:

    product      bytes of both factors and of the result, each once; FLOPs of all filter taps, as
                 executed, padding included
    activation   in the epilogue of the preceding product; its derivative in the epilogue of the
                 input gradient behind it, which reads x again
    BatchNorm    statistics in the product's epilogue, then one pass: read, write; backward one
                 pass: two reads, one write
    D's step     real and fake as one batch; no gradient of D's images; no gradients of D's
                 weights in G's step
    penalty      real, fake and interpolated points as one batch; of the second derivative only
                 the tangent pass, whose weight gradients are added to the others
    optimizer    Adam: theta, g, m, v read, three of them written, in 16 bits also a copy of theta

The floor of a step is the sum over its kernels of the larger of two times: that of its FLOPs and
that of its bytes.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rawgan.layers import BatchNorm, Conv2d, ConvTranspose2d, Linear, Sequential, leaves
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.random import Random

# precision: (bytes per number, name of its ceiling, tensor-core products per product)
PRECISIONS = {
    "float32": (4, "tf32", 3),
    "bf16x3": (4, "bfloat16", 3),
    "tf32": (4, "tf32", 1),
    "bfloat16": (2, "bfloat16", 1),
}


class Kernel(NamedTuple):
    """One launch.

    `flops`: of its matrix product; `numbers`: values moved in the step's precision; `other_bytes`:
    all other traffic; `low_bytes`: additional traffic of a step in 16 bits.
    """

    name: str
    flops: int
    numbers: int
    other_bytes: int = 0
    low_bytes: int = 0

    def bytes(self, itemsize: int) -> int:
        return self.numbers * itemsize + self.other_bytes + (self.low_bytes if itemsize == 2 else 0)


class Stage(NamedTuple):
    """A product with everything fused to it.

    x and y: values per sample in and out; w: weights; flops: per sample; norm: BatchNorm follows.
    """

    x: int
    y: int
    w: int
    flops: int
    norm: bool = False


class Net(NamedTuple):
    stages: tuple[Stage, ...]
    parameters: int

    @property
    def x(self) -> int:
        return self.stages[0].x


def trace(net: Sequential, x: np.ndarray) -> Net:
    """Return the stages of a network, from a forward pass of x, one sample."""
    stages: list[Stage] = []
    for layer in net.layers:
        y, _ = layer.forward(x, train=False)
        if isinstance(layer, Linear | Conv2d | ConvTranspose2d):
            w = layer.params["w"].size
            pixels = {Linear: 1, Conv2d: y[0, ..., 0].size, ConvTranspose2d: x[0, ..., 0].size}[
                type(layer)
            ]
            stages.append(Stage(x.size, y.size, w, 2 * w * pixels))
        elif isinstance(layer, BatchNorm):
            stages[-1] = stages[-1]._replace(norm=True)
        x = y
    return Net(tuple(stages), sum(a.size for _, leaf in leaves(net) for a in leaf.params.values()))


def forward(net: Net, N: int) -> list[Kernel]:
    kernels = []
    for s in net.stages:
        kernels.append(Kernel("y", N * s.flops, N * (s.x + s.y) + s.w))
        if s.norm:
            kernels.append(Kernel("normalize", 0, 2 * N * s.y))
    return kernels


def backward(net: Net, N: int, weights: bool = True, image: bool = False) -> list[Kernel]:
    """Return the kernels of a backward pass.

    `weights`: include the weight gradients; `image`: include the gradient of the network's input.
    """
    kernels = []
    for i, s in reversed([*enumerate(net.stages)]):
        if s.norm:
            kernels.append(Kernel("normalize_dx", 0, 3 * N * s.y))
        if weights:
            kernels.append(Kernel("dw", N * s.flops, N * (s.x + s.y), 4 * s.w))
        if i or image:
            kernels.append(Kernel("dx", N * s.flops, N * (s.x + s.y + (s.x if i else 0)) + s.w))
    return kernels


def adam(net: Net) -> list[Kernel]:
    return [Kernel("adam", 0, 0, 28 * net.parameters, 2 * net.parameters)]


def generator_step(G: Net, D: Net, N: int) -> list[Kernel]:
    """Return the kernels of G's step after its forward pass; D's weights are constant in it."""
    loss = [Kernel("loss", 0, 2 * N)]
    return [
        *forward(D, N),
        *loss,
        *backward(D, N, weights=False, image=True),
        *backward(G, N),
        *adam(G),
    ]


def plain_step(G: Net, D: Net, N: int) -> list[Kernel]:
    """Return the kernels of a step: D on real and fake images, then G on the same fakes."""
    inputs = [Kernel("batch", 0, N * D.x, N * D.x), Kernel("z", 0, N * G.x)]
    loss = [Kernel("loss", 0, 4 * N)]
    return [
        *inputs,
        *forward(G, N),
        *forward(D, 2 * N),
        *loss,
        *backward(D, 2 * N),
        *adam(D),
        *generator_step(G, D, N),
    ]


def generator_first_step(G: Net, D: Net, N: int) -> list[Kernel]:
    """Return the kernels of a step that trains G first.

    D's forward pass of the fakes is used again in D's step, which adds that of the real images.
    """
    inputs = [Kernel("batch", 0, N * D.x, N * D.x), Kernel("z", 0, N * G.x)]
    loss = [Kernel("loss", 0, 4 * N)]
    discriminator_step = [*forward(D, N), *loss, *backward(D, 2 * N), *adam(D)]
    return [*inputs, *forward(G, N), *generator_step(G, D, N), *discriminator_step]


def penalty_step(G: Net, D: Net, N: int, critic_steps: int = 5) -> list[Kernel]:
    """Return the kernels of a WGAN-GP step with a critic without normalisation.

    G's forward passes for all critic steps and for its own step are one batch.
    """
    n = critic_steps * N
    kernels = [
        Kernel("batch", 0, n * D.x, n * D.x),
        Kernel("z", 0, (n + N) * G.x),
        *forward(G, n + N),
    ]
    first = D.stages[0]
    chain = [
        *backward(D, 3 * N, weights=False),
        Kernel("dx", N * first.flops, N * (first.x + first.y) + first.w),
    ]
    between = [
        Kernel("squared_norms", 0, N * D.x),
        Kernel("value", 0, 0, 8 * N),
        Kernel("scale_samples", 0, 2 * N * D.x),
    ]
    tangent = [Kernel("tangent", N * s.flops, N * (s.x + 2 * s.y) + s.w) for s in D.stages[:-1]]
    weights = [k for k in backward(D, 3 * N) if k.name == "dw"]
    points, loss = [Kernel("points", 0, 3 * N * D.x, 4 * N)], [Kernel("loss", 0, 4 * N)]
    for _ in range(critic_steps):
        kernels += [
            *points,
            *forward(D, 3 * N),
            *loss,
            *chain,
            *between,
            *tangent,
            *weights,
            *adam(D),
        ]
    return [*kernels, *generator_step(G, D, N)]


STEPS = {
    "dcgan 64x64x3, batch 128": ("dcgan", 64, 3, 64, 128, plain_step),
    "dcgan 32x32x1, batch 128": ("dcgan", 32, 1, 64, 128, plain_step),
    "wgan_gp 64x64x3, batch 64": ("wgan_gp", 64, 3, 64, 64, penalty_step),
    "raschka_mlp_gan 28x28x1, batch 64": ("raschka_mlp_gan", 28, 1, 100, 64, generator_first_step),
}


def networks(name: str) -> tuple[Net, Net]:
    """Return G and D of an entry of STEPS."""
    recipe, size, channels, width, *_ = STEPS[name]
    return traced(RECIPES[recipe], size, channels, width)


def traced(recipe: Recipe, size: int, channels: int, width: int) -> tuple[Net, Net]:
    """Return G and D of a recipe; with classes, labels are inputs of both networks."""
    gan = recipe.build(Random(0), size, channels, width)
    z, x = (
        recipe.draw_z(np.random.default_rng(0), 1),
        np.zeros((1, size, size, channels), np.float32),
    )
    label = np.zeros(1, np.int64)
    return trace(gan.generator, (z, label) if recipe.classes else z), trace(
        gan.discriminator, (x, label) if recipe.classes else x
    )


def step(name: str) -> list[Kernel]:
    *_, N, make = STEPS[name]
    return make(*networks(name), N)


def of_recipe(recipe: Recipe, size: int, channels: int, width: int, N: int) -> list[Kernel]:
    """Return the kernels of a recipe's step, in the recipe's update order."""
    make = generator_first_step if recipe.schedule.order == "generator_first" else plain_step
    make = (
        make
        if recipe.penalty is None
        else partial(penalty_step, critic_steps=recipe.schedule.critic_steps(1000))
    )
    return make(*traced(recipe, size, channels, width), N)


def floor_us(kernels: list[Kernel], precision: str, ceilings: dict) -> float | None:
    """Return the microseconds of a step at the measured limits; None if a limit was not measured.

    `ceilings` is part of a result of benchmarks/kernels/__main__.py.
    """
    itemsize, ceiling, products = PRECISIONS[precision]
    copy, rate = (ceilings[name].get("per_second") for name in ("copy", ceiling))
    if not copy or not rate:
        return None
    return 1e6 * sum(max(k.bytes(itemsize) / copy, products * k.flops / rate) for k in kernels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "result", type=Path, nargs="?", help="a JSON file of benchmarks/kernels/__main__.py"
    )
    args = parser.parse_args()
    ceilings = json.loads(args.result.read_text())["ceilings"] if args.result else None
    print(
        "| step | precision | GFLOP | MB | kernels |"
        + (" floor us | images/s |" if ceilings else "")
    )
    print("|---|---|---|---|---|" + ("---|---|" if ceilings else ""))
    for name, (*_, N, make) in STEPS.items():
        kernels = step(name)
        images = 5 * N if make is penalty_step else N  # real images per step
        for precision, (itemsize, _ceiling, _products) in PRECISIONS.items():
            row = f"| {name} | {precision} | {1e-9 * sum(k.flops for k in kernels):.2f} "
            row += f"| {1e-6 * sum(k.bytes(itemsize) for k in kernels):.0f} | {len(kernels)} |"
            if ceilings:
                us = floor_us(kernels, precision, ceilings)
                row += (
                    f" {us:.0f} | {1e6 * images / us:.0f} |"
                    if us
                    else " not measured | not measured |"
                )
            print(row)


if __name__ == "__main__":
    main()
