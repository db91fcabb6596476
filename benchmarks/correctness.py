"""Every kernel at the shapes of its tests, in every dtype, on the GPU against its reference in float64: into steps_<device>.json.

    python -m benchmarks.correctness

The same comparison as tests/test_kernels.py, in a process that is replaced when a kernel has lost it the GPU, or hangs: so one that
is wrong hides no other. The file is written after every case.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.facts import RESULTS, as_program, begun, cores, facts, write
from benchmarks.kernel_rows import Call, Row, prepare, select
from benchmarks.step_worker import Worker, answer, why
from benchmarks.timing import gpu
from rawgan.backend import choose_device
from rawgan.kernels import specs

PATIENCE = 60.0  # seconds that a case may take


def at_the_shapes_of_the_tests() -> None:
    """From here on the rows of this process are the cases of the tests, not of the benchmark."""
    for name, spec in specs().items():
        specs()[name] = replace(spec, benchmarks=spec.cases)


def compile_rows(rows: list[Row], capability: int) -> None:
    """Compiles all rows on all cores, for `check` to find on disk; what does not compile will say so there."""
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), at_the_shapes_of_the_tests) as pool:
        for future in [pool.submit(prepare, row, capability) for row in rows]:
            future.exception()


class Side:
    """The worker's answers."""

    def __init__(self, xp, rows: list[Row]):
        self.xp, self.rows = xp, rows

    def prepare(self, n: int) -> dict:
        """{} where row n is right; what is wrong, and whether the GPU is lost to this process."""
        try:
            Call(self.rows[n], self.xp).check()
        except Exception as error:
            return why(error) | {"lost": not self.alive()}
        return {}

    def alive(self) -> bool:
        try:
            return bool((self.xp.ones(1) + 1).sum() == 2)
        except Exception as error:
            print(f"the GPU is lost to this process: {error}", flush=True)
            return False


def check(rows: list[Row], start: Callable[[], Worker], save: Callable[[dict], None]) -> dict:
    """{"of": how many cases there are, "right": how many were, "wrong": {case: why}}."""
    found, worker = {"of": len(rows), "right": 0, "wrong": {}}, start()
    try:
        for n, row in enumerate(rows):
            said = worker.ask(PATIENCE, prepare=n)
            if "not_measured" in said:
                found["wrong"][str(row)] = said["not_measured"]
                print(f"{row}: {said['not_measured']}", flush=True)
            else:
                found["right"] += 1
            save(found)
            if said.get("lost", worker.over):
                worker.end()
                worker = start()
    finally:
        worker.end()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], choices=specs(), metavar="KERNEL", help="the kernels to check")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the file")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    xp = choose_device("gpu").xp
    if args.worker:
        at_the_shapes_of_the_tests()
        answer(Side(xp, select(args.only, [])))
        return 0
    result, path = begun("steps", facts(gpu(xp.cuda), args.commit), args.out)
    at_the_shapes_of_the_tests()
    rows = select(args.only, [])
    compile_rows(rows, result["device"]["capability"])

    def save(found: dict) -> None:
        result["correctness"] = found
        write(result, path)

    only = ["--only", *args.only] if args.only else []
    found = check(rows, lambda: Worker("benchmarks.correctness", "--worker", *only), save)
    print(f"{found['right']} right, {len(found['wrong'])} wrong")
    return bool(found["wrong"])


if __name__ == "__main__":
    as_program(main)
