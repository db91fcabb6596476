"""Which planned step a recipe has."""

from collections.abc import Collection

from rawgan.backend import Array
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.models.recipes import Recipe
from rawgan.planned import Planned, PlannedStep
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
    see what leaving them out is worth: those in `savings` of the step. Raises UserError, naming it, for what cannot be planned.
    """
    kind = PlannedStep if recipe.penalty is None else PlannedPenaltyStep
    if recipe.classes and labels is None:
        raise UserError(f"{recipe.name} has {recipe.classes} classes: its planned step wants the labels of the images")
    return kind(gan, recipe, images, batch, seed=seed, precision=precision, batches=batches, without=without)
