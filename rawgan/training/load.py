"""Load trained networks from a run folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rawgan import systems
from rawgan.backend import CPU, Device
from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError
from rawgan.files import kind
from rawgan.layers import Parameters, Sequential, parameter_count
from rawgan.models import autoencoder, infogan, semi_supervised
from rawgan.models.progressive import Discriminator, Generator, Growing
from rawgan.models.recipe import Recipe
from rawgan.models.recipe_file import read_recipe_file
from rawgan.models.recipes import RECIPES
from rawgan.systems.infogan import FORMS
from rawgan.systems.progressive import GrowthSchedule, Stage
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.options import integer_in, is_text, read_config
from rawgan.training.run_folder import RECIPE, load_weights
from rawgan.training.systems.base import SystemOptions
from rawgan.training.systems.infogan import InfoGANOptions
from rawgan.training.systems.progressive import ProgressiveOptions
from rawgan.training.systems.semi_supervised import SemiSupervisedOptions

VAE = Recipe(
    name="vae",
    source="Kingma & Welling 2014 (arXiv:1312.6114) with the networks of Atienza, "
    "Advanced Deep Learning with Keras, ch. 8",
    generator=autoencoder.generator,
    discriminator=autoencoder.encoder,  # no adversary: rawgan.systems.vae trains both
    objective=None,
    generator_optimizer=None,
    discriminator_optimizer=None,
    width=32,
    z=autoencoder.Z,
    pixels="unit",
)


def progressive_recipe(options: ProgressiveOptions) -> Recipe:
    """Return the networks of a progressive GAN, with the layers of all resolutions."""
    return Recipe(
        name="progressive",
        source="Karras et al. 2018 (arXiv:1710.10196)",
        generator=lambda *shape, z: Generator(*shape, options.base),
        discriminator=lambda *shape: Discriminator(*shape, options.base, options.group),
        objective=None,
        generator_optimizer=None,
        discriminator_optimizer=None,
        width=options.width,
        z=options.width,
    )


@dataclass(frozen=True)
class SystemRecipe(Recipe):
    """The networks of a system whose z has a distribution of its own: latents(rng, n) -> z."""

    latents: Callable[[np.random.Generator, int], np.ndarray] | None = None

    def draw_z(self, rng, n):
        """Return n latent vectors as a host array, float32 (n, z)."""
        return self.latents(rng, n)


def semi_supervised_recipe(options: SemiSupervisedOptions) -> Recipe:
    """Return the networks of a semi-supervised GAN, with z from U(0, 1)."""
    networks = semi_supervised.NETWORKS[options.networks]
    return SystemRecipe(
        name="semi_supervised",
        source="Salimans et al. 2016 (arXiv:1606.03498)",
        generator=lambda size, channels, width, z: networks.generator(
            (size, size, channels), width, z
        ),
        discriminator=lambda size, channels, width: networks.discriminator(
            (size, size, channels), width
        ),
        objective=None,
        generator_optimizer=None,
        discriminator_optimizer=None,
        width=options.width,
        z=semi_supervised.Z,
        pixels=networks.pixels,
        latents=lambda rng, n: rng.random((n, semi_supervised.Z), np.float32),
    )


def infogan_recipe(options: InfoGANOptions) -> Recipe:
    """Return the networks of an InfoGAN: the labels are its categories, and z has the codes."""

    def latents(rng: np.random.Generator, n: int) -> np.ndarray:
        noise = rng.uniform(-1, 1, (n, infogan.Z)).astype(np.float32)
        return np.concatenate([noise, FORMS[options.form].draw(rng, (n, infogan.CODES))], 1)

    return SystemRecipe(
        name="infogan",
        source="Chen et al. 2016 (arXiv:1606.03657), and Atienza, Advanced Deep Learning with "
        "Keras, ch. 6",
        generator=lambda *shape, z, classes=10: infogan.labelled_generator(*shape, classes),
        discriminator=infogan.discriminator,
        objective=None,
        generator_optimizer=None,
        discriminator_optimizer=None,
        width=options.width,
        z=infogan.Z + infogan.CODES,
        pixels="unit",
        classes=10,
        latents=latents,
    )


# by the recipe of a run: the type of its options, and its networks, which depend on them
OF_SYSTEMS: dict[str, tuple[type[SystemOptions], Callable[..., Recipe]]] = {
    "progressive": (ProgressiveOptions, progressive_recipe),
    "semi_supervised": (SemiSupervisedOptions, semi_supervised_recipe),
    "infogan": (InfoGANOptions, infogan_recipe),
}
MAX_CLASSES = 10_000
GENERATORS = ("average", "generator", "decoder")  # in order of preference
NETWORKS = (*GENERATORS, "discriminator")


def load_generator(
    run: Path,
    device: Device = CPU,
    step: int | None = None,
    recipe_file: Path | None = None,
) -> tuple[Recipe, Sequential, dict]:
    """Return the recipe, the trained generator (or its average) and the config of a run.

    Arguments and errors are those of load_player.
    """
    return load_player(run, None, device, step, recipe_file)


def load_player(
    run: Path,
    who: str | None = None,
    device: Device = CPU,
    step: int | None = None,
    recipe_file: Path | None = None,
) -> tuple[Recipe, Sequential, dict]:
    """Return the recipe, one trained network on the device, and the config of a run folder.

    who: a name of NETWORKS; None for the first of GENERATORS that the run has. step: that of a
    checkpoint; None for the last weights. recipe_file: as in recipe_of_run. Raises UserError for
    a folder, config.json or weights that are missing or broken, an unknown recipe, a network that
    the run does not have, and weights that are not finite or do not fit the network.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"there is no run folder {run}; give one that a training left")
    config, recipe = load_config(run / "config.json", recipe_file)
    arrays, path = trained_arrays(run, step)
    parts = {
        name: {n.removeprefix(f"{name}."): a for n, a in arrays.items() if n.startswith(f"{name}.")}
        for name in NETWORKS
    }
    if who is not None and not parts.get(who):
        present = ", ".join(name for name in NETWORKS if parts[name])
        raise UserError(f"{run} has no network called {str(who)!r}; it has {present}")
    weights = parts[who] if who else next(filter(None, (parts[name] for name in GENERATORS)), {})
    if not all(np.isfinite(a).all() for a in weights.values()):
        raise UserError(
            f"the weights in {path} are not finite: that training failed, "
            "and nothing can be drawn from it"
        )
    try:
        net = make_player(recipe, who, config)
        # compared before the parameters are allocated
        if parameter_count(net, buffers=True) != sum(a.size for a in weights.values()):
            raise UserError("the number of weights is another")
        Parameters(net, device).load(weights)
        if isinstance(net, Growing):
            net = grown(net, config, trained_step(run, step))
    except (UserError, ValueError, MemoryError) as error:
        player = "discriminator" if who == "discriminator" else "generator"
        raise UserError(
            f"{path} does not fit the {player} that config.json names, {recipe.name}: {error}"
        ) from error
    return recipe, net, config


def grown(net: Growing, config: dict, step: int | None) -> Sequential:
    """Return the layers of a progressive network that were in use after a step.

    For images of the full size. step None: those of the full size.
    """
    size, batch = config["size"], config["batch"]
    schedule = GrowthSchedule(size, config["stable"], config["fade"])
    return net.full_size(Stage(size) if step is None else schedule.stage(step * batch))


def make_player(recipe: Recipe, who: str | None, config: dict) -> Sequential:
    """Return the untrained network of a run with this config."""
    shape = config["size"], config["channels"], config["width"]
    if who == "discriminator":
        return recipe.discriminator(*shape)
    return recipe.generator(*shape, z=recipe.z)


def recipe_of_run(
    config: dict,
    path: Path,
    recipe_file: Path | None = None,
    usage: str = "--recipe {run}/{file}",
) -> Recipe | None:
    """Return the recipe of the recipe file that a run belongs to; None for a recipe of the library.

    A run folder may come from anybody, and recipe.py in it is a program: it is executed only where
    `recipe_file` names it. config: the content of `path`, the run's config.json. recipe_file: the
    file to execute, this copy or another, with the SHA-256 of the config. usage: how a command line
    names it. Raises UserError where it is needed and not named, or is another file.
    """
    run, sha256 = path.parent, config.get("recipe_sha256")
    if sha256 is None and recipe_file is None:
        return None
    if sha256 is None:
        raise UserError(
            f"{run} is a run of {config['recipe']!r:.80}, without a recipe file: leave "
            f"{recipe_file} out"
        )
    if recipe_file is None:
        raise UserError(
            f"{run} has its networks in a recipe file, a program, which is executed only where you "
            f"name it: {usage.format(run=run, file=RECIPE)}, if you trust this copy, or your own"
        )
    recipe = read_recipe_file(recipe_file, str(sha256))
    if recipe.name != config["recipe"]:
        raise UserError(f"{path} names {config['recipe']!r:.80}, and {recipe_file} {recipe.name}")
    return recipe


def load_config(path: Path, recipe_file: Path | None = None) -> tuple[dict, Recipe]:
    """Return the content of a config.json and its recipe. recipe_file: as in recipe_of_run.

    Raises UserError unless its networks can be made.
    """
    config = read_config(path)
    known = RECIPES | {VAE.name: VAE} | OF_SYSTEMS
    if recipe := recipe_of_run(config, path, recipe_file):
        known = {recipe.name: recipe}
    if config["recipe"] not in known:
        remedy = (
            f"what its training drew is in {path.parent / 'samples'}"
            if config["recipe"] in systems.NAMES
            else f"known are {', '.join(known)}"
        )
        raise UserError(
            f"{path} names {config['recipe']!r:.80}, which is no recipe to draw from; {remedy}"
        )
    for key in ("size", "channels", "width"):
        if not integer_in(1, MAX_SIZE)(config.get(key)):
            raise UserError(
                f"{path} has no usable {key}: it must be a whole number from 1 to {MAX_SIZE}"
            )
    recipe = known[config["recipe"]]
    if isinstance(recipe, tuple):
        options_type, networks = recipe
        recipe = networks(options_type.from_config(config, path))
    if recipe.classes and config.get("classes") is not None:
        recipe = recipe.with_classes(len(class_names(config, path)))
    return config, recipe


def class_names(config: dict, path: Path) -> list[str]:
    """Return the names of the classes in the config.json at `path`. Raises UserError."""
    names = config["classes"]
    if not (
        isinstance(names, list)
        and 1 < len(names) <= MAX_CLASSES
        and all(map(is_text, names))
        and len(set(names)) == len(names)
    ):
        raise UserError(f"{path} has no usable classes: it must be a list of names, all different")
    return names


def trained_arrays(run: Path, step: int | None = None) -> tuple[dict[str, np.ndarray], Path]:
    """Return the weights of all networks of a run by name, and their file.

    That is the checkpoint of `step`, else weights.safetensors, or of a killed run the last
    checkpoint. Raises UserError.
    """
    path, saved = run / "weights.safetensors", checkpoints(run)
    if step is not None:
        if step not in saved:
            present = ", ".join(map(str, saved)) or "none"
            raise UserError(
                f"{run} has no checkpoint of step {step}, only of {present}: give --step one of "
                "them; train --keep N keeps more"
            )
        return load_checkpoint(saved[step])[0], saved[step]
    if kind(path) is None and saved:
        last = [*saved.values()][-1]
        return load_checkpoint(last)[0], last
    return load_weights(path), path


def trained_step(run: Path, step: int | None = None) -> int | None:
    """Return the step of the weights that trained_arrays returns; None where no file tells it."""
    saved = checkpoints(run)
    return step if step is not None else max(saved, default=None)


def choose_labels(
    recipe: Recipe, n: int, label: str | int | None = None, names: Sequence[str] = ()
) -> np.ndarray | None:
    """Return n labels: all `label`, else 0, 1, 2, ... in turn; None for an unconditional recipe.

    names: of the recipe's classes; the numbers unless given. Raises UserError where the recipe does
    not have the label.
    """
    if label is not None and not recipe.classes:
        raise UserError(
            f"{recipe.name} is trained without labels: leave --label out, "
            "or train a conditional recipe"
        )
    if not recipe.classes:
        return None
    numbers = [str(k) for k in range(recipe.classes)]
    names = list(names) or numbers
    if label is not None and str(label) not in names:
        known = f"{names[0]} to {names[-1]}" if names == numbers else ", ".join(names)
        raise UserError(f"{recipe.name} knows the labels {known}, not {label}")
    if label is None:
        return np.arange(n) % recipe.classes
    return np.full(n, names.index(str(label)))
