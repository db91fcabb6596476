"""rawgan export: a trained network for PyTorch or ONNX."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rawgan.cli.common import RecipeFileOption, RunArgument, StepOption
from rawgan.cli.outputs import ForceOption, require_free
from rawgan.errors import UserError, printable
from rawgan.exchange import Exchange, onnx_model
from rawgan.files import save_arrays, write_whole
from rawgan.layers import state
from rawgan.models.recipe import Recipe
from rawgan.training.load import load_player


class Format(StrEnum):
    """Format of the exported file."""

    pytorch = "pytorch"
    onnx = "onnx"


class Player(StrEnum):
    """Network to export."""

    generator = "generator"
    average = "average"
    discriminator = "discriminator"


def command(
    run: RunArgument,
    out: Annotated[
        Path, typer.Option(help="file to write, new: .safetensors for PyTorch, .onnx for ONNX")
    ],
    format: Annotated[
        Format | None,
        typer.Option(
            help="for PyTorch, or the generator for any program that reads ONNX; "
            "that of --out's suffix unless given"
        ),
    ] = None,
    player: Annotated[
        Player | None,
        typer.Option(help="which network; unless given, the one that pictures are drawn with"),
    ] = None,
    step: StepOption = None,
    recipe_file: RecipeFileOption = None,
    force: ForceOption = False,
):
    """Write a trained network for PyTorch, or its generator for ONNX.

    For PyTorch, a dcgan has the names of pytorch/examples (main.0.weight ...); every other recipe
    those of an nn.Sequential (0.weight ...). A program is printed that loads the file and calls the
    network. Images are (N, C, H, W) there. A conditional network takes z, or the image,
    concatenated with the one-hot labels, to the image as constant planes. An --out that is there is
    replaced with --force only.

    `rawgan export runs/dcgan-digits-001 --out generator.safetensors`

    `rawgan export runs/dcgan-digits-001 --out generator.onnx`
    """
    format = format_of(out, format)
    require_free(out, force)
    recipe, net, config = load_player(run, player, step=step, recipe_file=recipe_file)
    size, channels, width = (config[name] for name in ("size", "channels", "width"))
    if format is Format.onnx:
        if player is Player.discriminator:
            raise UserError(
                "--format onnx writes generators: leave --player discriminator out, "
                "or choose --format pytorch"
            )
        write_whole(out, onnx_model(net, recipe.z, recipe.classes, recipe.name).SerializeToString())
    else:
        shape = (size, size, channels) if player is Player.discriminator else (recipe.z,)
        exchange = Exchange(net, shape, recipe.name == "dcgan")
        origin = {"recipe": recipe.name, "size": size, "channels": channels, "width": width}
        if recipe.classes:
            origin["classes"] = config.get("classes") or list(map(str, range(recipe.classes)))
        metadata = {"format": "pt", "rawgan": json.dumps(origin), "pytorch": exchange.code()}
        write_whole(out, save_arrays(exchange.export(state(net)), metadata))
    pixels = "[-1, 1]" if recipe.pixels == "tanh" else "[0, 1]"
    done = f"The {player or 'generator'} of {recipe.name}, pixels in {pixels}, is in {out}"
    if format is Format.onnx:
        print(done)
    else:
        inputs = example_input(recipe, exchange, player is Player.discriminator)
        print(f"# {printable(done)}\n{program(exchange, out, inputs)}")


def format_of(out: Path, format: Format | None) -> Format:
    """Return the format of a file's suffix. Raises UserError for another suffix or format."""
    formats = {".safetensors": Format.pytorch, ".onnx": Format.onnx}
    if format is None and out.suffix not in formats:
        raise UserError(
            f"the name of --out ends in .safetensors, for PyTorch, or .onnx, not as {out.name!r}"
        )
    suffix = next((s for s, known in formats.items() if known is format), out.suffix)
    if out.suffix != suffix:
        raise UserError(
            f"--format {format} writes a {suffix} file: give --out such a name, not {out.name!r}"
        )
    return formats[suffix]


def example_input(recipe: Recipe, exchange: Exchange, of_images: bool) -> list[str]:
    """Return Python code that sets x to inputs of a network: z, or images, with their labels."""
    *size, C = exchange.shape
    draw = "randn" if recipe.draw == "normal" and not of_images else "rand"
    from_zero = draw == "randn" or (of_images and recipe.pixels != "tanh")
    dimensions = ", ".join(map(str, (4, C, *size)))
    code = [f"x = torch.{draw}({dimensions})" + ("" if from_zero else " * 2 - 1")]
    if recipe.classes and not (of_images and recipe.objective.labelled):
        code += [f"c = nn.functional.one_hot(torch.arange(4), {recipe.classes}).float()"]
        if exchange.condition:
            code += ["c = condition(c)"]
        elif of_images:
            code += [f"c = c[:, :, None, None].expand(-1, -1, {size[0]}, {size[1]})"]
        code += ["x = torch.cat([x, c], 1)"]
    if exchange.main and not of_images:
        code += ["x = x[:, :, None, None]  # an image of one pixel"]
    return code


def program(exchange: Exchange, file: Path, inputs: list[str]) -> str:
    """Return a Python program that loads an exported file with PyTorch, and calls the network."""
    load = [f"weights = load_file({str(file)!r})"]
    if exchange.condition:
        load += [
            "own = {k: weights.pop(k) for k in list(weights) if k.startswith('condition.')}",
            "nn.ModuleDict({'condition': condition}).load_state_dict(own)",
        ]
    owner = "nn.ModuleDict({'main': main})" if exchange.main else "main"
    return "\n".join(
        (
            "import torch",
            "from safetensors.torch import load_file",
            "from torch import nn",
            "",
            exchange.code(),
            *load,
            f"{owner}.load_state_dict(weights)",
            "main.eval()  # BatchNorm with its running statistics, no Dropout",
            "with torch.no_grad():",
            *(f"    {line}" for line in (*inputs, "y = main(x)")),
        )
    )
