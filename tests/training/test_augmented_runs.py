"""Runs with --augment: the options, config.json, resuming to the same bits, weights of D."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from rawgan.ada import ADA
from rawgan.cli.main import app
from rawgan.errors import UserError
from rawgan.layers import Augment
from rawgan.training import session
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.load import load_player
from rawgan.training.options import Options, from_config, read_config
from rawgan.training.train import resume, start
from tests.support.runs import assert_same_run, killed_at, options


def rawgan(*args, status=0):
    """Run the command line in this process; assert its exit status and return the result."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, args)))
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


pytestmark = pytest.mark.usefixtures("nothing_plotted")

RUNS = {  # recipe and options; checkpoints of ADA are between two moves of p
    "dcgan": {"augment": "ada", "ada_images": 200, "steps": 16, "lr": 2e-3},
    "cgan": {"augment": "ada,cutout", "ada_images": 500, "flip": True, "steps": 20},
    "wgan_gp": {"augment": "translation", "steps": 8, "checkpoint_every": 4},
    "acgan": {"augment": "color,translation,cutout", "steps": 20},
}


def runs(recipe, folder, **changes):
    """Return the folders of a run that was killed and resumed, and of an uninterrupted one."""
    wanted = options(recipe, **{"checkpoint_every": 10} | RUNS[recipe] | changes)
    start(wanted, folder / "straight")
    with killed_at(wanted.checkpoint_every + 1, session.Session):
        start(wanted, folder / "killed")
    resume(folder / "killed")
    return folder / "killed", folder / "straight"


@pytest.mark.parametrize("recipe", RUNS)
def test_killed_and_resumed_is_the_same_run(recipe, tmp_path):
    assert_same_run(*runs(recipe, tmp_path))


def test_the_state_of_ada_is_in_the_checkpoint(tmp_path):
    """The run of the test above is resumed between two moves of p, with p neither 0 nor 1."""
    start(options("dcgan", **RUNS["dcgan"] | {"steps": 10}), tmp_path / "run")
    _, state = load_checkpoint(checkpoints(tmp_path / "run")[10])
    p, signs, steps = state["ada"]
    assert 0 < p < 1 and signs and steps == 2
    assert "augment" in state["random"]["streams"]
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert header.endswith("d_fake,augment_p,real_sign")
    assert float(rows[-1].split(",")[-2]) == p


def p_stays_at_the_start(patch):
    patch.setattr(ADA, "restore", lambda self, state, like: None)


def signs_are_forgotten(patch):
    restore = ADA.restore
    patch.setattr(ADA, "restore", lambda self, state, like: restore(self, [state[0], 0, 0], like))


def other_draws(patch):
    restore = session.Session.restore

    def restored(self, path, switched):
        restore(self, path, switched)
        self.random.stream("augment").random(1)

    patch.setattr(session.Session, "restore", restored)


@pytest.mark.parametrize("mistake", [p_stays_at_the_start, signs_are_forgotten, other_draws])
def test_what_is_forgotten_on_resume_shows(mistake, tmp_path, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same_run(*runs("dcgan", tmp_path))


def test_options_are_in_the_config(tmp_path):
    start(options("cgan", **RUNS["cgan"] | {"steps": 2}), tmp_path / "run")
    config = read_config(tmp_path / "run" / "config.json")
    assert (config["augment"], config["ada_images"]) == ("ada,cutout", 500)
    again = from_config(config, tmp_path).augmentation()
    assert (again.transforms, again.adaptive, again.ada_images) == (("cutout",), True, 500)


def test_a_run_of_an_earlier_version_has_no_augmentation(tmp_path):
    """A config.json and a checkpoint without these options are resumed to the same bits."""
    start(options("dcgan", steps=4, checkpoint_every=2), tmp_path / "straight")
    start(options("dcgan", steps=2, checkpoint_every=2), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in
                                ("augment", "ada_images")}))  # fmt: skip
    resume(tmp_path / "run", steps=4)
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    assert not {"augment", "ada"} & load_checkpoint(checkpoints(tmp_path / "run")[4])[1].keys()


def test_another_augmentation_is_another_run(tmp_path):
    start(options("dcgan", augment="cutout", steps=2, checkpoint_every=2), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"cutout"', '"color"'))
    with pytest.raises(UserError, match=r"its augment is 'cutout', that of config\.json 'color'"):
        resume(tmp_path / "run", steps=4)


def test_a_discriminator_is_loaded_without_augmentation(tmp_path):
    """The trained D is the network of the recipe, with weights of the same names."""
    start(options("dcgan", augment="color", steps=2), tmp_path / "run")
    _, net, _ = load_player(tmp_path / "run", "discriminator")
    assert not any(isinstance(layer, Augment) for layer in net.layers)
    score, _ = net.forward(np.zeros((1, 16, 16, 1), np.float32), train=False)
    assert np.isfinite(score).all()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"augment": "colour"}, "--augment has no 'colour'; did you mean 'color'"),
        ({"augment": "color", "ada_images": 100}, "--ada-images goes with --augment ada"),
        ({"ada_images": 100}, "--ada-images goes with --augment ada: give both, or neither"),
        ({"augment": "ada", "ada_images": 0}, "--ada-images 0 cannot be used"),
        ({"recipe": "wgan_gp", "augment": "ada"}, "those of Wasserstein do not tell"),
        ({"recipe": "r3gan", "augment": "ada"}, "those of RpGAN do not tell"),
        ({"recipe": "raschka_wgan_gp", "augment": "color"}, "is taken in inference mode"),
    ],
)
def test_refused_before_anything_is_loaded(changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        Options(**{"recipe": "dcgan"} | changes).validate()


def test_commands(tmp_path, monkeypatch):
    """The line says what is augmented, and a resume goes on with it."""
    monkeypatch.chdir(tmp_path)
    sizes = ("--width", 4, "--batch", 4, "--size", 8)
    told = ("--augment", "ada,color", "--ada-images", 64, "--steps", 4, "--out", "run")
    printed = rawgan("train", "dcgan", *sizes, *told).stdout
    assert "Augmentation: color; p by ADA, 1 in 64 images." in printed
    rawgan("train", "--resume", "run", "--steps", 8)
    rawgan("train", "dcgan", *sizes, *told[:-3], 8, "--out", "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    refused = rawgan("train", "--resume", "run", "--augment", "cutout", "--steps", 12, status=2)
    assert "--augment cannot be given with --resume" in refused.stderr
