"""Whole training steps: ours launch by launch and as a CUDA graph, in each precision, against PyTorch's in the forms users choose.

    python -m benchmarks.steps                            all of benchmarks/step_cases.py, within --minutes, on a GPU
    python -m benchmarks.steps --case "dcgan 64x64x3"     one of them
    python -m benchmarks.steps --plans                    only what is known without a GPU: launches and arenas, into plans.json
    python -m benchmarks.steps --dry-run                  all but the measuring, without a GPU: see benchmarks/steps_dry.py

Both libraries run in worker processes, each of our precisions in its own, on the same GPU in turns: a round runs every form of both
for a while, the next one in the opposite order. A time is the median over the rounds; a ratio is the median over the rounds of
PyTorch's time divided by ours, of 20 steps in one graph, in the same round. Times are by the clock on the wall, from a GPU with
nothing to do to a GPU with nothing to do. The kernels are compiled beforehand, on all cores. steps_<device>.json is written after
each case; another call adds what is missing, --again measures anew. What takes PyTorch minutes to compile comes last, case by case.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.facts import RESULTS, as_program, begun, facts, write
from benchmarks.step_cases import CASES
from benchmarks.step_worker import Worker
from benchmarks.steps_dry import compile_plans, dry_run, plans
from benchmarks.steps_forms import BEST, COMPILED, OURS, PLAIN, THEIRS, WITHOUT
from rawgan.backend import choose_device
from rawgan.errors import UserError
from rawgan.planned import PRECISIONS

SAVINGS: list[str] = []  # no form of PyTorch's
READY, COMPILING, TURN = 180.0, 400.0, 30.0  # seconds that an answer may take


def known(cell: dict | None) -> bool:
    """Whether there is nothing to find out: a form was measured, or is refused."""
    return bool(cell) and "failed" not in cell


def ready(worker: Worker, forms: list[str], cells: dict, seconds: float, left: Callable[[], float]) -> list[str]:
    """Prepares the forms of one side, notes what was found in the cells, and returns those that can be timed."""
    can = []
    for form in forms:
        found = worker.ask(min(seconds, left()), prepare=form)
        print(f"  {form}: {found.get('not_measured', 'ready')}", flush=True)
        note(cells, form, found)
        can += [] if "not_measured" in found else [form]
    return can


def note(cells: dict, form: str, found: dict) -> None:
    """Writes down what was found of a form, unless it was measured before."""
    if "us" not in cells.get(form, {}):
        cells[form] = found


def compare(name: str, row: dict, ours: list[str], theirs: list[str], args: argparse.Namespace, left: Callable[[], float]) -> None:
    """Measures the forms in rounds, both sides in turns, and puts times and ratios into the row."""
    waiting = COMPILING if set(theirs) & set(COMPILED) else READY
    with ExitStack() as workers:
        # each precision has a process of its own: one that loses the GPU loses it to itself alone
        us = {precision: workers.enter_context(Worker("benchmarks.steps_ours", name)) for precision in PRECISIONS}
        them, sides = workers.enter_context(Worker("benchmarks.steps_torch", name)), []
        for precision, worker in us.items():
            own = [form for form in ours if form.startswith(f"{precision},")]
            sides += [(worker, row["ours"], form) for form in ready(worker, own, row["ours"], READY, left)]
        sides += [(them, row["torch"], form) for form in ready(them, theirs, row["torch"], waiting, left)]
        times = turns(sides, args.rounds, args.seconds, left)
        for form in theirs:
            if form in times:
                found = them.ask(min(TURN, left()), count=form)
                row["torch"][form] |= {"kernels": found["kernels"]} if "kernels" in found else {}
    for _, cells, form in sides:
        if form in times:
            note(cells, form, {**cells[form], **spread("us", times[form], 2), "rounds": len(times[form])})
            print(f"  {form}: {cells[form]['us']} us", flush=True)
    for precision in PRECISIONS:
        best = times.get(f"{precision}, {BEST}", [])
        for form in theirs:
            if best and form in times:
                ratios = spread("median", [b / a for a, b in zip(best, times[form])], 3)
                row["ratios"].setdefault(precision, {})[form] = ratios


def savings(name: str, row: dict, args: argparse.Namespace, left: Callable[[], float]) -> None:
    """How many times as long our step takes without each of its savings, in bf16, and how much it launches then."""
    best, cells = f"bf16, {BEST}", {}
    forms = {f"bf16{WITHOUT}{saving}, {BEST}": saving for saving in CASES[name].savings}
    with Worker("benchmarks.steps_ours", name) as us:
        times = turns(
            [(us, cells, form) for form in ready(us, [best, *forms], cells, READY, left)], args.rounds, args.seconds, left
        )
    for form, saving in forms.items():
        if form in times and best in times:
            ratios = spread("median", [b / a for a, b in zip(times[best], times[form])], 3)
            row["without"][saving] = {"launches": cells[form]["kernels"], **ratios}
        else:
            row["without"][saving] = {"not_measured": cells[form if form not in times else best]["not_measured"], "failed": True}


def turns(sides: list[tuple[Worker, dict, str]], rounds: int, seconds: float, left: Callable[[], float]) -> dict[str, list[float]]:
    """The microseconds of each form in each round, for those that ran in all; a round that the time ends is left out."""
    times: dict[str, list[float]] = {form: [] for *_, form in sides}
    for n in range(-1, rounds):  # the first is for warming up
        if n > 0 and left() < 2 * seconds * len(times):
            break
        for worker, cells, form in sides if n % 2 == 0 else sides[::-1]:
            if form in times:
                said = worker.ask(min(TURN, left()), run=form, least=seconds)
                if "us" in said:
                    times[form] += [said["us"]] if n >= 0 else []
                else:
                    note(cells, form, said)
                    del times[form]
    return times


def spread(name: str, values: list[float], digits: int) -> dict[str, float]:
    """The median under a name, the least and the largest."""
    found = {name: median(values), "min": min(values), "max": max(values)}
    return {key: round(value, digits) for key, value in found.items()}


def measure(names: list[str], result: dict, save: Callable[[], None], args: argparse.Namespace, left: Callable[[], float]) -> None:
    """All cases without PyTorch's compiler, then without our savings, and then with the compiler."""
    steps = result.setdefault("steps", {})
    for theirs in (PLAIN, SAVINGS, COMPILED):
        for name in names:
            case = CASES[name]
            if args.again and theirs is PLAIN:
                steps.pop(name, None)
            row = steps.setdefault(name, {"batch": case.batch, "ours": {}, "torch": {}, "ratios": {}, "without": {}})
            if theirs is SAVINGS:
                if left() > 20 and not all(known(row["without"].get(saving)) for saving in CASES[name].savings):
                    print(f"{name}: without its savings", flush=True)
                    savings(name, row, args, left)
                    save()
                continue
            wanted = [form for form in theirs if not known(row["torch"].get(form))]
            ours = [f"{precision}, {BEST}" for precision in PRECISIONS]
            if theirs is PLAIN:
                ours = [form for form in OURS if form in ours or not known(row["ours"].get(form))]
                wanted = wanted or [form for form in theirs if not all(known(row["ours"].get(form)) for form in ours)]
            if not wanted or left() < 20:
                continue
            print(f"{name}: {', '.join(wanted)}", flush=True)
            compare(name, row, ours, wanted, args, left)
            save()


def failures(result: dict) -> list[str]:
    """What was to be measured and was not."""
    found = []
    for name, row in result.get("steps", {}).items():
        cells = [("ours", form) for form in OURS] + [("torch", form) for form in THEIRS]
        cells += [("without", saving) for saving in CASES[name].savings]
        found += [f"{name}, {side} {form}" for side, form in cells if not known(row[side].get(form))]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--minutes", type=float, default=9, help="what begins later is left out")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.1, help="that a form runs in a round")
    parser.add_argument("--again", action="store_true", help="measure what there is, too")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the files")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    parser.add_argument("--plans", action="store_true", help="only count launches and bytes; needs no GPU")
    parser.add_argument("--dry-run", action="store_true", help="measure nothing, write nothing")
    args = parser.parse_args()
    if args.rounds < 1:
        raise UserError("--rounds must be 1 or more")
    if args.dry_run:
        return dry_run(args.case)
    if args.plans:
        write(plans(args.case), args.out / "plans.json")
        return 0
    deadline = time.monotonic() + 60 * args.minutes
    gpu = choose_device("gpu")
    from benchmarks.timing import gpu as describe

    result, path = begun("steps", facts(describe(gpu.xp.cuda), args.commit), args.out)
    compile_plans(args.case, result["device"]["capability"])
    measure(args.case, result, lambda: write(result, path), args, lambda: deadline - time.monotonic())
    write(result, path)
    missing = failures(result)
    print(f"{path}; {len(missing)} not measured", *missing, sep="\n  ")
    return bool(missing)


if __name__ == "__main__":
    as_program(main)
