"""Build the site into build/docs: python -m docs.build [--serve] [FOLDER].

With --serve it is then served on this machine, at http://localhost:8000, until Ctrl-C.

Draws the figures that are out of date, then runs Sphinx with warnings as errors. Neither the build
nor the pages use the network.
"""

import sys
from argparse import ArgumentParser
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sphinx.cmd.build import build_main

from docs.figures import draw, load, stale

ROOT = Path(__file__).parents[1]


def figures() -> None:
    """Draw every figure that is out of date."""
    with ProcessPoolExecutor(initializer=load) as pool:
        for path in pool.map(draw, [name for name in load() if stale(name)]):
            print(f"drawn: {path.stem}", flush=True)


def main(folder: Path) -> int:
    """Build the site; return Sphinx's exit status, nonzero after a warning."""
    figures()
    options = [
        "-q",
        "-W",
        "--keep-going",
        "-E",
        "-a",
        "-b",
        "html",
        "-d",
        str(folder / ".doctrees"),
    ]
    status = build_main([*options, str(ROOT / "docs"), str(folder)])
    if status == 0:
        print(f"open {folder / 'index.html'}")
    return status


def serve(folder: Path, port: int = 8000) -> None:
    """Serve a folder on this machine until Ctrl-C."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("localhost", port), handler) as server, suppress(KeyboardInterrupt):
        print(f"serving http://localhost:{server.server_port}, until Ctrl-C", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m docs.build", description="Build the documentation.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build/docs")
    parser.add_argument("--serve", action="store_true", help="then serve it until Ctrl-C")
    args = parser.parse_args()
    status = main(args.folder)
    if status == 0 and args.serve:
        serve(args.folder)
    sys.exit(status)
