"""rawgan export: a trained network for PyTorch or ONNX."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from safetensors.numpy import save

from rawgan.cli.common import RunArgument
from rawgan.errors import UserError
from rawgan.exchange import Exchange, onnx_model
from rawgan.layers import state
from rawgan.training.load import load_player
from rawgan.training.run import write_whole


class Format(StrEnum):
    pytorch = "pytorch"
    onnx = "onnx"


class Player(StrEnum):
    generator = "generator"
    average = "average"
    discriminator = "discriminator"


def command(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="file to write, new: .safetensors for PyTorch, .onnx for ONNX")],
    format: Annotated[Format, typer.Option(help="for PyTorch, or the generator for any program that reads ONNX")] = Format.pytorch,
    player: Annotated[Player | None, typer.Option(help="which network; unless given, the one that pictures are drawn with")] = None,
):
    """Writes a trained network for PyTorch, or its generator for ONNX.

    For PyTorch, a dcgan has the names of pytorch/examples (main.0.weight ...); every other recipe those of a plain nn.Sequential
    (0.weight ...), which is printed as code to paste. Images are (N, C, H, W) there. A conditional network takes the one-hot labels
    beside z, or beside the image as constant planes.

    `rawgan export runs/dcgan-digits-001 --out generator.safetensors`

    `rawgan export runs/dcgan-digits-001 --format onnx --out generator.onnx`
    """
    suffix = {Format.pytorch: ".safetensors", Format.onnx: ".onnx"}[format]
    if out.suffix != suffix:
        raise UserError(f"--format {format} writes a {suffix} file: give --out such a name, not {out.name!r}")
    if out.exists():
        raise UserError(f"{out} is there already; give --out another name")
    recipe, net, config = load_player(run, player)
    size, channels, width = (config[name] for name in ("size", "channels", "width"))
    if format is Format.onnx:
        if player is Player.discriminator:
            raise UserError("--format onnx writes generators: leave --player discriminator out, or choose --format pytorch")
        write_whole(out, onnx_model(net, recipe.z, recipe.classes, recipe.name).SerializeToString())
    else:
        shape = (size, size, channels) if player is Player.discriminator else (recipe.z,)
        exchange = Exchange(net, shape, recipe.name == "dcgan")
        said = {"recipe": recipe.name, "size": size, "channels": channels, "width": width}
        metadata = {"format": "pt", "rawgan": json.dumps(said), "pytorch": exchange.code()}
        write_whole(out, save(exchange.export(state(net)), metadata))
        print(exchange.code())
    pixels = "[-1, 1]" if recipe.pixels == "tanh" else "[0, 1]"
    print(f"The {player or 'generator'} of {recipe.name}, pixels in {pixels}, is in {out}")
