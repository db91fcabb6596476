"""Figures of D's optimum, of G's gradients, and of distances between distributions."""

import numpy as np

from docs.figures import BLUE, GREEN, GREY, ORANGE, RED, drawing
from rawgan.losses import BCE, LeastSquares, Wasserstein
from rawgan.metrics.dissimilarity import earth_movers, jensen_shannon, kl, total_variation


def bell(x, mean, std):
    return np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))


@drawing(7, 2.8)
def best_discriminator(figure):
    """D* = p / (p + q) for two bell curves, close together and far apart."""
    x = np.linspace(-5, 5, 401)
    for axes, distance in zip(figure.subplots(1, 2), (1.5, 5)):
        p, q = bell(x, -distance / 2, 0.6), bell(x, distance / 2, 0.6)
        axes.fill_between(x, p, color=BLUE, alpha=0.35, linewidth=0, label="p: real")
        axes.fill_between(x, q, color=ORANGE, alpha=0.35, linewidth=0, label="q: fake")
        axes.plot(x, p / (p + q), color=RED, label="best D")
        js = jensen_shannon(p / p.sum(), q / q.sum())
        axes.set(
            title=f"{distance} apart: JS = {js:.3f} of at most {np.log(2):.3f}", yticks=(0, 0.5, 1)
        )
    figure.axes[0].legend(loc="center left", fontsize=8)


@drawing(7, 3)
def generator_gradients(figure):
    """Gradient of each objective at a fake's score c, by the objectives' generator()."""
    c = np.linspace(-6, 6, 241)
    slope, value = figure.subplots(1, 2)
    for objective, name, colour in (
        (BCE(minimax=True), "minimax", GREY),
        (BCE(), "non-saturating", BLUE),
        (LeastSquares(), "least squares", GREEN),
        (Wasserstein(), "Wasserstein, hinge", ORANGE),
    ):
        results = [objective.generator(np.array([score])) for score in c]
        value.plot(c, [loss for loss, _ in results], color=colour, label=name)
        slope.plot(c, [dc[0] for _, dc in results], color=colour, label=name)
    value.set(title="loss of G", xlabel="score c of a fake", ylim=(-6, 8))
    slope.set(title="its slope: how hard G is pushed", xlabel="score c of a fake", ylim=(-2.5, 1.2))
    for axes in (slope, value):
        axes.grid()
    slope.legend(loc="lower right", fontsize=8)


@drawing(7, 2.9)
def four_distances(figure):
    """Two equal narrow bell curves moving apart: only one measure grows throughout."""
    x = np.linspace(-1, 7, 1601)
    p = bell(x, 0, 0.15)
    p /= p.sum()
    shifts = np.linspace(0, 5, 61)
    measures = {
        "total variation": total_variation,
        "Jensen-Shannon": jensen_shannon,
        "Kullback-Leibler / 100": lambda p, q: kl(p, q) / 100,
        "earth mover's": lambda p, q: earth_movers(p, q, x),
    }
    rows = {name: [] for name in measures}
    for shift in shifts:
        q = bell(x, shift, 0.15)
        for name, measure in measures.items():
            rows[name].append(measure(p, q / q.sum()))
    axes = figure.subplots()
    for (name, values), colour in zip(rows.items(), (GREY, BLUE, GREEN, ORANGE)):
        axes.plot(shifts, values, label=name, color=colour)
    axes.set(xlabel="distance between two bells of width 0.15", ylim=(0, 5))
    axes.legend(loc="upper left")
    axes.grid()


@drawing(7, 2.8)
def transport(figure):
    """On a line the earth mover's distance is the area between the cumulative distributions."""
    x = np.linspace(-3, 4, 400)
    p, q = bell(x, -0.8, 0.5), 0.5 * bell(x, 0.5, 0.4) + 0.5 * bell(x, 2.2, 0.4)
    left, right = figure.subplots(1, 2)
    left.fill_between(x, p, color=BLUE, alpha=0.4, linewidth=0, label="p")
    left.fill_between(x, q, color=ORANGE, alpha=0.4, linewidth=0, label="q")
    left.legend()
    left.set(title="two heaps of earth", yticks=())
    P, Q = np.cumsum(p) / p.sum(), np.cumsum(q) / q.sum()
    right.plot(x, P, color=BLUE)
    right.plot(x, Q, color=ORANGE)
    right.fill_between(x, P, Q, color=RED, alpha=0.2, linewidth=0)
    work = earth_movers(p / p.sum(), q / q.sum(), x)
    right.set(title=f"cumulative: the area between is {work:.2f}", yticks=(0, 1))


@drawing(7, 3)
def critic_slopes(figure):
    """Optimal critic between two points on a line: it has slope 1.

    Weight clipping gives another slope, and BCE's D is a cliff.
    """
    x = np.linspace(-3, 3, 301)
    axes = figure.subplots()
    axes.fill_between(x, 2 * bell(x, -1.5, 0.25), color=BLUE, alpha=0.3, linewidth=0, label="real")
    axes.fill_between(x, 2 * bell(x, 1.5, 0.25), color=ORANGE, alpha=0.3, linewidth=0, label="fake")
    p, q = bell(x, -1.5, 0.25), bell(x, 1.5, 0.25)
    with np.errstate(divide="ignore", invalid="ignore"):
        axes.plot(
            x, 3 * p / (p + q), color=RED, label="3 x best D of BCE: flat where the fakes are"
        )
    axes.plot(x, -x, color=GREEN, label="best critic of slope 1: tells the way everywhere")
    axes.set(ylim=(-3.2, 3.6), yticks=())
    axes.legend(loc="lower left", fontsize=8)
