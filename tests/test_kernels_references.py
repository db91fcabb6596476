"""The references on CuPy arrays, as benchmarks/kernels.py runs them where a case is large: nothing there mixes with NumPy's arrays.

There is no GPU for that: the arrays are NumPy's, but refuse what CuPy's refuse.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Names

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import kernel_rows
from rawgan import backend
from rawgan.kernels import specs


class Strict(np.ndarray):
    """An array that does not compute with, take or become one of NumPy's."""

    __module__ = "cupy"

    def __array_ufunc__(self, ufunc, method, *given, out=(), **how):
        refuse(ufunc.__name__, given, out)
        how |= {"out": tuple(a.view(np.ndarray) for a in out)} if out else {}
        result = getattr(ufunc, method)(*(a.view(np.ndarray) if isinstance(a, Strict) else a for a in given), **how)
        return out[0] if out else strict(result)

    def __array_function__(self, f, types, given, how):
        refuse(f.__name__, given, how.values())
        return strict(super().__array_function__(f, types, given, how))

    def __setitem__(self, key, value):
        refuse("an assignment", [key, value])
        super().__setitem__(key, value)

    def __getitem__(self, key):
        refuse("an index", [key])
        return strict(super().__getitem__(key))


def refuse(what, *given):
    """Raises TypeError for an array of NumPy's among all that is given; numbers are fine."""
    for a in given:
        if isinstance(a, np.ndarray) and not isinstance(a, Strict) and a.ndim:
            raise TypeError(f"{what} of an array of NumPy's")
        if not isinstance(a, np.ndarray | str) and hasattr(a, "__iter__"):
            refuse(what, *a)


def strict(result):
    if isinstance(result, tuple | list):
        return type(result)(map(strict, result))
    return np.asarray(result).view(Strict) if isinstance(result, np.ndarray | np.generic) else result


class StrictModule:
    """As much of CuPy as the references use."""

    lib = Names(stride_tricks=Names(as_strided=lambda x, *how: strict(np.lib.stride_tricks.as_strided(x.view(np.ndarray), *how))))

    def __getattr__(self, name):
        f = getattr(np, name)
        if isinstance(f, type) or not callable(f):
            return f
        return lambda *given, **how: strict(f(*given, **how))

    def array(self, a):
        return np.array(a, subok=False).view(Strict)


def test_the_arrays_are_strict():
    a, b = StrictModule().array(np.ones(3)), np.ones(3)
    for wrong in (lambda: a + b, lambda: np.concatenate([a, b]), lambda: a.__setitem__(..., b), lambda: a[b.astype(int)]):
        with pytest.raises(TypeError, match="of an array of NumPy's"):
            wrong()
    assert isinstance(a.sum() + a[0], Strict)


@pytest.mark.parametrize("name", specs())
def test_a_reference_stays_on_the_gpu(name, monkeypatch):
    spec, xp = specs()[name], StrictModule()
    monkeypatch.setattr(backend, "_cupy", lambda: (xp, ""))
    monkeypatch.setattr(kernel_rows, "SMALL", 0)
    monkeypatch.setitem(specs(), name, replace(spec, benchmarks=spec.cases))
    for case in range(len(spec.cases)):
        call = kernel_rows.Call(kernel_rows.Row(name, spec.dtypes[0], case), xp)
        assert all(isinstance(a, Strict) for a in call.outputs(spec.reference, call.widened()))
