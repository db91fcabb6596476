"""Configurations of the GEMM kernels: tile, warps and pipeline stages, for each precision.

Every GEMM wrapper takes out=, an array to write to, precision= and config=. For float32 arrays
`precision` is

    tf32x3   three TF32 products on the tensor cores, relative error at most 3 2^-22 of a product
             where float32 has 2^-24 (the default)
    bf16x3   three bfloat16 products (tile/dot.py), at most 2^-15 of a product
    tf32     one TF32 product: 11 bits of each factor, the others are cut off; at most 2^-10
    ieee     float32 arithmetic without tensor cores

Accumulators are float32 in any case. `config` replaces the configuration that was measured for the
launch (gemm_table.py), or that `pick` takes from the tables below; with SPLIT_K it also has the
number of parts of a split-K sum. The tables begin with the largest tile. They are compiled for
every capability; whole steps with them were measured on an H200 (docs/steps.md), but the
configurations have not been tuned. Without maxnreg ptxas spills registers of some kernels to fit
one more block on a multiprocessor (SM).
"""

from math import prod

import numpy as np

from rawgan.kernels.runtime.launch import Config, cdiv


def config(m: int, n: int, k: int, warps: int, stages: int) -> Config:
    """Return the constants and launch options of an m x n tile with steps of k."""
    return {
        "BLOCK_M": m,
        "BLOCK_N": n,
        "BLOCK_K": k,
        "num_warps": warps,
        "num_stages": stages,
        "maxnreg": 255,
    }


TABLES = {
    "half": (
        config(128, 128, 64, 8, 3),
        config(128, 64, 64, 4, 3),
        config(64, 64, 64, 4, 4),
        config(128, 16, 64, 4, 4),
        config(32, 32, 64, 4, 4),
    ),
    "tf32": (
        config(128, 128, 32, 8, 3),
        config(64, 64, 32, 4, 4),
        config(128, 16, 32, 4, 4),
        config(32, 32, 32, 4, 4),
    ),
    "tf32x3": (config(128, 64, 32, 8, 2), config(64, 64, 32, 4, 2), config(32, 32, 32, 4, 2)),
    "bf16x3": (config(128, 64, 32, 8, 3), config(64, 64, 32, 4, 3), config(32, 32, 32, 4, 3)),
    "ieee": (config(64, 64, 16, 4, 2), config(32, 32, 16, 4, 2)),
}

PRECISIONS = ("tf32x3", "bf16x3", "tf32", "ieee")  # of the products of float32 arrays
THREE_PRODUCTS = ("tf32x3", "bf16x3")  # each factor is split in registers
MOST_STAGES = 6
BARRIERS = 1024  # bytes of shared memory kept for the barriers of the pipeline


def table(dtype, precision: str) -> tuple[Config, ...]:
    """Return the configurations for a dtype: bfloat16 (uint16) and float16 share a table.

    Raises ValueError for an unknown precision, whatever the dtype.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
    return TABLES["half" if np.dtype(dtype).itemsize == 2 else precision]


def small_c_config(dtype) -> Config:
    """Return the configuration for an output of 16 columns: conv2d_dx_small_c_kernel."""
    return config(128, 16, 64 if np.dtype(dtype).itemsize == 2 else 32, 4, 3)


def small_config(m: int, n: int) -> Config:
    """Return a configuration for tests: arrays of the interpreter's size have several tiles."""
    return config(m, n, 32, 4, 2)


def split(
    steps: int, tiles: int, multiprocessors: int, parts: int | None = None
) -> tuple[int, int]:
    """Return (steps of each part, parts) of a split-K sum of `steps` steps, for `tiles` tiles.

    Two programs per multiprocessor, each with 4 steps or more; or as many parts as asked for.
    """
    parts = parts or min(max(1, 2 * multiprocessors // tiles), cdiv(steps, 4))
    return cdiv(steps, parts), cdiv(steps, cdiv(steps, parts))


def pick(
    table: tuple[Config, ...], shape: tuple[int, int], multiprocessors: int, classes: int = 1
) -> Config:
    """Return the configuration for an output of `shape` (rows, columns).

    Of the tiles that are no larger than the output the first, which is the largest, that gives a
    program to nine in ten multiprocessors (sizes are powers of 2, 132 is none); else the one with
    most programs. The last of the table, the smallest, serves smaller outputs. multiprocessors 1:
    the programs need not fill a GPU. classes: the number of outputs of that shape, each with
    programs of its own: the residue classes of conv2d_dx.
    """
    rows, columns = (1 << max(size - 1, 15).bit_length() for size in shape)
    fitting = [c for c in table if c["BLOCK_M"] <= rows and c["BLOCK_N"] <= columns] or [table[-1]]
    programs = [classes * output_tiles(c, shape) for c in fitting]
    target = min(0.9 * multiprocessors, max(programs))
    return next(c for c, n in zip(fitting, programs) if n >= target)


def output_tiles(config: Config, shape: tuple[int, int]) -> int:
    """Return the number of tiles of an output of `shape` (rows, columns)."""
    return prod(cdiv(size, config[block]) for size, block in zip(shape, ("BLOCK_M", "BLOCK_N")))


def occupy(
    config: Config, programs: int, multiprocessors: int, *, terms: int, itemsize: int, shared: int,
    two_fit: bool,
) -> Config:  # fmt: skip
    """Return the configuration of a TMA kernel, adjusted to the programs that share an SM.

    Several programs of an SM hide each other's loads. Two of 128 x 128 with 8 warps fit if a thread
    has at most 128 registers, which ptxas is held to. A program alone hides its loads by stages:
    it gets as many as `shared` bytes of shared memory hold, at most MOST_STAGES, and no more than
    its sum of `terms` has steps.

    programs: those of the grid. two_fit: whether 128 registers suffice for the epilogue, without
    spills.
    """
    large = config["BLOCK_M"] * config["BLOCK_N"] >= 128 * 128 and config["num_warps"] >= 8
    if programs > multiprocessors and (two_fit or not large):
        return config | {"maxnreg": 128} if large else config
    room = (shared - BARRIERS) // stage_bytes(config, itemsize)
    stages = min(MOST_STAGES, cdiv(terms, config["BLOCK_K"]), room)
    return config | {"num_stages": max(config["num_stages"], stages)}


def without_split(config: Config) -> tuple[Config, int | None]:
    """Return a configuration without SPLIT_K, and SPLIT_K, the parts of a sum, or None."""
    return {name: n for name, n in config.items() if name != "SPLIT_K"}, config.get("SPLIT_K")


def stage_bytes(config: Config, itemsize: int) -> int:
    """Return the bytes of shared memory that one pipeline stage holds: a tile of each operand."""
    return (config["BLOCK_M"] + config["BLOCK_N"]) * config["BLOCK_K"] * itemsize
