"""The folder of a run: what it was told, what it measured, what it drew, what it learned."""

import csv
import json
import os
import platform
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

import rawgan
from rawgan.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that its name never stands for half of it: to a temporary neighbour first, then renamed.

    Raises UserError, leaving neither behind, where it cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def prepare_picture(path: Path) -> None:
    """Makes the folder of a PNG that is to be written. Raises UserError for another suffix, and where the file is there already."""
    if path.suffix.lower() != ".png":
        raise UserError(f"the picture is a PNG, but {path} does not end in .png")
    if path.exists():
        raise UserError(f"{path} is there already; give --out another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path.parent} cannot be made: {error.strerror}") from error


def free_folder(stem: Path) -> Path:
    """The first of stem-001, stem-002, ... that does not exist."""
    n = 1
    while (folder := stem.with_name(f"{stem.name}-{n:03}")).exists():
        n += 1
    return folder


class RunFolder:
    """config.json, metrics.csv, samples/*.png, losses.png, weights.safetensors.

    `metrics` names the columns of metrics.csv, which has only what follows from the seed, no times, so that two runs of one
    seed give identical files.
    Raises UserError if the folder already holds something or cannot be made: nothing is overwritten.
    """

    def __init__(self, path: Path, config: dict, metrics: tuple[str, ...]):
        self.path = Path(path)
        try:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(f"{self.path} already holds something; give --out a new or an empty folder")
            (self.path / "samples").mkdir(parents=True)
            versions = {"rawgan": rawgan.__version__, "python": platform.python_version(), "numpy": np.__version__}
            write_whole(self.path / "config.json", json.dumps(config | {"versions": versions}, indent=2).encode() + b"\n")
            self._csv = open(self.path / "metrics.csv", "w", newline="", encoding="utf-8")
        except OSError as error:
            raise UserError(f"the run folder {self.path} cannot be made: {error.strerror}") from error
        self.metrics: list[dict[str, float]] = []
        self._writer = csv.DictWriter(self._csv, metrics)
        self._writer.writeheader()

    def log(self, row: dict[str, float]) -> None:
        """One line of metrics.csv, on disk at once."""
        self.metrics.append(row)
        try:
            self._writer.writerow(row)
            self._csv.flush()
        except OSError as error:
            raise UserError(f"{self._csv.name} cannot be written: {error.strerror}") from error

    def save_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """All parameters and running statistics of both players, by name."""
        write_whole(self.path / "weights.safetensors", save(arrays))

    def close(self) -> None:
        self._csv.close()


def load_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a weights.safetensors. Raises UserError where there is none or it is not whole."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own kinds for every broken header
        raise UserError(f"{path} is no readable weights file ({error})") from error
