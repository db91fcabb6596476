"""What the planned steps with the gradient penalty of WGAN-GP share."""

from rawgan.backend import Array
from rawgan.errors import UserError
from rawgan.kernels import kernels
from rawgan.penalties import WGANGP, Penalties
from rawgan.planned.base import PlannedStep
from rawgan.planned.network import FusedBlock


def unsupported_penalty(penalties: Penalties) -> dict[str, bool]:
    """Return the features of `PlannedStep.unsupported` for all but one penalty of WGAN-GP."""
    names = [type(penalty).__name__ for penalty in penalties]
    plural = "ies" if len(names) > 1 else "y"
    return {
        "no penalty": not names,
        f"the penalt{plural} {' and '.join(names)}": [*map(type, penalties)] != [WGANGP],
    }


def check_critic(blocks: list[FusedBlock], normalised: bool) -> None:
    """Raise UserError, naming the layer, where the penalty of a critic is not planned.

    normalised: BatchNorm and Dropout are allowed, because the step computes the penalty in
    inference mode, in which they are an affine map and the identity. In training mode BatchNorm has
    a second derivative, and a Dropout one mask for all sweeps.
    """
    for block in blocks:
        after = f"after {block.layer.label}"
        if block.norm and not normalised:
            unsupported = block.norm.label
        elif block.drop and not normalised:
            unsupported = f"the Dropout {after}"
        elif block.act not in ("relu", "leaky_relu"):
            unsupported = f"{block.act or 'no activation'} {after}"
        else:
            continue
        alone = "" if normalised else " alone"
        raise UserError(
            f"the planned penalty does not support {unsupported}: after each layer with weights"
            f" but the last this step requires ReLU or LeakyReLU{alone}"
        )


class PenaltyStep(PlannedStep):
    """Base class of the planned steps with the penalty of WGAN-GP.

    The metrics have D's loss without the penalty as critic_loss; `named_metrics` adds them.
    """

    def penalty_step(self, g: Array, ddx: Array) -> None:
        """Write ddx = dP/dg of the penalty P of g = dD/dx, and the metrics P and mean |g|.

        The launch raises D's step counter.
        """
        (penalty,), column = self.gan.penalties, self.metric_names.index("penalty")
        kernels.penalty_step(
            g,
            ddx,
            self.metric_rows,
            self.state,
            self.D.t,
            weight=penalty.weight,
            one_sided=penalty.one_sided,
            column=column,
        )

    def named_metrics(self, row):
        metrics = super().named_metrics(row)
        return {"d_loss": metrics.pop("critic_loss") + metrics["penalty"]} | metrics
