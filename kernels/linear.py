"""The linear map and its gradients, three products of one kernel. The mathematics is in rawgan/ops/linear.py.

    GEMM        rows M   columns N   sum over K       a                  b
    linear      batch    outputs     inputs           x                  w, transposed
    linear_dx   batch    inputs      outputs          dy                 w
    linear_dw   outputs  inputs      batch            dy, transposed     x

A program computes one BLOCK_M x BLOCK_N tile, stepping through K by BLOCK_K with a float32 accumulator; bias and activation are
applied to it before it is stored.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.act import activate
from rawgan.kernels.gemm import activated, below, compiles, table
from rawgan.kernels.spec import Spec
from rawgan.ops import linear as ops


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, bias_ptr, y_ptr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, A_TRANSPOSED: tl.constexpr, B_TRANSPOSED: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = below(offs_m, M, BLOCK_M)
    mask_n = below(offs_n, N, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = below(offs_k, K, BLOCK_K)
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
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    y = activate(acc, ACT, SLOPE).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + offs_m[:, None] * N + offs_n[None, :], y, mask=mask_m[:, None] & mask_n[None, :])


def _matmul(a, b, M, N, K, bias=None, act=None, slope=0.0, precision="tf32x3", config=None, transposed=(False, False)) -> Array:
    y = launch.empty(a, (M, N))
    config = config or launch.pick(table(a.dtype, precision), (M, N), launch.capability(a))
    grid = (launch.cdiv(M, config["BLOCK_M"]) * launch.cdiv(N, config["BLOCK_N"]),)
    launch.run(
        matmul_kernel, grid, a, b, bias, y,
        M=M, N=N, K=K, A_TRANSPOSED=transposed[0], B_TRANSPOSED=transposed[1],
        ACT=act, SLOPE=slope, PRECISION=precision, **config,
    )  # fmt: skip
    return y


def linear(x: Array, w: Array, b: Array | None = None, *, act: str | None = None, slope: float = 0.2, **how) -> Array:
    """y = act(x w' + b). `how` is precision= and config=, for all three: see gemm.py."""
    launch.fit((x.shape[1], w.shape[1]), (w.shape[0], len(w if b is None else b)))
    return _matmul(x, w, len(x), *w.shape, bias=b, act=act, slope=slope, transposed=(False, True), **how)


def linear_dx(dy: Array, w: Array, **how) -> Array:
    K, C = w.shape
    launch.fit((dy.shape[1], K))
    return _matmul(dy, w, len(dy), C, K, **how)


def linear_dw(x: Array, dy: Array, **how) -> Array:
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


_TRAIN = ({"N": 128, "C": 100, "K": 16384}, {"N": 128, "C": 784, "K": 512})

SPECS = (
    _spec(
        linear,
        lambda x, w, b=None, act=None: activated(ops.linear(x, w, b), act),
        lambda array, N, C, K, bias=False, **act: ((array(N, C), array(K, C), *((array(K),) if bias else ())), act),
        ({"N": 37, "C": 100, "K": 70, "bias": True, "act": "leaky_relu"}, {"N": 1, "C": 17, "K": 1}, {"N": 64, "C": 64, "K": 64}),
        _TRAIN,
        form=lambda x, w, b=None, act=None: ops.linear(x, w, b),
    ),
    _spec(
        linear_dx,
        ops.linear_dx,
        lambda array, N, C, K: ((array(N, K), array(K, C)), {}),
        ({"N": 37, "C": 100, "K": 70}, {"N": 1, "C": 17, "K": 1}),
        _TRAIN,
    ),
    _spec(
        linear_dw,
        ops.linear_dw,
        lambda array, N, C, K: ((array(N, C), array(N, K)), {}),
        ({"N": 37, "C": 100, "K": 70}, {"N": 1, "C": 17, "K": 1}),
        _TRAIN,
    ),
)
