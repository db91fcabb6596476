"""The references run on CuPy arrays without mixing them with NumPy arrays.

benchmarks/kernels/__main__.py runs them so for large cases. This test needs no GPU: its arrays are
NumPy's, but refuse the operands that CuPy arrays refuse.
"""

from dataclasses import replace
from types import SimpleNamespace as Names

import numpy as np
import pytest

from benchmarks.kernels import rows as kernel_rows
from rawgan import backend
from rawgan.kernels import all_specs


class Strict(np.ndarray):
    """Array that neither computes with, accepts nor converts to a NumPy array."""

    __module__ = "cupy"

    def __array_ufunc__(self, ufunc, method, *arguments, out=(), **keywords):
        refuse(ufunc.__name__, arguments, out)
        keywords |= {"out": tuple(a.view(np.ndarray) for a in out)} if out else {}
        result = getattr(ufunc, method)(
            *(a.view(np.ndarray) if isinstance(a, Strict) else a for a in arguments), **keywords
        )
        return out[0] if out else strict(result)

    def __array_function__(self, f, types, arguments, keywords):
        refuse(f.__name__, arguments, keywords.values())
        return strict(super().__array_function__(f, types, arguments, keywords))

    def __setitem__(self, key, value):
        refuse("an assignment", [key, value])
        super().__setitem__(key, value)

    def __getitem__(self, key):
        refuse("an index", [key])
        return strict(super().__getitem__(key))


def refuse(operation, *arguments):
    """Raise TypeError if any argument is a NumPy array; numbers are accepted."""
    for a in arguments:
        if isinstance(a, np.ndarray) and not isinstance(a, Strict) and a.ndim:
            raise TypeError(f"{operation} of an array of NumPy's")
        if not isinstance(a, np.ndarray | str) and hasattr(a, "__iter__"):
            refuse(operation, *a)


def strict(result):
    if isinstance(result, tuple | list):
        return type(result)(map(strict, result))
    return (
        np.asarray(result).view(Strict) if isinstance(result, np.ndarray | np.generic) else result
    )


class StrictModule:
    """Stand-in for the part of CuPy that the references use."""

    fuse = staticmethod(lambda f: f)  # equal values, without fusion into one kernel
    lib = Names(
        stride_tricks=Names(
            as_strided=lambda x, *layout: strict(
                np.lib.stride_tricks.as_strided(x.view(np.ndarray), *layout)
            )
        )
    )

    def __getattr__(self, name):
        f = getattr(np, name)
        if isinstance(f, type) or not callable(f):
            return f
        return lambda *arguments, **keywords: strict(f(*arguments, **keywords))

    def array(self, a):
        return np.array(a, subok=False).view(Strict)


def test_the_arrays_are_strict():
    a, b = StrictModule().array(np.ones(3)), np.ones(3)
    for wrong in (
        lambda: a + b,
        lambda: np.concatenate([a, b]),
        lambda: a.__setitem__(..., b),
        lambda: a[b.astype(int)],
    ):
        with pytest.raises(TypeError, match="of an array of NumPy's"):
            wrong()
    assert isinstance(a.sum() + a[0], Strict)


@pytest.mark.parametrize("name", all_specs())
def test_a_reference_stays_on_the_gpu(name, monkeypatch):
    spec, xp = all_specs()[name], StrictModule()
    monkeypatch.setattr(backend, "_cupy", lambda: (xp, ""))
    monkeypatch.setattr(kernel_rows, "SMALL", 0)
    monkeypatch.setitem(all_specs(), name, replace(spec, benchmarks=spec.cases))
    for case in range(len(spec.cases)):
        call = kernel_rows.Call(kernel_rows.Row(name, spec.dtypes[0], case), xp)
        assert all(isinstance(a, Strict) for a in call.outputs(spec.reference, call.widened()))
