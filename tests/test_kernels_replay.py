"""`rawgan train --planned`: the same run however many steps are taken at a time, and however often it is stopped.

TRITON_INTERPRET=1 python tests/test_kernels_replay.py cgan cpu FOLDER   the worker: trains, and prints what is to be told as JSON
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import TABLES, Killed, assert_same_run, options
from test_cli import rawgan, refused

from rawgan.backend import CPU
from rawgan.data import Images, load
from rawgan.errors import UserError
from rawgan.kernels.plan import Plan
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training import loop, replay, session, trainer
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.feed import Feed
from rawgan.training.session import Session, resume, start

HERE = Path(__file__).parent
TINY = {"size": 8, "width": 4, "batch": 2, "planned": True}
TOLD = {
    "cgan": options("cgan", **TINY, steps=7, sample_every=5, checkpoint_every=3, flip=True),
    "wgan_gp": options("wgan_gp", **TINY, steps=2, sample_every=2, checkpoint_every=1, ema=0.5),
}
TWO_STEPS = replace(RECIPES["wgan_gp"], critic_steps=lambda step: 2)
TAKEN = []  # how many steps each graph had that was launched


class Graph:
    """What Plan.capture gives, without a GPU: it launches the plan as often as it was captured."""

    def __init__(self, plan, steps):
        self.plan, self.steps = plan, steps

    def launch(self):
        TAKEN.append(self.steps)
        for _ in range(self.steps):
            self.plan.run()


def single(gan, feed, *rest, original=replay.Replay):
    """A Replay as it is without a GPU: step by step."""
    made = original(gan, feed, *rest)
    made.most, made.together = 1, 1
    return made


def many(gan, feed, *rest, original=replay.Replay):
    """A Replay as it is on a GPU, in graphs of two steps, six at a time."""
    made = original(gan, feed, *rest)
    made.most, made.together = replay.LOOK, 1 if made.after else 2
    return made


def runs(name: str, where: str, folder: Path) -> None:
    """The run step by step; ended early and resumed; and in graphs."""
    told, session.Replay = replace(TOLD[name], device=where), single
    start(told, folder / "straight")
    run = replay.Replay.run

    def ended(self, done, last):
        if name == "cgan" and done == 5:
            raise Killed  # its last checkpoint is of step 3
        if name == "wgan_gp":
            os.kill(os.getpid(), signal.SIGTERM)  # the first step is taken, and then asks for no more
        return run(self, done, last)

    replay.Replay.run = ended
    try:
        assert start(told, folder / "resumed") == (1, told.steps)
    except Killed:
        assert name == "cgan"
    replay.Replay.run = run
    resume(folder / "resumed")
    session.Replay, replay.LOOK = many, 6
    if where == "cpu":
        Plan.capture = lambda self, steps: Graph(self, steps)
    start(told, folder / "graphs")


def inside(name: str) -> float:
    """Planned steps with NaN wherever nothing was written; how far a cgan's images, labels and gradients are from train_step's."""
    told = TOLD[name]
    images = load(told.data, told.size)
    planned, plain = (Session(replace(told, planned=yes), images, session.choose_device("cpu")) for yes in (True, False))
    apart = [0.0]
    for _ in range(2 if name == "cgan" else 1):
        planned.replay.step.plan._arena[:] = 0xFF
        planned.careful()  # raises Overflow at a number that is not finite
        if name == "cgan":
            step, (x, labels) = planned.replay.step, plain.feed.real()
            apart += [float(np.abs(a - b).max()) for a, b in ((step.x[: len(x)], x), (step.labels[: len(x)], labels))]
            plain.gan.train_step((x, labels), (step.z.copy(), step.labels[len(x) :].copy()))
            want = plain.gradient_norms()
            apart += [abs(value / want[key] - 1) for key, value in planned.gradient_norms().items()]
    return max(apart)


def overflow(folder: Path) -> str:
    """What is said where the rate is far too large."""
    try:
        start(replace(TOLD["cgan"], lr=1e25, steps=4, checkpoint_every=9), folder / "overflow")
    except UserError as error:
        return str(error)


def worker(name: str, where: str, folder: Path) -> dict:
    RECIPES["wgan_gp"] = TWO_STEPS
    loop.save_curves = trainer.save_gradients = trainer.save_progress = lambda *_: None  # they take longer than the runs
    loop.LOG_EVERY = session.LOG_EVERY = 2
    said = {"apart": inside(name)} | {"overflow": overflow(folder) if name == "cgan" else ""} if where == "cpu" else {}
    runs(name, where, folder)
    return said | {"taken": TAKEN}


ON_CPU = [(name, "cpu") for name in TOLD]
ON_GPU = [pytest.param((name, "gpu"), marks=pytest.mark.gpu) for name in TOLD]


@pytest.fixture(scope="module", params=ON_CPU + ON_GPU, ids=str)
def trained(request, tmp_path_factory):
    """The name, the folder with the runs, what the worker said, and the last line of it."""
    name, where = request.param
    folder = tmp_path_factory.mktemp(name)
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    command = [sys.executable, __file__, name, where, folder]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return name, folder, done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_ended_and_resumed_is_the_same_run(trained):
    _, folder, _, _ = trained
    assert_same_run(folder / "resumed", folder / "straight")


def test_graphs_of_many_steps_are_the_same_run(trained, tmp_path):
    """All but the gradients of steps that a graph went past."""
    name, folder, _, said = trained
    if "apart" in said:  # without a GPU, the graphs are played
        assert said["taken"] == {"cgan": [2, 2, 1, 1], "wgan_gp": [1]}[name]  # after the first; 3, 5, 6 and 7 are stopped at
    some, every = ((folder / run / "gradients.csv").read_text().splitlines() for run in ("graphs", "straight"))
    assert len(some) < len(every) if name == "cgan" else some == every
    assert set(some) < set(every) or some == every
    for run in ("graphs", "straight"):
        shutil.copytree(folder / run, tmp_path / run)
        (tmp_path / run / "gradients.csv").unlink()
    assert_same_run(tmp_path / "graphs", tmp_path / "straight")


@pytest.mark.parametrize("trained", ON_CPU, indirect=True, ids=str)
def test_the_folder_of_a_run(trained, monkeypatch):
    """Lines where other runs have them, the step's arena, and how it was launched."""
    name, folder, stdout, _ = trained
    steps, run = TOLD[name].steps, folder / "straight"
    lines = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()]
    assert lines == ["step", *(str(step) for step in range(1, steps + 1) if step % 2 == 0 or step == steps)]
    assert [(run / table).exists() for table in TABLES] == [True, True, False]
    monkeypatch.setitem(RECIPES, "wgan_gp", TWO_STEPS)
    about = re.search(r"launches +(\d+) a step: .*\nmemory +(an arena of .*)", rawgan("info", run).stdout)
    assert f"Plan: fp32, {about[1]} launches a step, in Triton's interpreter, a second or more each; {about[2]}.\n" in stdout
    assert f"; {steps} steps in {steps} starts of the plan.\n" in stdout
    arrays, facts = load_checkpoint(list(checkpoints(run).values())[-1])
    assert facts["t"] == {"generator": steps, "discriminator": steps * (2 if name == "wgan_gp" else 1)}
    assert facts["of"]["planned"] is True and facts["of"]["precision"] == "fp32"
    assert any(n.startswith("average.") for n in arrays) == (name == "wgan_gp")


@pytest.mark.parametrize("trained", [("cgan", "cpu")], indirect=True, ids=str)
def test_inside_a_step(trained):
    """The images, labels and gradients of GAN.train_step, NaN wherever nothing was written, and words for an overflow."""
    *_, said = trained
    assert said["apart"] < 1e-5  # of a few float32 roundings
    where = r"in step \d, in launch \d+ of \d+, \w+_kernel with the \w+'s \d.w; there was no checkpoint"
    assert re.search(where, said["overflow"])


class TestRefusals:
    def test_where_it_cannot_run(self, tmp_path, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        args = ("--device", "cpu", "--out", tmp_path / "run")
        refused(("train", "dcgan", "--planned", *args), "Triton kernels need a GPU, but --device cpu was asked for", "very slowly")
        refused(("train", "dcgan", "--precision", "bf16", *args), "--precision bf16 goes with --planned")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        refused(("train", "dcgan", "--planned", "--precision", "fp8", *args), "choose fp32, tf32, bf16")
        refused(("train", "dcgan", "--planned", "--precision", "bf16", *args), "--precision needs a GPU")
        refused(("train", "acgan", "--planned", "--width", 4, *args), "the planned step does not know the losses of ACGAN")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("flip", [False, True])
    def test_too_many_pictures(self, flip):
        images = Images(np.broadcast_to(np.uint8(0), (2**17, 128, 128, 1)), None, "faces", "", "")
        feed = Feed(RECIPES["dcgan"], images, 2, Random(0), CPU, flip)
        words = "pictures and their mirror images, and faces has 4,294" if flip else "pictures, and faces has 2,147,483,648"
        with pytest.raises(UserError, match=f"takes less than 2,147,483,648 bytes of {words}"):
            replay.Replay(None, feed, 0, "fp32")

    @pytest.mark.parametrize("trained", [("cgan", "cpu")], indirect=True, ids=str)
    def test_resumed_as_another_run(self, trained, tmp_path, monkeypatch):
        """Whether it is planned, and in which precision, is the run's own: other z, other bits."""
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        run = tmp_path / "run"
        shutil.copytree(trained[1] / "straight", run)
        refused(("train", "--resume", run, "--planned"), "--planned cannot be given with --resume")
        refused(("train", "--resume", run, "--precision", "fp32"), "--precision cannot be given with --resume")
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"planned": False}))
        refused(("train", "--resume", run, "--steps", 9), "its planned is True, that of config.json False")


def test_info():
    """The same launches and memory as in the docs, without a GPU; of a recipe and of a run."""
    said = rawgan("info", "dcgan", "--batch", 128, "--precision", "bf16").stdout
    assert "61 a step: " in said and "an arena of 159.4 MB, where 159.4 MB are alive" in said and "take 413.0 MB" in said


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:3], Path(sys.argv[3]))))
