"""A profile of our planned steps: what each of their launches takes, and what is left to gain, into steps_<device>.json.

    python -m benchmarks.step_profile
    python -m benchmarks.step_profile --case "dcgan 64x64x3" --precision bf16

Every launch of the plan is timed between two events, in the order of the step, so that the step really trains; before each the L2
cache is emptied, as in benchmarks/timing.py. In a step some of what a kernel reads lies in the cache still, so the sum is more than
the step takes. The floor of a launch is the longer of two times at the limits measured by benchmarks/ceilings.py: of its arrays,
each moved once, and of its FLOPs. What is summed up per kernel is the median of each launch.
"""

import argparse
import time
from pathlib import Path
from statistics import median

from benchmarks.facts import RESULTS, as_program, begun, facts, write
from benchmarks.roofline import PRECISIONS as RATES
from benchmarks.step_cases import CASES
from benchmarks.step_worker import why
from benchmarks.timing import CupyClock
from benchmarks.timing import launch as timed
from rawgan.backend import address, choose_device
from rawgan.kernels.launch import Launch
from rawgan.planned import PRECISIONS

NAMES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16"}  # of roofline.py


def flops(launch: Launch) -> int:
    """Of a launch that is a product, from the constants it was compiled with; 0 for others."""
    sizes = launch.constants
    for form in (("N", "P", "Q", "K", "R", "S", "C"), ("M", "N", "K")):
        if all(name in sizes for name in form):
            total = 2
            for name in form:
                total *= sizes[name]
            return total
    return 2 * sizes["N"] * sizes["SIZE"] if launch.name == "head_kernel" else 0


def moved(launch: Launch) -> int:
    """The bytes of its arrays, each once."""
    return sum({(address(a), a.nbytes): a.nbytes for a in launch.arrays}.values())


def floor_us(launch: Launch, precision: str, ceilings: dict) -> float | None:
    """What a launch takes at least; None where a limit was not measured."""
    _, ceiling, products = RATES[NAMES[precision]]
    copy, rate = (ceilings.get(name, {}).get("per_second") for name in ("copy", ceiling))
    return 1e6 * max(moved(launch) / copy, products * flops(launch) / rate) if copy and rate else None


def profile(launches: list[Launch], precision: str, ceilings: dict, clock, rounds: int = 12) -> dict:
    """Microseconds of each launch, with its floor; and summed up per kernel, what takes longest first."""
    times = [[] for _ in launches]
    for n in range(rounds + 2):
        pairs = [timed(clock, one)[0] for one in launches]
        if n >= 2:  # after two for warming up
            for measured, pair in zip(times, pairs):
                measured.append(clock.microseconds(*pair))
    rows = [
        {"kernel": one.name, "programs": one.grid, "us": round(median(us), 2), "floor_us": floor_us(one, precision, ceilings)}
        for one, us in zip(launches, times)
    ]
    total, kernels = sum(row["us"] for row in rows), {}
    for row in rows:
        kernels.setdefault(row["kernel"], []).append(row)
    summed = [summary(name, group, total) for name, group in kernels.items()]
    return {"us": round(total, 2), "kernels": sorted(summed, key=lambda row: -row["us"]), "launches": rows}


def summary(name: str, rows: list[dict], total: float) -> dict:
    us, floors = sum(row["us"] for row in rows), [row["floor_us"] for row in rows]
    floor = None if None in floors else round(sum(floors), 2)
    share = {"share": round(us / total, 4), "of_floor": floor and round(floor / us, 4)}
    return {"kernel": name, "launches": len(rows), "us": round(us, 2), "floor_us": floor, **share}


def table(profiles: dict, least: float = 0.0) -> str:
    """Which kernel takes what share, as Markdown; those with a share of at least `least`."""
    lines = ["| step | kernel | launches | time, us | share | of the floor |", "|---|---|---|---|---|---|"]
    for name, precisions in profiles.items():
        for precision, found in precisions.items():
            for row in (row for row in found.get("kernels", []) if row["share"] >= least):
                floor = f"{100 * row['of_floor']:.0f} %" if row["of_floor"] else "not measured"
                cells = [
                    f"{name}, {precision}",
                    row["kernel"],
                    str(row["launches"]),
                    f"{row['us']:.1f}",
                    f"{100 * row['share']:.0f} %",
                ]
                lines.append("| " + " | ".join([*cells, floor]) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bf16", "tf32"])
    parser.add_argument("--minutes", type=float, default=5, help="what begins later is left out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the file")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    args = parser.parse_args()
    deadline, wrong = time.monotonic() + 60 * args.minutes, 0
    clock, device = CupyClock(), choose_device("gpu")
    result, path = begun("steps", facts(clock.device(), args.commit), args.out)
    for name in args.case:
        for precision in args.precision:
            try:
                if time.monotonic() > deadline:
                    raise TimeoutError("no time was left")
                case = CASES[name]
                step = case.plan(precision, device, images=case.reals * case.batch)  # as many as a step reads
                found = profile(step.plan.launches, precision, result.get("ceilings", {}), clock)
            except Exception as error:
                found = why(error)
                wrong += "failed" in found
            result.setdefault("profile", {}).setdefault(name, {})[precision] = found
            write(result, path)
            print(name, precision, found.get("us") or found["not_measured"], flush=True)
    print(table(result["profile"]))
    return bool(wrong)


if __name__ == "__main__":
    as_program(main)
