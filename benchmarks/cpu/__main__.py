"""Time of training steps on the CPU, against PyTorch eager, in alternating worker processes.

`python -m benchmarks.cpu` prints a table; `--out benchmarks/results/cpu_step.json` writes it;
`--dry-run` does one step of each. A step is the recipe's: D on real and fake images, G through the
updated D, both optimizers; for wgan_gp one critic step with its gradient penalty, from z and real
images. float32, batch 64, data already in memory. The learning rates are 0: on one repeated batch
D would win within a minute, its gradients would become subnormal, and a CPU computes with
subnormal numbers at a tenth of its speed.

Both libraries run the same layers and steps on the same cores in turns, so that load from other
programs affects both; the result is the median over the rounds of the ratio of the two times of a
round. A library's threads continue to spin after its turn, so each turn begins with a pause and
with unmeasured steps. Use an idle machine nevertheless: with another program on the cores,
PyTorch's threads wait for each other far longer than rawgan's.

PyTorch's step is that of pytorch/examples, which in G's step also computes D's weight gradients
and discards them. "same" padding is PyTorch's padding=2, output_padding=1: equal sizes and work,
but shifted by one pixel.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.common.facts import ROOT, facts
from benchmarks.cpu.cases import BATCH, CASES, Case, Step

LIBRARIES = ("rawgan", "torch")
REST = 0.1  # seconds after which no thread of the other library spins
# Variables that restrict a library to older instructions than the CPU has; workers do not get them.
HELD = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
)


def rawgan_step(case: Case) -> tuple[Step, int]:
    """Return one training step of the recipe, and the number of parameters of both networks."""
    import numpy as np

    from rawgan.cpu import set_up
    from rawgan.models.recipes import RECIPES
    from rawgan.random import Random

    set_up()
    recipe, rng = RECIPES[case.recipe], np.random.default_rng(0)
    if case.plain:
        recipe = recipe.with_schedule(joint_batch=False, resample_z=False, fake_mode="train")
    gan = recipe.build(Random(0), case.size, 1, case.width)
    low = 0 if recipe.pixels == "unit" else -1
    reals = [rng.uniform(low, 1, (BATCH, case.size, case.size, 1)).astype(np.float32)]
    zs = [recipe.draw_z(rng, BATCH) for _ in range(1 + recipe.schedule.resample_z)]
    players = gan.generator_optimizer, gan.discriminator_optimizer
    for player in players:
        player.lr = 0.0
    parameters = sum(player.parameters.flat.size for player in players)
    if recipe.penalty is not None:
        return lambda: gan.discriminator_step(reals[0], gan.generate(zs[0])[0]), parameters
    return lambda: gan.train_step(reals, zs), parameters


def work(library: str, name: str) -> None:
    """Run a worker process.

    When ready, print the number of parameters and the BLAS; then, for each line n of input, run n
    steps and print the seconds of one.
    """
    if library == "rawgan":
        step, parameters = rawgan_step(CASES[name])
    else:
        from benchmarks.cpu.torch_steps import torch_step

        step, parameters = torch_step(CASES[name])
    print(
        json.dumps(
            {"parameters": parameters, "blas": numpy_blas() if library == "rawgan" else None}
        ),
        flush=True,
    )
    for line in sys.stdin:
        time.sleep(REST)
        for _ in range(-(-int(line) // 4)):
            step()
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print((time.perf_counter() - start) / int(line), flush=True)


def numpy_blas() -> str:
    """Return the name and version of NumPy's BLAS, and the CPU architecture it uses."""
    from threadpoolctl import threadpool_info

    blas = next(one for one in threadpool_info() if one["user_api"] == "blas")
    return (
        f"{blas['internal_api']} {blas['version']} "
        f"({blas.get('architecture', 'one for all processors')})"
    )


class Worker:
    """Process that runs steps of one library on the given cores; a context manager that ends it."""

    def __init__(self, library: str, name: str, cores: list[int]):
        command = [sys.executable, "-m", "benchmarks.cpu", "--worker", library, "--case", name]
        threads = {
            key: str(len(cores))
            for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        }
        env = {key: value for key, value in os.environ.items() if key not in HELD} | threads
        self.process = subprocess.Popen(
            [*command, "--cores", *map(str, cores)],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=-1,
            stdout=-1,
        )
        self.about = json.loads(self.answer())

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a worker ended with status {self.process.wait()}; its own words stand above")
        return line

    def seconds(self, steps: int) -> float:
        """Return the seconds of one step, averaged over `steps` steps."""
        print(steps, file=self.process.stdin, flush=True)
        return float(self.answer())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def measure(name: str, cores: list[int], rounds: int, steps: int, warm_up: int) -> dict:
    """Return the measurements of one case."""
    times = {library: [] for library in LIBRARIES}
    with Worker("rawgan", name, cores) as ours, Worker("torch", name, cores) as theirs:
        mine, yours = (worker.about["parameters"] for worker in (ours, theirs))
        if mine != yours:
            sys.exit(
                f"{name}: {mine:,} parameters against PyTorch's {yours:,}: not the same networks"
            )
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
    """Return the description of the machine and software that the result records."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(
        (line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")),
        platform.processor(),
    )
    load = round(os.getloadavg()[0], 2)
    return facts({"name": cpu, "cores": os.cpu_count(), "threads": len(cores)}) | {
        "batch": BATCH,
        "load_before": load,
    }


def main() -> None:
    """Measure the cases one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case",
        nargs="+",
        choices=CASES,
        default=list(CASES),
        metavar="CASE",
        help=", ".join(CASES),
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--threads",
        type=int,
        help="of either library; all cores that this process may use unless given",
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="one round of one step, to see that it runs; no --out",
    )
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("this benchmark holds both libraries to the same cores, which needs Linux")
    if args.worker:
        # before the libraries are imported: they count the cores at import
        os.sched_setaffinity(0, args.cores)
        work(args.worker, *args.case)
        return
    available = sorted(os.sched_getaffinity(0))
    if args.threads is not None and not 1 <= args.threads <= len(available):
        parser.error(
            f"--threads must be from 1 to {len(available)}, the cores that this process may use"
        )
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if args.dry_run and args.out:
        parser.error("a dry run measures nothing worth keeping: leave --out or --dry-run out")

    cores = available[: args.threads]
    result = machine(cores) | {"rounds": 1 if args.dry_run else args.rounds, "cases": []}
    print(f"{result['device']['name']}, {len(cores)} threads, commit {result['commit']}")
    if result["load_before"] > 0.5:
        print(
            f"warning: other programs keep {result['load_before']} cores busy, "
            f"the figures are not to be kept",
            file=sys.stderr,
        )
    print(f"{'case':<22}{'rawgan':>12}{'PyTorch':>12}{'ratio':>8}  {'min-max':<14}{'target':>6}")
    for name in args.case:
        steps, warm_up = (1, 1) if args.dry_run else (CASES[name].steps, 3)
        row = measure(name, cores, result["rounds"], steps, warm_up)
        result["cases"].append(row)
        spread = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
        times = f"{row['rawgan_ms']:>9.1f} ms{row['torch_ms']:>9.1f} ms"
        print(
            f"{name:<22}{times}{row['ratio']:>8.2f}  {spread:<14}{row['target'] or '-':>6}",
            flush=True,
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
