"""The examples called as a user calls them, and tiny runs to call them on (it has no tests itself)."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from rawgan.training.options import Options
from rawgan.training.session import start as start_training

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
PATIENCE = 120  # seconds that any process may take on a busy machine


def start(cwd, script, *args):
    """An example in a process of its own: (exit status, stdout, stderr)."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def assert_one_sentence(answer, *words):
    """Exit status 2, and one line on stderr that holds all the words."""
    code, _, err = answer
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err


def size_of(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def write_pictures(folder):
    """120 labelled pictures of 16x16 as IDX files."""
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(256, size=(120, 16, 16), dtype=np.uint8), (np.arange(120) % 10).astype(np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, *pictures.shape) + pictures.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 120) + labels.tobytes())
    return folder


def train(name, data, out, **changes):
    """A tiny run of a recipe, in this process."""
    options = {"recipe": name, "data": str(data), "size": 16, "width": 4, "steps": 2, "batch": 8, "device": "cpu"}
    start_training(Options(**(options | changes)), out)
    return out
