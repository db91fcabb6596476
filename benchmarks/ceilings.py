"""The limits of the GPU, measured, into steps_<device>.json: a copy, the vendor's matrix products, a node of a CUDA graph.

    python -m benchmarks.ceilings

The node is the smallest kernel there is here, ReLU of one block, 500 times in a graph: what a launch costs at least, however short.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.facts import RESULTS, as_program, begun, facts, write
from benchmarks.step_worker import why
from benchmarks.timing import CupyClock, ceilings, measure
from rawgan.kernels import kernels, launch
from rawgan.kernels.plan import Plan

NODES = 500


def node(clock) -> dict:
    """Microseconds of one node, by events around a graph of them."""
    x = clock.xp.zeros(256, np.float32)
    with launch.record(dry=True) as recording:
        for _ in range(NODES):
            x = kernels.relu(x)
    plan = Plan(recording)
    stream = clock.xp.cuda.Stream(non_blocking=True)
    graph = plan.capture()
    with stream:
        found = measure(clock, partial(graph.launch, stream))
    return {name: found[name] / NODES if name.endswith("_us") else found[name] for name in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the file")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    args = parser.parse_args()
    clock = CupyClock()
    result, path = begun("steps", facts(clock.device(), args.commit), args.out)
    result["ceilings"] = ceilings(clock)
    write(result, path)
    try:
        result["ceilings"]["node"] = node(clock)
    except Exception as error:
        result["ceilings"]["node"] = why(error)
    write(result, path)
    print(*(f"{name}: {cell}" for name, cell in result["ceilings"].items()), sep="\n")
    return any("not_measured" in cell for cell in result["ceilings"].values())


if __name__ == "__main__":
    as_program(main)
