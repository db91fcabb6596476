"""Write docs/recipes.md from rawgan/models/recipes.py: python docs/make_recipes.py."""

import json
import warnings
from pathlib import Path

from rawgan.layers import leaves, parameter_count
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.optim import Optimizer
from rawgan.penalties import as_penalties
from rawgan.random import Random

PAGE = Path(__file__).parent / "recipes.md"
SAMPLES = json.loads((Path(__file__).parent / "samples" / "samples.json").read_text())
DISTANCES = {  # Frechet distance on Fashion-MNIST, three seeds, from results.md
    "dcgan": "102 79 92 after 1000 steps, 38 37 41 after 2000 (32x32, width 32)",
    "cgan": "57 57 43 after 1000 steps, 8.1 11.2 10.2 after 4000 (32x32, width 32)",
    "raschka_mlp_gan": "205 174 203 after 10,000 steps, 150 123 132 after 40,000",
    "wgan_gp": "39 35 31 after 1000 generator steps, 20 21 18 after 2000 "
    "(32x32, width 16, Adam 5e-4)",
}
ORDER = {
    "discriminator_first": "D, then G",
    "generator_first": "G, then D on the fakes made before G moved",
    "simultaneous": "both gradients first, then both networks move",
}


def optimizer(o: Optimizer) -> str:
    """Return the optimizer's name and hyperparameters."""
    numbers = [
        f"{name}={getattr(o, name)}"
        for name in ("lr", "betas", "rho", "eps", "decay")
        if hasattr(o, name)
    ]
    numbers += ["epsilon_hat=True"] if getattr(o, "epsilon_hat", False) else []
    return f"{type(o).__name__}({', '.join(numbers)})"


def section(recipe: Recipe) -> str:
    """Return the section of one recipe: a heading, a table, its departures from the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gan = recipe.build(Random(0))
    counts = []
    for net in (gan.generator, gan.discriminator):
        trained = parameter_count(net)
        running = sum(
            layer.buffers[name].size for _, layer in leaves(net) for name in layer.averaged
        )
        counts.append(
            f"{trained:,}" + (f" ({trained + running:,} with running statistics)" * (running > 0))
        )
    first, later = map(recipe.schedule.critic_steps, (0, 30))
    rows = {
        "source": recipe.source,
        f"`rawgan train {recipe.name}`": recipe.describe(recipe.default),
        f"`{recipe.source_command}`": recipe.describe(recipe.of_source),
        "pixels": f"in {'[-1, 1]' if recipe.pixels == 'tanh' else '[0, 1]'}",
        "z": f"{recipe.z} numbers, {'N(0, 1)' if recipe.draw == 'normal' else 'U(-1, 1)'}",
        "labels": f"{recipe.classes} classes" if recipe.classes else "none",
        "G of the source": f"{counts[0]} parameters, {optimizer(gan.generator_optimizer)}",
        "D of the source": f"{counts[1]} parameters, {optimizer(gan.discriminator_optimizer)}",
        "objective": " + ".join(map(str, (recipe.objective, *as_penalties(recipe.penalty)))),
        "order": ORDER[recipe.schedule.order]
        + (", G with a new z" if recipe.schedule.resample_z else ""),
        "D steps per G step": f"{later}"
        + (f" ({first} at first, see wgan_critic_steps)" if first != later else ""),
    }
    if recipe.lr_decay:
        rows["learning rates"] = "fall linearly to 0 over the steps of a run"
    if recipe.clip:
        rows["weights of D"] = f"clipped to [-{recipe.clip}, {recipe.clip}]"
    if recipe.schedule.joint_batch:
        rows["D sees"] = "real and fake as one batch, its loss the mean over both"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    departures = "".join(f"\n- {text}" for text in recipe.departures)
    note = f"\n\nWhere it departs from the paper:\n{departures}" if departures else ""
    return f"## {recipe.name}\n\n| | |\n|---|---|\n{table}{note}\n\n{picture(recipe.name)}\n"


def picture(name: str) -> str:
    """Return a recipe's sample image and the cost of its training, from docs/make_samples.py.

    Raises ValueError where the image is of another setting than the recipe's default.
    """
    if name not in SAMPLES:
        return f"No picture yet: `python -m docs.make_samples {name}` makes one."
    record, setting = SAMPLES[name], RECIPES[name].describe(RECIPES[name].default)
    if record["setting"] != setting:
        raise ValueError(f"run python -m docs.make_samples {name}: its picture is not of {setting}")
    cost = f"{record['cpu_seconds']} seconds of CPU time and {record['MiB']} MiB"
    distance = (
        f" Frechet distance on Fashion-MNIST, three seeds: {DISTANCES[name]} "
        "([results](results.md))."
        if name in DISTANCES
        else ""
    )
    return (
        f"![Samples of {name}](samples/{name}.png)\n\n"
        f"The last samples of `rawgan train {name}`: {cost}.{distance}"
    )


def page() -> str:
    """Return the text of the page."""
    head = (
        "# Recipes\n"
        "\n"
        "The systems of both books and of the papers around them, as rawgan/models/recipes.py has "
        "them; written by docs/make_recipes.py.\n"
        "Each trains step for step like its PyTorch twin (tests/math/test_recipes.py).\n"
        "\n"
        "Each recipe has two settings. `rawgan train RECIPE` trains on the built-in digits, in "
        "some minutes on two CPU cores: smaller images, narrower networks,\n"
        "fewer steps, often a higher learning rate. `--source` takes the setting of the book or "
        "paper; 40,000 steps stand where it gives no number of them.\n"
        "Options that are given win over both, and `rawgan train` prints what a run has less than "
        "the source. The pictures are the last samples of the\n"
        "default commands (docs/make_samples.py). Their cost is CPU time, since the machine was "
        "shared with other programs; no recipe was timed on a GPU.\n"
        "\n"
    )
    return head + "\n".join(section(recipe) for recipe in RECIPES.values())


if __name__ == "__main__":
    PAGE.write_text(page())
