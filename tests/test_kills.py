"""Processes that are killed, disks that are full: a run can always be read, and nothing that was announced is lost."""

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
from runs import assert_same_run, options

from rawgan.errors import UserError
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.load import load_generator
from rawgan.training.run import Table
from rawgan.training.session import resume, start

pytestmark = pytest.mark.usefixtures("nothing_plotted")
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1"}
PATIENCE = 120  # seconds that any process may take on a busy machine

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from rawgan.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("limit, what", [(300, "config.json"), (40_000, "step_000004.safetensors")])
def test_a_full_disk(limit, what, tmp_path):
    """Files may not grow beyond a size, which the system reports as it does a full disk; then there is room again."""
    told = ["train", "dcgan", "--width", 4, "--batch", 8, "--steps", 40, "--checkpoint-every", 4, "--device", "cpu"]
    command = [sys.executable, "-c", LIMITED, limit, *told, "--out", tmp_path / "run"]
    done = subprocess.run(list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(said) == 1 and what in said[0] and "cannot be written: File too large" in said[0]
    assert not list(tmp_path.rglob("*.part"))
    if what != "config.json":
        assert resume(tmp_path / "run") == (40, 40)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full: /dev/full")
def test_a_table_on_a_full_disk(tmp_path):
    table = Table(tmp_path / "a.csv", ("step", "loss"))
    table.file.close()
    with open("/dev/full", "ab", buffering=0) as table.file, pytest.raises(UserError, match="cannot be written: No space"):
        table.log({"step": 10, "loss": 1.0})
    assert table.rows == []


def test_a_disk_that_fills_while_a_checkpoint_is_written_loses_nothing(tmp_path, monkeypatch):
    start(options("dcgan", steps=8, checkpoint_every=4), tmp_path / "straight")
    start(options("dcgan", steps=4), tmp_path / "run")
    before = list(checkpoints(tmp_path / "run").values())[-1].read_bytes()
    original = os.fsync

    def full(descriptor):
        if "step_000008.safetensors.part" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"step_000008.safetensors cannot be written: No space left on device"):
            resume(tmp_path / "run", steps=8, checkpoint_every=4)
    assert list(checkpoints(tmp_path / "run").values())[-1].read_bytes() == before
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_a_run_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """As on a read-only file system, which lets not even root write."""
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
    """A process that trains, saving after every second step, and dies at a random moment; the last step it had announced.

    The first one dies after its first checkpoint, the others up to `until` seconds after the first word that they say.
    """
    told = ["--steps", "100000", "--checkpoint-every", "2", "--keep", "2", "--device", "cpu"]
    new = ["dcgan", "--data", "data", "--size", "16", "--width", "4", "--batch", "8", "--sample-every", "3", "--out", str(run)]
    told += new if first else ["--resume", str(run)]
    command = [sys.executable, "-m", "rawgan", "train", *told]
    with subprocess.Popen(
        command, cwd=run.parent, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
    return max([0, *(int(n) for n in re.findall(r"^checkpoint: step (\d+)\n", line + out, re.MULTILINE))])


def kills(tmp_path, n, until, seed):
    """A run is killed n times and resumed each time; at the end it is what a run without kills is."""
    run, dice, announced = tmp_path / "run", random.Random(seed), 0
    (tmp_path / "data").mkdir()
    pictures, labels = np.random.default_rng(0).integers(256, size=(60, 16, 16), dtype=np.uint8), bytes(60)
    (tmp_path / "data" / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 60, 16, 16) + pictures.tobytes())
    (tmp_path / "data" / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 60) + labels)
    for i in range(n):
        announced = max(announced, run_until_killed(run, dice, i == 0, until))
        found = checkpoints(run)
        assert max(found) >= announced, "a checkpoint that had been announced is lost"
        for path in found.values():
            load_checkpoint(path)  # raises unless it is whole
        load_generator(run)
    last = max(checkpoints(run)) + 20
    assert resume(run, steps=last, checkpoint_every=2, keep=2) == (last, last)
    start(options("dcgan", steps=last, sample_every=3, checkpoint_every=2, data=str(tmp_path / "data")), tmp_path / "straight")
    assert_same_run(run, tmp_path / "straight")
    return last


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_random_moments(tmp_path):
    assert kills(tmp_path, 8, 0.5, 0) > 4


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_two_hundred_random_moments(tmp_path):
    print(f"200 kills, {kills(tmp_path, 200, 0.5, 1)} steps")
