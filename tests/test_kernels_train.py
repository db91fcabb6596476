"""`rawgan train --kernels`: what is asked for runs and is reported, or is refused."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rawgan.models.recipes import RECIPES

ROOT = Path(__file__).parents[1]


def train(out, *options, interpret=True):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "rawgan", "train", *options, "--device", "cpu", "--out", out]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment | ({"TRITON_INTERPRET": "1"} if interpret else {})
    )


QUICK = ("dcgan", "wgan_gp", "acgan", "cgan")  # the others take up to minutes
LARGE = ("wgan_gp_mnist", "raschka_mlp_gan", "raschka_dcgan", "raschka_wgan_gp")  # recipes of one size


@pytest.mark.parametrize("recipe", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if name not in QUICK)])
def test_train_on_kernels(tmp_path, recipe):
    """In the interpreter: the first line and the last say so, and the metrics are those of NumPy."""
    rows = {}
    width = 8 if recipe == "raschka_dcgan" else 4  # the least its networks take
    options = (recipe, "--width", width, "--batch", 2, "--size", 28 if recipe in LARGE else 8, "--steps", 1)
    for name, more in (("numpy", ()), ("kernels", ("--kernels",))):
        done = train(tmp_path / name, *options, *more)
        assert done.returncode == 0, done.stderr
        [rows[name]] = csv.DictReader(open(tmp_path / name / "metrics.csv", newline=""))
    assert done.stdout.startswith("Device: cpu, computing with Triton's interpreter on NumPy")
    assert "Triton kernels launched: " in done.stdout and "matmul_kernel" in done.stdout
    for key, value in rows["numpy"].items():
        assert float(rows["kernels"][key]) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


def test_kernels_that_cannot_run(tmp_path):
    """One sentence, exit 2, no run folder."""
    done = train(tmp_path / "run", "dcgan", "--kernels", "--steps", 1, interpret=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Triton kernels need a GPU, but")
    assert not (tmp_path / "run").exists()
