"""The folder of a run: what it was told, what it measured, what it drew, what it learned."""

import csv
import errno
import io
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

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
            sync_folder(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """The names in a folder, on the disk itself, where the system can do that for folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


class Table:
    """A CSV file that grows by a line at a time, each on disk as far as the system's cache at once, and can be cut back.

    `rows` are its lines as numbers. Only what follows from the seed stands in it, no times: two runs of one seed give identical
    files.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]):
        self.path, self.columns, self.rows = path, columns, []
        if not path.exists():
            write_whole(path, self.text())
        self.file = open_unbuffered(path)

    def text(self, rows: list[dict[str, float]] | None = None) -> bytes:
        """The whole file; or the lines of some rows."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        if rows is None:
            writer.writeheader()
        writer.writerows(self.rows if rows is None else rows)
        return text.getvalue().encode()

    def log(self, *rows: dict[str, float]) -> None:
        """Adds lines. Raises UserError where they cannot be written."""
        try:
            line = memoryview(self.text(list(rows)))
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error
        self.rows += rows

    def cut(self, step: int, every: int) -> None:
        """Goes back to the lines of steps up to `step` and divisible by `every`: what an end, or a kill, added goes.

        Raises UserError, changing nothing, where the file is not such a table.
        """
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # without the half line of a killed run
        try:
            header, *lines = csv.reader(io.StringIO(whole.decode()), strict=True)
            if tuple(header) != self.columns:
                raise ValueError("it has other columns")
            numbers = ((int(step), *map(float, rest)) for step, *rest in lines)
            rows = [dict(zip(self.columns, line, strict=True)) for line in numbers]
        except (ValueError, csv.Error) as error:
            raise UserError(f"{self.path} is not the table that this run wrote ({error}); move it away to go on") from error
        self.rows = [row for row in rows if row["step"] <= step and row["step"] % every == 0]
        self.file.close()
        write_whole(self.path, self.text())
        self.file = open_unbuffered(self.path)

    def sync(self) -> None:
        """On the disk itself."""
        os.fsync(self.file.fileno())


def open_unbuffered(path: Path):
    """A file that can be added to, with nothing kept back that a later error could lose. Raises UserError."""
    try:
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


class RunFolder:
    """config.json, samples/*.png, weights.safetensors, losses.png, tables (metrics.csv ...); checkpoints/ where it can be resumed.

    `tables` names the columns of each table.
    """

    def __init__(self, path: Path, tables: dict[str, tuple[str, ...]]):
        self.path = Path(path)
        self.tables = {name: Table(self.path / f"{name}.csv", columns) for name, columns in tables.items()}

    @classmethod
    def new(cls, path: Path, config: dict, tables: dict[str, tuple[str, ...]]) -> "RunFolder":
        """Makes the folder. Raises UserError if it already holds something or cannot be made: nothing is overwritten."""
        path = Path(path)
        try:
            if path.exists() and (not path.is_dir() or any(p.name != "config.json.part" for p in path.iterdir())):
                raise UserError(f"{path} already holds something; give --out a new or an empty folder")
            path.mkdir(parents=True, exist_ok=True)
            write_config(path, config | made_with())
            (path / "samples").mkdir()
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be made: {error.strerror}") from error
        return cls(path, tables)

    @classmethod
    def again(cls, path: Path, tables: dict[str, tuple[str, ...]], step: int, every: dict[str, int]) -> "RunFolder":
        """Opens it to go on after `step`: what is of later steps, and what the last end left, goes. Raises UserError.

        `every` says at which steps each table gets a line, and "samples" a picture.
        """
        try:
            (path / "samples").mkdir(exist_ok=True)
            run = cls(path, tables)
            for name, table in run.tables.items():
                table.cut(step, every[name])
            for part in [*path.glob("*.part"), *path.glob("*/*.part")]:
                part.unlink()
            for sample in path.glob("samples/step_*.png"):
                number = sample.stem.removeprefix("step_")
                if number.isdecimal() and (int(number) > step or int(number) % every["samples"]):
                    sample.unlink()
            (path / "weights.safetensors").unlink(missing_ok=True)  # they are in the checkpoint
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be written: {error.strerror}") from error
        return run

    @property
    def metrics(self) -> list[dict[str, float]]:
        return self.tables["metrics"].rows

    def log(self, table: str, *rows: dict[str, float]) -> None:
        """Lines of a table."""
        self.tables[table].log(*rows)

    def sync(self) -> None:
        """All lines on the disk itself. Raises UserError."""
        try:
            for table in self.tables.values():
                table.sync()
        except OSError as error:
            raise UserError(f"the tables in {self.path} cannot be written: {error.strerror}") from error

    def save_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """All parameters and running statistics of all players, by name."""
        write_whole(self.path / "weights.safetensors", save(arrays))

    def close(self) -> None:
        for table in self.tables.values():
            table.file.close()


class Nowhere:
    """The run folder of a process that trains with another, which writes."""

    path, metrics = Path(os.devnull), ()

    def log(self, *_) -> None:
        """Nothing, as all that would be written."""

    save_weights = close = log


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else trains in the folder meanwhile; the lock ends with the process, however that ends. Raises UserError.

    On systems, and file systems, that lock no folders it does nothing.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is training in {folder}: wait for its end, or stop it") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        yield
    finally:
        os.close(descriptor)


def write_config(folder: Path, config: dict) -> None:
    """Writes config.json, whole."""
    write_whole(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")


def made_with() -> dict:
    """The versions that a run is made with, and the commit where rawgan runs from a git checkout."""
    versions = {"rawgan": rawgan.__version__, "python": platform.python_version(), "numpy": np.__version__}
    root = Path(rawgan.__file__).parents[1]
    commit = None
    if (root / ".git").exists() and (git := shutil.which("git")):
        command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    return {"versions": versions, "commit": commit}


def load_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a weights.safetensors. Raises UserError where there is none or it is not whole."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own kinds for every broken header
        raise UserError(f"{path} is no readable weights file ({error})") from error
