"""How a network is cut into fused blocks."""

from math import prod

from rawgan.errors import UserError
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Crop,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softplus,
    Tanh,
)
from rawgan.planned.labels import LabelPlane, OneHotLabels, unplanned
from rawgan.planned.network import FusedBlock

# Activations with a derivative that follows from their output, which a block keeps
ACTS = {ReLU: "relu", LeakyReLU: "leaky_relu", Tanh: "tanh", Sigmoid: "sigmoid"}
# Those whose derivative needs the input: it is computed again where BatchNorm is before them
ACTS_AFTER_NORM = {Softplus: "softplus"}


def activation(layer: Layer, block: FusedBlock | None) -> str | None:
    """Return the name that an activation has in the kernels, where it can end the block."""
    if block is None or block.act or block.drop:
        return None
    return (ACTS | ACTS_AFTER_NORM if block.norm else ACTS).get(type(layer))


def fused_blocks(
    net: Sequential,
    shape: tuple[int, ...],
    precision: str,
    labels: OneHotLabels | LabelPlane | None = None,
    non_negative: bool = False,
) -> list[FusedBlock]:
    """Return the network as fused blocks, for samples of a shape.

    labels: conditioning by the first layer. non_negative: the input is, so that a ReLU or LeakyReLU
    before the first linear map changes nothing. Raises UserError, naming the layer, for a network
    of other layers, or in another order.
    """
    blocks: list[FusedBlock] = []
    for i, layer in enumerate(net.layers):
        last = blocks[-1] if blocks else None
        only_linear = last and not last.norm and not last.act and not last.drop
        if isinstance(layer, Conv2d | ConvTranspose2d | Linear):
            blocks.append(FusedBlock(layer, f"{i}.", shape, precision))
            shape = blocks[-1].out_shape
        elif isinstance(layer, Reshape | Flatten):
            shape = layer.shape if isinstance(layer, Reshape) else (prod(shape),)
            if only_linear:
                last.norm_shape = shape
        elif isinstance(layer, BatchNorm) and layer.trained_scale and only_linear:
            last.norm, last.norm_name = layer, f"{i}."
        elif name := activation(layer, last):
            last.act, last.slope = name, getattr(layer, "slope", 0.0)
        elif (
            isinstance(layer, ReLU | LeakyReLU)
            and not last
            and non_negative
            # a learnt plane may be negative: it takes the activation right after it alone
            and (i == 1 or not isinstance(labels, LabelPlane))
        ):
            continue
        elif (
            isinstance(layer, Dropout)
            and last
            and not last.drop
            and (last.norm or last.act in ("relu", "leaky_relu", None))
        ):
            last.drop = layer.p
        elif (
            isinstance(layer, Crop)
            and last
            and isinstance(last.layer, ConvTranspose2d)
            and not last.norm
            and shape == last.out_shape
        ):
            last.crop(layer.H, layer.W)
            shape = last.out_shape
        elif i == 0 and labels:
            shape = (*shape[:-1], shape[-1] + labels.channels)
        else:
            raise UserError(
                f"the planned step does not support {unplanned(i, layer)}: it requires"
                " linear maps, each followed by at most BatchNorm, one activation and Dropout"
            )
    return blocks
