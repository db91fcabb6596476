"""rawgan import: make a run folder from a network trained in PyTorch."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rawgan.data.images import MAX_SIZE
from rawgan.errors import UserError, reason
from rawgan.exchange import Exchange
from rawgan.files import Unreadable, load_arrays
from rawgan.layers import parameter_count
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.training.load import MAX_CLASSES, class_names, make_player
from rawgan.training.options import find_recipe, integer_in
from rawgan.training.run_folder import RunFolder

PREFIXES = ("_orig_mod.", "module.")  # of all names, from torch.compile and nn.DataParallel


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="the generator's state_dict, as safetensors")
    ],
    recipe: Annotated[str, typer.Option(help=f"what it is: {', '.join(RECIPES)}, or FILE.py")],
    out: Annotated[Path, typer.Option(help="run folder, new or empty")],
    discriminator: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the discriminator's, where you have it")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_SIZE, help="image side; the file's or the recipe's own unless given"
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, max=3, help="1 or 3; the file's or the recipe's own unless given"),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_SIZE, help="of the networks; the file's or recipe's own unless given"
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=2, max=MAX_CLASSES, help="of a conditional network; the file's or 10 unless given"
        ),
    ] = None,
):
    """Make a run folder of a network trained in PyTorch, to sample, interpolate and evaluate.

    The file is a state_dict saved with safetensors.torch.save_file, with names and layout as rawgan
    export writes them, for a dcgan those of pytorch/examples; float16 and bfloat16 become float32,
    and the prefix module. of nn.DataParallel is removed from the names. A pickle (.pt, .pth) is not
    read: it could run any program.

    `rawgan import netG.safetensors --recipe dcgan --out runs/imported`
    """
    definition = find_recipe(recipe)
    recipe = definition.name
    options = {"size": size, "channels": channels, "width": width}
    files = {"generator": file} | ({"discriminator": discriminator} if discriminator else {})
    weights, config, labels = {}, {}, {}
    for who, path in files.items():
        arrays, origin = read(path)
        if (other := origin.get("recipe", recipe)) != recipe:
            raise UserError(f"{path} is a network of {other}: give --recipe {other}")
        defaults = {name: origin.get(name, getattr(definition, name)) for name in options}
        config = defaults | {name: v for name, v in options.items() if v is not None}
        names = origin.get("classes") if classes is None else list(map(str, range(classes)))
        if definition.classes and names is not None:
            labels = {"classes": class_names({"classes": names}, path)}
            definition = definition.with_classes(len(names))
        network = converted(definition, who, config, arrays, path)
        weights |= {f"{who}.{name}": a for name, a in network.items()}
    config = (
        {"recipe": recipe, "data": None}
        | config
        | labels
        | {"imported": {who: path.name for who, path in files.items()}}
    )
    run = RunFolder.new(out, config, {}, recipe_file=definition.file)
    try:
        run.save_weights(weights)
    except UserError:
        run.discard()
        raise
    run.close()
    option = f" --recipe {definition.file.path}" if definition.file else ""
    print(
        f"{' and '.join(files)} of {recipe} are in {out}/; draw with: rawgan sample {out}{option}"
    )


def converted(
    recipe: Recipe, who: str, config: dict, arrays: dict[str, np.ndarray], path: Path
) -> dict[str, np.ndarray]:
    """Return rawgan's parameters by name from a file's arrays. Raises UserError."""
    try:
        net = make_player(recipe, who, config)
        # compared before the parameters are allocated
        if parameter_count(net, buffers=True) != sum(a.size for a in arrays.values() if a.ndim):
            raise UserError("the number of weights is another")
        shape = (
            (config["size"], config["size"], config["channels"])
            if who == "discriminator"
            else (recipe.z,)
        )
        ours = Exchange(net, shape, recipe.name == "dcgan").load(arrays)
    except (UserError, ValueError, MemoryError) as error:
        sizes = ", ".join(f"{name} {value}" for name, value in config.items())
        message = f"{path} is not the {who} of {recipe.name} with {sizes}: {error}"
        raise UserError(message) from error
    return {name: a.astype(np.float32, copy=False) for name, a in ours.items()}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return arrays of a safetensors file and rawgan export's metadata. Raises UserError."""
    if path.suffix in (".pt", ".pth", ".pkl", ".bin"):
        raise UserError(
            f"{path} is a pickle, which could run any program: "
            "save the state_dict with safetensors.torch.save_file"
        )
    try:
        arrays, metadata = load_arrays(path, follow=True)
        origin = json.loads(metadata.get("rawgan", "{}"))
    except (Unreadable, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable safetensors file ({reason(error)})") from error
    usable = isinstance(origin, dict) and isinstance(origin.get("recipe", ""), str)
    if not usable or not all(
        integer_in(1, MAX_SIZE)(origin.get(name, 1)) for name in ("size", "channels", "width")
    ):
        raise UserError(
            f"the metadata of {path} cannot be used: it was not written by rawgan export"
        )
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): a for name, a in arrays.items()}
    return arrays, origin
