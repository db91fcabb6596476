"""What is said when a training goes wrong: each complaint is made to happen, and none comes when nothing is wrong."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.layers import ConvTranspose2d, Linear
from rawgan.losses import BCE, Hinge, LeastSquares, Wasserstein
from rawgan.models.recipes import RECIPES
from rawgan.optim import Adam
from rawgan.training import trainer
from rawgan.training.checkpoint import checkpoints
from rawgan.training.diagnosis import Doctor, spread
from rawgan.training.load import load_generator
from rawgan.training.options import Options
from rawgan.training.session import Session, resume, start

FAST, STILL = partial(Adam, lr=2e-3, betas=(0.5, 0.999)), partial(Adam, lr=1e-9)


pytestmark = pytest.mark.usefixtures("nothing_plotted")


def options(recipe, **changes):
    tiny = {"size": 16, "width": 4, "batch": 8, "sample_every": 50, "device": "cpu"}
    return Options(recipe, **(tiny | changes))


@pytest.fixture
def complaints(monkeypatch, capsys, tmp_path):
    """Trains a changed recipe and returns the complaints; `meddle(session)` is called before each step."""

    def complaints(recipe, steps, meddle=lambda session: None, **changes):
        monkeypatch.setitem(RECIPES, "changed", replace(RECIPES[recipe], name="changed", **changes))
        original = Session.step

        def step(self):
            meddle(self)
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "step", step)
            start(options("changed", steps=steps, lr=None), tmp_path / "run")
        lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
        said = [line.partition("diagnosis: ")[2].strip() for line in lines if "diagnosis: " in line]
        kept = tmp_path / "run" / "diagnosis.txt"
        assert (kept.read_text().splitlines() if kept.exists() else []) == list(dict.fromkeys(said))
        return said

    return complaints


def test_nothing_is_said_when_nothing_is_wrong(complaints):
    rates = {f"{who}_optimizer": partial(Adam, lr=1e-3, betas=(0.5, 0.999)) for who in ("generator", "discriminator")}
    assert complaints("dcgan", 300, **rates) == []


@pytest.mark.parametrize("objective", [BCE(), BCE(0.9), LeastSquares(), Hinge()], ids=repr)
def test_a_discriminator_that_is_sure(objective, complaints):
    """G stands still, so that D has an easy task."""
    said = complaints("dcgan", 300, objective=objective, generator_optimizer=STILL, discriminator_optimizer=FAST)
    saturates = [line for line in said if "D saturates" in line]
    assert len(saturates) == 1 and "without doubt" in saturates[0] and "try" in saturates[0]
    assert ("--real-label 0.9" in saturates[0]) == (objective == BCE()) and "wgan_gp" in saturates[0]


def test_a_wasserstein_critic_is_never_sure(complaints):
    said = complaints("wgan_gp", 60, critic_steps=lambda step: 1, generator_optimizer=STILL, discriminator_optimizer=FAST)
    assert not [line for line in said if "saturates" in line]


def test_gradients_that_vanish(complaints):
    """The minimax loss of a D that is far ahead: its slope at G(z) is that of a sigmoid far out."""

    def far_ahead(session):
        if session.done == 100:
            session.gan.discriminator.params["5.w"][...] *= 20

    said = complaints("dcgan", 250, far_ahead, objective=BCE(minimax=True), generator_optimizer=STILL, discriminator_optimizer=FAST)
    assert [line for line in said if "the gradient of the generator vanishes" in line and "hardly learns" in line]


def test_gradients_that_explode(complaints):
    """A Wasserstein critic that nothing holds back."""
    rates = {"generator_optimizer": FAST, "discriminator_optimizer": partial(Adam, lr=1.0)}
    said = complaints("wgan", 100, clip=None, critic_steps=lambda step: 1, **rates)
    exploding = [line for line in said if "the gradient of the generator explodes" in line]
    assert exploding and "most of it in generator." in exploding[0]


def test_a_gradient_that_jumps():
    """A hundred times what it was before, and large; or huge at once. Small ones may grow: networks begin with them."""
    row = {"d_loss": 1.0, "d_real": 0.5, "d_fake": 0.5}
    for before, now, said in ((20, 5000, True), (20, 1500, False), (0.001, 5, False), (None, 2e5, True), (None, 5000, False)):
        doctor = Doctor(RECIPES["dcgan"], np.zeros((2, 4, 4, 1), np.uint8))
        for step in range(0, 200, 10) if before else ():
            assert doctor.listen(step, row, {"generator.1.w": before, "discriminator.0.w": 1.0}) == []
        got = doctor.listen(200, row, {"generator.1.w": 3 * now / 5, "generator.4.w": 4 * now / 5, "discriminator.0.w": 1.0})
        assert len(got) == said
        assert not said or ("the generator explodes" in got[0] and "generator.4.w" in got[0])


def test_samples_that_collapse(complaints, capsys):
    """A generator that has learned, then forgets its z."""

    def forget(session):
        if session.done >= 400:
            first = next(layer for layer in session.gan.generator.layers if isinstance(layer, ConvTranspose2d | Linear))
            first.params["w"][...] = session.gan.generator_optimizer.lr = 0

    rates = {f"{who}_optimizer": partial(Adam, lr=1e-3, betas=(0.5, 0.999)) for who in ("generator", "discriminator")}
    said = complaints("dcgan", 520, forget, **rates)
    collapse = [line for line in said if "the samples collapse" in line]
    assert len(collapse) == 1 and collapse[0].startswith("step 500:") and "differ by 0% of" in collapse[0]


class TestSpread:
    def test_by_hand(self):
        assert spread(np.array([[0, 0], [3, 4], [3, 4]], np.uint8)) == pytest.approx(10 / 3)

    def test_of_one_picture_and_of_equal_ones(self):
        assert spread(np.ones((1, 4, 4, 1), np.uint8)) == 0
        assert spread(np.full((9, 4, 4, 1), 200, np.uint8)) == 0

    def test_real_pictures_that_are_all_equal_are_no_collapse(self):
        same = np.full((9, 4, 4, 1), 200, np.uint8)
        doctor = Doctor(RECIPES["dcgan"], same)
        assert [doctor.look(step, same) for step in range(0, 5000, 1000)] == [[]] * 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
class TestOverflow:
    """The run stops, keeps the last good checkpoint, and names the first layer whose numbers are not finite."""

    def broken(self, folder, **changes):
        with pytest.raises(UserError) as error:
            start(options("dcgan", **({"steps": 40, "checkpoint_every": 5} | changes)), folder)
        said = str(error.value)
        assert said.startswith("the loss is no longer finite at step ") and "\n" not in said
        return said

    def at_step(self, monkeypatch, done, what):
        """`what(session)` happens before the step after `done`, also when the steps are gone through again."""
        original = Session.step

        def step(self):
            if self.done == done:
                what(self)
            return original(self)

        monkeypatch.setattr(Session, "step", step)

    @pytest.mark.parametrize("who, name, layer", [("discriminator", "2.w", r"2, Conv2d(4, 8"), ("generator", "4.w", "4, ConvTr")])
    def test_the_forward_pass(self, who, name, layer, tmp_path, monkeypatch):
        def infinite(session):
            getattr(session.gan, who).params[name][0, 0, 0, 0] = np.inf

        self.at_step(monkeypatch, 12, infinite)
        said = self.broken(tmp_path / "run")
        assert f"the first number to overflow is in step 13, in the forward pass of the {who}'s layer {layer}" in said
        assert "the last good checkpoint is of step 10" in said
        assert list(checkpoints(tmp_path / "run")) == [5, 10]
        monkeypatch.undo()
        load_generator(tmp_path / "run")
        assert resume(tmp_path / "run", steps=20) == (20, 20)  # it is a run that can go on

    def test_the_backward_pass(self, tmp_path, monkeypatch):
        broken, original, step = False, ConvTranspose2d.backward, Session.step

        def backward(self, *args, **options):
            dx, grads = original(self, *args, **options)
            return dx, {name: g * np.inf if broken and self.K == 8 else g for name, g in grads.items()}

        def stepped(self):
            nonlocal broken
            broken = self.done >= 12
            return step(self)

        monkeypatch.setattr(ConvTranspose2d, "backward", backward)
        monkeypatch.setattr(Session, "step", stepped)
        said = self.broken(tmp_path / "run", steps=14)
        assert "in step 13, in the backward pass of the generator's layer 4, ConvTranspose2d" in said

    def test_the_update(self, tmp_path):
        said = self.broken(tmp_path / "run", lr=1e39)
        assert "in step 1, in the update of the discriminator's 0.w; there was no checkpoint yet" in said
        assert not (tmp_path / "run" / "weights.safetensors").exists()

    def test_the_loss(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Wasserstein, "generator", lambda self, c: (np.float32(np.nan), np.zeros_like(c)))
        monkeypatch.setitem(RECIPES, "dcgan", replace(RECIPES["dcgan"], objective=Wasserstein()))
        assert "in step 1, in the generator's loss" in self.broken(tmp_path / "run")

    def test_a_checkpoint_is_never_made_of_numbers_that_are_not_finite(self, tmp_path, monkeypatch):
        """Between two lines of metrics."""

        def infinite(session):
            session.gan.discriminator_optimizer.parameters.flat[0] = np.nan

        self.at_step(monkeypatch, 12, infinite)
        said = self.broken(tmp_path / "run", steps=15)
        assert "no longer finite at step 15" in said and list(checkpoints(tmp_path / "run")) == [5, 10]

    def test_an_overflow_that_does_not_come_again(self, tmp_path, monkeypatch):
        """As of a flipped bit in memory: the steps are gone through again, and it is said that they were fine."""
        fired = []

        def once(session):
            if not fired:
                fired.append(True)
                session.gan.generator.params["1.w"][...] = np.nan

        self.at_step(monkeypatch, 12, once)
        said = self.broken(tmp_path / "run")
        assert "gone through again from step 10, the same steps gave finite numbers" in said

    def test_nothing_stays_patched(self, tmp_path, monkeypatch):
        made = []
        original = trainer.first_overflow

        def remember(gan, *args):
            made.append(gan)
            return original(gan, *args)

        monkeypatch.setattr(trainer, "first_overflow", remember)
        self.broken(tmp_path / "run", lr=1e39)
        (gan,) = made
        assert "forward" not in vars(gan.generator.layers[1]) and "step" not in vars(gan.generator_optimizer)
        assert gan.objective == BCE()
