"""The files of a run folder, read without trust: what is not there and what cannot be read is noted, not raised."""

import base64
import csv
import io
import json
import re
from pathlib import Path

LARGEST = 32 << 20  # bytes of a file that is read
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Reader:
    """Reads files of a run; `missing` names those that are not there, `broken` says of others why they cannot be used."""

    def __init__(self, run: Path):
        self.run, self.missing, self.broken = run, [], []

    def bytes(self, name: str) -> bytes | None:
        """What a file holds, or None."""
        path = self.run / name
        try:
            if not path.exists():
                self.missing.append(name)
                return None
            if not path.is_file() or path.stat().st_size > LARGEST:
                raise ValueError(f"it is no file of at most {LARGEST >> 20} MiB")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            self.broken.append(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")
            return None

    def text(self, name: str) -> str | None:
        """The same as text."""
        content = self.bytes(name)
        return None if content is None else content.decode("utf-8", "replace")

    def json(self, name: str) -> dict | None:
        """The object in a JSON file, or None."""
        content = self.bytes(name)
        if content is None:
            return None
        try:
            found = json.loads(content)
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
        except (ValueError, RecursionError) as error:
            self.broken.append(f"{name} is no JSON as a run writes it: {error}")
            return None
        return found

    def table(self, name: str, needs: tuple[str, ...] = ("step",)) -> dict[str, list[float]] | None:
        """The columns of a CSV file of numbers, or None; a last line that was cut off is left out, as a killed run leaves one."""
        content = self.text(name)
        if content is None:
            return None
        try:
            whole = content[: content.rfind("\n") + 1]
            header, *rows = [row for row in csv.reader(io.StringIO(whole)) if row] or [[]]
            if not set(needs) <= set(header):
                raise ValueError(f"it has no column {' and '.join(needs)}")
            if len(set(header)) < len(header) or any(len(row) != len(header) for row in rows):
                raise ValueError("its lines differ in length")
            columns = {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}
        except (ValueError, csv.Error) as error:
            self.broken.append(f"{name} is no table of numbers: {error}")
            return None
        if not rows:
            self.broken.append(f"{name} has no line yet")
            return None
        return columns

    def lines(self, name: str) -> list[str] | None:
        """The lines of a text file that say something, or None."""
        content = self.text(name)
        return None if content is None else [line for line in content.splitlines() if line.strip()]

    def samples(self) -> dict[int, str]:
        """The sample grids by step."""
        folder = self.run / "samples"
        names = [path.name for path in sorted(folder.glob("step_*.png"))] if folder.is_dir() else []
        grids = {int(match[1]): f"samples/{name}" for name in names if (match := re.fullmatch(r"step_(\d{1,15})\.png", name))}
        if not grids:
            self.missing.append("samples/step_*.png")
        return grids

    def png(self, name: str) -> str | None:
        """A PNG as a data URL, or None."""
        content = self.bytes(name)
        if content is None:
            return None
        if not content.startswith(SIGNATURE):
            self.broken.append(f"{name} is no PNG")
            return None
        return "data:image/png;base64," + base64.b64encode(content).decode()


def evenly(items: list, most: int) -> list:
    """At most `most` of the items, both ends among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
