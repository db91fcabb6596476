"""Figures of augmentation: what D sees of a digit, and the gradient that comes back."""

import numpy as np

from docs.figures import drawing
from rawgan.data.digits import digits
from rawgan.ops.augment import augment, augment_dx, draw

POLICIES = {
    "color": ("color",),
    "translation": ("translation",),
    "cutout": ("cutout",),
    "all three": ("color", "translation", "cutout"),
}
COLUMNS = 8


@drawing(7, 4.2)
def augmented_digits(figure):
    """Eight digits, each transform of them, and of all three the adjoint of the result."""
    x = digits(COLUMNS, 32).images / 127.5 - 1
    uniforms = np.random.default_rng(5).random((COLUMNS, 12))
    rows = {"image": x}
    for name, transforms in POLICIES.items():
        draws = draw(uniforms, x.shape[1:3], transforms)
        rows[name] = augment(x, draws)
    rows["adjoint"] = augment_dx(rows["all three"], draws)
    axes = figure.subplots(len(rows), COLUMNS)
    for line, (name, shown) in zip(axes, rows.items()):
        for cell, image in zip(line, shown):
            cell.imshow(image[..., 0], cmap="gray", vmin=-1.2, vmax=1.2)
            cell.set(xticks=(), yticks=())
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
