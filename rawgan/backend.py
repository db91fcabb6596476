"""The array module of an array, the choice of a device, and the switch for Triton kernels.

This is the only file that imports CuPy. Mathematics asks `array_module(x)` for the module of its
arrays and is written once for NumPy and CuPy. Importing this module changes nothing in the process.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from rawgan.errors import UserError, first_line

Array = np.ndarray  # or cupy.ndarray: the annotation is for the reader


def _driver_fault(cupy: ModuleType) -> str:
    """Return in plain words what NVIDIA's driver lacks for CuPy to compute here; "" if nothing."""
    runtime = cupy.cuda.runtime
    try:
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            return "no NVIDIA driver is installed here"
        if driver // 1000 < needed // 1000:  # a driver runs every minor version of its major one
            return (
                f"the NVIDIA driver is for CUDA {driver // 1000} and CuPy {cupy.__version__} "
                f"for CUDA {needed // 1000}: update the driver"
            )
        return "" if runtime.getDeviceCount() else "no NVIDIA GPU was found here"
    except runtime.CUDARuntimeError as error:
        if "cudaErrorNoDevice" in str(error):
            return "no NVIDIA GPU was found here"
        return f"CuPy {cupy.__version__} finds no NVIDIA GPU here: {str(error).splitlines()[0]}"


@cache
def _cupy() -> tuple[ModuleType | None, str]:
    """Return (CuPy, "") where it can compute here, else (None, the reason)."""
    try:
        import cupy
    except ImportError as error:
        if find_spec("cupy") is None:
            return None, "CuPy is not installed"
        return None, f"CuPy cannot be imported ({first_line(error)})"
    if fault := _driver_fault(cupy):
        return None, fault
    try:
        a = cupy.ones((2, 2), np.float32)
        (a @ a + a).sum().get()  # needs the driver, cuBLAS and the compiler
    except Exception as error:  # CuPy has many classes for a missing driver, library or compiler
        return (
            None,
            f"CuPy {cupy.__version__} cannot compute on an NVIDIA GPU here: {first_line(error)}",
        )
    return cupy, ""


def _library(a) -> str:
    return type(a).__module__.partition(".")[0]


def array_module(*arrays) -> ModuleType:
    """Return the module, numpy or cupy, that all the arrays belong to; arguments None are skipped.

    Raises TypeError when NumPy and CuPy arrays are mixed, and when an argument is no array.
    """
    for a in arrays:
        if type(a) is not np.ndarray and a is not None:
            break
    else:  # the common case, without the loops below
        return np
    libraries = [_library(a) for a in arrays if a is not None]
    if all(name == "numpy" for name in libraries):
        return np
    if all(name == "cupy" for name in libraries):
        return _cupy()[0]
    if "numpy" in libraries and "cupy" in libraries:
        shapes = ", ".join(
            f"{name} {tuple(a.shape)}"
            for name, a in zip(libraries, (a for a in arrays if a is not None))
        )
        raise TypeError(
            f"arrays of NumPy and CuPy are mixed: {shapes}; move them to one device first"
        )
    raise TypeError(f"expected NumPy or CuPy arrays, got {', '.join(libraries)}")


_kernels = False  # set by use_kernels


@contextmanager
def use_kernels(on: bool = True) -> Iterator[None]:
    """Inside, operations that have a Triton kernel launch it; on NumPy arrays Triton interprets it.

    Where kernels cannot run, the first launch raises UserError: there is no silent fallback.
    """
    global _kernels
    before, _kernels = _kernels, on
    try:
        yield
    finally:
        _kernels = before


def kernels_on(*arrays: Array | None) -> bool:
    """Return whether an operation on these arrays launches its kernel. Raises as array_module."""
    return _kernels and bool(array_module(*arrays))


_reference_forms = False  # set by reference_cpu


@contextmanager
def reference_cpu(on: bool = True) -> Iterator[None]:
    """Inside, operations compute their plain formula where they have a faster form of it."""
    global _reference_forms
    before, _reference_forms = _reference_forms, on
    try:
        yield
    finally:
        _reference_forms = before


def reference_forms() -> bool:
    """Return whether operations compute their plain formula."""
    return _reference_forms or _kernels


def use_fast_cpu(*arrays: Array | None) -> bool:
    """Return whether an operation on these arrays takes its fast form for the CPU.

    Raises TypeError as array_module.
    """
    return array_module(*arrays) is np and not reference_forms()


def fuse(f: Callable[..., Array]) -> Callable[..., Array]:
    """Return an elementwise function that is one launch on a GPU, by cupy.fuse; f on NumPy arrays.

    f may use ufuncs of its arrays' module, operators and other such functions alone: no shapes, no
    indexing, nothing in place, and numbers only as arguments or literals. CuPy traces it once for
    each combination of dtypes. The first argument is an array; numbers get its dtype.
    """
    module = compiled = None  # the array module of the last call, and what its fuse made of f

    @wraps(f)
    def fused(x: Array, *rest):
        nonlocal module, compiled
        xp = array_module(x)
        if xp is np:
            return f(x, *rest)
        if xp is not module:
            module, compiled = xp, xp.fuse(f)
        return compiled(x, *(x.dtype.type(a) if isinstance(a, float) else a for a in rest))

    return fused


def address(a: Array) -> int:
    """Return the address of an array's first element."""
    return a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr


def to_host(a) -> np.ndarray:
    """Return `a` as a NumPy array, copied from the GPU if it lies there."""
    return a.get() if _library(a) == "cupy" else np.asarray(a)


@dataclass(frozen=True)
class Device:
    """Where a run computes.

    name         "cpu" or "gpu"
    library      the library that computes, as it is printed
    reason       the reason for this choice, as it is printed
    kernels      operations launch Triton kernels inside `with use_kernels(device.kernels)`
    capability   compute capability of a GPU: 90 is 9.0
    """

    name: str
    library: str
    reason: str
    kernels: bool = False
    capability: int = 0

    @property
    def xp(self) -> ModuleType:
        """Return the array module of the device."""
        return np if self.name == "cpu" else _cupy()[0]

    def asarray(self, a) -> Array:
        """Return the values of `a` as an array on this device."""
        return to_host(a) if self.name == "cpu" else self.xp.asarray(a)


CPU = Device("cpu", "NumPy", "it was asked for")


def choose_device(device: str = "auto", kernels: bool = False) -> Device:
    """Return the device for "auto", "cpu" or "gpu"; auto takes a GPU where CuPy finds one.

    Raises UserError for "gpu" where there is none, for any other word, and for `kernels` where they
    cannot run. There is no silent fallback.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise UserError(f"device {device!r} is not known; choose auto, cpu or gpu")
    cupy, no_gpu = (None, CPU.reason) if device == "cpu" else _cupy()
    if cupy is not None:
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        capability = 10 * properties["major"] + properties["minor"]
        found_by = f"{properties['name'].decode()} found by CuPy {cupy.__version__}"
        chosen = Device("gpu", "CuPy", found_by, capability=capability)
    elif device == "gpu":
        raise UserError(f"--device gpu was asked for, but {no_gpu}; use --device cpu, or auto")
    else:
        chosen = CPU if device == "cpu" else Device("cpu", "NumPy", no_gpu)
    return _with_kernels(chosen) if kernels else chosen


def without_gpu(device: Device) -> str:
    """Return why a CPU was chosen, for the message of an option that needs a GPU."""
    return "--device cpu was asked for" if device is CPU else device.reason


def use_gpu(n: int) -> None:
    """Make the n-th GPU, from 0, the one of this process. Raises UserError where there is none."""
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy has many classes for a missing driver or library
        raise UserError(
            f"--parallel nccl needs a GPU for each process, but {first_line(error)}; "
            "--parallel mpi computes on CPUs"
        ) from error
    if n >= count:
        raise UserError(
            f"--parallel nccl needs a GPU for each process, but this machine has {count}: "
            "start as many"
        )
    cupy.cuda.Device(n).use()


def nccl() -> ModuleType:
    """Return CuPy's NCCL module. Raises UserError where the library is missing."""
    cupy, no_gpu = _cupy()
    if cupy is None:
        raise UserError(f"--parallel nccl needs a GPU, but {no_gpu}")
    if not cupy.cuda.nccl.available:
        raise UserError("CuPy finds no NCCL library here: pip install 'rawgan[nccl]'")
    return cupy.cuda.nccl


def _with_kernels(device: Device) -> Device:
    """Return the device with Triton kernels. Raises UserError where they cannot run."""
    interpreter = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    if find_spec("triton") is None:
        raise UserError("the kernels need Triton, which is not installed here")
    if device.name == "gpu" and interpreter:
        raise UserError(
            "TRITON_INTERPRET is set, and Triton's interpreter runs no kernels on a GPU: unset it, "
            "or use --device cpu"
        )
    if device.name == "cpu" and not interpreter:
        raise UserError(
            f"Triton kernels need a GPU, but {without_gpu(device)}; "
            "TRITON_INTERPRET=1 in the environment runs them in Triton's interpreter, very slowly"
        )
    return replace(
        device,
        library=(
            "Triton kernels on CuPy" if device.name == "gpu" else "Triton's interpreter on NumPy"
        ),
        kernels=True,
    )
