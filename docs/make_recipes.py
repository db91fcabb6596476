"""Writes docs/recipes.md from rawgan/models/recipes.py: python docs/make_recipes.py"""

import json
import warnings
from pathlib import Path

from rawgan.layers import parameter_count
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.optim import Optimizer
from rawgan.random import Random

PAGE = Path(__file__).parent / "recipes.md"
SAMPLES = json.loads((Path(__file__).parent / "samples" / "samples.json").read_text())
DISTANCES = {  # Frechet distance on Fashion-MNIST, three seeds, from results.md
    "dcgan": "102 79 92 after 1000 steps, 38 37 41 after 2000 (32x32, width 32)",
    "cgan": "57 57 43 after 1000 steps, 8.1 11.2 10.2 after 4000 (32x32, width 32)",
    "raschka_mlp_gan": "205 174 203 after 10,000 steps, 150 123 132 after 40,000",
    "wgan_gp": "39 35 31 after 1000 generator steps, 20 21 18 after 2000 (32x32, width 16, Adam 5e-4)",
}
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
    return f"## {recipe.name}\n\n| | |\n|---|---|\n{table}{note}\n\n{picture(recipe.name)}\n"


def picture(name: str) -> str:
    """What it draws after a short training, and what that took, as docs/make_samples.py measured it."""
    if name not in SAMPLES:
        return f"No picture yet: `python -m docs.make_samples {name}` makes one."
    took = SAMPLES[name]
    options = f", `{took['options']}`" if took["options"] else ""
    taken = f"{took['MiB']} MiB, and {took['seconds'] / 60:.1f} minutes on two CPU cores that other programs shared"
    said = f"Digits of 28x28 after {took['steps']} steps at width {took['width']}{options}: {taken}."
    distance = (
        f" Frechet distance on Fashion-MNIST, three seeds: {DISTANCES[name]} ([results](results.md))." if name in DISTANCES else ""
    )
    return f"![Samples of {name}](samples/{name}.png)\n\n{said}{distance}"


def page() -> str:
    """The whole page."""
    head = """# Recipes

The systems of both books and of the papers around them, as rawgan/models/recipes.py has them; written by docs/make_recipes.py.
Each trains step for step like its PyTorch twin (tests/test_recipes.py). The pictures are those of a short training at a small width
(docs/make_samples.py), to be recognised by, not to be judged by; no recipe was timed on a GPU.

"""
    return head + "\n".join(section(recipe) for recipe in RECIPES.values())


if __name__ == "__main__":
    PAGE.write_text(page())
