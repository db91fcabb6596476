"""Layers of several branches on one input: Residual, Skip, Heads and Lerp.

The outputs y_i = f_i(x) are joined by a linear map J, and its adjoint splits dy among the branches:

    y   = J(f_1(x), f_2(x), ...)          dx  = sum over i of f_i'(x)^T dy_i,  (dy_1, ...) = J^T dy
    ddy = J(f_1'(x) ddx, ...)             dx2 = sum over i of the curvatures of f_i

So the second order needs nothing but the branches' own.
"""

from itertools import pairwise

from rawgan.backend import Array, array_module
from rawgan.layers.base import Composite, Layer


class _Identity(Layer):
    """y = x."""

    def forward(self, x, train=True):
        return x, None

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy, {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return ddx, None, {}


class _Branches(Composite):
    """Layers by name on the same x, and the map J that joins their outputs.

    `joint` holds the numbers of J in the cache: the sizes of the outputs, or their weights.
    """

    def __init__(self, **branches: Layer):
        super().__init__()
        self.branches = branches

    def children(self):
        return {
            name: layer for name, layer in self.branches.items() if not isinstance(layer, _Identity)
        }

    def joint(self, ys: list[Array]):
        """Return the numbers of J. Raises ValueError for outputs that cannot be joined."""
        raise NotImplementedError

    def join(self, ys: list[Array], joint) -> Array:
        """Return J(y_1, y_2, ...)."""
        raise NotImplementedError

    def split(self, dy: Array, joint) -> list[Array]:
        """Return J^T dy, one cotangent per branch."""
        raise NotImplementedError

    def forward(self, x, train=True):
        ys, caches = zip(*(layer.forward(x, train) for layer in self.branches.values()))
        joint = self.joint(ys)
        return self.join(ys, joint), (joint, caches)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        joint, caches = cache
        dxs, grads = [], {}
        for (name, layer), part, inner in zip(self.branches.items(), self.split(dy, joint), caches):
            dx, inner_grads = layer.backward(part, inner, need_dx, need_grads)
            dxs.append(dx)
            grads |= {f"{name}.{key}": g for key, g in inner_grads.items()}
        return sum(dxs[1:], dxs[0]) if need_dx else None, grads

    def input_gradient(self, dy, cache):
        joint, caches = cache
        dxs, nested = zip(
            *(
                layer.input_gradient(part, inner)
                for layer, part, inner in zip(self.branches.values(), self.split(dy, joint), caches)
            )
        )
        return sum(dxs[1:], dxs[0]), nested

    def double_backward(self, ddx, dy, cache, need_ddy=True, dys=None):
        joint, caches = cache
        dys = dys or [None] * len(caches)
        ddys, curvatures, grads = [], [], {}
        for (name, layer), part, inner, inner_dys in zip(
            self.branches.items(), self.split(dy, joint), caches, dys
        ):
            known = {} if inner_dys is None else {"dys": inner_dys}
            ddy, curvature, inner_grads = layer.double_backward(ddx, part, inner, need_ddy, **known)
            ddys.append(ddy)
            curvatures += [] if curvature is None else [curvature]
            grads |= {f"{name}.{key}": g for key, g in inner_grads.items()}
        ddy = None if any(a is None for a in ddys) else self.join(ddys, joint)
        return ddy, sum(curvatures[1:], curvatures[0]) if curvatures else None, grads

    def config(self):
        return ", ".join(map(repr, self.children().values()))


class _Sum(_Branches):
    """Outputs of one shape, added."""

    def joint(self, ys):
        if len({y.shape for y in ys}) > 1:
            shapes = " and ".join(str(tuple(y.shape)) for y in ys)
            raise ValueError(f"{self.label}: outputs of shapes {shapes} cannot be added")


class _Concatenation(_Branches):
    """Outputs concatenated along the last axis."""

    def joint(self, ys):
        if len({y.shape[:-1] for y in ys}) > 1:
            shapes = " and ".join(str(tuple(y.shape)) for y in ys)
            raise ValueError(f"{self.label}: outputs of shapes {shapes} cannot be concatenated")
        return [y.shape[-1] for y in ys]

    def join(self, ys, joint):
        return array_module(*ys).concatenate(ys, -1)

    def split(self, dy, joint):
        ends = [sum(joint[:i]) for i in range(len(joint) + 1)]
        xp = array_module(dy)
        return [xp.ascontiguousarray(dy[..., start:end]) for start, end in pairwise(ends)]


class Residual(_Sum):
    """y = inner(x) + shortcut(x), with shortcut(x) = x without one: x (N, ...).

        dx  = dx of inner + dx of shortcut, both from dy
        ddy = ddy of inner + ddy of shortcut; curvatures and gradients of both

    Raises ValueError where the two outputs have other shapes. Source: He et al. 2016
    (arXiv:1512.03385).
    """

    def __init__(self, inner: Layer, shortcut: Layer | None = None):
        super().__init__(inner=inner, shortcut=shortcut or _Identity())

    def join(self, ys, joint):
        return ys[0] + ys[1]

    def split(self, dy, joint):
        return [dy, dy]


class Lerp(_Sum):
    """y = (1 - alpha) a(x) + alpha b(x), the fade-in of a new resolution: x (N, ...).

        dx  = dx of a from (1 - alpha) dy + dx of b from alpha dy
        ddy = (1 - alpha) ddy of a + alpha ddy of b; curvatures and gradients of both

    `alpha` in [0, 1] can be set between two passes; a pass keeps the one of its forward. Raises
    ValueError for another alpha, and where the two outputs have other shapes. Source: Karras et al.
    2018 (arXiv:1710.10196), section 2.
    """

    def __init__(self, a: Layer, b: Layer, alpha: float = 0.0):
        super().__init__(a=a, b=b)
        self.alpha = alpha

    def joint(self, ys):
        super().joint(ys)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"{self.label}: alpha lies in [0, 1], got {self.alpha}")
        return float(self.alpha)

    def join(self, ys, joint):
        return (1 - joint) * ys[0] + joint * ys[1]

    def split(self, dy, joint):
        return [(1 - joint) * dy, joint * dy]

    def config(self):
        return f"{super().config()}, alpha={self.alpha}"


class Skip(_Concatenation):
    """y = [inner(x), x], concatenated along the channels: x (N, ..., C), y (N, ..., K + C).

        dx  = dx of inner from dy[..., :K] + dy[..., K:]
        ddy = [ddy of inner, ddx]; curvature and gradients of inner

    A U-Net is Skips inside each other: each inner one is smaller, and its own first and last layers
    halve and double the image. Raises ValueError where inner(x) has another size than x.
    Source: Ronneberger et al. 2015 (arXiv:1505.04597).
    """

    def __init__(self, inner: Layer):
        super().__init__(inner=inner, skip=_Identity())


class Heads(_Concatenation):
    """y = [h_0(x), h_1(x), ...], several outputs of one body, concatenated: y (N, K_0 + K_1 + ...).

        dx  = sum over i of the dx of h_i from its columns of dy
        ddy = [ddy of h_0, ...]; curvatures and gradients of all

    In a discriminator the first head is the score of the source, real or fake: a gradient penalty
    is that of its input gradient alone. Raises ValueError where the outputs have other shapes
    (N, ...). Source: Odena et al. 2017 (arXiv:1610.09585).
    """

    def __init__(self, *heads: Layer):
        if not heads:
            raise ValueError("Heads need at least one layer")
        super().__init__(**{str(i): head for i, head in enumerate(heads)})

    @staticmethod
    def source_size(cache) -> int:
        """Return K_0, the number of columns of the first head."""
        sizes, _ = cache
        return sizes[0]
