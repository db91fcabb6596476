"""Epilogue of a GEMM with the statistics of a BatchNorm: its output is not read again for them.

    BatchStats       forward: y is BatchNorm's input. Mean and variance of each column of y, scale
                     and shift, and the running statistics.
    BatchGradStats   backward: y is the gradient of act(BatchNorm(z)). Times act'(scale z + shift)
                     it is the gradient of BatchNorm's output; the sums are dgamma and dbeta.

Each tile stores partial statistics of its rows (`norm_epilogue`). Those of all tiles with the same
columns, tile_n, are merged as a tree of at most two levels, each time by the last program to finish
(`merge_stats`): in the order of the tiles, so that the bits do not depend on which program that
was. A batch may be several groups of samples with statistics of their own, such as D's real and
fake images; no tile reaches over two groups.

    stats (5, groups, K):  mean, variance, rstd, scale = gamma rstd, shift = beta - mean scale
    y = scale z + shift
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.activation import activate_dx_from_input
from rawgan.kernels.tile.epilogue import epilogue, load_f32, to_f32
from rawgan.kernels.tile.merge_stats import (
    FAN_IN,
    MEAN,
    SCALE,
    SHIFT,
    merge_stats,
    pairs,
)


@triton.jit
def tile_batch_stats(bn, acc, mask_m, offs_n, mask_n, tile_m, WIDTH: tl.constexpr):
    """Store the partial statistics of tile_m's columns: count, mean and m2, (3, WIDTH) in partials.

    bn: BatchStatsArrays. acc (BLOCK_M, BLOCK_N) are columns offs_n of WIDTH; rows outside mask_m do
    not count, None: all rows do. m2 is the sum of squared distances from the mean.
    """
    if mask_m is None:
        count = 1.0 * acc.shape[0]
        mean = tl.sum(acc, 0) * (1.0 / acc.shape[0])
        distance = acc - mean[None, :]
    else:
        count = tl.sum(mask_m.to(tl.float32), 0)
        mean = tl.sum(tl.where(mask_m[:, None], acc, 0.0), 0) / tl.maximum(count, 1.0)
        distance = tl.where(mask_m[:, None], acc - mean[None, :], 0.0)
    partial_ptr = bn.partials + tile_m * (3 * WIDTH) + offs_n
    tl.store(partial_ptr, count, mask=mask_n)  # the same for all columns
    tl.store(partial_ptr + WIDTH, mean, mask=mask_n)
    tl.store(partial_ptr + 2 * WIDTH, tl.sum(distance * distance, 0), mask=mask_n)


@triton.jit
def _halves(a):
    """Return the first and the last half of the rows of a tile."""
    return tl.split(tl.permute(tl.reshape(a, (2, a.shape[0] // 2, a.shape[1])), (1, 2, 0)))


@triton.jit
def _grad_sums(acc, z, scale, shift, ACT: tl.constexpr, SLOPE: tl.constexpr, PARTS: tl.constexpr):
    """Return dp = act'(scale z + shift) acc and the sums of dp and of dp z, (columns, 2).

    The rows are taken in PARTS parts, a power of 2. A part is summed before the next is begun, so
    that fewer values of z in float32 are in registers at a time. A thread should hold all parts of
    a column: else they are exchanged through shared memory.
    """
    if PARTS == 1:
        z_f32 = to_f32(z)
        p = scale[None, :] * z_f32 + shift[None, :]
        dp = activate_dx_from_input(acc, p, ACT, SLOPE)
        sums = tl.sum(tl.join(dp, dp * z_f32), 0)
    else:
        acc_0, acc_1 = _halves(acc)
        z_0, z_1 = _halves(z)
        dp_0, sums_0 = _grad_sums(acc_0, z_0, scale, shift, ACT, SLOPE, PARTS // 2)
        dp_1, sums_1 = _grad_sums(acc_1, z_1, scale, shift, ACT, SLOPE, PARTS // 2)
        dp = tl.reshape(tl.permute(tl.join(dp_0, dp_1), (2, 0, 1)), acc.shape)
        sums = sums_0 + sums_1
    return dp, sums


@triton.jit
def tile_grad_stats(
    bn, z, acc, mask_m, offs_n, mask_n, tile_m, TILES_M: tl.constexpr, WIDTH: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, GROUPS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Return dp = act'(p) acc, p = scale z + shift, and store the sums of the tile's columns.

    They are those of dp and of dp (z - mean), (WIDTH, 2) in partials. bn: BatchGradStatsArrays.
    z (BLOCK_M, BLOCK_N). PARTS: see _grad_sums. Arguments else as for tile_batch_stats.
    """
    ROW: tl.constexpr = GROUPS * WIDTH  # one row of stats
    stats_ptr = bn.stats + tile_m // (TILES_M // GROUPS) * WIDTH
    mean = load_f32(stats_ptr + MEAN * ROW, offs_n, mask_n)
    scale = load_f32(stats_ptr + SCALE * ROW, offs_n, mask_n)
    shift = load_f32(stats_ptr + SHIFT * ROW, offs_n, mask_n)
    if mask_m is not None:
        acc = tl.where(mask_m[:, None], acc, 0.0)
    dp, sums = _grad_sums(acc, z, scale, shift, ACT, SLOPE, PARTS)
    # The mean is subtracted from the sum over a tile: the error is of the size of z's rounding
    sum_dp, sum_dp_z = tl.split(sums)
    partial = tl.join(sum_dp, sum_dp_z - mean * sum_dp)
    partial_ptr = bn.partials + tile_m * (2 * WIDTH) + pairs(offs_n)
    tl.store(partial_ptr, partial, mask=mask_n[:, None])
    return dp


@triton.jit
def norm_epilogue(
    acc, bias_ptr, saved, bn, mask_m, offs_n, mask_n, tile_m, TILES_M: tl.constexpr,
    WIDTH: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr,
    GROUPS: tl.constexpr, PARTS: tl.constexpr = 1,
):  # fmt: skip
    """Return the output of a tile, and store the partials of the statistics that NORM names.

    None                 act(acc + bias), or with saved (acc + bias) act'(saved)
    "batch_stats"        the same, and BatchStats of it
    "batch_grad_stats"   act'(scale z + shift) acc, and BatchGradStats of it; saved is z

    Statistics are of the float32 values, not of the rounded ones that are stored. All reductions
    are along the rows of acc, in whatever layout it has. PARTS: see _grad_sums.
    """
    if NORM == "batch_grad_stats":
        acc = tile_grad_stats(
            bn, saved, acc, mask_m, offs_n, mask_n, tile_m, TILES_M, WIDTH, ACT, SLOPE, GROUPS,
            PARTS,
        )  # fmt: skip
    else:
        tl.static_assert(
            NORM is None or NORM == "batch_stats",
            "NORM must be None, batch_stats or batch_grad_stats",
        )
        acc = epilogue(acc, bias_ptr, saved, offs_n, mask_n, ACT, SLOPE)
        if NORM == "batch_stats":
            tile_batch_stats(bn, acc, mask_m, offs_n, mask_n, tile_m, WIDTH)
    return acc


@triton.jit
def store_epilogue(
    out_ptr, acc, bias_ptr, saved_ptr, bn, offs, mask_m, offs_n, mask_n, tile_m, tile_n,
    TILES_M: tl.constexpr, WIDTH: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr,
    MOMENTUM: tl.constexpr,
):  # fmt: skip
    """Store norm_epilogue of a tile at offs, and merge the statistics; saved is read at offs."""
    mask = mask_m[:, None] & mask_n[None, :]
    if saved_ptr is None:
        saved = None
    else:
        saved = load_f32(saved_ptr, offs, mask)
    out = norm_epilogue(
        acc, bias_ptr, saved, bn, mask_m, offs_n, mask_n, tile_m, TILES_M, WIDTH, ACT, SLOPE, NORM,
        GROUPS,
    )  # fmt: skip
    tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=mask)
    if NORM is not None:
        merge_stats(
            bn, offs_n, mask_n, tile_m, tile_n, TILES_M, WIDTH, NORM, GROUPS, COUNT, EPS, MOMENTUM,
        )  # fmt: skip


NO_NORM = {"NORM": None, "GROUPS": 1, "COUNT": 1, "EPS": 0.0, "MOMENTUM": 0.0}


class BatchStatsArrays(NamedTuple):
    """The arrays that a kernel with NORM = "batch_stats" takes."""

    partials: Array  # (tiles + nodes, 3, K) float32
    counter: Array  # int32, 0 before and after a launch
    gamma: Array
    beta: Array
    running_mean: Array
    running_var: Array
    stats: Array  # (5, groups, K) float32, written


class BatchGradStatsArrays(NamedTuple):
    """The arrays that a kernel with NORM = "batch_grad_stats" takes."""

    partials: Array  # (tiles + nodes, K, 2) float32
    counter: Array
    stats: Array
    means: Array  # (2, groups, K), written
    dgamma: Array  # (K,), written
    dbeta: Array  # (K,), written


@dataclass
class BatchStats:
    """Request for the batch statistics of a GEMM's output, which the GEMM writes to `stats`.

    gamma, beta and the running statistics are (K,) float32. The running ones are updated in place,
    once for each group, with the unbiased variance: (1 - momentum) running + momentum batch.
    """

    gamma: Array
    beta: Array
    running_mean: Array
    running_var: Array
    eps: float = 1e-5
    momentum: float = 0.1
    groups: int = 1
    stats: Array | None = field(default=None, init=False)

    @property
    def width(self) -> int:
        """Return K, the number of channels."""
        return len(self.gamma)

    def arguments(self, tiles_m: int, tiles_n: int, rows: int) -> tuple[BatchStatsArrays, dict]:
        """Return the arrays and the constants of the kernel for tiles_m x tiles_n output tiles.

        rows: those of the whole output. Raises ValueError for one row in a group, which has no
        variance, and for arrays that are not (K,).
        """
        K = self.width
        if rows < 2 * self.groups:
            raise ValueError(
                "one value per channel has no variance: BatchNorm wants a batch of 2 or more"
            )
        launch.require_shapes((K,), self.gamma, self.beta, self.running_mean, self.running_var)
        partials, counter = _partials(self.gamma, tiles_m, self.groups, (3, K), tiles_n)
        self.stats = launch.empty(self.gamma, (5, self.groups, K), "float32")
        arrays = BatchStatsArrays(
            partials,
            counter,
            self.gamma,
            self.beta,
            self.running_mean,
            self.running_var,
            self.stats,
        )
        constants = {"NORM": "batch_stats", "GROUPS": self.groups, "COUNT": rows // self.groups}
        return arrays, constants | {"EPS": self.eps, "MOMENTUM": self.momentum}


@dataclass
class BatchGradStats:
    """Request to take a GEMM's output through act to BatchNorm's output, and for its sums.

    The output is the gradient of act(BatchNorm(z)); z has its shape, stats are those of the forward
    pass. The GEMM fills in `means` (2, groups, K), the means of the gradient and of it
    times zhat, and dgamma and dbeta (K,), which may be passed: views of a flat gradient.
    """

    z: Array
    stats: Array
    dgamma: Array | None = None
    dbeta: Array | None = None
    means: Array | None = field(default=None, init=False)

    @property
    def groups(self) -> int:
        """Return the number of groups."""
        return self.stats.shape[1]

    @property
    def width(self) -> int:
        """Return K, the number of channels."""
        return self.stats.shape[2]

    def arguments(self, tiles_m: int, tiles_n: int, rows: int) -> tuple[BatchGradStatsArrays, dict]:
        """Return the arrays and the constants of the kernel, as BatchStats.arguments."""
        K = self.width
        launch.require_shapes((5, self.groups, K), self.stats)
        launch.require_shapes((K,), self.dgamma, self.dbeta)
        partials, counter = _partials(self.stats, tiles_m, self.groups, (K, 2), tiles_n)
        self.means = launch.empty(self.stats, (2, self.groups, K))
        if self.dgamma is None:
            self.dgamma = launch.empty(self.stats, (K,))
        if self.dbeta is None:
            self.dbeta = launch.empty(self.stats, (K,))
        arrays = BatchGradStatsArrays(
            partials, counter, self.stats, self.means, self.dgamma, self.dbeta
        )
        constants = {
            "NORM": "batch_grad_stats",
            "GROUPS": self.groups,
            "COUNT": rows // self.groups,
        }
        return arrays, NO_NORM | constants


def _partials(
    like: Array, tiles_m: int, groups: int, shape: tuple[int, int], tiles_n: int
) -> tuple[Array, Array]:
    """Return the partials of tiles and nodes, and the counters of programs, 0: see merge_stats.

    A recorded step keeps the counters as they are, while the memory of the partials is shared.
    """
    nodes = launch.cdiv(tiles_m // groups, FAN_IN.value)
    nodes = groups * nodes if nodes > 1 else 0  # few tiles have one level
    partials = launch.empty(like, (tiles_m + nodes, *shape), "float32")
    return partials, array_module(like).zeros((1 + nodes) * tiles_n, "int32")
