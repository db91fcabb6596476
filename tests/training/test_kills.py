"""Killed processes and full disks: a run stays readable, and no announced checkpoint is lost."""

import builtins
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.training import callbacks
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.load import load_generator
from rawgan.training.tables import Table
from rawgan.training.train import resume, start
from tests.support.process import run_process
from tests.support.runs import assert_same_run, options

pytestmark = pytest.mark.usefixtures("nothing_plotted")
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1"}
PATIENCE = 120  # timeout of a process in seconds, for a busy machine

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from rawgan.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("limit, file", [(300, "config.json"), (40_000, "step_000004.safetensors")])
def test_a_full_disk(limit, file, tmp_path):
    """A full disk, simulated by a file size limit, gives one error, and the run can be resumed."""
    told = [
        "train",
        "dcgan",
        "--width",
        4,
        "--batch",
        8,
        "--steps",
        40,
        "--checkpoint-every",
        4,
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-c", LIMITED, limit, *told, "--out", tmp_path / "run"]
    done = run_process(command, env=ENVIRONMENT, timeout=PATIENCE)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (
        len(errors) == 1 and file in errors[0] and "cannot be written: File too large" in errors[0]
    )
    assert not list(tmp_path.rglob("*.part"))
    if file != "config.json":
        assert resume(tmp_path / "run") == (40, 40)


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs a device that is always full: /dev/full"
)
def test_a_table_on_a_full_disk(tmp_path):
    table = Table(tmp_path / "a.csv", ("step", "loss"))
    table.file.close()
    with (
        open("/dev/full", "ab", buffering=0) as table.file,
        pytest.raises(UserError, match="cannot be written: No space"),
    ):
        table.log({"step": 10, "loss": 1.0})
    assert table.rows == []


def test_a_disk_that_fills_while_a_checkpoint_is_written_loses_nothing(tmp_path, monkeypatch):
    start(options("dcgan", steps=8, checkpoint_every=4), tmp_path / "straight")
    start(options("dcgan", steps=4), tmp_path / "run")
    before = list(checkpoints(tmp_path / "run").values())[-1].read_bytes()
    original = os.fsync

    def full(descriptor):
        if "step_000008.safetensors." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(
            UserError, match=r"step_000008.safetensors cannot be written: No space left on device"
        ):
            resume(tmp_path / "run", steps=8, checkpoint_every=4)
    assert list(checkpoints(tmp_path / "run").values())[-1].read_bytes() == before
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads the names of open files")
def test_an_announced_checkpoint_is_on_the_disk(tmp_path, monkeypatch):
    """After a power failure, an announced checkpoint and the tables up to its step are there.

    A file is synced before it is renamed, its folder after that, before anything else is written;
    the tables are synced before the checkpoint of their step is written. A killed process does not
    show this, as the system keeps what it has not yet written to the disk.
    """
    events = []

    def record(module, name, about):
        original = getattr(module, name)

        def recorded(*args, **kwargs):
            events.append((name, about(*args)))
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, recorded)

    record(os, "fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    record(os, "replace", lambda source, target: (str(source), str(target)))
    record(os, "mkdir", lambda folder, *_: str(folder))
    record(Table, "log", lambda table, *_: str(table.path))
    record(callbacks.tqdm, "write", lambda text: text)
    start(options("dcgan", steps=20, checkpoint_every=10), tmp_path / "run")
    renamed = [i for i, (name, _) in enumerate(events) if name == "replace"]
    for i in renamed:
        source, target = events[i][1]
        assert events[i - 1 : i + 2 : 2] == [("fsync", source), ("fsync", str(Path(target).parent))]
    announced = [text for name, text in events if name == "write" and "checkpoint" in text]
    assert announced == ["checkpoint: step 10", "checkpoint: step 20"]
    made = ("mkdir", str(tmp_path / "run" / "checkpoints"))
    assert events[events.index(made) + 1] == ("fsync", str(tmp_path / "run"))
    for step in (10, 20):
        path = str(tmp_path / "run" / "checkpoints" / f"step_{step:06}.safetensors")
        (at,) = (i for i in renamed if events[i][1][1] == path)
        assert at < events.index(("write", f"checkpoint: step {step}"))
        for table in ("metrics.csv", "gradients.csv"):
            rows = [e[0] for e in events[:at] if e[1] == str(tmp_path / "run" / table)]
            assert "log" in rows and rows[-1] == "fsync", (step, table)


def test_a_run_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """A run folder on a read-only file system, which refuses even root, gives one error."""
    start(options("dcgan", steps=4), tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    original = builtins.open

    def opened(file, mode="r", *args, **kwargs):
        if str(file).startswith(str(tmp_path)) and set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system")
        return original(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", opened)
    for name in ("unlink", "replace", "rename"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(UserError, match="cannot be written: Read-only file system"):
        resume(tmp_path / "run", steps=8)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def run_until_killed(run: Path, dice: random.Random, first: bool, until: float) -> int:
    """Train with a checkpoint every two steps until killed at a random moment.

    Return the last step that was announced. The first process dies after its first checkpoint, the
    others up to `until` seconds after their first output.
    """
    told = ["--steps", "100000", "--checkpoint-every", "2", "--keep", "2", "--device", "cpu"]
    new = [
        "dcgan",
        "--data",
        "data",
        "--size",
        "16",
        "--width",
        "4",
        "--batch",
        "8",
        "--sample-every",
        "3",
        "--out",
        str(run),
    ]
    told += new if first else ["--resume", str(run)]
    command = [sys.executable, "-m", "rawgan", "train", *told]
    with subprocess.Popen(
        command,
        cwd=run.parent,
        env=ENVIRONMENT | {"TMPDIR": str(run.parent / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            while line and not line.startswith("checkpoint" if first else "Device"):
                line = process.stdout.readline()
            time.sleep(dice.uniform(0, until))
        finally:
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, err
    return max(
        [0, *(int(n) for n in re.findall(r"^checkpoint: step (\d+)\n", line + out, re.MULTILINE))]
    )


def kills(tmp_path, n, until, seed, figures):
    """Kill and resume a run n times; the final run equals one without kills.

    Each process has an empty folder for temporary files, which stays empty.
    """
    run, dice, announced = tmp_path / "run", random.Random(seed), 0
    for name in ("data", "temporary"):
        (tmp_path / name).mkdir()
    pictures, labels = (
        np.random.default_rng(0).integers(256, size=(60, 16, 16), dtype=np.uint8),
        bytes(60),
    )
    (tmp_path / "data" / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">4I", 2051, 60, 16, 16) + pictures.tobytes()
    )
    (tmp_path / "data" / "train-labels-idx1-ubyte").write_bytes(
        struct.pack(">2I", 2049, 60) + labels
    )
    for i in range(n):
        announced = max(announced, run_until_killed(run, dice, i == 0, until))
        checkpoint_files = checkpoints(run)
        assert max(checkpoint_files) >= announced, "a checkpoint that had been announced is lost"
        for path in checkpoint_files.values():
            load_checkpoint(path)  # raises unless the file is complete
            figures["checkpoints read"] += 1
        load_generator(run)
        figures["kills"] += 1
        assert {path.name for path in tmp_path.iterdir()} == {"data", "temporary", "run"}
        assert not list((tmp_path / "temporary").iterdir())
    last = max(checkpoints(run)) + 20
    assert resume(run, steps=last, checkpoint_every=2, keep=2) == (last, last)
    changes = {"sample_every": 3, "checkpoint_every": 2, "data": str(tmp_path / "data")}
    changes |= {"steps": last, "lr": RECIPES["dcgan"].default.lr}
    start(options("dcgan", **changes), tmp_path / "straight")
    assert_same_run(run, tmp_path / "straight")
    figures["steps"] = last
    return last


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_random_moments(tmp_path, figures):
    assert kills(tmp_path, 8, 0.5, 0, figures) > 4


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_two_hundred_random_moments(tmp_path, figures):
    kills(tmp_path, 200, 0.5, 1, figures)
