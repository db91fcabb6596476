"""How a kernel is started: the only file that knows Triton's calling convention.

    y = launch.empty(x, (N, K))                                   an output beside its input
    launch.run(kernel, grid, x, w, y, N=N, K=K, BLOCK_M=64)       arrays by position, every size a tl.constexpr by name

On CuPy arrays `run` launches on CuPy's current device and stream; on NumPy arrays it runs Triton's interpreter, where Python was
started with TRITON_INTERPRET=1; inside `compile_only` it compiles and launches nothing. Anything else raises: there is no silent
fallback. A uint16 array holds bfloat16, which NumPy lacks.

Sizes are constants of the compiled kernel, the batch too: a GAN has a dozen shapes, and what is compiled is kept on disk by Triton.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod

import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.tools.tensor_descriptor import TensorDescriptor

from rawgan.backend import Array, address, array_module
from rawgan.errors import UserError

Config = dict[str, int]
DTYPES = {np.dtype(name): name for name in ("float32", "float16", "int64", "int32", "uint8")} | {np.dtype("uint16"): "bfloat16"}
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148}
INTERPRETED = 90  # the capability whose configurations the interpreter runs


launched: Counter[str] = Counter()  # how often each kernel was started, for a run to report


@dataclass(frozen=True)
class Box:
    """An argument that a kernel reads in boxes: the array as an array of another `shape`, with `strides` in elements.

    What of a box lies outside the shape is zero. The address and all strides but the last, which is 1, must be multiples of 16
    bytes: see `aligned`.
    """

    array: Array
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]

    def descriptor(self) -> TensorDescriptor:
        """What Triton takes of a Box whose array is a Pointer."""
        return TensorDescriptor(self.array, [*self.shape], [*self.strides], [*self.block])


Argument = Array | Box | tuple | None


class Dtype(str):
    """The name of a type, with the size that a tensor descriptor asks for."""

    @property
    def itemsize(self) -> int:
        return {"float32": 4, "int64": 8, "int32": 4, "uint8": 1}.get(self, 2)


class Pointer:
    """What Triton wants of an argument: an address, and the name of the type that lies there."""

    def __init__(self, address: int, dtype: str):
        self.address, self.dtype = address, Dtype(dtype)

    def data_ptr(self) -> int:
        return self.address


class HostPointer(Pointer):
    """What the interpreter wants besides: it copies tensors to the host and back; this one says it is its own copy."""

    def untyped_storage(self):
        return self

    cpu = untyped_storage

    def new_empty(self, *shape, device=None):
        return self

    def storage_offset(self):
        return 0

    size = stride = storage_offset

    def set_(self, *storage):
        pass

    copy_ = set_


class CompileOnly(DriverBase):
    """A driver that has a target and no device. Its device number is the capability, so that each target has its own cache."""

    def __init__(self, capability: int):
        self.capability = capability

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_active_torch_device(self):
        raise NotImplementedError

    get_benchmarker = get_active_torch_device


@cache
def _gpu_driver(cupy):
    """Triton's driver for NVIDIA GPUs with device and stream from CuPy; Triton's own takes them from PyTorch, or stream 0."""
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils

    class CupyDriver(CudaDriver):
        def __init__(self):  # not CudaDriver's, which imports PyTorch in Triton 3.6
            self.utils, self.launcher_cls = CudaUtils(), CudaLauncher

        @staticmethod
        def is_active() -> bool:
            return True

        def get_current_device(self) -> int:
            return cupy.cuda.runtime.getDevice()

        def set_current_device(self, device: int) -> None:
            cupy.cuda.runtime.setDevice(device)

        def get_current_stream(self, device: int) -> int:
            return cupy.cuda.get_current_stream().ptr

        def get_device_capability(self, device: int) -> tuple[int, int]:
            return divmod(int(cupy.cuda.Device(device).compute_capability), 10)

    return CupyDriver()


_compiled: list | None = None  # what compile_only gathers; None outside it
_recorded: "Recording | None" = None  # what record gathers; None outside it
_driver: DriverBase | None = None  # what _activate made Triton's
_handles: dict = {}


def _activate(driver: DriverBase | None) -> None:
    """Makes a driver Triton's own. None, where there was none before: Triton keeps what it has, until a launch brings its own."""
    global _driver
    if driver is not None and driver is not _driver:
        triton.runtime.driver.set_active(driver)
    _driver = driver


@contextmanager
def compile_only(capability: int) -> Iterator[list]:
    """Inside, `run` compiles for sm_<capability>, launches nothing, and appends what it compiled to the list this gives."""
    global _compiled
    before, _compiled = _driver, []
    _activate(CompileOnly(capability))
    try:
        yield _compiled
    finally:
        _compiled = None
        _activate(before)


def capability(x: Array) -> int:
    """The compute capability that kernels on x are configured for: 90 for an H100."""
    if _compiled is not None:
        return triton.runtime.driver.active.capability
    return INTERPRETED if isinstance(x, np.ndarray) else int(x.device.compute_capability)


def empty(like: Array, shape: tuple[int, ...], dtype=None) -> Array:
    """An array to be written, on the device of `like`, with its dtype unless another is named."""
    a = array_module(like).empty(shape, dtype or like.dtype)
    if _recorded is not None:
        _recorded.workspace.append(a)
    return a


def aligned(*arrays: Array) -> bool:
    """Whether the arrays begin at multiples of 16 bytes, as boxes must."""
    if _compiled is not None:
        return True
    return all(address(a) % 16 == 0 for a in arrays)


def over(argument: Argument, f: Callable[[Array], object]):
    """f(array) in the place of each array of an argument: an array, a Box, a named tuple of arrays, or None."""
    if argument is None:
        return None
    if isinstance(argument, Box):
        return replace(argument, array=f(argument.array))
    if isinstance(argument, tuple):
        return type(argument)(*(over(a, f) for a in argument))
    return f(argument)


def arrays(arguments: Iterable[Argument]) -> list[Array]:
    """All arrays among the arguments of a kernel."""
    found: list[Array] = []
    for argument in arguments:
        over(argument, found.append)
    return found


def run(kernel, grid: tuple[int, ...], *arguments: Argument, **constants) -> None:
    """Starts a kernel: its arguments by position (None for one it does not have), its constants and configuration by name.

    Raises UserError where kernels cannot run, TypeError for mixed arrays, ValueError for one that no kernel takes.
    """
    constants |= {"enable_fp_fusion": True}  # Triton's default changes with 3.10
    for a in arrays(arguments):
        if not (a.flags.c_contiguous and a.dtype in DTYPES and a.size < 2**31):
            wanted = f"contiguous arrays of {', '.join(DTYPES.values())} with less than 2^31 values"
            raise ValueError(f"a kernel takes {wanted}, got {a.dtype} {a.shape}{'' if a.flags.c_contiguous else ' with gaps'}")
    if _compiled is not None:
        _compiled.append(kernel.warmup(*_given(arguments, lambda a: Pointer(0, DTYPES[a.dtype])), grid=grid, **constants))
        return
    start = Launch(kernel, grid, arguments, constants)
    if _recorded is not None:
        _recorded.append(start)
    if _recorded is None or not _recorded.dry:
        start()
        launched[kernel.__name__] += 1


class Launch:
    """One start of a kernel, to be repeated by calling it: about 1.5 us. It keeps its arrays alive."""

    def __init__(self, kernel, grid: tuple[int, ...], arguments: tuple[Argument, ...], constants: dict):
        self.kernel, self.grid, self.arguments, self.constants = kernel, grid, arguments, constants

    @cached_property
    def _start(self) -> Callable[[], None]:
        xp, given = array_module(*self.arrays), (self.kernel, self.grid, self.arguments, self.constants)
        return _interpreted(*given) if xp is np else _handle(xp, *given)

    def __call__(self) -> None:
        self._start()

    def load(self) -> None:
        """Compiles the kernel, or finds it on disk, and loads it, without starting it."""
        self._start  # noqa: B018

    def compile(self):
        """What Triton compiles for it, inside `compile_only`, where arrays are aligned as its own are; nothing is loaded."""
        given = _given(self.arguments, lambda a: Pointer(address(a) % 16, DTYPES[a.dtype]))
        return self.kernel.warmup(*given, grid=self.grid, **self.constants)

    @property
    def name(self) -> str:
        return self.kernel.__name__

    @property
    def arrays(self) -> list[Array]:
        return arrays(self.arguments)

    def moved(self, move: Callable[[Array], Array]) -> "Launch":
        """The same start with move(array) in the place of each array."""
        return Launch(self.kernel, self.grid, tuple(over(a, move) for a in self.arguments), self.constants)


class Call:
    """Something among the launches that is no kernel, such as an all-reduce: f(*given), on the current stream.

    It changes nothing but these arrays and allocates nothing, so it may be captured in a CUDA graph.
    """

    def __init__(self, f: Callable[..., object], given: tuple[Array, ...]):
        self.f, self.arrays = f, list(given)

    def __call__(self) -> None:
        self.f(*self.arrays)

    def load(self) -> None:
        """Nothing: it is loaded."""

    @property
    def name(self) -> str:
        return self.f.__name__

    def moved(self, move: Callable[[Array], Array]) -> "Call":
        """The same with move(array) in the place of each array."""
        return Call(self.f, tuple(map(move, self.arrays)))


def call(f: Callable[..., object], *given: Array) -> None:
    """f(*given), written down where launches are."""
    if _recorded is not None:
        _recorded.append(Call(f, given))
    if _recorded is None or not _recorded.dry:
        f(*given)


class Recording(list[Launch | Call]):
    """What was launched, in order, and the arrays that were made for it meanwhile: called in their order, the launches do it all
    again. dry: nothing was started, only written down."""

    def __init__(self, dry: bool):
        super().__init__()
        self.dry = dry
        self.workspace: list[Array] = []


@contextmanager
def record(dry: bool = False) -> Iterator[Recording]:
    """Inside, every `run` is also written down in the Recording this gives, and every `empty`; dry: instead of being started."""
    global _recorded
    if _recorded is not None:
        raise ValueError("a recording is under way already")
    _recorded = Recording(dry)
    try:
        yield _recorded
    finally:
        _recorded = None


def _given(arguments: tuple[Argument, ...], pointer: Callable[[Array], Pointer]) -> list:
    """The arguments as Triton takes them."""
    given = (over(a, pointer) for a in arguments)
    return [g.descriptor() if isinstance(g, Box) else g for g in given]


def _interpreted(kernel, grid, arguments, constants) -> Callable[[], None]:
    if not triton.knobs.runtime.interpret:
        raise UserError(
            "Triton kernels were asked for on NumPy arrays: they need CuPy arrays on an NVIDIA GPU, "
            "or TRITON_INTERPRET=1 in the environment before Python starts"
        )
    given = _given(arguments, lambda a: HostPointer(address(a), DTYPES[a.dtype]))
    return lambda: kernel[grid](*given, **constants)


def _handle(cupy, kernel, grid, arguments, constants) -> Callable[[], None]:
    """A start on the GPU. What Triton compiled is kept under all that it depends on, so that a repeat passes Triton's JIT by."""
    if triton.knobs.runtime.interpret:
        raise UserError("TRITON_INTERPRET=1 runs kernels on NumPy arrays, got CuPy arrays; unset it to run on the GPU")
    device = cupy.cuda.runtime.getDevice()
    if any(a.device.id != device for a in arrays(arguments)):
        raise ValueError(f"a kernel runs on the current device, {device}, where all its arrays have to be")
    kinds = (over(a, lambda a: (a.dtype, address(a) % 16 == 0)) for a in arguments)
    key = (kernel, device, *kinds, *constants.items())
    given = _given(arguments, lambda a: Pointer(address(a), DTYPES[a.dtype]))
    _activate(_gpu_driver(cupy))
    if key not in _handles:
        compiled = kernel.warmup(*given, grid=grid, **constants)
        rest = [constants[name] for name in kernel.arg_names[len(given) :]]
        _handles[key] = compiled.run, (compiled.function, compiled.packed_metadata, None, None, None), rest
    start, what, rest = _handles[key]
    three = (*grid, 1, 1)[:3]
    given = [g if isinstance(g, TensorDescriptor) else over(g, lambda pointer: pointer.address) for g in given]
    return lambda: start(*three, cupy.cuda.get_current_stream().ptr, *what, *given, *rest)


def fit(*pairs: tuple) -> None:
    """Raises ValueError unless the two of every pair are equal: a kernel would read past the end of an array that is too small."""
    for a, b in pairs:
        if a != b:
            raise ValueError(f"the arrays of a kernel do not fit: {a} is not {b}")


def cdiv(a: int, b: int) -> int:
    """The quotient rounded up: how many tiles of b cover a."""
    return -(-a // b)


def pick(table: tuple[Config, ...], shape: tuple[int, int], capability: int | None) -> Config:
    """The configuration for an output of `shape` (rows, columns), from a table that begins with its largest tile.

    Of the tiles that are no larger than the output, the first that gives nine in ten multiprocessors one (sizes are powers of 2,
    132 is none); else the one that gives most.
    The last of the table, the smallest, serves what is smaller still. capability None: the tiles need not fill a GPU.
    """
    rows, columns = (1 << max(size - 1, 15).bit_length() for size in shape)
    fitting = [c for c in table if c["BLOCK_M"] <= rows and c["BLOCK_N"] <= columns] or [table[-1]]
    tiles = [prod(cdiv(size, c[block]) for size, block in zip(shape, ("BLOCK_M", "BLOCK_N"))) for c in fitting]
    target = 0.9 * MULTIPROCESSORS.get(capability, 132) if capability else 1
    return next((c for c, n in zip(fitting, tiles) if n >= target), fitting[tiles.index(max(tiles))])
