"""How labels stand beside what a network of a planned step sees: as one-hot numbers, or as a plane that it has learnt."""

from dataclasses import dataclass

from rawgan.backend import Array
from rawgan.kernels import kernels
from rawgan.kernels.condition import plane_slices
from rawgan.layers import Condition, LeakyReLU, Linear, OneHot, Planes, ReLU, Reshape, Sequential
from rawgan.layers.base import leaves


@dataclass
class Hot:
    """The label as one-hot numbers, constant over an image. There is nothing to learn."""

    classes: int

    @property
    def width(self) -> int:
        """How many numbers stand beside x, along its last axis."""
        return self.classes

    def join(self, x: Array, labels: Array) -> Array:
        """x with its labels beside it."""
        return kernels.condition(x, labels, self.classes)


@dataclass
class Plane:
    """A plane for each label, a Linear of it as one-hot. The activation after it changes the plane alone: images are positive."""

    layer: Linear
    name: str  # of the layer's parameters, "0.inner.1."
    act: str | None = None
    slope: float = 0.0
    w: Array | None = None  # in the precision of the arrays
    width = 1

    def join(self, x: Array, labels: Array) -> Array:
        return kernels.plane(x, labels, self.w, self.layer.params["b"], self.act, self.slope)

    def add(self, gradient, dy: Array, y: Array, labels: Array) -> None:
        """Gives `gradient` those of the plane's parameters, from the gradient dy of y, which `join` has made."""
        dw, db = (gradient.part(self.name + name, plane_slices(len(y))) for name in ("w", "b"))
        kernels.plane_dw(dy, y, labels, self.layer.C, self.act, self.slope, dw, db)


def beside(net: Sequential, positive: bool) -> Hot | Plane | None:
    """How a network joins labels to its input, where its first layer is a Condition that the planned step knows."""
    if not isinstance(net.layers[0], Condition):
        return None
    inner = leaves(net.layers[0].inner)
    kinds = [type(layer) for _, layer in inner]
    if kinds in ([OneHot], [OneHot, Planes]):
        return Hot(inner[0][1].K)
    if kinds == [OneHot, Linear, Reshape] and positive and "b" in inner[1][1].params and inner[2][1].shape[2:] == (1,):
        after = net.layers[1]
        act = {ReLU: "relu", LeakyReLU: "leaky_relu"}.get(type(after))
        return Plane(inner[1][1], f"0.inner.{inner[1][0]}.", act, getattr(after, "slope", 0.0))
    return None
