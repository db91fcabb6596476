"""Which planned step a recipe has."""

from collections.abc import Collection

from rawgan.backend import Array
from rawgan.gan import GAN
from rawgan.models.recipes import Recipe
from rawgan.planned import Planned, PlannedStep
from rawgan.planned_first import PlannedFirstStep
from rawgan.planned_penalty import PlannedPenaltyStep


def planned_step(
    gan: GAN,
    recipe: Recipe,
    images: Array,
    batch: int,
    *,
    labels: Array | None = None,
    seed: int = 0,
    precision: str = "fp32",
    batches: int = 50,
    without: Collection[str] = (),
) -> Planned:
    """The training step of a recipe as a plan, for images (n, H, W, C) uint8 where the networks live; see planned.py.

    labels (n,) integers beside them where the recipe has classes. `without` names passes that are to be computed the plain way, to
    see what leaving them out is worth: those in `savings` of its class. Raises UserError, naming it, for what cannot be planned.
    """
    if recipe.penalty is not None:
        kind = PlannedPenaltyStep
    else:
        kind = PlannedFirstStep if recipe.first == "generator" else PlannedStep
    return kind(gan, recipe, images, batch, labels, seed, precision, batches, without)
