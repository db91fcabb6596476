"""Figures of activations, normalisation, the penalty's passes and Adam."""

import numpy as np
from matplotlib.patches import Circle, Rectangle

from docs.figures import BLUE, GREEN, GREY, INK, ORANGE, RED, drawing
from docs.figures.forms import arrow, plain
from rawgan.layers import LeakyReLU, Linear, Parameters, ReLU, Sigmoid, Softplus, Tanh
from rawgan.optim import SGD, Adam, RMSprop


@drawing(7, 2.8)
def activations(figure):
    """f, f' and f'', by forward, backward and double_backward with a cotangent of ones."""
    x = np.linspace(-4, 4, 401)
    for axes, layer in zip(
        figure.subplots(1, 5, sharey=True), (ReLU(), LeakyReLU(0.2), Tanh(), Sigmoid(), Softplus())
    ):
        y, cache = layer.forward(x)
        one = np.ones_like(x)
        slope, _ = layer.backward(one, cache)
        _, curvature, _ = layer.double_backward(one, one, cache)
        axes.plot(x, y, color=BLUE, label="f")
        axes.plot(x, slope, color=ORANGE, label="f'")
        axes.plot(
            x, x * 0 if curvature is None else curvature, color=GREEN, label="f''", linestyle="--"
        )
        axes.set(title=type(layer).__name__, ylim=(-1.3, 2.2), xticks=(-3, 0, 3))
        axes.grid()
    axes.legend(loc="upper left")


@drawing(7, 3.4)
def projection(figure):
    """Projection P of a cotangent for three values.

    Orthogonal to the constants is a plane; xhat is a direction in it.
    """
    axes = figure.subplots()
    angle = 0.6
    xhat = np.array([np.cos(angle), np.sin(angle)])
    v = np.array([1.55, -0.1])
    along = (v @ xhat) * xhat
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=GREY, linestyle="--"))
    arrow(axes, (0, 0), tuple(xhat), BLUE)
    arrow(axes, (0, 0), tuple(v), INK)
    arrow(axes, (0, 0), tuple(v - along), ORANGE)
    axes.plot(*np.stack([v, along]).T, color=GREY, linewidth=0.9, linestyle=":")
    axes.plot(*np.stack([v, v - along]).T, color=GREY, linewidth=0.9, linestyle=":")
    axes.text(*(xhat * 1.1 + (0, 0.03)), "xhat: the values, standardised", color=BLUE)
    axes.text(v[0] + 0.06, v[1] - 0.02, "v - E(v)", va="center")
    axes.text(*(v - along + (0.05, -0.13)), "P(v): tangent to the circle", color=ORANGE)
    axes.text(
        -1.0,
        0.98,
        "all inputs of one mean and variance\nlie on this circle",
        color=GREY,
        ha="right",
        va="top",
        fontsize=9,
    )
    axes.set(xlim=(-2.6, 3.2), ylim=(-1.3, 1.3))
    plain(axes)


@drawing(7, 3.6)
def four_sweeps(figure):
    """Draw the four passes of the penalty: their direction, and the quantity each propagates."""
    axes = figure.subplots()
    names = ("Linear", "Tanh", "Linear", "Tanh", "Linear")
    for i, name in enumerate(names):
        axes.add_patch(
            Rectangle((2 * i + 0.5, 0), 1, 4.4, facecolor=GREY, alpha=0.22, edgecolor="none")
        )
        axes.text(2 * i + 1, 4.6, name, ha="center")
    rows = (
        ("1  forward", 3.8, BLUE, True, "x", "D(x)"),
        ("2  backward of dy = 1", 2.75, ORANGE, False, "g", "1"),
        ("3  tangent of ddx", 1.7, GREEN, True, "dP/dg", ""),
        ("4  curvature", 0.65, RED, False, "", ""),
    )
    for text, y, colour, up, first, last in rows:
        start, end = (0.0, 10.0) if up else (10.0, 0.0)
        if text.startswith("4"):
            start, end = 7.0, 1.0
        axes.annotate(
            "", (end, y), (start, y), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2}
        )
        axes.text(-0.15, y, first, ha="right", va="center", fontsize=11)
        axes.text(10.15, y, last, ha="left", va="center", fontsize=11)
        axes.text(11.2, y, text, va="center", color=colour, fontsize=11)
    for i in (0, 2, 4):
        axes.plot(2 * i + 1, 1.7, "o", color=GREEN, markersize=7)
    for i in (0, 2):
        axes.plot(2 * i + 1, 0.65, "o", color=RED, markersize=7)
    for i in (1, 3):
        axes.annotate(
            "",
            (2 * i + 1, 0.72),
            (2 * i + 1, 1.63),
            arrowprops={"arrowstyle": "-|>", "color": RED, "lw": 1.3},
        )
    axes.text(
        5,
        -0.45,
        "dots: a weight gradient is taken; red downwards: f'' dy ddx",
        ha="center",
        fontsize=9,
    )
    axes.set(xlim=(-1.2, 14.6), ylim=(-0.7, 5.0))
    axes.axis("off")


def valley(theta: np.ndarray) -> np.ndarray:
    """Return the gradient of (theta_0^2 + 25 theta_1^2) / 2."""
    return theta * np.array([1, 25], theta.dtype)


@drawing(7, 3.2)
def adam_paths(figure):
    """Paths of three optimizers in a narrow valley, and the effect of Adam's bias correction."""
    ways, correction = figure.subplots(1, 2)
    X, Y = np.meshgrid(np.linspace(-2.2, 0.6, 80), np.linspace(-0.8, 0.8, 80))
    ways.contour(X, Y, X**2 / 2 + 12.5 * Y**2, levels=12, colors=GREY, linewidths=0.6)
    for make, colour, name in (
        (SGD, GREY, "SGD 0.07"),
        (RMSprop, GREEN, "RMSprop 0.07"),
        (Adam, BLUE, "Adam 0.07"),
    ):
        parameters = Parameters(Linear(2, 1, bias=False), dtype=np.float64)
        parameters.flat[:] = (-2, 0.6)
        optimizer, path = make(parameters, 0.07), [parameters.flat.copy()]
        for _ in range(60):
            optimizer.step(valley(parameters.flat))
            path.append(parameters.flat.copy())
        ways.plot(
            *np.array(path).T, color=colour, marker=".", markersize=4, linewidth=1.2, label=name
        )
    ways.legend(loc="upper right", fontsize=8)
    ways.set(title="60 steps down a valley", xlim=(-2.2, 0.6), ylim=(-0.8, 0.8))
    t = np.arange(1, 61)
    for beta, colour in ((0.5, GREEN), (0.9, ORANGE), (0.999, BLUE)):
        correction.plot(t, 1 - beta**t, color=colour, label=f"beta = {beta}")
    correction.set(
        title="1 - beta^t: the share of its average that m or v has",
        xlabel="step t",
        ylim=(0, 1.05),
    )
    correction.legend(fontsize=8)
    correction.grid()
