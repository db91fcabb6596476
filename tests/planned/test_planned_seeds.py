"""One seed gives the same bits in a planned run, and in one that is killed and resumed.

Every recipe runs on a GPU; two run in the interpreter, the second run with shuffled programs. The
worker, which trains both runs:

    python tests/planned/test_planned_seeds.py RECIPE cpu|gpu ORDER FOLDER
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from rawgan.models.recipes import RECIPES
from rawgan.training import callbacks as trainer
from rawgan.training import graph_runner as replay
from rawgan.training import loop
from rawgan.training.train import resume, start
from tests.support.process import run_process
from tests.support.program_order import program_order
from tests.support.runs import Killed, assert_same_run, options

HERE = Path(__file__).parent
TINY = {"size": 8, "width": 4, "batch": 2, "steps": 2, "sample_every": 2, "checkpoint_every": 1}
REAL = {
    "steps": 40,
    "checkpoint_every": 20,
    "sample_every": 20,
    "width": 64,
    "batch": 16,
}  # several columns of tiles
FLAT = {"raschka_mlp_gan": 100}  # hidden units
PARAMETERS = [
    *(pytest.param(name, "cpu", "shuffled") for name in ("dcgan", "wgan_gp")),
    *(pytest.param(name, "gpu", "plain", marks=pytest.mark.gpu) for name in RECIPES),
]


def run_options(name: str, where: str):
    """Return the run's options: toy size on the host, the recipe's size and width 64 on a GPU."""
    if where == "cpu":
        return options(name, **TINY, path="planned", precision="fp32", device="cpu")
    sizes = {"size": RECIPES[name].size, "width": FLAT.get(name, REAL["width"])}
    return options(name, **(REAL | sizes), path="planned", device="gpu", precision="bf16")


def worker(name: str, where: str, order: str, folder: Path) -> None:
    """Train an uninterrupted run, and one that is killed after a checkpoint and resumed."""
    loop.save_curves = trainer.save_gradients = trainer.save_progress = lambda *_: (
        None
    )  # plots take longer than the runs
    if where == "cpu":
        RECIPES["wgan_gp"] = RECIPES["wgan_gp"].with_schedule(critic_steps=lambda step: 1)
    run = run_options(name, where)
    start(run, folder / "straight")
    original = replay.GraphRunner.run

    def killed(self, done, last):
        if done >= run.checkpoint_every:
            raise Killed
        return original(self, done, last)

    with program_order(order) if where == "cpu" else nullcontext():
        replay.GraphRunner.run = killed
        try:
            start(run, folder / "killed")
        except Killed:
            replay.GraphRunner.run = original
        resume(folder / "killed")


@pytest.mark.parametrize("name, where, order", PARAMETERS)
def test_one_seed_gives_the_same_weights(name, where, order, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    command = [sys.executable, __file__, name, where, order, str(tmp_path)]
    done = run_process(command, env=environment)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


if __name__ == "__main__":
    worker(*sys.argv[1:4], Path(sys.argv[4]))
