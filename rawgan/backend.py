"""Where arrays live: the only file that imports CuPy.

Everything else asks `array_module(x)` for the module of an array it already has, and is written once for NumPy and CuPy.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
from threadpoolctl import ThreadpoolController

from rawgan.errors import UserError

Array = np.ndarray  # or cupy.ndarray: the annotation is for the reader


@cache
def _cupy() -> tuple[ModuleType | None, str]:
    """CuPy if it can compute here, and in words why not otherwise."""
    try:
        import cupy
    except ImportError as error:
        return None, f"CuPy cannot be imported ({str(error).strip().splitlines()[0]})"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except (cupy.cuda.runtime.CUDARuntimeError, RuntimeError) as error:
        return None, f"CuPy {cupy.__version__} finds no usable NVIDIA GPU ({error})"
    if count == 0:
        return None, f"CuPy {cupy.__version__} sees no NVIDIA GPU"
    return cupy, ""


def _library(a) -> str:
    return type(a).__module__.partition(".")[0]


def array_module(*arrays) -> ModuleType:
    """The module, numpy or cupy, that all the arrays belong to; None among them is passed over.

    Raises TypeError, naming both, when NumPy and CuPy arrays are mixed, and when an argument is no array.
    """
    libraries = [_library(a) for a in arrays if a is not None]
    if all(name == "numpy" for name in libraries):
        return np
    if all(name == "cupy" for name in libraries):
        return _cupy()[0]
    if "numpy" in libraries and "cupy" in libraries:
        said = ", ".join(f"{name} {tuple(a.shape)}" for name, a in zip(libraries, (a for a in arrays if a is not None)))
        raise TypeError(f"arrays of NumPy and CuPy are mixed: {said}; move them to one device first")
    raise TypeError(f"expected NumPy or CuPy arrays, got {', '.join(libraries)}")


@cache
def _threads() -> tuple[ThreadPoolExecutor, int, ThreadpoolController]:
    """Python threads, one per core, how many, and the handle on BLAS' own threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores), cores, ThreadpoolController().select(user_api="blas")


def over_batch(xp: ModuleType, N: int, work: Callable[[slice], Array]) -> list[Array]:
    """[work(slice), ...] for consecutive parts of a batch of N: a part per core on the CPU, one part on the GPU.

    Each part runs in a thread of its own with BLAS held to one thread: the copies are shared out too, and nobody waits inside a
    matrix product. The parts, and so the bits of a sum over them, depend on N and the number of cores alone.
    """
    if xp is not np:
        return [work(slice(0, N))]
    pool, cores, blas = _threads()
    step = max(1, -(-N // cores))
    with blas.limit(limits=1):
        return list(pool.map(work, [slice(n, min(n + step, N)) for n in range(0, N, step)]))


def to_host(a) -> np.ndarray:
    """A NumPy array with the values of `a`, copied from the GPU if it lies there."""
    return a.get() if _library(a) == "cupy" else np.asarray(a)


@dataclass(frozen=True)
class Device:
    """Where a run computes: `name` is "cpu" or "gpu", `path` NumPy or CuPy, `why` the reason in words."""

    name: str
    path: str
    why: str

    @property
    def xp(self) -> ModuleType:
        return np if self.name == "cpu" else _cupy()[0]

    def asarray(self, a) -> Array:
        """The values of `a` as an array on this device."""
        return to_host(a) if self.name == "cpu" else self.xp.asarray(a)


CPU = Device("cpu", "NumPy", "it was asked for")


def choose_device(wish: str = "auto") -> Device:
    """The device for "auto", "cpu" or "gpu": auto takes a GPU where CuPy finds one.

    Raises UserError when "gpu" is asked for and there is none, and for any other word. There is no silent fallback.
    """
    if wish not in ("auto", "cpu", "gpu"):
        raise UserError(f"device {wish!r} is not known; choose auto, cpu or gpu")
    if wish == "cpu":
        return CPU
    cupy, reason = _cupy()
    if cupy is not None:
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        return Device("gpu", "CuPy", f"{properties['name'].decode()} found by CuPy {cupy.__version__}")
    if wish == "gpu":
        raise UserError(f"--device gpu was asked for, but {reason}; use --device cpu, or auto")
    return Device("cpu", "NumPy", reason)
