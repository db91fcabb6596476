"""A run that is stopped goes on as if nothing had happened; what does not belong to it is refused."""

import json
import os
import random
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from runs import TABLES, Killed, assert_same_run, options
from safetensors.numpy import load_file

from rawgan.errors import UserError
from rawgan.models import dcgan
from rawgan.models.recipes import RECIPES
from rawgan.training import loop, session, trainer
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.run import RunFolder, locked
from rawgan.training.session import resume, start

pytestmark = pytest.mark.usefixtures("nothing_plotted")

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


def forget_count(session):
    session.optimizers["generator"].t = 0


def forget_slots(session):
    session.optimizers["discriminator"].slots["v"][...] = 0


def forget_streams(session):
    session.random.stream("penalty").random(1)


def forget_place(session):
    session.feed.order.at = 0


def forget_statistics(session):
    session.gan.generator.buffers["2.running_var"][...] = 1


def forget_average(session):
    session.average.parameters.flat[...] = session.average.source.flat


MISTAKES = [forget_count, forget_slots, forget_streams, forget_place, forget_statistics, forget_average]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_forgotten_on_resume_shows(mistake, straight_and_half, tmp_path, monkeypatch):
    """That the comparison of the tests above sees each of the things that people forget to save."""
    straight, half = straight_and_half
    original = session.Session.restore

    def restore(self, path):
        original(self, path)
        mistake(self)

    run = shutil.copytree(half, tmp_path / "run")
    monkeypatch.setattr(session.Session, "restore", restore)
    resume(run, steps=8)
    with pytest.raises(AssertionError):
        assert_same_run(run, straight)


@pytest.fixture(scope="module")
def straight_and_half(tmp_path_factory, nothing_plotted):
    """Runs of eight steps and of four, with all that there is to be saved."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("straight", 8), ("half", 4)):
        start(options("wgan_gp", steps=steps, ema=0.9, checkpoint_every=4), folder / name)
    resume(shutil.copytree(folder / "half", folder / "right"), steps=8)
    assert_same_run(folder / "right", folder / "straight")
    return folder / "straight", folder / "half"


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
    owner = {"save_curves": loop, "save_gradients": trainer, "save_weights": RunFolder}[where]
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
        self.refused(run, "has done its 4 steps", steps=4)
        self.refused(run, "has done its 4 steps", steps=2)

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


def test_checkpoints_are_kept_as_asked(tmp_path):
    start(options("dcgan", steps=10, checkpoint_every=2, keep=3), tmp_path / "run")
    assert list(checkpoints(tmp_path / "run")) == [6, 8, 10]


def test_weights_are_those_of_the_last_checkpoint(tmp_path):
    start(options("cgan", steps=4, ema=0.5), tmp_path / "run")
    arrays, _ = load_checkpoint(list(checkpoints(tmp_path / "run").values())[-1])
    for name, a in load_file(tmp_path / "run" / "weights.safetensors").items():
        np.testing.assert_array_equal(a, arrays[name])
