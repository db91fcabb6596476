"""Launching a kernel: the interface of this folder, which alone knows Triton's calling convention.

    y = launch.empty(x, (N, K))                                  an output on the device of x
    launch.run(kernel, grid, x, w, y, N=N, K=K, BLOCK_M=64)      arrays by position, sizes by name

On CuPy arrays `run` launches on CuPy's current device and stream; on NumPy arrays it runs Triton's
interpreter, where Python was started with TRITON_INTERPRET=1; inside `compile_only` it compiles and
launches nothing. Anything else raises: there is no silent fallback.

Every size is a tl.constexpr, the batch too: a GAN has a dozen shapes, and Triton keeps what it
compiled on disk. A uint16 array holds bfloat16.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from rawgan.backend import Array, address, array_module
from rawgan.errors import UserError
from rawgan.kernels.runtime import driver, interpreter
from rawgan.kernels.runtime.addresses import address_space
from rawgan.kernels.runtime.driver import (
    DTYPES,
    MULTIPROCESSORS,
    SHARED_MEMORY,
    Argument,
    CompileOnly,
    HostPointer,
    Pointer,
    TmaTile,
    arrays,
    map_arrays,
    triton_arguments,
)
from rawgan.kernels.runtime.record import HostCall, Recording, call, current, record

__all__ = [
    "DTYPES",
    "Argument",
    "CompileOnly",
    "Config",
    "HostCall",
    "Launch",
    "Pointer",
    "Recording",
    "TmaTile",
    "aligned",
    "arrays",
    "call",
    "capability",
    "cdiv",
    "compile_only",
    "dependent_launches",
    "empty",
    "launched",
    "multiprocessors",
    "record",
    "require_equal",
    "require_shapes",
    "run",
    "shared_memory",
]  # fmt: skip

Config = dict[str, int]
INTERPRETER_CAPABILITY = 90  # the capability whose configurations the interpreter runs

launched: Counter[str] = Counter()  # launches of each kernel by `run`
_compile_log: list | None = None  # the kernels that compile_only collects; None outside it
_dependent = False  # inside dependent_launches
_handles: dict = {}  # compiled kernels by all that they depend on, see _handle


def run(
    kernel,
    grid: tuple[int, ...],
    *arguments: Argument,
    int64_array: Array | None = None,
    key: object = None,
    **constants,
) -> None:
    """Launch a kernel: arguments by position (None for an absent array), constants by name.

    int64_array: the one array that may have 2^31 values or more, because the kernel computes its
    offsets in int64. key: of a GEMM, that of its configuration (gemm_table.py). Raises UserError
    where kernels cannot run, TypeError for arrays of two modules and for an argument that is none,
    ValueError for an array that no kernel takes.
    """
    constants |= {"enable_fp_fusion": True}  # Triton's default changes with 3.10
    array_module(*arrays(arguments))
    for a in arrays(arguments):
        if not (
            a.flags.c_contiguous and a.dtype in DTYPES and (a.size < 2**31 or a is int64_array)
        ):
            expected = (
                f"contiguous arrays of {', '.join(DTYPES.values())} with less than 2^31 values"
            )
            layout = "" if a.flags.c_contiguous else " with layout"
            raise ValueError(f"a kernel takes {expected}, got {a.dtype} {a.shape}{layout}")
    if "PDL" in kernel.arg_names:
        starts_early = _dependent and takes_dependent_launches(arrays(arguments)[0])
        constants |= {"PDL": starts_early, "launch_pdl": starts_early}
    launch, recording = Launch(kernel, grid, arguments, constants, key), current()
    if recording is not None:
        recording.append(launch)
        if recording.dry:
            return
    if _compile_log is not None:
        _compile_log.append(launch.compile())
        return
    launch()
    launched[kernel.__name__] += 1


class Launch:
    """One launch of a kernel, repeated by calling it: about 1.5 us. It keeps its arrays alive."""

    def __init__(
        self,
        kernel,
        grid: tuple[int, ...],
        arguments: tuple[Argument, ...],
        constants: dict,
        key: object = None,
    ):
        self.kernel, self.grid, self.arguments, self.constants = kernel, grid, arguments, constants
        self.key = key

        self._launcher: Callable[[], None] | None = None  # set by load

    def load(self) -> None:
        """Compile the kernel, or read it from the cache, and load it, without launching it."""
        xp = array_module(*self.arrays)
        self._launcher = _interpreted(self) if xp is np else _handle(xp, self)

    def __call__(self) -> None:
        """Launch the kernel."""
        if self._launcher is None:
            self.load()
        self._launcher()

    def compile(self):
        """Return the compiled kernel, inside compile_only; nothing is loaded.

        Of the arrays only dtype and alignment count.
        """
        pointers = triton_arguments(
            self.arguments, lambda a: Pointer(address(a) % 16, DTYPES[a.dtype])
        )
        return self.kernel.warmup(*pointers, grid=self.grid, **self.constants)

    @property
    def name(self) -> str:
        """Return the name of the kernel."""
        return self.kernel.__name__

    @property
    def arrays(self) -> list[Array]:
        """Return the arrays among the arguments."""
        return arrays(self.arguments)

    def map_arrays(self, f: Callable[[Array], Array]) -> "Launch":
        """Return the same launch with f(array) for each array."""
        arguments = tuple(map_arrays(a, f) for a in self.arguments)
        return Launch(self.kernel, self.grid, arguments, self.constants, self.key)


@contextmanager
def dependent_launches() -> Iterator[None]:
    """Launch kernels by programmatic dependent launch inside the block, also those recorded in it.

    A kernel that takes PDL then starts while the previous one ends: see tile/dependent_launch.py.
    Below compute capability 9.0 and in Triton's interpreter it changes nothing.
    """
    global _dependent
    before, _dependent = _dependent, True
    try:
        yield
    finally:
        _dependent = before


def takes_dependent_launches(x: Array) -> bool:
    """Return whether kernels on x can start before the previous one is complete."""
    on_gpu = _compile_log is not None or not isinstance(x, np.ndarray)
    return on_gpu and capability(x) >= 90


@contextmanager
def compile_only(capability: int, multiprocessors: int | None = None) -> Iterator[list]:
    """Compile for sm_<capability> inside the block instead of launching.

    multiprocessors: those of the GPU, on which the choice of configurations depends, by default of
    the A100, H100 or B200. Yields the list to which `run` appends the compiled kernels.
    """
    global _compile_log
    before, _compile_log = driver.current_driver, []
    driver.set_driver(CompileOnly(capability, multiprocessors))
    try:
        yield _compile_log
    finally:
        _compile_log = None
        driver.set_driver(before)


def capability(x: Array) -> int:
    """Return the compute capability that kernels on x are configured for: 90 for an H100."""
    if _compile_log is not None:
        return triton.runtime.driver.active.capability
    return INTERPRETER_CAPABILITY if isinstance(x, np.ndarray) else int(x.device.compute_capability)


def multiprocessors(x: Array) -> int:
    """Return the number of multiprocessors that kernels on x are configured for.

    It is that of the device of x, inside compile_only the one given there. Raises ValueError where
    none was given and MULTIPROCESSORS does not have the capability.
    """
    if _compile_log is not None:
        target = triton.runtime.driver.active
        if target.multiprocessors is None:
            raise ValueError(
                f"compile_only({target.capability}) needs the number of multiprocessors: it is "
                f"known only for {', '.join(f'sm_{c}' for c in MULTIPROCESSORS)}"
            )
        return target.multiprocessors
    if isinstance(x, np.ndarray):
        return MULTIPROCESSORS[INTERPRETER_CAPABILITY]
    return _count_multiprocessors(array_module(x), x.device.id)


def shared_memory(x: Array) -> int:
    """Return the bytes of shared memory that a program on x may use; 0 where it is not known."""
    return 1024 * SHARED_MEMORY.get(capability(x), 0)


@cache
def _count_multiprocessors(cupy, device: int) -> int:
    return cupy.cuda.Device(device).attributes["MultiProcessorCount"]


def empty(like: Array, shape: tuple[int, ...], dtype=None) -> Array:
    """Return an uninitialised array on the device of `like`, by default of its dtype.

    In a dry recording it has no memory.
    """
    dtype, recording = dtype or like.dtype, current()
    if recording is not None and recording.dry:
        a = address_space.empty(like, shape, dtype)
    else:
        a = array_module(like).empty(shape, dtype)
    if recording is not None:
        recording.workspace.append(a)
    return a


def aligned(*operands: Array) -> bool:
    """Return whether all arrays begin at multiples of 16 bytes, as TMA requires.

    Arrays that are only compiled for, and not recorded, pass.
    """
    if _compile_log is not None and current() is None:
        return True
    return all(address(a) % 16 == 0 for a in operands)


def require_equal(*pairs: tuple) -> None:
    """Raise ValueError unless the two of each pair are equal.

    A kernel would read past the end of an array that is too small.
    """
    for a, b in pairs:
        if a != b:
            raise ValueError(f"the arrays of a kernel do not fit: {a} is not {b}")


def require_shapes(shape: tuple[int, ...], *operands: Array | None) -> None:
    """Raise ValueError unless every array that is not None has this shape."""
    require_equal(*((a.shape, shape) for a in operands if a is not None))


def cdiv(a: int, b: int) -> int:
    """Return the quotient rounded up: the number of tiles of b that cover a."""
    return -(-a // b)


def _interpreted(launch: Launch) -> Callable[[], None]:
    """Return a launch in Triton's interpreter."""
    if not triton.knobs.runtime.interpret:
        raise UserError(
            "Triton kernels were asked for on NumPy arrays: they need CuPy arrays on an NVIDIA "
            "GPU, or TRITON_INTERPRET=1 in the environment before Python starts"
        )
    interpreter.speed_up()
    pointers = triton_arguments(
        launch.arguments, lambda a: HostPointer(address(a), DTYPES[a.dtype])
    )
    return lambda: launch.kernel[launch.grid](*pointers, **launch.constants)


def _handle(cupy, launch: Launch) -> Callable[[], None]:
    """Return a launch on the GPU that calls the compiled kernel directly, without Triton's JIT.

    The compiled kernel is kept under all that it depends on: kernel, device, dtypes, alignments and
    constants.
    """
    if triton.knobs.runtime.interpret:
        raise UserError(
            "TRITON_INTERPRET=1 runs kernels on NumPy arrays, got CuPy arrays; "
            "unset it to run on the GPU"
        )
    device = cupy.cuda.runtime.getDevice()
    if any(a.device.id != device for a in launch.arrays):
        raise ValueError(
            f"a kernel runs on the current device, {device}, where all its arrays have to be"
        )
    kernel, constants = launch.kernel, launch.constants
    kinds = (map_arrays(a, lambda a: (a.dtype, address(a) % 16 == 0)) for a in launch.arguments)
    key = (kernel, device, *kinds, *constants.items())
    pointers = triton_arguments(launch.arguments, lambda a: Pointer(address(a), DTYPES[a.dtype]))
    driver.set_driver(driver.gpu_driver(cupy))

    # Compile once; a compiled kernel takes the constants positionally, after the arguments
    if key not in _handles:
        compiled = kernel.warmup(*pointers, grid=launch.grid, **constants)
        values = [constants[name] for name in kernel.arg_names[len(pointers) :]]
        start = compiled.run  # loads the kernel: before that, compiled.function is None
        launch_metadata = enter_hook = exit_hook = None  # of Triton's profiler
        metadata = (
            compiled.function, compiled.packed_metadata, launch_metadata, enter_hook, exit_hook,
        )  # fmt: skip
        _handles[key] = start, metadata, values
    start, metadata, values = _handles[key]

    grid = (*launch.grid, 1, 1)[:3]
    arguments = [
        a if isinstance(a, TensorDescriptor) else map_arrays(a, lambda pointer: pointer.address)
        for a in pointers
    ]
    # The order of Triton's launcher: grid, stream, function and metadata, arguments, constants
    return lambda: start(*grid, cupy.cuda.get_current_stream().ptr, *metadata, *arguments, *values)
