"""BatchNorm, LayerNorm and InstanceNorm: one formula, ops/norm.py, over different axes."""

from math import prod

import numpy as np

from rawgan.layers.base import Layer
from rawgan.ops.norm import (
    affine,
    batchnorm,
    batchnorm_dx,
    inverse_root,
    mean,
    moved,
    normalize,
    normalize_dx,
    normalize_dx2,
    standardize,
)


class _Norm(Layer):
    """y = gamma xhat + beta, normalised over the axes of x that a subclass selects.

    gamma and beta have the shape of the last axes of x: (C,) is one per channel.
    """

    ranks = None  # set to a Ranks if the samples of several processes are one batch

    def __init__(self, shape, eps: float):
        super().__init__()
        self.shape, self.eps = ((shape,) if isinstance(shape, int) else tuple(shape)), eps
        self.params["gamma"] = np.ones(self.shape, np.float32)
        self.params["beta"] = np.zeros(self.shape, np.float32)

    @property
    def gamma(self):
        """The scales."""
        return self.params["gamma"]

    def axes(self, x) -> tuple[int, ...]:
        """Return the axes that mean and variance are taken over."""
        raise NotImplementedError

    def checked(self, x):
        self.check(x, *(None,) * (max(x.ndim, len(self.shape) + 1) - len(self.shape)), *self.shape)

    def over_params(self, *factors):
        """Return the sum of a product over the axes that gamma does not have."""
        axes = tuple(range(factors[0].ndim - len(self.shape)))
        return mean(axes, *factors).reshape(self.shape) * prod(factors[0].shape[: len(axes)])

    def forward(self, x, train=True):
        self.checked(x)
        if prod(x.shape[axis] for axis in self.axes(x)) < 2:
            raise ValueError(
                f"{self.label}: x of shape {tuple(x.shape)} has one value to normalise, and "
                "one value has no variance"
            )
        xhat, rstd, _, _ = normalize(x, self.axes(x), self.eps)
        return affine(xhat, self.gamma, self.params["beta"]), (xhat, rstd)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        xhat, rstd = cache
        dx = (
            normalize_dx(dy * self.gamma, xhat, rstd, self.axes(dy), self.ranks)
            if need_dx
            else None
        )
        grads = (
            {"gamma": self.over_params(xhat, dy), "beta": self.over_params(dy)}
            if need_grads
            else {}
        )
        return dx, grads

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        xhat, rstd = cache
        axes, gamma = self.axes(dy), self.gamma
        ddxhat = normalize_dx(ddx, xhat, rstd, axes, self.ranks)
        dx = normalize_dx2(ddx, dy * gamma, xhat, rstd, axes, self.ranks)
        return gamma * ddxhat, dx, {"gamma": self.over_params(dy, ddxhat)}

    def config(self):
        return f"{self.shape[0] if len(self.shape) == 1 else self.shape}, eps={self.eps}"


class LayerNorm(_Norm):
    """Normalise each sample over all its channels and pixels: x (N, C) or (N, H, W, C).

    `shape` is that of gamma and beta: C for one per channel, (H, W, C) for one per element
    (PyTorch's nn.LayerNorm). Source: Ba et al. 2016 (arXiv:1607.06450).
    """

    def __init__(self, shape, eps: float = 1e-5):
        super().__init__(shape, eps)

    def axes(self, x):
        return tuple(range(1, x.ndim))


class InstanceNorm(_Norm):
    """Normalise each channel of each sample over its pixels: x (N, H, W, C), gamma and beta (C,).

    Source: Ulyanov et al. 2016 (arXiv:1607.08022).
    """

    def __init__(self, C: int, eps: float = 1e-5):
        super().__init__(C, eps)

    def checked(self, x):
        self.check(x, None, None, None, *self.shape)

    def axes(self, x):
        return (1, 2)


class _BatchStatistics(_Norm):
    """Statistics over the batch (and the pixels), running ones, and derivatives at either."""

    averaged = ("running_mean", "running_var")
    couples_samples = True

    def __init__(self, C: int, eps: float, momentum: float):
        super().__init__(C, eps)
        self.momentum = momentum
        self.buffers["running_mean"] = np.zeros(C, np.float32)
        self.buffers["running_var"] = np.ones(C, np.float32)

    def checked(self, x):
        self.check(x, *(None,) * (3 if x.ndim == 4 else 1), *self.shape)

    def axes(self, x):
        return tuple(range(x.ndim - 1))

    def values(self, x) -> int:
        """Return the number of values of a channel, over all ranks. Raises ValueError for one."""
        M = x.size // x.shape[-1] * (self.ranks.size if self.ranks else 1)
        if M < 2:
            raise ValueError(
                f"{self.label}: one value per channel has no variance; train with a batch of "
                "2 or more"
            )
        return M

    def standardized(self, x):
        """Return xhat and rstd of the running statistics."""
        rstd = inverse_root(self.buffers["running_var"], self.eps)
        return standardize(x, self.buffers["running_mean"], rstd), rstd

    def track(self, name: str, batch) -> None:
        """Update in place: running = (1 - momentum) running + momentum batch."""
        self.buffers[name][...] = moved(self.buffers[name], batch, self.momentum)

    def config(self):
        return f"{super().config()}, momentum={self.momentum}"


class BatchNorm(_BatchStatistics):
    """Normalise each channel over the batch (and the pixels).

    x (N, C) or (N, H, W, C), gamma and beta (C,). Training normalises with the statistics of the
    batch (biased variance) and updates the running ones (unbiased variance), in PyTorch's
    convention:

        running = (1 - momentum) running + momentum batch

    Inference normalises with the running statistics: samples are then independent and the layer is
    linear in x. gamma is 1 at the start, and a constant buffer with trained_scale=False. In
    training on several processes, each uses the statistics of its samples, or with `ranks` set
    those of all processes. Keras' defaults are momentum=0.01 in this convention, and eps=1e-3.
    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167).
    """

    def __init__(
        self, C: int, eps: float = 1e-5, momentum: float = 0.1, trained_scale: bool = True
    ):
        super().__init__(C, eps, momentum)
        self.trained_scale = trained_scale
        if not trained_scale:
            self.buffers["gamma"] = self.params.pop("gamma")

    @property
    def gamma(self):
        """The scales (C,)."""
        return self.params["gamma"] if self.trained_scale else self.buffers["gamma"]

    def forward(self, x, train=True):
        self.checked(x)
        gamma, beta = self.gamma, self.params["beta"]
        if not train:
            xhat, rstd = self.standardized(x)
            return affine(xhat, gamma, beta), (xhat, rstd, train)
        M = self.values(x)
        y, xhat, rstd, mean, var = batchnorm(x, gamma, beta, self.eps, self.ranks)
        self.track("running_mean", mean.reshape(-1))
        self.track("running_var", var.reshape(-1) * (M / (M - 1)))
        return y, (xhat, rstd, train)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        xhat, rstd, train = cache
        if train:
            dx, dgamma, dbeta = batchnorm_dx(dy, xhat, rstd, self.gamma, self.ranks)
            return dx, self.trained({"gamma": dgamma, "beta": dbeta}) if need_grads else {}
        grads = (
            {"gamma": self.over_params(xhat, dy), "beta": self.over_params(dy)}
            if need_grads
            else {}
        )
        return dy * (self.gamma * rstd), self.trained(grads)

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        xhat, rstd, train = cache
        if train:
            ddy, dx, grads = super().double_backward(ddx, dy, (xhat, rstd))
        else:
            ddy, dx = ddx * (self.gamma * rstd), None
            grads = {"gamma": self.over_params(dy, ddx * rstd)}
        return ddy, dx, self.trained(grads)

    def trained(self, grads):
        """Return the gradients of the parameters: without gamma where it is constant."""
        return {name: g for name, g in grads.items() if name in self.params}

    def config(self):
        return super().config() + ("" if self.trained_scale else ", trained_scale=False")
