"""A wrapper refuses arrays that do not fit together, or computes what its reference computes.

Each array of a Spec's cases in turn gets another shape: one axis longer or shorter by one, or an
axis more. Where the reference raises an error, the wrapper has to raise ValueError or TypeError;
where it does not, the wrapper may. The interpreter accesses only the arrays of a launch. The
worker, which prints what is wrong as JSON:

    TRITON_INTERPRET=1 python tests/kernels/test_kernels_shapes.py SPEC ...
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rawgan.kernels import all_specs, kernels
from rawgan.kernels.act import tanh_dx
from rawgan.kernels.runtime import launch
from rawgan.kernels.specs.spec import Spec
from rawgan.kernels.specs.testing import mend_interpreter
from tests.support.kernel_worker import Bounds, arrays, float64, run_case

HERE = Path(__file__).parent
FEW, MANY = 1500, 20_000  # values of all arrays of a case


def other_shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes that differ from this one in one axis, none of them empty."""
    for axis, size in enumerate(shape):
        for other in {max(size - 1, 1), size + 1} - {size}:
            yield (*shape[:axis], other, *shape[axis + 1 :])
    yield (*shape, 2)


def change(key, shape: tuple[int, ...], integers: bool):
    """Return a function that gives one of (args, options) another shape, by repeating its values.

    key: the index of a positional argument or the name of an option. Without `integers` all
    integers are 0, which is a class or an image of any number of them.
    """

    def limited(a):
        return a if integers or not hasattr(a, "dtype") or a.dtype.kind == "f" else a * 0

    def changed(args, options):
        args, options = [*map(limited, args)], {name: limited(a) for name, a in options.items()}
        of = args if isinstance(key, int) else options
        of[key] = np.resize(of[key], shape)
        return tuple(args), options

    return changed


def outcome(spec: Spec, case: dict, key, shape) -> str | None:
    """Return what is wrong with the wrapper when one array has another shape, or None."""
    dtype = spec.dtypes[0]
    changed = change(key, shape, spec.name in ("adam", "rmsprop"))  # which divide by the step
    try:
        args, options = changed(*spec.make(arrays(dtype), **case))
        with launch.record(dry=True):
            spec.wrapper(*args, **options)
    except (ValueError, TypeError):
        return None
    except Exception as error:
        return f"{type(error).__name__} in the place of ValueError: {error}"
    try:
        spec.reference(*map(float64, args), **{name: float64(a) for name, a in options.items()})
    except Exception as error:
        return f"the reference refuses it: {error}"
    try:
        result = run_case(np, spec, case, dtype, changed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for i, (got, want, allowed) in enumerate(
        zip(result["got"], result["want"], result["allowed"], strict=True)
    ):
        if got.shape != np.shape(want) or not (abs(got - want) <= allowed).all():
            return f"output {i} is wrong"
    return "a store outside an array" if result["stray_stores"] else None


def small_cases(spec: Spec) -> list[dict]:
    """Return the cases of FEW values, the first if it has not too MANY, and the smallest."""

    def size(case):
        args, options = spec.make(arrays(spec.dtypes[0]), **case)
        return sum(a.size for a in (*args, *options.values()) if hasattr(a, "dtype"))

    sizes = [size(case) for case in spec.cases]
    most = [MANY, *[FEW] * len(sizes)]
    return [case for case, n, limit in zip(spec.cases, sizes, most) if n <= max(limit, min(sizes))]


def accepted(spec: Spec) -> list[str]:
    """Return one line for each array and shape that the wrapper should have refused."""
    wrong = []
    for case in small_cases(spec):
        args, options = spec.make(arrays(spec.dtypes[0]), **case)
        named = {**dict(enumerate(args)), **options}
        for key, a in named.items():
            for shape in other_shapes(a.shape) if hasattr(a, "dtype") else ():
                if error := outcome(spec, case, key, shape):
                    wrong.append(
                        f"{spec.name} {case}, argument {key} {a.shape} as {shape}: {error}"
                    )
    return wrong


UNCHECKED = replace(
    all_specs()["tanh_dx"],
    name="unchecked",
    wrapper=lambda dy, y: tanh_dx(dy.reshape(-1)[: y.size].reshape(y.shape), y),
)


def worker(*names: str) -> dict[str, list[str]]:
    mend_interpreter()
    Bounds()
    known = all_specs() | {"unchecked": UNCHECKED}
    return {name: accepted(known[name]) for name in names}


@pytest.fixture(scope="module")
def wrong(request):
    """Return the worker's results for the Specs whose tests were selected."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and "wrong" in item.fixturenames
    }
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parents[1]),
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__, *sorted(names)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The values of its table tell which parts of theta and g it reads
OF_A_TABLE = ("sum_partials",)


@pytest.mark.parametrize("name", [name for name in all_specs() if name not in OF_A_TABLE])
def test_arrays_that_do_not_fit_are_refused(wrong, name):
    assert wrong[name] == []


@pytest.mark.parametrize("name", ["unchecked"])
def test_a_wrapper_without_checks_shows(wrong, name):
    """dy with more values than y: the wrapper takes the first of them, the formula raises."""
    assert any("argument 0" in line and "the reference refuses it" in line for line in wrong[name])


def test_a_table_of_partials_has_five_columns():
    theta, table = np.zeros(4, np.float32), np.zeros((1, 4), np.int32)
    with pytest.raises(ValueError, match=r"do not fit: \(1, 4\) is not \(1, 5\)"):
        kernels.sum_partials(theta, theta, table)


def test_other_shapes():
    assert sorted(other_shapes((1, 3))) == [(1, 2), (1, 3, 2), (1, 4), (2, 3)]


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:])))
