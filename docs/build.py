"""Builds the site into build/docs: python -m docs.build [FOLDER]

Draws the figures that are out of date, then runs Sphinx with every warning an error. Reads no network, and neither do the pages.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sphinx.cmd.build import build_main

from docs.figures import draw, load, stale

ROOT = Path(__file__).parents[1]


def figures() -> None:
    """Every figure, newly drawn where it is out of date."""
    with ProcessPoolExecutor(initializer=load) as pool:
        for path in pool.map(draw, [name for name in load() if stale(name)]):
            print(f"drawn: {path.stem}", flush=True)


def main(folder: Path) -> int:
    """Sphinx's exit status: 0, or what a warning makes of it."""
    figures()
    options = ["-q", "-W", "--keep-going", "-E", "-a", "-b", "html", "-d", str(folder / ".doctrees")]
    status = build_main([*options, str(ROOT / "docs"), str(folder)])
    if status == 0:
        print(f"open {folder / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/docs")))
