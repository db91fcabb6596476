"""Sample grids and curves as PNG files."""

import io
from pathlib import Path

import numpy as np
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
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_whole(path, png.getvalue())


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
