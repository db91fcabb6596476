"""Measure the GPU's limits into steps_<device>.json: copy, matrix products, one CUDA graph node.

    python -m benchmarks.kernels.ceilings

The node is the smallest kernel, ReLU on one block, 500 times in a graph: the least time of a
launch, however little it computes. The matrix products are cuBLAS'.
"""

from functools import partial

import numpy as np

from benchmarks.common.command import begin, parser
from benchmarks.common.facts import as_program
from benchmarks.common.timing import CupyClock, HostClock, ceilings, measure
from benchmarks.common.worker import why
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.memory_plan import Plan

NODES = 500


def node(clock) -> dict:
    """Return the microseconds of one graph node, by events around a graph of NODES of them."""
    x = clock.xp.zeros(256, np.float32)
    with launch.record(dry=True) as recording:
        for _ in range(NODES):
            x = kernels.relu(x)
    plan = Plan(recording)
    stream = clock.xp.cuda.Stream(non_blocking=True)
    graph = plan.capture()
    with stream:
        times = measure(clock, partial(graph.launch, stream))
    return {name: times[name] / NODES if name.endswith("_us") else times[name] for name in times}


def main() -> int:
    """Measure every limit, writing each at once; return 1 if one failed."""
    args = parser(__doc__).parse_args()
    command = begin("steps", args)
    clock = HostClock() if args.dry_run else CupyClock()
    cells = command.result["ceilings"] = ceilings(clock)
    command.save()
    try:
        cells["node"] = (
            {"not_measured": "a dry run has no CUDA graph"} if args.dry_run else node(clock)
        )
    except Exception as error:
        cells["node"] = why(error)
    command.save()
    print(*(f"{name}: {cell}" for name, cell in cells.items()), sep="\n")
    return any(
        "not_measured" in cell
        for name, cell in cells.items()
        if not (args.dry_run and name == "node")
    )


if __name__ == "__main__":
    as_program(main)
