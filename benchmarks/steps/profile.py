"""Profile of our planned steps: time and floor of each kernel launch, into steps_<device>.json.

    python -m benchmarks.steps.profile
    python -m benchmarks.steps.profile --case "dcgan 64x64x3" --precision bf16

Every launch of the plan is timed between two events, in the order of the step, so that the step
really trains; the L2 cache is flushed before each, as in benchmarks/common/timing.py. Within a
step some inputs of a kernel are still in the cache, so the sum exceeds the time of a step. The
floor of a launch is the larger of two times, at the limits measured by
benchmarks/kernels/ceilings.py: that of its arrays, each moved once, and that of its FLOPs. The
sums per kernel are sums of the medians of its launches.
"""

from statistics import median

from benchmarks.common.command import add_choices, begin, parser
from benchmarks.common.facts import as_program
from benchmarks.common.timing import CupyClock, HostClock
from benchmarks.common.timing import launch as timed
from benchmarks.common.worker import why
from benchmarks.kernels.roofline import PRECISIONS as RATES
from benchmarks.steps.cases import CASES
from rawgan.backend import address
from rawgan.kernels.runtime.launch import Launch, arrays
from rawgan.precision import PRECISIONS

# Names in roofline.py
NAMES = {"fp32": "float32", "bf16x3": "bf16x3", "tf32": "tf32", "bf16": "bfloat16"}


def flops(launch: Launch) -> int:
    """Return the FLOPs of a matrix product, a convolution or D's last layer; 0 for other kernels.

    A convolution computes, or reads as dy, N P Q K values of R S C products each.
    """
    sizes = launch.constants
    if all(name in sizes for name in "RSC"):
        arguments = dict(zip(launch.kernel.arg_names, launch.arguments))
        outputs = (arguments.get(name) for name in ("dy_desc", "dy_ptr", "y_desc", "y_ptr"))
        (output,) = arrays([output for output in outputs if output is not None])
        return 2 * output.size * sizes["R"] * sizes["S"] * sizes["C"]
    if all(name in sizes for name in "MNK"):
        return 2 * sizes["M"] * sizes["N"] * sizes["K"]
    if launch.name == "head_gradient_kernel":  # the input gradient, and the weight gradient of x
        x = dict(zip(launch.kernel.arg_names, launch.arguments))["x_ptr"]
        values = sizes["GROUPS"] * sizes["SAMPLES"] * sizes["PIXELS"] * sizes["WIDTH"]
        return 2 * values * (1 if x is None else 2)
    return 2 * sizes["N"] * sizes["SIZE"] if launch.name == "discriminator_head_kernel" else 0


def moved(launch: Launch) -> int:
    """Return the bytes of a launch's arrays, each counted once."""
    return sum({(address(a), a.nbytes): a.nbytes for a in launch.arrays}.values())


def floor_us(launch: Launch, precision: str, ceilings: dict) -> float | None:
    """Return the least microseconds of a launch; None if a limit was not measured."""
    _, ceiling, products = RATES[NAMES[precision]]
    copy, rate = (ceilings.get(name, {}).get("per_second") for name in ("copy", ceiling))
    return (
        1e6 * max(moved(launch) / copy, products * flops(launch) / rate) if copy and rate else None
    )


def profile(
    launches: list[Launch],
    precision: str,
    ceilings: dict,
    clock,
    rounds: int = 12,
    warm_up: int = 2,
) -> dict:
    """Return the microseconds and floor of each launch, and sums per kernel, longest first."""
    times = [[] for _ in launches]
    for n in range(rounds + warm_up):
        pairs = [timed(clock, one)[0] for one in launches]
        if n >= warm_up:
            for measured, pair in zip(times, pairs):
                measured.append(clock.microseconds(*pair))
    rows = [
        {
            "kernel": one.name,
            "programs": one.grid,
            "us": round(median(us), 2),
            "floor_us": floor_us(one, precision, ceilings),
        }
        for one, us in zip(launches, times)
    ]
    total, kernels = sum(row["us"] for row in rows), {}
    for row in rows:
        kernels.setdefault(row["kernel"], []).append(row)
    summed = [summary(name, group, total) for name, group in kernels.items()]
    return {
        "us": round(total, 2),
        "kernels": sorted(summed, key=lambda row: -row["us"]),
        "launches": rows,
    }


def summary(name: str, rows: list[dict], total: float) -> dict:
    us, floors = sum(row["us"] for row in rows), [row["floor_us"] for row in rows]
    floor = None if None in floors else round(sum(floors), 2)
    share = {"share": round(us / total, 4), "of_floor": floor and round(floor / us, 4)}
    return {"kernel": name, "launches": len(rows), "us": round(us, 2), "floor_us": floor, **share}


def table(profiles: dict, least: float = 0.0) -> str:
    """Return a Markdown table of the kernels whose share is at least `least`."""
    lines = [
        "| step | kernel | launches | time, us | share | of the floor |",
        "|---|---|---|---|---|---|",
    ]
    for name, precisions in profiles.items():
        for precision, measured in precisions.items():
            for row in (row for row in measured.get("kernels", []) if row["share"] >= least):
                floor = (
                    f"{100 * row['of_floor']:.0f} %"
                    if row["of_floor"] is not None
                    else "not measured"
                )
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
    """Profile every case in every precision, writing each at once; return 1 if one failed."""
    options = parser(__doc__)
    add_choices(options, "--case", CASES, "CASE")
    options.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bf16", "tf32"])
    args = options.parse_args()
    command, wrong = begin("steps", args), 0
    result, clock = command.result, HostClock() if args.dry_run else CupyClock()
    for name in args.case:
        for precision in args.precision:
            try:
                if command.left() < 0:
                    raise TimeoutError("no time was left")
                case = CASES[name].tiny if args.dry_run else CASES[name]
                # the number of images that a step reads
                step = case.plan(precision, command.device, images=case.reals * case.batch)
                rounds = {"rounds": 1, "warm_up": 0} if args.dry_run else {}
                measured = profile(
                    step.plan.launches, precision, result.get("ceilings", {}), clock, **rounds
                )
            except Exception as error:
                measured = why(error)
                wrong += "failed" in measured
            result.setdefault("profile", {}).setdefault(name, {})[precision] = measured
            command.save()
            print(name, precision, measured.get("us") or measured["not_measured"], flush=True)
    print(table(result["profile"]))
    return bool(wrong)


if __name__ == "__main__":
    as_program(main)
