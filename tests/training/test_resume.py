"""A resumed run equals an uninterrupted one, and files that do not belong to it are refused."""

import json
import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.training import callbacks as trainer
from rawgan.training import loop, session
from rawgan.training.checkpoint import checkpoints, checksum, load_checkpoint, save_checkpoint
from rawgan.training.run_folder import RunFolder, locked
from rawgan.training.train import resume, start
from tests.support.runs import TABLES, Killed, assert_same_run, killed_at, options

pytestmark = pytest.mark.usefixtures("nothing_plotted")

RUNS = {
    "dcgan": {},
    "wgan_gp": {"steps": 20, "checkpoint_every": 10},
    "cgan": {"ema": 0.9, "flip": True},
    "raschka_mlp_gan": {},  # Dropout has a separate random stream
    "wgan": {"steps": 4, "checkpoint_every": 2},  # RMSprop
    "atienza_dcgan": {
        "size": 16,
        "steps": 20,
        "checkpoint_every": 10,
    },  # RMSprop with decay, which counts steps
    # rates that decay, labels and the vectors of SpectralNorm inside blocks
    "sngan_projection": {"steps": 4, "checkpoint_every": 2},
}


@pytest.mark.parametrize("recipe", RUNS)
def test_killed_and_resumed_is_the_same_run(recipe, tmp_path):
    """A run killed between checkpoints and resumed equals one of 2 N steps without interruption.

    The kill comes after N steps and a part of those that follow.
    """
    told = options(recipe, **RUNS[recipe])
    start(told, tmp_path / "straight")
    with killed_at(told.steps // 2 + 3 * (told.steps > 10), session.Session):
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


MISTAKES = [
    forget_count,
    forget_slots,
    forget_streams,
    forget_place,
    forget_statistics,
    forget_average,
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_forgotten_on_resume_shows(mistake, straight_and_half, tmp_path, monkeypatch):
    """The comparison of the tests above detects any state that a checkpoint lacks."""
    straight, half = straight_and_half
    original = session.Session.restore

    def restore(self, path, switched):
        original(self, path, switched)
        mistake(self)

    run = shutil.copytree(half, tmp_path / "run")
    (run / "weights.safetensors").unlink()  # the file that alone would show some of the mistakes
    monkeypatch.setattr(session.Session, "restore", restore)
    resume(run, steps=8)
    with pytest.raises(AssertionError):
        assert_same_run(run, straight)


@pytest.fixture(scope="module")
def straight_and_half(tmp_path_factory, nothing_plotted):
    """Return runs of eight steps and of four, with all kinds of state."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("straight", 8), ("half", 4)):
        start(options("wgan_gp", steps=steps, ema=0.9, checkpoint_every=4), folder / name)
    resume(shutil.copytree(folder / "half", folder / "right"), steps=8)
    assert_same_run(folder / "right", folder / "straight")
    return folder / "straight", folder / "half"


def test_more_steps_after_the_end_are_the_same_run(tmp_path):
    """A finished run with more steps equals a longer one.

    The final line, image and weights, which the longer run would not have, are removed.
    """
    start(options("dcgan", steps=36), tmp_path / "straight")
    start(options("dcgan", steps=23), tmp_path / "longer")
    assert "\n23," in (tmp_path / "longer" / "metrics.csv").read_text()
    resume(tmp_path / "longer", steps=36)
    assert_same_run(tmp_path / "longer", tmp_path / "straight")


def test_more_steps_change_rates_that_decay(tmp_path, capsys):
    """A run that goes on longer has the rates of the longer run from there on, and says so."""
    start(options("sngan_resnet", steps=2), tmp_path / "run")
    capsys.readouterr()
    resume(tmp_path / "run", steps=3)
    assert "Learning rate: falls to 0 at step 3, in the place of 2" in capsys.readouterr().out
    start(options("sngan_resnet", steps=3), tmp_path / "straight")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_a_checkpoint_of_an_earlier_version(tmp_path):
    """A checkpoint with the former names of the state, the identity and the images is resumed."""
    start(options("dcgan", steps=4, checkpoint_every=2), tmp_path / "straight")
    start(options("dcgan", steps=2, checkpoint_every=2), tmp_path / "run")
    path = checkpoints(tmp_path / "run")[2]
    arrays, state = load_checkpoint(path)
    identity = state.pop("identity")
    identity["pictures"] = identity.pop("images")
    text = json.dumps(state | {"of": identity})
    path.write_bytes(save(arrays, {"facts": text, "sha256": checksum(arrays, text)}))
    resume(tmp_path / "run", steps=4)
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize("where", ["save_curves", "save_gradients", "save_weights"])
def test_killed_at_its_very_end(where, tmp_path, monkeypatch):
    """A run killed after its last checkpoint is finished by resuming, and can take more steps.

    One that was killed while it drew its plots has its weights already.
    """

    def killed(*_):
        raise Killed

    told = options("wgan_gp", steps=13, sample_every=13)
    start(told, tmp_path / "straight")
    owner = {"save_curves": loop, "save_gradients": trainer, "save_weights": RunFolder}[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, killed)
        with pytest.raises(Killed):
            start(told, tmp_path / "run")
    if where == "save_weights":
        assert resume(tmp_path / "run") == (13, 13)
    else:  # the weights were written before the plots
        with pytest.raises(UserError, match="has done its 13 steps"):
            resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    resume(tmp_path / "run", steps=15)
    start(options("wgan_gp", steps=15, sample_every=13), tmp_path / "longer")
    assert_same_run(tmp_path / "run", tmp_path / "longer")


def test_before_the_first_checkpoint_it_begins_anew(tmp_path, monkeypatch):
    start(options("dcgan", steps=10), tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(
            session.Session, "run_steps", lambda self, last: (_ for _ in ()).throw(Killed)
        )
        with pytest.raises(Killed):
            start(options("dcgan", steps=10), tmp_path / "killed")
    resume(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_what_was_added_after_the_checkpoint_goes(tmp_path, monkeypatch):
    """Files and lines written after the checkpoint are removed, those of other origin are kept.

    They are half a line in a table, a later image and half a checkpoint.
    """
    start(options("wgan_gp", steps=10, checkpoint_every=10), tmp_path / "run")
    run = tmp_path / "run"
    change_config(run, steps=20)  # as of a run that was killed before that step
    for name in TABLES:
        with open(run / name, "ab") as file:
            file.write(
                b"19,1\r\n"[: 2 if name == "metrics.csv" else 99]
                if name != "gradients.csv"
                else b"11,0.123"
            )
    (run / "samples" / "step_000011.png").write_bytes(b"half")
    temporary = [
        run / "checkpoints" / f"step_000020.safetensors.{'0' * 16}.part",
        run / f"metrics.csv.{'a1' * 8}.part",
    ]
    files = [
        run / "film.mkv.part",
        run / f"film.mkv.{'0' * 16}.part",
        run / "checkpoints" / "notes.part",
    ]
    for path in (*temporary, *files):
        path.write_bytes(b"half")
    start(options("wgan_gp", steps=20, checkpoint_every=10), tmp_path / "straight")
    resume(run, steps=20)
    assert_same_run(run, tmp_path / "straight")
    assert sorted(run.rglob("*.part")) == sorted(files)


def change_config(run, **changes):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("library", ["numpy", "blas"])
def test_another_library_is_warned_of(tmp_path, capsys, library):
    """Another version of a library that changes the bits causes a warning, the core count does not.

    See test_cpu.py for the number of cores.
    """
    start(options("dcgan", steps=2), tmp_path / "run")
    resume(tmp_path / "run", steps=3)
    assert "its bits may differ" not in capsys.readouterr().err
    versions = json.loads((tmp_path / "run" / "config.json").read_text())["versions"]
    change_config(tmp_path / "run", versions=versions | {library: "another\x1b[2J"})
    resume(tmp_path / "run", steps=4)
    assert (
        f"warning: the run began with {library} another\\x1b[2J and goes on with"
        in capsys.readouterr().err
    )


class TestRefusals:
    @pytest.fixture
    def run(self, tmp_path):
        start(options("cgan", steps=4), tmp_path / "run")
        return tmp_path / "run"

    def refused(self, run, *words, **changes):
        """Assert one sentence of error and an unchanged folder."""
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(UserError) as error:
            resume(run, **({"steps": 8} | changes))
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        for word in words:
            assert word in str(error.value)
        assert "\n" not in str(error.value)

    def test_nothing_left_to_do(self, run):
        self.refused(run, "has done its 4 steps", steps=4)
        self.refused(run, "has done its 4 steps", steps=2)

    def test_another_recipe(self, run):
        change_config(run, recipe="dcgan")
        self.refused(run, "is of another run: its recipe is 'cgan', that of config.json 'dcgan'")

    def test_another_width_or_rate_or_seed(self, run):
        for name, value in (("width", 8), ("lr", 0.5), ("seed", 7), ("ema", 0.5), ("flip", True)):
            before = (run / "config.json").read_bytes()
            change_config(run, **{name: value})
            self.refused(run, f"its {name} is")
            (run / "config.json").write_bytes(before)

    def test_the_number_of_classes_is_that_of_the_data(self, run, monkeypatch):
        """A recipe of another number of classes takes that of the data, as at the start."""
        monkeypatch.setitem(RECIPES, "cgan", RECIPES["cgan"].with_classes(12))
        assert resume(run, steps=8) == (8, 8)

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
        for bit in [dice.randrange(8 * len(content)) for _ in range(100)] + [
            dice.randrange(8 * header) for _ in range(100)
        ]:
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
        self.refused(
            tmp_path / "run",
            "weights.safetensors is of another step",
            "the last checkpoint is of step 4",
            "move",
            steps=8,
        )
        (tmp_path / "run" / "weights.safetensors").unlink()
        resume(tmp_path / "run")
        assert_same_run(tmp_path / "run", tmp_path / "straight")

    def test_a_finished_run_without_checkpoints(self, run):
        shutil.rmtree(run / "checkpoints")
        self.refused(
            run, "weights.safetensors is of another step", "there is no checkpoint", "move"
        )

    @pytest.mark.parametrize("ahead", ["metrics.csv", "samples"])
    def test_what_is_further_than_a_lost_checkpoint(self, tmp_path, ahead):
        """If two checkpoints are lost, tables and images are ahead by more than a kill explains."""
        run = tmp_path / "run"
        start(options("dcgan", steps=40, checkpoint_every=10, keep=4), run)
        for path in list(checkpoints(run).values())[1:]:
            path.unlink()
        (run / "weights.safetensors").unlink()
        if ahead == "samples":
            for name in TABLES:
                (run / name).unlink(missing_ok=True)
        self.refused(
            run, ahead, "the last checkpoint is of step 10", f"move {run / ahead} away", steps=80
        )

    @pytest.mark.parametrize("table", ["gradients.csv", "penalty_norms.csv"])
    def test_nothing_is_changed_before_the_last_table_is_checked(self, tmp_path, table):
        start(options("wgan_gp", steps=20), tmp_path / "run")
        (tmp_path / "run" / table).write_text("my,own,table\n1,2,3\n")
        self.refused(tmp_path / "run", f"{table} is not the table", steps=30)

    def test_a_table_that_is_another(self, run):
        (run / "metrics.csv").write_text("my,own,table\n1,2,3\n")
        self.refused(run, "metrics.csv is not the table")

    def test_a_vae_cannot_be_resumed(self, run):
        change_config(run, recipe="vae")
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


def test_a_checkpoint_that_is_written_again_costs_no_other(tmp_path):
    for step in (2, 4, 6, 6):
        save_checkpoint(tmp_path, step, {"a": np.zeros(1)}, {}, keep=2)
    assert list(checkpoints(tmp_path)) == [4, 6]


def test_weights_are_those_of_the_last_checkpoint(tmp_path):
    start(options("cgan", steps=4, ema=0.5), tmp_path / "run")
    arrays, _ = load_checkpoint(list(checkpoints(tmp_path / "run").values())[-1])
    for name, a in load_file(tmp_path / "run" / "weights.safetensors").items():
        np.testing.assert_array_equal(a, arrays[name])
