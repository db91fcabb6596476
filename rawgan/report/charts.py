"""SVG charts whose text and axes take the page's text colour, for light and dark pages."""

import io
import re

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from rawgan.errors import printable

INK = "#010203"  # placeholder that is replaced by the page's text colour
# of equal medium lightness, readable on black and on white
COLOURS = ("#2f7ed8", "#e0703a", "#3a9d6a")
SCALE = LinearSegmentedColormap.from_list("layers", ["#2f7ed8", "#9a6fc4", "#e0703a"])
DENSITY = LinearSegmentedColormap.from_list(
    "density", [(0.18, 0.49, 0.85, 0.0), (0.18, 0.49, 0.85, 1.0)]
)
POINTS = 1500  # most points of a curve; of more, every n-th is drawn
LARGEST = 1e30  # largest number that is drawn: the axes compute its square
LAYERS, STRIPES = 64, 400  # most layers of a network, and steps of a histogram, drawn
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
    """Return the <svg> element of a figure that draw(axes) draws.

    `name` is the prefix of its ids and its label for screen readers.
    """
    out = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL
    ).replace(INK, "currentColor")
    label = re.sub(r"\W", "-", name)
    # charts of one page must not share ids
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{label}-", text)
    text = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", text)
    return re.sub(
        r'^<svg ([^>]*?)height="[^"]*"', rf'<svg role="img" aria-label="{label}" \1', text
    )


def drawable(values) -> np.ndarray:
    """Return the values, with NaN, a gap, for every one that is not finite or too large."""
    values = np.asarray(values, np.float64)
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


def legend(axes, **options) -> None:
    """Draw a legend with its labels as plain text: no mathematics, no control characters."""
    for label in axes.legend(**options).get_texts():
        label.set_parse_math(False)
        label.set_text(printable(label.get_text(), 40))


# legend to the right of the axes, beside the ends of the curves
BESIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "handlelength": 1, "fontsize": "small"}
SMOOTHING = 50  # a smoothed curve averages over about so many of the drawn points, or a tenth


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the exponential moving average of a curve, without its bias to the first value.

    NaN stays a gap and does not enter the average.
    """
    weight = 1 / max(1, min(SMOOTHING, len(values) // 10))
    average = total = 0.0
    out = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            average += weight * (value - average)
            total += weight * (1 - total)
            out[i] = average / total
    return out


def lines(steps: list[float], columns: dict[str, list[float]], name: str) -> str:
    """Return a chart of columns over the steps, each pale with its moving average over it.

    Values that are not finite leave a gap.
    """
    every = -(-len(steps) // POINTS)

    def draw(axes):
        for (label, values), colour in zip(columns.items(), COLOURS):
            raw = drawable(values[::every])
            axes.plot(steps[::every], raw, color=colour, alpha=0.35, linewidth=0.8)
            axes.plot(steps[::every], smoothed(raw), color=colour, label=label, linewidth=1.6)
        axes.set(xlabel="step")
        axes.grid()
        legend(axes, **BESIDE)

    return svg(draw, name)


def gradients(
    columns: dict[str, list[float]], kinds: dict[str, str] | None = None
) -> list[tuple[str, str]]:
    """Return (player, SVG) charts of the norm of each layer's gradient over the steps.

    The columns are named "player.layer.parameter"; kinds has the class of each "player.layer".
    """
    kinds = kinds or {}
    steps = columns["step"]
    every = -(-len(steps) // POINTS)
    players: dict[str, dict[str, list[str]]] = {}
    for name in columns:
        who, dot, parameter = name.partition(".")
        if dot and (who in players or len(players) < 4):
            players.setdefault(who, {}).setdefault(parameter.rpartition(".")[0], []).append(name)
    return [
        (who, layered(steps[::every], columns, named(who, layers, kinds), who, every))
        for who, layers in players.items()
    ]


def named(who: str, layers: dict[str, list[str]], kinds: dict[str, str]) -> dict[str, list[str]]:
    """Return the layers under their index and class, "0 Conv2d", where the class is known."""
    return {
        f"{layer} {kinds.get(f'{who}.{layer}', '')}".strip(): names
        for layer, names in layers.items()
    }


def layered(
    steps: list[float], columns: dict, layers: dict[str, list[str]], who: str, every: int
) -> str:
    """Return the chart of one player; `layers` maps each layer to its parameters' columns."""

    def draw(axes):
        positive = False
        for i, (layer, names) in enumerate([*layers.items()][:LAYERS]):
            norm = np.hypot.reduce([drawable(columns[name][::every]) for name in names])
            seen = np.where(norm > 1 / LARGEST, norm, np.nan)
            positive |= bool(np.isfinite(seen).any())
            axes.plot(
                steps,
                seen,
                color=SCALE(i / max(min(len(layers), LAYERS) - 1, 1)),
                label=layer or who,
                linewidth=1.2,
            )
        axes.set(xlabel="step", yscale="log" if positive else "linear")
        axes.grid()
        legend(axes, **BESIDE, ncols=-(-len(axes.lines) // 16))

    return svg(draw, f"gradients of the {who}", 3.6)


def norms(columns: dict[str, list[float]], bins: int = 40) -> str | None:
    """Return the histogram of |dD/dx| over the steps, from columns step and norm.

    The opacity is the fraction of the samples of a step. With more than STRIPES steps, adjacent
    steps share a stripe. The work is linear in the number of rows.
    """
    norm = np.asarray(columns["norm"], np.float64)
    seen = (norm >= 0) & (norm <= LARGEST)
    step, norm = np.asarray(columns["step"], np.float64)[seen], norm[seen]
    if not len(norm):
        return None
    steps, stripe = np.unique(step, return_inverse=True)
    wide = -(-len(steps) // STRIPES)
    steps, stripe = steps[::wide], stripe // wide
    top = max(2.0, float(np.quantile(norm, 0.995)) * 1.1)
    edges = np.linspace(0, top, bins + 1)
    cell = np.minimum((norm.clip(0, top) * (bins / top)).astype(np.int64), bins - 1)
    counts = np.bincount(cell * len(steps) + stripe, minlength=bins * len(steps)).reshape(
        bins, len(steps)
    )
    middles = (steps[1:] + steps[:-1]) / 2
    width = steps[-1] - middles[-1] if len(middles) else 1.0
    borders = np.concatenate(
        [[steps[0] - (middles[0] - steps[0] if len(middles) else 1)], middles, [steps[-1] + width]]
    )

    def draw(axes):
        axes.pcolormesh(
            borders, edges, counts / counts.max(0), cmap=DENSITY, vmin=0, rasterized=True
        )
        axes.axhline(
            1, color=COLOURS[1], linestyle="--", linewidth=1, label="1, the target of WGAN-GP"
        )
        axes.set(xlabel="step", ylabel="|dD/dx| of a sample")
        legend(axes, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)

    return svg(draw, "norms of the gradient of D", 3.2)
