"""Candidates of the sweep: implementation and configuration of each launch, the likely ones first.

Those that a wrapper refuses for the sizes of a launch are dropped later, by recording them.
"""

from typing import NamedTuple

from rawgan.kernels.gemm_config import (
    BARRIERS,
    THREE_PRODUCTS,
    Config,
    config,
    small_config,
    stage_bytes,
)
from rawgan.kernels.gemm_table import IMPLEMENTATIONS, SPLITS, GemmKey
from rawgan.kernels.runtime.driver import SHARED_MEMORY

# (BLOCK_M, BLOCK_N, warps, stages), the likely ones first
TILES = {
    "tma": (
        (128, 128, 8, 3),
        (128, 128, 8, 5),
        (128, 64, 4, 3),
        (128, 64, 4, 6),
        (256, 128, 8, 3),
        (256, 128, 8, 4),
        (64, 128, 4, 4),
        (64, 64, 4, 4),
        (256, 64, 8, 4),
        (64, 64, 4, 6),
        (128, 128, 4, 3),
    ),
    "pointer": (
        (64, 64, 4, 4),
        (128, 64, 4, 3),
        (32, 32, 4, 4),
        (64, 32, 4, 4),
        (128, 128, 8, 3),
        (128, 32, 4, 3),
        (32, 64, 4, 4),
        (64, 64, 4, 2),
        (128, 16, 4, 4),
        (64, 16, 4, 4),
        (16, 64, 4, 4),
    ),
    "small_c": (
        (128, 16, 4, 3),
        (64, 16, 4, 3),
        (128, 16, 4, 5),
        (256, 16, 8, 3),
        (128, 16, 8, 3),
        (64, 16, 4, 5),
    ),
}
# Three products of operands that are split in registers: smaller tiles, fewer stages
THREE_PRODUCTS_TILES = TILES | {
    "tma": (
        (128, 64, 8, 2),
        (128, 64, 8, 4),
        (64, 64, 4, 2),
        (128, 64, 4, 3),
        (128, 128, 8, 2),
        (64, 64, 4, 4),
        (64, 128, 4, 3),
        (256, 64, 8, 2),
    ),
    "pointer": (
        (64, 64, 4, 2),
        (128, 64, 8, 2),
        (32, 32, 4, 2),
        (64, 32, 4, 3),
        (64, 64, 4, 3),
        (32, 64, 4, 2),
        (128, 16, 4, 3),
        (64, 16, 4, 3),
        (16, 64, 4, 3),
    ),
}
SPLIT_FACTORS = (1.0, 0.5, 2.0)  # of the rule's parts of a sum, for the first SPLIT_TILES
SPLIT_TILES = 2
POINTER_MOST = 2  # candidates of the pointer kernels where TMA is possible


class Candidate(NamedTuple):
    """An implementation with a configuration; both None: what the rule of gemm_config.py picks."""

    impl: str | None
    config: Config | None


RULE = Candidate(None, None)


def candidates(key: GemmKey, rule_split: int, capability: int) -> list[Candidate]:
    """Return the rule and the candidates of a launch.

    rule_split: the parts of its sum by the rule; others are tried where the sum is split.
    """
    itemsize = 2 if key.products in ("bfloat16", "float16") else 4
    block_k = 128 // itemsize  # 128 bytes, the widest swizzle; specs/tolerance.py CHUNK
    table = THREE_PRODUCTS_TILES if key.products in THREE_PRODUCTS else TILES
    result = [RULE]
    for impl in IMPLEMENTATIONS[key.operation]:
        tiles = [tile for tile in table[impl] if fits_output(key, *tile[:2])]
        for n, tile in enumerate(tiles):
            one = with_registers(config(*tile[:2], block_k, *tile[2:]), itemsize, capability)
            factors = SPLIT_FACTORS if n < SPLIT_TILES else SPLIT_FACTORS[:1]
            if one and key.operation in SPLITS:
                parts = dict.fromkeys(max(1, round(rule_split * factor)) for factor in factors)
                result += [Candidate(impl, one | {"SPLIT_K": count}) for count in parts]
            elif one:
                result.append(Candidate(impl, one))
    return result


def fits_output(key: GemmKey, m: int, n: int) -> bool:
    """Return whether a tile is at most as large as the output, rounded up to powers of 2."""
    s = dict(key.sizes)
    if "R" in s:
        pixels = s["N"] * s["P"] * s["Q"]
        terms = s["R"] * s["S"] * s["C"]
        rows, columns = {
            "conv2d": (pixels, s["K"]),
            "conv2d_dx": (s["N"] * s["H"] * s["W"], max(s["C"], 16)),
            "conv2d_dw": (s["K"], terms),
        }[key.operation]
    else:
        rows, columns = {
            "linear": (s["N"], s["K"]),
            "linear_dx": (s["N"], s["C"]),
            "linear_dw": (s["K"], s["C"]),
        }[key.operation]
    return m < 2 * max(rows, 16) and n < 2 * max(columns, 16)


def with_registers(one: Config, itemsize: int, capability: int) -> Config | None:
    """Return a configuration with the registers for as many programs as shared memory holds.

    None where its stages do not fit into it.
    """
    room = 1024 * SHARED_MEMORY.get(capability, 0)
    shared = one["num_stages"] * stage_bytes(one, itemsize) + BARRIERS
    if shared > room:
        return None
    threads = 32 * one["num_warps"]
    programs = max(1, min(room // (shared + BARRIERS), 2048 // threads, 3))
    return one | {"maxnreg": min(255, 65536 // (threads * programs) // 8 * 8)}


def reduced(candidate: Candidate) -> Candidate:
    """Return the candidate with a tile for `problem.reduced`: for Triton's interpreter."""
    if candidate.config is None:
        return candidate
    columns = {"tma": 64, "pointer": 32, "small_c": 16}[candidate.impl]
    split = {"SPLIT_K": 2} if "SPLIT_K" in candidate.config else {}
    return Candidate(candidate.impl, small_config(32, columns) | split)
