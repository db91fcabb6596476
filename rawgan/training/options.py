"""Options of a training: from the command line, or from the config.json of a run to resume."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from rawgan.ada import Augmentation
from rawgan.data import NAMES, summary
from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError, alternatives
from rawgan.files import Unreadable, read_json
from rawgan.models.recipe import DIGITS, Recipe
from rawgan.models.recipe_file import read_recipe_file
from rawgan.models.recipes import RECIPES
from rawgan.parallel import BACKENDS
from rawgan.precision import PRECISIONS

BATCHNORM = ("local", "synchronised")

PATHS = ("auto", "planned", "kernels", "arrays")
PRECISION_CHOICES = ("auto", *PRECISIONS)


@dataclass(frozen=True)
class Options:
    """Options of a training; None stands for the value of the recipe's source or of the data.

    `with_defaults` gives those of `rawgan train`. of_file: the recipe, where it was read from a
    file; else it is that of the library called `recipe`.
    """

    recipe: str
    data: str = "digits"
    size: int | None = None
    channels: int | None = None
    width: int | None = None
    steps: int = DIGITS.steps
    batch: int | None = None
    lr: float | None = None
    real_label: float = 1.0
    ema: float | None = None
    flip: bool = False
    augment: str | None = None
    ada_images: int | None = None
    seed: int = 0
    device: str = "auto"
    path: str = "auto"  # what computes the steps; path.py resolves it, and the precision
    precision: str = "auto"
    sample_every: int = 250
    checkpoint_every: int = 500
    keep: int = 2
    tensorboard: bool = False
    parallel: str = "none"
    batchnorm: str = "local"
    skip_broken: bool = False
    of_file: Recipe | None = field(default=None, repr=False)

    @classmethod
    def with_defaults(
        cls, recipe: str | Recipe, data: str | None = None, source: bool = False, **options
    ) -> "Options":
        """Return the options of `rawgan train`: what is None comes from the recipe's setting.

        recipe: as find_recipe takes it, or what it returned. source: take the setting of the
        recipe's source, its images too. Raises UserError for an unknown recipe, and where the
        images of the source have no name.
        """
        recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
        setting = recipe.of_source if source else recipe.default
        if data is None and setting.data is None:
            raise UserError(
                f"the images of the source of {recipe.name} ({setting.image}) are none that rawgan "
                "downloads: add --data FOLDER"
            )
        data = data or setting.data
        names = ["width", "lr", "steps"]
        names += ["size", "channels"] if source or data == setting.data else []
        for name in names:
            if options.get(name) is None:
                options[name] = getattr(setting, name)
        return cls(recipe.name, data, of_file=recipe if recipe.file else None, **options)

    @property
    def declared(self) -> Recipe:
        """Return the recipe as it is declared. Raises UserError for an unknown name."""
        return self.of_file or library_recipe(self.recipe)

    def recipe_with_overrides(self) -> Recipe:
        """Return the recipe with learning rate, label smoothing and augmentation of valid options.

        Raises UserError where its objective has no label smoothing, or cannot be augmented.
        """
        recipe = self.declared
        if self.lr is not None:
            recipe = recipe.with_lr(self.lr)
        if self.real_label != 1:
            try:
                recipe = replace(
                    recipe, objective=recipe.objective.with_real_label(self.real_label)
                )
            except NotImplementedError as error:
                raise UserError(f"{recipe.name}: {error}: leave --real-label out") from error
        augmentation = self.augmentation()
        return recipe.with_augmentation(augmentation) if augmentation else recipe

    def augmentation(self) -> Augmentation | None:
        """Return the augmentation of --augment and --ada-images, None without. Raises UserError."""
        if self.augment is not None:
            return Augmentation.parse(self.augment, self.ada_images)
        if self.ada_images is not None:
            raise UserError("--ada-images goes with --augment ada: give both, or neither")
        return None

    def validate(self) -> None:
        """Raise UserError for an unknown recipe and for any option out of range."""
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"a learning rate is a positive number, not {self.lr}")
        if self.batchnorm not in BATCHNORM:
            raise UserError(
                f"--batchnorm {self.batchnorm} is not known; choose {' or '.join(BATCHNORM)}"
            )
        for name, value, choices in (
            ("path", self.path, PATHS),
            ("precision", self.precision, PRECISION_CHOICES),
        ):
            if value not in choices:
                raise UserError(f"{name} {value!r} is not known; choose {', '.join(choices)}")
        if self.precision not in ("auto", "fp32") and self.path in ("kernels", "arrays"):
            raise UserError(
                f"--precision {self.precision} goes with --path planned: "
                f"--path {self.path} computes in float32"
            )
        for name, check in FIELDS.items():  # a value that a resume would refuse is refused here
            value = getattr(self, name)
            if value is not None and isinstance(check, Check) and not check(value):
                raise UserError(
                    f"--{name.replace('_', '-')} {value!r:.80} cannot be used: "
                    f"it must be {check.description}"
                )
        self.recipe_with_overrides()

    def natural_size(self) -> int:
        """Return the side of the images: of the options, else of the data, else of the recipe."""
        if self.size is not None:
            return self.size
        return natural_size(self.data, self.declared.size)


def find_recipe(name: str, names: Iterable[str] = RECIPES) -> Recipe:
    """Return the recipe of a recipe file, a path that ends in .py, or of the library.

    Raises UserError for an unknown name, with `names` to choose from, and for a file without a
    recipe.
    """
    return read_recipe_file(Path(name)) if name.endswith(".py") else library_recipe(name, names)


def library_recipe(name: str, names: Iterable[str] = RECIPES) -> Recipe:
    """Return the recipe of this name. Raises UserError, with `names` to choose from."""
    if name not in RECIPES:
        raise UserError(
            f"{name!r} is no recipe to train; {alternatives(name, names)}, or a recipe file, "
            "FILE.py"
        )
    return RECIPES[name]


def natural_size(data: str, otherwise: int = 28) -> int:
    """Return the side of images of a data set; `otherwise` for images of no size in common."""
    return summary(data).side or otherwise


def absolute(data: str) -> str:
    """Return a data set as config.json has it: by name, or by its absolute path."""
    return data if data in NAMES else str(Path(data).expanduser().resolve())


class Check(NamedTuple):
    """A check of a JSON value, and the description of valid values."""

    usable: Callable[[object], bool]
    description: str

    def __call__(self, value: object) -> bool:
        """Return whether a value is valid."""
        return self.usable(value)


def integer_in(low: int, high: int) -> Check:
    """Return the check for a whole number from low to high."""
    return Check(
        lambda value: type(value) is int and low <= value <= high,
        f"a whole number from {low} to {high}",
    )


def number_in(low: float, high: float) -> Check:
    """Return the check for a number from low to high."""
    return Check(
        lambda value: type(value) in (int, float) and low <= value <= high,
        f"a number from {low} to {high}",
    )


def is_text(value: object) -> bool:
    """Return whether a JSON value is a text that can be a name."""
    return isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value


text = Check(is_text, "a text of 1 to 4095 characters")


def optional(check: Check) -> Check:
    """Return the check for None or a value that passes `check`."""
    return Check(lambda value: value is None or check(value), check.description)


FIELDS = {  # the check of each option in a config.json
    "recipe": text,
    "data": text,
    "size": integer_in(1, MAX_SIZE),
    "channels": integer_in(1, 3),
    "width": integer_in(1, MAX_SIZE),
    "steps": integer_in(1, 10**15),
    "batch": integer_in(1, 10**6),
    "lr": optional(number_in(0, 1e30)),
    "real_label": number_in(0.5, 1),
    "ema": optional(number_in(0, 0.99999)),
    "flip": lambda value: type(value) is bool,
    "augment": optional(text),
    "ada_images": optional(integer_in(1, 10**12)),
    "seed": integer_in(0, 2**128),
    "device": lambda value: value in ("auto", "cpu", "gpu"),
    "path": lambda value: value in PATHS,
    "precision": lambda value: value in PRECISION_CHOICES,
    "sample_every": integer_in(1, 10**15),
    "checkpoint_every": integer_in(1, 10**15),
    "keep": integer_in(1, 10**6),
    "tensorboard": lambda value: type(value) is bool,
    "parallel": lambda value: value in ("none", *BACKENDS),
    "batchnorm": lambda value: value in BATCHNORM,
    "skip_broken": lambda value: type(value) is bool,
}
# options with another name in config.json, where "data" is the name of the data set
KEYS = {"data": "source"}


def to_config(options: Options) -> dict:
    """Return the options under their names in config.json."""
    return {KEYS.get(name, name): getattr(options, name) for name in FIELDS}


def from_config(config: dict, path: Path) -> Options:
    """Return the options in the config.json at `path`. Raises UserError for an invalid one."""
    for name, usable in FIELDS.items():
        key = KEYS.get(name, name)
        if key not in config or not usable(config[key]):
            raise UserError(f"{path} has no usable {key}: the run cannot go on from it")
    return Options(**{name: config[KEYS.get(name, name)] for name in FIELDS})


def read_config(path: Path) -> dict:
    """Return the content of a config.json in the current format.

    Raises UserError unless it is a JSON object of at most 1 MiB that names a recipe.
    """
    try:
        config = read_json(path)
    except Unreadable as error:
        raise UserError(f"{path} is no readable config of a run ({error})") from error
    if not isinstance(config.get("recipe"), str):
        raise UserError(f"{path} names no recipe: it is not the config of a run")
    return upgraded(config)


def upgraded(config: dict) -> dict:
    """Return a config.json of any version in the current format.

    Before --augment nothing was augmented, and before --skip-broken no picture was skipped.

    Before --path, the booleans `kernels` and `planned` chose the path, and `path` named the
    backend; other values of theirs give the path None, which from_config refuses.
    """
    config = {"augment": None, "ada_images": None, "skip_broken": False} | config
    old = {name: config[name] for name in ("kernels", "planned") if name in config}
    if not old:
        return config
    usable = all(type(value) is bool for value in old.values())
    path = "planned" if old.get("planned") else "kernels" if old.get("kernels") else "arrays"
    rest = {key: value for key, value in config.items() if key not in old}
    return rest | {"path": path if usable else None, "backend": config.get("path")}
