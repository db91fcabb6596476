"""What a run is told: the options of `rawgan train`, and the same out of the config.json of a run that is to go on."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError
from rawgan.losses import BCE
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.parallel import FORMS

BATCHNORM = ("local", "synchronised")

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Options:
    """As on the command line; None is what the recipe or the data have themselves."""

    recipe: str
    data: str = "digits"
    size: int | None = None
    channels: int | None = None
    width: int | None = None
    steps: int = 1500
    batch: int | None = None
    lr: float | None = None
    real_label: float = 1.0
    ema: float | None = None
    flip: bool = False
    seed: int = 0
    device: str = "auto"
    kernels: bool = False
    planned: bool = False  # the default of the command line too
    precision: str = "fp32"
    sample_every: int = 250
    checkpoint_every: int = 500
    keep: int = 2
    tensorboard: bool = False
    parallel: str = "none"
    batchnorm: str = "local"

    def changed_recipe(self) -> Recipe:
        """The recipe with the user's learning rate for both players and label smoothing. Raises UserError for one without sense."""
        if self.recipe not in RECIPES:
            raise UserError(f"{self.recipe!r} is no recipe to train; there are {', '.join(RECIPES)}")
        recipe = RECIPES[self.recipe]
        if self.lr is not None:
            if not (math.isfinite(self.lr) and self.lr > 0):
                raise UserError(f"a learning rate is a positive number, not {self.lr}")
            players = ("generator_optimizer", "discriminator_optimizer")
            recipe = replace(recipe, **{name: partial(getattr(recipe, name), lr=self.lr) for name in players})
        if self.real_label != 1:
            if not isinstance(recipe.objective, BCE):
                raise UserError(f"{recipe.name} has no labels to smooth: leave --real-label out")
            recipe = replace(recipe, objective=BCE(self.real_label, recipe.objective.minimax))
        if self.batchnorm not in BATCHNORM:
            raise UserError(f"--batchnorm {self.batchnorm} is not known; choose {' or '.join(BATCHNORM)}")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r} is not known; choose {', '.join(PRECISIONS)}")
        if self.precision != "fp32" and not self.planned:
            raise UserError(f"--precision {self.precision} goes with --planned: other steps compute in float32")
        return recipe

    def natural_size(self) -> int:
        """The side of the pictures, where the user names none that of the data."""
        return natural_size(self.data) if self.size is None else self.size


def natural_size(data: str) -> int:
    """The side of pictures when the user names none."""
    return {"digits": 16, "cifar10": 32}.get(data, 28)


def whole(low: int, high: int) -> Callable[[object], bool]:
    """Whether a value of JSON is a whole number in a range."""
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Callable[[object], bool]:
    """Whether a value of JSON is a number in a range."""
    return lambda value: type(value) in (int, float) and low <= value <= high


def text(value: object) -> bool:
    """Whether a value of JSON is a text that can be a name."""
    return isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value


def perhaps(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


FIELDS = {  # what each option in a config.json must be
    "recipe": text,
    "data": text,
    "size": whole(1, MAX_SIZE),
    "channels": whole(1, 3),
    "width": whole(1, MAX_SIZE),
    "steps": whole(1, 10**15),
    "batch": whole(1, 10**6),
    "lr": perhaps(number(0, 1e30)),
    "real_label": number(0.5, 1),
    "ema": perhaps(number(0, 0.99999)),
    "flip": lambda value: type(value) is bool,
    "seed": whole(0, 2**128),
    "device": lambda value: value in ("auto", "cpu", "gpu"),
    "kernels": lambda value: type(value) is bool,
    "planned": lambda value: type(value) is bool,
    "precision": lambda value: value in PRECISIONS,
    "sample_every": whole(1, 10**15),
    "checkpoint_every": whole(1, 10**15),
    "keep": whole(1, 10**6),
    "tensorboard": lambda value: type(value) is bool,
    "parallel": lambda value: value in ("none", *FORMS),
    "batchnorm": lambda value: value in BATCHNORM,
}
KEYS = {"data": "source"}  # where an option has another name in config.json: there, "data" is the name of the data set


def to_config(options: Options) -> dict:
    """The options under their names in config.json."""
    return {KEYS.get(name, name): value for name, value in asdict(options).items()}


def from_config(config: dict, path: Path) -> Options:
    """The options that a run was started with, out of its config.json at `path`. Raises UserError, naming what is not usable."""
    for name, usable in FIELDS.items():
        key = KEYS.get(name, name)
        if key not in config or not usable(config[key]):
            raise UserError(f"{path} has no usable {key}: the run cannot go on from it")
    return Options(**{name: config[KEYS.get(name, name)] for name in FIELDS})


def read_config(path: Path) -> dict:
    """What a config.json says. Raises UserError unless it is a JSON object of at most 1 MiB that names a recipe."""
    try:
        with open(path, "rb") as file:
            content = file.read(2**20 + 1)
        if len(content) > 2**20:
            raise ValueError("it is larger than 1 MiB")
        config = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable config of a run ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("recipe"), str):
        raise UserError(f"{path} names no recipe: it is not the config of a run")
    return config
