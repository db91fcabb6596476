"""The GANs of two book chapters and of the papers around them, as data.

A recipe is networks x objective x penalty x optimizers x schedule:

    recipe = RECIPES["raschka_wgan_gp"]
    gan = recipe.build(Random(0))

Every value is that of the source, except `default`, the setting of a bare `rawgan train RECIPE`,
which was chosen for some minutes on two CPU cores; `departures` lists where a recipe departs from
the paper that it is named after.
"""

from dataclasses import replace
from functools import partial

from rawgan.gan import Schedule
from rawgan.init import (
    dcgan_init,
    gulrajani_uniform,
    he_uniform,
    normal_init,
    residual_glorot_uniform,
)
from rawgan.layers import Sequential
from rawgan.losses import ACGAN, BCE, Hinge, LeastSquares, RpGAN, Wasserstein
from rawgan.models import atienza, dcgan, gulrajani, r3gan, raschka, sngan
from rawgan.models.recipe import Make, Recipe, Setting
from rawgan.optim import Adam, RMSprop
from rawgan.penalties import R1, R2, WGANGP

ADAM_DCGAN = partial(Adam, lr=2e-4, betas=(0.5, 0.999))
KERAS_ADAM = partial(Adam, lr=1e-3, betas=(0.9, 0.999), eps=1e-7, epsilon_hat=True)
GULRAJANI_ADAM = partial(Adam, lr=1e-4, betas=(0.5, 0.9), epsilon_hat=True)  # TensorFlow's
KERAS_G, KERAS_D = partial(RMSprop, lr=1e-4, decay=3e-8), partial(RMSprop, lr=2e-4, decay=6e-8)


def wgan_critic_steps(step: int) -> int:
    """Return 5, but 100 in the first 25 steps and in every 500th: D stays near its optimum."""
    return 100 if step < 25 or step % 500 == 0 else 5


DCGAN = Recipe(
    name="dcgan",
    source="Radford et al. 2016 (arXiv:1511.06434), as in pytorch/examples",
    generator=dcgan.dcgan_generator,
    discriminator=dcgan.dcgan_discriminator,
    objective=BCE(),
    generator_optimizer=ADAM_DCGAN,
    discriminator_optimizer=ADAM_DCGAN,
    default=Setting(32, 1500, lr=5e-4),
    init=dcgan_init,
    data=None,
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
    default=Setting(8, 1500, lr=1e-3),
    width=32,
    draw="uniform",
    pixels="unit",
    schedule=Schedule(joint_batch=True, resample_z=True, fake_mode="inference"),
    departures=(
        "no BatchNorm in D, no Tanh but a sigmoid, RMSprop in the place of Adam, 5x5 kernels"
        " (Radford et al.)",
        "D sees one batch of 64 real and 64 fake images, the fakes made by G in inference mode;"
        " G learns from a new z",
    ),
)


R3GAN = Recipe(
    name="r3gan",
    source="Huang et al. 2024 (arXiv:2501.05441), its loss and penalties with small networks",
    generator=r3gan.generator,
    discriminator=r3gan.discriminator,
    objective=RpGAN(),
    penalty=(R1(1.0), R2(1.0)),
    generator_optimizer=partial(Adam, lr=2e-4, betas=(0.0, 0.99)),
    discriminator_optimizer=partial(Adam, lr=2e-4, betas=(0.0, 0.99)),
    default=Setting(16, 800, lr=1e-3),
    init=he_uniform,
    data="cifar10",
    size=32,
    channels=3,
    width=64,
    z=64,
    schedule=Schedule(resample_z=True),
    departures=(
        "strided convolutions in the place of residual blocks with grouped convolutions and"
        " filtered resampling: 0.9 and 0.7 million parameters, not 21 million each; Tanh at the end"
        " of G",
        "constant learning rate, beta2 and penalty weight, and batches of 64: the preset for"
        " CIFAR-10 takes batches of 512, and rate 2e-4 to 5e-5, beta2 0.9 to 0.99 and weight 0.05"
        " to 0.005 along a cosine",
        "no augmentation, and no moving average of G unless --ema asks for it",
    ),
)


SNGAN_RESNET = Recipe(
    name="sngan_resnet",
    source="Miyato et al. 2018 (arXiv:1802.05957), its ResNets, trained as in mimicry",
    generator=sngan.generator,
    discriminator=sngan.discriminator,
    objective=Hinge(),
    generator_optimizer=partial(Adam, lr=2e-4, betas=(0.0, 0.9)),
    discriminator_optimizer=partial(Adam, lr=2e-4, betas=(0.0, 0.9)),
    default=Setting(32, 400, lr=1e-3),
    init=residual_glorot_uniform,
    data="cifar10",
    size=32,
    channels=3,
    width=256,
    z=128,
    schedule=Schedule(resample_z=True, critic_steps=lambda step: 5),
    steps=100_000,
    lr_decay=True,
    departures=(
        "the steps of D come before that of G, which learns from 64 fakes; in the code of the paper"
        " and in mimicry that of G comes first, in the former with 128 fakes",
        "nearest upsampling, first biases of 0, and shortcuts that take x before the ReLU, as in"
        " the code of the paper; in mimicry upsampling is bilinear, and the first ReLU of a block"
        " of D, computed in place, acts on its shortcut too",
        "the 1x1 convolution of a shortcut is computed on the smaller image, with the same result",
    ),
)


def conditional(make: Make) -> Make:
    """Return the function of a network with 10 classes."""
    return partial(make, classes=10)


def acgan_discriminator(size: int, channels: int, width: int, classes: int = 10) -> Sequential:
    """Return D of the ACGAN: images to 1 + classes scores, real or fake and each class."""
    return atienza.atienza_discriminator(size, channels, width, scores=1 + classes)


ACGAN_NETS = {
    "generator": conditional(atienza.atienza_generator),
    "discriminator": acgan_discriminator,
}

RASCHKA_MLP = Recipe(
    name="raschka_mlp_gan",
    source="Raschka & Mirjalili, Python Machine Learning, 3rd ed., ch. 17, part 1",
    generator=raschka.mlp_generator,
    discriminator=raschka.mlp_discriminator,
    objective=BCE(),
    generator_optimizer=KERAS_ADAM,
    discriminator_optimizer=KERAS_ADAM,
    default=Setting(100, 12_000),
    width=100,
    z=20,
    draw="uniform",
    schedule=Schedule(order="generator_first"),
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
        default=Setting(16, 1200, lr=1e-3),
        data="mnist",
        size=32,
        channels=1,
        width=32,
        classes=10,
        departures=(
            "convolutional networks; the label enters G as part of its input,"
            " and D as constant planes",
        ),
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
        default=Setting(64, 4000, lr=2e-4),
        width=64,
        schedule=Schedule(order="generator_first", generator_mode="inference"),
        departures=(
            "Dropout in both networks, LeakyReLU of slope 1e-4, Adam at 1e-3"
            " (Radford et al.: none, 0.2, 2e-4)",
            "the book calls G in inference mode while it learns:"
            " its BatchNorm is a trained affine map and its Dropout never acts",
        ),
    ),
    Recipe(
        name="raschka_wgan_gp",
        source="Raschka & Mirjalili, Python Machine Learning, 3rd ed., ch. 17, part 2",
        generator=raschka.wgan_gp_generator,
        discriminator=lambda size, channels, width: raschka.wgan_gp_critic(
            size, channels, width // 2
        ),
        objective=Wasserstein(),
        penalty=WGANGP(10),
        generator_optimizer=partial(KERAS_ADAM, lr=2e-4),
        discriminator_optimizer=partial(KERAS_ADAM, lr=2e-4),
        default=Setting(16, 1500, lr=5e-4),  # later samples become worse
        width=128,
        z=20,
        draw="uniform",
        schedule=Schedule(order="simultaneous", penalty_mode="inference"),
        batch=128,
        steps=46_800,
        departures=(
            "BatchNorm and Dropout in the critic, which couple the samples"
            " (Gulrajani et al. use neither BatchNorm nor Dropout)",
            "one critic step per generator step in the place of 5,"
            " both gradients taken before either network is updated",
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
        schedule=Schedule(resample_z=True, critic_steps=wgan_critic_steps),
        generator_optimizer=partial(RMSprop, lr=5e-5, rho=0.99, eps=1e-8),
        discriminator_optimizer=partial(RMSprop, lr=5e-5, rho=0.99, eps=1e-8),
        default=Setting(16, 1000, lr=5e-4),
    ),
    Recipe(
        name="wgan_gp_mnist",
        source="Gulrajani et al. 2017 (arXiv:1704.00028), its MNIST networks",
        generator=gulrajani.generator,
        discriminator=gulrajani.critic,
        objective=Wasserstein(),
        penalty=WGANGP(10),
        schedule=Schedule(resample_z=True, critic_steps=lambda step: 5),
        generator_optimizer=GULRAJANI_ADAM,
        discriminator_optimizer=GULRAJANI_ADAM,
        default=Setting(16, 800, lr=1e-3),
        init=gulrajani_uniform,
        z=128,
        pixels="unit",
        batch=50,
        steps=200_000,
    ),
    replace(
        DCGAN,
        name="wgan_gp",
        source="Gulrajani et al. 2017 (arXiv:1704.00028) with the networks of dcgan,"
        " no normalisation in the critic",
        discriminator=partial(dcgan.dcgan_discriminator, norm="none"),
        objective=Wasserstein(),
        penalty=WGANGP(10),
        schedule=Schedule(resample_z=True, critic_steps=lambda step: 5),
        generator_optimizer=partial(Adam, lr=1e-4, betas=(0.0, 0.9)),
        discriminator_optimizer=partial(Adam, lr=1e-4, betas=(0.0, 0.9)),
        default=Setting(16, 800, lr=1e-3),
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
        default=Setting(8, 800, lr=1e-3, size=28),  # of 16x16, all samples become one digit
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
    replace(
        ATIENZA,
        name="atienza_acgan",
        source="Atienza, Advanced Deep Learning with Keras, ch. 5.3",
        generator=conditional(atienza.atienza_generator),
        discriminator=atienza.atienza_acgan_discriminator,
        objective=ACGAN(),
        classes=10,
        departures=(
            *ATIENZA.departures,
            "a linear layer of 128 outputs, without an activation, before D's scores of the classes"
            " (Odena et al.: none)",
        ),
    ),
    R3GAN,
    Recipe(
        name="sngan",
        source="Miyato et al. 2018 (arXiv:1802.05957), its plain networks as in chainer-gan-lib",
        generator=sngan.plain_generator,
        discriminator=sngan.plain_discriminator,
        objective=Hinge(),
        generator_optimizer=ADAM_DCGAN,
        discriminator_optimizer=ADAM_DCGAN,
        default=Setting(16, 600, lr=1e-3),
        init=partial(normal_init, std=0.02),
        data="cifar10",
        size=32,
        channels=3,
        width=64,
        z=128,
        draw="uniform",
        steps=100_000,
        departures=(
            "hinge loss, for which the paper has better scores than for the cross-entropy of"
            " chainer-gan-lib",
        ),
    ),
    SNGAN_RESNET,
    replace(
        SNGAN_RESNET,
        name="sngan_projection",
        source="Miyato & Koyama 2018 (arXiv:1802.05637), its ResNets, trained as in mimicry",
        generator=conditional(sngan.generator),
        discriminator=conditional(sngan.discriminator),
        default=Setting(32, 400, lr=3e-3),
        classes=10,
        departures=(
            *SNGAN_RESNET.departures,
            "first scales of 1 in the conditional BatchNorm, as in the code of the paper; in"
            " mimicry N(1, 0.02^2)",
        ),
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}
