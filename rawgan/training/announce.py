"""What `rawgan train` prints about a recipe before the first step."""

from collections import Counter
from collections.abc import Callable

from rawgan.errors import printable
from rawgan.gan import GAN
from rawgan.layers import parameter_count
from rawgan.models.recipe import Recipe, Setting


def print_recipe(recipe: Recipe, gan: GAN, setting: Setting, batch: int) -> None:
    """Print a recipe and the setting of a run: also what it has less than the source's."""
    G, D = (parameter_count(net) for net in (gan.generator, gan.discriminator))
    print(f"Recipe: {recipe.name}, {recipe.source}. G has {G:,} parameters, D {D:,}.")
    print(f"Setting: {printable(recipe.describe(setting, batch), 200)}.")
    if recipe.augmentation:
        print(f"Augmentation: {recipe.augmentation}.")
    if remark := recipe.shortfall(setting):
        print(f"Source: {printable(remark, 500)}.")
    if note := slow_first_steps(recipe.schedule.critic_steps):
        print(f"Schedule: {note}.")


def slow_first_steps(critic_steps: Callable[[int], int], steps: int = 1000) -> str:
    """Return a sentence on the first training steps if they have more steps of D than most others.

    "" otherwise. `steps` is the number of steps that are counted.
    """
    counts = [critic_steps(step) for step in range(steps)]
    first, usual = counts[0], Counter(counts).most_common(1)[0][0]
    if first <= usual:
        return ""
    n = next(step for step, count in enumerate(counts) if count != first)
    return (
        f"each of the first {n} steps has {first} steps of D, most later ones have {usual}: "
        f"until then a step takes about {first / usual:.0f} times as long"
    )
