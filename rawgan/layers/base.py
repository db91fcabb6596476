"""Layer, the base class of all layers: forward, backward and double_backward."""

import numpy as np

from rawgan.backend import Array, to_host

Grads = dict[str, Array]


class Layer:
    """State plus forward, backward and double_backward.

        y, cache       = layer.forward(x, train)
        dx, grads      = layer.backward(dy, cache)              vector-Jacobian product of forward
        ddy, dx, grads = layer.double_backward(ddx, dy, cache)  that of backward's dx, for the
                                                                cotangent ddx of dx

    The cache is returned, not stored in the layer, so one layer can run on real, fake and
    interpolated batches. `grads` has new arrays under the names of `params`, summed over the batch
    and never accumulated. `params` are trained, `buffers` (running statistics) are not; both are
    dictionaries of arrays, and a network replaces them by views of its flat buffer.

    `averaged` names the buffers that an average of networks (EMA) averages: statistics. It copies
    all others, such as unit vectors.

    `couples_samples`: whether y[n] in training depends on the other samples of the batch.

    double_backward takes the backward with its upstream gradient `dy` as the function
    (dy, x, params) -> dx. It returns None for a derivative that is exactly zero, which saves
    computing with zeros: dx is None for layers that are linear in x.
    """

    averaged: tuple[str, ...] = ()
    couples_samples = False

    def __init__(self):
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.label = type(self).__name__
        self.dtype = np.dtype(np.float32)

    def forward(self, x, train: bool = True) -> tuple[Array, object]:
        raise NotImplementedError

    def backward(
        self, dy: Array, cache, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, Grads]:
        """Return dx and the gradients of the parameters.

        dx is None if need_dx is off; the gradients are empty if need_grads is off.
        """
        raise NotImplementedError

    def double_backward(
        self, ddx: Array, dy: Array, cache, need_ddy: bool = True
    ) -> tuple[Array | None, Array | None, Grads]:
        """Return ddy, dx and the gradients of the parameters.

        Without need_ddy, layers for which ddy is costly return None for it. Raises
        NotImplementedError, naming the layer, unless the layer has a second derivative.
        """
        raise NotImplementedError(
            f"{self.label} has no double_backward:"
            " it cannot stand in a critic with a gradient penalty"
        )

    def input_gradient(self, dy: Array, cache) -> tuple[Array, object]:
        """Return dx, and the gradients inside a layer of layers, for the `dys` of double_backward.

        None for a layer without others inside.
        """
        dx, _ = self.backward(dy, cache, need_grads=False)
        return dx, None

    def children(self) -> dict[str, "Layer"]:
        """Return the layers inside this one, by name."""
        return {}

    def bind(self, rng) -> None:
        """Set the random stream that the layer draws from in training."""
        for child in self.children().values():
            child.bind(rng)

    def config(self) -> str:
        """Return the constructor's arguments as text, for messages and printouts."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config()})"

    def check(self, x: Array, *shape: int | None) -> None:
        """Check the shape and dtype of x; None means any size.

        Raises ValueError, naming the layer and both shapes, for another shape or an empty batch,
        and TypeError for a dtype other than that of the parameters.
        """
        if x.ndim != len(shape) or any(
            want not in (None, got) for got, want in zip(x.shape, shape)
        ):
            wanted = ", ".join(
                "N" if n == 0 else "any" if s is None else str(s) for n, s in enumerate(shape)
            )
            raise ValueError(f"{self.label}: expected x of shape ({wanted}), got {tuple(x.shape)}")
        if x.shape[0] == 0:
            raise ValueError(f"{self.label}: the batch is empty")
        for name, value in self.params.items():
            if x.dtype != value.dtype:
                raise TypeError(
                    f"{self.label}: x is {x.dtype} but {name} is {value.dtype}; they must be "
                    "the same"
                )


class Composite(Layer):
    """A layer made of layers: its parameters are its children's, named "child.name"."""

    def __init__(self):
        self.label = type(self).__name__

    @property
    def params(self):
        return {
            f"{child}.{name}": p
            for child, layer in self.children().items()
            for name, p in layer.params.items()
        }

    @property
    def buffers(self):
        return {
            f"{child}.{name}": b
            for child, layer in self.children().items()
            for name, b in layer.buffers.items()
        }


def inside(layer: Layer, path: str = "") -> list[tuple[str, Layer]]:
    """Return a layer and every layer inside it, each with its path.

    For example [("", Sequential), ("0", Conv2d), ("1", Residual), ("1.inner", Linear), ...].
    """
    return [(path, layer)] + [
        pair
        for name, child in layer.children().items()
        for pair in inside(child, f"{path}.{name}".lstrip("."))
    ]


def leaves(layer: Layer) -> list[tuple[str, Layer]]:
    """Return every layer that contains no others, with its path.

    For example [("0", Conv2d), ("1.inner.0", Linear), ...].
    """
    return [(path, child) for path, child in inside(layer) if not child.children()]


def parameter_count(layer: Layer, buffers: bool = False) -> int:
    """Return the number of trained parameters.

    With `buffers`, the running statistics are counted too, as in Keras.
    """
    count = sum(p.size for p in layer.params.values())
    return count + (sum(b.size for b in layer.buffers.values()) if buffers else 0)


def state(layer: Layer) -> dict[str, Array]:
    """Return host copies of all parameters and buffers by name."""
    return {name: to_host(a).copy() for name, a in {**layer.params, **layer.buffers}.items()}
