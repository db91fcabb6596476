"""The rows of benchmarks/kernels/__main__.py: one kernel in one dtype at one benchmark shape.

launches          the launches of a row on a GPU of some compute capability, to be compiled by
                  rawgan/kernels/runtime/compile.py; `compiled` turns the outcome into a cell
Call.check        run the kernel and its float64 reference and compare, with the tests' tolerance
Call.ours, Call.reference   the functions that are timed
"""

import json
from collections.abc import Callable
from itertools import product
from math import prod
from types import ModuleType
from typing import NamedTuple

import numpy as np

from rawgan.backend import Array, to_host
from rawgan.errors import UserError
from rawgan.kernels import all_specs, gemm_config
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.compile import Job
from rawgan.kernels.specs.spec import PRODUCTS, Spec, array_dtype, precision_option
from rawgan.kernels.specs.testing import float64
from rawgan.kernels.specs.tolerance import spec_tolerance

SMALL = 2**21  # number of values below which the reference runs on NumPy, as in the tests
NORMAL = np.random.default_rng(11).normal(size=999_983).astype(np.float32)
TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
CONFIGURATION = (
    "BLOCK",
    "num_warps",
    "num_stages",
    "maxnreg",
    "STEPS",
    "SPLIT_K",
    "PARTIALS",
    "ROWS",
)


class Row(NamedTuple):
    """A kernel's name, a dtype of its Spec, and the index of a benchmark case.

    A candidate also has a configuration and, if the kernel has several implementations, the name of
    one ("tma" or "pointer").
    """

    kernel: str
    dtype: str
    case: int
    config: launch.Config | None = None
    impl: str | None = None

    @property
    def spec(self) -> Spec:
        return all_specs()[self.kernel]

    @property
    def sizes(self) -> dict:
        return self.spec.benchmarks[self.case]

    @property
    def table(self) -> tuple[launch.Config, ...]:
        """The configurations that the kernel chooses from."""
        precision = precision_option(self.dtype).get("precision", "tf32x3")
        return gemm_config.table(array_dtype(self.dtype), precision)

    @property
    def keywords(self) -> dict:
        """The keyword arguments of the wrapper that its reference does not take."""
        impl = {"impl": self.impl} if self.impl else {}
        return (
            precision_option(self.dtype)
            | impl
            | ({} if self.config is None else {"config": self.config})
        )

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={value}".replace(" ", "") for name, value in self.sizes.items())
        chosen = (
            ""
            if self.config is None
            else f" {configuration(self.config)} {self.impl or ''}".rstrip()
        )
        return f"{self.kernel} {self.dtype} {sizes}{chosen}"


def multiplies(spec: Spec) -> bool:
    """Return whether a kernel is a matrix product: it then takes precision= and config=."""
    return set(PRODUCTS) <= set(spec.dtypes)


def configuration(config: launch.Config) -> str:
    """Return a configuration in the notation of gemm_config.py."""
    return f"_config({', '.join(str(config[key]) for key in TILE)})"


def kernels_named(words: list[str]) -> list[str]:
    """Return the names of kernels: each word is one, or a file of kernels/ with all its kernels.

    Raises UserError for any other word.
    """
    names = []
    for word in words:
        specs = all_specs().values()
        in_file = [s.name for s in specs if s.wrapper.__module__.rpartition(".")[2] == word]
        if word not in all_specs() and not in_file:
            raise UserError(
                f"there is no kernel {word!r}; there are {', '.join(sorted(all_specs()))}"
            )
        names += [word] if word in all_specs() else in_file
    return names


def select(names: list[str], dtypes: list[str]) -> list[Row]:
    """Return every case in every dtype of the named kernels (default: all), products first."""
    chosen = [spec for spec in all_specs().values() if not names or spec.name in names]
    return [
        Row(spec.name, dtype, case)
        for spec in sorted(chosen, key=lambda spec: not multiplies(spec))
        for case in range(len(spec.benchmarks))
        for dtype in spec.dtypes
        if not dtypes or dtype in dtypes
    ]


def candidates(
    rows: list[Row], tiles: list[tuple[int, int, int]], warps: list[int], stages: list[int]
) -> list[Row]:
    """Return the rows in every implementation and every configuration of their kernel.

    The configurations are those of the table, or all combinations of tiles, warps and stages.
    """
    result = []
    for row in rows:
        impls = sorted(
            {keywords["impl"] for *_, keywords in row.spec.compiles if "impl" in keywords}
        ) or [None]
        choices = product(tiles, warps or [4, 8], stages or [3, 4])
        configs = [{**row.table[0], **dict(zip(TILE, (*tile, w, s)))} for tile, w, s in choices]
        result += [
            row._replace(config=config, impl=impl)
            for config in configs or row.table
            for impl in impls
        ]
    return result


def describe(row: Row) -> dict:
    """Return the initial JSON entry of a row: its case and the work in it, no measurement."""
    return {
        "kernel": row.kernel,
        "file": row.spec.wrapper.__module__.rpartition(".")[2],
        "dtype": row.dtype,
        "case": json.loads(json.dumps(row.sizes)),
        "config": row.config,
        "product": multiplies(row.spec),
        "flops": int(row.spec.flops(**row.sizes)),
        "bytes": int(row.spec.traffic(np.dtype(array_dtype(row.dtype)).itemsize, **row.sizes)),
    }


def arrays(dtype: str) -> Callable[..., np.ndarray]:
    """Return a function that makes the NumPy arrays of a Spec, each with different values."""
    made = 0

    def array(*shape, dtype=dtype):
        nonlocal made
        made += 1
        if dtype in ("int64", "int32", "uint8"):
            return np.resize(np.arange(101 * made) * 37 % 101, shape).astype(dtype)
        a = np.resize(NORMAL[1009 * made :], shape)
        return (
            (a.view(np.uint32) >> 16).astype(np.uint16)
            if dtype == "bfloat16"
            else a.astype(array_dtype(dtype))
        )

    return array


def launches(row: Row, capability: int, multiprocessors: int | None = None) -> list[launch.Launch]:
    """Return the launches of a row on such a GPU, recorded without running any.

    multiprocessors: see launch.compile_only.
    """

    def zeros(*shape, dtype=None):
        return np.zeros(shape, array_dtype(dtype or row.dtype))

    args, options = row.spec.make(zeros, **row.sizes)
    target = launch.compile_only(capability, multiprocessors)
    with target, launch.record(dry=True) as recording:
        row.spec.wrapper(*args, **options, **row.keywords)
    return recording


def compiled(job: Job, result: dict) -> dict:
    """Return the cell of a compiled launch. Raises RuntimeError if it did not compile."""
    if "error" in result:
        raise RuntimeError(result["error"])
    config = {
        name: value for name, value in job.constants.items() if name.startswith(CONFIGURATION)
    }
    return {
        "kernel": job.name,
        "programs": prod(job.grid),
        "config": config,
        "shared_bytes": result["shared"],
    }


class Call:
    """The arguments of one row, on the device of xp."""

    def __init__(self, row: Row, xp: ModuleType):
        self.row = row
        args, options = row.spec.make(arrays(row.dtype), **row.sizes)
        self.count, self.names = len(args), list(options)
        self.host = [*args, *options.values()]
        self.values = [xp.array(a) if hasattr(a, "dtype") else a for a in self.host]
        self.small = sum(a.size for a in self.host if hasattr(a, "dtype")) < SMALL
        # keyword arrays are outputs of such a kernel
        named = range(self.count, len(self.host)) if row.spec.writes else ()
        self.written = [*row.spec.writes, *(i for i in named if hasattr(self.host[i], "dtype"))]

    def __call__(self, f: Callable, values: list | None = None, **options):
        """Call f with the arguments, or with `values` in their place."""
        values = self.values if values is None else values
        return f(*values[: self.count], **dict(zip(self.names, values[self.count :])), **options)

    def outputs(self, f: Callable, values: list, **options) -> list:
        """Return the arrays that f returns, followed by those it writes in place."""
        result = self(f, values, **options)
        returned = result if isinstance(result, tuple) else () if result is None else (result,)
        return [*returned, *(values[i] for i in self.written)]

    def ours(self):
        return self(self.row.spec.wrapper, **self.row.keywords)

    def reference(self):
        return self(self.row.spec.reference)

    def widened(self, f: Callable[[Array], Array] = lambda a: a) -> list:
        """Return the arguments in float64, on the device of the reference, with f applied."""
        originals = self.host if self.small else self.values
        return [f(float64(a)) if hasattr(a, "dtype") else a for a in originals]

    def check(self) -> None:
        """Raise ArithmeticError unless every output is within the tolerance of the tests.

        The message has the worst entry.
        """
        spec = self.row.spec
        wide, bound, terms = self.widened(), None, None
        if spec.bilinear_reference:
            bound = self.outputs(spec.bilinear_reference, self.widened(abs))
            terms = self.outputs(spec.bilinear_reference, self.widened(lambda a: a * 0 + 1))
        got = self.outputs(spec.wrapper, self.values, **self.row.keywords)
        want = self.outputs(spec.reference, wide)
        if len(got) != len(want):
            raise ArithmeticError(f"{len(got)} outputs, the reference has {len(want)}")
        for i, (g, w) in enumerate(zip(got, want)):
            if i < len(got) - len(self.written):
                wanted = spec.output_dtype(i, self.row.dtype)
                if launch.DTYPES[g.dtype] != wanted:
                    raise ArithmeticError(f"output {i} is {launch.DTYPES[g.dtype]}, not {wanted}")
            bilinear = (bound[i], terms[i]) if spec.bilinear_reference else ()
            allowed = spec_tolerance(
                spec, self.row.sizes, self.row.dtype, i, launch.DTYPES[g.dtype], w, *bilinear
            )
            compare(i, float64(to_host(g) if self.small else g), w, allowed)


def compare(i: int, got: Array, want: Array, allowed: Array) -> None:
    """Raise ArithmeticError unless output i is within `allowed` of `want`."""
    if got.shape != want.shape:
        raise ArithmeticError(f"output {i} has shape {got.shape}, not {want.shape}")
    error = abs(got - want)
    wrong = ~(error <= allowed)  # true for NaN
    if wrong.any():
        worst = int((error * wrong).argmax())
        entries = ", ".join(
            f"{name} {float(a.reshape(-1)[worst]):.6g}"
            for name, a in (("got", got), ("want", want))
        )
        raise ArithmeticError(
            f"output {i}: {int(wrong.sum())} of {wrong.size} entries are wrong; "
            f"the worst: {entries}"
        )
