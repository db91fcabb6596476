"""Class labels as arrays, and networks with a conditioning input."""

import numpy as np

from rawgan.backend import array_module
from rawgan.layers.base import Composite, Layer


class OneHot(Layer):
    """y[n, label[n]] = 1, 0 elsewhere: labels (N,) of integers in [0, K), y (N, K).

    Labels have no gradient: dx is None.
    """

    def __init__(self, K: int):
        super().__init__()
        self.K = K

    def forward(self, labels, train=True):
        check_labels(self, labels, self.K)
        return one_hot(labels, self.K, self.dtype), None

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return None, {}

    def config(self):
        return str(self.K)


class Embedding(Layer):
    """y[n] = w[label[n]]: labels (N,) of integers in [0, K), w (K, C), y (N, C).

    Labels have no gradient: dx is None.

    dw[k] = sum over the n with label[n] = k of dy[n]
    """

    def __init__(self, K: int, C: int):
        super().__init__()
        self.K, self.C = K, C
        self.params["w"] = np.zeros((K, C), np.float32)

    def forward(self, labels, train=True):
        check_labels(self, labels, self.K)
        return self.params["w"][labels], labels

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        labels = cache
        if not need_grads:
            return None, {}
        return None, {"w": one_hot(labels, self.K, dy.dtype).T @ dy}

    def config(self):
        return f"{self.K}, {self.C}"


class Condition(Composite):
    """Concatenate inner(labels) to x along the last axis: y = [x, inner(labels)].

    The input is the pair (x, labels); inner(labels) must have x's shape but for the last axis. dx
    is the gradient of x alone: labels have none. The layer is linear in x, and inner(labels) does
    not depend on x, so the cotangent ddx of dx passes to the front part of ddy and inner receives
    nothing.
    """

    def __init__(self, inner: Layer):
        super().__init__()
        self.inner = inner

    def children(self):
        return {"inner": self.inner}

    def forward(self, x, train=True):
        x, labels = x
        xp = array_module(x)
        c, cache = self.inner.forward(labels, train)
        if c.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"{self.label}: x has shape {tuple(x.shape)}, which a condition of "
                f"{tuple(c.shape)} cannot join"
            )
        return xp.ascontiguousarray(xp.concatenate([x, c], -1)), (x.shape[-1], cache)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        C, inner_cache = cache
        xp = array_module(dy)
        grads = {}
        if need_grads and self.inner.params:
            _, grads = self.inner.backward(
                xp.ascontiguousarray(dy[..., C:]), inner_cache, need_dx=False
            )
            grads = {f"inner.{name}": g for name, g in grads.items()}
        return (xp.ascontiguousarray(dy[..., :C]) if need_dx else None), grads

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        xp = array_module(ddx)
        return (
            xp.ascontiguousarray(xp.concatenate([ddx, xp.zeros_like(dy[..., cache[0] :])], -1)),
            None,
            {},
        )

    def config(self):
        return repr(self.inner)


def one_hot(labels, K: int, dtype):
    """y[n,k] = 1 where k = label[n], 0 elsewhere: labels (N,), y (N, K)."""
    return (labels[:, None] == array_module(labels).arange(K)).astype(dtype)


def check_labels(layer: Layer, labels, K: int) -> None:
    """Check that labels are a row of integers in [0, K). Raises TypeError and ValueError."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TypeError(
            f"{layer.label}: labels must be a row of integers, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < K):
        raise ValueError(
            f"{layer.label}: labels must lie in [0, {K}), got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
