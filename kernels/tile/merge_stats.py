"""Partial statistics of tiles, merged to the statistics of a BatchNorm by the last programs.

batch_stats.py stores the partials, and describes stats, means and the groups.

    "batch_stats"        (3, WIDTH) of a tile: its number of rows, their mean and m2, the sum of
                         squared distances from it
    "batch_grad_stats"   (WIDTH, 2) of a tile: the sums of dp and of dp (z - mean)
"""

import triton
import triton.language as tl

from rawgan.kernels.tile.epilogue import load_f32
from rawgan.kernels.tile.reduce import IN_FLIGHT, is_last_program, merge_batch_stats, row_mask

# Rows of stats (5, groups, K)
MEAN: tl.constexpr = tl.constexpr(0)
VARIANCE: tl.constexpr = tl.constexpr(1)
RSTD: tl.constexpr = tl.constexpr(2)
SCALE: tl.constexpr = tl.constexpr(3)
SHIFT: tl.constexpr = tl.constexpr(4)
UNKNOWN_NORM: tl.constexpr = tl.constexpr("NORM must be batch_stats or batch_grad_stats")
FAN_IN: tl.constexpr = tl.constexpr(32)  # tiles whose partials a program merges


@triton.jit
def pairs(offs):
    """Return the offsets of pairs of values, (columns, 2)."""
    return 2 * offs[:, None] + tl.arange(0, 2)[None, :]


@triton.jit
def sum_grad_stats(bn, row, count, offs_n, mask_n, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """Return the sums of `count` partials (WIDTH, 2), from `row` on, (columns, 2)."""
    offs = row * (2 * WIDTH) + pairs(offs_n)
    sums = tl.zeros(offs.shape, tl.float32)
    i = 0
    while i < count:
        for j in tl.static_range(IN_FLIGHT):
            mask = row_mask(i + j, count, mask_n, WHOLE)[:, None]
            sums += load_f32(bn.partials + (i + j) * (2 * WIDTH), offs, mask)
        i += IN_FLIGHT
    return sums


@triton.jit
def write_batch_stats(
    bn, row, count: tl.constexpr, offs_n, mask_n, WIDTH: tl.constexpr, GROUPS: tl.constexpr,
    COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """Write the statistics of each group, from `count` partials each, and the running ones."""
    ROW: tl.constexpr = GROUPS * WIDTH
    gamma = load_f32(bn.gamma, offs_n, mask_n)
    beta = load_f32(bn.beta, offs_n, mask_n)
    running_mean = load_f32(bn.running_mean, offs_n, mask_n)
    running_var = load_f32(bn.running_var, offs_n, mask_n)
    for group in range(GROUPS):
        offs = (row + group * count) * (3 * WIDTH) + offs_n
        _, mean, m2 = merge_batch_stats(
            bn.partials, offs, mask_n, count, WIDTH, (IN_FLIGHT + count) % IN_FLIGHT == 0
        )
        var = m2 / COUNT
        rstd = 1.0 / tl.sqrt(var + EPS)
        stats_ptr = bn.stats + group * WIDTH + offs_n
        tl.store(stats_ptr + MEAN * ROW, mean, mask=mask_n)
        tl.store(stats_ptr + VARIANCE * ROW, var, mask=mask_n)
        tl.store(stats_ptr + RSTD * ROW, rstd, mask=mask_n)
        tl.store(stats_ptr + SCALE * ROW, gamma * rstd, mask=mask_n)
        tl.store(stats_ptr + SHIFT * ROW, beta - mean * gamma * rstd, mask=mask_n)
        # The running statistics move once for each group, with the unbiased variance
        running_mean += MOMENTUM * (mean - running_mean)
        running_var += MOMENTUM * (var * (COUNT / (COUNT - 1)) - running_var)
    tl.store(bn.running_mean + offs_n, running_mean, mask=mask_n)
    tl.store(bn.running_var + offs_n, running_var, mask=mask_n)


@triton.jit
def write_grad_stats(
    bn, row, count: tl.constexpr, offs_n, mask_n, WIDTH: tl.constexpr, GROUPS: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """Write the means of each group, from `count` partials each, and dbeta and dgamma over all.

    dbeta = sum of dp,   dgamma = sum of dp zhat = rstd sum of dp (z - mean)
    means = both / COUNT, for each group
    """
    which = tl.arange(0, 2)[None, :]  # 0: dbeta, 1: dgamma
    mask = mask_n[:, None] & (which < 2)
    totals = tl.zeros(mask.shape, tl.float32)
    for group in range(GROUPS):
        sums = sum_grad_stats(
            bn,
            row + group * count,
            count,
            offs_n,
            mask_n,
            WIDTH,
            (IN_FLIGHT + count) % IN_FLIGHT == 0,
        )
        rstd_ptr = bn.stats + (RSTD * GROUPS + group) * WIDTH + offs_n[:, None] + 0 * which
        sums *= tl.load(rstd_ptr, mask=mask & (which == 1), other=1.0)
        means_ptr = bn.means + (which * GROUPS + group) * WIDTH + offs_n[:, None]
        tl.store(means_ptr, sums / COUNT, mask=mask)
        totals += sums
    tl.store(bn.dbeta + offs_n[:, None] + 0 * which, totals, mask=mask & (which == 0))
    tl.store(bn.dgamma + offs_n[:, None] + 0 * which, totals, mask=mask & (which == 1))


@triton.jit
def write_stats(
    bn, row, count: tl.constexpr, offs_n, mask_n, WIDTH: tl.constexpr, NORM: tl.constexpr,
    GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """Write the statistics that NORM names from `count` partials of each group, from `row` on."""
    if NORM == "batch_stats":
        write_batch_stats(bn, row, count, offs_n, mask_n, WIDTH, GROUPS, COUNT, EPS, MOMENTUM)
    else:
        tl.static_assert(NORM == "batch_grad_stats", UNKNOWN_NORM)
        write_grad_stats(bn, row, count, offs_n, mask_n, WIDTH, GROUPS, COUNT)


@triton.jit
def merge_stats(
    bn, offs_n, mask_n, tile_m, tile_n, TILES_M: tl.constexpr, WIDTH: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr,
    MOMENTUM: tl.constexpr,
):  # fmt: skip
    """Merge the partials of TILES_M tiles with the columns offs_n to statistics, in two levels.

    Of FAN_IN neighbouring tiles of a group the last program merges their partials to one, that of a
    node; of all nodes the last program merges these. Few tiles have one level. The tree depends on
    the sizes alone, and so do the bits. Partials of the nodes follow those of the tiles; counter 0
    is that of the last level.
    """
    GROUP_TILES: tl.constexpr = TILES_M // GROUPS
    NODES: tl.constexpr = (FAN_IN + GROUP_TILES - 1) // FAN_IN  # of a group
    if NODES == 1:
        if is_last_program(bn.counter + tile_n, TILES_M):
            write_stats(
                bn, 0, GROUP_TILES, offs_n, mask_n, WIDTH, NORM, GROUPS, COUNT, EPS, MOMENTUM
            )
    else:
        # First level; the last node of a group may have fewer tiles
        TILES_N: tl.constexpr = (WIDTH + offs_n.shape[0] - 1) // offs_n.shape[0]
        WHOLE: tl.constexpr = (IN_FLIGHT + GROUP_TILES) % IN_FLIGHT == 0
        node = tile_m // GROUP_TILES * NODES + tile_m % GROUP_TILES // FAN_IN
        first = tile_m % GROUP_TILES // FAN_IN * FAN_IN  # tile of the node, in the group
        count = tl.minimum(GROUP_TILES - first, FAN_IN)
        if is_last_program(bn.counter + (1 + node) * TILES_N + tile_n, count):
            row = tile_m // GROUP_TILES * GROUP_TILES + first
            if NORM == "batch_stats":
                offs = row * (3 * WIDTH) + offs_n
                n, mean, m2 = merge_batch_stats(bn.partials, offs, mask_n, count, WIDTH, WHOLE)
                node_ptr = bn.partials + (TILES_M + node) * (3 * WIDTH) + offs_n
                tl.store(node_ptr, n, mask=mask_n)
                tl.store(node_ptr + WIDTH, mean, mask=mask_n)
                tl.store(node_ptr + 2 * WIDTH, m2, mask=mask_n)
            else:
                tl.static_assert(NORM == "batch_grad_stats", UNKNOWN_NORM)
                sums = sum_grad_stats(bn, row, count, offs_n, mask_n, WIDTH, WHOLE)
                sums_ptr = bn.partials + (TILES_M + node) * (2 * WIDTH) + pairs(offs_n)
                tl.store(sums_ptr, sums, mask=mask_n[:, None])
            # Last level
            if is_last_program(bn.counter + tile_n, GROUPS * NODES):
                write_stats(
                    bn, TILES_M, NODES, offs_n, mask_n, WIDTH, NORM, GROUPS, COUNT, EPS, MOMENTUM
                )
