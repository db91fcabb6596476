"""Diagnosis of a training that goes wrong: each message is provoked, and a good run prints none."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.gan import Schedule
from rawgan.layers import ConvTranspose2d, Linear
from rawgan.losses import BCE, Hinge, LeastSquares, RaLSGAN, RpGAN, Wasserstein
from rawgan.models.recipes import RECIPES
from rawgan.optim import Adam
from rawgan.training import callbacks as trainer
from rawgan.training.checkpoint import checkpoints
from rawgan.training.diagnostics import Diagnostics, spread
from rawgan.training.load import load_generator
from rawgan.training.options import Options
from rawgan.training.session import Session
from rawgan.training.train import resume, start

FAST, STILL = partial(Adam, lr=2e-3, betas=(0.5, 0.999)), partial(Adam, lr=1e-9)


pytestmark = pytest.mark.usefixtures("nothing_plotted")


def options(recipe, **changes):
    tiny = {"size": 16, "width": 4, "batch": 8, "sample_every": 50, "device": "cpu"}
    return Options(recipe, **(tiny | changes))


@pytest.fixture
def complaints(monkeypatch, capsys, tmp_path):
    """Train a changed recipe and return the diagnosis messages.

    `meddle(session)` is called before each step.
    """

    def complaints(recipe, steps, meddle=lambda session: None, **changes):
        monkeypatch.setitem(RECIPES, "changed", replace(RECIPES[recipe], name="changed", **changes))
        original = Session.run_steps

        def run_steps(self, last):
            meddle(self)
            return original(self, last)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "run_steps", run_steps)
            start(options("changed", steps=steps, lr=None), tmp_path / "run")
        lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
        warnings = [
            line.partition("diagnosis: ")[2].strip() for line in lines if "diagnosis: " in line
        ]
        kept = tmp_path / "run" / "diagnosis.txt"
        assert (kept.read_text().splitlines() if kept.exists() else []) == list(
            dict.fromkeys(warnings)
        )
        return warnings

    return complaints


def test_nothing_is_said_when_nothing_is_wrong(complaints):
    rates = {
        f"{who}_optimizer": partial(Adam, lr=1e-3, betas=(0.5, 0.999))
        for who in ("generator", "discriminator")
    }
    assert complaints("dcgan", 300, **rates) == []


@pytest.mark.parametrize(
    "objective", [BCE(), BCE(0.9), LeastSquares(), Hinge(), RpGAN(), RaLSGAN()], ids=repr
)
def test_a_discriminator_that_is_sure(objective, complaints):
    """A saturated D is reported; G hardly trains here, so that D has an easy task."""
    warnings = complaints(
        "dcgan", 300, objective=objective, generator_optimizer=STILL, discriminator_optimizer=FAST
    )
    saturates = [line for line in warnings if "D saturates" in line]
    assert len(saturates) == 1 and "with certainty" in saturates[0] and "try" in saturates[0]
    assert ("--real-label 0.9" in saturates[0]) == (objective == BCE()) and "wgan_gp" in saturates[
        0
    ]


def test_a_wasserstein_critic_is_never_sure(complaints):
    warnings = complaints(
        "wgan_gp",
        60,
        schedule=Schedule(resample_z=True),
        generator_optimizer=STILL,
        discriminator_optimizer=FAST,
    )
    assert not [line for line in warnings if "saturates" in line]


def test_gradients_that_vanish(complaints):
    """A vanishing gradient of G is reported for the minimax loss of a far too good D.

    The slope of the loss at G(z) is that of a saturated sigmoid.
    """

    def far_ahead(session):
        if session.done == 100:
            session.gan.discriminator.params["5.w"][...] *= 20

    warnings = complaints(
        "dcgan",
        250,
        far_ahead,
        objective=BCE(minimax=True),
        generator_optimizer=STILL,
        discriminator_optimizer=FAST,
    )
    assert [
        line
        for line in warnings
        if "the gradient of the generator vanishes" in line and "hardly learns" in line
    ]


def test_gradients_that_explode(complaints):
    """The exploding gradient of an unconstrained Wasserstein critic is reported."""
    rates = {"generator_optimizer": FAST, "discriminator_optimizer": partial(Adam, lr=1.0)}
    warnings = complaints("wgan", 100, clip=None, schedule=Schedule(resample_z=True), **rates)
    exploding = [line for line in warnings if "the gradient of the generator explodes" in line]
    assert exploding and "most of it in generator." in exploding[0]


def test_acgan_saturates_by_its_source_score():
    row = {"d_loss": 1.0, "d_real": 0.99, "d_fake": 0.001}
    acgan = Diagnostics(RECIPES["acgan"], np.zeros((2, 4, 4, 1), np.uint8))
    assert "D saturates" in acgan.saturation(row)
    assert acgan.saturation(row | {"d_fake": 0.5}) == ""


def test_a_gradient_that_jumps():
    """A gradient is reported if it is large and 100 times the one before, or huge at once.

    Small gradients may grow, as they do at the start of a training.
    """
    row = {"d_loss": 1.0, "d_real": 0.5, "d_fake": 0.5}
    for before, now, expected in (
        (20, 5000, True),
        (20, 1500, False),
        (0.001, 5, False),
        (None, 2e5, True),
        (None, 5000, False),
    ):
        diagnostics = Diagnostics(RECIPES["dcgan"], np.zeros((2, 4, 4, 1), np.uint8))
        for step in range(0, 200, 10) if before else ():
            assert (
                diagnostics.on_metrics(
                    step, row, {"generator.1.w": before, "discriminator.0.w": 1.0}
                )
                == []
            )
        got = diagnostics.on_metrics(
            200,
            row,
            {"generator.1.w": 3 * now / 5, "generator.4.w": 4 * now / 5, "discriminator.0.w": 1.0},
        )
        assert len(got) == expected
        assert not expected or ("the generator explodes" in got[0] and "generator.4.w" in got[0])


def test_samples_that_collapse(complaints, capsys):
    """Mode collapse is reported: a trained generator that ignores its z."""

    def forget(session):
        if session.done >= 400:
            first = next(
                layer
                for layer in session.gan.generator.layers
                if isinstance(layer, ConvTranspose2d | Linear)
            )
            first.params["w"][...] = session.gan.generator_optimizer.lr = 0

    rates = {
        f"{who}_optimizer": partial(Adam, lr=1e-3, betas=(0.5, 0.999))
        for who in ("generator", "discriminator")
    }
    warnings = complaints("dcgan", 520, forget, **rates)
    collapse = [line for line in warnings if "the samples collapse" in line]
    assert (
        len(collapse) == 1
        and collapse[0].startswith("step 500:")
        and "differ by 0% of" in collapse[0]
    )


class TestAlike:
    """Samples that have never differed are reported at step 200, with a remedy that fits."""

    def looked_at(self, ratios, **changes):
        """Return the diagnoses for samples of these spreads at steps 0, 50, 100, ..."""
        real = np.zeros((2, 1, 1, 1), np.uint8)
        real[1] = 100
        diagnostics = Diagnostics(replace(RECIPES["dcgan"], **changes), real)
        sentences = []
        for i, ratio in enumerate(ratios):
            images = np.zeros_like(real)
            images[1] = round(100 * ratio)
            sentences += diagnostics.on_samples(50 * i, images)
        return sentences

    def test_it_speaks_at_step_200(self):
        (sentences,) = self.looked_at([0.01] * 12)
        assert sentences.startswith("step 200: the samples are all alike: two of them differ by 1%")

    @pytest.mark.parametrize(
        "ratios",
        [
            [0.01, 0.13, 0.14, 0.14, 0.15, 0.15, 0.15],  # wgan_gp at its rate
            [0.01, 0.02, 0.03, 0.06, 0.12, 0.2, 0.3],  # raschka_dcgan
            [0.01, 0.03, 0.06, 0.08, 0.1, 0.11, 0.13],  # hinge
            [0.18, 0.2, 0.2, 0.22, 0.25, 0.2, 0.18],  # raschka_mlp_gan
        ],
    )
    def test_slow_starts_that_were_measured_are_no_failure(self, ratios):
        assert not self.looked_at(ratios)

    def test_a_small_rate_is_to_be_raised_and_a_large_one_lowered(self):
        assert "larger --lr, such as 0.001 in the place of 0.0002" in self.looked_at([0.01] * 6)[0]
        slow = partial(Adam, lr=1e-5)
        assert "such as 0.0001" in self.looked_at([0.01] * 6, generator_optimizer=slow)[0]
        fast = partial(Adam, lr=1e-3)
        sentences = self.looked_at([0.01] * 6, generator_optimizer=fast)[0]
        assert "smaller --lr" in sentences and "larger" not in sentences

    def test_samples_that_differed_before_collapse(self):
        (sentences,) = self.looked_at([0.01, 0.5, 0.1, 0.1, 0.1, 0.1])
        assert "step 150: the samples collapse" in sentences and "larger" not in sentences

    def test_a_training_that_never_varied_says_so_at_step_200(self, complaints):
        """A generator that ignores its z from the start, with a grid every 250 steps."""

        def forget(session):
            session.gan.generator.params["1.w"][...] = 0

        sentences = complaints("dcgan", 210, forget)
        (line,) = [line for line in sentences if "all alike" in line]
        assert line.startswith("step 200:") and "larger --lr, such as 0.001" in line


class TestSpread:
    def test_by_hand(self):
        assert spread(np.array([[0, 0], [3, 4], [3, 4]], np.uint8)) == pytest.approx(10 / 3)

    def test_of_one_picture_and_of_equal_ones(self):
        assert spread(np.ones((1, 4, 4, 1), np.uint8)) == 0
        assert spread(np.full((9, 4, 4, 1), 200, np.uint8)) == 0

    def test_it_is_of_pictures_from_all_over_the_data(self):
        """The order of the files does not decide: sorted by class, the first are all alike."""
        images = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 100)[:, None, None, None]
        images = np.tile(images, (1, 4, 4, 1))
        chosen = trainer.some(images)
        assert spread(images[:64]) == 0 and len(chosen) == 64
        assert spread(chosen) == pytest.approx(spread(images), rel=0.2)
        again = trainer.some(images)
        np.testing.assert_array_equal(chosen, again)
        assert spread(trainer.some(images[::-1])) == pytest.approx(spread(images), rel=0.2)

    def test_real_pictures_that_are_all_equal_are_no_collapse(self):
        same = np.full((9, 4, 4, 1), 200, np.uint8)
        diagnostics = Diagnostics(RECIPES["dcgan"], same)
        assert [diagnostics.on_samples(step, same) for step in range(0, 5000, 1000)] == [[]] * 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
class TestOverflow:
    """A run that overflows stops, keeps the last good checkpoint and names the layer at fault.

    It is the first layer with a value that is not finite.
    """

    def broken(self, folder, **changes):
        with pytest.raises(UserError) as error:
            start(options("dcgan", **({"steps": 40, "checkpoint_every": 5} | changes)), folder)
        message = str(error.value)
        assert message.startswith("the loss is no longer finite at step ") and "\n" not in message
        return message

    def at_step(self, monkeypatch, done, action):
        """Call `what(session)` before the step after `done`, also when the steps are repeated."""
        original = Session.run_steps

        def run_steps(self, last):
            if self.done == done:
                action(self)
            return original(self, last)

        monkeypatch.setattr(Session, "run_steps", run_steps)

    @pytest.mark.parametrize(
        "who, name, layer",
        [("discriminator", "2.w", r"2, Conv2d(4, 8"), ("generator", "4.w", "4, ConvTr")],
    )
    def test_the_forward_pass(self, who, name, layer, tmp_path, monkeypatch):
        def infinite(session):
            getattr(session.gan, who).params[name][0, 0, 0, 0] = np.inf

        self.at_step(monkeypatch, 12, infinite)
        message = self.broken(tmp_path / "run")
        assert (
            f"the first number to overflow is in step 13, in the forward pass of the {who}'s "
            f"layer {layer}" in message
        )
        assert "the last good checkpoint is of step 10" in message
        assert list(checkpoints(tmp_path / "run")) == [5, 10]
        monkeypatch.undo()
        load_generator(tmp_path / "run")
        assert resume(tmp_path / "run", steps=20) == (20, 20)  # the run can continue

    def test_the_backward_pass(self, tmp_path, monkeypatch):
        broken, original, step = False, ConvTranspose2d.backward, Session.run_steps

        def backward(self, *args, **options):
            dx, grads = original(self, *args, **options)
            return dx, {
                name: g * np.inf if broken and self.K == 8 else g for name, g in grads.items()
            }

        def stepped(self, last):
            nonlocal broken
            broken = self.done >= 12
            return step(self, last)

        monkeypatch.setattr(ConvTranspose2d, "backward", backward)
        monkeypatch.setattr(Session, "run_steps", stepped)
        message = self.broken(tmp_path / "run", steps=14)
        assert (
            "in step 13, in the backward pass of the generator's layer 4, ConvTranspose2d"
            in message
        )

    def infinite_rate(self, monkeypatch):
        """Set a learning rate that --lr would refuse."""
        rate = partial(Adam, lr=1e39)
        monkeypatch.setitem(
            RECIPES, "dcgan", replace(RECIPES["dcgan"], discriminator_optimizer=rate)
        )

    def test_the_update(self, tmp_path, monkeypatch):
        self.infinite_rate(monkeypatch)
        message = self.broken(tmp_path / "run")
        assert (
            "in step 1, in the update of the discriminator's 0.w; there was no checkpoint yet"
            in message
        )
        assert not (tmp_path / "run" / "weights.safetensors").exists()

    def test_the_loss(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            Wasserstein, "generator", lambda self, c: (np.float32(np.nan), np.zeros_like(c))
        )
        monkeypatch.setitem(RECIPES, "dcgan", replace(RECIPES["dcgan"], objective=Wasserstein()))
        assert "in step 1, in the generator's loss" in self.broken(tmp_path / "run")

    def test_a_checkpoint_is_never_made_of_numbers_that_are_not_finite(self, tmp_path, monkeypatch):
        """No checkpoint with values that are not finite is saved between two lines of metrics."""

        def infinite(session):
            session.gan.discriminator_optimizer.parameters.flat[0] = np.nan

        self.at_step(monkeypatch, 12, infinite)
        message = self.broken(tmp_path / "run", steps=15)
        assert "no longer finite at step 15" in message and list(checkpoints(tmp_path / "run")) == [
            5,
            10,
        ]

    def test_an_overflow_that_does_not_come_again(self, tmp_path, monkeypatch):
        """An overflow that does not recur, as of a flipped bit in memory, is reported as such.

        The steps are repeated from the last checkpoint, and give finite numbers.
        """
        fired = []

        def once(session):
            if not fired:
                fired.append(True)
                session.gan.generator.params["1.w"][...] = np.nan

        self.at_step(monkeypatch, 12, once)
        message = self.broken(tmp_path / "run")
        assert "not reproduced: repeated from step 10, all numbers were finite" in message

    def test_nothing_stays_patched(self, tmp_path, monkeypatch):
        made = []
        original = trainer.first_overflow

        def remember(gan, *args):
            made.append(gan)
            return original(gan, *args)

        monkeypatch.setattr(trainer, "first_overflow", remember)
        self.infinite_rate(monkeypatch)
        self.broken(tmp_path / "run")
        (gan,) = made
        assert "forward" not in vars(gan.generator.layers[1]) and "step" not in vars(
            gan.generator_optimizer
        )
        assert gan.objective == BCE()


def reported(norms=(), metrics=(), **changes):
    """Return the rows after which there is a diagnosis, of gradient norms or of D's metrics."""
    usual = {"d_real": 0.6, "d_fake": 0.4, "d_loss": 1.3}
    real = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    diagnostics = Diagnostics(replace(RECIPES["dcgan"], **changes), real)
    rows = [(usual, {"generator.w": norm}) for norm in norms]
    rows += [(usual | row, {}) for row in metrics]
    return [i for i, row in enumerate(rows) if diagnostics.on_metrics(10 * i, *row)]


@pytest.mark.parametrize(
    "usual, rows, limit", [(5, 10, 1e3), (20, 10, 2e3), (20, 9, 1e5), (2e3, 10, 1e5)]
)
def test_the_limit_of_a_gradient_that_explodes(usual, rows, limit):
    """100 times the median norm before and at least 1e3, from the 11th row on; 1e5 at any time."""
    assert reported([usual] * rows + [limit]) == []
    assert reported([usual] * rows + [limit * 1.001]) == [rows]


@pytest.mark.parametrize("usual, limit", [(5, 5e-3), (1e-5, 1e-7)])
def test_the_limit_of_a_gradient_that_vanishes(usual, limit):
    """A thousandth of the median norm of the first 10 rows, at least 1e-7: for 10 rows, once."""
    assert reported([usual] * 10 + [limit] * 12) == []
    assert reported([usual] * 10 + [limit * 0.999] * 9 + [usual] * 10) == []
    assert reported([usual] * 10 + [limit * 0.999] * 12) == [19]


@pytest.mark.parametrize(
    "objective, certain, uncertain",
    [
        (BCE(), {"d_real": 0.971, "d_fake": 0.009}, [{"d_real": 0.969}, {"d_fake": 0.011}]),
        (BCE(0.9), {"d_real": 0.874, "d_fake": 0.009}, [{"d_real": 0.872}]),
        (Hinge(), {"d_loss": 0.0049}, [{"d_loss": 0.0051}]),
    ],
    ids=repr,
)
def test_the_limit_of_a_discriminator_that_is_sure(objective, certain, uncertain):
    assert reported(metrics=[certain] * 9, objective=objective) == []
    assert reported(metrics=[certain] * 12, objective=objective) == [9]
    for row in uncertain:
        assert reported(metrics=[certain | row] * 12, objective=objective) == []
