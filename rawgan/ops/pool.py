"""Pooling over disjoint k x k squares: the largest entry or the sum, and their linear maps.

    y[n,p,q,c] = max over 0 <= r,s < k of x[n, p k + r, q k + s, c],  P = floor(H / k)

Rows and columns that fill no square are left out. `taken` (N, P, Q, C), in the smallest unsigned
integers that hold k k - 1, is the index r k + s of the largest entry, the first of equals, as in
PyTorch. For a fixed choice the layer is linear in x, so its second derivative is the choice again,
without curvature.
"""

from rawgan.backend import Array, array_module
from rawgan.cpu import over_batch


def max_pool(x: Array, k: int) -> tuple[Array, Array]:
    """y and taken, both (N, P, Q, C), of x (N, H, W, C).

        y[n,p,q,c] = max over 0 <= r,s < k of x[n, p k + r, q k + s, c]

    Derivatives: max_pool_dx, max_pool_ddy. Source: Weng et al. 1992 (the Cresceptron).
    """
    xp = array_module(x)
    N, H, W, C = x.shape
    shape = (N, H // k, W // k, C)
    y, taken = xp.empty(shape, x.dtype), xp.zeros(shape, xp.min_scalar_type(k * k - 1))

    def part(n: slice) -> None:
        y[n] = x[n][_tap(shape, k, 0)]
        for tap in range(1, k * k):
            entry = x[n][_tap(shape, k, tap)]
            taken[n][entry > y[n]] = tap
            xp.maximum(y[n], entry, out=y[n])

    over_batch(xp, N, part, H * W * C * x.itemsize)
    return y, taken


def max_pool_dx(dy: Array, taken: Array, size: tuple[int, int], k: int) -> Array:
    """dx[n, p k + r, q k + s, c] = dy[n,p,q,c] where r k + s was taken, 0 elsewhere.

    dx (N, H, W, C) with (H, W) = size.
    """
    xp = array_module(dy, taken)
    N, _, _, C = dy.shape
    dx = xp.zeros((N, *size, C), dy.dtype)

    def part(n: slice) -> None:
        for tap in range(k * k):
            dx[n][_tap(dy.shape, k, tap)] = dy[n] * (taken[n] == tap)

    over_batch(xp, N, part, 2 * size[0] * size[1] * C * dy.itemsize)
    return dx


def max_pool_ddy(ddx: Array, taken: Array, k: int) -> Array:
    """ddy[n,p,q,c] = ddx[n, p k + r, q k + s, c] with r k + s the tap that was taken.

    The adjoint of max_pool_dx. ddx (N, H, W, C), taken and ddy (N, P, Q, C).
    """
    xp = array_module(ddx, taken)
    ddy = xp.zeros(taken.shape, ddx.dtype)
    for tap in range(k * k):
        ddy += ddx[_tap(taken.shape, k, tap)] * (taken == tap)
    return ddy


def sum_pool(x: Array, k: int) -> Array:
    """y (N, P, Q, C), the sum over each k x k square of x (N, H, W, C).

        y[n,p,q,c] = sum over 0 <= r,s < k of x[n, p k + r, q k + s, c],  P = floor(H / k)

    Derivative: sum_pool_dx.
    """
    xp = array_module(x)
    N, H, W, C = x.shape
    y = xp.empty((N, H // k, W // k, C), x.dtype)

    def part(n: slice) -> None:
        y[n] = x[n][_tap(y.shape, k, 0)]
        for tap in range(1, k * k):
            y[n] += x[n][_tap(y.shape, k, tap)]

    over_batch(xp, N, part, H * W * C * x.itemsize)
    return y


def sum_pool_dx(dy: Array, size: tuple[int, int], k: int) -> Array:
    """dx[n, p k + r, q k + s, c] = dy[n,p,q,c] for 0 <= r,s < k, 0 in what fills no square.

    The adjoint of sum_pool: dx (N, H, W, C) with (H, W) = size. Where k divides H and W it is
    nearest upsampling of dy.
    """
    xp = array_module(dy)
    N, P, Q, C = dy.shape
    full = (P * k, Q * k) == tuple(size)
    dx = (xp.empty if full else xp.zeros)((N, *size, C), dy.dtype)

    def part(n: slice) -> None:
        for tap in range(k * k):
            dx[n][_tap(dy.shape, k, tap)] = dy[n]

    over_batch(xp, N, part, size[0] * size[1] * C * dy.itemsize)
    return dx


def _tap(shape: tuple[int, ...], k: int, tap: int) -> tuple[slice, slice, slice]:
    """Return the index of entry `tap` of every square, for pooled arrays of `shape`."""
    (r, s), (_, P, Q, _) = divmod(tap, k), shape
    return slice(None), slice(r, P * k, k), slice(s, Q * k, k)
