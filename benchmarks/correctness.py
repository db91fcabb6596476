"""Every kernel at the shapes of its tests, in every dtype, on the GPU against its reference in float64: into steps_<device>.json.

    python -m benchmarks.correctness

The same comparison as tests/test_kernels.py, for a machine that has a GPU and no pytest.
"""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.facts import RESULTS, begun, cores, facts, write
from benchmarks.kernel_rows import Call, Row, prepare, select
from benchmarks.step_worker import why
from benchmarks.timing import gpu
from rawgan.backend import choose_device
from rawgan.errors import UserError
from rawgan.kernels import specs


def at_the_shapes_of_the_tests() -> None:
    """From here on the rows of this process are the cases of the tests, not of the benchmark."""
    for name, spec in specs().items():
        specs()[name] = replace(spec, benchmarks=spec.cases)


def compile_rows(rows: list[Row], capability: int) -> None:
    """Compiles all rows on all cores, for `check` to find on disk; what does not compile will say so there."""
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), at_the_shapes_of_the_tests) as pool:
        for future in [pool.submit(prepare, row, capability) for row in rows]:
            future.exception()


def check(xp, rows: list[Row]) -> dict:
    """{"right": how many cases, "wrong": {case: why}}."""
    right, wrong = 0, {}
    for row in rows:
        try:
            Call(row, xp).check()
            right += 1
        except Exception as error:
            wrong[str(row)] = why(error)["not_measured"]
            print(f"{row}: {wrong[str(row)]}", flush=True)
    return {"right": right, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], choices=specs(), metavar="KERNEL", help="the kernels to check")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the file")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    args = parser.parse_args()
    xp = choose_device("gpu").xp
    result, path = begun("steps", facts(gpu(xp.cuda), args.commit), args.out)
    at_the_shapes_of_the_tests()
    rows = select(args.only, [])
    compile_rows(rows, result["device"]["capability"])
    result["correctness"] = found = check(xp, rows)
    write(result, path)
    print(f"{found['right']} right, {len(found['wrong'])} wrong")
    return bool(found["wrong"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
