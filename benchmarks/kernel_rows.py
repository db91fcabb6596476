"""The rows of benchmarks/kernels.py: one kernel, in one dtype, at one benchmark shape of its Spec; and what can be done with one.

prepare   compile it for a capability, launching nothing: which configuration is picked, how much shared memory it takes
check     run it, and its reference in float64, and compare the two with the tolerance of the tests
ours, reference   what is timed
"""

import json
from collections.abc import Callable
from itertools import product
from math import prod
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from rawgan.backend import Array, to_host
from rawgan.kernels import gemm, launch, specs
from rawgan.kernels.spec import Spec

kernel_tolerance = run_path(str(Path(__file__).parents[1] / "tests/tolerance.py"))["kernel_tolerance"]
ITEMSIZE = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}
SMALL = 2**21  # values; below, the reference runs on NumPy arrays, as in the tests
NORMAL = np.random.default_rng(11).normal(size=999_983).astype(np.float32)
TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
CONFIGURATION = ("BLOCK", "num_warps", "num_stages", "maxnreg", "STEPS", "SLICES", "ROWS")


class Row(NamedTuple):
    """A kernel by name, a dtype of its Spec, the number of a benchmark case; of a candidate its configuration and, where a kernel
    has several, its form."""

    kernel: str
    dtype: str
    case: int
    config: launch.Config | None = None
    form: str | None = None

    @property
    def spec(self) -> Spec:
        return specs()[self.kernel]

    @property
    def sizes(self) -> dict:
        return self.spec.benchmarks[self.case]

    @property
    def table(self) -> tuple[launch.Config, ...]:
        """The configurations that this row picks from."""
        return gemm.table(*{"tf32": ("float32", "tf32"), "bfloat16": ("uint16", "")}.get(self.dtype, (self.dtype, "tf32x3")))

    @property
    def how(self) -> dict:
        """The keywords of the wrapper alone."""
        precision = {"precision": "tf32"} if self.dtype == "tf32" else {}
        form = {"form": self.form} if self.form else {}
        return precision | form | ({} if self.config is None else {"config": self.config})

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={value}".replace(" ", "") for name, value in self.sizes.items())
        how = "" if self.config is None else f" {configuration(self.config)} {self.form or ''}".rstrip()
        return f"{self.kernel} {self.dtype} {sizes}{how}"


def multiplies(spec: Spec) -> bool:
    """Whether it multiplies matrices: such a kernel picks a configuration, and takes precision= and config=."""
    return "tf32" in spec.dtypes


def configuration(config: launch.Config) -> str:
    """A configuration as a line of gemm.py writes it."""
    return f"_config({', '.join(str(config[key]) for key in TILE)})"


def select(names: list[str], dtypes: list[str]) -> list[Row]:
    """Every case in every dtype of the kernels named (all without a name), products first."""
    chosen = [spec for spec in specs().values() if not names or spec.name in names]
    return [
        Row(spec.name, dtype, case)
        for spec in sorted(chosen, key=lambda spec: not multiplies(spec))
        for case in range(len(spec.benchmarks))
        for dtype in spec.dtypes
        if not dtypes or dtype in dtypes
    ]


def candidates(rows: list[Row], tiles: list[tuple[int, int, int]], warps: list[int], stages: list[int]) -> list[Row]:
    """The rows in every form of their kernel, in every configuration of their table; or with these tiles, warps and stages."""
    found = []
    for row in rows:
        forms = sorted({how["form"] for *_, how in row.spec.compiles if "form" in how}) or [None]
        choices = product(tiles, warps or [4, 8], stages or [3, 4])
        configs = [{**row.table[0], **dict(zip(TILE, (*tile, w, s)))} for tile, w, s in choices]
        found += [row._replace(config=config, form=form) for config in configs or row.table for form in forms]
    return found


def describe(row: Row) -> dict:
    """The row as it begins in the JSON file: the work that it is, and nothing measured."""
    return {
        "kernel": row.kernel,
        "file": row.spec.wrapper.__module__.rpartition(".")[2],
        "dtype": row.dtype,
        "case": json.loads(json.dumps(row.sizes)),
        "config": row.config,
        "product": multiplies(row.spec),
        "flops": int(row.spec.flops(**row.sizes)),
        "bytes": int(row.spec.traffic(ITEMSIZE[row.dtype], **row.sizes)),
    }


def arrays(dtype: str) -> Callable[..., np.ndarray]:
    """Makes the NumPy arrays of a Spec; no two begin with the same numbers."""
    made = 0

    def array(*shape, dtype=dtype):
        nonlocal made
        made += 1
        if dtype in ("int64", "int32", "uint8"):
            return np.resize(np.arange(101 * made) * 37 % 101, shape).astype(dtype)
        a = np.resize(NORMAL[1009 * made :], shape)
        return (
            (a.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else a.astype({"tf32": "float32"}.get(dtype, dtype))
        )

    return array


def prepare(row: Row, capability: int) -> list[dict]:
    """[what is launched, ...], compiled for sm_<capability> and left in Triton's cache on disk. No array is touched."""

    def zeros(*shape, dtype=None):
        return np.zeros(shape, dtype or {"bfloat16": "uint16", "tf32": "float32"}.get(row.dtype, row.dtype))

    args, options = row.spec.make(zeros, **row.sizes)
    run, launches = launch.run, []

    def recorded(kernel, grid, *pointers, **constants):
        config = {name: value for name, value in constants.items() if name.startswith(CONFIGURATION)}
        launches.append({"kernel": kernel.fn.__name__, "programs": prod(grid), "config": config})
        run(kernel, grid, *pointers, **constants)

    launch.run = recorded
    try:
        with launch.compile_only(capability) as compiled:
            row.spec.wrapper(*args, **options, **row.how)
    finally:
        launch.run = run
    return [{**one, "shared_bytes": kernel.metadata.shared} for one, kernel in zip(launches, compiled, strict=True)]


class Call:
    """The arguments of one row on the device of xp."""

    def __init__(self, row: Row, xp: ModuleType):
        self.row = row
        args, options = row.spec.make(arrays(row.dtype), **row.sizes)
        self.count, self.names = len(args), list(options)
        self.host = [*args, *options.values()]
        self.values = [xp.array(a) if hasattr(a, "dtype") else a for a in self.host]
        self.small = sum(a.size for a in self.host if hasattr(a, "dtype")) < SMALL
        named = range(self.count, len(self.host)) if row.spec.writes else ()  # arrays by keyword are outputs there
        self.written = [*row.spec.writes, *(i for i in named if hasattr(self.host[i], "dtype"))]

    def __call__(self, f: Callable, values: list | None = None, **how):
        """f of the arguments, or of `values` in their place."""
        values = self.values if values is None else values
        return f(*values[: self.count], **dict(zip(self.names, values[self.count :])), **how)

    def outputs(self, f: Callable, values: list, **how) -> list:
        """The arrays that f returns, and those it writes."""
        result = self(f, values, **how)
        returned = result if isinstance(result, tuple) else () if result is None else (result,)
        return [*returned, *(values[i] for i in self.written)]

    def ours(self):
        return self(self.row.spec.wrapper, **self.row.how)

    def reference(self):
        return self(self.row.spec.reference)

    def widened(self, f: Callable[[Array], Array] = lambda a: a) -> list:
        """f of the arguments in float64, where the reference is to run."""
        given = self.host if self.small else self.values
        return [f(float64(a)) if hasattr(a, "dtype") else a for a in given]

    def check(self) -> None:
        """Raises ArithmeticError, naming the worst entry, unless every output is within the tolerance of the tests."""
        spec = self.row.spec
        wide, bound, terms = self.widened(), None, None
        if spec.form:
            bound = self.outputs(spec.form, self.widened(abs))
            terms = self.outputs(spec.form, self.widened(lambda a: a * 0 + 1))
        got = self.outputs(spec.wrapper, self.values, **self.row.how)
        want = self.outputs(spec.reference, wide)
        if len(got) != len(want):
            raise ArithmeticError(f"{len(got)} outputs, the reference has {len(want)}")
        for i, (g, w) in enumerate(zip(got, want)):
            kind = "tf32" if self.row.dtype == "tf32" else launch.DTYPES[g.dtype]
            allowed = kernel_tolerance(kind, w, *((bound[i], terms[i]) if spec.form else ()))
            compare(i, float64(to_host(g) if self.small else g), w, allowed)


def compare(i: int, got: Array, want: Array, allowed: Array) -> None:
    """Raises ArithmeticError unless output i is as it should be."""
    if got.shape != want.shape:
        raise ArithmeticError(f"output {i} has shape {got.shape}, not {want.shape}")
    error = abs(got - want)
    wrong = ~(error <= allowed)  # so that NaN is wrong
    if wrong.any():
        worst = int((error * wrong).argmax())
        entries = ", ".join(f"{name} {float(a.reshape(-1)[worst]):.6g}" for name, a in (("got", got), ("want", want)))
        raise ArithmeticError(f"output {i}: {int(wrong.sum())} of {wrong.size} entries are wrong; the worst: {entries}")


def float64(a: Array) -> Array:
    """The values of an array; uint16 is bfloat16."""
    if a.dtype == np.uint16:
        a = (a.astype(np.uint32) << 16).view(np.float32)
    return a.astype(np.float64)
