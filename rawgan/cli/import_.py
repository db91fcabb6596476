"""rawgan import: a network trained in PyTorch, as a run."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from safetensors import SafetensorError, safe_open

from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError
from rawgan.exchange import Exchange
from rawgan.layers import parameter_count
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.training.checkpoint import one_line
from rawgan.training.load import make_player
from rawgan.training.options import whole
from rawgan.training.run import RunFolder


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the generator's state_dict, as safetensors")],
    recipe: Annotated[str, typer.Option(help=f"what it is: {', '.join(RECIPES)}")],
    out: Annotated[Path, typer.Option(help="run folder, new or empty")],
    discriminator: Annotated[Path | None, typer.Option(metavar="FILE", help="the discriminator's, where you have it")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIZE, help="image side; the file's or the recipe's own unless given")
    ] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3; the file's or the recipe's own unless given")] = None,
    width: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIZE, help="of the networks; the file's or recipe's own unless given")
    ] = None,
):
    """Makes a run folder of a network that was trained in PyTorch, to sample, to interpolate and to judge.

    The file is a state_dict saved with safetensors.torch.save_file: names and layout as rawgan export writes them, for a dcgan
    those of pytorch/examples. A pickle (.pt, .pth) is not read: it could run any program.

    `rawgan import netG.safetensors --recipe dcgan --out runs/imported`
    """
    if recipe not in RECIPES:
        raise UserError(f"{recipe!r} is no recipe; there are {', '.join(RECIPES)}")
    made, given = RECIPES[recipe], {"size": size, "channels": channels, "width": width}
    files = {"generator": file} | ({"discriminator": discriminator} if discriminator else {})
    weights, config = {}, {}
    for who, path in files.items():
        arrays, said = read(path)
        if said.get("recipe", recipe) != recipe:
            raise UserError(f"{path} is a network of {said['recipe']}: give --recipe {said['recipe']}")
        own = {name: said.get(name, getattr(made, name)) for name in given}
        config = {name: own[name] if value is None else value for name, value in given.items()}
        weights |= {f"{who}.{name}": a for name, a in converted(made, who, config, arrays, path).items()}
    config = {"recipe": recipe, "data": None} | config | {"imported": {who: path.name for who, path in files.items()}}
    run = RunFolder.new(out, config, {})
    run.save_weights(weights)
    print(f"{' and '.join(files)} of {recipe} are in {out}/; draw with: rawgan sample {out}")


def converted(recipe: Recipe, who: str, config: dict, arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Our parameters by name, of what a file holds. Raises UserError unless it is this network."""
    try:
        net = make_player(recipe, who, config)
        if parameter_count(net, buffers=True) != sum(a.size for a in arrays.values() if a.ndim):  # before memory is spent on it
            raise UserError("the number of weights is another")
        shape = (config["size"], config["size"], config["channels"]) if who == "discriminator" else (recipe.z,)
        ours = Exchange(net, shape, recipe.name == "dcgan").load(arrays)
    except (UserError, ValueError, MemoryError) as error:
        told = ", ".join(f"{name} {value}" for name, value in config.items())
        raise UserError(f"{path} is not the {who} of {recipe.name} with {told}: {error}") from error
    return {name: a.astype(np.float32, copy=False) for name, a in ours.items()}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a safetensors file, and what rawgan export says of them in it. Raises UserError."""
    if path.suffix in (".pt", ".pth", ".pkl", ".bin"):
        raise UserError(f"{path} is a pickle, which could run any program: save the state_dict with safetensors.torch.save_file")
    try:
        with safe_open(path, "numpy") as file:
            said = json.loads((file.metadata() or {}).get("rawgan", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is no readable safetensors file ({one_line(error)})") from error
    usable = isinstance(said, dict) and isinstance(said.get("recipe", ""), str)
    if not usable or not all(whole(1, MAX_SIZE)(said.get(name, 1)) for name in ("size", "channels", "width")):
        raise UserError(f"what {path} says of itself cannot be used: it was not written by rawgan export")
    return arrays, said
