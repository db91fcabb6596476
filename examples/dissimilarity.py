"""Total variation, Kullback-Leibler, Jensen-Shannon, earth mover's: four measures of dissimilarity.

They are plotted for two distributions that move apart: python examples/dissimilarity.py
"""

import io
import sys
from math import log
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import typer
from matplotlib.figure import Figure

from rawgan.cli.common import run_command
from rawgan.files import write_whole
from rawgan.metrics.dissimilarity import earth_movers, jensen_shannon, kl, total_variation
from rawgan.training.run_folder import free_folder, prepare_picture

X = np.arange(-75, 376) / 100  # the common grid
THETA = np.arange(0, 301) / 100  # distance of q from p
# name, function, ticks (the last one is for all larger values) and their labels, conclusion
MEASURES = (
    (
        "total variation",
        total_variation,
        (0, 1),
        ("0", "1"),
        "1, and flat, once the bumps are apart",
    ),
    (
        "Jensen-Shannon",
        jensen_shannon,
        (0, log(2)),
        ("0", "log 2"),
        "log 2, and flat, once the bumps are apart",
    ),
    (
        "Kullback-Leibler of p from q",
        kl,
        (0, 1),
        ("0", "∞"),
        "infinite as soon as q leaves part of p bare",
    ),
    (
        "earth mover's",
        lambda p, q: earth_movers(p, q, X),
        (0, 1, 2, 3),
        ("0", "1", "2", "3"),
        "theta itself: slope 1 everywhere",
    ),
)


def bump(theta: float) -> np.ndarray:
    """Return probabilities on X in the shape of 1 + cos around theta, of width one; 0 elsewhere."""
    p = np.where(abs(X - theta) < 0.5 - 1e-9, 1 + np.cos(2 * np.pi * (X - theta)), 0)
    return p / p.sum()


def point(theta: float) -> np.ndarray:
    """Return probability 1 at one point: Arjovsky et al.'s parallel lines, seen from the side."""
    return np.eye(len(X))[abs(X - theta).argmin()]


def draw() -> Figure:
    """Plot two bumps at three distances, and one panel per measure, for bumps and for points."""
    figure = Figure(figsize=(14, 6.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(0.75, 1), hspace=0.06)
    top.suptitle("Two bumps, p at 0 and q at theta", fontsize=13)
    for axes, theta in zip(top.subplots(1, 3, sharey=True), (0.5, 1.0, 2.5)):
        for shape, color, name in ((bump(0), "tab:blue", "p"), (bump(theta), "#f76707", "q")):
            axes.fill_between(X, shape, color=color, alpha=0.5, label=name)
        axes.set(title=f"theta = {theta}", yticks=(), xlim=(X[0], X[-1]))
    axes.legend(loc="upper center")

    bottom.suptitle(
        "What the measures see: only earth mover's shows q the way back from everywhere",
        fontsize=13,
    )
    for axes, (name, measure, ticks, labels, moral) in zip(bottom.subplots(1, 4), MEASURES):
        for shape, style, color, label in (
            (bump, "-", "tab:blue", "two bumps"),
            (point, "--", "crimson", "two points"),
        ):
            seen = [min(measure(shape(0), shape(theta)), ticks[-1]) for theta in THETA]
            axes.plot(THETA[1:], seen[1:], style, color=color, label=label, linewidth=2)
            # separate: the measures of points are discontinuous here
            axes.plot(0, seen[0], "o", color=color)
        axes.set(title=name, xlabel=f"theta\n{moral}", yticks=ticks, yticklabels=labels)
        axes.set_ylim(-0.06 * ticks[-1], 1.12 * ticks[-1])
        axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def command(
    out: Annotated[
        Path | None,
        typer.Option(help="the PNG to write; runs/dissimilarity-NNN/measures.png unless given"),
    ] = None,
):
    """Draws two distributions that move apart, and four measures of their dissimilarity."""
    out = out or free_folder(Path("runs") / "dissimilarity") / "measures.png"
    prepare_picture(out)
    png = io.BytesIO()
    draw().savefig(png, format="png", dpi=120)
    write_whole(out, png.getvalue())
    print(f"The picture is {out}")


if __name__ == "__main__":
    run_command(command)
