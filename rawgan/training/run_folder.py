"""The folder of a run: config.json, tables, samples, checkpoints, weights.

A new run reserves and locks its folder. A resumed run removes what is newer than its checkpoint,
and refuses a folder with anything that this run cannot have written.
"""

import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rawgan.errors import UserError, reason
from rawgan.files import Unreadable, kind, load_arrays, locked, save_arrays, write_whole
from rawgan.models.recipe import RecipeFile
from rawgan.training.software import software
from rawgan.training.tables import Row, Table, read_rows

Columns = dict[str, tuple[str, ...]]  # of each table by its name
RECIPE = "recipe.py"  # the copy of a recipe file
FOLDERS = ("samples", "checkpoints", "tensorboard")  # of a run
FILES = (
    "config.json",
    RECIPE,
    "weights.safetensors",
    "diagnosis.txt",
    "report.html",
    "evaluation.json",
    "sample.png",
    "real.png",
    "progress.gif",
)


def prepare_picture(path: Path) -> None:
    """Make the folder of a new PNG. Raises UserError for another suffix or an existing file."""
    if path.suffix.lower() != ".png":
        raise UserError(f"the picture is a PNG, but {path} does not end in .png")
    if path.exists():
        raise UserError(f"{path} is there already; give --out another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path.parent} cannot be made: {reason(error)}") from error


def free_folder(stem: Path) -> Path:
    """Make and return the first of stem-001, stem-002, ... that did not exist. Raises UserError."""
    n = 1
    while True:
        folder = stem.with_name(f"{stem.name}-{n:03}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            n += 1
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be made: {reason(error)}") from error


class RunFolder:
    """An open run folder. Use `new` or `reopen`.

    tables   the open tables by name
    created  whether the folder was created for this run
    lock     the lock of a new run's folder
    """

    def __init__(self, path: Path, tables: Columns, rows: dict[str, list[Row]] | None = None):
        self.path, self.created, self.lock = Path(path), False, ExitStack()
        self.tables = {
            name: Table(self.path / f"{name}.csv", columns, (rows or {}).get(name))
            for name, columns in tables.items()
        }

    @classmethod
    def new(
        cls,
        path: Path,
        config: dict,
        tables: Columns,
        created: bool = False,
        recipe_file: RecipeFile | None = None,
    ) -> "RunFolder":
        """Reserve a new or empty folder, lock it, and write config.json and empty tables.

        created: the folder was just created for this run. recipe_file: of which the folder keeps a
        copy. Raises UserError if it holds anything or cannot be created: nothing is overwritten,
        and what this call created is removed.
        """
        config = config | (recipe_file.entry if recipe_file else {})
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
                created = True
            except FileExistsError:
                if not path.is_dir():
                    raise UserError(
                        f"{path} already is a file; give --out a new or an empty folder"
                    ) from None
            with ExitStack() as lock:
                lock.enter_context(locked(path))
                leftovers = [*path.iterdir()]
                if not all(is_temporary(entry, ("config.json",)) for entry in leftovers):
                    raise UserError(
                        f"{path} already holds something; give --out a new or an empty folder"
                    )
                for entry in leftovers:  # of a start that was killed
                    entry.unlink()
                try:
                    write_config(path, config | software())
                    keep_recipe(path, recipe_file)
                    (path / "samples").mkdir()
                    run = cls(path, tables)
                except BaseException:
                    remove_start(path, tables, created)
                    raise
                run.created, run.lock = created, lock.pop_all()
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be made: {reason(error)}") from error
        return run

    @classmethod
    def reopen(
        cls,
        path: Path,
        tables: Columns,
        step: int,
        periods: dict[str, tuple[int, ...]],
        config: dict,
        weights: dict,
        pictures: tuple[str, ...] = ("step",),
    ) -> "RunFolder":
        """Open a folder to continue after the checkpoint of `step`; remove what is newer.

        periods: of each table's rows and of "samples", in steps; rows and samples between, which
        the end of a run writes, are removed too. config: the content of config.json. weights: those
        of the checkpoint. pictures: the names of the samples. Raises UserError, before anything is
        changed, where the folder holds something that this run cannot have written, or something
        so much newer than `step` that a checkpoint must be missing.
        """
        check_folder(path)
        rows = {name: read_rows(path / f"{name}.csv", columns) for name, columns in tables.items()}
        samples = [
            (n, file)
            for name in pictures
            for n, file in numbered_samples(path, name).items()
            if n <= max(step, config["steps"])
        ]
        period = config["checkpoint_every"]
        check_no_later_steps(path, rows, dict(samples), step, step - step % period + period)
        check_same_weights(path / "weights.safetensors", weights, step)
        try:
            (path / "samples").mkdir(exist_ok=True)
            for name, lines in rows.items():
                regular = (row for row in lines if on_period(row["step"], periods[name]))
                rows[name] = [row for row in regular if row["step"] <= step]
            run = cls(path, tables, rows)
            for part in temporaries(path, tables):
                part.unlink()
            for number, sample in samples:
                if number > step or not on_period(number, periods["samples"]):
                    sample.unlink()
            (path / "weights.safetensors").unlink(missing_ok=True)  # the checkpoint has them
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be written: {reason(error)}") from error
        return run

    def discard(self) -> None:
        """Remove the files of a training that ended before its first step."""
        self.close()
        remove_start(self.path, self.tables, self.created)

    @property
    def metrics(self) -> list[Row]:
        """Return the rows of metrics.csv."""
        return self.tables["metrics"].rows

    def log(self, table: str, *rows: Row) -> None:
        """Append rows to a table. Raises UserError."""
        self.tables[table].log(*rows)

    def sync(self) -> None:
        """Flush all tables to the disk. Raises UserError."""
        try:
            for table in self.tables.values():
                table.sync()
        except OSError as error:
            raise UserError(
                f"the tables in {self.path} cannot be written: {reason(error)}"
            ) from error

    def save_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """Write weights.safetensors. Raises UserError."""
        write_whole(self.path / "weights.safetensors", save_arrays(arrays))

    def close(self) -> None:
        """Close the tables and release the lock."""
        for table in self.tables.values():
            table.file.close()
        self.lock.close()


class NullRunFolder:
    """The run folder of a rank that writes nothing."""

    path, metrics = Path(os.devnull), ()

    def log(self, table: str, *rows: Row) -> None:
        """Write no rows."""

    def save_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """Write no weights."""

    def close(self) -> None:
        """Close nothing."""

    def discard(self) -> None:
        """Remove nothing."""


def on_period(step: float, periods: tuple[int, ...]) -> bool:
    """Return whether a step is a multiple of one of the periods."""
    return any(step % period == 0 for period in periods)


def check_free(path: Path) -> None:
    """Raise UserError where a new run folder cannot be, before the data are loaded."""
    if path.is_dir():
        if not all(is_temporary(entry, ("config.json",)) for entry in path.iterdir()):
            raise UserError(f"{path} already holds something; give --out a new or an empty folder")
        return
    if kind(path):
        raise UserError(f"{path} already is a file; give --out a new or an empty folder")
    parent = next(p for p in Path(path).absolute().parents if p.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(
            f"the run folder {path} cannot be made: {parent} is no folder that can be written"
        )


def remove_start(path: Path, tables, created: bool) -> None:
    """Remove what a start has written into a run folder, and the folder if `created` for it."""
    for name in (
        "config.json",
        RECIPE,
        "diagnosis.txt",
        "real.png",
        "samples/step_000000.png",
        *(f"{table}.csv" for table in tables),
    ):
        (path / name).unlink(missing_ok=True)
    for folder in ("checkpoints", "samples"):
        if kind(path / folder) == "a folder" and not any((path / folder).iterdir()):
            (path / folder).rmdir()
    shutil.rmtree(path / "tensorboard", ignore_errors=True)
    if created and not any(path.iterdir()):
        path.rmdir()


def check_folder(run: Path) -> None:
    """Raise UserError where a run folder, or a folder in it, holds a link or a special file."""
    for folder in (run, *(run / name for name in FOLDERS)):
        if folder != run and kind(folder) is None:
            continue
        try:
            entries = (
                sorted(folder.iterdir())
                if folder == run or kind(folder) == "a folder"
                else [folder]
            )
        except OSError as error:
            raise UserError(f"{folder} cannot be read: {reason(error)}") from error
        for entry in entries:
            wanted = "a folder" if entry.parent == run and entry.name in FOLDERS else None
            if (actual := kind(entry)) not in ((wanted,) if wanted else ("a file", "a folder")):
                raise UserError(
                    f"{entry} is {actual}, and a run folder has {wanted or 'a file or a folder'} "
                    "there: put that in its place"
                )


def numbered_samples(run: Path, name: str = "step") -> dict[int, Path]:
    """Return the sample grids NAME_NNNNNN.png of a run by step, in order."""
    folder, grids = run / "samples", {}
    if kind(folder) != "a folder":
        return grids
    for path in folder.iterdir():
        if match := re.fullmatch(rf"{name}_([0-9]{{6,18}})\.png", path.name):
            grids[int(match[1])] = path
    return dict(sorted(grids.items()))


def check_no_later_steps(path: Path, rows: dict, samples: dict, step: int, limit: int) -> None:
    """Raise UserError where a table or a sample is of a step after `limit`.

    limit: the step of the checkpoint after that of `step`; a run that reached it has that one too.
    """
    last = {
        path / f"{name}.csv": max((row["step"] for row in lines), default=0)
        for name, lines in rows.items()
    }
    for file, reached in (last | {file: n for n, file in samples.items()}).items():
        if reached > limit:
            moved = file.parent if file.parent != path else file
            raise UserError(
                f"{file} is of step {reached}, but {last_checkpoint(step)}: put the later "
                f"checkpoints back, or, to go back to step {step} and lose what came after it, "
                f"move {moved} away"
            )


def check_same_weights(file: Path, weights: dict[str, np.ndarray], step: int) -> None:
    """Raise UserError where weights.safetensors differs from the checkpoint: it would be lost."""
    if kind(file) is None:
        return
    saved = load_weights(file)
    if saved.keys() != weights.keys() or any(
        (a.dtype, a.shape) != (weights[name].dtype, weights[name].shape)
        or a.tobytes() != weights[name].tobytes()
        for name, a in saved.items()
    ):
        raise UserError(
            f"{file} is of another step, and {last_checkpoint(step)}: put the later checkpoints "
            f"back, or, to go back to step {step} and lose what came after it, move {file} away"
        )


def last_checkpoint(step: int) -> str:
    """Return the step of the last checkpoint in words; 0 for none."""
    return f"the last checkpoint is of step {step}" if step else "there is no checkpoint"


def is_temporary(path: Path, names) -> bool:
    """Return whether `path` is a temporary file of write_whole for one of the names."""
    match = re.fullmatch(r"(.+)\.[0-9a-f]{16}\.part", path.name)
    return bool(match) and match[1] in names and kind(path) == "a file"


def temporaries(run: Path, tables) -> list[Path]:
    """Return the temporary files of a killed run, of files that a run writes."""
    names = {
        *FILES,
        "losses.png",
        *(f"{table}.{suffix}" for table in tables for suffix in ("csv", "png")),
    }
    parts = [path for path in run.iterdir() if is_temporary(path, names)]
    for folder, suffix in (("samples", "png"), ("checkpoints", "safetensors")):
        for path in (run / folder).iterdir() if kind(run / folder) == "a folder" else ():
            if (match := re.match(rf"\w+_[0-9]{{6,18}}\.{suffix}\.", path.name)) and is_temporary(
                path, (match[0][:-1],)
            ):
                parts.append(path)
    return parts


def keep_recipe(folder: Path, file: RecipeFile | None) -> None:
    """Write recipe.py, the copy of a recipe file, unless it is there."""
    if file and kind(folder / RECIPE) is None:
        write_whole(folder / RECIPE, file.content)


def write_config(folder: Path, config: dict) -> None:
    """Write config.json in one piece."""
    write_whole(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")


def load_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a weights.safetensors. Raises UserError where it cannot be read."""
    try:
        return load_arrays(path)[0]
    except Unreadable as error:
        raise UserError(f"{path} is no readable weights file ({error})") from error
