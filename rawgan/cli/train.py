"""rawgan train: train a recipe, or resume a run."""

from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import DeviceOption, OptionalDataOption, SeedOption, device_for
from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.training import train
from rawgan.training.options import Options, find_recipe
from rawgan.training.systems import SYSTEMS
from rawgan.training.systems import run as system_run

# options that may change when a run is resumed
RESUMABLE = (
    "data",
    "lr",
    "sample_every",
    "steps",
    "device",
    "path",
    "precision",
    "checkpoint_every",
    "keep",
    "tensorboard",
    "parallel",
)
# of a system: those of its options, and those that may change when its run is resumed
OF_SYSTEM = (
    "data", "size", "channels", "width", "steps", "batch", "lr", "seed",
    "sample_every", "checkpoint_every", "keep",
)  # fmt: skip
RESUMABLE_SYSTEM = ("data", "steps", "sample_every", "checkpoint_every", "keep")
# options that imported networks have already
OF_NETWORKS = ("recipe", "size", "channels", "width", "out")
REMOVED = ("kernels", "planned")  # flags of versions before --path


def command(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help=f"{', '.join(RECIPES)}, or FILE.py; or a system: {', '.join(SYSTEMS)}",
        ),
    ] = None,
    source: Annotated[
        bool,
        typer.Option(
            "--source",
            help="train as the recipe's book or paper does: its images, size, width, learning "
            "rates and steps, except those that are given; `rawgan info` lists them",
        ),
    ] = False,
    data: OptionalDataOption = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="training steps of the generator; the recipe's unless given"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="images per step; the recipe's own unless given")
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_SIZE,
            help="how wide the networks are, the recipe's unless given; "
            "the recipe says what it counts",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="image side; unless given the recipe's for the digits, the data's own, or the "
            "source's for a folder of images"
        ),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=3, help="1 or 3; the data's own unless given")
    ] = None,
    flip: Annotated[
        bool,
        typer.Option("--flip", help="mirror every real picture left to right with probability 1/2"),
    ] = False,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="color,translation,cutout|ada",
            help="augment what D sees of real and fake: some of color, translation, cutout, "
            "always; ada: with a probability that grows while D overfits, of all three or those "
            "named with it",
        ),
    ] = None,
    ada_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="with --augment ada: real images in which p moves by 1; 500,000 unless given",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="learning rate of both players; the recipe's unless given"),
    ] = None,
    real_label: Annotated[
        float, typer.Option(min=0.5, max=1, help="below 1: one-sided label smoothing")
    ] = 1.0,
    ema: Annotated[
        float | None, typer.Option(min=0, max=0.99999, help="decay: draw from an average of G")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    path: Annotated[
        str,
        typer.Option(
            metavar="auto|planned|kernels|arrays",
            help="planned: fused Triton kernels in CUDA graphs; "
            "kernels: a Triton kernel per operation; arrays: NumPy or CuPy; "
            "auto: planned on a GPU where the recipe can be, else arrays, and says why",
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|fp32|bf16x3|tf32|bf16",
            help="of a planned step; "
            "auto: bf16 on a GPU of compute capability 8.0 or more, else fp32",
        ),
    ] = "auto",
    kernels: Annotated[bool, typer.Option("--kernels", hidden=True)] = False,
    planned: Annotated[bool, typer.Option("--planned", hidden=True)] = False,
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two sample grids")] = 250,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="steps between two checkpoints")
    ] = 500,
    keep: Annotated[int, typer.Option(min=1, help="how many checkpoints stay, the last ones")] = 2,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="write an event file too (needs tensorboardX)")
    ] = False,
    parallel: Annotated[
        str,
        typer.Option(
            metavar="none|mpi|nccl",
            help="be one of the processes that mpirun started, each with a part of a batch",
        ),
    ] = "none",
    batchnorm: Annotated[
        str,
        typer.Option(
            metavar="local|synchronised",
            help="BatchNorm's statistics are of each process' own pictures, or of all",
        ),
    ] = "local",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="a further option of a system, as in examples/train_SYSTEM.py: labels=100",
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave out pictures that cannot be read")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="run folder, new or empty; runs/RECIPE-DATA-NNN unless given"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="go on with this run from its last checkpoint; "
            "--steps may be raised, another --path taken, --lr and --sample-every changed, and "
            "--data given where the pictures have moved",
        ),
    ] = None,
):
    """Train a recipe; write sample grids, curves, metrics, weights and checkpoints to a run folder.

    Ctrl-C ends it cleanly. A run that was stopped, or killed at any moment, goes on with --resume,
    on a CPU of the same kind to the same bits as without the stop. Its other options come from its
    config.json; path and precision stay what auto chose at the start.

    Without options it takes some minutes on two CPU cores, on built-in digits; `rawgan info` lists
    the size, width, learning rate and steps of each recipe, and those of its source.

    `rawgan train dcgan`

    `rawgan train atienza_dcgan --source`

    `rawgan train wgan_gp --data path/to/pictures --size 64 --flip`

    A system is a model that is no GAN of one G and one D: it trains on arrays, NumPy or CuPy, and
    has no planned step.

    FILE.py is a recipe file: a Python program that defines one Recipe, or one called RECIPE. The
    run folder keeps a copy, recipe.py, which is executed only where you name it:

    `rawgan train my_recipe.py --resume runs/my_gan-digits-001`

    `rawgan train --resume runs/dcgan-digits-001 --steps 3000`

    `mpirun -n 2 rawgan train dcgan --parallel mpi --batchnorm synchronised`
    """
    for name in REMOVED:
        if context.params[name]:
            raise UserError(f"--{name} is now --path {name}")
    if set_ and recipe not in SYSTEMS:
        raise UserError(f"--set is for a new run of a system: {', '.join(SYSTEMS)}")
    named = [
        name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"
    ]
    if resume is not None:
        if system_run.is_system(resume):
            resume_system(resume, context, named)
            return
        if train.is_imported(resume):
            command_of_imported(resume, context, named)
            return
        recipe_file = recipe_file_of(recipe)
        for name in named:
            if name not in (*RESUMABLE, "resume") and not (name == "recipe" and recipe_file):
                raise UserError(
                    f"{word_of(name)} cannot be given with --resume: it comes from the run's "
                    "config.json"
                )
        changes = {name: context.params[name] for name in RESUMABLE if name in named}
        done, steps = train.resume(resume, recipe_file, **changes)
    elif recipe is None:
        raise UserError(
            f"name a recipe to train: {', '.join((*RECIPES, *SYSTEMS))}; or --resume RUN"
        )
    elif recipe in SYSTEMS:
        done, steps = start_system(recipe, context, named)
    else:
        options = {
            name: value
            for name, value in context.params.items()
            if name not in ("out", "resume", "set_", *REMOVED)
        }
        options["recipe"] = find_recipe(recipe, (*RECIPES, *SYSTEMS))
        done, steps = train.start(Options.with_defaults(**options), out)
    if done < steps:
        raise typer.Exit(130)


def recipe_file_of(recipe: str | None) -> Path | None:
    """Return the path of a recipe file; None where the argument RECIPE is none."""
    return Path(recipe) if recipe and recipe.endswith(".py") else None


def word_of(name: str) -> str:
    """Return a parameter of the command as the user writes it: --real-label of real_label."""
    return name if name == "recipe" else f"--{name.rstrip('_').replace('_', '-')}"


def start_system(name: str, context: typer.Context, named: list[str]) -> tuple[int, int]:
    """Train a system with the options that were given; return the steps done and requested."""
    for option in named:
        if option not in (*OF_SYSTEM, "recipe", "source", "device", "out", "set_"):
            raise UserError(f"{word_of(option)} is no option of the training of {name}")
    kind, values = SYSTEMS[name].options_type, context.params
    of_source = kind.of_source if values["source"] else {}
    if values["source"] and not of_source:
        raise UserError(f"{name} has no setting of its source: leave --source out")
    chosen = {option: values[option] for option in OF_SYSTEM if option in named}
    if "data" in chosen:
        chosen["source"] = chosen.pop("data")
    options = kind(name, **(of_source | chosen | kind.parse(values["set_"] or ())))
    return system_run.start(options, device_for(values["device"]), values["out"])


def resume_system(run: Path, context: typer.Context, named: list[str]) -> None:
    """Resume a run of a system with the options that were given."""
    for name in named:
        if name not in (*RESUMABLE_SYSTEM, "resume", "device"):
            raise UserError(
                f"{word_of(name)} cannot be given with the --resume of such a run: it comes from "
                "the run's config.json"
            )
    changes = {name: context.params[name] for name in RESUMABLE_SYSTEM if name in named}
    if "data" in changes:
        changes["source"] = changes.pop("data")
    done, steps = system_run.resume(run, device_for(context.params["device"]), **changes)
    if done < steps:
        raise typer.Exit(130)


def command_of_imported(run: Path, context: typer.Context, named: list[str]) -> None:
    """Train the imported networks of a run with the options that were given."""
    recipe_file = recipe_file_of(context.params["recipe"])
    for name in named:
        if name in OF_NETWORKS and not (name == "recipe" and recipe_file):
            raise UserError(f"{word_of(name)} cannot be given for imported networks: it is theirs")
    options = {
        name: context.params[name]
        for name in context.params
        if name not in (*OF_NETWORKS, "resume", "set_", *REMOVED)
    }
    done, steps = train.train_imported(run, recipe_file, **options)
    if done < steps:
        raise typer.Exit(130)
