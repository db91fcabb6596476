"""Time every kernel at its Spec's benchmark shapes, against its NumPy formula and PyTorch.

    python -m benchmarks.kernels                          all kernels, within --minutes, on a GPU
    python -m benchmarks.kernels --only conv2d adam       some kernels
    python -m benchmarks.kernels --candidates conv2d      a matrix-product kernel in every
                                                          configuration and implementation, printed
                                                          as lines for gemm_config.py; --tiles
                                                          128x256x64 ... --warps 4 8 --stages 3 4
                                                          replace the configurations of the table
    python -m benchmarks.kernels --dry-run                all but the measuring, without a GPU:
                                                          compiled for sm_90, "not measured"

Order: all rows are compiled, on all cores; the GPU's limits are measured; each row runs once
against its float64 reference and is timed only if it is correct, together with the NumPy formula
on CuPy arrays; then PyTorch's functions, if PyTorch is installed, in a separate process. The JSON
file is written after every row, so that results survive a failing row or command; a failed row
records its reason, and the exit status is then 1. The Markdown table and the roofline plot are
written next to the JSON file; --redraw makes them again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common.facts import ROOT, as_program, facts, reason, slug, write
from benchmarks.common.timing import CupyClock, ceilings, measure
from benchmarks.kernels import report
from benchmarks.kernels.rows import (
    Call,
    Row,
    candidates,
    compiled,
    describe,
    kernels_named,
    launches,
    multiplies,
    select,
)
from rawgan.errors import UserError
from rawgan.kernels import all_specs
from rawgan.kernels.runtime.compile import Job, compile_all
from rawgan.kernels.specs.spec import PRODUCTS

DRY = {"name": "no GPU (dry run)", "capability": 90}
NOTHING = {"not_measured": "a dry run measures nothing"}
Save = Callable[[], None]


def begin(rows: list[Row], device: dict, commit: str | None) -> dict:
    """Return the result before any measurement."""
    return {
        **facts(device, commit),
        "ceilings": dict.fromkeys(("copy", "bfloat16", "tf32"), NOTHING),
        "rows": [
            describe(row) | dict.fromkeys(("ours", "reference", "torch"), NOTHING) for row in rows
        ],
    }


def compile_rows(rows: list[Row], cells: list[dict], device: dict) -> None:
    """Compile all rows on all cores into Triton's cache and record their launches."""
    capability = device["capability"]
    asked: list[list[Job]] = []
    for row, cell in zip(rows, cells):
        asked.append([])
        try:
            asked[-1] += map(Job.of, launches(row, capability, device.get("multiprocessors")))
        except Exception as error:
            cell["compiled"] = reason(error)
    results = iter(compile_all([job for jobs in asked for job in jobs], capability))
    for n, (row, cell, jobs) in enumerate(zip(rows, cells, asked)):
        try:
            outcomes = [(job, next(results)) for job in jobs]
            if outcomes:
                cell["compiled"] = [compiled(job, result) for job, result in outcomes]
        except RuntimeError as error:
            cell["compiled"] = reason(error)
        progress("compile", n, rows, row, cell["compiled"])


def measure_rows(rows: list[Row], cells: list[dict], clock, deadline: float, save: Save) -> None:
    """Check each row, then time it and its reference; an incorrect row is not timed.

    A row that makes the GPU unusable for this process ends the measurements.
    """
    lost = None
    for n, (row, cell) in enumerate(zip(rows, cells)):
        try:
            if lost:
                raise RuntimeError(f"{lost} had lost the GPU")
            if time.monotonic() > deadline:
                raise TimeoutError("no time was left")
            call = Call(row, clock.xp)
            call.check()
            cell["ours"] = measure(clock, call.ours)
        except Exception as error:
            cell["ours"], cell["reference"] = reason(error), {"not_measured": "the kernel was not"}
            lost = lost or (None if alive(clock) else str(row))
        else:
            cell["reference"] = measure_reference(row, call, clock)
        progress("measure", n, rows, row, cell["ours"])
        save()


def alive(clock) -> bool:
    """Return whether this process can use the GPU: after an illegal access it no longer can."""
    try:
        clock.synchronize()
    except Exception as error:
        print(f"the GPU is lost to this process: {error}", flush=True)
        return False
    return True


def measure_reference(row: Row, call: Call, clock) -> dict:
    if row.dtype in ("bfloat16", *PRODUCTS):
        return {"not_measured": f"NumPy's formulas know no {row.dtype}"}
    try:
        return measure(clock, call.reference)
    except Exception as error:
        return reason(error)


def measure_torch(rows: list[Row], cells: list[dict], seconds: float, save: Save) -> None:
    """Time PyTorch's functions in a separate process."""
    if find_spec("torch") is None:
        for cell in cells:
            cell["torch"] = {"not_measured": "PyTorch is not installed"}
        return
    for cell in cells:
        cell["torch"] = {"not_measured": "the process with PyTorch ended before it"}
    command = [sys.executable, "-m", "benchmarks.kernels.torch_references"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write(json.dumps([seconds, rows]))
        process.stdin.close()
        for line in process.stdout:
            n, cell = json.loads(line)
            cells[n]["torch"] = cell
            progress("PyTorch", n, rows, rows[n], cell)
            save()


def progress(task: str, n: int, rows: list[Row], row: Row, cell) -> None:
    if isinstance(cell, list):
        text = ", ".join(one["kernel"] for one in cell)
    else:
        text = f"{cell['median_us']:.1f} us" if "median_us" in cell else cell["not_measured"]
    print(f"{task} {n + 1}/{len(rows)}  {row}: {text}", flush=True)


def draw(result: dict, path: Path) -> None:
    """Write the table and the plot next to the JSON file."""
    path.with_suffix(".md").write_text(report.table(result))
    report.plot(result, path.with_suffix(".png"))
    print(f"{path}\n{path.with_suffix('.md')}\n{path.with_suffix('.png')}")


def failed(row: dict) -> bool:
    """Return whether compiling or measuring a row failed; a dry run's rows count as not failed."""
    return isinstance(row["compiled"], dict) or (
        "median_us" not in row["ours"] and row["ours"] != NOTHING
    )


def tile(words: str) -> tuple[int, ...]:
    """Parse "128x256x64" as three powers of two, at least 16."""
    sizes = tuple(int(word) for word in words.split("x"))
    if len(sizes) != 3 or any(size < 16 or size & (size - 1) for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{words!r} is no tile: three powers of two from 16, as in 128x256x64"
        )
    return sizes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="KERNEL",
        help="the kernels to measure, or the files of kernels/, as in `--only conv adam`",
    )
    parser.add_argument(
        "--dtype", nargs="+", default=[], choices=list(report.RATES), help="the dtypes to measure"
    )
    parser.add_argument(
        "--candidates",
        metavar="KERNEL",
        help="a product: measure every configuration of its table, in every form",
    )
    parser.add_argument(
        "--tiles",
        nargs="+",
        default=[],
        type=tile,
        metavar="MxNxK",
        help="of candidates: not those of the table",
    )
    parser.add_argument("--warps", nargs="+", default=[], type=int, help="with --tiles (4 8)")
    parser.add_argument("--stages", nargs="+", default=[], type=int, help="with --tiles (3 4)")
    parser.add_argument(
        "--dry-run", action="store_true", help="measure nothing; the files go to a temporary folder"
    )
    parser.add_argument(
        "--minutes", type=float, default=8, help="rows that begin later are left out"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results", help="the folder of the files"
    )
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    parser.add_argument(
        "--redraw", type=Path, metavar="JSON", help="only make table and plot again"
    )
    args = parser.parse_args()
    args.only = kernels_named(args.only)
    if args.candidates:
        kernels_named([args.candidates])
    if (args.tiles or args.warps or args.stages) and not (args.candidates and args.tiles):
        raise UserError("--tiles is for --candidates, --warps and --stages are for --tiles")
    if args.candidates and not multiplies(all_specs()[args.candidates]):
        raise UserError(f"{args.candidates} is no product: it has one configuration, in its file")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("TRITON_INTERPRET=1 compiles nothing; unset it")
    return args


def main() -> int:
    args = parse()
    if args.redraw:
        draw(json.loads(args.redraw.read_text()), args.redraw)
        return 0
    start = time.monotonic()
    rows = select([args.candidates] if args.candidates else args.only, args.dtype)
    rows = candidates(rows, args.tiles, args.warps, args.stages) if args.candidates else rows
    if not rows:
        raise UserError("none of these kernels has one of these dtypes")
    clock = None if args.dry_run else CupyClock()
    result = begin(rows, DRY if args.dry_run else clock.device(), args.commit)
    cells = result["rows"]
    folder = Path(tempfile.mkdtemp(prefix="kernels-")) if args.dry_run else args.out
    folder.mkdir(parents=True, exist_ok=True)
    path = (
        folder / f"kernels_{slug(result['device']['name'])}"
        f"{f'_{args.candidates}_candidates' if args.candidates else ''}.json"
    )

    def save():
        report.derive(result)
        write(result, path)

    compile_rows(rows, cells, result["device"])
    if args.candidates:  # drop those that do not compile: no implementation for the shape
        rows = [row for row, cell in zip(rows, cells) if isinstance(cell["compiled"], list)]
        cells[:] = [cell for cell in cells if isinstance(cell["compiled"], list)]
    if clock:
        result["ceilings"] = ceilings(clock)
        print(json.dumps(result["ceilings"]), flush=True)
        deadline = start + 60 * args.minutes
        share = 1.0 if args.candidates else 0.7  # the rest of the time is for PyTorch
        measure_rows(rows, cells, clock, start + share * (deadline - start), save)
        if alive(clock):
            clock.release()
        if not args.candidates:
            measure_torch(rows, cells, deadline - time.monotonic(), save)
    save()
    draw(result, path)
    if args.candidates:
        print("\n".join(report.paste(cells)))
    wrong = [f"{row['kernel']} {row['dtype']} {report.sizes(row)}" for row in cells if failed(row)]
    print(
        f"{len(rows)} rows in {time.monotonic() - start:.0f} s, {len(wrong)} failed",
        *wrong,
        sep="\n  ",
    )
    return bool(wrong)


if __name__ == "__main__":
    as_program(main)
