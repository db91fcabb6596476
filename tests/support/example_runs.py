"""Start the examples as a user does, on tiny runs (this file contains no tests)."""

import os
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from rawgan.training.options import Options
from rawgan.training.train import start as start_training
from tests.support.process import run_process

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRONMENT = os.environ | {
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "COLUMNS": "200",
}
PATIENCE = 120  # timeout of a process in seconds, for a busy machine


def start(cwd, script, *args):
    """Run an example in a new process; return (exit status, stdout, stderr)."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, args)]
    done = run_process(command, cwd=cwd, env=ENVIRONMENT, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def assert_one_sentence(answer, *words):
    """Assert exit status 2 and one line on stderr that contains all the words."""
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
    """Write 120 labelled 16x16 images as IDX files."""
    rng = np.random.default_rng(0)
    pictures, labels = (
        rng.integers(256, size=(120, 16, 16), dtype=np.uint8),
        (np.arange(120) % 10).astype(np.uint8),
    )
    (folder / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">4I", 2051, *pictures.shape) + pictures.tobytes()
    )
    (folder / "train-labels-idx1-ubyte").write_bytes(
        struct.pack(">2I", 2049, 120) + labels.tobytes()
    )
    return folder


def train(name, data, out, **changes):
    """Train a tiny run of a recipe in this process."""
    options = {
        "recipe": name,
        "data": str(data),
        "size": 16,
        "width": 4,
        "steps": 2,
        "batch": 8,
        "device": "cpu",
    }
    start_training(Options(**(options | changes)), out)
    return out
