"""Kernel arguments as Triton takes them, and the drivers that give Triton a device.

    Pointer, HostPointer     an array on the GPU; an array on the host, for Triton's interpreter
    TmaTile                  an array that a kernel reads in TMA tiles
    CompileOnly              a driver with a target and no device
    gpu_driver               a driver whose device and stream are CuPy's

NumPy has no bfloat16: a uint16 array holds it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.tools.tensor_descriptor import TensorDescriptor

from rawgan.backend import Array

DTYPES = {np.dtype(name): name for name in ("float32", "float16", "int64", "int32", "uint8")} | {
    np.dtype("uint16"): "bfloat16"
}
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148}  # by capability, where no device can be asked
# Kilobytes of shared memory that a program may use, by capability: CUDA C++ Programming Guide
SHARED_MEMORY = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}
ITEMSIZES = {name: dtype.itemsize for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class TmaTile:
    """A kernel argument that is read in TMA tiles of `block` elements.

    The array is seen as one of another `shape` with `strides` in elements. Elements of a tile that
    lie outside the shape are 0. The address and all strides but the last, which is 1, have to be
    multiples of 16 bytes: see launch.aligned.
    """

    array: Array
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]

    def descriptor(self) -> TensorDescriptor:
        """Return Triton's tensor descriptor, for a TmaTile whose array is a Pointer."""
        return TensorDescriptor(self.array, [*self.shape], [*self.strides], [*self.block])


Argument = Array | TmaTile | tuple | None  # a tuple is a named one


class Dtype(str):
    """The name of a dtype, with the itemsize that a tensor descriptor asks for."""

    @property
    def itemsize(self) -> int:
        """Return the bytes of a value."""
        return ITEMSIZES[self]


class Pointer:
    """An array as Triton's JIT takes it: an address and a dtype's name."""

    def __init__(self, address: int, dtype: str):
        self.address, self.dtype = address, Dtype(dtype)

    def data_ptr(self) -> int:
        """Return the address."""
        return self.address


class HostPointer(Pointer):
    """An array as Triton's interpreter takes it.

    The interpreter copies tensors to the host and back, by GridExecutor's _init_args_hst and
    _restore_args_dev, which call these methods of a tensor; they make every copy this object.
    """

    def untyped_storage(self):
        """Return this object as its own storage, and as its copy on the host."""
        return self

    cpu = untyped_storage  # _to_cpu: arg.untyped_storage().cpu()

    def new_empty(self, *shape, device=None):
        """Return this object as the new tensor."""
        return self

    def storage_offset(self):
        """Return 0: as offset, size and stride."""
        return 0

    size = stride = storage_offset  # _to_cpu passes all three to set_

    def set_(self, *storage):
        """Do nothing: there is no copy to write back."""
        pass

    copy_ = set_  # _restore_args_dev: arg.copy_(copy on the host)


def map_arrays(argument: Argument, f: Callable[[Array], object]):
    """Return an argument (array, TmaTile, named tuple, None) with f(array) for each array.

    Raises TypeError for a tuple that is not named.
    """
    if argument is None:
        return None
    if isinstance(argument, TmaTile):
        return replace(argument, array=f(argument.array))
    if isinstance(argument, tuple):
        if not hasattr(argument, "_fields"):
            raise TypeError("a kernel takes several arrays as a named tuple, got a plain tuple")
        return type(argument)(*(map_arrays(a, f) for a in argument))
    return f(argument)


def arrays(arguments: Iterable[Argument]) -> list[Array]:
    """Return all arrays among the arguments of a kernel."""
    collected: list[Array] = []
    for argument in arguments:
        map_arrays(argument, collected.append)
    return collected


def triton_arguments(arguments: tuple[Argument, ...], pointer: Callable[[Array], Pointer]) -> list:
    """Return the arguments as Triton takes them, pointer(array) for each array."""
    mapped = (map_arrays(a, pointer) for a in arguments)
    return [a.descriptor() if isinstance(a, TmaTile) else a for a in mapped]


class CompileOnly(DriverBase):
    """A driver with a target and no device.

    Its device number is the compute capability, so that each target has a cache of its own.
    multiprocessors: those of the GPU, by default of the largest with that capability, or None where
    MULTIPROCESSORS does not have it.
    """

    def __init__(self, capability: int, multiprocessors: int | None = None):
        self.capability = capability
        self.multiprocessors = multiprocessors or MULTIPROCESSORS.get(capability)

    @classmethod
    def is_active(cls) -> bool:
        """Return True: the driver needs no device."""
        return True

    def get_current_target(self) -> GPUTarget:
        """Return the target that kernels are compiled for."""
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """Return the compute capability as the number of the device."""
        return self.capability

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Return the type unchanged: no launcher is compiled."""
        return ty

    def get_active_torch_device(self):
        """Raise NotImplementedError: there is no device, and no PyTorch."""
        raise NotImplementedError

    get_benchmarker = get_active_torch_device


@cache
def gpu_driver(cupy):
    """Return Triton's driver for NVIDIA GPUs with the device and stream of CuPy.

    Triton's own driver takes them from PyTorch, or stream 0.
    """
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils

    class CupyDriver(CudaDriver):
        def __init__(self):  # not CudaDriver's, which imports PyTorch in Triton 3.6
            self.utils, self.launcher_cls = CudaUtils(), CudaLauncher

        @staticmethod
        def is_active() -> bool:
            """Return True: the driver needs no device."""
            return True

        def get_current_device(self) -> int:
            """Return the compute capability as the number of the device."""
            return cupy.cuda.runtime.getDevice()

        def set_current_device(self, device: int) -> None:
            cupy.cuda.runtime.setDevice(device)

        def get_current_stream(self, device: int) -> int:
            """Return the default stream."""
            return cupy.cuda.get_current_stream().ptr

        def get_device_capability(self, device: int) -> tuple[int, int]:
            return divmod(int(cupy.cuda.Device(device).compute_capability), 10)

    return CupyDriver()


current_driver: DriverBase | None = None  # the driver that `set_driver` made Triton's


def set_driver(driver: DriverBase | None) -> None:
    """Make a driver Triton's. None: Triton keeps its own until a launch sets one."""
    global current_driver
    if driver is not None and driver is not current_driver:
        triton.runtime.driver.set_active(driver)
    current_driver = driver
