"""Count the array operations of an eager training step: CuPy's launches, without a GPU.

`python -m benchmarks.steps.launches dcgan --size 16 --width 32` runs GAN.train_step on arrays that
imitate CuPy's, compute with NumPy and count: a ufunc, a reduction, a matrix product, a copy, a fill
or a fused function is one launch. The code path is that of a GPU: plain formulas, no splitting of
the batch. CuPy may need two launches for one counted operation (a large reduction, a product whose
operand has to be copied first), so that the counts are lower bounds.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rawgan import backend
from rawgan.backend import Device
from rawgan.models.recipes import RECIPES
from rawgan.random import Random

RAWGAN = str(Path(backend.__file__).parent)
launches: Counter[tuple[str, str]] = Counter()  # (file:function of rawgan, operation)
_inside_fused = False


def count(operation: str) -> None:
    """Count one launch for the innermost function of rawgan on the call stack."""
    if _inside_fused:
        return
    frame = sys._getframe(1)
    while frame and not frame.f_code.co_filename.startswith(RAWGAN):
        frame = frame.f_back
    place = "outside"
    if frame:
        place = (
            f"{Path(frame.f_code.co_filename).relative_to(RAWGAN).with_suffix('')}:"
            f"{frame.f_code.co_qualname}"
        )
    launches[place, operation] += 1


class CountingArray(np.ndarray):
    """NumPy array that imitates a CuPy array and counts operations on it."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        count(ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}")
        if out is not None:
            options["out"] = tuple(map(plain, out))
        result = getattr(ufunc, method)(*map(plain, inputs), **options)
        return out[0] if out is not None else counting(result)

    def __array_function__(self, function, types, arguments, options):
        raise TypeError(f"numpy.{function.__name__} of an array on the GPU: CuPy would refuse it")

    def __setitem__(self, key, value):
        count("copy")
        plain(self)[plain(key)] = plain(value)

    def __getitem__(self, key):
        if isinstance(key, np.ndarray):
            count("take")
        return counting(plain(self)[plain(key)])

    def reshape(self, *shape, **options):
        result = counting(plain(self).reshape(*shape, **options))
        if self.size and not np.may_share_memory(plain(result), plain(self)):
            count("copy")
        return result

    def astype(self, dtype, copy=True):
        if copy or self.dtype != dtype:
            count("astype")
        return counting(plain(self).astype(dtype, copy=copy))

    def mean(self, axis=None, dtype=None, keepdims=False):
        count("mean")
        return counting(plain(self).mean(axis, dtype, keepdims=keepdims))

    def copy(self):
        count("copy")
        return counting(plain(self).copy())

    def clip(self, low, high, out=None):
        count("clip")
        plain(self).clip(low, high, out=plain(out))
        return out

    def get(self):
        """Return a NumPy array, as cupy.ndarray.get does."""
        count("to the host")
        return np.array(plain(self))

    def __float__(self):
        count("to the host")
        return float(plain(self))


CountingArray.__module__ = "cupy"  # rawgan.backend selects the array module by this


def plain(a):
    """Return a NumPy view of the same memory."""
    return a.view(np.ndarray) if isinstance(a, CountingArray) else a


def counting(a):
    """Return a counting view of the same memory; NumPy scalars become 0-d arrays, as in CuPy."""
    return a if isinstance(a, CountingArray) else np.asarray(a).view(CountingArray)


class CountingModule:
    """Imitation of the module cupy: NumPy functions that count."""

    QUIET = ("empty", "empty_like", "min_scalar_type")  # launch nothing
    ndarray = CountingArray
    lib = SimpleNamespace(
        stride_tricks=SimpleNamespace(
            as_strided=lambda a, *layout: counting(
                np.lib.stride_tricks.as_strided(plain(a), *layout)
            )
        )
    )

    def __getattr__(self, name):
        function = getattr(np, name)
        if isinstance(function, type):
            return function

        @wraps(function)
        def counted(*arguments, **options):
            if name not in self.QUIET:
                count(name)
            arguments = [
                list(map(plain, a)) if isinstance(a, list | tuple) else plain(a) for a in arguments
            ]
            result = function(*arguments, **{key: plain(value) for key, value in options.items()})
            return options.get(
                "out", counting(result) if isinstance(result, np.ndarray | np.generic) else result
            )

        return counted

    def asarray(self, a):
        """Copy from the host, unless the array is already a counting one."""
        if isinstance(a, CountingArray):
            return a
        count("from the host")
        return counting(np.array(a))

    def fuse(self, function):
        """Imitate cupy.fuse: count everything that the function does as one launch."""

        @wraps(function)
        def fused(*arguments):
            global _inside_fused
            count(f"fused {function.__name__}")
            before, _inside_fused = _inside_fused, True
            try:
                return function(*arguments)
            finally:
                _inside_fused = before

        return fused


GPU = Device("gpu", "counting", "for benchmarks.steps.launches")


@contextmanager
def counting_gpu() -> Iterator[Device]:
    """Context in which rawgan treats counting arrays as CuPy's."""
    real, backend._cupy = backend._cupy, lambda: (CountingModule(), "")
    try:
        yield GPU
    finally:
        backend._cupy = real


def count_step(
    name: str, size: int, width: int, batch: int = 64, channels: int = 1
) -> Counter[tuple[str, str]]:
    """Return the launches of one training step of a recipe, after an uncounted first step."""
    recipe, rng = RECIPES[name], np.random.default_rng(0)
    with counting_gpu() as device:
        gan = recipe.build(Random(0), size, channels, width, device)
        low = 0 if recipe.pixels == "unit" else -1
        steps = recipe.schedule.critic_steps(30)

        def batches():
            reals = [
                rng.uniform(low, 1, (batch, size, size, channels)).astype(np.float32)
                for _ in range(steps)
            ]
            zs = [recipe.draw_z(rng, batch) for _ in range(steps + recipe.schedule.resample_z)]
            return [device.asarray(a) for a in reals], [device.asarray(a) for a in zs]

        gan.train_step(*batches())
        arguments = batches()
        launches.clear()
        gan.train_step(*arguments)
        return Counter(launches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "recipe", choices=[name for name, recipe in RECIPES.items() if not recipe.classes]
    )
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--operations", action="store_true", help="each operation of each function")
    options = parser.parse_args()
    counts = count_step(options.recipe, options.size, options.width)
    places: Counter[str] = Counter()
    for (place, operation), n in counts.items():
        places[f"{place} {operation}" if options.operations else place] += n
    for place, n in places.most_common():
        print(f"{n:6} {place}")
    print(
        f"{counts.total():6} launches in a step of {options.recipe}, "
        f"{options.size}x{options.size}, width {options.width}"
    )


if __name__ == "__main__":
    main()
