"""The output bits of a kernel do not depend on the order in which its programs run.

The worker, which prints the outputs that depend on the order as JSON:

    TRITON_INTERPRET=1 python tests/kernels/test_kernels_order.py SPEC ...
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import triton
import triton.language as tl

from rawgan.kernels import all_specs
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.launch import cdiv
from rawgan.kernels.specs.spec import Spec
from rawgan.kernels.specs.testing import mend_interpreter
from tests.kernels.test_kernels_coverage import axes_of, recorded
from tests.support.kernel_worker import run_case
from tests.support.process import run_process
from tests.support.program_order import ORDERS, program_order

HERE = Path(__file__).parent
DTYPES = {"float32": ORDERS} | dict.fromkeys(("bf16x3", "bfloat16"), ("plain", "shuffled"))


def several(spec: Spec, case: dict, dtype: str) -> set[str]:
    """Return the kernels that a case launches with two or more tiles along every grid axis."""
    launches = recorded(spec, case, dtype)
    return {one.name for one in launches if all(cdiv(*axis) > 1 for axis in axes_of(one).values())}


def chosen(spec: Spec, dtype: str) -> list[int]:
    """Return the indices of the cases to run.

    They are the first that launch each kernel with several tiles along every axis.
    """
    cases, seen = [], set()
    for i, case in reversed([*enumerate(spec.cases)]):  # the cases with several tiles come last
        if kernels := several(spec, case, dtype) - seen:
            cases.append(i)
            seen |= kernels
    return cases


def depends(spec: Spec, case: dict, dtype: str) -> list[str]:
    """Return the outputs of a case whose bits change with the order, as "output 2, reversed"."""
    results = {}
    for order in DTYPES[dtype]:
        with program_order(order):
            results[order] = run_case(np, spec, case, dtype)["got"]
    plain = results.pop("plain")
    return [
        f"output {i}, {order}"
        for order, got in results.items()
        for i, (a, b) in enumerate(zip(plain, got))
        if not np.array_equal(a, b, equal_nan=True)
    ]


@triton.jit
def last_writer_kernel(x_ptr, y_ptr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """y = x, with a race: every program writes y[0]."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs, mask=offs < SIZE), mask=offs < SIZE)
    tl.store(y_ptr + offs * 0, tl.program_id(0).to(tl.float32))


def last_writer(x):
    y = launch.empty(x, x.shape)
    launch.run(last_writer_kernel, (cdiv(x.size, 4),), x, y, SIZE=x.size, BLOCK=4)
    return y


WRONG = Spec(
    "last_writer",
    last_writer,
    lambda x: x,
    lambda array, n: ((array(n),), {}),
    ({"n": 10},),
    (),
    lambda *_: 0,
    lambda **_: 0,
    (),
)


def worker(*names: str) -> dict[str, list[str]]:
    mend_interpreter()
    known = all_specs() | {"last_writer": WRONG}
    differences = {}
    for name in names:
        for dtype in (dtype for dtype in DTYPES if dtype in known[name].dtypes):
            cases = chosen(known[name], dtype)
            differences |= {
                f"{name} {dtype} {i}": depends(known[name], known[name].cases[i], dtype)
                for i in cases
            }
    return differences


@pytest.fixture(scope="module")
def differences(request):
    """Return the worker's results for the Specs whose tests were selected."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if "differences" in getattr(item, "fixturenames", ())
    }
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parents[1]),
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "1",
    }
    done = run_process([sys.executable, __file__, *sorted(names)], env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", all_specs())
def test_the_order_of_programs_changes_no_bit(differences, name):
    mine = {case: wrong for case, wrong in differences.items() if case.split()[0] == name}
    assert mine and not any(mine.values()), mine


@pytest.mark.parametrize("name", ["last_writer"])
def test_a_kernel_that_depends_on_the_order_shows(differences, name):
    assert "output 0, reversed" in differences["last_writer float32 0"]


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:])))
