"""Curves as SVG that takes the colour of its text from the page, so that it is readable on dark and on light."""

import io
import re

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's own colour, which matplotlib cannot know
COLOURS = ("#2f7ed8", "#e0703a", "#3a9d6a")  # of one lightness, between black and white
SCALE = LinearSegmentedColormap.from_list("layers", ["#2f7ed8", "#9a6fc4", "#e0703a"])
DENSITY = LinearSegmentedColormap.from_list("density", [(0.18, 0.49, 0.85, 0.0), (0.18, 0.49, 0.85, 1.0)])
POINTS = 1500  # of a curve; of more, every n-th is drawn
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rawgan",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
}


def svg(draw, name: str, height: float = 3.0) -> str:
    """The <svg> element of the figure that draw(axes) makes; `name` is what it is called, and what is said where it is not seen."""
    out = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL).replace(INK, "currentColor")
    own = re.sub(r"\W", "-", name)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}-", text)  # charts of one page must not share names
    text = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", text)
    return re.sub(r'^<svg ([^>]*?)height="[^"]*"', rf'<svg role="img" aria-label="{own}" \1', text)


ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0, "ncols": 2}  # where it hides nothing


def lines(steps: list[float], columns: dict[str, list[float]], name: str) -> str:
    """Columns over the steps; what is not finite leaves a gap."""
    every = -(-len(steps) // POINTS)

    def draw(axes):
        for (label, values), colour in zip(columns.items(), COLOURS):
            y = np.asarray(values)[::every]
            axes.plot(steps[::every], np.where(np.isfinite(y), y, np.nan), color=colour, label=label, linewidth=1.2)
        axes.set(xlabel="step")
        axes.grid()
        axes.legend(**ABOVE)

    return svg(draw, name)


def gradients(columns: dict[str, list[float]]) -> list[tuple[str, str]]:
    """(player, SVG): the norm of each layer's gradient over the steps, from columns "player.layer.parameter"."""
    steps = columns["step"]
    every = -(-len(steps) // POINTS)
    players: dict[str, dict[str, list[str]]] = {}
    for name in columns:
        who, dot, parameter = name.partition(".")
        if dot:
            players.setdefault(who, {}).setdefault(parameter.rpartition(".")[0], []).append(name)
    return [(who, layered(steps[::every], columns, layers, who, every)) for who, layers in players.items()]


def layered(steps: list[float], columns: dict, layers: dict[str, list[str]], who: str, every: int) -> str:
    """The chart of one player: layers names the columns of each layer's parameters."""

    def draw(axes):
        for i, (layer, names) in enumerate(layers.items()):
            norm = np.sqrt(np.sum([np.square(columns[name]) for name in names], axis=0))[::every]
            seen = np.where(np.isfinite(norm) & (norm > 0), norm, np.nan)
            axes.plot(steps, seen, color=SCALE(i / max(len(layers) - 1, 1)), label=layer or who, linewidth=1.2)
        axes.set(xlabel="step", yscale="log")
        axes.grid()
        axes.legend(**ABOVE | {"ncols": 8}, fontsize="small", handlelength=1, columnspacing=1)

    return svg(draw, f"gradients of the {who}", 3.6)


def norms(columns: dict[str, list[float]], bins: int = 40) -> str | None:
    """The histogram of |dD/dx| over the steps, from columns step and norm: the stronger the colour, the more of the samples."""
    step, norm = (np.asarray(columns[name])[np.isfinite(columns["norm"])] for name in ("step", "norm"))
    if not len(norm):
        return None
    steps = np.unique(step)
    top = max(2.0, float(np.quantile(norm, 0.995)) * 1.1)
    edges = np.linspace(0, top, bins + 1)
    counts = np.stack([np.histogram(norm[step == s].clip(0, top), edges)[0] for s in steps], 1)
    middles = (steps[1:] + steps[:-1]) / 2
    width = steps[-1] - middles[-1] if len(middles) else 1.0
    borders = np.concatenate([[steps[0] - (middles[0] - steps[0] if len(middles) else 1)], middles, [steps[-1] + width]])

    def draw(axes):
        axes.pcolormesh(borders, edges, counts / counts.max(0), cmap=DENSITY, vmin=0, rasterized=True)
        axes.axhline(1, color=COLOURS[1], linestyle="--", linewidth=1, label="1, where the penalty holds it")
        axes.set(xlabel="step", ylabel="|dD/dx| of a sample")
        axes.legend()

    return svg(draw, "norms of the gradient of D", 3.2)
