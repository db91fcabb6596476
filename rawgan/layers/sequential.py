"""Layers one after another: the chain rule as a loop, to first and second order."""

from rawgan.backend import Array
from rawgan.layers.base import Composite, Grads, Layer, inside


class Upstream(list[Array]):
    """The list [dx, dy_1, ..., dy_L] of a Sequential; `nested[i]` is the same inside its layer i.

    nested has no entry for a layer that contains no others.
    """

    def __init__(self, dys: list[Array], nested: dict[int, object]):
        super().__init__(dys)
        self.nested = nested


class Sequential(Composite):
    """y = f_L( ... f_2(f_1(x))).

    Parameters are named "index.name"; the cache is the list of the layers' caches.
    """

    def __init__(self, *layers: Layer):
        super().__init__()
        if not layers:
            raise ValueError("a Sequential needs at least one layer")
        self.layers = list(layers)
        self.names = [str(i) for i in range(len(layers))]
        for path, layer in inside(self)[1:]:
            name = type(layer).__name__ if layer.children() else repr(layer)
            layer.label = f"layer {path}, {name}"

    def children(self):
        return dict(zip(self.names, self.layers))

    def prepend(self, name: str, layer: Layer) -> None:
        """Insert a layer before the first, under a name of its own: all others keep theirs."""
        self.layers.insert(0, layer)
        self.names.insert(0, name)
        layer.label = f"{layer!r} before layer 0"

    def forward(self, x, train=True):
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x, train)
            caches.append(cache)
        return x, caches

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """One sweep from the last layer to the first; without need_dx it ends at `lowest`."""
        grads: Grads = {}
        lowest = 0 if need_dx else self.lowest()
        for i in reversed(range(lowest, len(self.layers))):
            dy, layer_grads = self.layers[i].backward(
                dy, cache[i], need_dx or i > lowest, need_grads
            )
            grads |= named(self.names[i], layer_grads)
        return dy if need_dx else None, grads

    def lowest(self) -> int:
        """Return the index of the first layer with parameters.

        The layers before it, such as a Flatten or LeakyReLU, contribute to no parameter's gradient.
        """
        return next((i for i, layer in enumerate(self.layers) if layer.params), len(self.layers))

    def upstream(self, dy: Array, cache) -> Upstream:
        """Return [dx, dy_1, ..., dy_L]: the gradients of the input and of every layer's output.

        A backward sweep for input gradients alone; dy_i is the gradient of the output of the i-th
        layer.
        """
        dys, nested = [dy], {}
        for i in reversed(range(len(self.layers))):
            dy, dys_inside = self.layers[i].input_gradient(dy, cache[i])
            dys.append(dy)
            if dys_inside is not None:
                nested[i] = dys_inside
        return Upstream(dys[::-1], nested)

    def input_gradient(self, dy, cache):
        dys = self.upstream(dy, cache)
        return dys[0], dys

    def double_backward(
        self, ddx, dy, cache, need_ddy=True, need_dx=True, dys: Upstream | None = None
    ):
        """Compute ddy, dx and the parameter gradients in two sweeps.

        The first runs from the first layer to the last and passes the cotangent ddx through every
        layer's double_backward, which is the jvp of the network. The second runs backwards with
        the curvature terms of the first, as an ordinary backward that starts at the last layer with
        any.

        `dys` is the result of upstream(dy, cache), if the caller has it already.
        """
        dys = dys or self.upstream(dy, cache)
        top = len(self.layers) - 1
        curvatures, grads = [], {}
        for i, layer in enumerate(self.layers):
            known = {"dys": dys.nested[i]} if i in dys.nested else {}
            ddx, curvature, layer_grads = layer.double_backward(
                ddx, dys[i + 1], cache[i], need_ddy or i < top, **known
            )
            curvatures.append(curvature)
            grads |= named(self.names[i], layer_grads)
        dx, lowest = None, 0 if need_dx else self.lowest()
        for i in range(top, lowest - 1, -1):
            if dx is not None:
                dx, inner_grads = self.layers[i].backward(dx, cache[i], need_dx or i > lowest)
                grads |= {
                    name: grads[name] + g if name in grads else g
                    for name, g in named(self.names[i], inner_grads).items()
                }
            if curvatures[i] is not None:
                dx = curvatures[i] if dx is None else dx + curvatures[i]
        return ddx, dx if need_dx else None, grads

    def config(self):
        return "\n" + "".join(f"    {layer!r},\n" for layer in self.layers)


def named(layer: str, grads: Grads) -> Grads:
    """Return the gradients of a layer under their names in the network."""
    return {f"{layer}.{name}": g for name, g in grads.items()}
