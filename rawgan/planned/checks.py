"""Checks of the last blocks of G and D, where a planned step fuses them with its losses."""

from math import prod

from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.planned.network import FusedBlock


def check_generator_output(last: FusedBlock) -> None:
    """Raise UserError where G ends in BatchNorm or Dropout.

    The gradient of the fakes passes through G's last activation in an epilogue of D.
    """
    if last.norm or last.drop:
        layer = last.norm.label if last.norm else f"the Dropout after {last.layer.label}"
        raise UserError(
            f"the planned step does not support {layer}, at the end of the generator:"
            " there it requires at most one activation"
        )


def check_discriminator_output(gan: GAN, head: FusedBlock) -> None:
    """Raise UserError unless D ends in the scores of the objective.

    One score is the dot product of the last layer's weights with the whole of its input.
    """
    if gan.objective.labelled and not gan.classes:
        raise UserError(f"{gan.name} has an objective that takes labels, and no classes")
    scores = 1 + gan.classes if gan.objective.labelled else 1
    if prod(head.out_shape) != scores or head.norm or head.act or head.drop:
        requirement = "one score" if scores == 1 else f"{scores} scores"
        raise UserError(
            f"the planned step requires a discriminator that ends in {requirement},"
            f" not {head.layer.label}"
        )
    if not gan.objective.labelled and head.w.size != prod(head.in_shape):
        raise UserError(
            f"the planned step does not support {head.layer.label}, which makes the score:"
            " it requires a filter of the size of its input, without padding"
        )
