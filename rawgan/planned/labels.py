"""Conditioning of a network in a planned step: labels as one-hot channels or a learnt plane."""

from dataclasses import dataclass

from rawgan.backend import Array
from rawgan.kernels import kernels
from rawgan.kernels.labels import plane_partials
from rawgan.layers import (
    Condition,
    Layer,
    LeakyReLU,
    Linear,
    OneHot,
    Planes,
    ReLU,
    Reshape,
    Sequential,
)
from rawgan.layers.base import leaves
from rawgan.planned.gradient import Gradient


@dataclass
class OneHotLabels:
    """The label as one-hot channels, constant over an image; without parameters."""

    classes: int

    @property
    def channels(self) -> int:
        """Return the number of channels that are concatenated to x."""
        return self.classes

    def concatenate(self, x: Array, labels: Array) -> Array:
        """Return x (N, ..., C) with the one-hot labels (N, ..., classes) along its last axis."""
        return kernels.condition(x, labels, self.classes)


@dataclass
class LabelPlane:
    """A learnt plane (H, W, 1) for each label: w[label] + b, a Linear of the one-hot label.

    act, slope: of the activation after the concatenation. It changes the plane alone, because no
    pixel of an image is negative.
    """

    layer: Linear
    name: str  # prefix of the layer's parameters, "0.inner.1."
    act: str | None = None
    slope: float = 0.0
    w: Array | None = None  # in the dtype of the arrays
    channels = 1

    def concatenate(self, x: Array, labels: Array) -> Array:
        """Return x (N, H, W, C) with the plane of each label as its last channel."""
        return kernels.plane(x, labels, self.w, self.layer.params["b"], self.act, self.slope)

    def add_gradient(self, gradient: Gradient, dy: Array, y: Array, labels: Array) -> None:
        """Add the gradients of the plane's w and b, from dy of y, the result of `concatenate`."""
        dw, db = (gradient.reserve(self.name + name, plane_partials(len(y))) for name in ("w", "b"))
        kernels.plane_dw(dy, y, labels, self.layer.C, self.act, self.slope, dw, db)


def conditioning(net: Sequential, non_negative: bool) -> OneHotLabels | LabelPlane | None:
    """Return the conditioning by the first layer of a network, None where no plan has it.

    non_negative: the images are, as a learnt plane needs.
    """
    if not isinstance(net.layers[0], Condition):
        return None
    inner = leaves(net.layers[0].inner)
    kinds = [type(layer) for _, layer in inner]
    if kinds in ([OneHot], [OneHot, Planes]):
        return OneHotLabels(inner[0][1].K)
    if (
        kinds == [OneHot, Linear, Reshape]
        and non_negative
        and "b" in inner[1][1].params
        and inner[2][1].shape[2:] == (1,)
    ):
        after = net.layers[1]
        act = {ReLU: "relu", LeakyReLU: "leaky_relu"}.get(type(after))
        name, linear = inner[1]
        return LabelPlane(linear, f"0.inner.{name}.", act, getattr(after, "slope", 0.0))
    return None


def unplanned(i: int, layer: Layer) -> str:
    """Return the label of the part of layer i that no plan takes.

    Of a layer without children it is the layer; of a Condition the first child of a kind that no
    plan takes; of another composite, or where all kinds are taken, the whole with the kinds inside.
    """
    inside = [leaf for _, leaf in leaves(layer)]
    if not layer.children():
        return layer.label
    if isinstance(layer, Condition):
        for leaf in inside:
            if not isinstance(leaf, OneHot | Planes | Linear | Reshape):
                return leaf.label
    return (
        f"layer {i}, {type(layer).__name__} of {', '.join(type(leaf).__name__ for leaf in inside)}"
    )
