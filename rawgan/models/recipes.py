"""The systems of two book chapters and of the papers around them, as data: networks x objective x penalty x optimizer x schedule.

    recipe = RECIPES["raschka_wgan_gp"]
    gan = recipe.build(Random(0))

Every value here is the source's own; where a recipe departs from the paper it is named after, `departures` says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from warnings import warn

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.gan import GAN
from rawgan.init import dcgan_init, glorot_uniform, he_uniform
from rawgan.layers import Parameters, Sequential
from rawgan.losses import ACGAN, BCE, Hinge, LeastSquares, Objective, Wasserstein
from rawgan.models import atienza, dcgan, gulrajani, raschka
from rawgan.optim import Adam, Optimizer, RMSprop
from rawgan.penalties import WGANGP, Penalty, couples_samples
from rawgan.random import Random

Make = Callable[..., Sequential]


@dataclass(frozen=True)
class Recipe:
    """One system, to be built at any size, number of channels and width that its networks can take.

    generator, discriminator   functions (size, channels, width) -> network
    size, channels, width      the source's own; width is what the networks' first argument of that name means
    z, draw                    the latent numbers, "normal" N(0, 1) or "uniform" U(-1, 1)
    pixels                     "tanh" for images in [-1, 1], "unit" for [0, 1]
    classes                    labels 0 ... classes - 1 that G (and D, unless the objective takes them) sees; 0: unconditional
    optimizers                 functions of Parameters, for G and for D
    critic_steps               D steps before the given G step (counted from 0)
    fresh_z                    G learns from z of its own, not from the last fakes of D
    steps, batch               the source's own length of training
    """

    name: str
    source: str
    generator: Make
    discriminator: Make
    objective: Objective
    generator_optimizer: Callable[[Parameters], Optimizer]
    discriminator_optimizer: Callable[[Parameters], Optimizer]
    init: Callable = glorot_uniform
    size: int = 28
    channels: int = 1
    width: int = 64
    z: int = 100
    draw: str = "normal"
    pixels: str = "tanh"
    classes: int = 0
    penalty: Penalty | None = None
    penalty_train: bool = True
    clip: float | None = None
    critic_steps: Callable[[int], int] = field(default=lambda step: 1)
    fresh_z: bool = False
    first: str = "discriminator"
    joint: bool = False
    train_fakes: bool = True
    train_generator: bool = True
    batch: int = 64
    steps: int = 40_000
    departures: tuple[str, ...] = ()

    def build(self, random: Random, size=None, channels=None, width=None, device: Device = CPU, dtype=np.float32) -> GAN:
        """Both networks with their first values, their optimizers and the step. Warns where a penalty is not per sample."""
        shape = (size or self.size, channels or self.channels, width or self.width)
        G, D = self.generator(*shape, z=self.z), self.discriminator(*shape)
        if self.penalty is not None and (why := couples_samples(D)):
            warn(f"{self.name}: {why}", stacklevel=2)
        for net, name in ((G, "generator"), (D, "discriminator")):
            self.init(net, random.stream(f"{name} weights"))
            net.bind(random.stream(f"{name} dropout"))
        return GAN(
            G,
            D,
            self.objective,
            self.generator_optimizer(Parameters(G, device, dtype)),
            self.discriminator_optimizer(Parameters(D, device, dtype)),
            self.penalty,
            self.penalty_train,
            self.clip,
            self.first,
            self.joint,
            self.train_fakes,
            self.train_generator,
            random.stream("penalty"),
        )

    def draw_z(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n latent vectors as a host array, float32 (n, z)."""
        if self.draw == "normal":
            return rng.standard_normal((n, self.z), dtype=np.float32)
        return rng.uniform(-1, 1, (n, self.z)).astype(np.float32)


ADAM_DCGAN = partial(Adam, lr=2e-4, betas=(0.5, 0.999))
KERAS_ADAM = partial(Adam, lr=1e-3, betas=(0.9, 0.999), eps=1e-7)
KERAS_G, KERAS_D = partial(RMSprop, lr=1e-4, decay=3e-8), partial(RMSprop, lr=2e-4, decay=6e-8)


def wgan_critic_steps(step: int) -> int:
    """5, but 100 for the first 25 generator steps and for every 500th: the critic is kept near its optimum."""
    return 100 if step < 25 or step % 500 == 0 else 5


DCGAN = Recipe(
    name="dcgan",
    source="Radford et al. 2016 (arXiv:1511.06434), as in pytorch/examples",
    generator=dcgan.dcgan_generator,
    discriminator=dcgan.dcgan_discriminator,
    objective=BCE(),
    generator_optimizer=ADAM_DCGAN,
    discriminator_optimizer=ADAM_DCGAN,
    init=dcgan_init,
    size=64,
    channels=3,
    steps=40_000,
)

ATIENZA = Recipe(
    name="atienza_dcgan",
    source="Atienza, Advanced Deep Learning with Keras, ch. 4.2",
    generator=atienza.atienza_generator,
    discriminator=atienza.atienza_discriminator,
    objective=BCE(),
    generator_optimizer=KERAS_G,
    discriminator_optimizer=KERAS_D,
    width=32,
    draw="uniform",
    pixels="unit",
    fresh_z=True,
    joint=True,
    train_fakes=False,
    departures=(
        "no BatchNorm in D, no Tanh but a sigmoid, RMSprop in the place of Adam, 5x5 kernels (Radford et al.)",
        "D sees one batch of 64 real and 64 fake images, the fakes made by G in inference mode; G learns from z of its own",
    ),
)


def conditional(make: Make) -> Make:
    """The network for 10 classes."""
    return partial(make, classes=10)


ACGAN_NETS = {
    "generator": conditional(atienza.atienza_generator),
    "discriminator": partial(atienza.atienza_discriminator, scores=11),
}

RASCHKA_MLP = Recipe(
    name="raschka_mlp_gan",
    source="Raschka & Mirjalili, Python Machine Learning, 3rd ed., ch. 17, part 1",
    generator=raschka.mlp_generator,
    discriminator=raschka.mlp_discriminator,
    objective=BCE(),
    generator_optimizer=KERAS_ADAM,
    discriminator_optimizer=KERAS_ADAM,
    width=100,
    z=20,
    draw="uniform",
    first="generator",
    steps=93_700,
    departures=("G is updated first; D then sees the fakes made before that update",),
)

_ALL = (
    DCGAN,
    replace(
        DCGAN,
        name="cgan",
        source="Mirza & Osindero 2014 (arXiv:1411.1784) with the networks of dcgan",
        generator=conditional(dcgan.dcgan_generator),
        discriminator=conditional(dcgan.dcgan_discriminator),
        size=32,
        channels=1,
        width=32,
        classes=10,
        departures=("convolutional networks; the label enters G beside z, and D as constant planes beside the image",),
    ),
    ATIENZA,
    replace(
        ATIENZA,
        name="atienza_cgan",
        source="Atienza, Advanced Deep Learning with Keras, ch. 4.3",
        generator=conditional(atienza.atienza_generator),
        discriminator=conditional(atienza.atienza_discriminator),
        classes=10,
    ),
    RASCHKA_MLP,
    replace(
        RASCHKA_MLP,
        name="raschka_dcgan",
        source="Raschka & Mirjalili, Python Machine Learning, 3rd ed., ch. 17, optional part",
        generator=raschka.dcgan_generator,
        discriminator=raschka.dcgan_discriminator,
        width=64,
        train_generator=False,
        departures=(
            "Dropout in both networks, LeakyReLU of slope 1e-4, Adam at 1e-3 (Radford et al.: none, 0.2, 2e-4)",
            "the book calls G in inference mode while it learns: its BatchNorm is a trained affine map and its Dropout never acts",
        ),
    ),
    Recipe(
        name="raschka_wgan_gp",
        source="Raschka & Mirjalili, Python Machine Learning, 3rd ed., ch. 17, part 2",
        generator=raschka.wgan_gp_generator,
        discriminator=lambda size, channels, width: raschka.wgan_gp_critic(size, channels, width // 2),
        objective=Wasserstein(),
        penalty=WGANGP(10),
        penalty_train=False,
        generator_optimizer=partial(KERAS_ADAM, lr=2e-4),
        discriminator_optimizer=partial(KERAS_ADAM, lr=2e-4),
        width=128,
        z=20,
        draw="uniform",
        first="both",
        batch=128,
        steps=46_800,
        departures=(
            "BatchNorm and Dropout in the critic, which couple the samples (Gulrajani et al. use neither BatchNorm nor Dropout)",
            "one critic step per generator step in the place of 5, both gradients taken before either network moves",
            "Adam with betas (0.9, 0.999) in the place of (0, 0.9)",
            "the penalty's pass runs in inference mode while the loss passes run in training mode",
        ),
    ),
    replace(
        DCGAN,
        name="wgan",
        source="Arjovsky et al. 2017 (arXiv:1701.07875)",
        objective=Wasserstein(),
        clip=0.01,
        critic_steps=wgan_critic_steps,
        fresh_z=True,
        generator_optimizer=partial(RMSprop, lr=5e-5, rho=0.99, eps=1e-8),
        discriminator_optimizer=partial(RMSprop, lr=5e-5, rho=0.99, eps=1e-8),
    ),
    Recipe(
        name="wgan_gp_mnist",
        source="Gulrajani et al. 2017 (arXiv:1704.00028), its MNIST networks",
        generator=gulrajani.generator,
        discriminator=gulrajani.critic,
        objective=Wasserstein(),
        penalty=WGANGP(10),
        critic_steps=lambda step: 5,
        fresh_z=True,
        generator_optimizer=partial(Adam, lr=1e-4, betas=(0.5, 0.9)),
        discriminator_optimizer=partial(Adam, lr=1e-4, betas=(0.5, 0.9)),
        init=he_uniform,
        z=128,
        pixels="unit",
        batch=50,
        steps=200_000,
    ),
    replace(
        DCGAN,
        name="wgan_gp",
        source="Gulrajani et al. 2017 (arXiv:1704.00028) with the networks of dcgan, no normalisation in the critic",
        discriminator=partial(dcgan.dcgan_discriminator, norm="none"),
        objective=Wasserstein(),
        penalty=WGANGP(10),
        critic_steps=lambda step: 5,
        fresh_z=True,
        generator_optimizer=partial(Adam, lr=1e-4, betas=(0.0, 0.9)),
        discriminator_optimizer=partial(Adam, lr=1e-4, betas=(0.0, 0.9)),
    ),
    replace(
        ATIENZA,
        name="lsgan",
        source="Mao et al. 2017 (arXiv:1611.04076) with the networks of atienza_dcgan",
        objective=LeastSquares(),
    ),
    replace(
        ATIENZA,
        name="hinge",
        source="Lim & Ye 2017 (arXiv:1705.02894) with the networks of atienza_dcgan",
        objective=Hinge(),
        generator_optimizer=ADAM_DCGAN,
        discriminator_optimizer=ADAM_DCGAN,
    ),
    replace(
        ATIENZA,
        name="acgan",
        source="Odena et al. 2017 (arXiv:1610.09585) with the networks of atienza_cgan",
        **ACGAN_NETS,
        objective=ACGAN(),
        classes=10,
        departures=("one linear layer gives D's 11 scores, real or fake and ten classes",),
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}
