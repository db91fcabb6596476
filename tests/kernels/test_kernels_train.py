"""`rawgan train --path kernels` runs on the kernels and reports it, or refuses with a reason."""

import csv
import os
import sys
from pathlib import Path

import pytest

from rawgan.models.recipes import RECIPES
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]


def train(out, *options, interpret=True):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "rawgan", "train", *options, "--device", "cpu", "--out", out]
    return run_process(command, env=environment | ({"TRITON_INTERPRET": "1"} if interpret else {}))


QUICK = ("dcgan", "wgan_gp", "acgan", "cgan")  # the others take minutes
LARGE = (
    "wgan_gp_mnist",
    "raschka_mlp_gan",
    "raschka_dcgan",
    "raschka_wgan_gp",
)  # recipes of one size


@pytest.mark.parametrize(
    "recipe",
    [
        *QUICK,
        *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if name not in QUICK),
    ],
)
def test_train_on_kernels(tmp_path, recipe):
    """The first and last output lines name the kernels, and the metrics equal NumPy's."""
    rows = {}
    width = 8 if recipe == "raschka_dcgan" else 4  # the smallest width its networks accept
    options = (
        recipe,
        "--width",
        width,
        "--batch",
        2,
        "--size",
        28 if recipe in LARGE else 8,
        "--steps",
        1,
    )
    for name, extra in (("numpy", ()), ("kernels", ("--path", "kernels"))):
        done = train(tmp_path / name, *options, *extra)
        assert done.returncode == 0, done.stderr
        [rows[name]] = csv.DictReader(open(tmp_path / name / "metrics.csv", newline=""))
    assert "Path: kernels in fp32 with Triton's interpreter on NumPy (as requested)." in done.stdout
    assert "Triton kernels launched: " in done.stdout and "matmul_kernel" in done.stdout
    for key, value in rows["numpy"].items():
        assert float(rows["kernels"][key]) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


def test_kernels_that_cannot_run(tmp_path):
    """Kernels that cannot run give one sentence and exit status 2, and create no run folder."""
    done = train(tmp_path / "run", "dcgan", "--path", "kernels", "--steps", 1, interpret=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Triton kernels need a GPU, but")
    assert not (tmp_path / "run").exists()
