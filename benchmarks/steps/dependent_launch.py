"""Measure planned steps with and without programmatic dependent launch, into steps_<device>.json.

    python -m benchmarks.steps.dependent_launch
    python -m benchmarks.steps.dependent_launch --case "dcgan 64x64x3" --precision bf16

Both forms are CUDA graphs of 20 steps, timed in turns (median of the rounds, microseconds per
step). Before that, each form takes 20 steps from the same weights: `same` tells whether both end
with the same bits, as they must. A dry run takes one step of each in Triton's interpreter, where
no kernel can start early.
"""

from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

from benchmarks.common.command import Command, add_choices, begin, parser
from benchmarks.common.facts import as_program
from benchmarks.common.timing import CupyClock, HostClock
from benchmarks.common.timing import launch as timed
from benchmarks.common.worker import why
from benchmarks.steps.cases import CASES, Case
from benchmarks.steps.dry_run import compile_plans
from rawgan.backend import to_host
from rawgan.kernels.runtime import launch
from rawgan.planned.base import PlannedStep
from rawgan.precision import PRECISIONS

STEPS, ROUNDS = 20, 15
FORMS = {"in turn": nullcontext, "dependent": launch.dependent_launches}


def weights(step: PlannedStep) -> bytes:
    """Return the bytes of the parameters of both players."""
    players = step.gan.generator_optimizer, step.gan.discriminator_optimizer
    return b"".join(to_host(player.parameters.flat).tobytes() for player in players)


def graph(step: PlannedStep, dry: bool) -> Callable[[], object]:
    """Return a function that takes STEPS steps, in a dry run one."""
    return step.run if dry else step.plan.capture(STEPS).launch


def compare(case: Case, precision: str, command: Command, dry: bool, clock) -> dict:
    """Return the microseconds per step of both forms, their ratio, and whether the bits agree."""
    runs, ends = {}, {}
    for form, scope in FORMS.items():
        with scope():
            if not dry:  # on all cores
                capability = command.result["device"]["capability"]
                compile_plans({case.recipe: case}, capability, [precision])
            step = case.plan(precision, command.device, images=case.reals * case.batch)
        run = graph(step, dry)
        run()
        clock.synchronize()
        runs[form], ends[form] = run, weights(step)
    times = {form: [] for form in runs}
    for _ in range(1 if dry else ROUNDS):
        for form, run in runs.items():
            pair, _ = timed(clock, run)
            times[form].append(clock.microseconds(*pair) / (1 if dry else STEPS))
    us = {form: round(median(rows), 2) for form, rows in times.items()}
    same = len(set(ends.values())) == 1
    return {"us": us, "ratio": round(us["dependent"] / us["in turn"], 4), "same": same}


def table(result: dict) -> str:
    """Return a Markdown table of what was measured."""
    lines = ["| step | in turn, us | dependent, us | ratio | same bits |", "|---|---|---|---|---|"]
    for name, precisions in result["dependent_launch"].items():
        for precision, row in precisions.items():
            cells = (
                [*map(str, row["us"].values()), str(row["ratio"]), "yes" if row["same"] else "NO"]
                if "us" in row
                else [row["not_measured"], "", "", ""]
            )
            lines.append(f"| {name}, {precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare every case, writing each at once; return 1 if one failed or the bits differ."""
    options = parser(__doc__, minutes=1)
    add_choices(options, "--case", CASES, "CASE")
    options.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bf16"])
    args = options.parse_args()
    command, wrong = begin("steps", args), 0
    clock = HostClock() if args.dry_run else CupyClock()
    for name in args.case:
        for precision in args.precision:
            try:
                if command.left() < 0:
                    raise TimeoutError("no time was left")
                case = CASES[name].tiny if args.dry_run else CASES[name]
                row = compare(case, precision, command, args.dry_run, clock)
                wrong += not row["same"]
            except Exception as error:
                row = why(error)
                wrong += "failed" in row
            command.result.setdefault("dependent_launch", {}).setdefault(name, {})[precision] = row
            command.save()
            print(name, precision, row, flush=True)
    print(table(command.result))
    return bool(wrong)


if __name__ == "__main__":
    as_program(main)
