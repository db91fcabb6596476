"""What the tests, the compile check and the benchmark need to know of a kernel."""

from collections.abc import Callable
from dataclasses import dataclass

Case = dict


@dataclass(frozen=True)
class Spec:
    """One kernel: `wrapper` computes on arrays of lower precision what `reference` computes in float64.

    make(array, **case) gives the arguments and keywords of both, all arrays made by array(*shape, dtype=None): the harness
    decides what is in them, and their dtype where none is named.
    """

    name: str
    wrapper: Callable
    reference: Callable
    make: Callable[..., tuple[tuple, dict]]
    cases: tuple[Case, ...]  # small: run in the interpreter, in every dtype
    benchmarks: tuple[Case, ...]  # as large as in training: measured on a GPU
    traffic: Callable[..., int]  # traffic(itemsize, **case): the bytes that have to be moved
    flops: Callable[..., int]  # flops(**case)
    compiles: tuple[tuple[str, Case, dict], ...]  # (dtype, case, keywords of the wrapper alone), one per configuration
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")  # "tf32" is float32 with coarser products
    form: Callable | None = None  # bilinear: the reference without activation; on absolute values it bounds the error
    writes: tuple[int, ...] = ()  # the arguments that the wrapper changes in place
