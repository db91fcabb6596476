"""The linear map and its gradients, three products of one kernel. The mathematics is in rawgan/ops/linear.py.

    GEMM        rows M   columns N   sum over K       a                  b
    linear      batch    outputs     inputs           x                  w, transposed
    linear_dx   batch    inputs      outputs          dy                 w
    linear_dw   outputs  inputs      batch            dy, transposed     x

A program computes one BLOCK_M x BLOCK_N tile, stepping through K by BLOCK_K with a float32 accumulator; bias and activation are
applied to it before it is stored. A sum that has more steps than there are tiles to fill the GPU is split into slices.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.gemm import activated_dx, below, compiles, finish, split, sum_slices, table
from rawgan.kernels.spec import Spec
from rawgan.ops import linear as ops

SUM = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, bias_ptr, v_ptr, y_ptr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, A_TRANSPOSED: tl.constexpr, B_TRANSPOSED: tl.constexpr,
    STEPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = below(offs_m, M, BLOCK_M)
    mask_n = below(offs_n, N, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        offs_k = (tl.program_id(1) * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        mask_k = below(offs_k, K, STEPS * BLOCK_K)
        if A_TRANSPOSED:
            a_offs = offs_k[None, :] * M + offs_m[:, None]
        else:
            a_offs = offs_m[:, None] * K + offs_k[None, :]
        if B_TRANSPOSED:
            b_offs = offs_n[None, :] * K + offs_k[:, None]
        else:
            b_offs = offs_k[:, None] * N + offs_n[None, :]
        a = tl.load(a_ptr + a_offs, mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        b = tl.load(b_ptr + b_offs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    mask = mask_m[:, None] & mask_n[None, :]
    offs = offs_m[:, None] * N + offs_n[None, :]
    acc = finish(acc, bias_ptr, v_ptr, offs_n, mask_n, offs, mask, ACT, SLOPE)
    tl.store(y_ptr + tl.program_id(1) * M * N + offs, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_slices_kernel(
    slices_ptr, bias_ptr, v_ptr, out_ptr,
    SIZE: tl.constexpr, SLICES: tl.constexpr, N: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    total = sum_slices(slices_ptr, offs, mask, SIZE, SLICES)[None, :]
    total = finish(total, bias_ptr, v_ptr, offs % N, mask, offs[None, :], mask[None, :], ACT, SLOPE)
    tl.store(out_ptr + offs[None, :], total.to(out_ptr.dtype.element_ty), mask=mask[None, :])


def add_slices(
    slices: Array, out: Array, b: Array | None = None, v: Array | None = None, act: str | None = None, slope=0.0
) -> Array:
    """out = act(sum of the slices + b), in their order; slices (slices, *out.shape), b along the last axis, v as in gemm.finish."""
    sizes = {"SIZE": out.size, "SLICES": len(slices), "N": out.shape[-1], "ACT": act, "SLOPE": slope}
    launch.run(sum_slices_kernel, (launch.cdiv(out.size, SUM["BLOCK"]),), slices, b, v, out, **sizes, **SUM)
    return out


def _matmul(
    a, b, M, N, K, bias=None, act=None, slope=0.0, v=None, out=None, slices=None, precision="tf32x3", config=None,
    transposed=(False, False),
) -> Array:  # fmt: skip
    """The product; where it has few tiles, its long sum is split over the programs that would be idle."""
    capability = launch.capability(a)
    config = config or launch.pick(table(a.dtype, precision), (M, N), capability)
    tiles = launch.cdiv(M, config["BLOCK_M"]) * launch.cdiv(N, config["BLOCK_N"])
    steps, count = split(launch.cdiv(K, config["BLOCK_K"]), tiles, capability)
    y, target = outputs(a, (M, N), count, out, slices)
    launch.fit((y.shape, y.shape if v is None else v.shape))
    epilogue, finish = (bias, v), {"ACT": act, "SLOPE": slope}
    if target is not y:
        epilogue, finish = (None, None), {"ACT": None, "SLOPE": 0.0}
    launch.run(
        matmul_kernel, (tiles, count), a, b, *epilogue, target, M=M, N=N, K=K, A_TRANSPOSED=transposed[0],
        B_TRANSPOSED=transposed[1], STEPS=steps, **finish, PRECISION=precision, **config,
    )  # fmt: skip
    return y if target is y or slices is not None else add_slices(target, y, bias, v, act, slope)


def outputs(like: Array, shape: tuple[int, ...], count: int, out: Array | None, slices: Array | bool | None) -> tuple[Array, Array]:
    """(what is returned, where a product goes that is split into `count` slices).

    The two are one unless the slices have to be added, to `out` or a new array. With slices=True, or an array for them, they are
    returned as they are, float32 (count, *shape), for someone else to add.
    """
    if slices is not None:
        given = launch.empty(like, (count, *shape), "float32") if slices is True else slices
        launch.fit((given.shape, (count, *shape)), (given.dtype, "float32"))
        return given, given
    y = launch.empty(like, shape) if out is None else out
    launch.fit((y.shape, shape))
    return y, y if count == 1 else launch.empty(like, (count, *shape), "float32")


def linear(
    x: Array, w: Array, b: Array | None = None, *, act: str | None = None, slope: float = 0.2, v: Array | None = None, **how
) -> Array:
    """y = act(x w' + b), or with v, an array like y, (x w' + b) act'(v). `how` is out=, precision= and config=: see gemm.py."""
    launch.fit((x.shape[1], w.shape[1]), (w.shape[0], len(w if b is None else b)))
    return _matmul(x, w, len(x), *w.shape, bias=b, act=act, slope=slope, v=v, transposed=(False, True), **how)


def linear_dx(dy: Array, w: Array, *, act: str | None = None, slope: float = 0.2, v: Array | None = None, **how) -> Array:
    """dx = dy w; with act and v, an array like dx, dx act'(v): the gradient before the activation below."""
    K, C = w.shape
    launch.fit((dy.shape[1], K))
    return _matmul(dy, w, len(dy), C, K, act=act, slope=slope, v=v, **how)


def linear_dw(x: Array, dy: Array, **how) -> Array:
    """dw; with slices=True or an array for them, the slices of its sum: see outputs()."""
    launch.fit((len(x), len(dy)))
    return _matmul(dy, x, dy.shape[1], x.shape[1], len(x), transposed=(True, False), **how)


def _spec(wrapper, reference, make, cases, benchmarks, form=None) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=benchmarks,
        traffic=lambda itemsize, N, C, K, **_: itemsize * (N * C + K * C + N * K),
        flops=lambda N, C, K, **_: 2 * N * C * K,
        compiles=compiles({"N": 1024, "C": 512, "K": 512}, {"N": 64, "C": 100, "K": 3} if wrapper is linear else None),
        dtypes=("float32", "tf32", "float16", "bfloat16"),
        form=form or reference,
    )


_TRAIN = ({"N": 128, "C": 100, "K": 16384}, {"N": 128, "C": 784, "K": 512}, {"N": 128, "C": 8192, "K": 1})


def _reference(x, w, b=None, act=None, v=None):
    return activated_dx(ops.linear(x, w, b), act, v)


def _make(array, N, C, K, bias=False, below=False, **act):
    return (array(N, C), array(K, C), *((array(K),) if bias else ())), act | ({"v": array(N, K)} if below else {})


SPECS = (
    _spec(
        linear,
        _reference,
        _make,
        (
            {"N": 37, "C": 100, "K": 70, "bias": True, "act": "leaky_relu"},
            {"N": 1, "C": 17, "K": 1},
            {"N": 64, "C": 64, "K": 64},
            {"N": 5, "C": 700, "K": 3, "bias": True, "act": "sigmoid"},  # in slices
            {"N": 5, "C": 700, "K": 3, "below": True, "act": "leaky_relu"},
        ),
        _TRAIN,
        form=lambda x, w, b=None, act=None, v=None: ops.linear(x, w, b),
    ),
    _spec(
        linear_dx,
        lambda dy, w, act=None, v=None: activated_dx(ops.linear_dx(dy, w), act, v),
        lambda array, N, C, K, act=None: ((array(N, K), array(K, C)), {"act": act, "v": array(N, C)} if act else {}),
        ({"N": 37, "C": 100, "K": 70}, {"N": 1, "C": 17, "K": 1}, {"N": 37, "C": 20, "K": 70, "act": "leaky_relu"}),
        _TRAIN,
        form=lambda dy, w, act=None, v=None: ops.linear_dx(dy, w),
    ),
    _spec(
        linear_dw,
        ops.linear_dw,
        lambda array, N, C, K: ((array(N, C), array(N, K)), {}),
        ({"N": 37, "C": 100, "K": 70}, {"N": 1, "C": 17, "K": 1}),
        _TRAIN,
    ),
)
