"""The same seed gives the same bits, on any number of cores and with any number of BLAS threads."""

import os
import sys
from pathlib import Path

import pytest

from rawgan.models.recipes import RECIPES
from rawgan.training.train import start
from tests.support.cores import set_cores
from tests.support.process import run_process
from tests.support.runs import assert_same_run, options

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
os.sched_setaffinity(0, {cores})
from rawgan.cli.main import main
sys.argv = ["rawgan", "train", *{arguments!r}]
main()
"""


@pytest.mark.usefixtures("nothing_plotted")
@pytest.mark.parametrize("recipe", RECIPES)
def test_bits_on_any_number_of_cores(recipe, tmp_path, monkeypatch):
    width = 8 if recipe.startswith("raschka") else 4
    for cores in (1, 2, 3):
        set_cores(monkeypatch, cores)
        start(options(recipe, steps=4, width=width), tmp_path / str(cores))
        assert_same_run(tmp_path / str(cores), tmp_path / "1")


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores, and Linux to use one of them",
)
@pytest.mark.parametrize(
    "recipe, width, size, steps",
    [("dcgan", 16, 16, 4), ("raschka_mlp_gan", 100, 28, 60), ("raschka_dcgan", 16, 28, 4)],
)
def test_bits_of_processes(recipe, width, size, steps, tmp_path):
    """Networks large enough that BLAS shares out their products where it may."""
    for n in (1, 2):
        arguments = [recipe, "--width", width, "--size", size, "--steps", steps, "--batch", 64]
        arguments += ["--device", "cpu", "--out", tmp_path / str(n)]
        program = PROGRAM.format(
            cores=sorted(os.sched_getaffinity(0))[:n], arguments=list(map(str, arguments))
        )
        threads = {key: str(n) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        done = run_process(
            [sys.executable, "-c", program], cwd=ROOT, env=os.environ | threads, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "2", tmp_path / "1")
