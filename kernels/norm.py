"""Normalisation: sums over the reduced axes, then an elementwise pass. The mathematics is in rawgan/ops/norm.py.

An array is seen as (A, M, B) with the reduced axes M in the middle: BatchNorm has A = 1, B = channels; LayerNorm A = samples,
B = 1; InstanceNorm A = samples, B = channels. A program sums a slice of M for BLOCK_B columns; a second kernel adds the slices in
a fixed order. Moments are kept as count, mean and sum of squared distances from it and merged by the formula of Chan et al. 1983,
which, unlike E(x^2) - mean^2, keeps its digits when the mean is large: one pass over x. Statistics are float32 whatever the arrays
hold. (A product can leave the statistics of its output without any pass: moments.py.)
"""

from functools import partial
from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.gemm import below, load, split
from rawgan.kernels.moments import add_sums, merge_moments
from rawgan.kernels.spec import Spec
from rawgan.ops import linear
from rawgan.ops import norm as ops

TILE = 2048  # values that a program adds up in a step
SUMS = {"mean": 1, "product": 1, "moments": 3, "dx": 2, "dx2": 5}
MERGE = {"BLOCK": 32, "num_warps": 4}
ELEMENTWISE = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def _merge(count, mean, m2, count2, mean2, m22):
    """Moments of two parts together: how many, their mean, the sum of squared distances from it."""
    total = tl.maximum(count + count2, 1.0)
    delta = mean2 - mean
    return count + count2, mean + delta * (count2 / total), m2 + m22 + delta * delta * (count * count2 / total)


@triton.jit
def norm_sums_kernel(
    u_ptr, v_ptr, w_ptr, slices_ptr, KIND: tl.constexpr, M: tl.constexpr, B: tl.constexpr, SUMS: tl.constexpr,
    SLICES: tl.constexpr, STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    TILES_B: tl.constexpr = (B + BLOCK_B - 1) // BLOCK_B
    ROWS: tl.constexpr = STEPS * BLOCK_M
    a = tl.program_id(0) // TILES_B
    i = tl.program_id(1)
    offs_b = tl.program_id(0) % TILES_B * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_b = below(offs_b, B, BLOCK_B)
    s0 = tl.zeros((BLOCK_B,), tl.float32)
    s1 = tl.zeros((BLOCK_B,), tl.float32)
    s2 = tl.zeros((BLOCK_B,), tl.float32)
    s3 = tl.zeros((BLOCK_B,), tl.float32)
    s4 = tl.zeros((BLOCK_B,), tl.float32)
    for step in range(STEPS):
        offs_m = i * ROWS + step * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = below(offs_m, M, ROWS)[:, None] & mask_b[None, :]
        offs = (a * M + offs_m)[:, None] * B + offs_b[None, :]
        u = load(u_ptr, offs, mask)
        if KIND == "mean":
            s0 += tl.sum(u, 0)
        elif KIND == "product":
            s0 += tl.sum(u * load(v_ptr, offs, mask), 0)
        elif KIND == "moments":
            here = tl.sum(mask.to(tl.float32), 0)
            mean = tl.sum(u, 0) / tl.maximum(here, 1.0)
            d = tl.where(mask, u - mean[None, :], 0.0)
            s0, s1, s2 = _merge(s0, s1, s2, here, mean, tl.sum(d * d, 0))
        elif KIND == "dx":
            s0 += tl.sum(u, 0)
            s1 += tl.sum(u * load(v_ptr, offs, mask), 0)
        else:
            v = load(v_ptr, offs, mask)
            w = load(w_ptr, offs, mask)
            s0 += tl.sum(u, 0)
            s1 += tl.sum(v, 0)
            s2 += tl.sum(u * v, 0)
            s3 += tl.sum(w * v, 0)
            s4 += tl.sum(w * u, 0)
    out_ptr = slices_ptr + ((a * SLICES + i) * SUMS) * B + offs_b
    tl.store(out_ptr, s0, mask=mask_b)
    if SUMS > 1:
        tl.store(out_ptr + B, s1, mask=mask_b)
    if SUMS > 2:
        tl.store(out_ptr + 2 * B, s2, mask=mask_b)
    if SUMS > 3:
        tl.store(out_ptr + 3 * B, s3, mask=mask_b)
        tl.store(out_ptr + 4 * B, s4, mask=mask_b)


@triton.jit
def norm_means_kernel(
    slices_ptr, out_ptr, DIVISOR: tl.constexpr, B: tl.constexpr, AB: tl.constexpr, SUMS: tl.constexpr, SLICES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out[sum, a, b] = the sum over the slices / DIVISOR."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SUMS * AB
    at = (offs % AB // B * SLICES * SUMS + offs // AB) * B + offs % B
    total = add_sums(slices_ptr, at, mask, SLICES, SUMS * B)
    tl.store(out_ptr + offs, (total / DIVISOR).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def norm_moments_kernel(
    slices_ptr, out_ptr, B: tl.constexpr, AB: tl.constexpr, SLICES: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out[0], out[1], out[2] = mean, variance, rstd of each a, b, from the count, mean and squared distances of each slice."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < AB
    mean, var = merge_moments(slices_ptr, offs // B * SLICES * 3 * B + offs % B, mask, SLICES, B)
    tl.store(out_ptr + offs, mean, mask=mask)
    tl.store(out_ptr + AB + offs, var, mask=mask)
    tl.store(out_ptr + 2 * AB + offs, 1.0 / tl.sqrt(var + EPS), mask=mask)


@triton.jit
def norm_apply_kernel(
    u_ptr, v_ptr, w_ptr, p_ptr, q_ptr, out_ptr, KIND: tl.constexpr,
    SIZE: tl.constexpr, M: tl.constexpr, B: tl.constexpr, AB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    at = offs // (M * B) * B + offs % B
    u = load(u_ptr, offs, mask)
    p = load(p_ptr, at, mask)
    q = load(q_ptr, at, mask)
    if KIND == "affine":
        out = u * p + q
    elif KIND == "standardize":
        out = (u - p) * q
    elif KIND == "dx":
        out = (u - p - load(v_ptr, offs, mask) * load(p_ptr, at + AB, mask)) * q
    else:  # u, v, w = ddx, dxhat, xhat; the means in the order of norm_sums_kernel
        v = load(v_ptr, offs, mask)
        w = load(w_ptr, offs, mask)
        mean_v = load(p_ptr, at + AB, mask)
        wv = load(p_ptr, at + 3 * AB, mask)
        wu = load(p_ptr, at + 4 * AB, mask)
        scale = load(p_ptr, at + 2 * AB, mask) - p * mean_v - wu * wv  # E(u P(v))
        mixed = wv * (u - p) + wu * (v - mean_v) - 2.0 * wu * wv * w  # P(wv u + wu v)
        out = -q * q * (w * scale + mixed)
    tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=mask)


def _view(shape: tuple[int, ...], kept: tuple[int, ...]) -> tuple[int, int, int]:
    """(A, M, B) for statistics of shape `kept`, which broadcasts against `shape`; ValueError unless M is in one piece."""
    kept = (1,) * (len(shape) - len(kept)) + tuple(kept)
    reduced = [i for i, (n, m) in enumerate(zip(shape, kept)) if n != m] or [0, -1]
    A, B = prod(shape[: reduced[0]]), prod(shape[reduced[-1] + 1 :])
    if A * B != prod(kept) or A * B == 0:
        raise ValueError(f"statistics of shape {kept} do not fit an array of shape {shape}")
    return A, prod(shape) // (A * B), B


def _kept(shape: tuple[int, ...], axes: ops.Axes) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _slices(kind: str, axes: ops.Axes, u: Array, v: Array | None = None, w: Array | None = None) -> tuple[Array, tuple[int, ...]]:
    """The sums over each slice, float32 (A, slices, sums, B), and the shape of the statistics."""
    launch.fit(*((u.shape, a.shape) for a in (v, w) if a is not None))
    kept = _kept(u.shape, axes)
    A, M, B = _view(u.shape, kept)
    block_b = min(64, triton.next_power_of_2(B))
    block_m = min(TILE // block_b, triton.next_power_of_2(M))
    tiles = A * launch.cdiv(B, block_b)
    steps, slices = split(launch.cdiv(M, block_m), tiles, launch.capability(u))
    sums = SUMS[kind]
    partial_sums = launch.empty(u, (A, slices, sums, B), "float32")
    launch.run(
        norm_sums_kernel, (tiles, slices), u, v, w, partial_sums, KIND=kind, M=M, B=B, SUMS=sums,
        SLICES=slices, STEPS=steps, BLOCK_M=block_m, BLOCK_B=block_b, num_warps=4,
    )  # fmt: skip
    return partial_sums, kept


def add_slices(slices: Array, out: Array, divisor: int) -> Array:
    """out (sums, *kept) = the sums over the slices / divisor; slices (A, slices, sums, B)."""
    A, count, sums, B = slices.shape
    launch.fit((out.size, sums * A * B))
    sizes = {"DIVISOR": divisor, "B": B, "AB": A * B, "SUMS": sums, "SLICES": count}
    launch.run(norm_means_kernel, (launch.cdiv(out.size, MERGE["BLOCK"]),), slices, out, **sizes, **MERGE)
    return out


def _means(kind: str, axes: ops.Axes, *arrays: Array) -> Array:
    """(sums, *kept) means of products, float32."""
    slices, kept = _slices(kind, axes, *arrays)
    return add_slices(slices, launch.empty(slices, (slices.shape[2], *kept)), arrays[0].size // prod(kept))


def _apply(kind: str, p: Array, q: Array, u: Array, v: Array | None = None, w: Array | None = None) -> Array:
    A, M, B = _view(u.shape, q.shape)
    launch.fit((p.size % q.size, 0))
    out = launch.empty(u, u.shape)
    sizes = {"SIZE": u.size, "M": M, "B": B, "AB": A * B}
    launch.run(norm_apply_kernel, (launch.cdiv(u.size, 1024),), u, v, w, p, q, out, KIND=kind, **sizes, **ELEMENTWISE)
    return out


def mean(axes: ops.Axes, *factors: Array) -> Array:
    """The mean of one array or of the product of two, float32."""
    return _means("mean" if len(factors) == 1 else "product", axes, *factors)[0]


def bias_db(dy: Array, out: Array | None = None) -> Array:
    """The sums over all axes but the last, in dy's dtype or that of `out`."""
    slices, _ = _slices("mean", (0,), dy.reshape(-1, dy.shape[-1]))
    return add_slices(slices, launch.empty(dy, (dy.shape[-1],)) if out is None else out, 1)


def affine(x: Array, scale: Array, shift: Array) -> Array:
    return _apply("affine", scale, shift, x)


def standardize(x: Array, mu: Array, rstd: Array) -> Array:
    return _apply("standardize", mu, rstd, x)


def normalize(x: Array, axes: ops.Axes, eps: float) -> tuple[Array, Array, Array, Array]:
    slices, kept = _slices("moments", axes, x)
    A, count, _, B = slices.shape
    moments = launch.empty(slices, (3, *kept))
    grid = (launch.cdiv(A * B, MERGE["BLOCK"]),)
    launch.run(norm_moments_kernel, grid, slices, moments, B=B, AB=A * B, SLICES=count, EPS=eps, **MERGE)
    mu, var, rstd = moments
    return standardize(x, mu, rstd), rstd, mu, var


def normalize_dx(dxhat: Array, xhat: Array, rstd: Array, axes: ops.Axes) -> Array:
    return _apply("dx", _means("dx", axes, dxhat, xhat), rstd, dxhat, xhat)


def normalize_dx2(ddx: Array, dxhat: Array, xhat: Array, rstd: Array, axes: ops.Axes) -> Array:
    return _apply("dx2", _means("dx2", axes, ddx, dxhat, xhat), rstd, ddx, dxhat, xhat)


AXES = {"batch": (0, 1, 2), "layer": (1, 2, 3), "instance": (1, 2)}


def _make(arrays: int, stats: int, tail, array, shape, over):
    """So many arrays of that shape, so many positive statistics, and what `tail` makes of (axes, arrays)."""
    kept = _kept(shape, AXES[over])
    given = [array(*shape) for _ in range(arrays)] + [array(*kept, dtype="float32") ** 2 for _ in range(stats)]
    return tail(AXES[over], given), {}


def _axes_last(axes, given):
    return (*given, axes)


def _spec(wrapper, arrays, stats, tail, passes) -> Spec:
    """passes: how often the data goes through memory, all kernels together."""
    large = {"shape": (128, 16, 16, 128)}
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=getattr(ops, wrapper.__name__),
        make=partial(_make, arrays, stats, tail),
        cases=tuple({"shape": shape, "over": over} for shape in ((7, 9, 11, 5), (2, 12, 10, 70)) for over in AXES),
        benchmarks=({**large, "over": "batch"}, {**large, "over": "layer"}),
        traffic=lambda itemsize, shape, over: passes * itemsize * prod(shape),
        flops=lambda shape, over: 4 * passes * prod(shape),
        compiles=tuple(("bfloat16", {**large, "over": over}, {}) for over in ("batch", "layer")),
    )


SPECS = (
    Spec(
        name="bias_db",
        wrapper=bias_db,
        reference=linear.bias_db,
        make=lambda array, shape: ((array(*shape),), {}),
        cases=({"shape": (7, 9, 11, 5)}, {"shape": (37, 70)}, {"shape": (1, 1)}),
        benchmarks=({"shape": (128, 16, 16, 128)},),
        traffic=lambda itemsize, shape: itemsize * prod(shape),
        flops=lambda shape: prod(shape),
        compiles=(("bfloat16", {"shape": (128, 16, 16, 128)}, {}),),
    ),
    _spec(mean, 2, 0, lambda axes, given: (axes, *given), 2),
    _spec(affine, 1, 2, lambda axes, given: tuple(given), 2),
    _spec(standardize, 1, 2, lambda axes, given: tuple(given), 2),
    _spec(normalize, 1, 0, lambda axes, given: (*given, axes, 1e-5), 3),
    _spec(normalize_dx, 2, 1, _axes_last, 5),
    _spec(normalize_dx2, 3, 1, _axes_last, 7),
)
