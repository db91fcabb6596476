"""PyTorch reference for DCGAN-32 on Fashion-MNIST: pytorch/examples' DCGAN, width 32, one channel.

`python -m benchmarks.quality.torch_dcgan --seed 0 1 2 --steps 4000 --out results.json` trains one
seed after another.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from benchmarks.quality.judge import (
    FASHION_MNIST,
    LATENT,
    MARKS,
    WEIGHTS,
    Judge,
    evaluate,
    fashion_mnist,
)

BATCH = 64


def init(module: nn.Module) -> None:
    """Draw weights: convolutions from N(0, 0.02), batch normalisation from N(1, 0.02); biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def build_generator() -> nn.Sequential:
    """Return the generator (N, 100, 1, 1) -> (N, 1, 32, 32) in [-1, 1] with 369,600 parameters."""
    model = nn.Sequential(
        nn.ConvTranspose2d(LATENT, 128, 4, 1, 0, bias=False), nn.BatchNorm2d(128), nn.ReLU(True),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 1, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 369_600
    return model.apply(init)


def build_discriminator() -> nn.Sequential:
    """Return the discriminator (N, 1, 32, 32) -> logits (N,) with 166,784 parameters."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2, True),
        nn.Conv2d(64, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, True),
        nn.Conv2d(128, 1, 4, 1, 0, bias=False), nn.Flatten(0),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 166_784
    return model.apply(init)


def batches(images: Tensor) -> Iterator[Tensor]:
    """Yield batches (64, 1, 32, 32) endlessly, shuffled per epoch, without incomplete ones."""
    while True:
        for index in torch.randperm(len(images)).split(BATCH):
            if len(index) == BATCH:
                yield images[index]


def sampler(generator: nn.Module):
    """Return the function for `evaluate`: z (n, 100) to images (n, 32, 32, 1), in eval mode."""

    @torch.inference_mode()
    def sample(z: np.ndarray) -> np.ndarray:
        generator.eval()
        images = generator(torch.from_numpy(z)[:, :, None, None]).permute(0, 2, 3, 1).numpy()
        generator.train()
        return images

    return sample


def train(
    seed: int, steps: int, images: np.ndarray, judge: Judge
) -> tuple[dict[int, float], float]:
    """Train on uint8 images (N, 28, 28).

    Returns the distance at each mark up to `steps`, and the seconds of training without evaluation.
    """
    real_images = nn.functional.pad(
        torch.tensor(images).unsqueeze(1) / 127.5 - 1, (2, 2, 2, 2), value=-1.0
    )
    torch.manual_seed(seed)
    generator, discriminator = build_generator(), build_discriminator()
    g_adam = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)
    distances, seconds, start = {}, 0.0, time.perf_counter()
    for step, real in zip(range(1, steps + 1), batches(real_images)):
        d_adam.zero_grad()
        bce(discriminator(real), ones).backward()
        fake = generator(torch.randn(BATCH, LATENT, 1, 1))
        bce(discriminator(fake.detach()), zeros).backward()
        d_adam.step()
        g_adam.zero_grad()
        bce(discriminator(fake), ones).backward()
        g_adam.step()
        if step in MARKS:
            seconds += time.perf_counter() - start
            distances[step] = evaluate(sampler(generator), judge)
            print(
                f"seed {seed} step {step}: distance {distances[step]:.2f} after {seconds:.1f} s",
                flush=True,
            )
            start = time.perf_counter()
    return distances, seconds + time.perf_counter() - start


def main() -> None:
    """Train the seeds one after another on one core and write the results after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=MARKS[-1])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="safetensors file of the judge"
    )
    parser.add_argument(
        "--data", type=Path, default=FASHION_MNIST, help="folder of the four IDX files"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(args.weights, args.data)
    result = {
        "model": "DCGAN-32, width 32",
        "device": "cpu",
        "threads": 1,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "judge": judge.report(),
        "steps": args.steps,
        "marks": [mark for mark in MARKS if mark <= args.steps],
        "seeds": [],
        "distances": [],
        "seconds": [],
    }
    images = fashion_mnist("train", args.data)[0]
    for seed in args.seed:
        distances, seconds = train(seed, args.steps, images, judge)
        result["seeds"].append(seed)
        result["distances"].append(list(distances.values()))
        result["seconds"].append(round(seconds, 1))
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
