"""BatchNorm and the activation after it as one: y = act(gamma xhat + beta). The mathematics is in rawgan/ops/norm.py and act.py.

Forward is one elementwise pass from the statistics, which the convolution before it may have left (conv2d_moments); backward is
one pass for the two sums and one for dx. Only x is kept: xhat and the activation are computed again, cheaper than loading them.
With more than one group of samples, each has its own statistics: D's real and fake images in one batch. x is seen as (A, M, B), a
group, the values that its statistics are taken over, the channels.

    z = gamma xhat + beta     dz = act'(z) dy     dgamma = sum of xhat dz     dbeta = sum of dz
    dx = gamma rstd (dz - dbeta / M - xhat dgamma / M)
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.act import activate, activate_dx
from rawgan.kernels.gemm import activated, activated_dx, below, load, split
from rawgan.kernels.norm import ELEMENTWISE, TILE, add_slices
from rawgan.kernels.spec import Spec
from rawgan.ops import norm as ops


@triton.jit
def _dz(dy, z, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """act'(z) dy; tanh and sigmoid have their derivative in their value."""
    if ACT == "tanh" or ACT == "sigmoid":
        return activate_dx(dy, activate(z, ACT, SLOPE), ACT, SLOPE)
    else:
        return activate_dx(dy, z, ACT, SLOPE)


@triton.jit
def norm_act_kernel(
    x_ptr, mean_ptr, rstd_ptr, gamma_ptr, beta_ptr, y_ptr,
    SIZE: tl.constexpr, M: tl.constexpr, B: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    b = offs % B
    at = offs // (M * B) * B + b
    xhat = (load(x_ptr, offs, mask) - load(mean_ptr, at, mask)) * load(rstd_ptr, at, mask)
    y = activate(load(gamma_ptr, b, mask) * xhat + load(beta_ptr, b, mask), ACT, SLOPE)
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def norm_act_sums_kernel(
    dy_ptr, x_ptr, mean_ptr, rstd_ptr, gamma_ptr, beta_ptr, slices_ptr,
    M: tl.constexpr, B: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    SLICES: tl.constexpr, STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    TILES_B: tl.constexpr = (B + BLOCK_B - 1) // BLOCK_B
    ROWS: tl.constexpr = STEPS * BLOCK_M
    a = tl.program_id(0) // TILES_B
    i = tl.program_id(1)
    b = tl.program_id(0) % TILES_B * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_b = below(b, B, BLOCK_B)
    mean = load(mean_ptr, a * B + b, mask_b)
    rstd = load(rstd_ptr, a * B + b, mask_b)
    gamma = load(gamma_ptr, b, mask_b)
    beta = load(beta_ptr, b, mask_b)
    dbeta = tl.zeros((BLOCK_B,), tl.float32)
    dgamma = tl.zeros((BLOCK_B,), tl.float32)
    for step in range(STEPS):
        offs_m = i * ROWS + step * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = below(offs_m, M, ROWS)[:, None] & mask_b[None, :]
        offs = (a * M + offs_m)[:, None] * B + b[None, :]
        xhat = (load(x_ptr, offs, mask) - mean[None, :]) * rstd[None, :]
        dz = _dz(load(dy_ptr, offs, mask), gamma[None, :] * xhat + beta[None, :], ACT, SLOPE)
        dbeta += tl.sum(dz, 0)
        dgamma += tl.sum(dz * xhat, 0)
    out_ptr = slices_ptr + (a * SLICES + i) * 2 * B + b
    tl.store(out_ptr, dbeta, mask=mask_b)
    tl.store(out_ptr + B, dgamma, mask=mask_b)


@triton.jit
def norm_act_dx_kernel(
    dy_ptr, x_ptr, mean_ptr, rstd_ptr, gamma_ptr, beta_ptr, dbeta_ptr, dgamma_ptr, dx_ptr,
    SIZE: tl.constexpr, M: tl.constexpr, B: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    b = offs % B
    at = offs // (M * B) * B + b
    rstd = load(rstd_ptr, at, mask)
    gamma = load(gamma_ptr, b, mask)
    xhat = (load(x_ptr, offs, mask) - load(mean_ptr, at, mask)) * rstd
    dz = _dz(load(dy_ptr, offs, mask), gamma * xhat + load(beta_ptr, b, mask), ACT, SLOPE)
    dx = gamma * rstd * (dz - load(dbeta_ptr, at, mask) * (1.0 / M) - xhat * load(dgamma_ptr, at, mask) * (1.0 / M))
    tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def _view(x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array) -> tuple[int, int, int]:
    """(A, M, B): groups, values of a group, channels."""
    A, B = mean.shape
    launch.fit((x.shape[-1], B), (rstd.shape, mean.shape), (gamma.shape, (B,)), (beta.shape, (B,)), (len(x) % A, 0))
    return A, x.size // (A * B), B


def norm_act(x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, act: str | None = "relu", slope: float = 0.2) -> Array:
    """y = act(gamma (x - mean) rstd + beta): x (N, ..., B), mean and rstd (A, B) of A equal groups of samples, gamma, beta (B,)."""
    _, M, B = _view(x, mean, rstd, gamma, beta)
    y = launch.empty(x, x.shape)
    grid = (launch.cdiv(x.size, ELEMENTWISE["BLOCK"]),)
    launch.run(norm_act_kernel, grid, x, mean, rstd, gamma, beta, y, SIZE=x.size, M=M, B=B, ACT=act, SLOPE=slope, **ELEMENTWISE)
    return y


def norm_act_dx(
    dy: Array, x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, act: str | None = "relu", slope: float = 0.2
) -> tuple[Array, Array, Array]:
    """dx, dgamma and dbeta, the last two (A, B): one row for each group of samples."""
    A, M, B = _view(x, mean, rstd, gamma, beta)
    launch.fit((dy.shape, x.shape))
    block_b = min(64, triton.next_power_of_2(B))
    block_m = min(TILE // block_b, triton.next_power_of_2(M))
    tiles = A * launch.cdiv(B, block_b)
    steps, count = split(launch.cdiv(M, block_m), tiles, launch.capability(x))
    slices = launch.empty(x, (A, count, 2, B), "float32")
    how = {"M": M, "B": B, "ACT": act, "SLOPE": slope}
    launch.run(
        norm_act_sums_kernel, (tiles, count), dy, x, mean, rstd, gamma, beta, slices, **how,
        SLICES=count, STEPS=steps, BLOCK_M=block_m, BLOCK_B=block_b, num_warps=4,
    )  # fmt: skip
    dbeta, dgamma = add_slices(slices, launch.empty(x, (2, A, B), "float32"), 1)
    dx = launch.empty(x, x.shape)
    given = dy, x, mean, rstd, gamma, beta, dbeta, dgamma, dx
    launch.run(norm_act_dx_kernel, (launch.cdiv(x.size, ELEMENTWISE["BLOCK"]),), *given, SIZE=x.size, **how, **ELEMENTWISE)
    return dx, dgamma, dbeta


def _xhat(x, mean, rstd):
    """xhat of x as (A, M, B), and the shape that its statistics broadcast from."""
    parts = x.reshape(len(mean), -1, x.shape[-1])
    return (parts - mean[:, None]) * rstd[:, None], rstd[:, None]


def _norm_act_reference(x, mean, rstd, gamma, beta, act, slope):
    xhat, _ = _xhat(x, mean, rstd)
    return activated(ops.affine(xhat, gamma, beta), act, slope).reshape(x.shape)


def _norm_act_dx_reference(dy, x, mean, rstd, gamma, beta, act, slope):
    xhat, rstd = _xhat(x, mean, rstd)
    z = ops.affine(xhat, gamma, beta)
    v = activated(z, act, slope) if act in ("tanh", "sigmoid") else z
    dz = activated_dx(dy.reshape(xhat.shape), act, v, slope)
    dx = ops.normalize_dx(gamma * dz, xhat, rstd, (1,))
    return dx.reshape(x.shape), (xhat * dz).sum(1), dz.sum(1)


def _make(gradient: bool):
    def make(array, shape, groups, act):
        kept = (groups, shape[-1])
        arrays = [array(*shape) for _ in range(1 + gradient)]
        mean, width, gamma, beta = (array(*size, dtype="float32") for size in (kept, kept, shape[-1:], shape[-1:]))
        return (*arrays, mean, 1 / (1 + width**2), gamma, beta), {"act": act, "slope": 0.2}

    return make


def _spec(wrapper, reference, gradient: bool, passes: int) -> Spec:
    large = {"shape": (256, 16, 16, 128), "groups": 2, "act": "leaky_relu"}
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=_make(gradient),
        cases=(
            {"shape": (6, 9, 11, 5), "groups": 2, "act": "leaky_relu"},
            {"shape": (7, 70), "groups": 1, "act": "tanh"},
            {"shape": (2, 12, 10, 33), "groups": 1, "act": "relu"},
        ),
        benchmarks=(large,),
        traffic=lambda itemsize, shape, **_: passes * itemsize * prod(shape),
        flops=lambda shape, **_: 5 * passes * prod(shape),
        compiles=(("bfloat16", large, {}), ("float32", large | {"act": "tanh"}, {})),
    )


SPECS = (_spec(norm_act, _norm_act_reference, False, 2), _spec(norm_act_dx, _norm_act_dx_reference, True, 5))
