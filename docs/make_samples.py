"""Trains every recipe for a minute or less and keeps a picture of what it draws: python -m docs.make_samples [RECIPE ...]

On drawn digits of 28x28, at a width and for a number of steps that a CPU manages while one waits; the pictures, and what each took,
go to docs/samples/, from where docs/make_recipes.py puts them on the page of recipes.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from PIL import Image

FOLDER = Path(__file__).parent / "samples"
OPTIONS = {  # width, steps, and what else is not the recipe's own
    "dcgan": (16, 800, ("--lr", "1e-3", "--real-label", "0.9")),
    "cgan": (16, 800, ("--lr", "1e-3", "--real-label", "0.9")),
    "atienza_dcgan": (8, 800, ("--lr", "1e-3")),
    "atienza_cgan": (8, 800, ("--lr", "1e-3")),
    "raschka_mlp_gan": (100, 8000, ()),
    "raschka_dcgan": (32, 2000, ()),
    "raschka_wgan_gp": (16, 400, ("--batch", "64", "--lr", "1e-3")),
    "wgan": (8, 400, ("--lr", "5e-4")),
    "wgan_gp_mnist": (16, 300, ("--lr", "1e-3")),
    "wgan_gp": (16, 300, ("--lr", "1e-3")),
    "lsgan": (8, 800, ("--lr", "1e-3")),
    "hinge": (8, 800, ("--lr", "1e-3")),
    "acgan": (8, 800, ("--lr", "1e-3")),
}
TRAIN = """
import resource, sys
from rawgan.cli.main import app
app(sys.argv[1:], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def train(name: str) -> dict:
    """One recipe: its picture is written, and what it took returned."""
    width, steps, more = OPTIONS[name]
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = ["--size", "28", "--width", width, "--steps", steps, "--sample-every", steps, *more]
        command = [sys.executable, "-c", TRAIN, "train", name, *options, "--device", "cpu", "--out", out]
        start = perf_counter()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=Path(__file__).parents[1])
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr}")
        seconds = perf_counter() - start
        with Image.open(out / "samples" / f"step_{steps:06}.png") as grid:
            rows = 4 / 8 * grid.height
            grid.convert("L").crop((0, 0, grid.width, round(rows))).save(FOLDER / f"{name}.png", optimize=True)
    memory = int(done.stdout.split()[-1]) / (1024 if sys.platform == "linux" else 1024**2)
    said = {"width": width, "steps": steps, "options": " ".join(more), "seconds": round(seconds), "MiB": round(memory)}
    return said | {"machine": f"{platform.machine()}, CPU"}


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "samples.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in names or OPTIONS:
        found[name] = train(name)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(name, found[name], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
