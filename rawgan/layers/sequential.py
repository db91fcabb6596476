"""Layers one after another: the chain rule as a loop, to first and second order."""

from rawgan.backend import Array
from rawgan.layers.base import Composite, Grads, Layer, leaves


class Sequential(Composite):
    """y = f_L( ... f_2(f_1(x))). Parameters are named "index.name"; the cache is the list of the layers' caches."""

    def __init__(self, *layers: Layer):
        super().__init__()
        if not layers:
            raise ValueError("a Sequential needs at least one layer")
        self.layers = list(layers)
        for path, leaf in leaves(self):
            leaf.label = f"layer {path}, {leaf!r}"

    def children(self):
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def forward(self, x, train=True):
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x, train)
            caches.append(cache)
        return x, caches

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """One sweep from the last layer to the first; without need_dx it ends at the lowest layer with parameters."""
        grads: Grads = {}
        lowest = 0 if need_dx else self.lowest()
        for i in reversed(range(lowest, len(self.layers))):
            dy, layer_grads = self.layers[i].backward(dy, cache[i], need_dx or i > lowest, need_grads)
            grads |= named(i, layer_grads)
        return dy if need_dx else None, grads

    def lowest(self) -> int:
        """The index of the first layer with parameters: what lies below it, a Flatten or LeakyReLU, leads to no gradient."""
        return next((i for i, layer in enumerate(self.layers) if layer.params), len(self.layers))

    def upstream(self, dy: Array, cache) -> list[Array]:
        """The backward sweep for input gradients alone, keeping every one: upstream[i] is the gradient of layer i's output, and
        with dx before them: [dx, dy_1, ..., dy_L]."""
        dys = [dy]
        for layer, layer_cache in zip(reversed(self.layers), reversed(cache)):
            dy, _ = layer.backward(dy, layer_cache, need_grads=False)
            dys.append(dy)
        return dys[::-1]

    def double_backward(self, ddx, dy, cache, need_ddy=True, need_dx=True, dys: list[Array] | None = None):
        """Two sweeps: upwards the cotangent ddx through every layer's double_backward, which is the tangent of the network; then
        downwards the curvature that it met, as an ordinary backward that starts at the highest layer with any.

        `dys` is what upstream(dy, cache) returned, where the caller has it already.
        """
        dys = dys or self.upstream(dy, cache)
        top = len(self.layers) - 1
        curvatures, grads = [], {}
        for i, layer in enumerate(self.layers):
            ddx, curvature, layer_grads = layer.double_backward(ddx, dys[i + 1], cache[i], need_ddy or i < top)
            curvatures.append(curvature)
            grads |= named(i, layer_grads)
        dx, lowest = None, 0 if need_dx else self.lowest()
        for i in range(top, lowest - 1, -1):
            if dx is not None:
                dx, more = self.layers[i].backward(dx, cache[i], need_dx or i > lowest)
                grads |= {name: grads[name] + g if name in grads else g for name, g in named(i, more).items()}
            if curvatures[i] is not None:
                dx = curvatures[i] if dx is None else dx + curvatures[i]
        return ddx, dx if need_dx else None, grads

    def config(self):
        return "\n" + "".join(f"    {layer!r},\n" for layer in self.layers)


def named(i: int, grads: Grads) -> Grads:
    """The gradients of layer i under their names in the network."""
    return {f"{i}.{name}": g for name, g in grads.items()}
