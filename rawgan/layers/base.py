"""What a layer is: three functions, and the arrays they share."""

import numpy as np

from rawgan.backend import Array, to_host

Grads = dict[str, Array]


class Layer:
    """State plus forward, backward and double_backward.

        y, cache       = layer.forward(x, train)             the value; the cache is a value too, never a field
        dx, grads      = layer.backward(dy, cache)           the vector-Jacobian product of forward
        ddy, dx, grads = layer.double_backward(ddx, dy, cache)    that of backward's dx, for the cotangent ddx of dx

    The cache is returned, not kept, so one layer can run on real, fake and interpolated batches without getting lost. `grads`
    has fresh arrays under the names of `params`, summed over the batch and never accumulated. `params` are trained, `buffers`
    (running statistics) are not; both are dictionaries of arrays, and a network replaces them by views of its flat buffer.

    double_backward takes the backward with its upstream gradient `dy` as the function (dy, x, params) -> dx. It returns None for
    a derivative that is exactly zero, so that nobody computes with zeros: dx is None for layers that are linear in x.
    """

    def __init__(self):
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.label = type(self).__name__
        self.dtype = np.dtype(np.float32)

    def forward(self, x, train: bool = True) -> tuple[Array, object]:
        raise NotImplementedError

    def backward(self, dy: Array, cache, need_dx: bool = True, need_grads: bool = True) -> tuple[Array | None, Grads]:
        """dx (None where need_dx is off) and the gradients of the parameters (empty where need_grads is off)."""
        raise NotImplementedError

    def double_backward(self, ddx: Array, dy: Array, cache, need_ddy: bool = True) -> tuple[Array | None, Array | None, Grads]:
        """ddy, dx and the gradients of the parameters; without need_ddy, costly layers leave ddy out (None).

        Raises NotImplementedError, naming the layer, unless the layer has a second derivative.
        """
        raise NotImplementedError(f"{self.label} has no double_backward: it cannot stand in a critic with a gradient penalty")

    def children(self) -> dict[str, "Layer"]:
        """The layers inside this one, by name."""
        return {}

    def bind(self, rng) -> None:
        """Hands the layer the random stream that it draws from in training."""
        for child in self.children().values():
            child.bind(rng)

    def config(self) -> str:
        """The arguments it was made with, for messages and printouts."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config()})"

    def check(self, x: Array, *shape: int | None) -> None:
        """Raises ValueError naming the layer and both shapes unless x has this shape (None: any size), TypeError for a dtype
        other than that of the parameters."""
        if x.ndim != len(shape) or any(want not in (None, got) for got, want in zip(x.shape, shape)):
            wanted = ", ".join("N" if n == 0 else "any" if s is None else str(s) for n, s in enumerate(shape))
            raise ValueError(f"{self.label}: expected x of shape ({wanted}), got {tuple(x.shape)}")
        if x.shape[0] == 0:
            raise ValueError(f"{self.label}: the batch is empty")
        for name, value in self.params.items():
            if x.dtype != value.dtype:
                raise TypeError(f"{self.label}: x is {x.dtype} but {name} is {value.dtype}; they must be the same")


class Composite(Layer):
    """A layer made of layers: its parameters are its children's, named "child.name"."""

    def __init__(self):
        self.label = type(self).__name__

    @property
    def params(self):
        return {f"{child}.{name}": p for child, layer in self.children().items() for name, p in layer.params.items()}

    @property
    def buffers(self):
        return {f"{child}.{name}": b for child, layer in self.children().items() for name, b in layer.buffers.items()}


def leaves(layer: Layer, path: str = "") -> list[tuple[str, Layer]]:
    """Every layer that is not made of others, with its path: ("0", Conv2d), ("1.inner.0", Linear) ..."""
    inside = layer.children()
    if not inside:
        return [(path, layer)]
    return [leaf for name, child in inside.items() for leaf in leaves(child, f"{path}.{name}".lstrip("."))]


def parameter_count(layer: Layer, buffers: bool = False) -> int:
    """How many numbers are trained; with `buffers`, the running statistics too, which is how Keras counts."""
    count = sum(p.size for p in layer.params.values())
    return count + (sum(b.size for b in layer.buffers.values()) if buffers else 0)


def state(layer: Layer) -> dict[str, Array]:
    """Host copies of all parameters and buffers by name."""
    return {name: to_host(a).copy() for name, a in {**layer.params, **layer.buffers}.items()}
