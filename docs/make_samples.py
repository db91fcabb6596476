"""Train every recipe by its default command and keep its samples.

    python -m docs.make_samples [RECIPE ...]

The command is `rawgan train RECIPE`, in sequence. The images, and the cost of each training, go to
docs/samples/, from where docs/make_recipes.py puts them on the page of recipes.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from PIL import Image

from rawgan.models.recipes import RECIPES

FOLDER = Path(__file__).parent / "samples"
ROWS = 4  # of the 8 rows of a grid


def train(name: str) -> dict:
    """Train one recipe, write its image, and return the cost of the training.

    The cost is the CPU time, which other programs on the machine change little, the wall time, and
    the peak of the memory.
    """
    recipe = RECIPES[name]
    with TemporaryDirectory() as folder:
        run, log = Path(folder) / "run", Path(folder) / "log"
        command = [sys.executable, "-m", "rawgan", "train", name, "--out", str(run)]
        start = perf_counter()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=Path(__file__).parents[1]
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{name}: {log.read_text()}")
        with Image.open(run / "samples" / f"step_{recipe.default.steps:06}.png") as grid:
            size = (0, 0, grid.width, round(ROWS / 8 * grid.height))
            grid.convert("L").crop(size).save(FOLDER / f"{name}.png", optimize=True)
    return {
        "setting": recipe.describe(recipe.default),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
        "seconds": round(seconds),
        "MiB": round(usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def main(names: list[str]) -> None:
    path = FOLDER / "samples.json"
    for name in names or RECIPES:
        record = train(name)
        records = json.loads(path.read_text()) if path.exists() else {}
        records = {key: (records | {name: record}).get(key) for key in RECIPES}
        records = {key: value for key, value in records.items() if value is not None}
        path.write_text(json.dumps(records, indent=1) + "\n")
        print(name, record, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
