"""BatchNorm's statistics of an array that no product of ours can leave them of: a pass over it, by the same rules as moments.py.

    forward    moments(y, norm)                 of a linear map whose outputs are the pixels of an image
    backward   sums(da, norm, act)              of a gradient that Dropout has changed since its product
    inference  y, stats = running_act(z, ...)   the running statistics in the place of the batch's

A program takes a tile of rows and columns, and no tile reaches over two groups of samples.
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.act import activate
from rawgan.kernels.gemm import activated, below, load
from rawgan.kernels.moments import Moments, Sums, leave_moments, leave_sums
from rawgan.kernels.norm_act import before_act, make_stats
from rawgan.kernels.spec import Spec
from rawgan.ops import norm as ops

TILE = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8}
CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def norm_pass_kernel(
    x_ptr, z_ptr, norm,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    NORM: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, EPS: tl.constexpr, MOMENTUM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    SLICES: tl.constexpr = TILES // GROUPS
    tile = tl.program_id(0) // COLUMNS
    column = tl.program_id(0) % COLUMNS
    offs_m = tile % SLICES * BLOCK_M + tl.arange(0, BLOCK_M)  # within the group
    offs_n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = offs_m < COUNT
    mask_n = offs_n < WIDTH
    offs = (tile // SLICES * COUNT + offs_m)[:, None] * WIDTH + offs_n[None, :]
    mask = mask_m[:, None] & mask_n[None, :]
    x = load(x_ptr, offs, mask)
    if NORM == "moments":
        leave_moments(norm, x, mask_m, offs_n, mask_n, tile, column, TILES, WIDTH, GROUPS, COUNT, EPS, MOMENTUM)
    else:
        dz = leave_sums(norm, z_ptr, x, offs, mask_m, offs_n, mask_n, tile, column, TILES, WIDTH, ACT, SLOPE, GROUPS, COUNT)
        tl.store(x_ptr + offs, dz.to(x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def running_act_kernel(
    z_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr, y_ptr, stats_ptr,
    SIZE: tl.constexpr, K: tl.constexpr, EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    at = offs % K
    mean = load(mean_ptr, at, mask)
    var = load(var_ptr, at, mask)
    rstd = 1.0 / tl.sqrt(var + EPS)
    scale = load(gamma_ptr, at, mask) * rstd
    shift = load(beta_ptr, at, mask) - mean * scale
    y = activate(scale * load(z_ptr, offs, mask) + shift, ACT, SLOPE)
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)
    first = offs < K  # once for each channel
    tl.store(stats_ptr + offs, mean, mask=first)
    tl.store(stats_ptr + K + offs, var, mask=first)
    tl.store(stats_ptr + 2 * K + offs, rstd, mask=first)
    tl.store(stats_ptr + 3 * K + offs, scale, mask=first)
    tl.store(stats_ptr + 4 * K + offs, shift, mask=first)


def moments(y: Array, norm: Moments) -> None:
    """Fills in norm.stats and moves its running statistics; y (N, ..., K)."""
    _pass(y, None, norm)


def sums(da: Array, norm: Sums, act: str | None = "relu", slope: float = 0.2) -> Array:
    """The gradient of BatchNorm's output from that of act of it, in its place; fills in the sums of norm. da like norm.z."""
    launch.fit((da.shape, norm.z.shape))
    _pass(da, norm.z, norm, act, slope)
    return da


def _pass(x: Array, z: Array | None, norm: Moments | Sums, act: str | None = None, slope: float = 0.0) -> None:
    K, rows = x.shape[-1], x.size // x.shape[-1]
    launch.fit((norm.width, K), (len(x) % norm.groups, 0))
    tiles, columns = norm.groups * launch.cdiv(rows // norm.groups, TILE["BLOCK_M"]), launch.cdiv(K, TILE["BLOCK_N"])
    arrays, constants = norm.arguments(tiles, columns, rows)
    sizes = {"ROWS": rows, "WIDTH": K, "TILES": tiles, "ACT": act, "SLOPE": slope}
    launch.run(norm_pass_kernel, (tiles * columns,), x, z, arrays, **sizes, **constants, **TILE)


def running_act(
    z: Array, gamma: Array, beta: Array, mean: Array, var: Array, act: str | None = "relu", slope: float = 0.2, eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """(act(scale z + shift), stats (5, 1, K)) by the running statistics: z (N, ..., K), the others (K,)."""
    K = z.shape[-1]
    y = launch.empty(z, z.shape) if out is None else out
    launch.fit((y.shape, z.shape), *((a.shape, (K,)) for a in (gamma, beta, mean, var)))
    stats = launch.empty(z, (5, 1, K), "float32")
    sizes = {"SIZE": z.size, "K": K, "EPS": eps, "ACT": act, "SLOPE": slope}
    launch.run(running_act_kernel, (launch.cdiv(z.size, CONFIG["BLOCK"]),), z, gamma, beta, mean, var, y, stats, **sizes, **CONFIG)
    return y, stats


# Specs: with the statistics as plain arrays


def batch_moments(y, gamma, beta, mean, var, *, groups):
    """The statistics of y; the running mean and variance are moved in place."""
    norm = Moments(gamma, beta, mean, var, groups=groups)
    moments(y, norm)
    return norm.stats


def batch_sums(da, z, stats, *, act):
    """Backward through act and as far as BatchNorm's output, in place; its means, dgamma and dbeta."""
    norm = Sums(z, stats)
    sums(da, norm, act)
    return norm.means, norm.dgamma, norm.dbeta


def _table(gamma, beta, mean, var, eps):
    scale = gamma * (rstd := (var + eps) ** -0.5)
    return array_module(mean).stack([mean, var, rstd, scale, beta - mean * scale])


def _moments_reference(y, gamma, beta, mean, var, *, groups):
    parts = y.reshape(groups, -1, y.shape[-1])
    mu, v = parts.mean(1), parts.var(1)
    for group in range(groups):
        mean += 0.1 * (mu[group] - mean)
        var += 0.1 * (v[group] * (M := parts.shape[1]) / (M - 1) - var)
    return _table(gamma, beta, mu, v, 1e-5)


def _sums_reference(da, z, stats, *, act):
    dz, zhat = before_act(da, z, stats, act)
    da[...] = dz.reshape(da.shape)
    return array_module(z).stack([dz.mean(1), (dz * zhat).mean(1)]), (dz * zhat).sum((0, 1)), dz.sum((0, 1))


def _running_reference(z, gamma, beta, mean, var, act, eps):
    stats = _table(gamma, beta, mean, var, eps)
    return activated(ops.affine((z - mean) * stats[2], gamma, beta), act), stats[:, None]


def _vectors(array, K):
    """gamma, beta, and a running mean and variance."""
    gamma, beta, mean, var = (array(K, dtype="float32") for _ in range(4))
    return gamma, beta, mean, var**2


def _make_moments(array, shape, groups):
    return (array(*shape), *_vectors(array, shape[-1])), {"groups": groups}


def _make_sums(array, shape, groups, act):
    return (array(*shape), array(*shape), make_stats(array, groups, shape[-1])), {"act": act}


def _make_running(array, shape, act):
    return (array(*shape), *_vectors(array, shape[-1])), {"act": act, "eps": 1e-3}


def _spec(wrapper, reference, make, passes, writes, cases, large) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=(large,),
        traffic=lambda itemsize, shape, **_: passes * itemsize * prod(shape),
        flops=lambda shape, **_: 6 * prod(shape),
        compiles=(("bfloat16", large, {}), ("float32", large, {})),
        writes=writes,
    )


LARGE = (128, 7, 7, 128)
SPECS = (
    _spec(
        batch_moments, _moments_reference, _make_moments, 1, (3, 4),
        ({"shape": (6, 5, 5, 70), "groups": 2}, {"shape": (9, 130), "groups": 1}, {"shape": (2, 3), "groups": 1}),
        {"shape": LARGE, "groups": 2},
    ),
    _spec(
        batch_sums, _sums_reference, _make_sums, 3, (0,),
        ({"shape": (6, 5, 5, 70), "groups": 2, "act": "leaky_relu"}, {"shape": (9, 130), "groups": 1, "act": "tanh"}),
        {"shape": LARGE, "groups": 2, "act": "leaky_relu"},
    ),
    _spec(
        running_act, _running_reference, _make_running, 2, (),
        ({"shape": (6, 5, 5, 7), "act": "relu"}, {"shape": (2, 1300), "act": None}),
        {"shape": LARGE, "act": "relu"},
    ),
)  # fmt: skip
