"""Tables of a run as CSV files: metrics.csv, gradients.csv, penalty_norms.csv."""

import csv
import io
import os
from pathlib import Path

from rawgan.errors import UserError, reason
from rawgan.files import kind, read_file, write_whole

TABLE_BYTES = 256 << 20  # of a table that is read
Row = dict[str, float]


class Table:
    """A CSV file to which rows are appended without a buffer.

    rows: its content as numbers. It holds nothing but functions of the seed, no times: two runs of
    one seed write identical files. Raises UserError where it cannot be written.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], rows: list[Row] | None = None):
        self.path, self.columns, self.rows = path, columns, rows or []
        write_whole(path, self.encoded())
        flags = (
            os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        )
        try:
            self.file = open(path, "ab", buffering=0, opener=lambda name, _: os.open(name, flags))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {reason(error)}") from error

    def encoded(self, rows: list[Row] | None = None) -> bytes:
        """Return the bytes of the whole file, or of the lines of these rows."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        if rows is None:
            writer.writeheader()
        writer.writerows(self.rows if rows is None else rows)
        return text.getvalue().encode()

    def log(self, *rows: Row) -> None:
        """Append rows. Raises UserError where they cannot be written."""
        try:
            line = memoryview(self.encoded(list(rows)))
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {reason(error)}") from error
        self.rows += rows

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self.file.fileno())


def read_rows(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """Return the rows of a table without the partial line of a killed run; [] where there is none.

    Raises UserError where the file is not a table with these columns.
    """
    if kind(path) is None:
        return []
    try:
        content = read_file(path, TABLE_BYTES)
        header, *lines = csv.reader(
            io.StringIO(content[: content.rfind(b"\n") + 1].decode()), strict=True
        )
        if tuple(header) != columns:
            raise ValueError("it has other columns")
        numbers = ((int(step), *map(float, rest)) for step, *rest in lines)
        return [dict(zip(columns, line, strict=True)) for line in numbers]
    except (ValueError, csv.Error, MemoryError) as error:
        raise UserError(
            f"{path} is not the table that this run wrote ({reason(error)}); move it away to go on"
        ) from error
