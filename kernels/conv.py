"""Convolution, its transpose and its weight gradient as implicit GEMMs in NHWC. The mathematics is in rawgan/ops/conv.py.

    GEMM        rows M                    columns N    sum over K            a                     b
    conv2d      pixels n,p,q of y         filters k    r,s,c                 x, gathered           w
    conv2d_dx   pixels n,h,v of x, one    channels c   the r,s that meet     dy, gathered          w
                residue class at a time                the class, and k
    conv2d_dw   filters k                 r,s,c        pixels n,p,q of y     dy, transposed        x, gathered

Nothing is unfolded in memory, and no zeros are inserted: pixel h of x meets only the taps r with h + top - r divisible by the
stride, so the pixels of x with one h mod stride and one v mod stride share their taps, and each such class is a dense product.

Where the channels fill a BLOCK_K (in conv2d_dw a BLOCK_N), a step lies within one tap and is addressed with scalars; else each of
its elements finds its own tap. conv2d_dw splits its long sum into slices, each stored in float32, and adds them in their order.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.act import activate
from rawgan.kernels.gemm import activated, below, compiles, split, sum_slices, table
from rawgan.kernels.spec import Spec
from rawgan.ops import conv as ops
from rawgan.ops.conv import Pad, Pair, output_size, pads, pair

SUM = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def _taps(k, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(row, column, channels) of the taps at k, k+1, ...: row and column are scalars where a block lies within one tap."""
    offs = k + tl.arange(0, BLOCK)
    if CHANNELS % BLOCK == 0:
        tap = k // CHANNELS
        offs_c = k % CHANNELS + tl.arange(0, BLOCK)
    else:
        tap = offs // CHANNELS
        offs_c = offs % CHANNELS
    return tap // WIDTH, tap % WIDTH, offs_c


@triton.jit
def conv2d_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = N * P * Q
    TERMS: tl.constexpr = R * S * C
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = below(offs_m, M, BLOCK_M)
    mask_n = below(offs_n, K, BLOCK_N)
    h0 = offs_m // Q % P * STRIDE_H - TOP
    v0 = offs_m % Q * STRIDE_W - LEFT
    corner = ((offs_m // (P * Q) * H + h0) * W + v0) * C
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, TERMS, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = below(offs_k, TERMS, BLOCK_K)
        r, s, offs_c = _taps(k, C, S, BLOCK_K)
        reach = (r * W + s) * C + offs_c
        if C % BLOCK_K == 0:
            inside = (mask_m & (h0 + r >= 0) & (h0 + r < H) & (v0 + s >= 0) & (v0 + s < W))[:, None]
        else:
            h = h0[:, None] + r[None, :]
            v = v0[:, None] + s[None, :]
            inside = mask_m[:, None] & mask_k[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        a = tl.load(x_ptr + corner[:, None] + reach[None, :], mask=inside, other=0.0)
        b = tl.load(w_ptr + offs_n[None, :] * TERMS + offs_k[:, None], mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    y = activate(acc, ACT, SLOPE).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + offs_m[:, None] * K + offs_n[None, :], y, mask=mask_m[:, None] & mask_n[None, :])


@triton.jit
def conv2d_dx_kernel(
    dy_ptr, w_ptr, bias_ptr, dx_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    CLASS_H: tl.constexpr = (H + STRIDE_H - 1) // STRIDE_H  # pixels of a class; the last may lie outside
    CLASS_W: tl.constexpr = (W + STRIDE_W - 1) // STRIDE_W
    TAPS_H: tl.constexpr = (R + STRIDE_H - 1) // STRIDE_H  # taps of a class; the last may lie outside
    TAPS_W: tl.constexpr = (S + STRIDE_W - 1) // STRIDE_W
    TERMS: tl.constexpr = TAPS_H * TAPS_W * K
    TILES_N: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    # h = residue + STRIDE_H * i meets r = first_r + STRIDE_H * j at p = p0 - j
    residue_h = tl.program_id(1) // STRIDE_W
    residue_w = tl.program_id(1) % STRIDE_W
    first_r = (residue_h + TOP) % STRIDE_H
    first_s = (residue_w + LEFT) % STRIDE_W
    n = offs_m // (CLASS_H * CLASS_W)
    h = offs_m // CLASS_W % CLASS_H * STRIDE_H + residue_h
    v = offs_m % CLASS_W * STRIDE_W + residue_w
    mask_m = (n < N) & (h < H) & (v < W)
    mask_n = below(offs_n, C, BLOCK_N)
    p0 = (h + TOP) // STRIDE_H
    q0 = (v + LEFT) // STRIDE_W
    corner = ((n * P + p0) * Q + q0) * K
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, TERMS, BLOCK_K):
        mask_k = below(k + tl.arange(0, BLOCK_K), TERMS, BLOCK_K)
        i, j, offs_k = _taps(k, K, TAPS_W, BLOCK_K)
        r = first_r + i * STRIDE_H
        s = first_s + j * STRIDE_W
        if R % STRIDE_H + S % STRIDE_W > 0:
            mask_k = mask_k & (r < R) & (s < S)
        reach = offs_k - (i * Q + j) * K
        if K % BLOCK_K == 0:
            inside = (mask_m & (p0 - i >= 0) & (p0 - i < P) & (q0 - j >= 0) & (q0 - j < Q))[:, None] & mask_k[None, :]
        else:
            p = p0[:, None] - i[None, :]
            q = q0[:, None] - j[None, :]
            inside = mask_m[:, None] & mask_k[None, :] & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        a = tl.load(dy_ptr + corner[:, None] + reach[None, :], mask=inside, other=0.0)
        w_offs = ((offs_k * R + r) * S + s) * C
        b = tl.load(w_ptr + w_offs[:, None] + offs_n[None, :], mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    dx = activate(acc, ACT, SLOPE).to(dx_ptr.dtype.element_ty)
    dx_offs = ((n * H + h) * W + v) * C
    tl.store(dx_ptr + dx_offs[:, None] + offs_n[None, :], dx, mask=mask_m[:, None] & mask_n[None, :])


@triton.jit
def conv2d_dw_kernel(
    x_ptr, dy_ptr, slices_ptr,
    N: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    STEPS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = R * S * C
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    n0 = pid % TILES_N * BLOCK_N
    offs_m = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = n0 + tl.arange(0, BLOCK_N)
    mask_m = below(offs_m, K, BLOCK_M)
    mask_n = below(offs_n, COLUMNS, BLOCK_N)
    r, s, offs_c = _taps(n0, C, S, BLOCK_N)
    reach = (r * W + s) * C + offs_c
    first = tl.program_id(1) * STEPS * BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        offs_k = first + step * BLOCK_K + tl.arange(0, BLOCK_K)
        mask_k = below(offs_k, N * P * Q, STEPS * BLOCK_K)
        h0 = offs_k // Q % P * STRIDE_H - TOP
        v0 = offs_k % Q * STRIDE_W - LEFT
        corner = ((offs_k // (P * Q) * H + h0) * W + v0) * C
        if C % BLOCK_N == 0:
            inside = (mask_k & (h0 + r >= 0) & (h0 + r < H) & (v0 + s >= 0) & (v0 + s < W))[:, None]
        else:
            h = h0[:, None] + r[None, :]
            v = v0[:, None] + s[None, :]
            inside = mask_k[:, None] & mask_n[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        a = tl.load(dy_ptr + offs_k[None, :] * K + offs_m[:, None], mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        b = tl.load(x_ptr + corner[:, None] + reach[None, :], mask=inside, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    slice_ptr = slices_ptr + tl.program_id(1) * K * COLUMNS
    mask = mask_m[:, None] & mask_n[None, :]
    tl.store(slice_ptr + offs_m[:, None] * COLUMNS + offs_n[None, :], acc.to(slices_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_slices_kernel(slices_ptr, out_ptr, SIZE: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    total = sum_slices(slices_ptr, offs, mask, SIZE, SLICES)
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=mask)


def _output(size, kernel, stride, pad) -> tuple[int, int]:
    return tuple(output_size(*axis) for axis in zip(size, kernel, pair(stride), pads(pad)))


def _sizes(x, w, y, stride, pad) -> dict[str, int]:
    """The constants of the three kernels from the shapes (N, H, W, C), (K, R, S) and (P, Q)."""
    names = ("N", "H", "W", "C", "K", "R", "S", "P", "Q", "STRIDE_H", "STRIDE_W", "TOP", "LEFT")
    (top, _), (left, _) = pads(pad)
    return dict(zip(names, (*x, *w, *y, *pair(stride), top, left)))


def conv2d(
    x: Array, w: Array, b: Array | None = None, stride: Pair = 1, pad: Pad = 0,
    *, act: str | None = None, slope: float = 0.2, precision: str = "tf32x3", config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """y = act(conv2d(x, w) + b). precision and config: see gemm.py."""
    (N, H, W, C), (K, R, S, _) = x.shape, w.shape
    launch.fit((C, w.shape[3]), (K, len(w if b is None else b)))
    P, Q = _output((H, W), (R, S), stride, pad)
    y = launch.empty(x, (N, P, Q, K))
    config = config or launch.pick(table(x.dtype, precision), (N * P * Q, K), launch.capability(x))
    grid = (launch.cdiv(N * P * Q, config["BLOCK_M"]) * launch.cdiv(K, config["BLOCK_N"]),)
    sizes = _sizes(x.shape, (K, R, S), (P, Q), stride, pad)
    launch.run(conv2d_kernel, grid, x, w, b, y, **sizes, ACT=act, SLOPE=slope, PRECISION=precision, **config)
    return y


def conv2d_dx(
    dy: Array, w: Array, size: tuple[int, int], stride: Pair = 1, pad: Pad = 0,
    *, b: Array | None = None, act: str | None = None, slope: float = 0.2, precision: str = "tf32x3",
    config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """dx = act(conv2d_dx(dy, w) + b): with b and act, the transposed convolution of a generator."""
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw) = dy.shape, w.shape, size, pair(stride)
    launch.fit((K, len(w)), (C, C if b is None else len(b)))
    dx = launch.empty(dy, (N, H, W, C))
    rows = N * launch.cdiv(H, sh) * launch.cdiv(W, sw)
    config = config or launch.pick(table(dy.dtype, precision), (rows, C), launch.capability(dy))
    grid = (launch.cdiv(rows, config["BLOCK_M"]) * launch.cdiv(C, config["BLOCK_N"]), sh * sw)
    sizes = _sizes(dx.shape, (K, R, S), (P, Q), stride, pad)
    launch.run(conv2d_dx_kernel, grid, dy, w, b, dx, **sizes, ACT=act, SLOPE=slope, PRECISION=precision, **config)
    return dx


def conv2d_dw(
    x: Array, dy: Array, kernel: Pair, stride: Pair = 1, pad: Pad = 0,
    *, precision: str = "tf32x3", config: launch.Config | None = None,
) -> Array:  # fmt: skip
    """dw, the sum split over as many programs as fill the GPU: a number that depends on the sizes and the capability alone."""
    (N, P, Q, K), (R, S), C = dy.shape, pair(kernel), x.shape[3]
    launch.fit((N, len(x)))
    dw = launch.empty(x, (K, R, S, C))
    config = config or launch.pick(table(x.dtype, precision), (K, R * S * C), None)
    tiles = launch.cdiv(K, config["BLOCK_M"]) * launch.cdiv(R * S * C, config["BLOCK_N"])
    steps, slices = split(launch.cdiv(N * P * Q, config["BLOCK_K"]), tiles, launch.capability(x))
    target = dw if slices == 1 else launch.empty(x, (slices, K, R, S, C), "float32")
    sizes = _sizes(x.shape, (K, R, S), (P, Q), stride, pad)
    launch.run(conv2d_dw_kernel, (tiles, slices), x, dy, target, **sizes, STEPS=steps, PRECISION=precision, **config)
    if slices > 1:
        grid = (launch.cdiv(dw.size, SUM["BLOCK"]),)
        launch.run(sum_slices_kernel, grid, target, dw, SIZE=dw.size, SLICES=slices, **SUM)
    return dw


def _make(names: str):
    """Makes the arguments of one of the three: the two arrays of "xwy" that `names` says, and how they meet."""

    def make(array, N, H, W, C, K, R, S, stride, pad, bias=False, **act):
        P, Q = _output((H, W), (R, S), stride, pad)
        shapes = {"x": (N, H, W, C), "w": (K, R, S, C), "y": (N, P, Q, K)}
        arrays = [array(*shapes[name]) for name in names]
        if names == "xw":
            return (*arrays, array(K) if bias else None, stride, pad), act
        if names == "yw":
            return (*arrays, (H, W), stride, pad), {**act, **({"b": array(C)} if bias else {})}
        return (*arrays, (R, S), stride, pad), act

    return make


def _traffic(itemsize, N, H, W, C, K, R, S, stride, pad, **_):
    P, Q = _output((H, W), (R, S), stride, pad)
    return itemsize * (N * H * W * C + K * R * S * C + N * P * Q * K)


def _flops(N, H, W, C, K, R, S, stride, pad, **_):
    P, Q = _output((H, W), (R, S), stride, pad)
    return 2 * N * P * Q * K * R * S * C


def _case(N, H, W, C, K, R, S, stride, pad, **more):
    return {"N": N, "H": H, "W": W, "C": C, "K": K, "R": R, "S": S, "stride": stride, "pad": pad, **more}


def _spec(wrapper, names, form, reference=None, extra=()) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference or form,
        make=_make(names),
        cases=(
            _case(3, 9, 7, 5, 6, 3, 2, (2, 3), ((1, 2), (0, 1))),
            _case(2, 8, 8, 64, 64, 4, 4, 2, 1),
            _case(1, 5, 6, 1, 1, 2, 5, 1, (0, 2)),
            _case(5, 4, 4, 33, 1, 4, 4, 1, 0),
            _case(2, 11, 7, 3, 17, 2, 1, 3, 0),
            *extra,
        ),
        benchmarks=tuple(_case(128, size, size, c, k, 4, 4, 2, 1) for size, c, k in DCGAN64),
        traffic=_traffic,
        flops=_flops,
        compiles=compiles(_case(128, 16, 16, 128, 256, 4, 4, 2, 1), _case(128, 64, 64, 3, 64, 4, 4, 2, 1)),
        dtypes=("float32", "tf32", "float16", "bfloat16"),
        form=form,
    )


DCGAN64 = ((64, 3, 64), (32, 64, 128), (16, 128, 256), (8, 256, 512))  # the discriminator's layers: size, C, K
ACTIVATED = {"bias": True, "act": "tanh"}

SPECS = (
    _spec(
        conv2d,
        "xw",
        lambda x, w, b, stride, pad, act=None: ops.conv2d(x, w, b, stride, pad),
        lambda x, w, b, stride, pad, act=None: activated(ops.conv2d(x, w, b, stride, pad), act),
        (_case(2, 7, 7, 8, 9, 3, 3, 2, 1, **ACTIVATED),),
    ),
    _spec(
        conv2d_dx,
        "yw",
        lambda dy, w, size, stride, pad, act=None, b=0: ops.conv2d_dx(dy, w, size, stride, pad) + b,
        lambda dy, w, size, stride, pad, act=None, b=0: activated(ops.conv2d_dx(dy, w, size, stride, pad) + b, act),
        (_case(2, 8, 8, 3, 16, 4, 4, 2, 1, **ACTIVATED),),
    ),
    _spec(conv2d_dw, "xy", ops.conv2d_dw, extra=(_case(5, 11, 11, 3, 4, 3, 3, 1, 1),)),  # a sum in several slices
)
