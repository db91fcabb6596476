"""Layers that take class labels inside a network: projection head, conditional BatchNorm.

A ConditionalSequential is given the pair (x, labels) and sets the labels of all such layers in it,
however deep, for the time of its forward pass. Their caches keep them for the backward passes.
"""

from functools import reduce
from math import prod
from operator import mul

import numpy as np

from rawgan.layers.base import Composite, Layer, inside
from rawgan.layers.embed import check_labels, one_hot
from rawgan.layers.norm import _BatchStatistics
from rawgan.layers.sequential import Sequential
from rawgan.ops.norm import affine, mean, normalize, normalize_dx, normalize_dx2


class ConditionalSequential(Sequential):
    """A Sequential of the pair (x, labels): x (N, ...), labels (N,) of integers.

        y = f_L( ... f_2(f_1(x))),  ConditionalBatchNorm and Projection in it also given the labels

    dx is that of x: labels have no gradient. Raises ValueError without a layer that takes labels.
    Source: Miyato & Koyama 2018 (arXiv:1802.05637).
    """

    def __init__(self, *layers: Layer):
        super().__init__(*layers)
        self.conditioned = [layer for _, layer in inside(self) if isinstance(layer, _TakesLabels)]
        if not self.conditioned:
            raise ValueError("no layer of this ConditionalSequential takes labels")

    def forward(self, x, train=True):
        x, labels = x
        for layer in self.conditioned:
            layer.labels = labels
        try:
            return super().forward(x, train)
        finally:
            for layer in self.conditioned:
                layer.labels = None


class _TakesLabels:
    """Labels of a layer, during a forward pass of the ConditionalSequential around it."""

    labels = None

    def labels_of(self, x):
        """Return the labels of x (N, ...). Raises ValueError without, or with another number."""
        if self.labels is None:
            raise ValueError(f"{self.label} takes labels: put it into a ConditionalSequential")
        if len(self.labels) != len(x):
            raise ValueError(f"{self.label}: {len(self.labels)} labels for {len(x)} samples")
        return self.labels


class ConditionalBatchNorm(_TakesLabels, _BatchStatistics):
    """BatchNorm with a scale and a shift for each class: gamma and beta (K, C).

        y[n] = gamma[label[n]] xhat[n] + beta[label[n]]
        dgamma[k] = sum over the n with label[n] = k, and the pixels, of xhat[n] dy[n]

    x (N, C) or (N, H, W, C); statistics, running ones and derivatives as BatchNorm, with
    gamma[label[n]] dy[n] in place of gamma dy. Inside a ConditionalSequential. Raises ValueError
    without labels, and for labels outside [0, K). Source: Dumoulin et al. 2017 (arXiv:1610.07629);
    de Vries et al. 2017.
    """

    def __init__(self, C: int, K: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(C, eps, momentum)
        self.K = K
        self.params["gamma"] = np.ones((K, C), np.float32)
        self.params["beta"] = np.zeros((K, C), np.float32)

    def of_samples(self, name: str, labels, ndim: int):
        """Return gamma or beta of each sample's class, to broadcast over x: (N, 1, 1, C)."""
        rows = self.params[name][labels]
        return rows.reshape(len(rows), *(1,) * (ndim - 2), -1)

    def over_samples(self, labels, *factors):
        """Return the sums of a product over the samples of each class and the pixels, (K, C)."""
        pixels, (N, *size, C) = tuple(range(1, factors[0].ndim - 1)), factors[0].shape
        if pixels:
            sums = mean(pixels, *factors).reshape(N, C) * prod(size)
        else:
            sums = reduce(mul, factors)
        return one_hot(labels, self.K, sums.dtype).T @ sums

    def forward(self, x, train=True):
        self.checked(x)
        labels = self.labels_of(x)
        check_labels(self, labels, self.K)
        if train:
            M = self.values(x)
            xhat, rstd, mu, var = normalize(x, self.axes(x), self.eps, self.ranks)
            self.track("running_mean", mu.reshape(-1))
            self.track("running_var", var.reshape(-1) * (M / (M - 1)))
        else:
            xhat, rstd = self.standardized(x)
        gamma, beta = (self.of_samples(name, labels, x.ndim) for name in ("gamma", "beta"))
        return affine(xhat, gamma, beta), (xhat, rstd, train, labels)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        xhat, rstd, train, labels = cache
        dx, grads = None, {}
        if need_dx:
            dxhat = dy * self.of_samples("gamma", labels, dy.ndim)
            dx = self.through_statistics(dxhat, xhat, rstd, train)
        if need_grads:
            grads = {
                "gamma": self.over_samples(labels, xhat, dy),
                "beta": self.over_samples(labels, dy),
            }
        return dx, grads

    def through_statistics(self, dxhat, xhat, rstd, train):
        """Return dx of xhat's gradient: with the running statistics, they are constants."""
        if not train:
            return dxhat * rstd
        return normalize_dx(dxhat, xhat, rstd, self.axes(xhat), self.ranks)

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        xhat, rstd, train, labels = cache
        gamma = self.of_samples("gamma", labels, dy.ndim)
        ddxhat = self.through_statistics(ddx, xhat, rstd, train)
        dx = None
        if train:
            dx = normalize_dx2(ddx, dy * gamma, xhat, rstd, self.axes(dy), self.ranks)
        return gamma * ddxhat, dx, {"gamma": self.over_samples(labels, dy, ddxhat)}

    def config(self):
        return f"{self.shape[0]}, {self.K}, eps={self.eps}, momentum={self.momentum}"


class Projection(_TakesLabels, Composite):
    """The head of a projection discriminator, a score that compares x with its class.

        y[n] = linear(x)[n] + <e[n], x[n]>,  e = inner(labels)
        dx = dx of linear + dy e,         de = dy x
        ddy = ddy of linear + <ddx, e>,   de = dy ddx    for the cotangent ddx of dx; no curvature

    x (N, C), y (N, 1); `linear` is a Linear(C, 1) and `inner` an Embedding(K, C), or SpectralNorm
    of each. Inside a ConditionalSequential. Raises ValueError without labels, and where x and e
    have other shapes. Source: Miyato & Koyama 2018 (arXiv:1802.05637).
    """

    def __init__(self, linear: Layer, inner: Layer):
        super().__init__()
        self.linear, self.inner = linear, inner

    def children(self):
        return {"linear": self.linear, "inner": self.inner}

    def forward(self, x, train=True):
        e, inner_cache = self.inner.forward(self.labels_of(x), train)
        if e.shape != x.shape:
            raise ValueError(
                f"{self.label}: x of shape {tuple(x.shape)} cannot be projected on {tuple(e.shape)}"
            )
        y, linear_cache = self.linear.forward(x, train)
        return y + (e * x).sum(1, keepdims=True), (x, e, linear_cache, inner_cache)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        x, e, linear_cache, inner_cache = cache
        dx, grads = self.linear.backward(dy, linear_cache, need_dx, need_grads)
        inner_grads = self.inner.backward(dy * x, inner_cache)[1] if need_grads else {}
        return (dx + dy * e if need_dx else None), self.named(grads, inner_grads)

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        _, e, linear_cache, inner_cache = cache
        ddy, dx, grads = self.linear.double_backward(ddx, dy, linear_cache, need_ddy)
        ddy = ddy + (ddx * e).sum(1, keepdims=True) if need_ddy else None
        _, inner_grads = self.inner.backward(dy * ddx, inner_cache)
        return ddy, dx, self.named(grads, inner_grads)

    @staticmethod
    def named(grads, inner_grads):
        """Return the gradients of both layers under their names."""
        return {f"linear.{name}": g for name, g in grads.items()} | {
            f"inner.{name}": g for name, g in inner_grads.items()
        }

    def config(self):
        return f"{self.linear!r}, {self.inner!r}"
