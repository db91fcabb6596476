"""Counts and memory growth of a long test, printed in one line."""

import ctypes
import os
import time
from collections import Counter
from pathlib import Path


def trim() -> None:
    """Return malloc's unused blocks to the system."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident() -> int:
    """Return the resident memory of this process in bytes, after malloc has freed unused blocks."""
    trim()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Figures(Counter):
    """Number of each kind of event in a test, and the largest growth of resident memory in bytes.

    figures["kills"] += 1
    figures.grown(11 << 20)
    str(figures)    "24 runs, 31 kills; resident memory grew by 11 MB; 23 s"

    title: text before the counts.
    """

    def __init__(self):
        super().__init__()
        self.title, self.growth, self.start = "", None, time.monotonic()

    def grown(self, growth: int) -> None:
        self.growth = max(self.growth or 0, growth)

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {name}" for name, count in self.items())
        parts = [f"{self.title}: {counts}" if self.title else counts]
        if self.growth is not None:
            parts.append(f"resident memory grew by {self.growth / 2**20:.0f} MB")
        return "; ".join([*parts, f"{time.monotonic() - self.start:.0f} s"])
