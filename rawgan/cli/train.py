"""rawgan train: one recipe, trained on the user's pictures, stopped and resumed."""

from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import DataOption, DeviceOption, SeedOption
from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.training.options import Options
from rawgan.training.session import resume as go_on
from rawgan.training.session import start

# what may change when a run is resumed
AGAIN = ("steps", "device", "kernels", "checkpoint_every", "keep", "tensorboard", "parallel")


def command(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")] = None,
    data: DataOption = "digits",
    steps: Annotated[int, typer.Option(min=1, help="training steps of the generator")] = 1500,
    batch: Annotated[int | None, typer.Option(min=2, help="images per step; the recipe's own unless given")] = None,
    width: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIZE, help="how wide the networks are; the recipe says what it counts")
    ] = None,
    size: Annotated[int | None, typer.Option(help="image side; 16 for digits, 32 for cifar10, else 28, unless given")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; the data's own unless given")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="mirror every real picture left to right with probability 1/2")] = False,
    lr: Annotated[float | None, typer.Option(help="learning rate of both players; the recipe's own unless given")] = None,
    real_label: Annotated[float, typer.Option(min=0.5, max=1, help="below 1: one-sided label smoothing")] = 1.0,
    ema: Annotated[float | None, typer.Option(min=0, max=0.99999, help="decay: draw from an average of G")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    kernels: Annotated[
        bool, typer.Option("--kernels", help="compute with the Triton kernels, on a GPU; never in silence without")
    ] = False,
    planned: Annotated[
        bool, typer.Option("--planned", help="run the step as a plan of fused kernels: on a GPU in CUDA graphs of many steps")
    ] = Options.planned,
    precision: Annotated[str, typer.Option(help="of a planned step: fp32, tf32 or bf16")] = "fp32",
    sample_every: Annotated[int, typer.Option(min=1, help="steps between two sample grids")] = 250,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="steps between two checkpoints")] = 500,
    keep: Annotated[int, typer.Option(min=1, help="how many checkpoints stay, the last ones")] = 2,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write an event file too (needs tensorboardX)")] = False,
    parallel: Annotated[
        str, typer.Option(metavar="none|mpi|nccl", help="be one of the processes that mpirun started, each with a part of a batch")
    ] = "none",
    batchnorm: Annotated[
        str, typer.Option(metavar="local|synchronised", help="BatchNorm's statistics are of each process' own pictures, or of all")
    ] = "local",
    out: Annotated[Path | None, typer.Option(help="run folder, new or empty; runs/RECIPE-DATA-NNN unless given")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="go on with this run from its last checkpoint; --steps may be raised")
    ] = None,
):
    """Trains a recipe and leaves sample grids, curves, metrics, weights and checkpoints in a run folder.

    Ctrl-C ends it cleanly, and a run that was stopped, or killed at any moment, goes on with --resume as if nothing had happened:
    on the CPU to the same bits. All its options come from its config.json.

    `rawgan train dcgan --width 32 --lr 5e-4`

    `rawgan train wgan_gp --data path/to/pictures --size 64 --flip`

    `rawgan train --resume runs/dcgan-digits-001 --steps 3000`

    `mpirun -n 2 rawgan train dcgan --parallel mpi --batchnorm synchronised`
    """
    if resume is not None:
        given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]
        for name in given:
            if name not in (*AGAIN, "resume"):
                word = name if name == "recipe" else f"--{name.replace('_', '-')}"
                raise UserError(f"{word} cannot be given with --resume: it comes from the run's own config.json")
        changes = {name: context.params[name] for name in AGAIN if name in given}
        done, steps = go_on(resume, **changes)
    elif recipe is None:
        raise UserError(f"say which recipe to train: {', '.join(RECIPES)}; or --resume RUN")
    else:
        options = {name: value for name, value in context.params.items() if name not in ("out", "resume")}
        done, steps = start(Options(**options), out)
    if done < steps:
        raise typer.Exit(130)
