"""Writes docs/recipes.md from rawgan/models/recipes.py: python docs/make_recipes.py"""

import warnings
from pathlib import Path

from rawgan.layers import parameter_count
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.optim import Optimizer
from rawgan.random import Random

PAGE = Path(__file__).parent / "recipes.md"
ORDER = {
    "discriminator": "D, then G",
    "generator": "G, then D on the fakes made before G moved",
    "both": "both gradients first, then both networks move",
}


def optimizer(o: Optimizer) -> str:
    """Its name and numbers."""
    numbers = [f"{name}={getattr(o, name)}" for name in ("lr", "betas", "rho", "eps", "decay") if hasattr(o, name)]
    return f"{type(o).__name__}({', '.join(numbers)})"


def section(recipe: Recipe) -> str:
    """One recipe: a heading, a table, its departures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gan = recipe.build(Random(0))
    counts = []
    for net in (gan.generator, gan.discriminator):
        trained, all_ = parameter_count(net), parameter_count(net, buffers=True)
        counts.append(f"{trained:,}" + (f" ({all_:,} with running statistics)" if all_ != trained else ""))
    first, later = recipe.critic_steps(0), recipe.critic_steps(30)
    rows = {
        "source": recipe.source,
        "images": f"{recipe.size}x{recipe.size}x{recipe.channels} in {'[-1, 1]' if recipe.pixels == 'tanh' else '[0, 1]'}",
        "z": f"{recipe.z} numbers, {'N(0, 1)' if recipe.draw == 'normal' else 'U(-1, 1)'}",
        "labels": f"{recipe.classes} classes" if recipe.classes else "none",
        "G": f"{counts[0]} parameters, {optimizer(gan.generator_optimizer)}",
        "D": f"{counts[1]} parameters, {optimizer(gan.discriminator_optimizer)}",
        "objective": f"{recipe.objective}" + (f" + {recipe.penalty}" if recipe.penalty else ""),
        "order": ORDER[recipe.first] + (", G with z of its own" if recipe.fresh_z else ""),
        "D steps per G step": f"{later}" + (f" ({first} at first, see wgan_critic_steps)" if first != later else ""),
        "batch, steps": f"{recipe.batch}, {recipe.steps:,}",
    }
    if recipe.clip:
        rows["weights of D"] = f"clipped to [-{recipe.clip}, {recipe.clip}]"
    if recipe.joint:
        rows["D sees"] = "real and fake as one batch, its loss the mean over both"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    departures = "".join(f"\n- {text}" for text in recipe.departures)
    note = f"\n\nWhere it departs from the paper:\n{departures}" if departures else ""
    return f"## {recipe.name}\n\n| | |\n|---|---|\n{table}{note}\n"


def page() -> str:
    """The whole page."""
    head = """# Recipes

The systems of both books and of the papers around them, as rawgan/models/recipes.py has them; written by docs/make_recipes.py.
Each trains step for step like its PyTorch twin (tests/test_recipes.py).

"""
    return head + "\n".join(section(recipe) for recipe in RECIPES.values())


if __name__ == "__main__":
    PAGE.write_text(page())
