"""Minibatch standard deviation: a discriminator that sees how much a group of samples differs."""

from rawgan.layers.base import Layer
from rawgan.ops.minibatch_std import (
    minibatch_std,
    minibatch_std_ddy,
    minibatch_std_dx,
    minibatch_std_dx2,
)


class MinibatchStd(Layer):
    """Concatenate the mean standard deviation over groups of G samples, as one channel.

        y = [x, sigma[m]],  sigma[m] = 1/F sum over i of sqrt( E((x - E x)^2) + eps )

    E is the mean over the samples n = g M + m, g = 0 .. G - 1, of group m: groups are strided, with
    M = N / G. x (N, C) or (N, H, W, C), y with C + 1 channels, F = H W C. A batch smaller than G is
    one group, and group=None takes every batch as one. In training and in inference alike.

    It couples the samples of a group: a GAN passes real and fake through it in batches of their
    own, a gradient penalty is that of the sum of all scores, and each of several processes forms
    groups of its own samples. Derivatives: minibatch_std_dx, minibatch_std_ddy, minibatch_std_dx2.
    Raises ValueError for a batch that groups do not divide. Source: Karras et al. 2018
    (arXiv:1710.10196), section 3.
    """

    couples_samples = True

    def __init__(self, group: int | None = 4, eps: float = 1e-8):
        super().__init__()
        if group is not None and group < 1:
            raise ValueError(f"a group of MinibatchStd has 1 sample or more, got {group}")
        self.group, self.eps = group, eps

    def forward(self, x, train=True):
        self.check(x, *(None,) * (4 if x.ndim == 4 else 2))
        G = min(self.group or len(x), len(x))
        if len(x) % G:
            raise ValueError(
                f"{self.label}: a batch of {len(x)} cannot be divided into groups of {G}"
            )
        y, xhat, rstd = minibatch_std(x, G, self.eps)
        return y, (xhat, rstd)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return (minibatch_std_dx(dy, cache[0]) if need_dx else None), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return minibatch_std_ddy(ddx, cache[0]), minibatch_std_dx2(ddx, dy, *cache), {}

    def config(self):
        return f"group={self.group}, eps={self.eps}"
