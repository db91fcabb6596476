"""Labels in a planned step: drawn and gathered, concatenated to an input, and their gradient.

    step_labels   labels of the real images from the data set, of the latent vectors uniform random
    condition     y[n, ..., :] = [x[n, ..., :], onehot(label[n])]: z with its label, or an image
                  with a constant plane per class
    condition_dx  the gradient of x, through the activation that made x; labels have none
    plane         y[n, h, v, :] = [x[n, h, v, :], act(w[h, v, label[n]] + b[h, v])]: an image with
                  a learned plane
    plane_dw      the gradients of w and b

Each is one launch.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.activation import activate, activate_dx
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import in_bounds, load_f32
from rawgan.kernels.tile.philox import bits_to_uniform, philox_bits

CONFIG = {"BLOCK": 1024, "num_warps": 4}
PLANE_CONFIG = {"SAMPLES": 16, "BLOCK": 64, "num_warps": 4}  # of plane_dw


@triton.jit
def step_labels_kernel(
    out_ptr, data_ptr, index_ptr, state_ptr, REAL: tl.constexpr, SIZE: tl.constexpr,
    BATCHES: tl.constexpr, CLASSES: tl.constexpr, STREAM: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out[:REAL] = data[index[step mod BATCHES]], out[REAL:] uniform in [0, CLASSES).

    Tile: BLOCK labels.
    """
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # Labels of the real images
    real = offs < REAL
    batch = (tl.load(state_ptr + 1) % BATCHES).to(tl.int32)
    image = tl.load(index_ptr + batch * REAL + offs, mask=real, other=0)
    # Random labels
    word, _, _, _ = philox_bits(state_ptr, offs, STREAM)
    drawn = bits_to_uniform(word, 0.0, CLASSES).to(tl.int32)
    label = tl.where(real, tl.load(data_ptr + image, mask=real, other=0), drawn)
    tl.store(out_ptr + offs, label, mask=offs < SIZE)


@triton.jit
def condition_kernel(
    x_ptr, label_ptr, y_ptr, SIZE: tl.constexpr, ROW: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y[..., :C] = x, y[..., C:] = onehot(label). Tile: BLOCK values of y, ROW to a sample."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    c = offs % (C + K)
    x = load_f32(x_ptr, offs // (C + K) * C + c, mask & (c < C))
    label = tl.load(label_ptr + offs // ROW, mask=mask, other=0)
    y = tl.where(c < C, x, (c - C == label).to(tl.float32))
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def condition_dx_kernel(
    dy_ptr, saved_ptr, dx_ptr, SIZE: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """dx = dy[..., :C] act'(v). Tile: BLOCK values of dx."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    dy = load_f32(dy_ptr, offs // C * (C + K) + offs % C, mask)
    dx = activate_dx(dy, load_f32(saved_ptr, offs, mask), ACT, SLOPE)
    tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def plane_kernel(
    x_ptr, label_ptr, w_ptr, b_ptr, y_ptr, SIZE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y[n, p, :C] = x[n, p], y[n, p, C] = act(w[p, label[n]] + b[p]), p < P the pixels.

    Tile: BLOCK values of y.
    """
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = in_bounds(offs, SIZE, BLOCK)
    c = offs % (C + 1)
    pixel = offs // (C + 1)
    # Channels of x
    x = load_f32(x_ptr, pixel * C + c, mask & (c < C))
    # The plane of the label
    label = tl.load(label_ptr + pixel // P, mask=mask, other=0)
    weight = load_f32(w_ptr, pixel % P * K + label, mask & (c == C))
    plane = weight + load_f32(b_ptr, pixel % P, mask & (c == C))
    y = tl.where(c < C, x, activate(plane, ACT, SLOPE))
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def plane_dw_kernel(
    dy_ptr, y_ptr, label_ptr, dw_ptr, db_ptr, N: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, CLASSES: tl.constexpr,
    SAMPLES: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """dw[p, k] = sum over the n of label k of d[n, p], db[p] = sum over n of d[n, p].

    d = dy[..., C] act'(y[..., C]). Tile: BLOCK pixels of SAMPLES samples, a partial sum of each;
    CLASSES is K rounded up to a power of two.
    """
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, CLASSES)
    dw = tl.zeros((BLOCK, CLASSES), tl.float32)
    db = tl.zeros((BLOCK,), tl.float32)
    # Main loop: add each sample's gradient to the column of its label
    for i in range(SAMPLES):
        n = tl.program_id(1) * SAMPLES + i
        inside = (offs < P) & (offs * 0 + n < N)
        plane = (n * P + offs) * (C + 1) + C
        d = activate_dx(load_f32(dy_ptr, plane, inside), load_f32(y_ptr, plane, inside), ACT, SLOPE)
        label = tl.load(label_ptr + tl.minimum(n, N - 1))
        dw += tl.where((k == label)[None, :], d[:, None], 0.0)
        db += d
    # Store the partial sums
    row = tl.program_id(1) * P + offs
    mask = (offs < P)[:, None] & (k < K)[None, :]
    tl.store(dw_ptr + row[:, None] * K + k[None, :], dw, mask=mask)
    tl.store(db_ptr + row, db, mask=offs < P)


def step_labels(
    out: Array, data: Array, index: Array, state: Array, classes: int, stream: int = 0
) -> None:
    """Fill out (N + M,) int32 with the labels of N real images and M uniform random ones.

    data    (images,) int32, the labels of the data set
    index   (batches, N) int32: the images of batch `step mod batches`
    state   (2,) int64: the seed and the step
    stream  of the random numbers: another for each array drawn in a step
    """
    batches, real = index.shape
    launch.require_equal((data.ndim, 1), (out.ndim, 1))
    launch.require_shapes((2,), state)
    constants = {"REAL": real, "SIZE": out.size, "BATCHES": batches}
    constants |= {"CLASSES": float(classes), "STREAM": stream}
    pointers = out, data, index, state
    launch.run(step_labels_kernel, _grid(out), *pointers, **constants, **CONFIG)


def condition(x: Array, labels: Array, classes: int) -> Array:
    """Return x (N, ..., C) with onehot(labels) concatenated, (N, ..., C + classes).

    labels (N,) int32.
    """
    launch.require_equal((labels.shape, (len(x),)))
    y = launch.empty(x, (*x.shape[:-1], x.shape[-1] + classes))
    constants = {"SIZE": y.size, "ROW": y.size // len(x), "C": x.shape[-1], "K": classes}
    launch.run(condition_kernel, _grid(y), x, labels, y, **constants, **CONFIG)
    return y


def condition_dx(dy: Array, v: Array, act: str | None, slope: float = 0.2) -> Array:
    """Return dy[..., :C] act'(v) for dy (N, ..., C + classes) and v (N, ..., C)."""
    launch.require_equal((dy.shape[:-1], v.shape[:-1]))
    dx = launch.empty(dy, v.shape)
    constants = {"SIZE": dx.size, "C": v.shape[-1], "K": dy.shape[-1] - v.shape[-1]}
    constants |= {"ACT": act, "SLOPE": slope}
    launch.run(condition_dx_kernel, _grid(dx), dy, v, dx, **constants, **CONFIG)
    return dx


def plane(
    x: Array, labels: Array, w: Array, b: Array, act: str | None = None, slope: float = 0.2
) -> Array:
    """Return x (N, H, W, C) with act(Linear(onehot(labels))) as one more channel.

    labels (N,) int32, w (H W, classes), b (H W,).
    """
    N, H, W, C = x.shape
    launch.require_shapes((N,), labels)
    launch.require_shapes((H * W, w.shape[1]), w)
    launch.require_shapes((H * W,), b)
    y = launch.empty(x, (N, H, W, C + 1))
    constants = {"SIZE": y.size, "P": H * W, "C": C, "K": w.shape[1], "ACT": act, "SLOPE": slope}
    launch.run(plane_kernel, _grid(y), x, labels, w, b, y, **constants, **CONFIG)
    return y


def plane_dw(
    dy: Array, y: Array, labels: Array, classes: int, act: str | None = None, slope: float = 0.2,
    dw: Array | None = None, db: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (dw, db) of `plane`, float32, as plane_partials(N) partial sums.

    dy and y (N, H, W, C + 1): the gradient of plane's output and that output. act: ReLU, LeakyReLU
    or None, whose derivative is a function of the output. dw, db: arrays to write to.
    """
    N, H, W, C = y.shape
    partials = plane_partials(N)
    dw_shape, db_shape = (partials, H * W, classes), (partials, H * W)
    dw = launch.empty(dy, dw_shape, "float32") if dw is None else dw
    db = launch.empty(dy, db_shape, "float32") if db is None else db
    launch.require_equal((dy.shape, y.shape), (labels.shape, (N,)))
    launch.require_equal((dw.shape, dw_shape), (db.shape, db_shape))
    constants = {"N": N, "P": H * W, "C": C - 1, "K": classes, "ACT": act, "SLOPE": slope}
    constants |= {"CLASSES": triton.next_power_of_2(classes)}
    grid = (launch.cdiv(H * W, PLANE_CONFIG["BLOCK"]), partials)
    launch.run(plane_dw_kernel, grid, dy, y, labels, dw, db, **constants, **PLANE_CONFIG)
    return dw, db


def plane_partials(N: int) -> int:
    """Return the number of partial sums of plane_dw's gradients for N samples."""
    return launch.cdiv(N, PLANE_CONFIG["SAMPLES"])


def _grid(out: Array) -> tuple[int]:
    return (launch.cdiv(out.size, CONFIG["BLOCK"]),)
