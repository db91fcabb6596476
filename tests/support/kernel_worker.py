"""Worker process of test_kernels.py: NumPy in Triton's interpreter, or CuPy on a GPU (no tests).

    TRITON_INTERPRET=1 python tests/support/kernel_worker.py cpu results.pickle linear SPECS.py ...

Every argument and every output lies between guard bands; outputs are NaN until written. The results
of all cases of the named Specs are pickled: the kernel's outputs, its reference's outputs in
float64, and the error bound.
"""

import pickle
import sys
from math import prod
from runpy import run_path

import numpy as np

from rawgan.backend import address, choose_device, to_host
from rawgan.kernels import all_specs
from rawgan.kernels.runtime import launch
from rawgan.kernels.specs import testing
from rawgan.kernels.specs.spec import array_dtype, precision_option
from rawgan.kernels.specs.testing import mend_interpreter, to_bf16
from rawgan.kernels.specs.tolerance import spec_tolerance

BAND = 2**16  # bytes before and after each array
UNTOUCHED, POISON = 0xA5, 0xFF  # 0xFF is NaN in every floating-point type


def float64(a):
    """Return an array as float64 in NumPy; return anything else unchanged."""
    return testing.float64(to_host(a)) if hasattr(a, "dtype") else a


class Bounds:
    """Triton's interpreter with bounds checks: it accesses only the arrays of a launch.

    Without them it reads and writes any address.
    """

    def __init__(self):
        from triton.runtime import interpreter

        self.inner, interpreter._interpreter = interpreter._interpreter, self
        start, self.arrays = launch.Launch.__call__, []

        def watched(this):
            self.arrays = [(address(a), address(a) + a.nbytes) for a in this.arrays]
            start(this)

        launch.Launch.__call__ = watched

    def check(self, pointers, mask, size, access):
        inside = np.zeros(pointers.shape, bool)
        for start, end in self.arrays:
            inside |= (pointers >= start) & (pointers + size <= end)
        if (outside := mask & ~inside).any():
            raise IndexError(
                f"{access} outside the arrays of the launch, {outside.sum()} of {outside.size}"
            )

    def load(self, pointers, mask, other, dtype):
        self.check(pointers, mask, np.dtype(dtype).itemsize, "a load")
        return self.inner.load(pointers, mask, other, dtype)

    def store(self, pointers, value, mask):
        self.check(pointers, mask, value.itemsize, "a store")
        return self.inner.store(pointers, value, mask)

    def atomic_rmw(self, operation, pointers, value, mask, sem):
        self.check(pointers, mask, value.itemsize, "an atomic")
        return self.inner.atomic_rmw(operation, pointers, value, mask, sem)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class NoTorch:
    """Import hook that raises if PyTorch is imported, as kernels must not need it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("the kernels imported PyTorch", name="torch")


class Memory:
    """Allocator of arrays between guard bands."""

    def __init__(self, xp):
        self.xp, self.blocks = xp, []

    def empty(self, shape, dtype, band=UNTOUCHED):
        size = prod(shape) * np.dtype(dtype).itemsize
        block = self.xp.full(size + 2 * BAND, POISON, np.uint8)
        block[:BAND] = block[BAND + size :] = band
        self.blocks.append((block, band))
        return block[BAND : BAND + size].view(dtype).reshape(shape)

    def guarded(self, a, band):
        b = self.empty(a.shape, a.dtype, band)
        b[...] = self.xp.asarray(a)
        return b

    def stray_stores(self) -> bool:
        return any(
            bool((end != band).any())
            for block, band in self.blocks
            for end in (block[:BAND], block[-BAND:])
        )


def arrays(dtype):
    """Return the function that makes the arrays of a case, by default in `dtype`."""
    rng = np.random.default_rng(11)

    def array(*shape, dtype=dtype):
        if dtype in ("int64", "int32", "uint8"):
            return rng.integers(0, 100, shape).astype(dtype)
        a = rng.normal(size=shape).astype("float32" if dtype == "bfloat16" else array_dtype(dtype))
        return to_bf16(a) if dtype == "bfloat16" else a

    return array


def run_case(xp, spec, case, dtype, change=lambda args, options: (args, options)):
    """Return the results of a kernel and of its reference for one case.

    change: returns other arguments from those of the case.
    """
    memory = Memory(xp)
    args, options = change(*spec.make(arrays(dtype), **case))
    names = [None] * len(args) + list(options)
    values = [*args, *options.values()]
    written = [
        i
        for i, name in enumerate(names)
        if i in spec.writes or name in ("theta_lowp", "average", "step_counter")
    ]
    inputs = [
        memory.guarded(a, UNTOUCHED if i in written else POISON) if hasattr(a, "dtype") else a
        for i, a in enumerate(values)
    ]
    launch.empty = lambda like, shape, dtype=None: memory.empty(shape, dtype or like.dtype)

    def call(f, values, **extra):
        result = f(*values[: len(args)], **dict(zip(options, values[len(args) :])), **extra)
        returned = result if isinstance(result, tuple) else () if result is None else (result,)
        return [*returned, *(values[i] for i in written)]

    got = call(spec.wrapper, inputs, **precision_option(dtype))
    want = call(spec.reference, [float64(a) for a in values])
    bound = terms = None
    if spec.bilinear_reference:
        bound = call(
            spec.bilinear_reference, [abs(float64(a)) if hasattr(a, "dtype") else a for a in values]
        )
        terms = call(
            spec.bilinear_reference,
            [np.ones(a.shape) if hasattr(a, "dtype") else a for a in values],
        )
    # The dtypes that the outputs have to have; arguments that are written keep theirs
    returned = len(got) - len(written)
    dtypes = [spec.output_dtype(i, dtype) for i in range(returned)]
    dtypes += [launch.DTYPES[values[i].dtype] for i in written]
    allowed = [
        spec_tolerance(
            spec,
            case,
            dtype,
            i,
            dtypes[i],
            np.asarray(w, np.float64),
            *((bound[i], terms[i]) if spec.bilinear_reference else ()),
        )
        for i, (_, w) in enumerate(zip(got, want, strict=True))
    ]
    changed = [
        i
        for i, a in enumerate(values)
        if i not in written and hasattr(a, "dtype") and not np.array_equal(to_host(inputs[i]), a)
    ]
    return {
        "got": [float64(a) for a in got],
        "dtypes": [(launch.DTYPES[a.dtype], wanted) for a, wanted in zip(got, dtypes)],
        "want": want,
        "allowed": allowed,
        "stray_stores": memory.stray_stores(),
        "changed": changed,
    }


def main(device, path, *names):
    sys.meta_path.insert(0, NoTorch())
    xp = np if device == "cpu" else choose_device("gpu").xp
    if device == "cpu":
        mend_interpreter()
        Bounds()
    results = {}
    for spec in (
        spec
        for name in names
        for spec in (run_path(name)["SPECS"] if name.endswith(".py") else [all_specs()[name]])
    ):
        for i, case in enumerate(spec.cases):
            for dtype in spec.dtypes:
                try:
                    results[spec.name, i, dtype] = run_case(xp, spec, case, dtype)
                except Exception as error:
                    results[spec.name, i, dtype] = f"{type(error).__name__}: {error}"
    assert "torch" not in sys.modules
    with open(path, "wb") as file:
        pickle.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
