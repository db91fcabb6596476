"""Check every GPU computation against float64 before anything is timed, into steps_<device>.json.

    python -m benchmarks.kernels.correctness
    python -m benchmarks.kernels.correctness --dry-run      without a GPU: in Triton's interpreter,
                                                            at toy sizes

    steps        whole planned steps, width 64, 64x64 pixels, against the array path's from the
                 same state
    benchmarks   every kernel at its benchmark shapes, as large as in training: many tiles along
                 every axis
    tests        every kernel at the shapes of its tests, in every dtype

Kernels are held to the tolerance of tests/kernels/test_kernels.py, the gradients of a step to
`allowed`. The checks run in a worker process, which is replaced if it hangs or its GPU context is
lost, so a failing check does not hide the others. The file is written after every check.
"""

import argparse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import NamedTuple

import numpy as np

from benchmarks.common.command import begin, parser, toy_device
from benchmarks.common.facts import as_program
from benchmarks.common.worker import Worker, answer, why
from benchmarks.kernels.rows import Call, Row, launches, select
from benchmarks.steps import precision
from benchmarks.steps.cases import CASES, Case
from rawgan.backend import Device, choose_device
from rawgan.kernels import all_specs
from rawgan.kernels.runtime.compile import Job, compile_all
from rawgan.precision import PRECISIONS

PATIENCE = {"tests": 60.0, "benchmarks": 60.0, "steps": 300.0}  # time limit of a check, seconds
STEPS = ("dcgan 64x64x3", "wgan_gp 64x64x3")
DRY_KERNELS = ("relu", "linear", "conv2d_batchnorm_act")


class Step(NamedTuple):
    """A whole planned step in one precision; `toy` reduces it to a size for the interpreter."""

    case: str
    precision: str
    toy: bool = False

    @property
    def sizes(self) -> Case:
        """The case, with one critic step if there is a penalty.

        With one critic step both paths evaluate D's gradients at the same parameters.
        """
        case = CASES[self.case]
        case = case._replace(size=16, width=4, batch=2) if self.toy else case
        return case if case.system.penalty is None else case._replace(critic_steps=1)

    def __str__(self) -> str:
        case = self.sizes
        return (
            f"{case.recipe} {self.precision} {case.size}x{case.size}x{case.channels} "
            f"width={case.width} batch={case.batch}"
        )

    def check(self, device: Device) -> None:
        """Raise ArithmeticError unless the planned step's gradients equal the array path's.

        Both start from the same state; `compare_steps` has the tolerance.
        """
        case = self.sizes
        step = case.plan(self.precision, device, images=4 * case.batch, batches=2)
        state = step.state.copy()
        got = precision.planned(step)
        drawn = precision.draws_of(step, state)
        want, arrays = (
            precision.plain(case, drawn, dtype, device) for dtype in (np.float64, np.float32)
        )
        near = dict.fromkeys("DG", 0.0)
        if self.precision in precision.PERTURBED:
            near = precision.kinks(case, drawn, want, self.precision, device)
        compare_steps(
            precision.compare(got, want), precision.compare(arrays, want), near, self.precision
        )


def allowed(name: str, arrays: float, near: float) -> float:
    """Return the allowed relative error of a gradient against float64.

    fp32 and bf16x3: four times the error of the array path in float32 (`arrays`), or the bound
    `near` of `precision.kinks` if larger. TF32 and bfloat16: the bounds of
    tests/planned/test_gpu_session.py.
    """
    return {"tf32": 0.1, "bf16": 0.3}.get(name, max(4 * arrays, near))


def compare_steps(got: dict, arrays: dict, near: dict, name: str) -> None:
    """Raise ArithmeticError if a gradient's error against float64 is larger than allowed.

    `got` and `arrays` are results of `precision.compare`, `near` is one of `precision.kinks`.
    """
    for player in ("D", "G"):
        error, limit = got[player]["error"], allowed(name, arrays[player]["error"], near[player])
        if not error <= limit:  # also true for NaN
            layers = got[player]["layers"]
            worst = max(layers, key=layers.get)
            raise ArithmeticError(
                f"the gradient of {player} is {error:.3g} from float64, {limit:.3g} allowed; "
                f"the worst parameter: {worst}, {layers[worst]:.3g}"
            )


Check = Row | Step


def all_shapes() -> None:
    """Prepend the test cases of every Spec to its benchmark cases, for this process."""
    for name, spec in all_specs().items():
        all_specs()[name] = replace(spec, benchmarks=(*spec.cases, *spec.benchmarks))


def checks(only: list[str], dry: bool = False) -> dict[str, list[Check]]:
    """Return {kind: checks}; call after all_shapes.

    `only` names kernels and excludes whole steps; `dry` selects a few
    checks of each kind at toy size.
    """
    if dry:
        rows = [
            Row(name, all_specs()[name].dtypes[-1], 0)
            for name in DRY_KERNELS
            if not only or name in only
        ]
        others = [row._replace(case=1) for row in rows]
        return {
            "steps": [] if only else [Step(STEPS[0], "fp32", toy=True)],
            "benchmarks": others,
            "tests": rows,
        }
    rows = select(only, [])
    return {
        "steps": [] if only else [Step(case, name) for case in STEPS for name in PRECISIONS],
        "benchmarks": [row for row in rows if row.case >= len(row.spec.cases)],
        "tests": [row for row in rows if row.case < len(row.spec.cases)],
    }


def compile_rows(rows: list[Row], device: dict) -> None:
    """Compile all rows on all cores into Triton's cache; `check` reports those that fail."""
    capability = device["capability"]
    jobs: list[Job] = []
    for row in rows:
        with suppress(Exception):  # `check` raises and reports it
            jobs += map(Job.of, launches(row, capability, device.get("multiprocessors")))
    compile_all(jobs, capability)


class Side:
    """Answers of the worker; "prepare" runs a check."""

    def __init__(self, device: Device, every: list[Check]):
        self.device, self.xp, self.every = device, device.xp, every

    def prepare(self, n: int) -> dict:
        """Return {} if check n passes, else the reason, and whether this process lost the GPU."""
        one = self.every[n]
        try:
            if isinstance(one, Step):
                one.check(self.device)
            else:
                Call(one, self.xp).check()
        except Exception as error:
            return why(error) | {"lost": not self.alive()}
        return {}

    def alive(self) -> bool:
        try:
            return bool((self.xp.ones(1) + 1).sum() == 2)
        except Exception as error:
            print(f"the GPU is lost to this process: {error}", flush=True)
            return False


def check(
    kinds: dict[str, list[Check]],
    start: Callable[[], Worker],
    save: Callable[[dict], None],
    left: Callable[[], float] = lambda: inf,
) -> dict:
    """Run the checks in a worker and save the counts after each; none starts when left() <= 0.

    Returns {kind: {"of": number of checks, "right": number passed, "wrong": {check: reason}}}.
    """
    counts, n, worker = (
        {kind: {"of": len(some), "right": 0, "wrong": {}} for kind, some in kinds.items()},
        0,
        start(),
    )
    try:
        for kind, some in kinds.items():
            for i, one in enumerate(some):
                if left() <= 0:
                    print(f"{kind}: no time was left for {len(some) - i} checks", flush=True)
                    n += len(some) - i
                    break
                answered = worker.ask(PATIENCE[kind], prepare=n)
                n += 1
                if "not_measured" in answered:
                    counts[kind]["wrong"][str(one)] = answered["not_measured"]
                    print(f"{one}: {answered['not_measured']}", flush=True)
                else:
                    counts[kind]["right"] += 1
                save(counts)
                if answered.get("lost", worker.over):
                    worker.end()
                    worker = start()
    finally:
        worker.end()
    return counts


def main() -> int:
    options = parser(__doc__, minutes=10)
    options.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=all_specs(),
        metavar="KERNEL",
        help="the kernels to check",
    )
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    all_shapes()
    kinds = checks(args.only, args.dry_run)
    if args.worker:
        device = toy_device() if args.dry_run else choose_device("gpu")
        answer(Side(device, [one for some in kinds.values() for one in some]))
        return 0
    command = begin("steps", args)
    if not args.dry_run:
        compile_rows([*kinds["tests"], *kinds["benchmarks"]], command.result["device"])

    def save(counts: dict) -> None:
        command.result["correctness"] = counts
        command.save()

    arguments = [
        *(["--only", *args.only] if args.only else []),
        *(["--dry-run"] if args.dry_run else []),
    ]
    results = check(
        kinds,
        lambda: Worker("benchmarks.kernels.correctness", "--worker", *arguments),
        save,
        command.left,
    )
    for kind, counts in results.items():
        print(f"{kind}: {counts['right']} of {counts['of']} right")
    return any(counts["right"] < counts["of"] for counts in results.values())


if __name__ == "__main__":
    as_program(main)
