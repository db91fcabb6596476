"""The measured recipes, with their sizes."""

from collections.abc import Callable
from typing import NamedTuple

BATCH = 64


class Case(NamedTuple):
    """A recipe with its size and width, the steps of a round, and the largest allowed time ratio.

    `plain` replaces the recipe's step by the common one with the same networks and optimizers: D on
    real, D on fake, G on the same fakes.
    """

    recipe: str
    size: int
    width: int
    steps: int
    target: float | None
    plain: bool = False


CASES = {
    "dcgan-32 width 64": Case("dcgan", 32, 64, 4, 1.0),
    "dcgan-32 width 32": Case("dcgan", 32, 32, 8, None),
    "atienza_dcgan": Case("atienza_dcgan", 28, 32, 2, 1.25, plain=True),
    "atienza_dcgan, book": Case("atienza_dcgan", 28, 32, 2, None),
    "wgan_gp critic": Case("wgan_gp", 32, 64, 4, 0.9),
    "raschka_mlp_gan": Case("raschka_mlp_gan", 28, 100, 200, 0.5),
}


Step = Callable[[], object]
