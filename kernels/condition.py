"""Labels in a planned step: drawn and gathered, beside what they belong to, and their part of a gradient dropped.

    step_labels   those of real images from the data set, those of latent numbers uniform random
    condition     y[n, ..., :] = x[n, ..., :] and then the one-hot label of n: z with its label, an image with constant planes
    condition_dx  the gradient of x alone, and before the activation that made x: labels have none
    plane         y[n, h, v, :] = x[n, h, v, :] and then act(w[h, v, label of n] + b[h, v]): an image with a learnt plane
    plane_dw      the gradients of w and b

A program takes a block of numbers.
"""

from math import prod

import numpy as np
import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.act import activate, activate_dx
from rawgan.kernels.gemm import activated, activated_dx, below, load
from rawgan.kernels.random import first_words_reference, uniform_of, words
from rawgan.kernels.spec import Spec

CONFIG = {"BLOCK": 1024, "num_warps": 4}
SLICE = {"SAMPLES": 16, "BLOCK": 64, "num_warps": 4}  # of a plane's gradient


@triton.jit
def step_labels_kernel(
    out_ptr, data_ptr, index_ptr, state_ptr, REAL: tl.constexpr, SIZE: tl.constexpr, BATCHES: tl.constexpr, CLASSES: tl.constexpr,
    STREAM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = offs < REAL
    batch = (tl.load(state_ptr + 1) % BATCHES).to(tl.int32)
    image = tl.load(index_ptr + batch * REAL + offs, mask=real, other=0)
    word, _, _, _ = words(state_ptr, offs, STREAM)
    drawn = uniform_of(word, 0.0, CLASSES).to(tl.int32)
    label = tl.where(real, tl.load(data_ptr + image, mask=real, other=0), drawn)
    tl.store(out_ptr + offs, label, mask=offs < SIZE)


@triton.jit
def condition_kernel(
    x_ptr, label_ptr, y_ptr, SIZE: tl.constexpr, ROW: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    c = offs % (C + K)
    x = load(x_ptr, offs // (C + K) * C + c, mask & (c < C))
    label = tl.load(label_ptr + offs // ROW, mask=mask, other=0)
    y = tl.where(c < C, x, (c - C == label).to(tl.float32))
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def condition_dx_kernel(
    dy_ptr, v_ptr, dx_ptr, SIZE: tl.constexpr, C: tl.constexpr, K: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    dx = activate_dx(load(dy_ptr, offs // C * (C + K) + offs % C, mask), load(v_ptr, offs, mask), ACT, SLOPE)
    tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def plane_kernel(
    x_ptr, label_ptr, w_ptr, b_ptr, y_ptr, SIZE: tl.constexpr, P: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    c = offs % (C + 1)
    at = offs // (C + 1)
    x = load(x_ptr, at * C + c, mask & (c < C))
    label = tl.load(label_ptr + at // P, mask=mask, other=0)
    plane = load(w_ptr, at % P * K + label, mask & (c == C)) + load(b_ptr, at % P, mask & (c == C))
    y = tl.where(c < C, x, activate(plane, ACT, SLOPE))
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def plane_dw_kernel(
    dy_ptr, y_ptr, label_ptr, dw_ptr, db_ptr, N: tl.constexpr, P: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, CLASSES: tl.constexpr, SAMPLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program takes BLOCK pixels of SAMPLES samples; each sample's gradient falls to its own label."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, CLASSES)
    dw = tl.zeros((BLOCK, CLASSES), tl.float32)
    db = tl.zeros((BLOCK,), tl.float32)
    for i in range(SAMPLES):
        n = tl.program_id(1) * SAMPLES + i
        inside = (offs < P) & (offs * 0 + n < N)
        at = (n * P + offs) * (C + 1) + C
        d = activate_dx(load(dy_ptr, at, inside), load(y_ptr, at, inside), ACT, SLOPE)
        label = tl.load(label_ptr + tl.minimum(n, N - 1))
        dw += tl.where((k == label)[None, :], d[:, None], 0.0)
        db += d
    at = tl.program_id(1) * P + offs
    tl.store(dw_ptr + at[:, None] * K + k[None, :], dw, mask=(offs < P)[:, None] & (k < K)[None, :])
    tl.store(db_ptr + at, db, mask=offs < P)


def step_labels(out: Array, data: Array, index: Array, state: Array, classes: int, stream: int = 0) -> None:
    """Fills out (N + M,) int32: the labels, data (images,) int32, of the N images of batch `step mod batches` of index (batches,
    N), then M uniform ones in [0, classes), of a stream of the step; state as in random.py."""
    launch.fit((data.ndim, 1), (out.ndim, 1))
    sizes = {"REAL": index.shape[1], "SIZE": out.size, "BATCHES": len(index), "CLASSES": float(classes), "STREAM": stream}
    launch.run(step_labels_kernel, (launch.cdiv(out.size, CONFIG["BLOCK"]),), out, data, index, state, **sizes, **CONFIG)


def condition(x: Array, labels: Array, classes: int) -> Array:
    """x (N, ..., C) with its labels (N,) int32 as one-hot numbers beside it: (N, ..., C + classes)."""
    launch.fit((labels.shape, (len(x),)))
    y = launch.empty(x, (*x.shape[:-1], x.shape[-1] + classes))
    sizes = {"SIZE": y.size, "ROW": y.size // len(x), "C": x.shape[-1], "K": classes}
    launch.run(condition_kernel, (launch.cdiv(y.size, CONFIG["BLOCK"]),), x, labels, y, **sizes, **CONFIG)
    return y


def condition_dx(dy: Array, v: Array, act: str | None, slope: float = 0.2) -> Array:
    """act'(v) times the part of dy (N, ..., C + classes) that is x's: v and the result (N, ..., C)."""
    launch.fit((dy.shape[:-1], v.shape[:-1]))
    dx = launch.empty(dy, v.shape)
    sizes = {"SIZE": dx.size, "C": v.shape[-1], "K": dy.shape[-1] - v.shape[-1], "ACT": act, "SLOPE": slope}
    launch.run(condition_dx_kernel, (launch.cdiv(dx.size, CONFIG["BLOCK"]),), dy, v, dx, **sizes, **CONFIG)
    return dx


def plane(x: Array, labels: Array, w: Array, b: Array, act: str | None = None, slope: float = 0.2) -> Array:
    """x (N, H, W, C) and the plane of its label, which is a Linear's of the one-hot label: w (H W, classes), b (H W,)."""
    N, H, W, C = x.shape
    launch.fit((labels.shape, (N,)), (len(w), H * W), (b.shape, (H * W,)))
    y = launch.empty(x, (N, H, W, C + 1))
    sizes = {"SIZE": y.size, "P": H * W, "C": C, "K": w.shape[1], "ACT": act, "SLOPE": slope}
    launch.run(plane_kernel, (launch.cdiv(y.size, CONFIG["BLOCK"]),), x, labels, w, b, y, **sizes, **CONFIG)
    return y


def plane_dw(
    dy: Array, y: Array, labels: Array, classes: int, act: str | None = None, slope: float = 0.2, dw: Array | None = None,
    db: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """(dw, db) from the gradient of what `plane` has made, in plane_slices(N) slices, float32; act: ReLU or LeakyReLU, or None."""
    N, H, W, C = y.shape
    count = plane_slices(N)
    dw = launch.empty(dy, (count, H * W, classes), "float32") if dw is None else dw
    db = launch.empty(dy, (count, H * W), "float32") if db is None else db
    launch.fit((dy.shape, y.shape), (labels.shape, (N,)), (dw.shape, (count, H * W, classes)), (db.shape, (count, H * W)))
    sizes = {"N": N, "P": H * W, "C": C - 1, "K": classes, "ACT": act, "SLOPE": slope, "CLASSES": triton.next_power_of_2(classes)}
    grid = (launch.cdiv(H * W, SLICE["BLOCK"]), count)
    launch.run(plane_dw_kernel, grid, dy, y, labels, dw, db, **sizes, **SLICE)
    return dw, db


def plane_slices(N: int) -> int:
    """In how many slices the gradient of a plane comes from N samples."""
    return launch.cdiv(N, SLICE["SAMPLES"])


def _labels_reference(out, data, index, state, classes, stream):
    real = data[index[int(state[1]) % len(index)].astype(np.int64)]
    drawn = np.floor(first_words_reference(out.size, state, stream) * classes)
    out[...] = array_module(out).concatenate([real, drawn[len(real) :]])


def _make_labels(array, images, N, M, batches, classes, step):
    state, index, data = array(2, dtype="int64"), array(batches, N, dtype="int32"), array(images, dtype="int32")
    state[:], index[...], data[...] = (77, step), index % images, data % classes
    return (array(N + M, dtype="int32"), data, index, state), {"classes": classes, "stream": 3}


def _labels(array, N, classes):
    labels = array(N, dtype="int32")
    labels[...] = labels % classes
    return labels


def _condition_reference(x, labels, classes):
    xp = array_module(x)
    hot = (labels[:, None] == xp.arange(classes)).reshape(len(x), *[1] * (x.ndim - 2), classes)
    return xp.concatenate([x, xp.broadcast_to(hot, (*x.shape[:-1], classes))], -1)


def _plane_reference(x, labels, w, b, act):
    N, H, W, _ = x.shape
    made = activated(w.T[labels.astype(np.int64)] + b, act).reshape(N, H, W, 1)
    return array_module(x).concatenate([x, made], -1)


def _plane_dw_reference(dy, y, labels, classes, act):
    xp, N = array_module(dy), len(dy)
    d = activated_dx(dy[..., -1], act, y[..., -1]).reshape(N, -1)
    hot = labels[:, None] == xp.arange(classes)
    parts = [slice(i, i + SLICE["SAMPLES"]) for i in range(0, N, SLICE["SAMPLES"])]
    return xp.stack([d[part].T @ hot[part] for part in parts]), xp.stack([d[part].sum(0) for part in parts])


LABELS = {"images": 60000, "N": 128, "M": 128, "batches": 50, "classes": 10, "step": 1}
IMAGES = {"shape": (256, 32, 32, 1), "classes": 10}


def _spec(wrapper, reference, make, cases, large) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=(large,),
        traffic=lambda itemsize, shape, classes, **_: itemsize * (2 * prod(shape) + prod(shape[:-1]) * classes),
        flops=lambda shape, **_: prod(shape),
        compiles=(("bfloat16", large, {}),),
    )


SPECS = (
    Spec(
        name="step_labels",
        wrapper=step_labels,
        reference=_labels_reference,
        make=_make_labels,
        cases=(
            {"images": 50, "N": 7, "M": 14, "batches": 3, "classes": 10, "step": 5},
            {"images": 5, "N": 3, "M": 1100, "batches": 1, "classes": 3, "step": 2**33},
        ),
        benchmarks=(LABELS,),
        traffic=lambda itemsize, N, M, **_: 4 * (3 * N + M),
        flops=lambda M, **_: 40 * M,
        compiles=(("float32", LABELS, {}),),
        dtypes=("float32",),
        writes=(0,),
    ),
    _spec(
        condition,
        _condition_reference,
        lambda array, shape, classes: ((array(*shape), _labels(array, shape[0], classes)), {"classes": classes}),
        ({"shape": (5, 7, 9, 3), "classes": 4}, {"shape": (13, 100), "classes": 10}),
        IMAGES,
    ),
    _spec(
        condition_dx,
        lambda dy, v, act: activated_dx(dy[..., : v.shape[-1]], act, v),
        lambda array, shape, classes, act: ((array(*shape[:-1], shape[-1] + classes), array(*shape)), {"act": act}),
        ({"shape": (5, 7, 9, 3), "classes": 4, "act": "tanh"}, {"shape": (2, 1100), "classes": 1, "act": None}),
        {**IMAGES, "act": "tanh"},
    ),
    _spec(
        plane,
        _plane_reference,
        lambda array, shape, classes, act: (
            (array(*shape), _labels(array, shape[0], classes), array(prod(shape[1:3]), classes), array(prod(shape[1:3]))),
            {"act": act},
        ),
        ({"shape": (5, 7, 9, 3), "classes": 4, "act": "leaky_relu"}, {"shape": (2, 20, 30, 1), "classes": 10, "act": None}),
        {"shape": (128, 28, 28, 1), "classes": 10, "act": "leaky_relu"},
    ),
    _spec(
        plane_dw,
        _plane_dw_reference,
        lambda array, shape, classes, act: (
            (array(*shape), array(*shape), _labels(array, shape[0], classes), classes),
            {"act": act},
        ),
        ({"shape": (21, 7, 9, 3), "classes": 4, "act": "leaky_relu"}, {"shape": (2, 10, 13, 2), "classes": 10, "act": None}),
        {"shape": (128, 28, 28, 2), "classes": 10, "act": "leaky_relu"},
    ),
)
