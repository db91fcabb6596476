"""A whole training step against PyTorch eager on the CPU of the same machine, both in worker processes that take turns.

`python -m benchmarks.cpu_step` prints a table; `--out benchmarks/results/cpu_step.json` keeps it; `--dry-run` does one step of
each. A step is what the recipe says: D on real and fake images, G through the new D, both optimizers; for wgan_gp one critic step
with its gradient penalty, from z and real images. float32, batch 64, data already in memory. The learning rates are 0: on one batch
without end a D wins within a minute, its gradients turn subnormal, and a processor computes with those at a tenth of its speed.

The two run the same layers and steps on the same cores in turns, so that a busy moment of the machine hits both; what counts is the
median over the rounds of the ratio of the two times of one round. Threads go on spinning after their library's turn, so each turn
begins with a rest, and with steps that are not measured. Run it on an idle machine all the same: where another program is on the
cores, PyTorch's threads wait for each other far longer than ours do.

PyTorch's step is that of pytorch/examples, which computes D's weight gradients in G's step, too, and throws them away. "same"
padding is its padding=2 and output_padding=1: the same sizes and work, one pixel beside.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.facts import ROOT, facts

BATCH = 64
LIBRARIES = ("rawgan", "torch")
REST = 0.1  # seconds after which no thread of the other library waits spinning
# by which a library is held to instructions older than the processor's: not passed on, each chooses for itself
HELD = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


class Case(NamedTuple):
    """A recipe at a size and width, how many steps make a round, and how many times PyTorch's time a step may take.

    `plain` is the common step with the recipe's networks and optimizers: D on real, D on fake, G on the same fakes.
    """

    recipe: str
    size: int
    width: int
    steps: int
    target: float | None
    plain: bool = False


CASES = {
    "dcgan-32 width 64": Case("dcgan", 32, 64, 4, 1.0),
    "dcgan-32 width 32": Case("dcgan", 32, 32, 8, None),
    "atienza_dcgan": Case("atienza_dcgan", 28, 32, 2, 1.25, plain=True),
    "atienza_dcgan, book": Case("atienza_dcgan", 28, 32, 2, None),
    "wgan_gp critic": Case("wgan_gp", 32, 64, 4, 0.9),
    "raschka_mlp_gan": Case("raschka_mlp_gan", 28, 100, 200, 0.5),
}

Step = Callable[[], object]


def rawgan_step(case: Case) -> tuple[Step, int]:
    """One training step of the recipe, and the number of parameters of both networks."""
    import numpy as np

    from rawgan.models.recipes import RECIPES
    from rawgan.random import Random

    recipe, rng = RECIPES[case.recipe], np.random.default_rng(0)
    if case.plain:
        recipe = replace(recipe, joint=False, fresh_z=False, train_fakes=True)
    gan = recipe.build(Random(0), case.size, 1, case.width)
    low = 0 if recipe.pixels == "unit" else -1
    reals = [rng.uniform(low, 1, (BATCH, case.size, case.size, 1)).astype(np.float32)]
    zs = [recipe.draw_z(rng, BATCH) for _ in range(1 + recipe.fresh_z)]
    players = gan.generator_optimizer, gan.discriminator_optimizer
    for player in players:
        player.lr = 0.0
    parameters = sum(player.parameters.flat.size for player in players)
    if recipe.penalty is not None:
        return lambda: gan.discriminator_step(reals[0], gan.generate(zs[0])[0]), parameters
    return lambda: gan.train_step(reals, zs), parameters


def torch_step(case: Case) -> tuple[Step, int]:
    """The same in PyTorch."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    makers = {"dcgan": torch_dcgan, "atienza_dcgan": torch_atienza, "wgan_gp": torch_wgan_gp, "raschka_mlp_gan": torch_mlp}
    G, D, step = makers[case.recipe](case)
    return step, sum(p.numel() for net in (G, D) for p in net.parameters())


def torch_dcgan_nets(width: int, normalised: bool):
    """The networks of pytorch/examples/dcgan at 32x32x1, D with or without BatchNorm."""
    from torch import nn

    def up(C, K, stride=2, pad=1):
        return nn.ConvTranspose2d(C, K, 4, stride, pad, bias=False)

    def down(C, K, stride=2, pad=1):
        return nn.Conv2d(C, K, 4, stride, pad, bias=False)

    def norm(C):
        return nn.BatchNorm2d(C) if normalised else nn.Identity()

    w = width
    G = nn.Sequential(
        up(100, 4 * w, 1, 0), nn.BatchNorm2d(4 * w), nn.ReLU(True),
        up(4 * w, 2 * w), nn.BatchNorm2d(2 * w), nn.ReLU(True),
        up(2 * w, w), nn.BatchNorm2d(w), nn.ReLU(True),
        up(w, 1), nn.Tanh(),
    )  # fmt: skip
    D = nn.Sequential(
        down(1, w), nn.LeakyReLU(0.2, True),
        down(w, 2 * w), norm(2 * w), nn.LeakyReLU(0.2, True),
        down(2 * w, 4 * w), norm(4 * w), nn.LeakyReLU(0.2, True),
        down(4 * w, 1, 1, 0), nn.Flatten(0),
    )  # fmt: skip
    return G, D


def torch_wgan_gp(case: Case):
    """One critic step of Gulrajani et al.: the penalty by autograd through autograd, Adam."""
    import torch

    G, D = torch_dcgan_nets(case.width, normalised=False)
    adam = torch.optim.Adam(D.parameters(), 0.0, (0.0, 0.9))
    real, z = torch.rand(BATCH, 1, 32, 32) * 2 - 1, torch.randn(BATCH, 100, 1, 1)

    def step():
        with torch.no_grad():
            fake = G(z)
        alpha = torch.rand(BATCH, 1, 1, 1)
        x = (alpha * real + (1 - alpha) * fake).requires_grad_()
        (g,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        penalty = 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
        adam.zero_grad()
        (D(fake).mean() - D(real).mean() + penalty).backward()
        adam.step()

    return G, D, step


def torch_dcgan(case: Case):
    """pytorch/examples/dcgan: real and fake in passes of their own, Adam."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    G, D = torch_dcgan_nets(case.width, normalised=True)
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), 0.0, (0.5, 0.999)) for net in (G, D))
    real, z = torch.rand(BATCH, 1, 32, 32) * 2 - 1, torch.randn(BATCH, 100, 1, 1)
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)

    def step():
        d_adam.zero_grad()
        bce(D(real), ones).backward()
        fake = G(z)
        bce(D(fake.detach()), zeros).backward()
        d_adam.step()
        g_adam.zero_grad()
        bce(D(fake), ones).backward()
        g_adam.step()

    return G, D, step


def torch_mlp(case: Case):
    """The book's first GAN: G moves first, D sees the fakes made before that move; Dropout in D, Adam."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    from benchmarks.torch_reference_mlp import build

    G, D = build()
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), 0.0, (0.9, 0.999), 1e-7) for net in (G, D))
    real, z = torch.rand(BATCH, 784) * 2 - 1, torch.rand(BATCH, 20) * 2 - 1
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

    def step():
        fake = G(z)
        g_adam.zero_grad()
        bce(D(fake), ones).backward()
        g_adam.step()
        d_adam.zero_grad()
        (bce(D(real), ones) + bce(D(fake.detach()), zeros)).backward()
        d_adam.step()

    return G, D, step


def torch_atienza(case: Case):
    """The book's: D on one batch of real images and of fakes that G made in inference mode, G on z of its own, RMSprop."""
    import torch
    from torch import nn
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    def norm(C):
        return nn.BatchNorm2d(C, 1e-3, 0.01)

    w = case.width
    G = nn.Sequential(
        nn.Linear(100, 7 * 7 * 4 * w), nn.Unflatten(1, (4 * w, 7, 7)),
        norm(4 * w), nn.ReLU(True), nn.ConvTranspose2d(4 * w, 4 * w, 5, 2, 2, 1),
        norm(4 * w), nn.ReLU(True), nn.ConvTranspose2d(4 * w, 2 * w, 5, 2, 2, 1),
        norm(2 * w), nn.ReLU(True), nn.ConvTranspose2d(2 * w, w, 5, 1, 2),
        norm(w), nn.ReLU(True), nn.ConvTranspose2d(w, 1, 5, 1, 2), nn.Sigmoid(),
    )  # fmt: skip
    D = nn.Sequential(
        nn.LeakyReLU(0.2), nn.Conv2d(1, w, 5, 2, 2),
        nn.LeakyReLU(0.2, True), nn.Conv2d(w, 2 * w, 5, 2, 2),
        nn.LeakyReLU(0.2, True), nn.Conv2d(2 * w, 4 * w, 5, 2, 2),
        nn.LeakyReLU(0.2, True), nn.Conv2d(4 * w, 8 * w, 5, 1, 2),
        nn.Flatten(), nn.Linear(4 * 4 * 8 * w, 1), nn.Flatten(0),
    )  # fmt: skip
    g_rmsprop = torch.optim.RMSprop(G.parameters(), 0.0, 0.9, 1e-7)
    d_rmsprop = torch.optim.RMSprop(D.parameters(), 0.0, 0.9, 1e-7)
    real, z, own = torch.rand(BATCH, 1, 28, 28), *(torch.rand(2, BATCH, 100) * 2 - 1)
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)
    labels = torch.cat([ones, zeros])

    def plain_step():
        d_rmsprop.zero_grad()
        bce(D(real), ones).backward()
        fake = G(z)
        bce(D(fake.detach()), zeros).backward()
        d_rmsprop.step()
        g_rmsprop.zero_grad()
        bce(D(fake), ones).backward()
        g_rmsprop.step()

    def step():
        G.eval()
        with torch.no_grad():
            fake = G(z)
        G.train()
        d_rmsprop.zero_grad()
        bce(D(torch.cat([real, fake])), labels).backward()
        d_rmsprop.step()
        g_rmsprop.zero_grad()
        bce(D(G(own)), ones).backward()
        g_rmsprop.step()

    return G, D, plain_step if case.plain else step


def work(library: str, name: str) -> None:
    """A worker: says its number of parameters and its BLAS when ready, then for each line n runs n steps, and says the seconds of
    one."""
    step, parameters = (rawgan_step if library == "rawgan" else torch_step)(CASES[name])
    print(json.dumps({"parameters": parameters, "blas": numpy_blas() if library == "rawgan" else None}), flush=True)
    for line in sys.stdin:
        time.sleep(REST)
        for _ in range(-(-int(line) // 4)):
            step()
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print((time.perf_counter() - start) / int(line), flush=True)


def numpy_blas() -> str:
    """NumPy's library of matrix products, and for which processor it was made."""
    from threadpoolctl import threadpool_info

    found = next(one for one in threadpool_info() if one["user_api"] == "blas")
    return f"{found['internal_api']} {found['version']} ({found.get('architecture', 'one for all processors')})"


class Worker:
    """A process that runs steps of one library when it is told to, on the given cores; a context manager, which ends it."""

    def __init__(self, library: str, name: str, cores: list[int]):
        command = [sys.executable, "-m", "benchmarks.cpu_step", "--worker", library, "--case", name]
        threads = {key: str(len(cores)) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        env = {key: value for key, value in os.environ.items() if key not in HELD} | threads
        self.process = subprocess.Popen([*command, "--cores", *map(str, cores)], cwd=ROOT, env=env, text=True, stdin=-1, stdout=-1)
        self.about = json.loads(self.answer())

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a worker ended with status {self.process.wait()}; its own words stand above")
        return line

    def seconds(self, steps: int) -> float:
        """The time of one step, over this many."""
        print(steps, file=self.process.stdin, flush=True)
        return float(self.answer())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def measure(name: str, cores: list[int], rounds: int, steps: int, warm_up: int) -> dict:
    """The figures of one case."""
    times = {library: [] for library in LIBRARIES}
    with Worker("rawgan", name, cores) as ours, Worker("torch", name, cores) as theirs:
        mine, yours = (worker.about["parameters"] for worker in (ours, theirs))
        if mine != yours:
            sys.exit(f"{name}: {mine:,} parameters against PyTorch's {yours:,}: not the same networks")
        workers = list(zip(LIBRARIES, (ours, theirs)))
        for _, worker in workers:
            worker.seconds(warm_up)
        for n in range(rounds):
            for library, worker in workers if n % 2 == 0 else workers[::-1]:
                times[library].append(worker.seconds(steps))
    ratios = [a / b for a, b in zip(*times.values())]
    return {
        "case": name,
        "parameters": mine,
        "blas": ours.about["blas"],
        **{f"{library}_ms": round(1e3 * median(seconds), 2) for library, seconds in times.items()},
        "ratio": round(median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "target": CASES[name].target,
        "steps_per_round": steps,
    }


def machine(cores: list[int]) -> dict:
    """What the figures belong to."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")), platform.processor())
    load = round(os.getloadavg()[0], 2)
    return facts({"name": cpu, "cores": os.cpu_count(), "threads": len(cores)}) | {"batch": BATCH, "load_before": load}


def main() -> None:
    """Measures the cases one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, help="of either library; all cores that this process may use unless given")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--dry-run", action="store_true", help="one round of one step, to see that it runs; no --out")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("this benchmark holds both libraries to the same cores, which needs Linux")
    if args.worker:
        os.sched_setaffinity(0, args.cores)  # before the libraries are imported: they count the cores then
        work(args.worker, *args.case)
        return
    available = sorted(os.sched_getaffinity(0))
    if args.threads is not None and not 1 <= args.threads <= len(available):
        parser.error(f"--threads must be from 1 to {len(available)}, the cores that this process may use")
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if args.dry_run and args.out:
        parser.error("a dry run measures nothing worth keeping: leave --out or --dry-run out")

    cores = available[: args.threads]
    result = machine(cores) | {"rounds": 1 if args.dry_run else args.rounds, "cases": []}
    print(f"{result['device']['name']}, {len(cores)} threads, commit {result['commit']}")
    if result["load_before"] > 0.5:
        print(f"warning: other programs keep {result['load_before']} cores busy, the figures are not to be kept", file=sys.stderr)
    print(f"{'case':<22}{'rawgan':>12}{'PyTorch':>12}{'ratio':>8}  {'min-max':<14}{'target':>6}")
    for name in args.case:
        steps, warm_up = (1, 1) if args.dry_run else (CASES[name].steps, 3)
        row = measure(name, cores, result["rounds"], steps, warm_up)
        result["cases"].append(row)
        spread = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
        times = f"{row['rawgan_ms']:>9.1f} ms{row['torch_ms']:>9.1f} ms"
        print(f"{name:<22}{times}{row['ratio']:>8.2f}  {spread:<14}{row['target'] or '-':>6}", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
