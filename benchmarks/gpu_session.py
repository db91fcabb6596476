"""Run all GPU measurements in about 16 minutes, most important first, one process per step.

    python -m benchmarks.gpu_session --out DIR            all parts: twice 6 minutes, then 4
    python -m benchmarks.gpu_session --out DIR --part 1   part 1 only; --part 2 in a later call
    python -m benchmarks.gpu_session --steps training     steps by name
    python -m benchmarks.gpu_session --dry-run            all of it at toy size, without a GPU

`--list` prints the steps with their time limits and commands. Each step has its own process and
time limit: a step that fails, hangs or loses the GPU does not affect the others, and time that a
step does not use is available to the next ones. The JSON results (written as soon as they are
measured), the session record and its log go to --out, by default
benchmarks/results/<device>_<commit>. A step whose module or packages are missing is skipped and
listed in the summary. The exit status is 1 if a step failed.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

from benchmarks.common import child
from benchmarks.common.facts import RESULTS, as_program, begun, facts, slug, write
from rawgan.errors import UserError

COMPILED_CASES = ("dcgan 64x64x3", "dcgan 32x32x1", "raschka_mlp_gan 28x28x1")
PLAIN = ("--passes", "plain", "--rounds", "4")
COMPILED = (
    "--passes",
    "compiled",
    "--compiled",
    "compiled, captured",
    "--rounds",
    "4",
    "--case",
    *COMPILED_CASES,
)
TOY_TUNING = ("--case", "raschka_mlp_gan 28x28x1", "--precision", "bf16")
PARTS = (1, 2, 3)
# required by every step, except CuPy in a dry run
BASE = ("numpy", "threadpoolctl", "triton", "cupy")
# other dependencies of the project; a step that imports one lists it in `needs`
OTHERS = (
    "jinja2",
    "matplotlib",
    "PIL",
    "pooch",
    "requests",
    "safetensors",
    "tqdm",
    "typer",
    "torch",
)
TRAINS = ("matplotlib", "PIL", "safetensors", "tqdm")  # required by training and its data


class Step(NamedTuple):
    """One command with its session part and time limit in seconds.

    `toy` replaces `arguments` in a dry run; `needs` names required packages beyond BASE.
    """

    name: str
    part: int
    seconds: float
    module: str
    arguments: tuple[str, ...] = ()
    toy: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


STEPS = (
    Step("training", 1, 80, "benchmarks.steps.train_check", needs=TRAINS),
    Step("correctness", 1, 95, "benchmarks.kernels.correctness", toy=("--only", "relu", "adam")),
    Step("tuning bf16", 1, 190, "benchmarks.tune", ("--precision", "bf16"), TOY_TUNING),
    Step(
        "tuning float32",
        2,
        135,
        "benchmarks.tune",
        ("--precision", "tf32", "bf16x3", "fp32"),
        TOY_TUNING,
    ),
    Step("steps", 2, 185, "benchmarks.steps", PLAIN, (*PLAIN, "--rounds", "1"), needs=("torch",)),
    Step("ceilings", 2, 15, "benchmarks.kernels.ceilings"),
    Step(
        "profile",
        2,
        25,
        "benchmarks.steps.profile",
        ("--case", *COMPILED_CASES[:2]),
        toy=("--case", COMPILED_CASES[0]),
    ),
    Step(
        "compiled steps",
        3,
        90,
        "benchmarks.steps",
        COMPILED,
        (*COMPILED, "--rounds", "1"),
        needs=("torch",),
    ),
    Step(
        "dependent launch",
        3,
        45,
        "benchmarks.steps.dependent_launch",
        ("--case", *COMPILED_CASES[:2], "wgan_gp 64x64x3"),
        toy=("--case", "raschka_mlp_gan 28x28x1"),
    ),
    Step("array path", 3, 15, "benchmarks.steps.array_profile", needs=("PIL", "torch")),
    Step("racecheck", 3, 25, "benchmarks.steps.racecheck"),
    Step("distances", 3, 65, "benchmarks.quality.distances", toy=("--seeds", "0"), needs=TRAINS),
)
DRY_LIMIT = 4  # factor on the limits in a dry run: Triton's interpreter is slow
START = 0.85  # fraction of its limit after which a step starts no new measurement


def command(step: Step, seconds: float, out: Path, commit: str, dry: bool) -> list[str]:
    """Return the Python arguments that run a step, including the deadline it must keep."""
    shared = ["--out", str(out), "--minutes", f"{START * seconds / 60:.3f}", "--commit", commit]
    arguments = step.toy or step.arguments if dry else step.arguments
    return ["-m", step.module, *arguments, *shared, *(["--dry-run"] if dry else [])]


def skipped(step: Step, dry: bool) -> str | None:
    """Return why a step cannot run here, or None."""
    if find_spec(step.module) is None:
        return f"not there yet: {step.module}"
    needed = [name for name in (*BASE, *step.needs) if not (dry and name == "cupy")]
    if missing := [name for name in needed if find_spec(name) is None]:
        return f"not installed: {', '.join(missing)}"
    return None


def preflight(steps: Sequence[Step], dry: bool) -> dict[str, str]:
    """Print which packages this machine lacks; return {step name: reason to skip it}."""
    missing = [name for name in (*BASE, *OTHERS) if find_spec(name) is None]
    missing += (
        []
        if any(map(shutil.which, ("gcc", "clang", "cc")))
        else ["a C compiler, which Triton starts kernels with"]
    )
    print(f"not installed here: {', '.join(missing) or 'nothing that the project depends on'}")
    skips = {step.name: why for step in steps if (why := skipped(step, dry))}
    print(*(f"  {name} is skipped: {why}" for name, why in skips.items()), sep="\n", flush=True)
    return skips


def run_steps(steps: Sequence[Step], arguments, save, log: BinaryIO) -> list[dict]:
    """Run the steps in order and call save(records) after each.

    Step i must end before the sum of the limits of steps 0..i. arguments(step, seconds) returns its
    command. Returns one record per step.
    """
    start, limit, records = time.monotonic(), 0.0, []
    for step in steps:
        limit += step.seconds
        seconds = start + limit - time.monotonic()
        print(f"\n=== {step.name}: at most {seconds:.0f} s", flush=True)
        record = {"step": step.name, **child.run(arguments(step, seconds), seconds, log)}
        print(record["output"], flush=True)
        records.append(record)
        save(records)
    return records


def outcome(record: dict) -> str:
    """Return the outcome of a step as text."""
    if record["status"] is None:
        return "failed: its time was up"
    return "done" if record["status"] == 0 else f"failed: status {record['status']}"


def summary(steps: Sequence[Step], skips: dict[str, str], records: list[dict]) -> str:
    """Return a Markdown table of all steps: outcome, seconds and limit of each."""
    by_step = {record["step"]: record for record in records}
    lines = ["| step | part | seconds | limit | outcome |", "|---|---|---|---|---|"]
    for step in steps:
        record = by_step.get(step.name)
        took, result = (
            (record["seconds"], outcome(record))
            if record
            else ("", f"skipped, {skips.get(step.name, 'not reached')}")
        )
        lines.append(f"| {step.name} | {step.part} | {took} | {step.seconds:.0f} | {result} |")
    failed = [record["step"] for record in records if record["status"] != 0]
    return "\n".join(
        [*lines, "", f"{len(failed)} failed{': ' if failed else ''}{', '.join(failed)}"]
    )


def device(dry: bool) -> dict:
    """Return the description of the GPU. Raises UserError if there is none, except in a dry run."""
    from benchmarks.common.command import DRY, describe
    from rawgan.backend import choose_device

    return DRY if dry else describe(choose_device("gpu"))


def chosen(args: argparse.Namespace) -> list[Step]:
    """Return the steps selected by --part and --steps, in session order."""
    return [s for s in STEPS if s.part in args.part and (not args.steps or s.name in args.steps)]


def main() -> int:
    """Run the session; return 1 if a step failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [step.name for step in STEPS]
    parser.add_argument("--part", nargs="+", type=int, choices=PARTS, default=PARTS)
    parser.add_argument("--steps", nargs="+", choices=names, metavar="STEP", help="; ".join(names))
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--commit", help="commit to record where there is no git")
    parser.add_argument("--list", action="store_true", help="print the steps and end")
    parser.add_argument(
        "--dry-run", action="store_true", help="toy size, without a GPU; measures nothing"
    )
    args = parser.parse_args()
    dry = args.dry_run
    steps = [
        step._replace(seconds=step.seconds * DRY_LIMIT) if dry else step for step in chosen(args)
    ]
    if not steps:
        raise UserError("no step was chosen: the steps that --steps names are in the other part")
    if args.list:
        for step in steps:
            print(
                f"part {step.part}, {step.seconds:3.0f} s  {step.name}: "
                f"python -m {step.module} {' '.join(step.arguments)}"
            )
        return 0
    skips = preflight(steps, dry)
    if len(skips) == len(steps):
        raise UserError("none of these steps can run here")
    from benchmarks.common.command import out_folder  # imports packages checked by preflight

    record = facts(device(dry), args.commit)
    if dry:
        os.environ["TRITON_INTERPRET"] = "1"  # inherited by the child processes
    with tempfile.TemporaryDirectory() as temporary:
        name = f"{slug(record['device']['name'])}_{slug(record['commit'])[:12]}"
        out = out_folder(args.out or (Path(temporary) if dry else RESULTS / name), dry)
        result, path = begun("session", record, out)
        result |= {
            "skipped": result.get("skipped", {}) | skips,
            "records": result.get("records", []),
        }
        before = [r for r in result["records"] if r["step"] not in {step.name for step in steps}]

        def save(records: list[dict]) -> None:
            result["records"] = before + records
            write(result, path)

        save([])
        runnable = [step for step in steps if step.name not in skips]
        with path.with_suffix(".log").open("ab+") as log:
            records = run_steps(
                runnable,
                lambda s, seconds: command(s, seconds, out, record["commit"], dry),
                save,
                log,
            )
        print("\nfiles:", *sorted(p.name for p in out.iterdir()))
    print(summary(steps, skips, records))
    return any(record["status"] != 0 for record in records)


if __name__ == "__main__":
    as_program(main)
