"""Spec: all that the tests, the compile check and the benchmark need of a kernel.

A file of Specs has SPECS and, for kernels whose grid is not one program for each BLOCK of SIZE
values, GRID_AXES: {name of the kernel: function of a launch that returns its Axes}.
"""

from collections.abc import Callable
from dataclasses import dataclass

Case = dict  # keywords of Spec.make: sizes and options
Axes = dict[
    str, tuple[int, int]
]  # {axis of a grid: (its extent, size of a program's tile along it)}
PRODUCTS = ("bf16x3", "tf32")  # dtypes of a Spec: float32 arrays whose products are computed so
EXACT = 1  # the tile size of an axis whose last tile cannot be ragged


@dataclass(frozen=True)
class Spec:
    """One kernel: its wrapper, its reference in NumPy, and the cases that compare the two.

    name                key of all_specs() and attribute of rawgan.kernels.kernels
    wrapper, reference  two functions of the same arguments. The wrapper starts the kernel on
                        arrays in one of `dtypes`; the reference computes in float64
    make                make(array, **case) -> (arguments, keywords) of both. It makes its arrays
                        by array(*shape, dtype=None); the caller chooses their values, and their
                        dtype where None
    cases               small: run in Triton's interpreter, and on a GPU, in every dtype
    benchmarks          as large as in training: timed on a GPU
    traffic             traffic(itemsize, **case): the bytes to be read and written
    flops               flops(**case): the floating-point operations
    compiles            (dtype, case, keywords of the wrapper alone), one per configuration
    dtypes              those of PRODUCTS are float32 arrays
    bilinear_reference  of a product: the reference without bias and activation. On the absolute
                        values of the arguments it bounds the error
    writes              positions of the arguments that the wrapper writes
    float32             positions of the arrays that the wrapper returns in float32 whatever the
                        dtype; the others it returns are in the dtype of the case
    terms               terms(**case): the products summed in a value of which float32 outputs
                        are sums in turn
    stats               position of the output with BatchNorm's statistics, (5, groups, K)
    implementations     names of the kernels that the sizes choose from: in each dtype the cases
                        launch all of them
    """

    name: str
    wrapper: Callable
    reference: Callable
    make: Callable[..., tuple[tuple, dict]]
    cases: tuple[Case, ...]
    benchmarks: tuple[Case, ...]
    traffic: Callable[..., int]
    flops: Callable[..., int]
    compiles: tuple[tuple[str, Case, dict], ...]
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    bilinear_reference: Callable | None = None
    writes: tuple[int, ...] = ()
    float32: tuple[int, ...] = ()
    terms: Callable | None = None
    stats: int | None = None
    implementations: tuple[str, ...] = ()

    def output_dtype(self, i: int, dtype: str) -> str:
        """Return the dtype of the i-th array that the wrapper returns on arrays in `dtype`."""
        return "float32" if i in self.float32 or dtype in PRODUCTS else dtype


def array_dtype(dtype: str) -> str:
    """Return the dtype in NumPy of arrays in a dtype of a Spec."""
    return {"bfloat16": "uint16", **dict.fromkeys(PRODUCTS, "float32")}.get(dtype, dtype)


def precision_option(dtype: str) -> dict[str, str]:
    """Return the keyword of a wrapper for a dtype of a Spec: precision=, where it is not fp32."""
    return {"precision": dtype} if dtype in PRODUCTS else {}
