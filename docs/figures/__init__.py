"""The figures of the site, each drawn by a function of its name: python -m docs.figures [NAME ...].

Figures are transparent, and the page replaces the colour INK by that of its text, so that they fit
light and dark themes.
"""

import io
import os
import re
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "figures"
INK = "#101112"  # placeholder for the colour of the text
BLUE, ORANGE, RED, GREEN, GREY = "#3b82c4", "#e8590c", "#d6336c", "#2f9e44", "#8a8f98"
STYLE = {
    "svg.fonttype": "path", "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "font.size": 10,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.titlesize": 10,
    "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.labelcolor": INK, "figure.dpi": 100,
    "lines.linewidth": 1.8, "grid.alpha": 0.25,
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, RED, GREY]),
}  # fmt: skip
FIGURES: dict[str, Callable[[Figure], None]] = {}
SIZES: dict[str, tuple[float, float]] = {}


def drawing(width: float = 7, height: float = 3):
    """Return a decorator that registers a function drawing a figure of this size in inches.

    The figure has the function's name.
    """

    def register(fill):
        FIGURES[fill.__name__], SIZES[fill.__name__] = fill, (width, height)
        return fill

    return register


def load() -> dict[str, Callable[[Figure], None]]:
    """Return all figures by name."""
    for module in iter_modules(__path__):
        if module.name != "__main__":
            import_module(f"{__name__}.{module.name}")
    return FIGURES


def draw(name: str) -> Path:
    """Draw one figure into FOLDER and return its path; the output is deterministic to the byte."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=SIZES[name], layout="constrained")
        FIGURES[name](figure)
        svg = io.StringIO()
        figure.savefig(
            svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True
        )
    text = svg.getvalue()[svg.getvalue().index("<svg ") :].replace(INK, "currentColor")
    salt = f"f{zlib.crc32(name.encode()):x}-"  # ids are per page: make them unique by figure
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{salt}", text)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.svg"
    part = path.with_suffix(f".{os.getpid()}")  # written atomically: builds may run in parallel
    part.write_text(text)
    return part.replace(path)


def stale(name: str) -> bool:
    """Return whether a figure is missing, or older than the figure scripts or the library."""
    path = FOLDER / f"{name}.svg"
    sources = [*Path(__file__).parent.rglob("*.py"), *(ROOT / "rawgan").rglob("*.py")]
    return not path.exists() or path.stat().st_mtime < max(
        source.stat().st_mtime for source in sources
    )
