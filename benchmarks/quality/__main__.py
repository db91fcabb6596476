"""Frechet distance of GANs trained on NumPy, at the same training steps as the PyTorch reference.

    python -m benchmarks.quality dcgan --seed 0 1 2 --steps 2000 --out results.json

The distance is that of benchmarks/quality/judge.py, on Fashion-MNIST.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.quality.judge import (
    FASHION_MNIST,
    SAMPLE_BATCH,
    SAMPLE_SEED,
    SAMPLES,
    WEIGHTS,
    Judge,
)
from rawgan.backend import CPU
from rawgan.cpu import set_up
from rawgan.data import load
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.plots import save_grid
from rawgan.training.prefetch import Feed
from rawgan.training.sampling import sample

STUDIES = {  # recipe, width, size, marks: those of the PyTorch reference
    "dcgan": (RECIPES["dcgan"], 32, 32, (250, 1000, 2000, 4000)),
    "cgan": (RECIPES["cgan"], 32, 32, (1000, 4000)),
    "wgan_gp": (RECIPES["wgan_gp"], 16, 32, (250, 1000, 2000)),
    "raschka_mlp_gan": (RECIPES["raschka_mlp_gan"], 100, 28, (2000, 10_000, 40_000)),
}


def with_rate(recipe: Recipe, lr: float) -> Recipe:
    """Return the recipe with another learning rate for both players."""
    players = {
        name: partial(getattr(recipe, name), lr=lr)
        for name in ("generator_optimizer", "discriminator_optimizer")
    }
    return replace(recipe, **players)


STUDIES["wgan_gp"] = (with_rate(STUDIES["wgan_gp"][0], 5e-4), *STUDIES["wgan_gp"][1:])


def samples(recipe: Recipe, generator) -> tuple[np.ndarray, np.ndarray | None]:
    """Return 10,000 uint8 images in inference mode, and the labels they are conditioned on.

    z (and the labels) are the same in every call.
    """
    rng = np.random.default_rng(SAMPLE_SEED)
    z = recipe.draw_z(rng, SAMPLES)
    labels = np.arange(SAMPLES) % recipe.classes if recipe.classes else None
    return sample(recipe, generator, z if labels is None else (z, labels), SAMPLE_BATCH), labels


def study(name: str, seed: int, steps: int, judge: Judge, data: str, pictures: Path | None) -> dict:
    """Train one seed; return the Frechet distance at each mark.

    Conditional recipes also have the accuracy: the share of samples
    classified as the requested label.
    """
    recipe, width, size, marks = STUDIES[name]
    random = Random(seed)
    gan = recipe.build(random, size, 1, width)
    feed = Feed(recipe, load(data, size), recipe.batch, random, CPU)
    result = {"seed": seed, "distance": {}, "accuracy": {}}
    seconds = 0.0
    for step in range(steps):
        start = time.perf_counter()
        gan.train_step(*feed.step(step))
        seconds += time.perf_counter() - start
        if step + 1 in marks:
            images, labels = samples(recipe, gan.generator)
            result["distance"][step + 1] = round(judge.distance(images), 2)
            if labels is not None:
                result["accuracy"][step + 1] = round(judge.accuracy(images, labels), 4)
            if pictures:
                pictures.mkdir(parents=True, exist_ok=True)
                save_grid(
                    pictures / f"{name}-seed{seed}-{step + 1:05}.png",
                    images[: 8 * (recipe.classes or 8)],
                    recipe.classes or 8,
                )
            print(
                f"{name} seed {seed} step {step + 1}: {result['distance'][step + 1]} "
                f"{result['accuracy']}, {seconds:.0f} s",
                flush=True,
            )
    return result | {"seconds": round(seconds, 1)}


def main() -> None:
    set_up()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--data", default="fashion-mnist", help="as rawgan.data.load takes it")
    parser.add_argument("--pictures", type=Path, help="folder for a grid at each mark")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    judge = Judge(WEIGHTS, FASHION_MNIST)
    runs = [
        study(args.name, seed, args.steps, judge, args.data, args.pictures) for seed in args.seed
    ]
    if args.out:
        _, width, size, _ = STUDIES[args.name]
        about = {
            "study": args.name,
            "width": width,
            "size": size,
            "device": "cpu",
            "judge_sha256": judge.sha256,
        }
        versions = {"python": platform.python_version(), "numpy": np.__version__}
        args.out.write_text(
            json.dumps(about | {"versions": versions, "runs": runs}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
