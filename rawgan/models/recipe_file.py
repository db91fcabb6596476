"""A recipe in a Python file of the user's own: `rawgan train my_recipe.py`.

The file is a program. It is executed where the user names it, on the command line or in a call of
read_recipe_file, and nowhere else: the copy in a run folder is data until then.
"""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from traceback import walk_tb
from types import ModuleType, TracebackType
from typing import NamedTuple

import numpy as np

from rawgan import systems
from rawgan.errors import UserError, reason
from rawgan.files import TEXT, Unreadable, read_file
from rawgan.gan import Samples, Schedule, one_critic_step
from rawgan.layers import Sequential
from rawgan.losses import Objective
from rawgan.models.recipe import Recipe, RecipeFile, Setting
from rawgan.models.recipes import RECIPES
from rawgan.random import Random

MODULE = "rawgan_recipe_file"  # the __name__ of the code of a recipe file
TAKEN = (*RECIPES, *systems.NAMES)  # names of `rawgan train`


def read_recipe_file(path: Path, sha256: str | None = None) -> Recipe:
    """Execute a recipe file and return its recipe, with `file` set to the path and the content.

    The file defines one Recipe, or several of which one is called RECIPE; recipes of the library
    that it imports, and names with a leading underscore, do not count. It may import any installed
    package, but no file beside it, for the run folder keeps this file alone.

    sha256: what the content must have; it is compared before anything is executed. Raises
    UserError for a file that is missing or another, for an exception in it, with the line, and for
    a recipe that cannot be trained.
    """
    path = Path(path)
    try:
        file = RecipeFile(path, read_file(path, TEXT, follow=True))
    except Unreadable as error:
        raise UserError(f"the recipe file {path} cannot be read: {error}") from error
    if sha256 is not None and sha256 != file.sha256:
        raise UserError(
            f"{path} is not the recipe file of the run: its SHA-256 is another, and a changed "
            "comment is enough for that; the run folder has a copy of the file, recipe.py"
        )
    recipe = only_recipe(path, execute(file))
    check_fields(path, recipe)
    return replace(recipe, file=file)


def execute(file: RecipeFile) -> dict[str, object]:
    """Return the global names of a recipe file after its execution. Raises UserError."""
    module = ModuleType(MODULE)
    module.__file__ = str(file.path)
    sys.modules[MODULE] = module  # where dataclasses look up the types of their fields
    try:
        exec(compile(file.content, str(file.path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise UserError(located(error) or f"{file.path}: {described(error)}") from error
    return module.__dict__


def located(error: BaseException) -> str | None:
    """Return an error with the line of the recipe file where it occurred, the innermost one.

    None for an error of other code alone.
    """
    frames = code_frames(error.__traceback__)
    if isinstance(error, SyntaxError) and error.lineno and not frames:  # it was not executed
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    if frames:
        filename, line = frames[-1]
        return f"{filename}, line {line}: {described(error)}"
    return None


def code_frames(traceback: TracebackType | None) -> list[tuple[str, int]]:
    """Return (file, line) of each frame of a recipe file's code in a traceback."""
    return [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(traceback)
        if frame.f_globals.get("__name__") == MODULE
    ]


def described(error: BaseException) -> str:
    """Return the type and the message of an error; of a UserError, the message."""
    message = str(error)
    if isinstance(error, UserError):
        return message
    return f"{type(error).__name__}: {reason(error)}" if message else type(error).__name__


def only_recipe(path: Path, names: dict[str, object]) -> Recipe:
    """Return the recipe that a file defines. Raises UserError unless it is one."""
    if "RECIPE" in names:
        if not isinstance(names["RECIPE"], Recipe):
            raise UserError(f"RECIPE in {path} is no Recipe but a {type(names['RECIPE']).__name__}")
        return names["RECIPE"]
    library = set(map(id, RECIPES.values()))
    recipes = {  # by identity: one recipe may have two names
        id(value): (name, value)
        for name, value in names.items()
        if isinstance(value, Recipe) and name[0] != "_" and id(value) not in library
    }
    if not recipes:
        raise UserError(f"{path} defines no Recipe: end it with RECIPE = Recipe(...)")
    if len(recipes) > 1:
        listed = ", ".join(name for name, _ in recipes.values())
        raise UserError(
            f"{path} defines {len(recipes)} recipes, {listed}: call the one to train RECIPE"
        )
    return next(iter(recipes.values()))[1]


class Field(NamedTuple):
    """A check of a field of a recipe, and what the field must be, in words."""

    usable: Callable[[object], bool]
    description: str


def whole(low: int) -> Field:
    """Return the check for a whole number of at least `low`."""
    return Field(lambda n: type(n) is int and n >= low, f"a whole number from {low}")


def one_of(*values: str) -> Field:
    """Return the check for one of several texts."""
    return Field(values.__contains__, " or ".join(map(repr, values)))


OPTIMIZER = Field(
    lambda make: isinstance(make, partial) and "lr" in make.keywords,
    "partial(Adam, lr=...), of any optimizer, so that --lr can change the rate",
)
FUNCTION = Field(callable, "a function (size, channels, width) that returns the network")
FIELDS = {
    "name": Field(
        lambda name: isinstance(name, str) and re.fullmatch(r"\w{1,64}", name, re.ASCII),
        "letters, digits and underscores",
    ),
    "source": Field(lambda text: isinstance(text, str), "a text"),
    "generator": FUNCTION._replace(
        description="a function (size, channels, width, z) that returns the network"
    ),
    "discriminator": FUNCTION,
    "objective": Field(lambda loss: isinstance(loss, Objective), "a loss, such as BCE()"),
    "generator_optimizer": OPTIMIZER,
    "discriminator_optimizer": OPTIMIZER,
    "default": Field(lambda setting: isinstance(setting, Setting), "a Setting"),
    "schedule": Field(lambda schedule: isinstance(schedule, Schedule), "a Schedule"),
    "draw": one_of("normal", "uniform"),
    "pixels": one_of("tanh", "unit"),
    "classes": Field(lambda n: type(n) is int and (n == 0 or n > 1), "0, or 2 and more"),
    **dict.fromkeys(("size", "width", "z", "steps", "channels"), whole(1)),
    "batch": whole(2),
    **dict.fromkeys(("lr_decay", "bf16"), Field(lambda b: type(b) is bool, "True or False")),
}


def check_fields(path: Path, recipe: Recipe) -> None:
    """Raise UserError where a field of the recipe in a file cannot be used."""
    for name, field in FIELDS.items():
        if not field.usable(getattr(recipe, name)):
            raise UserError(f"{name} of the recipe in {path} must be {field.description}")
    if recipe.name in TAKEN:
        raise UserError(
            f"the recipe in {path} is called {recipe.name}, as one of rawgan is: give it another "
            "name"
        )


@contextmanager
def code_of(recipe: Recipe) -> Iterator[None]:
    """Raise exceptions of a recipe file's code as a UserError, with the line where there is one."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if not recipe.file:
            raise
        raise UserError(located(error) or f"{recipe.file.path}: {described(error)}") from error


def check_networks(recipe: Recipe, size: int, channels: int, width: int) -> None:
    """Try the recipe of a file with one training step on up to 8 images of noise.

    Raises UserError unless G(z) are images (N, size, size, channels), and D's scores (N, ...);
    and what the code raises.
    """
    path = recipe.file.path
    for name, z in (("generator", {"z": recipe.z}), ("discriminator", {})):
        net = getattr(recipe, name)(size, channels, width, **z)
        if not isinstance(net, Sequential):
            raise UserError(f"the {name} in {path} is no Sequential but a {type(net).__name__}")
    recipe = recipe.with_schedule(critic_steps=one_critic_step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training gives them
        gan = recipe.build(Random(0), size, channels, width)
        group = (layer := gan.minibatch_std()) and layer.group
        N = 8 - 8 % min(group or 8, 8)  # a multiple of the groups that D compares
        rng = np.random.default_rng(0)
        zs = [recipe.draw_z(rng, N) for _ in range(1 + recipe.schedule.resample_z)]
        real = rng.random((N, size, size, channels), np.float32)
        labels = np.arange(N) % recipe.classes if recipe.classes else None
        images, _ = gan.generator.forward(paired(zs[0], labels), train=False)
        if images.shape != real.shape:
            raise UserError(
                f"the generator in {path} makes arrays of shape {images.shape} from {N} latent "
                f"vectors for images of {size}x{size}x{channels}"
            )
        x = real if recipe.objective.labelled else paired(real, labels)
        scores, _ = gan.discriminator.forward(x, train=False)
        if not scores.ndim or len(scores) != N:
            raise UserError(
                f"the discriminator in {path} makes scores of shape {scores.shape} from {N} images "
                f"of {size}x{size}x{channels}"
            )
        gan.train_step([paired(real, labels)], [paired(z, labels) for z in zs])


def paired(samples: np.ndarray, labels: np.ndarray | None) -> Samples:
    """Return samples with their labels, where there are any."""
    return samples if labels is None else (samples, labels)
