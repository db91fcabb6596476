"""The generator of a run that is over."""

from pathlib import Path

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError
from rawgan.layers import Parameters, Sequential, parameter_count
from rawgan.models import autoencoder
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.options import read_config, whole
from rawgan.training.run import load_weights

VAE = Recipe(
    name="vae",
    source="Kingma & Welling 2014 (arXiv:1312.6114) with the networks of Atienza, Advanced Deep Learning with Keras, ch. 8",
    generator=autoencoder.generator,
    discriminator=autoencoder.encoder,  # no opponent: the two are trained by rawgan.vae
    objective=None,
    generator_optimizer=None,
    discriminator_optimizer=None,
    width=32,
    z=autoencoder.Z,
    pixels="unit",
)
PLAYERS = ("average", "generator", "decoder")  # whom to draw with, the first that a run has
ALL = (*PLAYERS, "discriminator")


def load_generator(run: Path, device: Device = CPU) -> tuple[Recipe, Sequential, dict]:
    """The recipe, the trained generator on the device, the average of it if there is one, and the config of a run folder.

    Raises UserError as load_player does.
    """
    return load_player(run, None, device)


def load_player(run: Path, who: str | None = None, device: Device = CPU) -> tuple[Recipe, Sequential, dict]:
    """The recipe, one trained network of a run folder on the device, and the config; None: whom pictures are drawn with.

    Raises UserError for a folder, config.json or weights that are missing or broken, a recipe that is not known, a network that
    the run does not have, and weights that are not finite or those of another network.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"there is no run folder {run}; give one that a training left")
    config, recipe = load_config(run / "config.json")
    arrays, path = trained_arrays(run)
    parts = {name: {n.removeprefix(f"{name}."): a for n, a in arrays.items() if n.startswith(f"{name}.")} for name in ALL}
    if who is not None and not parts.get(who):
        had = ", ".join(name for name in ALL if parts[name])
        raise UserError(f"{run} has no network called {str(who)!r}; it has {had}")
    weights = parts[who] if who else next(filter(None, (parts[name] for name in PLAYERS)), {})
    if not all(np.isfinite(a).all() for a in weights.values()):
        raise UserError(f"the weights in {path} are not finite: that training failed, and nothing can be drawn from it")
    try:
        net = make_player(recipe, who, config)
        if parameter_count(net, buffers=True) != sum(a.size for a in weights.values()):  # before memory is spent on it
            raise UserError("the number of weights is another")
        Parameters(net, device).load(weights)
    except (UserError, ValueError, MemoryError) as error:
        what = "discriminator" if who == "discriminator" else "generator"
        raise UserError(f"{path} does not fit the {what} that config.json names, {recipe.name}: {error}") from error
    return recipe, net, config


def make_player(recipe: Recipe, who: str | None, config: dict) -> Sequential:
    """The untrained network of a run with this config."""
    shape = config["size"], config["channels"], config["width"]
    if who == "discriminator":
        return recipe.discriminator(*shape)
    return recipe.generator(*shape, z=recipe.z)


def load_config(path: Path) -> tuple[dict, Recipe]:
    """What a config.json says, and the recipe that it names. Raises UserError unless a generator can be made from it."""
    config = read_config(path)
    known = RECIPES | {VAE.name: VAE}
    if config["recipe"] not in known:
        raise UserError(f"{path} names {config['recipe']!r:.80}, which is no recipe to draw from; known are {', '.join(known)}")
    for key in ("size", "channels", "width"):
        if not whole(1, MAX_SIZE)(config.get(key)):
            raise UserError(f"{path} has no usable {key}: it must be a whole number from 1 to {MAX_SIZE}")
    return config, known[config["recipe"]]


def trained_arrays(run: Path) -> tuple[dict[str, np.ndarray], Path]:
    """The weights of all players of a run by name, and the file: weights.safetensors, or of a run that was killed the last
    checkpoint. Raises UserError."""
    path, found = run / "weights.safetensors", list(checkpoints(run).values())
    if not path.exists() and found:
        return load_checkpoint(found[-1])[0], found[-1]
    return load_weights(path), path


def choose_labels(recipe: Recipe, n: int, label: int | None = None) -> np.ndarray | None:
    """n labels for the generator: `label` each time, else 0, 1, 2, ... in turn; None where the recipe is unconditional.

    Raises UserError where the recipe does not know the label.
    """
    if label is not None and not recipe.classes:
        raise UserError(f"{recipe.name} is trained without labels: leave --label out, or train a conditional recipe")
    if label is not None and not 0 <= label < recipe.classes:
        raise UserError(f"{recipe.name} knows the labels 0 to {recipe.classes - 1}, not {label}")
    if not recipe.classes:
        return None
    return np.arange(n) % recipe.classes if label is None else np.full(n, label)
