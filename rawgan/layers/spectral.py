"""Spectral normalisation: a layer whose weight is divided by its largest singular value."""

import numpy as np

from rawgan.backend import array_module
from rawgan.layers.base import Layer


class SpectralNorm(Layer):
    """Run `inner` with w / sigma in place of w, sigma = u' W v the largest singular value of W.

    W is w as (K, rest). Each training forward does one step of power iteration, u and v being
    constants for the gradient:

        v = W' u / |W' u|,  u = W v / |W v|,  sigma = u' W v,  wbar = w / sigma
        dw = ( dwbar - <dwbar, wbar> u v' ) / sigma

    The same dw serves double_backward, as w enters through wbar alone. For Linear and Conv2d, whose
    first axis is the output. If all weights are 0, sigma counts as 1 and u is not updated.
    Source: Miyato et al. 2018 (arXiv:1802.05957).
    """

    def __init__(self, inner: Layer, seed: int = 0):
        super().__init__()
        self.inner = inner
        self.params = dict(inner.params)
        u = np.random.default_rng(seed).standard_normal(len(inner.params["w"]))
        self.buffers["u"] = (u / np.linalg.norm(u)).astype(np.float32)

    def forward(self, x, train=True):
        w = self.params["w"]
        xp = array_module(w)
        W, u = w.reshape(len(w), -1), self.buffers["u"]
        v = unit(xp, u @ W)
        if train:
            product = W @ v
            u = xp.where((product != 0).any(), unit(xp, product), u)
            self.buffers["u"][...] = u
        sigma = u @ W @ v
        sigma = xp.where(sigma == 0, sigma.dtype.type(1), sigma)
        wbar = w / sigma
        self.use(wbar)
        y, inner_cache = self.inner.forward(x, train)
        return y, (inner_cache, wbar, sigma, u, v)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        inner_cache, wbar, *_ = cache
        self.use(wbar)
        dx, grads = self.inner.backward(dy, inner_cache, need_dx, need_grads)
        return dx, self.through_sigma(grads, cache)

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        inner_cache, wbar, *_ = cache
        self.use(wbar)
        ddy, dx, grads = self.inner.double_backward(ddx, dy, inner_cache, need_ddy)
        return ddy, dx, self.through_sigma(grads, cache)

    def use(self, wbar) -> None:
        """Set wbar as the weight of inner."""
        self.inner.label, self.inner.params = self.label, self.params | {"w": wbar}

    def through_sigma(self, grads, cache):
        """Replace the gradient of wbar by that of w; other gradients are unchanged."""
        if "w" not in grads:
            return grads
        _, wbar, sigma, u, v = cache
        dwbar = grads["w"]
        along = (dwbar * wbar).sum()
        return grads | {"w": (dwbar - (along * u[:, None] * v).reshape(dwbar.shape)) / sigma}

    def config(self):
        return repr(self.inner)


def unit(xp, a):
    """Return a / |a|, or 0 for a = 0.

    Divided by its largest entry first, so that no square under- or overflows.
    """
    one = a.dtype.type(1)
    largest = abs(a).max()
    a = a / xp.where(largest == 0, one, largest)
    return a / xp.where(largest == 0, one, xp.sqrt((a * a).sum()))
