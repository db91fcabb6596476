"""Frechet distances of planned runs and the time to reach TARGET, into distances_<device>.json.

    python -m benchmarks.quality.distances                    DCGAN-32 and WGAN-GP, bf16 and fp32,
                                                              seeds 0, 1, 2, on a GPU
    python -m benchmarks.quality.distances --precision bf16x3 fp32
    python -m benchmarks.quality.distances --data FOLDER      on the IDX files of this folder

Recipes, widths and learning rates are those of benchmarks/quality/__main__.py. The classifier of
benchmarks/quality/judge.py runs on the GPU and compares 10,000 samples at each of MARKS. Without
--data the images are Fashion-MNIST if Debian's package is installed, otherwise drawn digits. A run
on Fashion-MNIST ends when it reaches TARGET; a run on digits continues to the last mark.
`seconds` is the wall-clock time of training; the first step, which includes compilation and
loading, is separate.
"""

import time
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.common.command import Command, begin, parser
from benchmarks.common.facts import as_program
from benchmarks.common.training_run import TrainingRun
from benchmarks.common.worker import why
from benchmarks.quality.__main__ import STUDIES
from benchmarks.quality.judge import FASHION_MNIST, SAMPLE_BATCH, SAMPLE_SEED, SAMPLES, Judge
from benchmarks.steps.cases import Case
from benchmarks.steps.dry_run import compile_plans
from rawgan.data import Images, load
from rawgan.metrics.frechet import frechet
from rawgan.precision import PRECISIONS
from rawgan.training.sampling import sample

STUDIED = ("dcgan", "wgan_gp")
# TARGET is for Fashion-MNIST only: distances on digits differ in scale
TARGET, DIGITS = 15.0, "digits"
MARKS, TOY_MARKS = (250, 500, 1000, 1500, 2000), (1, 2)  # training steps
TOY_SAMPLES = 200
SIZE = 32


class Distance:
    """Frechet distance of samples to a data set's test images, by the stored classifier."""

    def __init__(self, test: Images, command: Command, samples: int):
        self.judge, self.command, self.samples = Judge(device=command.device), command, samples
        self.reference = self.judge.features(test.images[:samples])

    def __call__(self, run: TrainingRun) -> float:
        z = run.recipe.draw_z(np.random.default_rng(SAMPLE_SEED), self.samples)
        images = sample(run.recipe, run.gan.generator, self.command.device.asarray(z), SAMPLE_BATCH)
        scale = SIZE // images.shape[1]  # greater than 1 only in a dry run
        images = images.repeat(scale, 1).repeat(scale, 2)
        return round(frechet(self.judge.features(images), self.reference), 2)


def study(
    name: str,
    precision: str,
    seed: int,
    train: Images,
    distance: Distance,
    target: float | None,
    toy: bool = False,
) -> dict:
    """Train one run to the last mark, or to the target, and return its distances and times.

    Raises TimeoutError at the deadline.
    """
    recipe, width, *_ = STUDIES[name]
    batch = recipe.batch
    if toy:
        recipe, width, batch = recipe.with_schedule(critic_steps=lambda step: 1), 4, 2
    start = time.perf_counter()
    run = TrainingRun(recipe, train, width, batch, seed, precision, distance.command.device)
    run.train(1)
    run_result = {
        "first_step_seconds": round(time.perf_counter() - start, 2),
        "distances": {},
        "seconds": {},
    }
    seconds = 0.0
    for mark in TOY_MARKS if toy else MARKS:
        if distance.command.left() < 0:
            raise TimeoutError(f"no time was left at step {run.done}: {run_result['distances']}")
        start = time.perf_counter()
        run.train(mark)
        seconds += time.perf_counter() - start
        run_result["seconds"][mark], run_result["distances"][mark] = (
            round(seconds, 2),
            distance(run),
        )
        if target and run_result["distances"][mark] <= target:
            run_result["seconds_to_target"] = run_result["seconds"][mark]
            break
    return run_result


def table(result: dict) -> str:
    """Return a Markdown table with a row per recipe and precision.

    A row has the distances of all seeds at the last mark, and the time to the target.
    """
    study_result = result["distances"]
    lines = [
        "| recipe | precision | seeds | distance at the end | seconds | to the target |",
        "|---|---|---|---|---|---|",
    ]
    for name in STUDIED:
        for precision in study_result["precisions"]:
            runs = [
                run
                for run in study_result["runs"]
                if (run["recipe"], run["precision"]) == (name, precision)
            ]
            done = [run for run in runs if "not_measured" not in run]
            if not done:
                why_not = runs[0]["not_measured"] if runs else "not run"
                lines.append(f"| {name} | {precision} | 0 | {why_not} | | |")
                continue
            ends = [[*run["distances"].values()][-1] for run in done]
            times = [[*run["seconds"].values()][-1] for run in done]
            reached = [run["seconds_to_target"] for run in done if "seconds_to_target" in run]
            to = (
                f"{mean(reached):.1f} s, {len(reached)} of {len(done)}"
                if reached
                else "not reached"
            )
            to = to if study_result["target"] else "none on this data"
            cells = [
                name,
                precision,
                str(len(done)),
                ", ".join(map(str, ends)),
                f"{mean(times):.1f}",
                to,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all studies, seed by seed, writing each at once; return 1 if one failed."""
    options = parser(__doc__, minutes=5)
    options.add_argument("--data", help="folder of Fashion-MNIST's IDX files")
    options.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bf16", "fp32"])
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = options.parse_args()
    command = begin("distances", args)
    fashion = str(FASHION_MNIST) if Path(FASHION_MNIST).is_dir() else None
    source = args.data or (DIGITS if args.dry_run else fashion or DIGITS)
    size = 8 if args.dry_run else SIZE
    train, test = load(source, size, 1), load(source, SIZE, 1, "test")
    target = None if source == DIGITS else TARGET
    print(
        f"data: {train.name}, {len(train)} images; target: {target or 'none on this data'}",
        flush=True,
    )
    if not args.dry_run:
        cases = {
            name: Case(name, SIZE, 1, STUDIES[name][1], STUDIES[name][0].batch) for name in STUDIED
        }
        compile_plans(cases, command.result["device"]["capability"], args.precision)
    distance = Distance(test, command, TOY_SAMPLES if args.dry_run else SAMPLES)
    head = {
        "data": train.name,
        "target": target,
        "judge_sha256": distance.judge.sha256,
        "samples": distance.samples,
    }
    record = command.result.setdefault("distances", head | {"precisions": [], "runs": []})
    record["precisions"] = list(dict.fromkeys((*record["precisions"], *args.precision)))
    runs = record["runs"]
    for seed in args.seeds:
        for name in STUDIED:
            for precision in args.precision:
                row = {"recipe": name, "precision": precision, "seed": seed}
                try:
                    row |= study(name, precision, seed, train, distance, target, args.dry_run)
                except Exception as error:
                    row |= why(error)
                runs.append(row)
                command.save()
                print(row, flush=True)
    print(table(command.result))
    return any("failed" in run for run in runs)


if __name__ == "__main__":
    as_program(main)
