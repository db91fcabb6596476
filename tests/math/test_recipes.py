"""Every recipe: the parameter counts of its source, and its training against a PyTorch twin."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rawgan import layers
from rawgan.backend import CPU
from rawgan.data import Images
from rawgan.gan import Schedule
from rawgan.layers import leaves, parameter_count
from rawgan.models.recipes import RECIPES, wgan_critic_steps
from rawgan.optim import Adam, RMSprop
from rawgan.penalties import R1, R2, WGANGP
from rawgan.random import Random
from rawgan.training.prefetch import Feed
from tests.support.recipe_twin import compare, trajectory

# parameters of G and of D: trained, and with running statistics
COUNTS = {
    "dcgan": (3_576_704, None, 2_765_568, None),
    "atienza_dcgan": (None, 1_301_505, None, 1_080_577),
    "atienza_acgan": (None, 1_364_225, None, 1_606_283),
    "raschka_mlp_gan": (81_184, 81_184, 78_601, 78_601),
    "raschka_wgan_gp": (804_832, 817_824, 1_039_489, 1_040_385),
    "wgan_gp_mnist": (1_554_177, 1_554_177, 1_030_145, 1_030_145),
}
NORMAL, UNIFORM = ((100, "normal"), "tanh", 64), ((100, "uniform"), "unit", 64)
ADAM = (("Adam", 2e-4, (0.5, 0.999)),) * 2
BOOK_RMSPROP = ("RMSprop", 1e-4, 0.9, 1e-7, 3e-8), ("RMSprop", 2e-4, 0.9, 1e-7, 6e-8)
BOOK_SCHEDULE = {"joint_batch": True, "resample_z": True, "fake_mode": "inference"}
BOOK = (*UNIFORM, BOOK_RMSPROP, BOOK_SCHEDULE)
SNGAN_RESNET = (
    (128, "normal"), "tanh", 64, (("Adam", 2e-4, (0.0, 0.9)),) * 2, {"resample_z": True}, 5,
)  # fmt: skip
# of each source: z and its distribution, range of pixels, batch; optimizers of G and D (RMSprop:
# lr, rho, eps, decay); changed fields of the schedule; first critic steps, penalty, clip
TRAINING = {
    "dcgan": (*NORMAL, ADAM, {}),
    "cgan": (*NORMAL, ADAM, {}),
    "atienza_dcgan": BOOK,
    "atienza_cgan": BOOK,
    "lsgan": BOOK,
    "acgan": BOOK,
    "atienza_acgan": BOOK,
    "hinge": (*UNIFORM, ADAM, BOOK_SCHEDULE),
    "raschka_mlp_gan": (
        (20, "uniform"), "tanh", 64, (("Adam", 1e-3, (0.9, 0.999)),) * 2,
        {"order": "generator_first"},
    ),
    "raschka_dcgan": (
        (20, "uniform"), "tanh", 64, (("Adam", 1e-3, (0.9, 0.999)),) * 2,
        {"order": "generator_first", "generator_mode": "inference"},
    ),
    "raschka_wgan_gp": (
        (20, "uniform"), "tanh", 128, (("Adam", 2e-4, (0.9, 0.999)),) * 2,
        {"order": "simultaneous", "penalty_mode": "inference"}, 1, WGANGP(10),
    ),
    "wgan": (
        *NORMAL, (("RMSprop", 5e-5, 0.99, 1e-8, 0.0),) * 2, {"resample_z": True}, 100, None, 0.01,
    ),
    "wgan_gp_mnist": (
        (128, "normal"), "unit", 50, (("Adam", 1e-4, (0.5, 0.9)),) * 2, {"resample_z": True},
        5, WGANGP(10),
    ),
    "wgan_gp": (
        *NORMAL, (("Adam", 1e-4, (0.0, 0.9)),) * 2, {"resample_z": True}, 5, WGANGP(10),
    ),
    "r3gan": (
        (64, "normal"), "tanh", 64, (("Adam", 2e-4, (0.0, 0.99)),) * 2, {"resample_z": True},
        1, (R1(1), R2(1)),
    ),
    "sngan": ((128, "uniform"), "tanh", 64, ADAM, {}),
    "sngan_resnet": SNGAN_RESNET,
    "sngan_projection": SNGAN_RESNET,
}  # fmt: skip
STEPS = {  # of the sources: 100 epochs of 60,000 pictures of the second book
    "atienza_dcgan": 40_000, "atienza_cgan": 40_000, "atienza_acgan": 40_000,
    "raschka_mlp_gan": 100 * (60_000 // 64),
    "raschka_dcgan": 93_700, "raschka_wgan_gp": 100 * (60_000 // 128), "wgan_gp_mnist": 200_000,
    "sngan": 100_000, "sngan_resnet": 100_000, "sngan_projection": 100_000,
}  # fmt: skip


SLOPES = {  # of the sources' LeakyReLU, where it is not 0.2: Keras' default, and as in the book
    "raschka_mlp_gan": {0.3}, "raschka_wgan_gp": {0.3}, "raschka_dcgan": {1e-4},
    "sngan_resnet": set(), "sngan_projection": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_slopes_are_those_of_the_source(name):
    gan = RECIPES[name].build(Random(0))
    every_layer = [leaf for net in (gan.generator, gan.discriminator) for _, leaf in leaves(net)]
    slopes = {layer.slope for layer in every_layer if isinstance(layer, layers.LeakyReLU)}
    assert slopes == SLOPES.get(name, {0.2})


def test_first_weights_of_wgan_gp_mnist():
    """First weights have the standard deviations of improved_wgan_training's gan_mnist.py.

    They are listed in no departure.
    """
    gan = RECIPES["wgan_gp_mnist"].build(Random(0))
    for _, layer in [leaf for net in (gan.generator, gan.discriminator) for leaf in leaves(net)]:
        match layer:
            case layers.Linear(C=C, K=K):
                want = (2 / (C + K)) ** 0.5
            case layers.ConvTranspose2d(K=fan_in, C=fan_out):
                want = (4 / (fan_in * 25 / 4 + fan_out * 25)) ** 0.5
            case layers.Conv2d(C=fan_in, K=fan_out):
                want = (4 / (fan_in * 25 + fan_out * 25 / 4)) ** 0.5
            case _:
                continue
        w = layer.params["w"]
        assert abs(w.std() / want - 1) < 4 / w.size**0.5, layer
        assert (abs(w) <= np.float32(want * 3**0.5)).all()


@pytest.mark.parametrize("name", RECIPES)
def test_epsilon_is_where_the_source_has_it(name):
    """epsilon is added where the source adds it.

    Keras' and TensorFlow's Adam adds it before the bias correction, PyTorch's after.
    """
    gan = RECIPES[name].build(Random(0), width=8)
    for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
        if isinstance(optimizer, Adam):
            assert optimizer.epsilon_hat == name.startswith(("raschka", "wgan_gp_mnist"))
            assert optimizer.eps == (1e-7 if name.startswith("raschka") else 1e-8)


def optimizer_of(optimizer):
    if isinstance(optimizer, Adam):
        return "Adam", optimizer.lr, optimizer.betas
    assert isinstance(optimizer, RMSprop)
    return "RMSprop", optimizer.lr, optimizer.rho, optimizer.eps, optimizer.decay


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", TRAINING)
def test_hyperparameters_of_the_source(name):
    """The twins below take these numbers from the recipe: they do not check them."""
    recipe = RECIPES[name]
    z, pixels, batch, optimizers, schedule, *rest = TRAINING[name]
    critic_steps, penalty, clip = [*rest, *(1, None, None)[len(rest) :]]
    assert ((recipe.z, recipe.draw), recipe.pixels, recipe.batch) == (z, pixels, batch)
    assert recipe.steps == STEPS.get(name, recipe.steps)
    gan = recipe.build(Random(0), width=8)
    got = tuple(map(optimizer_of, (gan.generator_optimizer, gan.discriminator_optimizer)))
    assert got == optimizers
    fields = Schedule(**schedule, critic_steps=gan.schedule.critic_steps)
    assert gan.schedule == fields and fields.critic_steps(0) == critic_steps
    assert (gan.penalty, gan.clip) == (penalty, clip)
    assert recipe.lr_decay == (name in ("sngan_resnet", "sngan_projection"))


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_the_source(name):
    gan = RECIPES[name].build(Random(0))
    got = [
        parameter_count(net, buffers)
        for net in (gan.generator, gan.discriminator)
        for buffers in (False, True)
    ]
    for got_count, want in zip(got, COUNTS[name]):
        assert want in (None, got_count)


def test_conditional_counts_differ_from_the_plain_ones_by_the_labels_weights():
    plain, conditional = (
        RECIPES[name].build(Random(0)) for name in ("atienza_dcgan", "atienza_cgan")
    )
    assert (
        parameter_count(conditional.generator) - parameter_count(plain.generator)
        == 10 * 7 * 7 * 128
    )
    label_weights = (
        10 * 784 + 784 + 25 * 32
    )  # the Linear of the labels, and the second input channel of the first convolution
    assert (
        parameter_count(conditional.discriminator) - parameter_count(plain.discriminator)
        == label_weights
    )


def test_the_heads_of_the_acgan():
    """D's first score, real or fake, is that of a head without the layer of 128."""
    D = RECIPES["atienza_acgan"].build(Random(0)).discriminator
    real, classes = D.layers[-1].children().values()
    assert (real.C, real.K) == (4096, 1)
    assert [(layer.C, layer.K) for layer in classes.layers] == [(4096, 128), (128, 10)]


def test_the_names_are_the_keys_and_all_are_there():
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    wanted = (
        "raschka_mlp_gan raschka_dcgan raschka_wgan_gp atienza_dcgan atienza_cgan wgan "
        "wgan_gp_mnist lsgan hinge acgan atienza_acgan dcgan"
    )
    assert set(wanted.split()) <= RECIPES.keys()


def test_the_page_of_recipes_is_up_to_date():
    """The page of recipes equals the output of python docs/make_recipes.py."""
    spec = importlib.util.spec_from_file_location(
        "make_recipes", Path(__file__).parents[2] / "docs" / "make_recipes.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page()


def test_the_wgan_keeps_its_critic_near_the_optimum():
    assert [wgan_critic_steps(step) for step in (0, 24, 25, 499, 500, 501, 1000)] == [
        100,
        100,
        5,
        5,
        100,
        5,
        100,
    ]


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", RECIPES)
def test_trajectory_is_that_of_pytorch(name):
    compare(*trajectory(RECIPES[name]))


def mutated(monkeypatch, name: str, put_in) -> None:
    put_in(monkeypatch)
    with pytest.raises(AssertionError):
        compare(*trajectory(RECIPES[name], steps=3))


def no_penalty(self, critic, x, condition, train):
    return x.sum() * 0, {}, x * 0


def generate_with_zero_labels(self, z, mode="train"):
    x, cache = self.generator.forward(z, mode == "train")
    return (x, z[1] * 0), cache


def forget(field, value=None):
    """Return a mistake that fixes one field of every GAN to `value`."""

    def put_in(patch):
        patch.setattr(
            "rawgan.gan.GAN.__setattr__",
            lambda gan, name, v: object.__setattr__(gan, name, value if name == field else v),
        )

    return put_in


def forget_schedule(**changes):
    """Return a mistake that changes fields of every GAN's schedule."""

    def put_in(patch):
        patch.setattr(
            "rawgan.gan.GAN.__setattr__",
            lambda gan, name, v: object.__setattr__(
                gan, name, replace(v, **changes) if name == "schedule" else v
            ),
        )

    return put_in


MISTAKES = {
    "the penalty is never called": ("wgan_gp", lambda p: p.setattr(WGANGP, "__call__", no_penalty)),
    "the critic is not clipped": ("wgan", forget("clip")),
    "the rates do not decay": ("sngan_resnet", forget("decay")),
    "G first forgotten": ("raschka_mlp_gan", forget_schedule(order="discriminator_first")),
    "D's fakes in training mode": ("atienza_dcgan", forget_schedule(fake_mode="train")),
    "the mean over both forgotten": ("atienza_dcgan", forget_schedule(joint_batch=False)),
    "the penalty runs in training mode": ("raschka_wgan_gp", forget_schedule(penalty_mode="train")),
    "D moves before G's gradient is taken": ("raschka_wgan_gp",
        forget_schedule(order="discriminator_first")),
    "G learns in training mode": ("raschka_dcgan", forget_schedule(generator_mode="train")),
    "wrong labels at the fakes": ("cgan",
        lambda p: p.setattr("rawgan.gan.GAN.generate", generate_with_zero_labels)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_caught(mistake, monkeypatch):
    mutated(monkeypatch, *MISTAKES[mistake])


# Inputs of the networks of a recipe


def test_a_feed_has_the_range_the_labels_and_the_numbers_that_the_recipe_says():
    rng = np.random.default_rng(0)
    images = Images(
        rng.integers(0, 256, (500, 28, 28, 1), np.uint8), np.arange(500) % 10, "noise", "", ""
    )
    for name, low in (("atienza_cgan", 0), ("cgan", -1)):
        (reals, zs) = Feed(RECIPES[name], images, 100, Random(0), CPU).step(0)
        x, labels = reals[0]
        assert x.min() == low and x.max() == 1 and x.dtype == np.float32
        raw = images.images[:, 0, 0, 0] / 255 * (1 - low) + low
        assert all(
            np.isclose(raw[images.labels == label], pixel, atol=1e-6).any()
            for pixel, label in zip(x[:, 0, 0, 0], labels)
        )
        assert len(zs) == 1 + RECIPES[name].schedule.resample_z
    drawn = np.concatenate(
        [Feed(RECIPES["cgan"], images, 100, Random(s), CPU).z()[1] for s in range(20)]
    )
    assert (
        np.bincount(drawn, minlength=10).min() > 120 and drawn.max() == 9
    )  # the last class is drawn, too


def test_z_is_uniform_or_normal():
    rng = np.random.default_rng(0)
    uniform, normal = (RECIPES[name].draw_z(rng, 1000) for name in ("raschka_mlp_gan", "dcgan"))
    assert uniform.shape == (1000, 20) and -1 <= uniform.min() < -0.99 and 0.99 < uniform.max() < 1
    assert normal.shape == (1000, 100) and abs(normal.std() - 1) < 0.02 and np.abs(normal).max() > 3


def test_every_layer_draws_its_dropout_from_the_seed():
    for _, layer in leaves(RECIPES["raschka_dcgan"].build(Random(0)).generator):
        assert not isinstance(layer, layers.Dropout) or layer.rng is not None
