"""The least that a whole training step costs: FLOPs, bytes and kernels, counted from the layers of its recipe.

    python -m benchmarks.roofline                                            the counts
    python -m benchmarks.roofline benchmarks/results/kernels_<device>.json   and the floor at the limits measured on that GPU

What is counted, for a step that does nothing twice and fuses what can be:

    product      bytes of both factors and of the result, each once; FLOPs with every tap, as they are executed
    activation   in the epilogue of the product in front of it; its derivative in that of the product behind it, which reads x again
    BatchNorm    statistics in the product's epilogue, then one pass: read, write; backward one pass: two reads, a write
    D's step     real and fake as one batch; no gradient of D's images; no gradients of D's weights in G's step
    penalty      real, fake and points as one batch; of the second derivative the tangent, whose weight gradients join the others
    optimizer    Adam: theta, g, m, v read, three of them written, in 16 bits a copy of theta too

The floor of a step is the sum over its kernels of the longer of two times, of its FLOPs and of its bytes.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rawgan.layers import BatchNorm, Conv2d, ConvTranspose2d, Linear, Sequential, leaves
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.random import Random

PRECISIONS = {"float32": (4, "tf32", 3), "tf32": (4, "tf32", 1), "bfloat16": (2, "bfloat16", 1)}  # bytes, ceiling, products


class Kernel(NamedTuple):
    """One launch: the FLOPs of its product, how many numbers it moves in the step's precision, the bytes of all others; and what a
    step in 16 bits moves besides."""

    name: str
    flops: int
    numbers: int
    other_bytes: int = 0
    low_bytes: int = 0

    def bytes(self, itemsize: int) -> int:
        return self.numbers * itemsize + self.other_bytes + (self.low_bytes if itemsize == 2 else 0)


class Stage(NamedTuple):
    """A product with what is fused to it: how many numbers a sample has before and after, weights, FLOPs a sample."""

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
    """The stages of a network, from a forward of x, one sample."""
    stages: list[Stage] = []
    for layer in net.layers:
        y, _ = layer.forward(x, train=False)
        if isinstance(layer, Linear | Conv2d | ConvTranspose2d):
            w = layer.params["w"].size
            pixels = {Linear: 1, Conv2d: y[0, ..., 0].size, ConvTranspose2d: x[0, ..., 0].size}[type(layer)]
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
    """With `weights`, their gradients; with `image`, that of the first layer's x."""
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
    """G's own part, behind its forward: through D, whose weights stay."""
    loss = [Kernel("loss", 0, 2 * N)]
    return [*forward(D, N), *loss, *backward(D, N, weights=False, image=True), *backward(G, N), *adam(G)]


def plain_step(G: Net, D: Net, N: int) -> list[Kernel]:
    """D on real and fake images, then G on the same fakes."""
    inputs = [Kernel("batch", 0, N * D.x, N * D.x), Kernel("z", 0, N * G.x)]
    loss = [Kernel("loss", 0, 4 * N)]
    return [*inputs, *forward(G, N), *forward(D, 2 * N), *loss, *backward(D, 2 * N), *adam(D), *generator_step(G, D, N)]


def generator_first_step(G: Net, D: Net, N: int) -> list[Kernel]:
    """G first; what D said of the fakes then serves D's own step, which adds the forward of the real images."""
    inputs = [Kernel("batch", 0, N * D.x, N * D.x), Kernel("z", 0, N * G.x)]
    loss = [Kernel("loss", 0, 4 * N)]
    own = [*forward(D, N), *loss, *backward(D, 2 * N), *adam(D)]
    return [*inputs, *forward(G, N), *generator_step(G, D, N), *own]


def penalty_step(G: Net, D: Net, N: int, critic_steps: int = 5) -> list[Kernel]:
    """WGAN-GP with a critic without normalisation: G's forwards for all critic steps and its own are one batch."""
    n = critic_steps * N
    kernels = [Kernel("batch", 0, n * D.x, n * D.x), Kernel("z", 0, (n + N) * G.x), *forward(G, n + N)]
    first = D.stages[0]
    chain = [*backward(D, 3 * N, weights=False), Kernel("dx", N * first.flops, N * (first.x + first.y) + first.w)]
    between = [Kernel("squared_norms", 0, N * D.x), Kernel("value", 0, 0, 8 * N), Kernel("scale_samples", 0, 2 * N * D.x)]
    tangent = [Kernel("tangent", N * s.flops, N * (s.x + 2 * s.y) + s.w) for s in D.stages[:-1]]
    weights = [k for k in backward(D, 3 * N) if k.name == "dw"]
    points, loss = [Kernel("points", 0, 3 * N * D.x, 4 * N)], [Kernel("loss", 0, 4 * N)]
    for _ in range(critic_steps):
        kernels += [*points, *forward(D, 3 * N), *loss, *chain, *between, *tangent, *weights, *adam(D)]
    return [*kernels, *generator_step(G, D, N)]


STEPS = {
    "dcgan 64x64x3, batch 128": ("dcgan", 64, 3, 64, 128, plain_step),
    "dcgan 32x32x1, batch 128": ("dcgan", 32, 1, 64, 128, plain_step),
    "wgan_gp 64x64x3, batch 64": ("wgan_gp", 64, 3, 64, 64, penalty_step),
    "raschka_mlp_gan 28x28x1, batch 64": ("raschka_mlp_gan", 28, 1, 100, 64, generator_first_step),
}


def networks(name: str) -> tuple[Net, Net]:
    """G and D of one of STEPS."""
    recipe, size, channels, width, *_ = STEPS[name]
    return traced(RECIPES[recipe], size, channels, width)


def traced(recipe: Recipe, size: int, channels: int, width: int) -> tuple[Net, Net]:
    """G and D of a recipe; where it has classes, labels go in with z and images."""
    gan = recipe.build(Random(0), size, channels, width)
    z, x = recipe.draw_z(np.random.default_rng(0), 1), np.zeros((1, size, size, channels), np.float32)
    label = np.zeros(1, np.int64)
    return trace(gan.generator, (z, label) if recipe.classes else z), trace(gan.discriminator, (x, label) if recipe.classes else x)


def step(name: str) -> list[Kernel]:
    *_, N, make = STEPS[name]
    return make(*networks(name), N)


def of_recipe(recipe: Recipe, size: int, channels: int, width: int, N: int) -> list[Kernel]:
    """The step of a recipe in the order that it asks for."""
    make = generator_first_step if recipe.first == "generator" else plain_step
    make = make if recipe.penalty is None else partial(penalty_step, critic_steps=recipe.critic_steps(1000))
    return make(*traced(recipe, size, channels, width), N)


def floor_us(kernels: list[Kernel], precision: str, ceilings: dict) -> float | None:
    """Microseconds at measured limits, those of a result of benchmarks/kernels.py; None where one was not measured."""
    itemsize, ceiling, products = PRECISIONS[precision]
    copy, rate = (ceilings[name].get("per_second") for name in ("copy", ceiling))
    if not copy or not rate:
        return None
    return 1e6 * sum(max(k.bytes(itemsize) / copy, products * k.flops / rate) for k in kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", help="a JSON file of benchmarks/kernels.py")
    args = parser.parse_args()
    ceilings = json.loads(args.result.read_text())["ceilings"] if args.result else None
    print("| step | precision | GFLOP | MB | kernels |" + (" floor us | images/s |" if ceilings else ""))
    print("|---|---|---|---|---|" + ("---|---|" if ceilings else ""))
    for name, (*_, N, make) in STEPS.items():
        kernels = step(name)
        images = 5 * N if make is penalty_step else N  # real ones
        for precision, (itemsize, *_) in PRECISIONS.items():
            row = f"| {name} | {precision} | {1e-9 * sum(k.flops for k in kernels):.2f} "
            row += f"| {1e-6 * sum(k.bytes(itemsize) for k in kernels):.0f} | {len(kernels)} |"
            if ceilings:
                us = floor_us(kernels, precision, ceilings)
                row += f" {us:.0f} | {1e6 * images / us:.0f} |" if us else " not measured | not measured |"
            print(row)


if __name__ == "__main__":
    main()
