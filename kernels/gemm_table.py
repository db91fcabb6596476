"""Measured configurations of GEMMs, one file per GPU generation: configs/sm_<capability>.toml.

`python -m benchmarks.tune` measures the launches of the benchmark steps and writes the file. A
wrapper asks `measured` for the key of its launch; what the table lacks gets the configuration of
the rule, gemm_config.pick. Without a file the table is empty. A line of it, here in two:

    "conv2d x=128x32x32x64 w=128x4x4 y=16x16 stride=2x2 pad=1x1 bfloat16 batch_stats groups=1" =
        { impl = "tma", tile = "128x128x64", warps = 8, stages = 3, maxnreg = 128 }

    tile      BLOCK_M x BLOCK_N x BLOCK_K
    split     parts of the split-K sum, of conv2d_dw and the linear maps
    us, cold_us, rule_us   measured: in a graph of 20, with an empty L2, and the rule's in a graph
"""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rawgan.backend import Array
from rawgan.errors import UserError
from rawgan.kernels.gemm_config import Config, stage_bytes
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.driver import SHARED_MEMORY

FOLDER = Path(__file__).parent / "configs"
IMPLEMENTATIONS = {
    "conv2d": ("tma", "pointer"),
    "conv2d_dx": ("tma", "pointer", "small_c"),
    "conv2d_dw": ("tma", "pointer"),
    "linear": ("pointer",),
    "linear_dx": ("pointer",),
    "linear_dw": ("pointer",),
}
SPLITS = ("conv2d_dw", "linear", "linear_dx", "linear_dw")  # operations with a split-K sum
FIELDS = ("impl", "tile", "warps", "stages", "maxnreg", "split")
REQUIRED = FIELDS[:5]
TIMES = ("us", "cold_us", "rule_us")


class GemmKey(NamedTuple):
    """All that the fastest configuration of a launch depends on, on GPUs of one generation.

    sizes      of a convolution: the constants of its kernels; of a linear map: N, C, K
    products   "bfloat16" or "float16", or the precision of the products of float32 arrays
    epilogue   see `epilogue_name`
    groups     of samples with BatchNorm statistics of their own
    """

    operation: str
    sizes: tuple[tuple[str, int], ...]
    products: str
    epilogue: str = "none"
    groups: int = 1

    def __str__(self) -> str:
        """Return the key as the table has it."""
        s = dict(self.sizes)
        if "R" in s:
            axes = {"x": "NHWC", "w": "KRS", "y": "PQ"}
            shapes = [f"{name}={_by(s[axis] for axis in of)}" for name, of in axes.items()]
            shapes.append(f"stride={s['STRIDE_H']}x{s['STRIDE_W']} pad={s['TOP']}x{s['LEFT']}")
        else:
            shapes = [f"x={s['N']}x{s['C']} w={s['K']}x{s['C']}"]
        words = [self.operation, *shapes, self.products, self.epilogue, f"groups={self.groups}"]
        return " ".join(words)


def gemm_key(
    operation: str, sizes: dict[str, int], x: Array, precision: str, epilogue: str, groups: int = 1
) -> GemmKey:
    """Return the key of a launch on arrays like x."""
    products = launch.DTYPES[x.dtype] if x.itemsize == 2 else precision
    return GemmKey(operation, tuple(sizes.items()), products, epilogue, groups)


def epilogue_name(
    bias: Array | None, act: str | None, v: Array | None, norm: str | None = None
) -> str:
    """Return the epilogue of a GEMM as text: "bias+tanh", "leaky_relu_dx", "batch_stats"."""
    activation = [f"{act}_dx" if v is not None else act] if act else []
    parts = [*(["bias"] if bias is not None else []), *activation, *([norm] if norm else [])]
    return "+".join(parts) or "none"


def measured(key: GemmKey, *arrays: Array) -> tuple[str, Config] | None:
    """Return (impl, configuration) that the table of this GPU has for the launch, or None.

    The configuration has SPLIT_K where the table has the number of parts. What is in the table was
    measured on aligned arrays, so it is no answer for others.
    """
    table = measured_table(launch.capability(arrays[0]))
    if table and (entry := table.get(str(key))) and launch.aligned(*arrays):
        return entry["impl"], configuration(entry)
    return None


_tables: dict[int, dict[str, dict]] = {}  # by capability, as read


def measured_table(capability: int) -> dict[str, dict]:
    """Return {key: entry} of a GPU generation, read once; {} where there is no file."""
    if capability not in _tables:
        _tables[capability] = read_table(path_of(capability), capability)
    return _tables[capability]


@contextmanager
def use_table(capability: int, table: dict[str, dict]) -> Iterator[None]:
    """Use another table inside the block; {}: the rule alone."""
    before = measured_table(capability)
    _tables[capability] = table
    try:
        yield
    finally:
        _tables[capability] = before


def path_of(capability: int) -> Path:
    """Return the file of a GPU generation."""
    return FOLDER / f"sm_{capability}.toml"


def read_table(path: Path, capability: int) -> dict[str, dict]:
    """Return {key: entry} of a file, or {} where there is none.

    Raises UserError for what is no table, and for an entry that cannot be launched.
    """
    if not path.exists():
        return {}
    try:
        table = tomllib.loads(path.read_text()).get("gemm", {})
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path.name} is not TOML: {error}") from None
    for key, entry in table.items():
        if problem := problem_of(key, entry, capability):
            raise UserError(f"{path.name}, {key}: {problem}")
    return table


def problem_of(key: str, entry: dict, capability: int) -> str | None:
    """Return why an entry cannot be launched on sm_<capability>, or None."""
    words = key.split()
    if len(words) < 5:
        return "a key has an operation, sizes, products, an epilogue and groups"
    operation, products = words[0], words[-3]
    unknown = [name for name in entry if name not in (*FIELDS, *TIMES)]
    missing = [name for name in REQUIRED if name not in entry]
    if operation not in IMPLEMENTATIONS:
        return f"there is no operation {operation!r}"
    if unknown or missing:
        return f"unknown field {unknown[0]!r}" if unknown else f"{missing[0]!r} is missing"
    if entry["impl"] not in IMPLEMENTATIONS[operation]:
        return f"impl is one of {', '.join(IMPLEMENTATIONS[operation])}, got {entry['impl']!r}"
    if "split" in entry and operation not in SPLITS:
        return f"the sum of {operation} is not split"
    blocks = str(entry["tile"]).split("x")
    if len(blocks) != 3 or not all(b.isdecimal() and int(b) >= 16 for b in blocks):
        return f"tile is three powers of two from 16, as 128x128x64, got {entry['tile']!r}"
    numbers = [int(b) for b in blocks] + [entry["warps"]]
    if any(type(n) is not int or n < 1 or n & (n - 1) for n in numbers):
        return "the blocks of the tile and warps are powers of two"
    if not all(
        type(entry.get(name, 1)) is int and entry.get(name, 1) > 0
        for name in ("stages", "maxnreg", "split")
    ):
        return "stages, maxnreg and split are positive integers"
    itemsize = 2 if products in ("bfloat16", "float16") else 4
    needed = entry["stages"] * stage_bytes(configuration(entry), itemsize)
    if needed > 1024 * SHARED_MEMORY.get(capability, 0):
        return (
            f"{entry['stages']} stages of {entry['tile']} need {needed // 1024} KB of shared "
            f"memory, a program on sm_{capability} has {SHARED_MEMORY.get(capability, 0)}"
        )
    return None


def configuration(entry: dict) -> Config:
    """Return the constants and launch options of an entry."""
    blocks = zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), map(int, entry["tile"].split("x")))
    options = {f"num_{name}": entry[name] for name in ("warps", "stages")}
    split = {"SPLIT_K": entry["split"]} if "split" in entry else {}
    return {**dict(blocks), **options, "maxnreg": entry["maxnreg"], **split}


def entry_of(impl: str, config: Config) -> dict:
    """Return the entry of a configuration, without times."""
    split = {"split": config["SPLIT_K"]} if "SPLIT_K" in config else {}
    return {
        "impl": impl,
        "tile": _by(config[f"BLOCK_{axis}"] for axis in "MNK"),
        "warps": config["num_warps"],
        "stages": config["num_stages"],
        "maxnreg": config["maxnreg"],
        **split,
    }


def _by(sizes) -> str:
    return "x".join(map(str, sizes))
