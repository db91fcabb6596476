"""Sample grids and curves as PNG files."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

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


def save_grid(path: Path, images: np.ndarray, columns: int | None = None) -> None:
    """Writes the grid as a PNG, small images enlarged by a whole number until they are at least 64 pixels high."""
    sheet = grid(images, columns)
    scale = -(-64 // images.shape[1])
    sheet = sheet.repeat(scale, 0).repeat(scale, 1)
    png = io.BytesIO()
    Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet).save(png, "png")
    write_whole(path, png.getvalue())


def save_curves(path: Path, metrics: list[dict[str, float]]) -> None:
    """Plots over the steps: both losses, D's mean score on real and on generated images, and the penalty's gradient norm if any."""
    steps = [row["step"] for row in metrics]
    panels = [
        ("loss", {"d_loss": "discriminator", "g_loss": "generator"}),
        ("mean score of D", {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"}),
    ]
    if "gradient_norm" in metrics[0]:
        panels.append(("mean |dD/dx| where it is penalised", {"gradient_norm": "gradient norm"}))
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels):
        for key, label in lines.items():
            axes.plot(steps, [row[key] for row in metrics], label=label, linewidth=1)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_whole(path, png.getvalue())
