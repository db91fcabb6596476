"""Every kernel at the benchmark shapes of its Spec, in every dtype, beside its NumPy formula on CuPy arrays and PyTorch's function.

    python -m benchmarks.kernels                          all of them, within --minutes, on a GPU
    python -m benchmarks.kernels --only conv2d adam       some
    python -m benchmarks.kernels --candidates conv2d      a product in every configuration and form, as lines for gemm.py;
                                                          with --tiles 128x256x64 ... --warps 4 8 --stages 3 4 in these
    python -m benchmarks.kernels --dry-run                all but the measuring, without a GPU: compiled for sm_90, "not measured"

In this order: all rows are compiled, on all cores; the GPU's limits are measured; each row is run once against its reference in
float64, and timed only if it is right; then PyTorch's functions, where PyTorch is installed, in a process of their own. The JSON
file is written after every row, so that what was measured outlives a row that fails, or the whole command; a row that failed says
why, and the command ends with 1. The Markdown table and the roofline plot lie beside it; --redraw makes them again.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from benchmarks import kernel_report as report
from benchmarks.facts import ROOT, as_program, cores, facts, reason, slug, write
from benchmarks.kernel_rows import Call, Row, candidates, describe, multiplies, prepare, select
from benchmarks.timing import CupyClock, ceilings, measure
from rawgan.errors import UserError
from rawgan.kernels import specs

DRY = {"name": "no GPU (dry run)", "capability": 90}
NOTHING = {"not_measured": "a dry run measures nothing"}
Save = Callable[[], None]


def begin(rows: list[Row], device: dict, commit: str | None) -> dict:
    """The result before anything was measured."""
    return {
        **facts(device, commit),
        "ceilings": dict.fromkeys(("copy", "bfloat16", "tf32"), NOTHING),
        "rows": [describe(row) | dict.fromkeys(("ours", "reference", "torch"), NOTHING) for row in rows],
    }


def compile_rows(rows: list[Row], cells: list[dict], capability: int) -> None:
    """Compiles all rows on all cores, and notes what is launched; Triton keeps the results for the process that runs them."""
    with ProcessPoolExecutor(min(cores(), len(rows)), multiprocessing.get_context("spawn")) as pool:
        for n, (row, cell, future) in enumerate(zip(rows, cells, [pool.submit(prepare, row, capability) for row in rows])):
            try:
                cell["compiled"] = future.result()
            except Exception as error:
                cell["compiled"] = reason(error)
            progress("compile", n, rows, row, cell["compiled"])


def measure_rows(rows: list[Row], cells: list[dict], clock, deadline: float, save: Save) -> None:
    """Checks each row, then times it and its reference; what is wrong is not timed. A kernel that loses the GPU ends it."""
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
    """Whether the GPU still answers: after an illegal access it does not, for as long as the process lives."""
    try:
        clock.synchronize()
    except Exception as error:
        print(f"the GPU is lost to this process: {error}", flush=True)
        return False
    return True


def measure_reference(row: Row, call: Call, clock) -> dict:
    if row.dtype in ("bfloat16", "tf32"):
        return {"not_measured": f"NumPy's formulas know no {row.dtype}"}
    try:
        return measure(clock, call.reference)
    except Exception as error:
        return reason(error)


def measure_torch(rows: list[Row], cells: list[dict], seconds: float, save: Save) -> None:
    """PyTorch's functions, in a process of their own."""
    if find_spec("torch") is None:
        for cell in cells:
            cell["torch"] = {"not_measured": "PyTorch is not installed"}
        return
    for cell in cells:
        cell["torch"] = {"not_measured": "the process with PyTorch ended before it"}
    command = [sys.executable, "-m", "benchmarks.kernels_torch"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps([seconds, rows]))
        process.stdin.close()
        for line in process.stdout:
            n, cell = json.loads(line)
            cells[n]["torch"] = cell
            progress("PyTorch", n, rows, rows[n], cell)
            save()


def progress(what: str, n: int, rows: list[Row], row: Row, cell) -> None:
    if isinstance(cell, list):
        said = ", ".join(one["kernel"] for one in cell)
    else:
        said = f"{cell['median_us']:.1f} us" if "median_us" in cell else cell["not_measured"]
    print(f"{what} {n + 1}/{len(rows)}  {row}: {said}", flush=True)


def draw(result: dict, path: Path) -> None:
    """The table and the plot beside the JSON file."""
    path.with_suffix(".md").write_text(report.table(result))
    report.plot(result, path.with_suffix(".png"))
    print(f"{path}\n{path.with_suffix('.md')}\n{path.with_suffix('.png')}")


def failed(row: dict) -> bool:
    """Whether something went wrong, and not just was not asked for."""
    return isinstance(row["compiled"], dict) or ("median_us" not in row["ours"] and row["ours"] != NOTHING)


def tile(words: str) -> tuple[int, ...]:
    """128x256x64 as three numbers, all powers of two."""
    sizes = tuple(int(word) for word in words.split("x"))
    if len(sizes) != 3 or any(size < 16 or size & (size - 1) for size in sizes):
        raise argparse.ArgumentTypeError(f"{words!r} is no tile: three powers of two from 16, as in 128x256x64")
    return sizes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="KERNEL", help="the kernels to measure")
    parser.add_argument("--dtype", nargs="+", default=[], choices=list(report.RATES), help="the dtypes to measure")
    parser.add_argument("--candidates", metavar="KERNEL", help="a product: measure every configuration of its table, in every form")
    parser.add_argument("--tiles", nargs="+", default=[], type=tile, metavar="MxNxK", help="of candidates: not those of the table")
    parser.add_argument("--warps", nargs="+", default=[], type=int, help="with --tiles (4 8)")
    parser.add_argument("--stages", nargs="+", default=[], type=int, help="with --tiles (3 4)")
    parser.add_argument("--dry-run", action="store_true", help="measure nothing; the files go to a temporary folder")
    parser.add_argument("--minutes", type=float, default=8, help="rows that begin later are left out")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="the folder of the files")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    parser.add_argument("--redraw", type=Path, metavar="JSON", help="only make table and plot again")
    args = parser.parse_args()
    for name in [*args.only, *([args.candidates] if args.candidates else [])]:
        if name not in specs():
            raise UserError(f"there is no kernel {name!r}; there are {', '.join(sorted(specs()))}")
    if (args.tiles or args.warps or args.stages) and not (args.candidates and args.tiles):
        raise UserError("--tiles is for --candidates, --warps and --stages are for --tiles")
    if args.candidates and not multiplies(specs()[args.candidates]):
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
    path = folder / f"kernels_{slug(result['device']['name'])}{f'_{args.candidates}_candidates' if args.candidates else ''}.json"

    def save():
        report.derive(result)
        write(result, path)

    compile_rows(rows, cells, result["device"]["capability"])
    if args.candidates:  # what does not compile, a form that does not serve the shape, is none
        rows = [row for row, cell in zip(rows, cells) if isinstance(cell["compiled"], list)]
        cells[:] = [cell for cell in cells if isinstance(cell["compiled"], list)]
    if clock:
        result["ceilings"] = ceilings(clock)
        print(json.dumps(result["ceilings"]), flush=True)
        deadline = start + 60 * args.minutes
        share = 1.0 if args.candidates else 0.7  # PyTorch has the rest
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
    print(f"{len(rows)} rows in {time.monotonic() - start:.0f} s, {len(wrong)} failed", *wrong, sep="\n  ")
    return bool(wrong)


if __name__ == "__main__":
    as_program(main)
