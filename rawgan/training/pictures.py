"""Sample grids and curves as PNG files."""

import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from rawgan.errors import UserError
from rawgan.training.run import write_whole


def grid(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Images uint8 (N, H, W, C) side by side, row by row, on a dark gray ground: uint8 (rows H', columns W', C)."""
    N, H, W, C = images.shape
    columns = columns or int(np.ceil(np.sqrt(N)))
    rows = -(-N // columns)
    sheet = np.full((rows * (H + gap) + gap, columns * (W + gap) + gap, C), 64, np.uint8)
    for n, image in enumerate(images):
        top, left = gap + n // columns * (H + gap), gap + n % columns * (W + gap)
        sheet[top : top + H, left : left + W] = image
    return sheet


def still(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """The grid as a picture, small images enlarged by a whole number until they are at least 64 pixels high."""
    scale = -(-64 // images.shape[1])
    sheet = grid(images, columns).repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet)


def save_grid(path: Path, images: np.ndarray, columns: int | None = None) -> None:
    """Writes the grid as a PNG."""
    png = io.BytesIO()
    still(images, columns).save(png, "png")
    write_whole(path, png.getvalue())


def save_curves(path: Path, metrics: list[dict[str, float]], panels: dict[str, dict[str, str]]) -> None:
    """Plots metrics over the steps, side by side: panels maps a title to what is drawn under it, names of metrics to labels."""
    steps = [row["step"] for row in metrics]
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for key, label in lines.items():
            axes.plot(steps, [row[key] for row in metrics], label=label, linewidth=1)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(path, figure)


def check_pictures(path: Path) -> None:
    """Raises UserError where save_pictures would not know what to write."""
    if path.suffix not in (".png", ".npy", ""):
        raise UserError(f"pictures are written as .png, as .npy or into a folder: give --out such a name, not {path.name!r}")


def save_pictures(path: Path, images: np.ndarray, columns: int | None = None) -> None:
    """Writes images uint8 (N, H, W, C) as a grid (.png), as they are (.npy), or each as a PNG into a folder (no suffix)."""
    check_pictures(path)
    if path.suffix == ".png":
        save_grid(path, images, columns)
    elif path.suffix == ".npy":
        npy = io.BytesIO()
        np.save(npy, images)
        write_whole(path, npy.getvalue())
    else:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder {path} cannot be made: {error.strerror}") from error
        for n, image in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(png, "png")
            write_whole(path / f"{n:06}.png", png.getvalue())


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_whole(path, png.getvalue())


def save_gradients(path: Path, rows: list[dict[str, float]]) -> None:
    """Plots the norm of each layer's gradient over the steps, a panel per player, dark to bright from the first layer to the last.

    rows are the lines of gradients.csv: "player.layer.parameter" and its norm.
    """
    layers: dict[str, dict[str, list[str]]] = {}
    for name in rows[0] if rows else ():
        if name != "step":
            who, _, parameter = name.partition(".")
            layers.setdefault(who, {}).setdefault(parameter.rpartition(".")[0], []).append(name)
    if not layers:
        return
    figure = Figure(figsize=(4.8 * len(layers), 3.6), layout="constrained")
    for axes, (who, parts) in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers.items()):
        for i, (layer, names) in enumerate(parts.items()):
            norms = [float(np.hypot.reduce([row[name] for name in names])) for row in rows]
            colour = colormaps["viridis"](0.9 * i / max(len(parts) - 1, 1))
            axes.plot([row["step"] for row in rows], norms, label=layer, linewidth=1, color=colour)
        axes.set(xlabel="step", title=f"gradient norm by layer, {who}", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(title="layer", fontsize="x-small", title_fontsize="x-small", ncols=2)
    save_figure(path, figure)


def save_norms(path: Path, rows: list[dict[str, float]], most: int = 4) -> None:
    """Plots the distribution of |dD/dx| where it is penalised, at up to `most` steps from the first to the last.

    rows are the lines of penalty_norms.csv: a step, and the norm at one sample.
    """
    by_step: dict[int, list[float]] = {}
    for row in rows:
        by_step.setdefault(int(row["step"]), []).append(row["norm"])
    steps = sorted(by_step)
    shown = [steps[i] for i in sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(most, len(steps)))})]
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(2, *(max(by_step[step]) for step in shown)), 41)
    for i, step in enumerate(shown):
        colour = colormaps["viridis"](0.9 * i / max(len(shown) - 1, 1))
        axes.hist(by_step[step], bins, histtype="step", label=f"step {step}", color=colour)
    axes.axvline(1, color="gray", linestyle=":", linewidth=1)
    axes.set(xlabel="|dD/dx|, one per sample", ylabel="samples", title="where the penalty holds the gradient")
    axes.legend()
    save_figure(path, figure)


def save_progress(path: Path, grids: list[Path], most: int = 60, duration: int = 200) -> None:
    """Plays the sample grids of a run, at most `most` of them evenly spaced, as a GIF that stands still at its end."""
    shown = [grids[i] for i in sorted({round(i) for i in np.linspace(0, len(grids) - 1, min(most, len(grids)))})]
    frames = []
    for grid in shown:
        with Image.open(grid) as image:
            frames.append(image.copy())
    if not frames:
        return
    gif = io.BytesIO()
    lasts = [duration] * (len(frames) - 1) + [10 * duration]
    frames[0].save(gif, "gif", save_all=True, append_images=frames[1:], duration=lasts, loop=0)
    write_whole(path, gif.getvalue())
