"""The GEMM launches of the benchmark steps by the key of their configuration, and their value.

A launch's time is modelled as the larger of its FLOPs and its bytes at what an H200 measured, and
START for its start and its ends.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import product
from math import prod
from typing import NamedTuple

from benchmarks.steps.cases import CASES
from rawgan.kernels.gemm_table import GemmKey
from rawgan.kernels.runtime import launch

# Measured on an H200: FLOP/s by products, bytes/s of a copy, seconds of a launch without work
RATES = {"bfloat16": 800e12, "float16": 800e12, "tf32": 379e12}
RATES |= {"bf16x3": RATES["bfloat16"] / 3, "tf32x3": RATES["tf32"] / 3}
COPY, START = 4.25e12, 5e-6


class Wanted(NamedTuple):
    """A key with the steps that launch it: {(case, precision): launches in a step}."""

    key: GemmKey
    uses: dict[tuple[str, str], int]

    @property
    def us(self) -> float:
        """Return the modelled microseconds of the launch in all of its steps."""
        return sum(self.uses.values()) * modelled_us(self.key)


def collect(
    cases: Iterable[str], precisions: Iterable[str], capability: int, multiprocessors: int
) -> tuple[list[Wanted], Counter]:
    """Return the launches of the cases that have a key, the most valuable first.

    Also {(case, precision, "all" or "GEMMs"): launches in a step}. Nothing is launched: the steps
    are planned on such a GPU.
    """
    uses: dict[GemmKey, Counter] = {}
    counts: Counter = Counter()
    for name, precision in product(cases, precisions):
        case = CASES[name]
        with launch.compile_only(capability, multiprocessors):
            plan = case.plan(precision, images=1).plan
        for entry in plan.sequence(case.reals if plan.repeated else 1):
            counts[name, precision, "all"] += 1
            if key := getattr(entry, "key", None):
                counts[name, precision, "GEMMs"] += 1
                uses.setdefault(key, Counter())[name, precision] += 1
    wanted = [Wanted(key, dict(by_step)) for key, by_step in uses.items()]
    return sorted(wanted, key=lambda w: (-w.us, str(w.key))), counts


def modelled_us(key: GemmKey) -> float:
    """Return the modelled microseconds of one launch."""
    s = dict(key.sizes)
    itemsize = 2 if key.products in ("bfloat16", "float16") else 4
    if "R" in s:
        pixels, taps = s["N"] * s["P"] * s["Q"], s["R"] * s["S"]
        flops = 2 * pixels * s["K"] * taps * s["C"]
        values = prod(s[a] for a in "NHWC") + pixels * s["K"] + s["K"] * taps * s["C"]
    else:
        flops = 2 * s["N"] * s["C"] * s["K"]
        values = s["N"] * (s["C"] + s["K"]) + s["C"] * s["K"]
    return 1e6 * (START + max(flops / RATES[key.products], itemsize * values / COPY))
