"""Reader of a run folder's files as untrusted input: faults are noted, not raised."""

import base64
import csv
from pathlib import Path

import numpy as np

from rawgan.errors import printable, reason
from rawgan.files import TEXT, Unreadable, kind, open_file, read_file, read_json
from rawgan.training.run_folder import numbered_samples
from rawgan.training.tables import TABLE_BYTES

PICTURE = 16 << 20  # most bytes of a picture
LINE = 64 << 10  # most bytes of a line of a table
COLUMNS = 1000  # most columns of a table
ROWS = 3000  # most rows of a table, evenly spaced: a chart cannot resolve more
STEPS = 10**15  # largest valid step number
# most lines of diagnosis.txt, characters of a line, and nesting of JSON
COMPLAINTS, LETTERS, DEPTH = 100, 500, 20
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF8"}


class Reader:
    """Reader of a run's files.

    missing   names of files that do not exist
    broken    one sentence for each file that cannot be used
    """

    def __init__(self, run: Path):
        self.run, self.missing, self.broken = run, [], []

    def here(self, name: str) -> bool:
        """Return whether a file or anything else of this name exists, and note a missing one."""
        if kind(self.run / name) is None:
            self.missing.append(name)
            return False
        return True

    def note(self, sentence: str) -> None:
        """Add a sentence about a file that cannot be used."""
        self.broken.append(printable(sentence, LETTERS))

    def bytes(self, name: str, limit: int) -> bytes | None:
        """Return the content of a file, or None."""
        try:
            return read_file(self.run / name, limit) if self.here(name) else None
        except Unreadable as error:
            self.note(f"{name} cannot be read: {error}")
            return None

    def json(self, name: str) -> dict | None:
        """Return the object in a JSON file, or None."""
        try:
            content = read_json(self.run / name) if self.here(name) else None
            if content is not None and too_deep(content, DEPTH):
                raise Unreadable(f"it holds more than {DEPTH} objects within each other")
        except Unreadable as error:
            self.note(f"{name} is no JSON as a run writes it: {error}")
            return None
        return content

    def table(
        self, name: str, needs: tuple[str, ...] = ("step",), rows: int = ROWS
    ) -> dict[str, np.ndarray] | None:
        """Return the columns of a CSV file of numbers, or None.

        A last line without a line end, from an interrupted write, is not read. If there are more
        than `rows` lines, every n-th and the last one are read: time grows with the size of the
        file, memory does not.
        """
        try:
            if not self.here(name):
                return None
            header, values = thinned(self.run / name, needs, rows)
        except Unreadable as error:
            self.note(f"{name} cannot be read: {error}")
            return None
        except (ValueError, csv.Error, MemoryError) as error:
            self.note(f"{name} is no table of numbers: {reason(error)}")
            return None
        if not len(values):
            self.note(f"{name} has no line yet")
            return None
        return dict(zip(header, values.T))

    def lines(self, name: str) -> list[str] | None:
        """Return the first COMPLAINTS lines of a text file that are not blank, or None."""
        content = self.bytes(name, TEXT)
        if content is None:
            return None
        lines = [line for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
        if len(lines) > COMPLAINTS:
            self.note(f"{name} has {len(lines)} lines, of which the first {COMPLAINTS} are shown")
        return [printable(line, LETTERS) for line in lines[:COMPLAINTS]]

    def samples(self) -> dict[int, str]:
        """Return the paths of the sample grids by step."""
        if (other := kind(self.run / "samples")) not in (None, "a folder"):
            self.note(f"samples cannot be read: it is {other}, not a folder")
            return {}
        try:
            grids = {
                step: f"samples/{path.name}"
                for step, path in numbered_samples(self.run).items()
                if step < STEPS
            }
        except OSError as error:
            self.note(f"samples cannot be read: {reason(error)}")
            return {}
        if not grids:
            self.missing.append("samples/step_*.png")
        return grids

    def picture(self, name: str) -> str | None:
        """Return a PNG or GIF as a data URL, or None."""
        content = self.bytes(name, PICTURE)
        if content is None:
            return None
        kind_of = name.rpartition(".")[2]
        if not content.startswith(SIGNATURES[kind_of]):
            self.note(f"{name} is no {kind_of.upper()}")
            return None
        return f"data:image/{kind_of};base64," + base64.b64encode(content).decode()

    def optional(self, *names: str) -> dict[str, str]:
        """Return those of the pictures that exist, as data URLs by name."""
        urls = {n: self.picture(n) for n in names if kind(self.run / n) is not None}
        return {name: url for name, url in urls.items() if url}


def thinned(path: Path, needs: tuple[str, ...], most: int) -> tuple[list[str], np.ndarray]:
    """Return the header and about `most` rows of a CSV file of numbers, float64 (rows, columns).

    Raises ValueError or csv.Error.
    """
    with open_file(path, TABLE_BYTES) as file:
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
        every = max(1, -(-(lines - 1) // most))
        file.seek(0)
        header, rows = fields(file.readline(LINE)) if lines else [], []
        if not set(needs) <= set(header):
            raise ValueError(f"it has no column {' and '.join(needs)}")
        if len(header) > COLUMNS or len(set(header)) < len(header):
            raise ValueError(f"its columns are more than {COLUMNS}, or two have one name")
        for n in range(1, lines):
            line = file.readline(LINE)
            if line[-1:] != b"\n":
                raise ValueError(f"it has a line of more than {LINE >> 10} KiB")
            if (n % every and n < lines - 1) or not line.strip():
                continue
            row = fields(line)
            if len(row) != len(header):
                raise ValueError("its lines differ in length")
            rows.append(np.array(row, np.float64))
    values = np.array(rows).reshape(len(rows), len(header))
    steps = values[:, header.index("step")]
    if not ((steps >= 0) & (steps <= STEPS)).all():
        raise ValueError(f"its steps are not all from 0 to {STEPS}")
    return header, values


def fields(line: bytes) -> list[str]:
    """Return the fields of a line of a CSV file."""
    return next(csv.reader([line.decode("utf-8", "replace")]), [])


def too_deep(value: object, depth: int) -> bool:
    """Return whether objects and lists of a JSON value are nested more than `depth` deep."""
    level = [value]
    for _ in range(depth):
        holders = (
            inner.values() if isinstance(inner, dict) else inner
            for inner in level
            if isinstance(inner, dict | list)
        )
        level = [inner for holder in holders for inner in holder]
    return any(isinstance(inner, dict | list) for inner in level)


def evenly(items: list, most: int) -> list:
    """Return at most `most` of the items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
