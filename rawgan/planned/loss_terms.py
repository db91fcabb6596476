"""The losses of a planned step as terms of kernels/tile/loss_terms.py."""

from typing import NamedTuple

from rawgan.errors import UserError
from rawgan.losses import ACGAN, BCE, Hinge, LeastSquares, Objective, Wasserstein

Term = tuple[str, float]


class LossTerms(NamedTuple):
    """The losses as terms of kernels/tile/loss_terms.py: (name, parameter)."""

    real: Term
    fake: Term
    generator: Term


def loss_terms(objective: Objective) -> LossTerms:
    """Return D's terms for real and fake, and G's; of ACGAN those of its first score.

    Raises UserError for another objective.
    """
    if type(objective) is ACGAN:
        return loss_terms(objective.source)
    if type(objective) is BCE:
        generator = ("bce_fake", -1.0) if objective.minimax else ("bce_real", 0.0)
        return LossTerms(("bce_real", 1 - objective.real_label), ("bce_fake", 1.0), generator)
    if type(objective) is LeastSquares:
        return LossTerms(("square", 1.0), ("square", 0.0), ("square", 1.0))
    if type(objective) is Wasserstein:
        return LossTerms(("linear", -1.0), ("linear", 1.0), ("linear", -1.0))
    if type(objective) is Hinge:
        return LossTerms(("hinge", -1.0), ("hinge", 1.0), ("linear", -1.0))
    raise UserError(f"the planned step does not support the losses of {type(objective).__name__}")
