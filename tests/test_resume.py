"""A run that is stopped, or killed at any moment, goes on as if nothing had happened."""

import builtins
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rawgan.data import load
from rawgan.errors import UserError
from rawgan.models import dcgan
from rawgan.models.recipes import RECIPES
from rawgan.training import loop, session
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.load import load_generator
from rawgan.training.options import Options
from rawgan.training.run import RunFolder, Table, locked
from rawgan.training.session import resume, start

ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1"}
PATIENCE = 120  # seconds that any process may take on a busy machine
TABLES = ("metrics.csv", "gradients.csv", "penalty_norms.csv")


class Killed(BaseException):
    """What ends a run at once."""


@pytest.fixture(scope="module", autouse=True)
def only_what_matters():
    """The digits are drawn once, not for every run, and nothing is plotted, which would take longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "load", cache(load))
        for module, name in (
            (session, "save_gradients"),
            (session, "save_norms"),
            (session, "save_progress"),
            (loop, "save_curves"),
        ):
            patch.setattr(module, name, lambda *_: None)
        yield


def options(recipe, **changes):
    """A run that is over in a second."""
    tiny = {"size": 16, "width": 4, "batch": 8, "steps": 40, "sample_every": 10, "checkpoint_every": 20, "device": "cpu"}
    return Options(recipe, **(tiny | changes))


def assert_same_run(got: Path, want: Path):
    """The last checkpoints have the same arrays and facts to the last bit, and the tables and pictures the same bytes."""
    (arrays, facts), (arrays_want, facts_want) = (load_checkpoint(list(checkpoints(run).values())[-1]) for run in (got, want))
    assert facts == facts_want
    assert arrays.keys() == arrays_want.keys() and any("optimizer" in name for name in arrays)
    for name, a in arrays.items():
        assert a.tobytes() == arrays_want[name].tobytes(), name
    names = [*TABLES, "weights.safetensors", *(f"samples/{path.name}" for path in (want / "samples").iterdir())]
    for name in names:
        if (want / name).exists():
            assert (got / name).read_bytes() == (want / name).read_bytes(), name
    assert len(list((got / "samples").iterdir())) == len(list((want / "samples").iterdir()))


RUNS = {
    "dcgan": {},
    "wgan_gp": {"steps": 20, "checkpoint_every": 10},
    "cgan": {"ema": 0.9, "flip": True},
    "raschka_mlp_gan": {},  # Dropout draws from a stream of its own
    "wgan": {"steps": 4, "checkpoint_every": 2},  # RMSprop
    "atienza_dcgan": {"size": 16, "steps": 20, "checkpoint_every": 10},  # RMSprop with decay, which counts steps
}


@pytest.mark.parametrize("recipe", RUNS)
def test_killed_and_resumed_is_the_same_run(recipe, tmp_path, monkeypatch):
    """2 N steps straight, against N steps, a kill in the middle of the steps after them, and the rest."""
    told = options(recipe, **RUNS[recipe])
    start(told, tmp_path / "straight")
    dies_at, original = told.steps // 2 + 3 * (told.steps > 10), session.Session.step

    def step(self):
        if self.done == dies_at:
            raise Killed
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "step", step)
        with pytest.raises(Killed):
            start(told, tmp_path / "killed")
    assert list(checkpoints(tmp_path / "killed")) == [told.steps // 2]
    assert resume(tmp_path / "killed") == (told.steps, told.steps)
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_more_steps_after_the_end_are_the_same_run(tmp_path):
    """The end of the shorter run leaves a line, a picture and weights that the longer one would not have: they go."""
    start(options("dcgan", steps=36), tmp_path / "straight")
    start(options("dcgan", steps=23), tmp_path / "longer")
    assert "\n23," in (tmp_path / "longer" / "metrics.csv").read_text()
    resume(tmp_path / "longer", steps=36)
    assert_same_run(tmp_path / "longer", tmp_path / "straight")


@pytest.mark.parametrize("where", ["save_curves", "save_gradients", "save_weights"])
def test_killed_at_its_very_end(where, tmp_path, monkeypatch):
    """All steps are done and saved, not everything else is written: resumed, it only finishes; and it takes more steps."""

    def killed(*_):
        raise Killed

    told = options("wgan_gp", steps=13, sample_every=13)
    start(told, tmp_path / "straight")
    owner = {"save_curves": loop, "save_gradients": session, "save_weights": RunFolder}[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, killed)
        with pytest.raises(Killed):
            start(told, tmp_path / "run")
    assert resume(tmp_path / "run") == (13, 13)
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    resume(tmp_path / "run", steps=15)
    start(options("wgan_gp", steps=15, sample_every=13), tmp_path / "longer")
    assert_same_run(tmp_path / "run", tmp_path / "longer")


def test_before_the_first_checkpoint_it_begins_anew(tmp_path, monkeypatch):
    start(options("dcgan", steps=10), tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "step", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            start(options("dcgan", steps=10), tmp_path / "killed")
    resume(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_what_was_added_after_the_checkpoint_goes(tmp_path, monkeypatch):
    """Half a line in a table, a later picture, half a checkpoint."""
    start(options("wgan_gp", steps=10, checkpoint_every=10), tmp_path / "run")
    run = tmp_path / "run"
    for name in TABLES:
        with open(run / name, "ab") as file:
            file.write(b"999999,1\r\n"[: 6 if name == "metrics.csv" else 99] if name != "gradients.csv" else b"11,0.123")
    (run / "samples" / "step_000011.png").write_bytes(b"half")
    (run / "checkpoints" / "step_000020.safetensors.part").write_bytes(b"half")
    start(options("wgan_gp", steps=20, checkpoint_every=10), tmp_path / "straight")
    resume(run, steps=20)
    assert_same_run(run, tmp_path / "straight")
    assert not list(run.rglob("*.part"))


class TestRefusals:
    @pytest.fixture
    def run(self, tmp_path):
        start(options("cgan", steps=4), tmp_path / "run")
        return tmp_path / "run"

    def refused(self, run, *words, **changes):
        """One sentence, and nothing in the folder is another than before."""
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(UserError) as error:
            resume(run, **({"steps": 8} | changes))
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        for word in words:
            assert word in str(error.value)
        assert "\n" not in str(error.value)

    def change_config(self, run, **changes):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | changes))

    def test_nothing_left_to_do(self, run):
        self.refused(run, "has all its 4 steps", steps=4)
        self.refused(run, "has all its 4 steps", steps=2)

    def test_another_recipe(self, run):
        self.change_config(run, recipe="dcgan")
        self.refused(run, "is of another run: its recipe is 'cgan', that of config.json 'dcgan'")

    def test_another_width_or_rate_or_seed(self, run):
        for name, value in (("width", 8), ("lr", 0.5), ("seed", 7), ("ema", 0.5), ("flip", True)):
            before = (run / "config.json").read_bytes()
            self.change_config(run, **{name: value})
            self.refused(run, f"its {name} is")
            (run / "config.json").write_bytes(before)

    def test_another_number_of_classes(self, run, monkeypatch):
        nets = {"generator": dcgan.dcgan_generator, "discriminator": dcgan.dcgan_discriminator}
        twelve = replace(RECIPES["cgan"], classes=12, **{name: partial(make, classes=12) for name, make in nets.items()})
        monkeypatch.setitem(RECIPES, "cgan", twelve)
        self.refused(run, "its classes is 10, that of config.json 12")

    def test_other_pictures(self, run, monkeypatch):
        original = session.load

        def another(*args):
            images = original(*args)
            other = images.images.copy()
            other[5, 3, 3] ^= 1
            return replace(images, images=other)

        monkeypatch.setattr(session, "load", another)
        self.refused(run, "was trained on other pictures: those in digits have changed")

    @pytest.mark.parametrize("keep", [0, 7, 100, -1])
    def test_a_truncated_checkpoint(self, run, keep):
        path = list(checkpoints(run).values())[-1]
        path.write_bytes(path.read_bytes()[:keep])
        self.refused(run, path.name, "is damaged", "move it away")

    def test_flipped_bits(self, run):
        path = list(checkpoints(run).values())[-1]
        content, dice = path.read_bytes(), random.Random(0)
        header = 8 + int.from_bytes(content[:8], "little")
        for bit in [dice.randrange(8 * len(content)) for _ in range(100)] + [dice.randrange(8 * header) for _ in range(100)]:
            broken = bytearray(content)
            broken[bit // 8] ^= 1 << bit % 8
            path.write_bytes(broken)
            with pytest.raises(UserError, match=r"is damaged|is no checkpoint"):
                load_checkpoint(path)
        path.write_bytes(broken)
        self.refused(run, path.name)

    def test_a_damaged_checkpoint_moved_away_leaves_the_one_before(self, tmp_path):
        start(options("dcgan", steps=8, checkpoint_every=4), tmp_path / "run")
        start(options("dcgan", steps=8, checkpoint_every=4), tmp_path / "straight")
        list(checkpoints(tmp_path / "run").values())[-1].unlink()
        resume(tmp_path / "run")
        assert_same_run(tmp_path / "run", tmp_path / "straight")

    def test_a_table_that_is_another(self, run):
        (run / "metrics.csv").write_text("my,own,table\n1,2,3\n")
        self.refused(run, "metrics.csv is not the table")

    def test_a_vae_cannot_be_resumed(self, run):
        self.change_config(run, recipe="vae")
        self.refused(run, "'vae' is no recipe to train")

    @pytest.mark.skipif(os.name != "posix", reason="locks folders as POSIX systems do")
    def test_a_run_that_is_still_going_on(self, run):
        with locked(run):
            self.refused(run, "another process is training in")

    def test_no_run(self, tmp_path):
        with pytest.raises(UserError, match="there is no run folder"):
            resume(tmp_path / "nowhere")


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


def test_checkpoints_are_kept_as_asked(tmp_path):
    start(options("dcgan", steps=10, checkpoint_every=2, keep=3), tmp_path / "run")
    assert list(checkpoints(tmp_path / "run")) == [6, 8, 10]


def test_weights_are_those_of_the_last_checkpoint(tmp_path):
    start(options("cgan", steps=4, ema=0.5), tmp_path / "run")
    arrays, _ = load_checkpoint(list(checkpoints(tmp_path / "run").values())[-1])
    for name, a in load_file(tmp_path / "run" / "weights.safetensors").items():
        np.testing.assert_array_equal(a, arrays[name])
