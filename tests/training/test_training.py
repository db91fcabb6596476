"""The training loop: sampling, its input, and common mistakes."""

import os
import signal

import numpy as np
import pytest

from rawgan.backend import CPU
from rawgan.data import Images
from rawgan.errors import UserError
from rawgan.layers import BatchNorm, Layer, Sequential, Sigmoid, leaves, state
from rawgan.losses import Wasserstein
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.announce import slow_first_steps
from rawgan.training.callbacks import Callbacks
from rawgan.training.loop import Recorder, train_loop
from rawgan.training.prefetch import Feed
from rawgan.training.run_folder import RunFolder, write_whole
from rawgan.training.sampling import latent, sample
from tests.support.reference import assert_close


def trained(name="dcgan", size=16, width=4):
    """Return a generator whose running statistics differ from those of any one batch."""
    recipe = RECIPES[name]
    gan = recipe.build(Random(0), size, 1, width)
    for seed in range(5):
        gan.generator.forward(latent(recipe, np.random.default_rng(seed), CPU, 8))
    return recipe, gan.generator


def check_each_picture_stands_alone():
    recipe, generator = trained()
    before = state(generator)
    z = latent(recipe, np.random.default_rng(9), CPU, 12)
    together = sample(recipe, generator, z, batch=5)
    alone = np.concatenate([sample(recipe, generator, z[n : n + 1]) for n in range(12)])
    assert (
        np.abs(together.astype(int) - alone).max() <= 1
    )  # a rounding of the matrix product may change one gray level
    assert all((state(generator)[name] == a).all() for name, a in before.items()), (
        "sampling moved the running statistics"
    )


def test_each_picture_stands_alone():
    check_each_picture_stands_alone()


def test_sampling_in_training_mode_is_caught(monkeypatch):
    original = BatchNorm.forward
    monkeypatch.setattr(BatchNorm, "forward", lambda self, x, train=True: original(self, x, True))
    with pytest.raises((AssertionError, ValueError)):
        check_each_picture_stands_alone()


def check_all_classes_are_drawn():
    images = Images(np.zeros((500, 32, 32, 1), np.uint8), np.arange(500) % 10, "black", "", "")
    feed = Feed(RECIPES["cgan"], images, 500, Random(0), CPU)
    assert np.bincount(feed.z()[1], minlength=10).min() > 20


def test_all_classes_are_drawn():
    check_all_classes_are_drawn()


def test_labels_that_miss_the_last_class_are_caught(monkeypatch):
    original = Random.stream

    class OffByOne:
        def __init__(self, rng):
            self.rng = rng

        def integers(self, high, size):
            return self.rng.integers(high - 1, size=size)

    monkeypatch.setattr(
        Random,
        "stream",
        lambda self, name: (
            OffByOne(original(self, name)) if name == "labels" else original(self, name)
        ),
    )
    with pytest.raises(AssertionError):
        check_all_classes_are_drawn()


def check_scores_are_unbounded(critic: Layer):
    """Assert that a critic is linear in its last layer.

    Three times the last weights give three times the scores.
    """
    last = leaves(critic)[-1][1]
    x = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    scores, _ = critic.forward(x, train=False)
    for name in last.params:
        last.params[name] *= 3
    assert_close(critic.forward(x, train=False)[0], 3 * scores, terms=1000)


WASSERSTEIN = [
    name for name, recipe in RECIPES.items() if isinstance(recipe.objective, Wasserstein)
]


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", WASSERSTEIN)
def test_no_sigmoid_on_the_critic(name):
    critic = RECIPES[name].build(Random(0), 28, 1, 8).discriminator
    check_scores_are_unbounded(critic)
    with pytest.raises(AssertionError):
        check_scores_are_unbounded(Sequential(critic, Sigmoid()))


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [("dcgan", 33, 4), ("atienza_dcgan", 0, 4), ("atienza_dcgan", -4, 4), ("raschka_dcgan", 30, 8),
     ("raschka_dcgan", 28, 1),
     ("raschka_wgan_gp", 28, 1), ("wgan_gp_mnist", 36, 4)],
)  # fmt: skip
def test_sizes_that_a_recipe_cannot_have(name, size, width):
    recipe = RECIPES[name]
    with pytest.raises(UserError, match=str(width if width == 1 else size)):
        recipe.generator(size, 1, width, z=recipe.z)


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"weights.* cannot be written: No space left on device"):
        write_whole(tmp_path / "weights.safetensors", b"1234")
    assert list(tmp_path.iterdir()) == []


class Script(Callbacks):
    """Simulated training with prescribed losses."""

    def __init__(self, losses):
        self.losses, self.drawn, self.done = losses, [], 0

    def step(self):
        self.done += 1
        return {"loss": np.float32(self.losses(self.done - 1))}

    def run_steps(self, last):
        return [self.step()]

    def draw(self, done):
        self.drawn.append(done)

    def weights(self):
        return {"a": np.zeros(1, np.float32)}

    def explain_overflow(self, done):
        return f"explained at {done}"


class ManySteps(Script):
    """Simulated training that takes up to seven steps at a time."""

    def run_steps(self, last):
        self.taken.append(min(7, last - self.done))
        return [self.step() for _ in range(self.taken[-1])]


def test_many_steps_at_a_time(tmp_path):
    """Every logged step gets its line, and no step is taken before a due image or checkpoint."""
    scripts = [Script(float), ManySteps(float)]
    for name, script in zip(("one", "many"), scripts):
        script.taken, script.saved = [], []
        script.save = script.saved.append
        run, panels = (
            RunFolder.new(tmp_path / name, {}, {"metrics": ("step", "loss")}),
            {"loss": {"loss": "loss"}},
        )
        with Recorder(run, script, panels, steps=33, batch=1) as recorder:
            assert train_loop(script.run_steps, recorder, 16, 11) == 33
    assert scripts[1].taken == [7, 4, 5, 6, 7, 3, 1]
    assert scripts[1].saved == scripts[0].saved == [11, 22, 33] and scripts[1].drawn == scripts[
        0
    ].drawn == [0, 16, 32, 33]
    one, many = ((tmp_path / name / "metrics.csv").read_text() for name in ("one", "many"))
    assert one == many and one.split() == ["step,loss", "10,9.0", "20,19.0", "30,29.0", "33,32.0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_between_two_steps(number, tmp_path):
    def loss(done):
        if done == 4:
            os.kill(os.getpid(), number)
        return 1.0

    run, before = (
        RunFolder.new(tmp_path / "run", {}, {"metrics": ("step", "loss")}),
        signal.getsignal(number),
    )
    script, panels = Script(loss), {"loss": {"loss": "loss"}}
    with Recorder(run, script, panels, steps=50, batch=1) as recorder:
        assert train_loop(script.run_steps, recorder, sample_every=100) == 5
    assert (
        signal.getsignal(number) == before and (tmp_path / "run" / "weights.safetensors").exists()
    )


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_made(tmp_path):
    run = RunFolder.new(tmp_path / "run", {}, {"metrics": ("step", "loss")})
    script = Script(lambda done: 1.0 if done < 12 else np.nan)
    with pytest.raises(
        UserError,
        match="no longer finite at step 20; explained at 20; a smaller learning rate may help",
    ):
        panels = {"loss": {"loss": "loss"}}
        with Recorder(run, script, panels, steps=50, batch=1) as recorder:
            train_loop(script.run_steps, recorder, sample_every=5)
    assert (tmp_path / "run" / "losses.png").exists() and len(run.metrics) == 2
    assert not (
        tmp_path / "run" / "weights.safetensors"
    ).exists()  # broken checkpoints would replace the last good one
    assert script.drawn == [0, 5, 10, 15]


def test_slow_first_steps_are_announced():
    """WGAN's first steps have 100 steps of D; recipes with a constant number say nothing."""
    assert {name: slow_first_steps(recipe.schedule.critic_steps) for name, recipe in
            RECIPES.items() if slow_first_steps(recipe.schedule.critic_steps)} == {
        "wgan": "each of the first 25 steps has 100 steps of D, most later ones have 5: "
        "until then a step takes about 20 times as long"
    }  # fmt: skip
