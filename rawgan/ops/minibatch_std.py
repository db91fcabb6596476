"""Minibatch standard deviation: how much the samples of a group differ, as one extra channel.

Sample n = g M + m is member g = 0 .. G - 1 of group m = 0 .. M - 1. With E the mean over the
members of a group, F features i = (h, v, c) of a sample and xhat the features normalised over g,

    s[m,i] = sqrt( E((x[g,m,i] - E x[g,m,i])^2) + eps )     xhat = (x - E x) / s
    y = [x, sigma],  sigma[m] = 1/F sum over i of s[m,i], a constant plane

    with e[m] the sum of dy's last channel over the members and pixels of group m:
    dx  = dy without its last channel + e[m] xhat / (F G)                        first order
    ddy = [ddx, plane of 1/(F G) sum over g, i of ddx xhat]                      second order
    dx2 = e[m] / (F G) 1/s P(ddx),  P of ops/norm.py: the derivative of xhat     curvature
"""

from rawgan.backend import Array, array_module
from rawgan.ops.norm import normalize, normalize_dx


def minibatch_std(x: Array, G: int, eps: float) -> tuple[Array, Array, Array]:
    """Concatenate to x the mean standard deviation of its features over groups of G samples.

        y = [x, sigma[m]],  sigma[m] = 1/F sum over i of sqrt( E((x - E x)^2) + eps )

    x (N, C) or (N, H, W, C), N divisible by G; y with C + 1 channels. Also returns xhat (G, M, ...)
    and rstd = 1/s (1, M, ...), M = N / G. Derivatives: minibatch_std_dx, minibatch_std_ddy,
    minibatch_std_dx2. Source: Karras et al. 2018 (arXiv:1710.10196), section 3.
    """
    xhat, rstd, _, _ = normalize(x.reshape(G, len(x) // G, *x.shape[1:]), (0,), eps)
    s = 1 / rstd
    return _with_plane(x, s.reshape(s.shape[1], -1).mean(1)), xhat, rstd


def minibatch_std_dx(dy: Array, xhat: Array) -> Array:
    """dx = dy[..., :C] + e[m] xhat / (F G), e the sum of dy's last channel over a group.

    dy (N, ..., C + 1), xhat (G, M, ..., C), dx (N, ..., C).
    """
    return dy[..., :-1] + (_slope(dy, xhat) * xhat).reshape(*dy.shape[:-1], -1)


def minibatch_std_ddy(ddx: Array, xhat: Array) -> Array:
    """ddy = [ddx, plane of 1/(F G) sum over g, i of ddx xhat]: the jvp of the layer.

    The adjoint of minibatch_std_dx. ddx (N, ..., C), xhat (G, M, ..., C), ddy (N, ..., C + 1).
    """
    G, M = xhat.shape[:2]
    products = (ddx.reshape(xhat.shape) * xhat).reshape(G, M, -1)
    return _with_plane(ddx, products.mean((0, 2)))


def minibatch_std_dx2(ddx: Array, dy: Array, xhat: Array, rstd: Array) -> Array:
    """Curvature: the gradient of <ddx, minibatch_std_dx(dy)> with respect to x.

        dx2 = e[m] / (F G) normalize_dx(ddx)

    ddx and dx2 (N, ..., C), dy (N, ..., C + 1), xhat (G, M, ..., C), rstd (1, M, ..., C).
    """
    projected = normalize_dx(ddx.reshape(xhat.shape), xhat, rstd, (0,))
    return (_slope(dy, xhat) * projected).reshape(ddx.shape)


def _slope(dy: Array, xhat: Array) -> Array:
    """Return e[m] / (F G), of the shape (1, M, 1, ..., 1)."""
    G, M, *features = xhat.shape
    e = dy[..., -1].reshape(G, M, -1).sum((0, 2))
    return e.reshape(1, M, *(1,) * len(features)) / (xhat.size // M)


def _with_plane(x: Array, values: Array) -> Array:
    """Return x with an extra channel, values[m] (M,) at every pixel of the samples of group m."""
    xp = array_module(x, values)
    by_sample = xp.tile(values, len(x) // len(values)).reshape(-1, *(1,) * (x.ndim - 1))
    return xp.concatenate([x, xp.broadcast_to(by_sample, (*x.shape[:-1], 1))], -1)
