"""`rawgan train --path planned` gives the same run in graphs of any length and when interrupted.

The worker, which trains and prints its results as JSON:

    TRITON_INTERPRET=1 python tests/kernels/test_kernels_replay.py cgan cpu FOLDER
"""

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rawgan.backend import CPU
from rawgan.data import load
from rawgan.errors import UserError
from rawgan.kernels.runtime.memory_plan import Plan
from rawgan.models.recipes import RECIPES
from rawgan.training import callbacks as trainer
from rawgan.training import graph_runner as replay
from rawgan.training import loop, session, train
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.options import to_config
from rawgan.training.session import Session
from rawgan.training.train import resume, start
from tests.cli.test_cli import rawgan, refused
from tests.support.process import run_process
from tests.support.runs import TABLES, Killed, assert_same_run, options

HERE = Path(__file__).parent
TINY = {"size": 8, "width": 4, "batch": 2, "path": "planned", "precision": "fp32"}
TOLD = {
    "cgan": options(
        "cgan", **TINY, steps=7, sample_every=5, checkpoint_every=3, flip=True, ema=0.5
    ),
    "wgan_gp": options("wgan_gp", **TINY, steps=2, sample_every=2, checkpoint_every=1),
    "wgan": options("wgan", **TINY, steps=6, sample_every=6, checkpoint_every=4, ema=0.5),
    "raschka_wgan_gp": options(
        "raschka_wgan_gp", **TINY, steps=4, sample_every=4, checkpoint_every=2
    ),
}
CRITIC_STEPS = {
    "cgan": lambda step: 1,
    "wgan_gp": lambda step: 2,
    "wgan": lambda step: 4 if step in (0, 3) else 2,
    "raschka_wgan_gp": lambda step: 1,
}
CHANGED = {
    name: replace(RECIPES[name].with_schedule(critic_steps=count), steps=10)
    for name, count in CRITIC_STEPS.items()
}
KILLED = {
    "cgan": 5,
    "wgan": 5,
    "raschka_wgan_gp": 3,
}  # steps before the interruption; the last checkpoint is earlier
# After the first step; a cgan stops at 3, 5, 6 and 7, wgan at 4 and 6, and its step 3 has more
# critic steps.

TAKEN_AFTER_THE_FIRST = {
    "cgan": [2, 2, 1, 1],
    "wgan_gp": [1],
    "wgan": [2, 1, 2],
    "raschka_wgan_gp": [1, 2],
}
TAKEN = []  # number of steps of each graph that was launched


class Graph:
    """Stand-in for the result of Plan.capture: launches the plan as often as it was captured."""

    def __init__(self, plan, steps, repeats):
        self.plan, self.steps, self.repeats = plan, steps, repeats

    def launch(self):
        TAKEN.append(self.steps)
        for _ in range(self.steps):
            self.plan.run(self.repeats)


def single(gan, feed, *rest, original=replay.GraphRunner):
    """GraphRunner as it is without a GPU: one step at a time."""
    made = original(gan, feed, *rest)
    made.max_steps, made.graph_steps = 1, 1
    return made


def many(gan, feed, *rest, original=replay.GraphRunner):
    """GraphRunner as it is on a GPU: graphs of two steps, six steps at a time."""
    made = original(gan, feed, *rest)
    made.max_steps, made.graph_steps = replay.INDEX_ROWS, 2
    return made


def runs(name: str, where: str, folder: Path) -> None:
    """Train a run step by step, one that is interrupted and resumed, and one in graphs."""
    told, session.GraphRunner = replace(TOLD[name], device=where), single
    start(told, folder / "straight")
    run = replay.GraphRunner.run

    def ended(self, done, last):
        if done == KILLED.get(name):
            raise Killed
        if name == "wgan_gp":
            os.kill(os.getpid(), signal.SIGTERM)  # the first step runs, then requests a stop
        return run(self, done, last)

    replay.GraphRunner.run = ended
    try:
        assert start(told, folder / "resumed") == (1, told.steps)
    except Killed:
        assert name in KILLED
    replay.GraphRunner.run = run
    resume(folder / "resumed")
    session.GraphRunner, replay.INDEX_ROWS = many, 6
    if where == "cpu":
        Plan.capture = lambda self, steps, repeats: Graph(self, steps, repeats)
    start(told, folder / "graphs")


def inside(name: str) -> float:
    """Compare planned steps, in memory filled with NaN, with train_step.

    Return the distances of a cgan's images, labels and gradients.
    """
    told = TOLD[name]
    images = load(told.data, told.size)
    planned, plain = (
        Session(replace(told, path=path), images, CPU) for path in ("planned", "arrays")
    )
    apart = [0.0]
    for _ in range(2 if name == "cgan" else 1):
        planned.graph_runner.step.plan._arena[:] = 0xFF
        planned.checked_step()  # raises Overflow if a number is not finite
        if name == "cgan":
            step, (x, labels) = planned.graph_runner.step, plain.feed.real()
            apart += [
                float(np.abs(a - b).max())
                for a, b in ((step.x[: len(x)], x), (step.labels[: len(x)], labels))
            ]
            plain.gan.train_step((x, labels), (step.z.copy(), step.labels[len(x) :].copy()))
            want = plain.gradient_norms()
            apart += [abs(value / want[key] - 1) for key, value in planned.gradient_norms().items()]
    return max(apart)


def overflow(folder: Path) -> str:
    """Return the message for a learning rate that is far too large."""
    try:
        start(replace(TOLD["cgan"], lr=1e25, steps=4, checkpoint_every=9), folder / "overflow")
    except UserError as error:
        return str(error)


def worker(name: str, where: str, folder: Path) -> dict:
    RECIPES.update(CHANGED)
    loop.save_curves = trainer.save_gradients = trainer.save_progress = lambda *_: (
        None
    )  # slower than the runs
    train.LOG_EVERY = loop.LOG_EVERY = 2
    results = (
        {"apart": inside(name)} | {"overflow": overflow(folder) if name == "cgan" else ""}
        if where == "cpu"
        else {}
    )
    runs(name, where, folder)
    return results | {"taken": TAKEN}


ON_CPU = [(name, "cpu") for name in TOLD]
ON_GPU = [pytest.param((name, "gpu"), marks=pytest.mark.gpu) for name in TOLD]


@pytest.fixture(scope="module", params=ON_CPU + ON_GPU, ids=str)
def trained(request, tmp_path_factory):
    """Return the recipe's name, the folder of the runs, the worker's output and its last line."""
    name, where = request.param
    folder = tmp_path_factory.mktemp(name)
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    command = [sys.executable, __file__, name, where, folder]
    done = run_process(command, env=environment)
    assert done.returncode == 0, done.stderr
    return name, folder, done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_ended_and_resumed_is_the_same_run(trained):
    _, folder, _, _ = trained
    assert_same_run(folder / "resumed", folder / "straight")


def test_graphs_of_many_steps_are_the_same_run(trained, tmp_path):
    """Graphs of many steps give the same run, except gradients logged within a graph."""
    name, folder, _, results = trained
    if "apart" in results:  # without a GPU, graphs are simulated
        assert results["taken"] == TAKEN_AFTER_THE_FIRST[name]
    some, every = (
        (folder / run / "gradients.csv").read_text().splitlines() for run in ("graphs", "straight")
    )
    assert len(some) < len(every) if name in ("cgan", "wgan") else some == every
    assert set(some) < set(every) or some == every
    for run in ("graphs", "straight"):
        shutil.copytree(folder / run, tmp_path / run)
        (tmp_path / run / "gradients.csv").unlink()
    assert_same_run(tmp_path / "graphs", tmp_path / "straight")


@pytest.mark.parametrize("trained", ON_CPU, indirect=True, ids=str)
def test_the_folder_of_a_run(trained, monkeypatch):
    """A planned run logs at the usual steps, and reports its arena and how it was launched."""
    name, folder, stdout, _ = trained
    steps, run = TOLD[name].steps, folder / "straight"
    lines = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()]
    assert lines == [
        "step",
        *(str(step) for step in range(1, steps + 1) if step % 2 == 0 or step == steps),
    ]
    assert [(run / table).exists() for table in TABLES] == [True, True, False]
    monkeypatch.setitem(RECIPES, name, CHANGED[name])
    about = re.search(r"launches +(\d+) a step(.*?): .*\nmemory +(.*)", rawgan("info", run).stdout)
    assert about[2].endswith("of one with 4 critic steps)") == (name == "wgan")
    launches = f"{about[1]} launches a step{about[2]}"
    assert "Path: planned in fp32 with Triton's interpreter on NumPy (as requested).\n" in stdout
    assert (
        f"Plan: {launches}, in Triton's interpreter, a second or more each; {about[3]}; " in stdout
    )
    assert f"; {steps} steps in {steps} launches of the plan.\n" in stdout
    arrays, facts = load_checkpoint(list(checkpoints(run).values())[-1])
    assert facts["t"] == {
        "generator": steps,
        "discriminator": sum(map(CRITIC_STEPS[name], range(steps))),
    }
    assert facts["identity"]["planned"] is True and facts["identity"]["precision"] == "fp32"
    assert any(n.startswith("average.") for n in arrays) == (TOLD[name].ema is not None)


@pytest.mark.parametrize("trained", [("cgan", "cpu")], indirect=True, ids=str)
def test_inside_a_step(trained):
    """A planned step equals GAN.train_step in memory filled with NaN, and an overflow is explained.

    Images, labels and gradients are compared.
    """
    *_, results = trained
    assert results["apart"] < 1e-5  # a few float32 roundings
    where = (
        r"in step \d, in launch \d+ of \d+, \w+_kernel with the \w+'s \d.w; there was no checkpoint"
    )
    assert re.search(where, results["overflow"])


def test_steps_that_are_fed_at_a_time():
    """The number of steps fed at a time is limited by the rows of the index, and at least one."""
    made = object.__new__(replay.GraphRunner)
    repeats = RECIPES["wgan"].schedule.critic_steps
    made.step = SimpleNamespace(repeats=repeats, index=np.zeros((600, 1)))
    assert [
        made.steps_with_indices(*steps) for steps in ((0, 100), (24, 76), (30, 70), (495, 5))
    ] == [
        6,
        76,
        70,
        5,
    ]
    made.step.index = np.zeros((50, 1))
    assert made.steps_with_indices(0, 100) == 1 and made.steps_with_indices(30, 70) == 10


class TestRefusals:
    def test_where_it_cannot_run(self, tmp_path, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        args = ("--device", "cpu", "--out", tmp_path / "run")
        planned = ("train", "dcgan", "--path", "planned")
        refused(
            (*planned, *args),
            "Triton kernels need a GPU, but --device cpu was asked for",
            "very slowly",
        )
        refused(
            ("train", "dcgan", "--precision", "bf16", *args),
            "--precision bf16 needs a GPU, but --device cpu was asked for",
        )
        refused(
            ("train", "dcgan", "--path", "arrays", "--precision", "bf16", *args),
            "--precision bf16 goes with --path planned",
        )
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        refused((*planned, "--precision", "fp8", *args), "choose auto, fp32, bf16x3, tf32, bf16")
        refused(
            (*planned, "--precision", "bf16", *args),
            "bf16 needs a GPU, but Triton's interpreter does not round as bf16 does",
        )
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("trained", [("cgan", "cpu")], indirect=True, ids=str)
    def test_resumed_as_another_run(self, trained, tmp_path, monkeypatch):
        """A resumed run stays planned or not, unless another path is requested.

        Another path uses other z and gives other bits.
        """
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        run = tmp_path / "run"
        shutil.copytree(trained[1] / "straight", run)
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"path": "arrays"}))
        refused(
            ("train", "--resume", run, "--steps", 9),
            "its planned is True, that of config.json False",
        )
        (run / "config.json").write_text(json.dumps(config))
        monkeypatch.delenv("TRITON_INTERPRET")
        refused(
            ("train", "--resume", run, "--steps", 9),
            "was trained by --path planned in fp32",
            "add --device auto --path auto",
        )
        output = rawgan("train", "--resume", run, "--steps", 9, "--path", "arrays").stdout
        assert (
            "Path: arrays in fp32 with NumPy (as requested)." in output and "9 steps done" in output
        )
        assert json.loads((run / "config.json").read_text())["path"] == "arrays"
        command = [
            sys.executable,
            "-m",
            "rawgan",
            "train",
            "--resume",
            run,
            "--steps",
            "10",
            "--path",
            "planned",
        ]
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "TRITON_INTERPRET": "1"}
        done = run_process(command, env=environment)
        assert "Path: planned in fp32" in done.stdout and "10 steps done" in done.stdout, (
            done.stderr
        )


def test_info():
    """`rawgan info` prints the launches and memory of the docs without a GPU, also for a run."""
    output = rawgan("info", "dcgan", "--source", "--batch", 128, "--precision", "bf16").stdout
    assert "60 a step: " in output and "data set         12.3 kB of memory for each image" in output
    assert "an arena of 159.7 MB (peak use 159.7 MB, without reuse of memory 412.8 MB)" in output
    assert (
        "150 a step (2,259 of one with 100 critic steps): batchnorm_apply_act_kernel 26, "
        in rawgan("info", "wgan", "--source").stdout
    )
    output = rawgan("info", "acgan", "--source").stdout
    assert " 79 a step: " in output and "acgan_step_kernel 2, " in output
    output = rawgan("info", "raschka_wgan_gp", "--source", "--precision", "bf16").stdout
    assert re.search(r"^launches +80 a step: .*batchnorm_infer_dx_kernel 6", output, re.MULTILINE)


def test_info_of_a_run_with_an_average(tmp_path):
    """The launch and the arrays of an average are counted, and an invalid decay is refused."""
    config = {"recipe": "dcgan"} | to_config(options("dcgan", **TINY, channels=1))
    for ema, launches in ((None, 0), (0.9, 1)):
        (tmp_path / "config.json").write_text(json.dumps(config | {"ema": ema}))
        assert rawgan("info", tmp_path).stdout.count("moving_average_kernel 1") == launches
    (tmp_path / "config.json").write_text(json.dumps(config | {"ema": 1}))
    refused(("info", tmp_path), "has no usable ema: it must be a number from 0 to 0.99999")


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:3], Path(sys.argv[3]))))
