"""rawgan info: installed packages, ways to compute, recipes, and the plan of a recipe or run."""

import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import rawgan
from rawgan.backend import choose_device
from rawgan.cli.common import RecipeFileOption
from rawgan.data.images import MAX_SIZE
from rawgan.ema import EMA
from rawgan.errors import UserError, alternatives
from rawgan.gan import GAN
from rawgan.kernels import all_specs
from rawgan.layers import parameter_count
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.graph_runner import INDEX_ROWS, data_bytes, in_bytes, memory, step_launches
from rawgan.training.load import load_config
from rawgan.training.options import FIELDS, PRECISION_CHOICES, find_recipe, integer_in
from rawgan.training.path import choose_path, planned_precision
from rawgan.training.systems import SYSTEMS


def command(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|RUN",
            help="a recipe, a recipe file or a run folder, whose step is planned; else everything",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_SIZE, help="image side; its own unless given, as all below"),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=3, help="channels of an image, 1 or 3")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIZE, help="how wide the networks are")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, max=10**6, help="images per step")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="of the products: fp32, bf16x3, tf32 or bf16; "
            "the one that auto takes here unless given"
        ),
    ] = None,
    source: Annotated[
        bool,
        typer.Option("--source", help="the setting of the recipe's source, as train --source"),
    ] = False,
    recipe_file: RecipeFileOption = None,
):
    """Print installed packages, the ways to compute, and the recipes with their settings.

    The first line of a recipe is the setting of `rawgan train RECIPE`, the second that of its
    source. For a recipe, or a run folder, print the launches and memory of its planned step. That
    needs no GPU.

    `rawgan info dcgan --source --batch 128 --precision bf16`
    """
    options = {
        "size": size,
        "channels": channels,
        "width": width,
        "batch": batch,
        "precision": precision,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if target is not None:
        return plan(target, options, source, recipe_file)
    if recipe_file:
        raise UserError(f"--recipe is of a run: rawgan info RUN --recipe {recipe_file}")
    if source:
        raise UserError("--source is of a plan: name the recipe, rawgan info RECIPE --source")
    for name, value in options.items():
        raise UserError(
            f"--{name} is of a plan: name the recipe, rawgan info RECIPE --{name} {value}"
        )
    device = choose_device()
    packages = ", ".join(
        f"{name} {installed(name)}"
        for name in ("numpy", "cupy-cuda12x", "triton", "safetensors", "pillow")
    )
    print(
        f"rawgan {rawgan.__version__} on Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    )
    print(f"packages: {packages}\n")
    for path, state in paths(device).items():
        print(f"{path:16} {state}")
    choice = choose_path("auto", "auto", RECIPES["dcgan"], device)
    print(f"{'--path auto':16} {choice}; of a recipe: rawgan info RECIPE")
    print(f"\n{'recipe':16} {'G':>10} {'D':>10}  setting")
    for recipe in RECIPES.values():
        for name, setting in ((recipe.name, recipe.default), ("  --source", recipe.of_source)):
            gan = build(recipe, setting.size, setting.channels, setting.width)
            G, D = parameter_count(gan.generator), parameter_count(gan.discriminator)
            print(f"{name:16} {G:>10,} {D:>10,}  {recipe.describe(setting)}")
        print(f"  {recipe.source}")
    print(f"\n{'system':16} setting; and its own options, for --set")
    for name, training in SYSTEMS.items():
        kind = training.options_type
        print(f"{name:16} {kind(name)}")
        if kind.of_source:
            print(f"{'  --source':16} {kind(name, **kind.of_source)}")


def build(recipe: Recipe, *shape: int) -> GAN:
    """Return the untrained networks, without the warnings of penalties, which a training prints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recipe.build(Random(0), *shape)


def plan(target: str, options: dict, source: bool, recipe_file: Path | None = None) -> None:
    """Print the planned step of a recipe or a run folder. Raises UserError for any other name."""
    if target in RECIPES or target.endswith(".py"):
        recipe, config = find_recipe(target), {}
    elif Path(target).is_dir():
        if source:
            raise UserError(f"{target} is a run, with its own setting: leave --source out")
        config, recipe = load_config(Path(target) / "config.json", recipe_file)
    elif target in SYSTEMS:
        raise UserError(
            f"{target} is a system, whose step has no plan: `rawgan info` lists its setting"
        )
    else:
        names = alternatives(target, (*RECIPES, *SYSTEMS))
        raise UserError(f"{target} is no recipe and no run folder; {names}")
    if recipe.objective is None:
        raise UserError(f"{target} is a run of {recipe.name}, whose step has no plan")
    setting = recipe.of_source if source or config else recipe.default
    values = {name: getattr(setting, name) for name in ("size", "channels", "width")}
    values |= {"batch": recipe.batch, "precision": "auto"}
    values |= {name: value for name, value in config.items() if name in values} | options
    size, channels, width, batch, precision = values.values()
    if precision not in PRECISION_CHOICES:
        raise UserError(
            f"precision {precision!r:.80} is not known; choose {', '.join(PRECISION_CHOICES)}"
        )
    if not integer_in(2, 10**6)(batch):
        raise UserError(
            f"{target} has no usable batch: it must be a whole number from 2 to 1000000"
        )
    if not FIELDS["ema"](ema := config.get("ema")):
        raise UserError(f"{target} has no usable ema: it must be a number from 0 to 0.99999")
    device, refusal = choose_device(), ""
    precision, _ = planned_precision(precision, recipe, device)
    gan = build(recipe, size, channels, width)
    average = EMA(gan.generator_optimizer.parameters, ema) if ema else None
    print(
        f"{recipe.name}, images of {size}x{size}x{channels}, width {width}, batch {batch}, "
        f"{precision}"
    )
    for name, net in (("generator", gan.generator), ("discriminator", gan.discriminator)):
        print(f"{name:16} {parameter_count(net):,} parameters")
    if not config:
        print(f"{'rawgan train':16} {recipe.describe(recipe.default)}")
        print(f"{'--source':16} {recipe.describe(recipe.of_source)}")
    try:
        all_specs()
        from rawgan.planned import plan_step

        images = np.zeros((1, size, size, channels), np.uint8)
        labels = np.zeros(1, np.int64) if recipe.classes else None
        step = plan_step(
            gan,
            images,
            batch,
            labels=labels,
            precision=precision,
            batches=INDEX_ROWS,
            average=average,
        )
    except UserError as error:
        refusal = str(error)
        print(f"{'plan':16} none: {refusal}")
    else:
        counts, maximum = step_launches(step)
        by_kernel = ", ".join(f"{name} {n}" for name, n in counts.most_common())
        print(f"{'launches':16} {counts.total()} a step{maximum}: {by_kernel}")
        print(f"{'memory':16} {memory(step)}")
        print(f"{'data set':16} {in_bytes(data_bytes(step))} of memory for each image")
    print(f"{'--path auto':16} {choose_path('auto', 'auto', recipe, device, refusal=refusal)}")


def installed(package: str) -> str:
    """Return the version of a package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def paths(device) -> dict[str, str]:
    """Return for each way to compute whether it is available, or why not."""
    gpu = device.name == "gpu"
    try:
        with_kernels, triton = choose_device(kernels=True).library, installed("triton")
        kernels = f"available with --path planned or kernels: {with_kernels}, Triton {triton}"
    except UserError as error:
        kernels = f"not available: {error}"
    return {
        "NumPy": f"available, NumPy {np.__version__} on the CPU",
        "CuPy": f"available: {device.reason}" if gpu else f"not available: {device.reason}",
        "Triton kernels": kernels,
    }
