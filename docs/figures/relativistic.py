"""Figures of the relativistic losses: the slope of G's loss, and a GAN of two numbers."""

import numpy as np

from docs.figures import BLUE, GREEN, GREY, ORANGE, RED, drawing
from rawgan.layers import Linear, Parameters, Sequential
from rawgan.losses import BCE, RaGAN, RpGAN
from rawgan.penalties import R1, R2, Penalties


def dirac_gan(penalty, steps: int = 900, rate: float = 0.05) -> np.ndarray:
    """Return (steps, 2): theta and psi of the GAN of Mescheder et al. 2018, section 2.

    The real image is the number 0, the fake theta; D(x) = psi x. Both updates are simultaneous.
    """
    critic = Sequential(Linear(1, 1, bias=False))
    psi = Parameters(critic, dtype=np.float64).flat
    theta, psi[:], penalties, path = 1.0, 0.0, Penalties(penalty), []
    for step in range(steps):
        real, fake = np.zeros((1, 1)), np.full((1, 1), theta)
        path.append((theta, psi[0]))
        _, _, dc = RpGAN().discriminator(psi * real, psi * fake)
        _, dc_generator = RpGAN().generator(psi * fake, psi * real)
        dpsi = (dc * fake).item()
        for grads in penalties.gradients(critic, (real, None), (fake, None), None, step, True):
            dpsi += grads["0.w"].item()
        theta -= rate * (dc_generator * psi).item()
        psi -= rate * dpsi
    return np.array(path)


@drawing(7, 3.2)
def relativistic_slopes(figure):
    """Slope of G's loss by a fake's score, for several scores of the real images."""
    c = np.linspace(-6, 6, 121)
    pairs, dirac = figure.subplots(1, 2)
    for a, colour in ((-3.0, GREEN), (0.0, BLUE), (3.0, ORANGE)):
        slopes = [RpGAN().generator(np.array([s]), np.array([a]))[1][0] for s in c]
        pairs.plot(c, slopes, color=colour, label=f"pairs, a = {a:.0f}")
    slopes = [BCE().generator(np.array([score]))[1][0] for score in c]
    pairs.plot(c, slopes, color=RED, linestyle=":", label="non-saturating, any a")
    pairs.set(title="slope of G's loss", xlabel="score c of a fake", ylim=(-1.6, 0.05))
    pairs.legend(loc="lower right", fontsize=8)
    pairs.grid()
    for penalty, colour, name in (
        (None, GREY, "no penalty"),
        (R1(0.3), ORANGE, "R1"),
        ((R1(0.3), R2(0.3)), BLUE, "R1 and R2"),
    ):
        dirac.plot(*dirac_gan(penalty).T, color=colour, label=name, linewidth=1.2)
    dirac.plot(0, 0, "o", color=RED, markersize=5)
    dirac.set(title="a GAN of two numbers", xlabel="fake theta, real 0", ylabel="slope psi of D")
    dirac.legend(loc="upper right", fontsize=8)
    dirac.grid()


@drawing(7, 2.6)
def relativistic_weights(figure):
    """Slope of G's loss at each fake of a batch, for pairs and for the average."""
    rng = np.random.default_rng(0)
    c, a = np.linspace(-4, 4, 60), rng.normal(1, 2, 60)
    axes = figure.subplots()
    pairs, average = (
        -len(c) * objective.generator(c[:, None], a[:, None])[1][:, 0]
        for objective in (RpGAN(), RaGAN())
    )
    axes.plot(c, pairs, ".", color=BLUE, label="pairs: one partner each")
    axes.plot(c, average, color=ORANGE, label="average: the mean of the real scores")
    axes.set(xlabel="score c of a fake; real scores N(1, 4)", ylabel="N |dc|", ylim=(0, 1.05))
    axes.legend(loc="lower left", fontsize=8)
    axes.grid()
