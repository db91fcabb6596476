"""rawgan info: what this machine can do, and what there is to train."""

import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import rawgan
from rawgan.backend import choose_device
from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.kernels import specs
from rawgan.layers import parameter_count
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.random import Random
from rawgan.training.load import load_config
from rawgan.training.options import PRECISIONS, whole
from rawgan.training.replay import LOOK, memory


def command(
    what: Annotated[
        str | None, typer.Argument(metavar="RECIPE|RUN", help="a recipe, or a run folder, whose step is planned; else everything")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, max=MAX_SIZE, help="image side; its own unless given, as all below")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="channels of an image, 1 or 3")] = None,
    width: Annotated[int | None, typer.Option(min=1, max=MAX_SIZE, help="how wide the networks are")] = None,
    batch: Annotated[int | None, typer.Option(min=2, max=10**6, help="images per step")] = None,
    precision: Annotated[str | None, typer.Option(help="of the products: fp32, tf32 or bf16")] = None,
):
    """Says what is installed, where it would compute and why not elsewhere, and lists the recipes with their parameter counts.

    Of a recipe, or a run, it says what its step is as a plan, as `rawgan train --planned` has it: how many launches, in how much
    memory. That needs no GPU.

    `rawgan info dcgan --batch 128 --precision bf16`
    """
    given = {"size": size, "channels": channels, "width": width, "batch": batch, "precision": precision}
    given = {name: value for name, value in given.items() if value is not None}
    if what is not None:
        return plan(what, given)
    for name in given:
        raise UserError(f"--{name} is of a plan: say of which recipe, rawgan info RECIPE --{name} {given[name]}")
    device = choose_device()
    packages = ", ".join(f"{name} {installed(name)}" for name in ("numpy", "cupy-cuda12x", "triton", "safetensors", "pillow"))
    print(f"rawgan {rawgan.__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"packages: {packages}\n")
    for path, state in paths(device).items():
        print(f"{path:16} {state}")
    print(f"\n{'recipe':16} {'G':>10} {'D':>10}  {'image':>9}  source")
    for recipe in RECIPES.values():
        gan = build(recipe)
        G, D = parameter_count(gan.generator), parameter_count(gan.discriminator)
        image = f"{recipe.size}x{recipe.size}x{recipe.channels}"
        print(f"{recipe.name:16} {G:>10,} {D:>10,}  {image:>9}  {recipe.source}")


def build(recipe: Recipe, *shape: int) -> GAN:
    """The untrained networks. What penalties warn of is left to the training to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recipe.build(Random(0), *shape)


def plan(what: str, given: dict) -> None:
    """Says what the step of a recipe, or of a run folder, is as a plan. Raises UserError for what is neither."""
    if what in RECIPES:
        recipe, config = RECIPES[what], {}
    elif Path(what).is_dir():
        config, recipe = load_config(Path(what) / "config.json")
    else:
        raise UserError(f"{what} is no recipe and no run folder; the recipes are {', '.join(RECIPES)}")
    if recipe.name not in RECIPES:
        raise UserError(f"{what} is a run of {recipe.name}, whose step has no plan")
    own = {name: getattr(recipe, name) for name in ("size", "channels", "width", "batch")} | {"precision": "fp32"}
    size, channels, width, batch, precision = (own | {k: v for k, v in config.items() if k in own} | given).values()
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r:.80} is not known; choose {', '.join(PRECISIONS)}")
    if not whole(2, 10**6)(batch):
        raise UserError(f"{what} has no usable batch: it must be a whole number from 2 to 1000000")
    gan = build(recipe, size, channels, width)
    print(f"{recipe.name}, images of {size}x{size}x{channels}, width {width}, batch {batch}, {precision}")
    for name, net in (("generator", gan.generator), ("discriminator", gan.discriminator)):
        print(f"{name:16} {parameter_count(net):,} parameters")
    try:
        specs()
        from rawgan.planned_steps import planned_step

        images, labels = np.zeros((1, size, size, channels), np.uint8), np.zeros(1, np.int64) if recipe.classes else None
        step = planned_step(gan, recipe, images, batch, labels=labels, precision=precision, batches=LOOK)
    except UserError as error:
        print(f"{'plan':16} none: {error}")
        return
    counts = ", ".join(f"{name} {n}" for name, n in step.plan.counts().most_common())
    print(f"{'launches':16} {len(step.plan.launches)} a step: {counts}")
    print(f"{'memory':16} {memory(step)}")


def installed(package: str) -> str:
    """The version of a package, or that it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def paths(device) -> dict[str, str]:
    """The ways to compute, and for each whether it is there or why not."""
    gpu = device.name == "gpu"
    try:
        kernels = f"available with --kernels: {choose_device(kernels=True).path}, Triton {installed('triton')}"
    except UserError as error:
        kernels = f"not available: {error}"
    return {
        "NumPy": f"available, NumPy {np.__version__} on the CPU",
        "CuPy": f"available: {device.why}" if gpu else f"not available: {device.why}",
        "Triton kernels": kernels,
    }
