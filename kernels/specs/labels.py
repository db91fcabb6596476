"""Specs of labels.py."""

from math import prod

import numpy as np

from rawgan.backend import array_module
from rawgan.kernels.labels import (
    PLANE_CONFIG,
    condition,
    condition_dx,
    plane,
    plane_dw,
    step_labels,
)
from rawgan.kernels.specs.spec import Spec
from rawgan.kernels.specs.step_inputs import first_words_reference
from rawgan.kernels.specs.testing import activated, activated_dx


def _labels_reference(out, data, index, state, classes, stream):
    real = data[index[int(state[1]) % len(index)].astype(np.int64)]
    drawn = np.floor(first_words_reference(out.size, state, stream) * classes)
    out[...] = array_module(out).concatenate([real, drawn[len(real) :]])


def _make_labels(array, images, N, M, batches, classes, step):
    state, index, data = (
        array(2, dtype="int64"),
        array(batches, N, dtype="int32"),
        array(images, dtype="int32"),
    )
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
    parts = [slice(i, i + PLANE_CONFIG["SAMPLES"]) for i in range(0, N, PLANE_CONFIG["SAMPLES"])]
    return xp.stack([d[part].T @ hot[part] for part in parts]), xp.stack(
        [d[part].sum(0) for part in parts]
    )


LABELS = {"images": 60000, "N": 128, "M": 128, "batches": 50, "classes": 10, "step": 1}
IMAGES = {"shape": (256, 32, 32, 1), "classes": 10}


def _spec(wrapper, reference, make, cases, large, float32=()) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=(large,),
        traffic=lambda itemsize, shape, classes, **_: (
            itemsize * (2 * prod(shape) + prod(shape[:-1]) * classes)
        ),
        flops=lambda shape, **_: prod(shape),
        compiles=(("bfloat16", large, {}),),
        float32=float32,
    )


GRID_AXES = {
    "plane_dw_kernel": lambda launch: {
        "pixels": (launch.constants["P"], launch.constants["BLOCK"]),
        "samples": (launch.constants["N"], launch.constants["SAMPLES"]),
    },
}

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
        lambda array, shape, classes: (
            (array(*shape), _labels(array, shape[0], classes)),
            {"classes": classes},
        ),
        ({"shape": (5, 7, 9, 3), "classes": 4}, {"shape": (13, 100), "classes": 10}),
        IMAGES,
    ),
    _spec(
        condition_dx,
        lambda dy, v, act: activated_dx(dy[..., : v.shape[-1]], act, v),
        lambda array, shape, classes, act: (
            (array(*shape[:-1], shape[-1] + classes), array(*shape)),
            {"act": act},
        ),
        (
            {"shape": (5, 7, 9, 3), "classes": 4, "act": "tanh"},
            {"shape": (2, 1100), "classes": 1, "act": None},
        ),
        {**IMAGES, "act": "tanh"},
    ),
    _spec(
        plane,
        _plane_reference,
        lambda array, shape, classes, act: (
            (
                array(*shape),
                _labels(array, shape[0], classes),
                array(prod(shape[1:3]), classes),
                array(prod(shape[1:3])),
            ),
            {"act": act},
        ),
        (
            {"shape": (5, 7, 9, 3), "classes": 4, "act": "leaky_relu"},
            {"shape": (2, 20, 30, 1), "classes": 10, "act": None},
        ),
        {"shape": (128, 28, 28, 1), "classes": 10, "act": "leaky_relu"},
    ),
    _spec(
        plane_dw,
        _plane_dw_reference,
        lambda array, shape, classes, act: (
            (array(*shape), array(*shape), _labels(array, shape[0], classes), classes),
            {"act": act},
        ),
        (
            {"shape": (21, 7, 9, 3), "classes": 4, "act": "leaky_relu"},
            {"shape": (17, 10, 13, 2), "classes": 10, "act": None},
        ),
        {"shape": (128, 28, 28, 2), "classes": 10, "act": "leaky_relu"},
        float32=(0, 1),
    ),
)
