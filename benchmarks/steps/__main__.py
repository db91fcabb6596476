"""Time of whole training steps on a GPU, rawgan's planned step against PyTorch's.

    python -m benchmarks.steps                            all of benchmarks/steps/cases.py, within
                                                          --minutes, on a GPU
    python -m benchmarks.steps --case "dcgan 64x64x3"     one case
    python -m benchmarks.steps --passes plain             without torch.compile and our ablations
    python -m benchmarks.steps --plans                    without a GPU: launches and arena sizes
                                                          of all plans, into plans.json
    python -m benchmarks.steps --compile                  compile all plans' kernels for sm_90
    TRITON_INTERPRET=1 python -m benchmarks.steps --dry-run      all of it at toy size, on the CPU

Our step runs launch by launch and as a CUDA graph, in each precision; PyTorch's runs in the forms
of benchmarks/steps/torch_steps.py. Both libraries run in worker processes, each of our precisions
in its own, alternating on the same GPU: a round runs every form of both for a while, the next
round in reverse order. A time is the median over the rounds; a ratio is the median over the rounds
of PyTorch's time divided by that of our 20 steps in one graph in the same round. Times are wall
clock, between two synchronisations. The kernels are compiled beforehand, on all cores.
steps_<device>.json is written after each case; another call adds what is missing, --again measures
everything again.

Three passes, each over all cases: `plain`; `savings`, our step without each of its fusions;
`compiled`, PyTorch's compiled forms. Every case of a pass has a share of the remaining time, so
that a slow case does not use up the time of the others. Each compiled form has its own process;
all compile at the same time, within one limit, and those that are ready are then measured.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

from benchmarks.common.command import add_choices, begin, out_folder, parser
from benchmarks.common.facts import as_program, load_plans, write
from benchmarks.common.worker import Worker
from benchmarks.steps.cases import CASES
from benchmarks.steps.dry_run import compile_plans, plans
from benchmarks.steps.forms import BEST, COMPILED, OURS, PLAIN, WITHOUT
from benchmarks.steps.report import ours as our_table
from benchmarks.steps.report import theirs as their_table
from rawgan.errors import UserError
from rawgan.precision import PRECISIONS

PASSES = ("plain", "savings", "compiled")
READY, TURN = 180.0, 30.0  # time limits of an answer, seconds: prepare, run
# time limit of all compilations, seconds; share of the remaining time reserved for measuring
COMPILING, MEASURING = 240.0, 0.4
LEAST = 5.0  # seconds that must remain to start a case

Time = Callable[[], float]
Side = tuple[Worker, dict, str]  # a worker, the dict of its results, the name of a form


def known(cell: dict | None) -> bool:
    """Return whether a form is settled: measured, or refused; not if it was only prepared."""
    return (
        bool(cell) and "failed" not in cell and bool({"us", "median", "not_measured"} & cell.keys())
    )


def ready(sides: list[Side], seconds: float, left: Time) -> list[Side]:
    """Prepare the forms of all workers concurrently; return the sides that can be timed.

    The answers are recorded.
    """
    for one, _, form in sides:
        one.send(prepare=form)
    can, begun, limit = [], time.monotonic(), min(seconds, left())
    for side in sides:
        one, cells, form = side
        reply = one.receive(limit - (time.monotonic() - begun))
        print(f"  {form}: {reply.get('not_measured', 'ready')}", flush=True)
        note(cells, form, reply)
        can += [] if "not_measured" in reply else [side]
    return can


def note(cells: dict, form: str, reply: dict) -> None:
    """Record an answer for a form, unless the form was already measured."""
    if "us" not in cells.get(form, {}):
        cells[form] = reply


def worker(side: str, name: str, args: argparse.Namespace) -> Worker:
    """Start the worker of a side, "ours" or "torch", for a case."""
    return (
        Worker("benchmarks.steps.toy", side, name)
        if args.dry_run
        else Worker(f"benchmarks.steps_{side}", name)
    )


def compare(
    name: str,
    row: dict,
    ours: list[str],
    theirs: list[Side],
    args: argparse.Namespace,
    left: Time,
    prepared: bool = False,
) -> None:
    """Measure the forms in rounds, both sides alternating, and store times and ratios in the row.

    `prepared`: PyTorch's forms are already prepared.
    """
    with ExitStack() as workers:
        # one process per precision: an illegal access in one does not affect the others
        precisions = dict.fromkeys(form.partition(",")[0] for form in ours)
        us = {
            precision: workers.enter_context(worker("ours", name, args)) for precision in precisions
        }
        sides = [(us[form.partition(",")[0]], row["ours"], form) for form in ours]
        sides = (
            ready(sides, READY, left) + theirs if prepared else ready(sides + theirs, READY, left)
        )
        times = turns(sides, args, left)
        for them, cells, form in theirs:
            if form in times:
                reply = them.ask(min(TURN, left()), count=form)
                cells[form] |= {"kernels": reply["kernels"]} if "kernels" in reply else {}
    for _, cells, form in sides:
        if form in times:
            note(
                cells,
                form,
                {**cells[form], **spread("us", times[form], 2), "rounds": len(times[form])},
            )
            print(f"  {form}: {cells[form]['us']} us", flush=True)
    for precision in PRECISIONS:
        best = times.get(f"{precision}, {BEST}", [])
        for *_, form in theirs:
            if best and form in times:
                ratios = spread("median", [b / a for a, b in zip(best, times[form])], 3)
                row["ratios"].setdefault(precision, {})[form] = ratios


def savings(name: str, row: dict, args: argparse.Namespace, left: Time) -> None:
    """Measure the launches and the relative time of our bf16 step without each of its fusions."""
    best, cells = f"bf16, {BEST}", {}
    forms = {f"bf16{WITHOUT}{saving}, {BEST}": saving for saving in CASES[name].savings}
    with worker("ours", name, args) as us:
        times = turns(
            ready([(us, cells, form) for form in [best, *forms]], READY, left), args, left
        )
    for form, saving in forms.items():
        if form in times and best in times:
            ratios = spread("median", [b / a for a, b in zip(times[best], times[form])], 3)
            row["without"][saving] = {"launches": cells[form]["kernels"], **ratios}
        else:
            row["without"][saving] = {
                "not_measured": cells[form if form not in times else best]["not_measured"],
                "failed": True,
            }


def turns(sides: list[Side], args: argparse.Namespace, left: Time) -> dict[str, list[float]]:
    """Return the microseconds of each form in each round, for forms that ran in all rounds.

    A round that would exceed the remaining time is left out.
    """
    times: dict[str, list[float]] = {form: [] for *_, form in sides}
    for n in range(0 if args.dry_run else -1, args.rounds):  # round -1 is a warm-up
        if n > 0 and left() < 2 * args.seconds * len(times):
            break
        for worker, cells, form in sides if n % 2 == 0 else sides[::-1]:
            if form in times:
                limit = READY if args.dry_run else TURN
                reply = worker.ask(min(limit, left()), run=form, least=args.seconds)
                if "us" in reply:
                    times[form] += [reply["us"]] if n >= 0 else []
                else:
                    note(cells, form, reply)
                    del times[form]
    return times


def spread(name: str, values: list[float], digits: int) -> dict[str, float]:
    """Return the median under `name`, with minimum and maximum, rounded."""
    statistics = {name: median(values), "min": min(values), "max": max(values)}
    return {key: round(value, digits) for key, value in statistics.items()}


def measure(
    names: list[str], result: dict, save: Callable[[], None], args: argparse.Namespace, left: Time
) -> None:
    """Run the requested passes, each over all cases."""
    steps = result.setdefault("steps", {})
    for name in names:
        if args.again:
            steps.pop(name, None)
        steps.setdefault(
            name, {"batch": CASES[name].batch, "ours": {}, "torch": {}, "ratios": {}, "without": {}}
        )
    if "plain" in args.passes:
        in_shares(
            [name for name in names if not measured(steps[name], args)],
            plain,
            steps,
            save,
            args,
            left,
        )
    if "savings" in args.passes:
        unknown = [
            name
            for name in names
            if not all(known(steps[name]["without"].get(s)) for s in CASES[name].savings)
        ]
        in_shares(unknown, savings, steps, save, args, left)
    if "compiled" in args.passes and left() >= 4 * LEAST:
        compiled(names, steps, save, args, left)


def in_shares(
    names: list[str], take: Callable, steps: dict, save: Callable[[], None], args, left: Time
) -> None:
    """Run a pass over the cases, sharing the remaining time.

    A case may not use the time reserved for later ones: two thirds of its share for each of them.
    """
    for n, name in enumerate(names):
        if left() < LEAST:
            break
        after = len(names) - n - 1
        later = left() * after / (after + 1.5)
        take(name, steps[name], args, lambda later=later: left() - later)
        save()


def measured(row: dict, args: argparse.Namespace) -> bool:
    """Return whether the plain pass of a case has nothing left to measure."""
    return all(known(row["torch"].get(form)) for form in PLAIN) and all(
        known(row["ours"].get(f)) for f in our_forms(args)
    )


def plain(name: str, row: dict, args: argparse.Namespace, left: Time) -> None:
    """Measure our forms and PyTorch's uncompiled ones."""
    wanted = [form for form in PLAIN if not known(row["torch"].get(form))] or PLAIN
    ours = [
        form
        for form in our_forms(args)
        if form in fastest(args) or not known(row["ours"].get(form))
    ]
    print(f"{name}: {', '.join(wanted)}", flush=True)
    with worker("torch", name, args) as them:
        compare(name, row, ours, [(them, row["torch"], form) for form in wanted], args, left)


def compiled(
    names: list[str], steps: dict, save: Callable[[], None], args: argparse.Namespace, left: Time
) -> None:
    """Compile every compiled form of every case concurrently; measure those ready in time."""
    with ExitStack() as workers:
        asked = {
            (name, form): workers.enter_context(worker("torch", name, args))
            for name in names
            for form in args.compiled
            if not known(steps[name]["torch"].get(form))
        }
        for (_, form), them in asked.items():
            them.send(prepare=form)
        limit, begun = min(COMPILING, (1 - MEASURING) * left()), time.monotonic()
        can: dict[str, list[Side]] = {}
        for (name, form), them in asked.items():
            cells, reply = steps[name]["torch"], them.receive(limit - (time.monotonic() - begun))
            print(f"  {name}, {form}: {reply.get('not_measured', 'compiled')}", flush=True)
            note(cells, form, reply)
            if "not_measured" not in reply:
                can.setdefault(name, []).append((them, cells, form))
        save()

        def take(name: str, row: dict, args: argparse.Namespace, left: Time) -> None:
            compare(name, row, fastest(args), can[name], args, left, prepared=True)

        in_shares([*can], take, steps, save, args, left)


def fastest(args: argparse.Namespace) -> list[str]:
    """Return our fastest form in each precision; in a dry run only in bf16."""
    return [f"{precision}, {BEST}" for precision in (["bf16"] if args.dry_run else PRECISIONS)]


def our_forms(args: argparse.Namespace) -> list[str]:
    """Return our forms to measure."""
    return fastest(args) if args.dry_run else OURS


def failures(result: dict, args: argparse.Namespace) -> list[str]:
    """Return the names of requested measurements that failed."""
    failed = []
    for name in args.case:
        row = result["steps"][name]
        cells = [("ours", form) for form in our_forms(args)] + [("torch", form) for form in PLAIN]
        cells = cells if "plain" in args.passes else []
        cells += (
            [("without", saving) for saving in CASES[name].savings]
            if "savings" in args.passes
            else []
        )
        cells += [("torch", form) for form in args.compiled] if "compiled" in args.passes else []
        failed += [
            f"{name}, {side} {form}" for side, form in cells if not known(row[side].get(form))
        ]
    return failed


def main() -> int:
    options = parser(__doc__, minutes=9)
    add_choices(options, "--case", CASES, "CASE")
    add_choices(options, "--passes", PASSES, "PASS")
    options.add_argument(
        "--compiled",
        nargs="+",
        choices=COMPILED,
        default=COMPILED,
        metavar="FORM",
        help="; ".join(COMPILED),
    )
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--seconds", type=float, default=0.1, help="that a form runs in a round")
    options.add_argument("--again", action="store_true", help="measure what there is, too")
    options.add_argument(
        "--plans", action="store_true", help="only count launches and bytes; needs no GPU"
    )
    options.add_argument(
        "--compile", action="store_true", help="only compile what the plans launch; needs no GPU"
    )
    args = options.parse_args()
    if args.rounds < 1:
        raise UserError("--rounds must be 1 or more")
    if args.compile:
        return bool(compile_plans({name: CASES[name] for name in args.case}))
    if args.plans:
        write(plans(args.case), out_folder(args.out, args.dry_run) / "plans.json")
        return 0
    command = begin("steps", args)
    if not args.dry_run:
        compile_plans(
            {name: CASES[name] for name in args.case}, command.result["device"]["capability"]
        )
    measure(args.case, command.result, command.save, args, command.left)
    command.save()
    print(our_table(command.result, load_plans()), their_table(command.result), sep="\n")
    missing = failures(command.result, args)
    print(f"{command.path}; {len(missing)} not measured", *missing, sep="\n  ")
    return bool(missing)


if __name__ == "__main__":
    as_program(main)
