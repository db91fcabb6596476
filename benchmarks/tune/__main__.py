"""Measure the configuration of every GEMM launch of the benchmark steps, and write the table.

    python -m benchmarks.tune                     on a GPU, within --minutes; the most valuable
                                                  launches first
    python -m benchmarks.tune --precision bf16    some precisions, or --case, of the steps
    python -m benchmarks.tune --dry-run           without a GPU: lists the launches, compiles the
                                                  rule's choice and the first --candidates of each
                                                  implementation for sm_90, and checks them in
                                                  Triton's interpreter at a reduced size; measures
                                                  nothing

The launches come from the plans of benchmarks/steps/cases.py (launches.py), their candidates from
candidates.py. Worker processes compile them into Triton's cache meanwhile. A candidate is compared
with float64 (problem.py) and timed only if it is right: in a CUDA graph of 20 launches, operands
in the L2 cache as in a step, and by itself with an empty cache. The fastest in the graph is chosen;
partial sums that the optimizer adds cost their bytes at the rate of a copy.

The table, kernels/configs/sm_<capability>.toml or --table, and the JSON result with every
measurement are written after each launch, so that an interrupted sweep leaves what it has. Entries
of launches that were not reached stay as they were. At the end whole steps are timed with the
configurations of the rule and with the table, in the time that is left.
"""

import os
import sys
from pathlib import Path

from benchmarks.common.facts import as_program


def main() -> int:
    if "--dry-run" in sys.argv:  # before anything imports Triton
        os.environ["TRITON_INTERPRET"] = "1"
    from benchmarks.common.command import add_choices, begin, parser
    from benchmarks.steps.cases import CASES
    from benchmarks.tune.sweep import Sweep
    from rawgan.precision import PRECISIONS

    options = parser(__doc__, minutes=7)
    add_choices(options, "--case", CASES, "CASE")
    add_choices(options, "--precision", ["bf16", "tf32", "bf16x3", "fp32"], "PRECISION")
    assert set(PRECISIONS) == {"bf16", "tf32", "bf16x3", "fp32"}
    options.add_argument(
        "--candidates",
        type=int,
        help="the most of each implementation, besides the rule's (default: all; of a dry run 1)",
    )
    options.add_argument("--table", type=Path, help="the file of the table")
    args = options.parse_args()
    return Sweep(begin("tune", args), args).run()


if __name__ == "__main__":
    as_program(main)
