"""Runs with several penalties, some of them lazy: resumed between two evaluations, and refused."""

from dataclasses import replace

import pytest

from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.penalties import R1, R2, Drift, Lazy, Penalties
from rawgan.training import session
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.plots import columns, curves
from rawgan.training.train import resume, start
from tests.support.runs import assert_same_run, killed_at, options

pytestmark = pytest.mark.usefixtures("nothing_plotted")

# D's steps 0, 8, 16 and 0, 7, 14: a resume at step 10 is between two evaluations of both, and the
# norms of step 11 are those of steps 8 and 7
LAZY = replace(RECIPES["r3gan"], penalty=[Lazy(R1(1.0), 8), Lazy(R2(1.0), 7), Drift(0.1)])
TOLD = {"steps": 20, "checkpoint_every": 10, "sample_every": 1}


@pytest.fixture
def lazy(monkeypatch):
    monkeypatch.setitem(RECIPES, "r3gan", LAZY)


def killed_and_resumed(folder, dies_at: int = 13):
    """Return the folders of a run that was killed and resumed, and of an uninterrupted one."""
    told = options("r3gan", **TOLD)
    start(told, folder / "straight")
    with killed_at(dies_at, session.Session):
        start(told, folder / "killed")
    resume(folder / "killed")
    return folder / "killed", folder / "straight"


def test_resumed_between_two_evaluations(lazy, tmp_path):
    run, straight = killed_and_resumed(tmp_path)
    assert_same_run(run, straight)
    assert "penalty,gradient_norm" in (straight / "metrics.csv").read_text()
    assert len((straight / "penalty_norms.csv").read_text().splitlines()) == 1 + 20 * 2 * 8


def forget(monkeypatch):
    """Mistake: the values of the last evaluations are not loaded."""
    monkeypatch.setattr(Penalties, "restore", lambda self, state, like: None)


def values_alone(monkeypatch):
    """Mistake: the norms are those of another penalty."""
    original = Penalties.restore
    monkeypatch.setattr(
        Penalties,
        "restore",
        lambda self, state, like: original(self, state[1::-1] + state[2:], like),
    )


@pytest.mark.parametrize("mistake", [forget, values_alone])
def test_what_is_forgotten_on_resume_shows(mistake, lazy, tmp_path, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same_run(*killed_and_resumed(tmp_path))


def test_a_checkpoint_without_the_last_evaluations_is_refused(lazy, tmp_path):
    told = options("r3gan", **TOLD | {"steps": 2, "checkpoint_every": 2})
    start(told, tmp_path / "run")
    _, saved = load_checkpoint(checkpoints(tmp_path / "run")[2])
    assert [len(norms or ()) for _, norms in saved["penalties"]] == [8, 8, 0]
    penalties = Penalties(LAZY.penalty)
    for state in ([], saved["penalties"][:2], [["text", None]] * 3):
        with pytest.raises((ValueError, TypeError)):
            penalties.restore(
                state, LAZY.build(session.Random(0)).generator_optimizer.parameters.flat
            )


def test_checkpoints_without_a_lazy_penalty_are_as_before(tmp_path):
    start(options("wgan_gp", steps=2, checkpoint_every=2), tmp_path / "run")
    _, saved = load_checkpoint(checkpoints(tmp_path / "run")[2])
    assert "penalties" not in saved


def test_drift_alone_has_no_norms(tmp_path, monkeypatch):
    """Drift has a curve of its value, and neither column nor table of gradient norms."""
    recipe = replace(RECIPES["r3gan"], penalty=Drift(0.1))
    monkeypatch.setitem(RECIPES, "r3gan", recipe)
    start(options("r3gan", steps=2, sample_every=1), tmp_path / "run")
    assert columns(curves(recipe))[-1] == "penalty"
    assert not (tmp_path / "run" / "penalty_norms.csv").exists()


def test_a_real_label_is_refused(tmp_path):
    with pytest.raises((UserError, NotImplementedError), match="RpGAN has no binary cross-entropy"):
        start(options("r3gan", real_label=0.9), tmp_path / "run")
