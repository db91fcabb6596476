"""Modes of stacked MNIST that a GAN covers, by loss and seed, with one small network, on a CPU.

    python -m benchmarks.quality.stacked --seed 0 1 2 --out results.json

The methods, the network and the count of modes are those of examples/stacked_mnist.py. Digits are
MNIST where its files are in the cache, else digits drawn from fonts; the result names them. At each
of MARKS, in steps of the generator, 25,600 samples are classified: the number of modes, of 1,000,
that at least one of them is of, and KL(p, uniform) in nats. As many real pictures are counted for
comparison.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

from examples.stacked_mnist import (
    BATCH,
    METHODS,
    RATE,
    SAMPLES,
    SIZE,
    STEPS,
    WIDTH,
    Counter,
    build,
)
from rawgan.cpu import set_up
from rawgan.data.stacked import COUNTS, MODES, base_digits, stacked
from rawgan.layers import parameter_count
from rawgan.metrics.classes import kl_to_uniform, modes_covered
from rawgan.metrics.classifier import load_or_train_classifier
from rawgan.random import Random
from rawgan.training.plots import save_grid

MARKS = (500, 1000, STEPS)


def study(name: str, seed: int, steps: int, count: Counter, train, pictures: Path | None) -> dict:
    """Train one method with one seed; return modes and KL at each mark, and the CPU time."""
    gan, feed = build(name, seed, train)
    result, seconds = {"method": name, "seed": seed, "modes": {}, "kl": {}}, 0.0
    for step in range(steps):
        start = time.process_time()
        gan.train_step(*feed.step(step))
        seconds += time.process_time() - start
        if step + 1 in (*MARKS, steps):
            modes, kl, images = count(METHODS[name], gan)
            result["modes"][step + 1], result["kl"][step + 1] = modes, round(kl, 4)
            print(f"{name} seed {seed} step {step + 1}: {modes} modes, KL {kl:.3f}", flush=True)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        save_grid(pictures / f"{name}-seed{seed}.png", images[:64], 8)
    return result | {"cpu_seconds": round(seconds, 1)}


def of_real(count: Counter, split: str = "test") -> dict:
    """Return modes and KL of real pictures, of digits that the classifier was not trained on."""
    modes = count.predicted(stacked(base_digits(SIZE, split), count.samples, seed=2).images)
    return {"modes": modes_covered(modes), "kl": round(kl_to_uniform(modes, MODES), 4)}


def main() -> None:
    set_up()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="that are classified")
    parser.add_argument("--pictures", type=Path, help="folder for a grid of each run")
    parser.add_argument("--out", type=Path, help="JSON file, written again after each run")
    args = parser.parse_args()
    digits = base_digits(SIZE)
    print(f"digits: {digits.name}, {digits.source}", flush=True)
    classifier = load_or_train_classifier(digits)
    count, train = Counter(classifier, args.samples), stacked(digits, COUNTS["train"])
    gan = METHODS["r3gan"].build(Random(0), SIZE, 3, WIDTH)
    result = {
        "digits": digits.name,
        "size": SIZE,
        "parameters": {
            "generator": parameter_count(gan.generator),
            "discriminator": parameter_count(gan.discriminator),
        },
        "batch": BATCH,
        "rate": RATE,
        "samples": args.samples,
        "classifier_accuracy": classifier.accuracy(base_digits(SIZE, "test")),
        "classifier_sha256": classifier.sha256,
        "device": "cpu",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "real": of_real(count),
        "runs": [],
    }
    print(f"real pictures: {result['real']}", flush=True)
    for seed in args.seed:
        for name in args.method:
            result["runs"].append(study(name, seed, args.steps, count, train, args.pictures))
            if args.out:
                args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
