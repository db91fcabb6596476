"""Statistics that a product leaves beside its output, so that nobody reads the output again to take them.

    Moments    forward: mean and variance of each column of y, what BatchNorm needs of them, and its running statistics
    Sums       backward: y is the gradient of act(BatchNorm(z)); it is carried on to that of BatchNorm's output, and its sums, which
               are the gradients of gamma and beta, are taken

Each tile stores the statistics of its rows; the program that finishes last in its columns merges them, tile after tile in their
order, so the bits do not depend on which program that was. Moments are merged by the formula of Chan et al. 1983. A batch may be
several groups of samples with statistics of their own: D's real and fake images.

    stats (5, groups, K):  mean, variance, rstd, scale = gamma rstd, shift = beta - mean scale;  so that y = scale z + shift
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.act import activate, activate_dx
from rawgan.kernels.gemm import finish, load

BLOCK_S: tl.constexpr = tl.constexpr(16)  # slices that are merged at a time


@triton.jit
def merge_moments(slices_ptr, at, mask, SLICES: tl.constexpr, WIDTH: tl.constexpr):
    """Mean and variance of each column, from count, mean and squared distances, (SLICES, 3, WIDTH), at `at`.

    BLOCK_S lanes go through the slices side by side, each merging what it meets with what it has; the lanes are merged at the end,
    the mean first, then the distances: of each lane from its own mean, and of its mean from the mean of all.
    """
    lane = tl.arange(0, BLOCK_S)
    count = tl.zeros((BLOCK_S, at.shape[0]), tl.float32)
    mean = tl.zeros((BLOCK_S, at.shape[0]), tl.float32)
    m2 = tl.zeros((BLOCK_S, at.shape[0]), tl.float32)
    for first in range(0, SLICES, BLOCK_S):
        part = at[None, :] + (first + lane)[:, None] * 3 * WIDTH
        inside = (first + lane < SLICES)[:, None] & mask[None, :]
        n = load(slices_ptr, part, inside)
        delta = load(slices_ptr, part + WIDTH, inside) - mean
        share = n / tl.maximum(count + n, 1.0)
        mean += delta * share
        m2 += load(slices_ptr, part + 2 * WIDTH, inside) + delta * delta * count * share
        count += n
    total = tl.maximum(tl.sum(count, 0), 1.0)
    centre = tl.sum(count * mean, 0) / total
    delta = mean - centre[None, :]
    return centre, tl.sum(m2 + count * delta * delta, 0) / total


@triton.jit
def add_sums(slices_ptr, at, mask, SLICES: tl.constexpr, STEP: tl.constexpr, LANES: tl.constexpr = BLOCK_S):
    """The sums over the slices, STEP values apart, by LANES lanes side by side."""
    lane = tl.arange(0, LANES)
    totals = tl.zeros((LANES, at.shape[0]), tl.float32)
    for first in range(0, SLICES, LANES):
        i = first + lane
        totals += load(slices_ptr, at[None, :] + i[:, None] * STEP, (i < SLICES)[:, None] & mask[None, :])
    return tl.sum(totals, 0)


@triton.jit
def last_of(counter_ptr, TILES: tl.constexpr):
    """Whether this program is the last of TILES to come here: it sees what all have stored, and leaves the counter at 0."""
    tl.debug_barrier()  # Triton 3.6 does not have all warps' stores done before the release of the atomic
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel") == TILES - 1
    if last:
        tl.store(counter_ptr, 0)
    return last


@triton.jit
def leave_moments(
    norm, acc, mask_m, offs_n, mask_n, tile, column, TILES: tl.constexpr, WIDTH: tl.constexpr,
    GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """Stores the moments of a tile; the last program of the column merges them, group by group."""
    SLICES: tl.constexpr = TILES // GROUPS
    out_ptr = norm.slices + tile * 3 * WIDTH + offs_n
    count = tl.sum(mask_m.to(tl.float32), 0)
    mean = tl.sum(tl.where(mask_m[:, None], acc, 0.0), 0) / tl.maximum(count, 1.0)
    distance = tl.where(mask_m[:, None], acc - mean[None, :], 0.0)
    tl.store(out_ptr, count + 0.0 * mean, mask=mask_n)
    tl.store(out_ptr + WIDTH, mean, mask=mask_n)
    tl.store(out_ptr + 2 * WIDTH, tl.sum(distance * distance, 0), mask=mask_n)
    if last_of(norm.counter + column, TILES):
        gamma = load(norm.gamma, offs_n, mask_n)
        beta = load(norm.beta, offs_n, mask_n)
        running_mean = load(norm.running_mean, offs_n, mask_n)
        running_var = load(norm.running_var, offs_n, mask_n)
        for group in range(GROUPS):
            mean, var = merge_moments(norm.slices, group * SLICES * 3 * WIDTH + offs_n, mask_n, SLICES, WIDTH)
            rstd = 1.0 / tl.sqrt(var + EPS)
            stats_ptr = norm.stats + group * WIDTH + offs_n
            tl.store(stats_ptr, mean, mask=mask_n)
            tl.store(stats_ptr + GROUPS * WIDTH, var, mask=mask_n)
            tl.store(stats_ptr + 2 * GROUPS * WIDTH, rstd, mask=mask_n)
            tl.store(stats_ptr + 3 * GROUPS * WIDTH, gamma * rstd, mask=mask_n)
            tl.store(stats_ptr + 4 * GROUPS * WIDTH, beta - mean * gamma * rstd, mask=mask_n)
            running_mean += MOMENTUM * (mean - running_mean)
            running_var += MOMENTUM * (var * (COUNT / (COUNT - 1)) - running_var)
        tl.store(norm.running_mean + offs_n, running_mean, mask=mask_n)
        tl.store(norm.running_var + offs_n, running_var, mask=mask_n)


@triton.jit
def act_dz(dy, z, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """act'(z) dy; tanh and sigmoid have their derivative in their value."""
    if ACT == "tanh" or ACT == "sigmoid":
        return activate_dx(dy, activate(z, ACT, SLOPE), ACT, SLOPE)
    else:
        return activate_dx(dy, z, ACT, SLOPE)


@triton.jit
def leave_sums(
    norm, v_ptr, acc, offs, mask_m, offs_n, mask_n, tile, column, TILES: tl.constexpr, WIDTH: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """act'(scale z + shift) acc; and the sums of it, and of it times zhat, of a tile; the last program of the column adds them."""
    SLICES: tl.constexpr = TILES // GROUPS
    ROW: tl.constexpr = GROUPS * WIDTH
    stats_ptr = norm.stats + tile // SLICES * WIDTH
    mask = mask_m[:, None] & mask_n[None, :]
    z = load(v_ptr, offs, mask)
    zhat = (z - load(stats_ptr, offs_n, mask_n)[None, :]) * load(stats_ptr + 2 * ROW, offs_n, mask_n)[None, :]
    pre = z * load(stats_ptr + 3 * ROW, offs_n, mask_n)[None, :] + load(stats_ptr + 4 * ROW, offs_n, mask_n)[None, :]
    dz = tl.where(mask, act_dz(acc, pre, ACT, SLOPE), 0.0)
    tl.store(norm.slices + tile * 2 * WIDTH + offs_n, tl.sum(dz, 0), mask=mask_n)
    tl.store(norm.slices + (tile * 2 + 1) * WIDTH + offs_n, tl.sum(dz * zhat, 0), mask=mask_n)
    if last_of(norm.counter + column, TILES):
        dbeta = tl.zeros(offs_n.shape, tl.float32)
        dgamma = tl.zeros(offs_n.shape, tl.float32)
        for group in range(GROUPS):
            at = group * SLICES * 2 * WIDTH + offs_n
            b = add_sums(norm.slices, at, mask_n, SLICES, 2 * WIDTH)
            g = add_sums(norm.slices, at + WIDTH, mask_n, SLICES, 2 * WIDTH)
            tl.store(norm.means + group * WIDTH + offs_n, b / COUNT, mask=mask_n)
            tl.store(norm.means + ROW + group * WIDTH + offs_n, g / COUNT, mask=mask_n)
            dbeta += b
            dgamma += g
        tl.store(norm.dbeta + offs_n, dbeta, mask=mask_n)
        tl.store(norm.dgamma + offs_n, dgamma, mask=mask_n)
    return dz


@triton.jit
def store_tile(
    out_ptr, acc, bias_ptr, v_ptr, norm, offs, mask_m, offs_n, mask_n, tile, column, TILES: tl.constexpr, WIDTH: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """The end of a product: act(acc + bias), acc act'(v), or the gradient through the BatchNorm below; and its statistics."""
    mask = mask_m[:, None] & mask_n[None, :]
    if NORM == "sums":
        acc = leave_sums(
            norm, v_ptr, acc, offs, mask_m, offs_n, mask_n, tile, column, TILES, WIDTH, ACT, SLOPE, GROUPS, COUNT
        )  # fmt: skip
    else:
        acc = finish(acc, bias_ptr, v_ptr, offs_n, mask_n, offs, mask, ACT, SLOPE)
    tl.store(out_ptr + offs, acc.to(out_ptr.dtype.element_ty), mask=mask)
    if NORM == "moments":
        leave_moments(norm, acc, mask_m, offs_n, mask_n, tile, column, TILES, WIDTH, GROUPS, COUNT, EPS, MOMENTUM)


NO_NORM = {"NORM": None, "GROUPS": 1, "COUNT": 1, "EPS": 0.0, "MOMENTUM": 0.0}


class MomentsArrays(NamedTuple):
    """What a kernel gets for Moments."""

    slices: Array
    counter: Array
    gamma: Array
    beta: Array
    running_mean: Array
    running_var: Array
    stats: Array


class SumsArrays(NamedTuple):
    """What a kernel gets for Sums."""

    slices: Array
    counter: Array
    stats: Array
    means: Array
    dgamma: Array
    dbeta: Array


@dataclass
class Moments:
    """Asks a product for the moments of its columns. gamma, beta and the running statistics are (K,), the latter moved in place:
    (1 - momentum) running + momentum batch, with the unbiased variance, once for each group. It fills in `stats`."""

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
        return len(self.gamma)

    def arguments(self, tiles: int, columns: int, rows: int) -> tuple[MomentsArrays, dict]:
        """The arrays and constants for a product of so many tiles in so many columns, with `rows` rows in all."""
        K = len(self.gamma)
        if rows < 2 * self.groups:
            raise ValueError("one value per channel has no variance: BatchNorm wants a batch of 2 or more")
        launch.fit(*((a.shape, (K,)) for a in (self.beta, self.running_mean, self.running_var)))
        slices, counter = _room(self.gamma, (tiles, 3, K), columns)
        self.stats = launch.empty(self.gamma, (5, self.groups, K), "float32")
        given = MomentsArrays(slices, counter, self.gamma, self.beta, self.running_mean, self.running_var, self.stats)
        how = {"NORM": "moments", "GROUPS": self.groups, "COUNT": rows // self.groups}
        return given, how | {"EPS": self.eps, "MOMENTUM": self.momentum}


@dataclass
class Sums:
    """Asks a product, the gradient of act(BatchNorm(z)), for that of BatchNorm's output, and its sums.

    z like the product, stats of its BatchNorm. It fills in `means` (2, groups, K), those of the gradient and of it times zhat, and
    dgamma and dbeta (K,), which may be given: the views of a flat gradient.
    """

    z: Array
    stats: Array
    dgamma: Array | None = None
    dbeta: Array | None = None
    means: Array | None = field(default=None, init=False)

    @property
    def groups(self) -> int:
        return self.stats.shape[1]

    @property
    def width(self) -> int:
        return self.stats.shape[2]

    def arguments(self, tiles: int, columns: int, rows: int) -> tuple[SumsArrays, dict]:
        """As of Moments."""
        K = self.stats.shape[2]
        slices, counter = _room(self.stats, (tiles, 2, K), columns)
        self.means = launch.empty(self.stats, (2, self.groups, K))
        for name in ("dgamma", "dbeta"):
            if getattr(self, name) is None:
                setattr(self, name, launch.empty(self.stats, (K,)))
        given = SumsArrays(slices, counter, self.stats, self.means, self.dgamma, self.dbeta)
        return given, NO_NORM | {"NORM": "sums", "GROUPS": self.groups, "COUNT": rows // self.groups}


def _room(like: Array, shape: tuple[int, int, int], columns: int) -> tuple[Array, Array]:
    """Slices to be written, and a counter for each column of tiles, which starts at 0 and is left at 0."""
    return launch.empty(like, shape, "float32"), array_module(like).zeros(columns, "int32")
