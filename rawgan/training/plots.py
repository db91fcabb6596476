"""Plots of a run: grids of samples, curves of metrics, gradient norms; as PNG and GIF files."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from rawgan.errors import UserError, reason
from rawgan.files import kind, read_file, write_whole
from rawgan.models.recipe import Recipe
from rawgan.penalties import as_penalties

Panels = dict[str, dict[str, str]]  # title of a panel -> metric -> label of its line
CURVES: Panels = {
    "loss": {"d_loss": "discriminator", "g_loss": "generator"},
    "mean score of D": {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"},
}
PENALTY_CURVES: Panels = {
    "penalty": {"penalty": "penalty in D's loss"},
}
NORM_CURVES: Panels = {
    "mean |dD/dx| where it is penalised": {"gradient_norm": "gradient norm"},
}
ADA_CURVES: Panels = {
    "adaptive augmentation": {"augment_p": "probability p", "real_sign": "mean sign of D(x), real"},
}
GRID_BYTES, GRID_PIXELS = 1 << 30, 320 << 20  # of a sample grid that is read
FRAMES, FRAME_MS = 60, 200  # of progress.gif
FRAME = 2048  # pixels of the longer side of one

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(recipe: Recipe) -> Panels:
    """Return the panels that losses.png has for a recipe."""
    penalties = as_penalties(recipe.penalty)
    of_gradient = any(penalty.of_gradient for penalty in penalties)
    panels = CURVES | (PENALTY_CURVES if penalties else {}) | (NORM_CURVES if of_gradient else {})
    adaptive = recipe.augmentation is not None and recipe.augmentation.adaptive
    return panels | (ADA_CURVES if adaptive else {})


def columns(panels: Panels) -> tuple[str, ...]:
    """Return the columns of metrics.csv for these panels: "step" and every metric."""
    return ("step", *(name for lines in panels.values() for name in lines))


def evenly_spaced(n: int, most: int) -> list[int]:
    """Return at most `most` of the indices 0 ... n - 1, evenly spaced, both ends among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(most, n)).tolist()})


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure. matplotlib is imported here because its import is slow."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def viridis(i: int, n: int) -> tuple[float, ...]:
    """Return the colour of the i-th of n lines, dark to bright."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * i / max(n - 1, 1))


def grid(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Return images uint8 (N, H, W, C) tiled on dark gray, row by row: uint8 (H', W', C).

    H' = rows (H + gap) + gap, W' = columns (W + gap) + gap; columns: ceil(sqrt(N)) by default.
    """
    N, H, W, C = images.shape
    columns = columns or int(np.ceil(np.sqrt(N)))
    rows = -(-N // columns)
    sheet = np.full((rows * (H + gap) + gap, columns * (W + gap) + gap, C), 64, np.uint8)
    for n, image in enumerate(images):
        top, left = gap + n // columns * (H + gap), gap + n % columns * (W + gap)
        sheet[top : top + H, left : left + W] = image
    return sheet


def grid_image(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Return the grid as a Pillow image, enlarged by a whole number to 64 pixels per image."""
    scale = -(-64 // images.shape[1])
    sheet = grid(images, columns).repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet)


def save_grid(path: Path, images: np.ndarray, columns: int | None = None) -> None:
    """Write the grid as a PNG."""
    png = io.BytesIO()
    grid_image(images, columns).save(png, "png")
    write_whole(path, png.getvalue())


def save_curves(path: Path, metrics: list[dict[str, float]], panels: Panels) -> None:
    """Plot metrics over the steps, the panels side by side; write a PNG."""
    steps = [row["step"] for row in metrics]
    figure = new_figure(4.5 * len(panels), 3.4)
    for axes, (title, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
    ):
        for key, label in lines.items():
            axes.plot(steps, [row[key] for row in metrics], label=label, linewidth=1)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(path, figure)


def check_pictures(path: Path) -> None:
    """Raise UserError for a suffix that save_pictures does not write."""
    if path.suffix not in (".png", ".npy", ""):
        raise UserError(
            "pictures are written as .png, as .npy or into a folder: "
            f"give --out such a name, not {path.name!r}"
        )


def save_pictures(path: Path, images: np.ndarray, columns: int | None = None) -> None:
    """Write images uint8 (N, H, W, C) as a grid (.png), as an array (.npy), or as PNGs in a folder.

    A path without a suffix is the folder, of which earlier pictures are removed. Raises UserError.
    """
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
            remove_pictures(path)
        except OSError as error:
            raise UserError(f"the folder {path} cannot be written: {error.strerror}") from error
        for n, image in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(png, "png")
            write_whole(path / f"{n:06}.png", png.getvalue())


def remove_pictures(folder: Path) -> None:
    """Remove the pictures of an earlier save_pictures, so that the new ones are not among them.

    Raises UserError, before anything is removed, where the folder holds anything else.
    """
    entries = [*folder.iterdir()]
    for entry in entries:
        if not (re.fullmatch(r"[0-9]{6,}\.png", entry.name) and kind(entry) == "a file"):
            raise UserError(
                f"{folder} holds {entry.name}, which is no picture that was written there: give "
                "--out a new or an empty folder"
            )
    for entry in entries:
        entry.unlink()


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_whole(path, png.getvalue())


def save_gradients(path: Path, rows: list[dict[str, float]]) -> None:
    """Plot the gradient norm of each layer over the steps, a panel per player; write a PNG.

    The first layer is dark, the last bright. rows: of gradients.csv, "player.layer.parameter" and
    its norm.
    """
    layers: dict[str, dict[str, list[str]]] = {}
    for name in rows[0] if rows else ():
        if name != "step":
            who, _, parameter = name.partition(".")
            layers.setdefault(who, {}).setdefault(parameter.rpartition(".")[0], []).append(name)
    if not layers:
        return
    figure = new_figure(4.8 * len(layers), 3.6)
    for axes, (who, parts) in zip(
        figure.subplots(1, len(layers), squeeze=False)[0], layers.items()
    ):
        positive = any(row[name] > 0 for row in rows for names in parts.values() for name in names)
        for i, (layer, names) in enumerate(parts.items()):
            norms = [float(np.hypot.reduce([row[name] for name in names])) for row in rows]
            colour = viridis(i, len(parts))
            axes.plot([row["step"] for row in rows], norms, label=layer, linewidth=1, color=colour)
        axes.set(
            xlabel="step",
            title=f"gradient norm by layer, {who}",
            yscale="log" if positive else "linear",
        )
        axes.grid(alpha=0.3)
        axes.legend(title="layer", fontsize="x-small", title_fontsize="x-small", ncols=2)
    save_figure(path, figure)


def save_norms(path: Path, rows: list[dict[str, float]]) -> None:
    """Plot histograms of |dD/dx| at the penalised points, at four steps at most; write a PNG.

    rows: of penalty_norms.csv, a step and the norm at one sample.
    """
    by_step: dict[int, list[float]] = {}
    for row in rows:
        by_step.setdefault(int(row["step"]), []).append(row["norm"])
    steps = sorted(by_step)
    shown = [steps[i] for i in evenly_spaced(len(steps), 4)]
    figure = new_figure(5.4, 3.6)
    axes = figure.subplots()
    bins = np.linspace(0, max(2, *(max(by_step[step]) for step in shown)), 41)
    for i, step in enumerate(shown):
        colour = viridis(i, len(shown))
        axes.hist(by_step[step], bins, histtype="step", label=f"step {step}", color=colour)
    axes.axvline(1, color="gray", linestyle=":", linewidth=1)
    axes.set(
        xlabel="|dD/dx|, one per sample",
        ylabel="samples",
        title="gradient norm at the penalised points",
    )
    axes.legend()
    save_figure(path, figure)


def read_grid(path: Path) -> Image.Image:
    """Return a sample grid, reduced by a whole number until no side is longer than FRAME.

    It is opened without Pillow's limit for the files of strangers, which a run's grids of large
    images exceed, and with a limit of its own. Raises what Pillow raises, and ValueError.
    """
    with PngImageFile(io.BytesIO(read_file(path, GRID_BYTES))) as image:
        if image.width * image.height > GRID_PIXELS:
            raise ValueError(f"it has more than {GRID_PIXELS} pixels")
        return image.reduce(-(-max(image.size) // FRAME))


def save_progress(path: Path, grids: list[Path]) -> None:
    """Write sample grids, at most FRAMES evenly spaced ones, as a GIF.

    The last frame is shown ten times as long as the others. Raises UserError for a broken grid.
    """
    frames = []
    for grid in (grids[i] for i in evenly_spaced(len(grids), FRAMES)):
        try:
            frames.append(read_grid(grid))
        except Exception as error:  # a broken file makes Pillow's decoders raise nearly anything
            raise UserError(
                f"{grid} is no picture ({reason(error)}): move it away, and go on with --resume"
            ) from error
    if not frames:
        return
    gif = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [10 * FRAME_MS]
    frames[0].save(gif, "gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_whole(path, gif.getvalue())
