"""Start and resume the training of a system in a run folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rawgan.backend import Device
from rawgan.errors import UserError
from rawgan.files import kind, locked
from rawgan.training.checkpoint import checkpoints
from rawgan.training.loop import LOG_EVERY, Recorder, train_loop
from rawgan.training.options import absolute, read_config
from rawgan.training.plots import columns
from rawgan.training.run_folder import (
    RunFolder,
    check_folder,
    check_free,
    free_folder,
    write_config,
)
from rawgan.training.systems import SYSTEMS
from rawgan.training.systems.base import SystemOptions, Training, recorded


def is_system(folder: Path) -> bool:
    """Return whether a run folder is of one of SYSTEMS."""
    try:
        return read_config(Path(folder) / "config.json").get("recipe") in SYSTEMS
    except UserError:
        return False


def start(options: SystemOptions, device: Device, out: Path | None = None) -> tuple[int, int]:
    """Train from the first step in a new run folder; return the steps done and those requested.

    Raises UserError.
    """
    with new_run(options, device, out) as (training, recorder):
        return train_all(training, recorder), options.steps


@contextmanager
def new_run(
    options: SystemOptions, device: Device, out: Path | None = None
) -> Iterator[tuple[Training, Recorder]]:
    """Yield the training and the recorder of a new run folder; print the outcome at the end.

    out: the folder, new or empty; the next free runs/SYSTEM-DATA-NNN by default. Raises UserError.
    """
    if out is not None:
        check_free(out)
    training = open_training(options, device)
    images, name = training.images, options.recipe
    _, H, _, C = images.images.shape
    options = replace(options, source=absolute(options.source), size=H, channels=C)
    config = {"recipe": name, "data": images.name} | asdict(options)
    config |= {"device": device.name, "backend": device.library, "pictures": training.fingerprint()}
    config |= training.entries()
    folder = out or free_folder(Path("runs") / f"{name}-{images.name}")
    tables = {"metrics": columns(training.panels)}
    training.run = RunFolder.new(folder, config, tables, created=out is None)
    with recorded(training) as recorder:
        yield training, recorder


def open_training(options: SystemOptions, device: Device) -> Training:
    """Load the images and return the training; print data and model. Raises UserError."""
    images = options.load_images()
    _, H, _, C = images.images.shape
    print(f"Data: {len(images)} images of {H}x{H}x{C}: {images.source}.")
    training = SYSTEMS[options.recipe](options, images, device)
    print(f"Model: {training.describe()}", flush=True)
    return training


def train_all(training: Training, recorder: Recorder) -> int:
    """Train to the last step of the options; return the steps done."""
    options = training.options
    return train_loop(training.run_steps, recorder, options.sample_every, options.checkpoint_every)


def resume(folder: Path, device: Device, **changes) -> tuple[int, int]:
    """Train on from the last checkpoint of a run; return as `start`. Raises UserError.

    changes: steps, sample_every, checkpoint_every, keep, and source, where the pictures have moved.
    """
    folder = Path(folder)
    check_folder(folder)
    path = folder / "config.json"
    config = read_config(path)
    options_type = SYSTEMS[config["recipe"]].options_type
    options = replace(options_type.from_config(config, path), **changes)
    with ExitStack() as locks:
        training = open_training(options, device)
        locks.enter_context(locked(folder))
        if config.get("pictures") != training.fingerprint():
            raise UserError(
                f"{folder} was trained on other pictures than those in {options.source}"
            )
        saved = checkpoints(folder)
        if saved:
            training.restore([*saved.values()][-1])
        complete = training.done >= options.steps
        if complete and kind(folder / "weights.safetensors"):
            raise UserError(
                f"{folder} has done its {training.done} steps: ask for more, --steps N, to go on"
            )
        period = 1 if complete else options.sample_every
        kept = (period, *((config["sample_every"],) if "sample_every" in changes else ()))
        training.run = RunFolder.reopen(
            folder,
            {"metrics": columns(training.panels)},
            training.done,
            {"metrics": (1 if complete else LOG_EVERY,), "samples": kept},
            config,
            training.weights(),
            training.pictures,
        )
        write_config(folder, config | asdict(replace(options, source=absolute(options.source))))
        print(f"Resuming {folder} after step {training.done} of {options.steps}.", flush=True)
        with recorded(training) as recorder:
            return train_all(training, recorder), options.steps
