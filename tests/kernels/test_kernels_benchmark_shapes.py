"""Every kernel at its benchmark shapes with a batch of 4, in Triton's interpreter.

All sizes but the batch are those of training. The worker, which prints the errors as JSON:

    TRITON_INTERPRET=1 python tests/kernels/test_kernels_benchmark_shapes.py SPEC ...

On a GPU benchmarks/kernels/correctness.py checks the full shapes.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kernels.rows import Call, Row
from rawgan.kernels import all_specs
from rawgan.kernels.specs.testing import mend_interpreter
from tests.support.process import run_process

HERE = Path(__file__).parent
SAMPLES, VALUES = 4, 2**18
WHOLE = {
    "linear",
    "linear_dx",
    "linear_dw",
}  # unchanged: matrix products whose batch is a GEMM dimension


def reduced(name: str, case: dict) -> dict:
    """Return a benchmark case with few samples.

    N is reduced for matrix products and convolutions, else the first axis of a shape or n of a
    vector.
    """
    if name in WHOLE:
        return case
    small = {"N": SAMPLES, "M": SAMPLES, "n": VALUES, "images": 64}
    case = {key: min(value, small[key]) if key in small else value for key, value in case.items()}
    if "shape" in case:
        case["shape"] = (min(case["shape"][0], SAMPLES), *case["shape"][1:])
    if "shapes" in case:
        case["shapes"] = tuple((min(shape[0], SAMPLES), *shape[1:]) for shape in case["shapes"])
    if "real" in case:
        case["real"] = min(case["real"], SAMPLES // 2)
    if case.get("fake"):
        case["fake"] = 1
    if "parts" in case:
        case["parts"] = [
            (start, min(size, VALUES), first, partials)
            for start, size, first, partials in case["parts"]
        ]
    return case


def worker(*names: str) -> dict[str, str]:
    mend_interpreter()
    wrong = {}
    for name in names:
        spec = all_specs()[name]
        all_specs()[name] = replace(
            spec, benchmarks=tuple(reduced(name, case) for case in spec.benchmarks)
        )
        for dtype in [dtype for dtype in ("float32", "bfloat16") if dtype in spec.dtypes]:
            for case in range(len(spec.benchmarks)):
                row = Row(name, dtype, case)
                try:
                    Call(row, np).check()
                except Exception as error:
                    wrong[str(row)] = f"{type(error).__name__}: {error}"
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", all_specs())
def test_benchmark_shapes(name):
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parents[1]),
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "1",
    }
    done = run_process([sys.executable, __file__, name], env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_cases_are_reduced():
    """Every benchmark case can be reduced to few samples; other dimensions stay unchanged."""
    for name, spec in all_specs().items():
        for case in spec.benchmarks:
            small = reduced(name, case)
            args, _ = spec.make(lambda *shape, dtype="float32": np.zeros(shape, dtype), **small)
            assert max(a.size for a in args if hasattr(a, "size")) < 2**25, (name, small)
            assert all(
                small[key] == case[key]
                for key in ("H", "W", "C", "K", "R", "z", "row")
                if key in case and name != "linear"
            )


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:])))
