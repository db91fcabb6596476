"""PyTorch reference for raschka_mlp_gan on Fashion-MNIST.

Networks, initialisation, order of updates and classifier are those of the recipe's measurement.
`python -m benchmarks.quality.torch_mlp --seed 0 1 2 --out results.json` trains one seed after
another, on one thread.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from benchmarks.quality.judge import SAMPLE_SEED, SAMPLES, Judge, fashion_mnist, to_uint8
from benchmarks.quality.torch_dcgan import BATCH, batches

MARKS = (2000, 10_000, 40_000)
Z = 20


def build() -> tuple[nn.Sequential, nn.Sequential]:
    """Return both networks with Keras' initialisation: Glorot uniform weights, biases 0."""
    G = nn.Sequential(
        nn.Linear(Z, 100, bias=False), nn.LeakyReLU(0.3), nn.Linear(100, 784), nn.Tanh()
    )
    D = nn.Sequential(nn.Linear(784, 100), nn.LeakyReLU(0.3), nn.Dropout(0.5), nn.Linear(100, 1))
    for module in (*G, *D):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return G, D


@torch.inference_mode()
def distance(G: nn.Sequential, judge: Judge) -> float:
    """Return the Frechet distance of 10,000 samples; z is the same in every call."""
    z = np.random.default_rng(SAMPLE_SEED).uniform(-1, 1, (SAMPLES, Z)).astype(np.float32)
    return judge.distance(to_uint8(G(torch.from_numpy(z)).numpy().reshape(-1, 28, 28)))


def train_step(G, D, g_adam, d_adam, real, z, ones, zeros) -> None:
    """Update G; then train D on the fakes generated before that update."""
    fake = G(z)
    g_adam.zero_grad()
    bce(D(fake), ones).backward()
    g_adam.step()
    d_adam.zero_grad()
    (bce(D(real), ones) + bce(D(fake.detach()), zeros)).backward()
    d_adam.step()


def train(seed: int, steps: int, x: torch.Tensor, judge: Judge) -> dict[int, float]:
    """Return the distance at each mark."""
    torch.manual_seed(seed)
    G, D = build()
    g_adam, d_adam = (
        torch.optim.Adam(net.parameters(), 1e-3, (0.9, 0.999), 1e-7) for net in (G, D)
    )
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
    distances = {}
    for step, real in zip(range(1, steps + 1), batches(x)):
        z = torch.rand(BATCH, Z) * 2 - 1
        train_step(G, D, g_adam, d_adam, real, z, ones, zeros)
        if step in MARKS:
            distances[step] = round(distance(G, judge), 2)
            print(f"seed {seed} step {step}: {distances[step]}", flush=True)
    return distances


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=MARKS[-1])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge()
    x = torch.tensor(fashion_mnist("train")[0]).reshape(-1, 784) / 127.5 - 1
    runs = [{"seed": seed, "distance": train(seed, args.steps, x, judge)} for seed in args.seed]
    if args.out:
        about = {
            "study": "raschka_mlp_gan in PyTorch",
            "device": "cpu",
            "threads": 1,
            "judge_sha256": judge.sha256,
        }
        versions = {"torch": torch.__version__, "numpy": np.__version__}
        args.out.write_text(
            json.dumps(about | {"versions": versions, "runs": runs}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
