"""The process in which kernels run for test_kernels.py (it has no tests itself): NumPy in Triton's interpreter, or CuPy on a GPU.

    TRITON_INTERPRET=1 python tests/test_kernels_worker.py cpu results.pickle linear path/to/file_with_SPECS.py ...

Every argument and every output lies between guard bands, outputs are NaN until written. The results of all cases of the named
Specs are pickled: what the kernel gave, what its reference gives in float64, and the bound for the error.
"""

import pickle
import sys
from math import prod
from runpy import run_path

import numpy as np

from rawgan.backend import address, choose_device, to_host
from rawgan.kernels import launch, specs

BAND = 2**16  # bytes before and after each array
UNTOUCHED, POISON = 0xA5, 0xFF  # 0xFF is NaN in every floating-point type


def to_bf16(a):
    """bfloat16 as uint16, rounded to nearest even."""
    bits = np.asarray(a, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(a):
    return (a.astype(np.uint32) << 16).view(np.float32)


def to_tf32(a):
    bits = a.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def float64(a):
    """The values of an array, or what is no array as it is."""
    if not hasattr(a, "dtype"):
        return a
    a = to_host(a)
    return (from_bf16(a) if a.dtype == np.uint16 else a).astype(np.float64)


def mend_interpreter():
    """Triton's interpreter multiplies bfloat16 as the integers it holds them in, truncates to bfloat16, and ignores TF32."""
    import triton.language as tl
    from triton._C.libtriton.ir import INPUT_PRECISION
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def exact(a, precision):
        if a.dtype.scalar == tl.bfloat16:
            return TensorHandle(from_bf16(a.data), tl.float32)
        return TensorHandle(to_tf32(a.data), tl.float32) if precision == INPUT_PRECISION.TF32 and a.data.itemsize == 4 else a

    def create_dot(self, a, b, d, precision, *rest):
        return dot(self, exact(a, precision), exact(b, precision), d, precision, *rest)

    def cast_impl(self, a, dtype):
        if a.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
            return TensorHandle(to_bf16(a.data), tl.bfloat16)
        return cast(self, a, dtype)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl


class Bounds:
    """Triton's interpreter, which takes any address, made to take those of a launch's own arrays alone."""

    def __init__(self):
        import triton.runtime.interpreter as interpreter

        self.inner, interpreter._interpreter = interpreter._interpreter, self
        start, self.arrays = launch.Launch.__call__, []

        def watched(this):
            self.arrays = [(address(a), address(a) + a.nbytes) for a in this.arrays]
            start(this)

        launch.Launch.__call__ = watched

    def check(self, pointers, mask, size, what):
        inside = np.zeros(pointers.shape, bool)
        for start, end in self.arrays:
            inside |= (pointers >= start) & (pointers + size <= end)
        if (outside := mask & ~inside).any():
            raise IndexError(f"{what} outside the arrays of the launch, {outside.sum()} of {outside.size}")

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
    """Whoever imports PyTorch fails: kernels do without."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("the kernels imported PyTorch", name="torch")


class Memory:
    """Arrays between guard bands."""

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
        return any(bool((end != band).any()) for block, band in self.blocks for end in (block[:BAND], block[-BAND:]))


def run_case(xp, spec, case, dtype):
    """What one kernel gives in one case, beside what its reference gives."""
    rng, memory = np.random.default_rng(11), Memory(xp)

    def array(*shape, dtype=dtype):
        if dtype in ("int64", "int32", "uint8"):
            return rng.integers(0, 100, shape).astype(dtype)
        a = rng.normal(size=shape).astype("float32" if dtype in ("bfloat16", "tf32") else dtype)
        return to_bf16(a) if dtype == "bfloat16" else a

    args, options = spec.make(array, **case)
    names = [None] * len(args) + list(options)
    values = [*args, *options.values()]
    written = [i for i, name in enumerate(names) if i in spec.writes or name == "low"]
    given = [memory.guarded(a, UNTOUCHED if i in written else POISON) if hasattr(a, "dtype") else a for i, a in enumerate(values)]
    launch.empty = lambda like, shape, dtype=None: memory.empty(shape, dtype or like.dtype)

    def call(f, values, **more):
        result = f(*values[: len(args)], **dict(zip(options, values[len(args) :])), **more)
        returned = result if isinstance(result, tuple) else () if result is None else (result,)
        return [*returned, *(values[i] for i in written)]

    got = call(spec.wrapper, given, **({"precision": "tf32"} if dtype == "tf32" else {}))
    want = call(spec.reference, [float64(a) for a in values])
    bound = terms = None
    if spec.form:
        bound = call(spec.form, [abs(float64(a)) if hasattr(a, "dtype") else a for a in values])
        terms = call(spec.form, [np.ones(a.shape) if hasattr(a, "dtype") else a for a in values])
    changed = [
        i for i, a in enumerate(values) if i not in written and hasattr(a, "dtype") and not np.array_equal(to_host(given[i]), a)
    ]
    return {
        "got": [float64(a) for a in got],
        "dtypes": [dtype if dtype == "tf32" else launch.DTYPES[a.dtype] for a in got],
        "want": want,
        "bound": bound,
        "terms": terms,
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
    for spec in (spec for name in names for spec in (run_path(name)["SPECS"] if name.endswith(".py") else [specs()[name]])):
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
