"""Where arrays live: the only file that imports CuPy.

Everything else asks `array_module(x)` for the module of an array it already has, and is written once for NumPy and CuPy.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from threadpoolctl import ThreadpoolController

from rawgan.errors import UserError

CACHE = 5 * 2**20  # bytes of scratch memory that one core keeps close to a matrix product
PART = 2**20  # bytes of an array that elementwise works on at a time
SPREAD = 2**20  # bytes of an array from which a single pass over it is shared out over the cores
Array = np.ndarray  # or cupy.ndarray: the annotation is for the reader


@cache
def _cupy() -> tuple[ModuleType | None, str]:
    """CuPy if it can compute here, and in words why not otherwise."""
    try:
        import cupy
    except ImportError as error:
        return None, f"CuPy cannot be imported ({str(error).strip().splitlines()[0]})"
    try:
        one = cupy.ones((2, 2), np.float32)
        (one @ one + one).sum().get()  # a product, a compiled kernel, a copy: the driver and the CUDA libraries are all there
    except Exception as error:  # CuPy raises its own kinds for a missing driver, library or compiler
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return None, f"CuPy {cupy.__version__} cannot compute on an NVIDIA GPU here: {reason}"
    return cupy, ""


def _library(a) -> str:
    return type(a).__module__.partition(".")[0]


def array_module(*arrays) -> ModuleType:
    """The module, numpy or cupy, that all the arrays belong to; None among them is passed over.

    Raises TypeError, naming both, when NumPy and CuPy arrays are mixed, and when an argument is no array.
    """
    for a in arrays:
        if type(a) is not np.ndarray and a is not None:
            break
    else:  # nearly always: spared the words below
        return np
    libraries = [_library(a) for a in arrays if a is not None]
    if all(name == "numpy" for name in libraries):
        return np
    if all(name == "cupy" for name in libraries):
        return _cupy()[0]
    if "numpy" in libraries and "cupy" in libraries:
        said = ", ".join(f"{name} {tuple(a.shape)}" for name, a in zip(libraries, (a for a in arrays if a is not None)))
        raise TypeError(f"arrays of NumPy and CuPy are mixed: {said}; move them to one device first")
    raise TypeError(f"expected NumPy or CuPy arrays, got {', '.join(libraries)}")


_kernels = False  # what use_kernels said


@contextmanager
def use_kernels(on: bool = True) -> Iterator[None]:
    """Inside, the operations that have a Triton kernel launch it: on CuPy arrays, or on NumPy arrays in Triton's interpreter.

    Where kernels cannot run, the first launch raises UserError: nothing falls back to NumPy or CuPy in silence.
    """
    global _kernels
    before, _kernels = _kernels, on
    try:
        yield
    finally:
        _kernels = before


def kernels_on(*arrays: Array | None) -> bool:
    """Whether an operation on these arrays goes to its Triton kernel. Raises TypeError when NumPy and CuPy arrays are mixed."""
    return _kernels and bool(array_module(*arrays))


_plain = False  # what use_plain said


@contextmanager
def use_plain(on: bool = True) -> Iterator[None]:
    """Inside, operations on NumPy arrays take the plain formula where they would take a faster form of it."""
    global _plain
    before, _plain = _plain, on
    try:
        yield
    finally:
        _plain = before


def fast_on(*arrays: Array | None) -> bool:
    """Whether an operation on these arrays takes its fast form for the CPU. Raises TypeError as array_module does."""
    return array_module(*arrays) is np and not (_plain or _kernels)


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed: it hands large arrays back to the system, and the page faults of the next ones cost as much as
    the arithmetic on them. Raises M_TRIM_THRESHOLD (-1) and M_MMAP_THRESHOLD (-3), and keeps one arena (-8)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in ((-1, 2**31 - 1), (-3, 2**30), (-8, 1)):
            libc.mallopt(option, value)


_keep_freed_memory()


class Blas:
    """How many threads a product of matrices takes: one, or as many as BLAS had when this file was imported.

    Where the parts of a batch are shared out, one: BLAS' own threads go on spinning after a product, on the cores that ours compute
    on. Where nothing is, a small network without convolutions, BLAS shares its products out by itself. The bits of a product depend
    on it, so it is said for each step and never left to chance; it holds for the whole process, so that two trainings in threads of
    one process may round differently from run to run.
    """

    def __init__(self):
        every = ThreadpoolController().select(user_api="blas")
        own = [one["filepath"] for one in every.info() if "numpy" in one["filepath"]]  # others may be PyTorch's
        self.library = every.select(filepath=own) if own else every
        self.most = max((one["num_threads"] for one in self.library.info()), default=1)
        self.threads = None
        self.share(False)

    def share(self, on: bool) -> None:
        """From now on each product takes all of BLAS' threads, or one."""
        threads = self.most if on else 1
        if threads != self.threads:
            self.library.limit(limits=threads)
            self.threads = threads


blas = Blas()


@cache
def _threads() -> tuple[ThreadPoolExecutor, int]:
    """Threads for all cores but that of the thread that asks, and how many cores there are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(max(1, cores - 1), "rawgan-part"), cores


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a process that was forked has none of them

_inside = threading.local()  # .part is set in a thread that computes a part


def _each(work: Callable[[slice], Array], start: int, stop: int, step: int) -> list[Array]:
    """A core's share of over_batch: its parts one after another."""
    _inside.part = True
    try:
        return [work(slice(n, min(n + step, stop))) for n in range(start, stop, step)]
    finally:
        del _inside.part


def over_batch(xp: ModuleType, N: int, work: Callable[[slice], Array], sample_bytes: int = 0) -> list[Array]:
    """[work(slice), ...] for consecutive parts of a batch of N: on the CPU spread over the cores, on the GPU one part.

    Each core has a share of the batch and a thread, this one too: the copies are shared out, and nobody waits inside a matrix
    product. With sample_bytes, the scratch memory that one sample needs, shares are cut in parts of one size until theirs fits a
    cache; a small last part would multiply at half the speed.
    The parts, and so the bits of a sum over them, depend on N, sample_bytes and the number of cores alone. Inside a part there is
    one part: the threads would wait for each other.
    """
    if xp is not np or hasattr(_inside, "part"):
        return [work(slice(0, N))]
    blas.share(False)
    pool, cores = _threads()
    share = max(1, -(-N // cores))
    rounds = -(-share // max(1, CACHE // max(sample_bytes, 1)))
    step = -(-share // rounds)
    others = [pool.submit(_each, work, n, min(n + share, N), step) for n in range(share, N, share)]
    try:
        first = _each(work, 0, min(share, N), step)
    finally:
        wait(others)
    return first + [part for other in others for part in other.result()]


def shared(x: Array, work: Callable[[slice], Array], sample_bytes: int = 0) -> list[Array]:
    """over_batch for a pass over x, if that takes longer on the CPU than it takes to wake another core; else one part."""
    if array_module(x) is np and x.nbytes > SPREAD:
        return over_batch(np, len(x), work, sample_bytes)
    return [work(slice(0, len(x)))]


def elementwise(f: Callable[..., Array], into: Callable[..., None] | None = None) -> Callable[..., Array]:
    """A function of arrays that computes each sample's values from that sample alone, made to run part by part on the CPU.

    So its intermediate arrays stay in the cache, and the cores share the samples; the values are the same. Arguments with the first
    one's number of axes and length are cut along the batch, all others (numbers, statistics, gamma) passed whole. `into` is the
    function's fast form for the CPU, which writes a part where it belongs, its last argument. A kernel takes all at once: Triton's
    interpreter is for one thread.
    """

    @wraps(f)
    def parts(x: Array, *rest):
        xp = array_module(x, *[a for a in rest if getattr(a, "shape", ())])
        fast = into is not None and x.nbytes > PART // 16 and fast_on()
        if xp is not np or _kernels or x.ndim == 0 or (x.nbytes <= PART and not fast):
            return f(x, *rest)
        step = max(1, PART * len(x) // x.nbytes)
        cut = [getattr(a, "shape", ())[:1] == x.shape[:1] and a.ndim == x.ndim for a in rest]
        y = np.empty(x.shape, x.dtype)

        def stretch(samples: slice) -> None:
            for start in range(samples.start, samples.stop, step):
                n = slice(start, min(start + step, samples.stop))
                args = [x[n], *(a[n] if c else a for a, c in zip(rest, cut))]
                if fast:
                    into(*args, y[n])
                else:
                    y[n] = f(*args)

        shared(x, stretch)
        return y

    return parts


def address(a: Array) -> int:
    """Where an array begins in memory."""
    return a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr


def to_host(a) -> np.ndarray:
    """A NumPy array with the values of `a`, copied from the GPU if it lies there."""
    return a.get() if _library(a) == "cupy" else np.asarray(a)


@dataclass(frozen=True)
class Device:
    """Where a run computes: `name` is "cpu" or "gpu", `path` with what, `why` the reason in words; `kernels`: its operations launch
    Triton kernels, inside `with use_kernels(device.kernels)`."""

    name: str
    path: str
    why: str
    kernels: bool = False

    @property
    def xp(self) -> ModuleType:
        return np if self.name == "cpu" else _cupy()[0]

    def asarray(self, a) -> Array:
        """The values of `a` as an array on this device."""
        return to_host(a) if self.name == "cpu" else self.xp.asarray(a)


CPU = Device("cpu", "NumPy", "it was asked for")


def choose_device(wish: str = "auto", kernels: bool = False) -> Device:
    """The device for "auto", "cpu" or "gpu": auto takes a GPU where CuPy finds one.

    Raises UserError when "gpu" is asked for and there is none, for any other word, and when `kernels` are asked for and cannot run
    there. There is no silent fallback.
    """
    if wish not in ("auto", "cpu", "gpu"):
        raise UserError(f"device {wish!r} is not known; choose auto, cpu or gpu")
    cupy, reason = (None, CPU.why) if wish == "cpu" else _cupy()
    if cupy is not None:
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        device = Device("gpu", "CuPy", f"{properties['name'].decode()} found by CuPy {cupy.__version__}")
    elif wish == "gpu":
        raise UserError(f"--device gpu was asked for, but {reason}; use --device cpu, or auto")
    else:
        device = CPU if wish == "cpu" else Device("cpu", "NumPy", reason)
    return _with_kernels(device) if kernels else device


def use_gpu(n: int) -> None:
    """Makes the n-th GPU, from 0, the one that this process computes on. Raises UserError where there are not as many."""
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own kinds for a missing driver or library
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--parallel nccl needs a GPU for each process, but {reason}; --parallel mpi computes on CPUs") from error
    if n >= count:
        raise UserError(f"--parallel nccl needs a GPU for each process, but this machine has {count}: start as many")
    cupy.cuda.Device(n).use()


def nccl() -> ModuleType:
    """CuPy's NCCL. Raises UserError where the library is missing."""
    cupy, reason = _cupy()
    if cupy is None:
        raise UserError(f"--parallel nccl needs a GPU, but {reason}")
    if not cupy.cuda.nccl.available:
        raise UserError("CuPy finds no NCCL library here: pip install 'rawgan[nccl]'")
    return cupy.cuda.nccl


def _with_kernels(device: Device) -> Device:
    """The device with Triton kernels. Raises UserError where they cannot run."""
    interpreter = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    if find_spec("triton") is None:
        raise UserError("the kernels need Triton, which is not installed here")
    if device.name == "gpu" and interpreter:
        raise UserError("TRITON_INTERPRET is set, and Triton's interpreter runs no kernels on a GPU: unset it, or use --device cpu")
    if device.name == "cpu" and not interpreter:
        raise UserError(
            f"Triton kernels need a GPU, but {device.why if device is not CPU else '--device cpu was asked for'}; "
            "TRITON_INTERPRET=1 in the environment runs them in Triton's interpreter, very slowly"
        )
    return replace(device, path="Triton kernels on CuPy" if device.name == "gpu" else "Triton's interpreter on NumPy", kernels=True)
