"""Profile GAN.train_step on CuPy arrays, layer by layer, into steps_<device>.json.

    python -m benchmarks.steps.array_profile

    step_us      a step as in training: the host launches, the GPU runs asynchronously
    host_us      host time to launch it; close to step_us if the step is launch-bound
    launches     kernels, copies and fills that reach the GPU from any library in the process,
                 counted by PyTorch's profiler
    gpu_us       the sum of their times on the GPU
    layers       for each kind of layer and pass: calls, host time to launch them, and how long the
                 GPU computes after that

The layers are measured with a synchronisation around each call, so their sum exceeds the time of a
step. host_us / launches is the cost of a launch on this host.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks.common.command import begin, parser
from benchmarks.common.facts import as_program
from benchmarks.common.worker import why
from benchmarks.steps.cases import CASES
from rawgan.backend import Device
from rawgan.data import Images
from rawgan.gan import GAN
from rawgan.layers import leaves
from rawgan.random import Random
from rawgan.training.prefetch import Feed

PASSES = ("forward", "backward", "double_backward")
Synchronize = Callable[[], object]


@contextmanager
def timed_layers(
    gan: GAN, synchronize: Synchronize
) -> Iterator[dict[str, list[tuple[float, float]]]]:
    """Time every pass of every layer and both optimizers inside the with statement.

    Yields {kind and pass: [(host us, GPU us after it)]}.
    """
    calls: dict[str, list[tuple[float, float]]] = {}
    wrapped = []

    def wrap(owner, method: str, name: str) -> None:
        function = getattr(owner, method)

        def measured(*args, **options):
            synchronize()
            start = time.perf_counter()
            result = function(*args, **options)
            launched = time.perf_counter()
            synchronize()
            times = (1e6 * (launched - start), 1e6 * (time.perf_counter() - launched))
            calls.setdefault(name, []).append(times)
            return result

        setattr(owner, method, measured)
        wrapped.append((owner, method))

    for net in (gan.generator, gan.discriminator):
        for _, leaf in leaves(net):
            for method in PASSES:
                wrap(leaf, method, f"{type(leaf).__name__}, {method}")
    for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
        wrap(optimizer, "step", f"{type(optimizer).__name__}, step")
    try:
        yield calls
    finally:
        for owner, method in wrapped:
            delattr(owner, method)


def summed(calls: dict[str, list[tuple[float, float]]], steps: int) -> list[dict]:
    """Return a row for each kind of layer and pass, per step, longest first."""
    rows = [
        {
            "layer": name,
            "calls": len(times) / steps,
            "host_us": round(sum(host for host, _ in times) / steps, 1),
            "gpu_us": round(sum(after for _, after in times) / steps, 1),
        }
        for name, times in calls.items()
    ]
    return sorted(rows, key=lambda row: -row["host_us"] - row["gpu_us"])


def times(step: Callable[[], object], synchronize: Synchronize, steps: int) -> dict[str, float]:
    """Return the median microseconds of a step, and of its launches only."""
    samples = []
    for _ in range(steps):
        synchronize()
        start = time.perf_counter()
        step()
        host = time.perf_counter() - start
        synchronize()
        samples.append((1e6 * (time.perf_counter() - start), 1e6 * host))
    return {
        name: round(median(column), 1)
        for name, column in zip(("step_us", "host_us"), zip(*samples))
    }


def activities(step: Callable[[], object], synchronize: Synchronize) -> dict:
    """Return what a step starts on the GPU, from PyTorch's profiler.

    The profiler records the launches of all libraries in the process.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.init()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        synchronize()
    events = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return counted([(event.name, event.time_range.elapsed_us()) for event in events])


def counted(events: list[tuple[str, float]]) -> dict:
    """Return the number of (name, microseconds) events, their sum, and the names that take longest.

    Raises ValueError without events.
    """
    if not events:
        raise ValueError("the profiler saw nothing on the GPU")
    names: dict[str, list[float]] = {}
    for name, us in events:
        names.setdefault(name, []).append(us)
    longest = sorted(names.items(), key=lambda item: -sum(item[1]))[:20]
    rows = [{"kernel": name, "launches": len(us), "us": round(sum(us), 1)} for name, us in longest]
    return {
        "launches": len(events),
        "gpu_us": round(sum(us for _, us in events), 1),
        "kernels": rows,
    }


def profile_case(name: str, device: Device, dry: bool, steps: int) -> dict:
    """Return the profile of a case's step on arrays."""
    case = CASES[name].tiny if dry else CASES[name]
    gan, recipe = case.build(device), case.system
    images, labels = case.data(4 * case.batch)
    feed = Feed(recipe, Images(images, labels, "noise", "", ""), case.batch, Random(3), device)
    inputs = feed.step(1000)

    def step():
        gan.train_step(*inputs)

    synchronize = (
        device.xp.cuda.get_current_stream().synchronize if device.name == "gpu" else (lambda: None)
    )
    for _ in range(3):  # CuPy compiles its kernels
        step()
    row = times(step, synchronize, steps)
    try:
        row["activities"] = (
            {"not_measured": "a dry run has no GPU"} if dry else activities(step, synchronize)
        )
        if "launches" in row["activities"]:
            row["host_us_of_a_launch"] = round(row["host_us"] / row["activities"]["launches"], 2)
    except Exception as error:
        row["activities"] = why(error)
    with timed_layers(gan, synchronize) as calls:
        for _ in range(steps):
            step()
    return row | {"layers": summed(calls, steps)}


def table(profiles: dict) -> str:
    """Return the profiles as Markdown."""
    lines = []
    for name, profile in profiles.items():
        if "not_measured" in profile:
            lines += [f"{name}: {profile['not_measured']}", ""]
            continue
        lines.append(
            f"{name}: a step {profile['step_us']} us, launched in {profile['host_us']} us."
        )
        seen = profile["activities"]
        if "launches" in seen:
            lines.append(
                f"{seen['launches']} launches, {seen['gpu_us']} us on the GPU; "
                f"the host takes {profile['host_us_of_a_launch']} us for each."
            )
            lines += ["", "| kernel | launches | us |", "|---|---|---|"]
            lines += [
                f"| {r['kernel'][:60]} | {r['launches']} | {r['us']} |" for r in seen["kernels"]
            ]
        else:
            lines.append(f"Launches: {seen['not_measured']}.")
        lines += [
            "",
            "| layer, pass | calls | host, us | GPU after it, us |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {r['layer']} | {r['calls']:g} | {r['host_us']} | {r['gpu_us']} |"
            for r in profile["layers"]
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Profile the cases, writing each at once; return 1 if one failed."""
    options = parser(__doc__, minutes=1)
    options.add_argument(
        "--case", nargs="+", choices=CASES, default=["dcgan 64x64x3"], metavar="CASE"
    )
    args = options.parse_args()
    command = begin("steps", args)
    profiles = command.result.setdefault("arrays", {})
    for name in args.case:
        try:
            if command.left() < 0:
                raise TimeoutError("no time was left")
            profiles[name] = profile_case(
                name, command.device, args.dry_run, 2 if args.dry_run else 10
            )
        except Exception as error:
            profiles[name] = why(error)
        command.save()
    print(table(profiles))
    failed = [
        profile
        for profile in profiles.values()
        if "failed" in profile or "failed" in profile["activities"]
    ]
    return bool(failed)


if __name__ == "__main__":
    as_program(main)
