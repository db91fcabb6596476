"""Figure of the first page: a generator during its training on digits."""

import numpy as np

from docs.figures import drawing
from docs.figures.toy import digits_gan, digits_steps
from rawgan.random import Random

SHOWN = (0, 50, 150, 350)


@drawing(8, 3.1)
def digits_grow(figure):
    """Images of the same twelve z after increasing numbers of steps."""
    gan, z = (
        digits_gan(Random(0)),
        np.random.default_rng(4).standard_normal((12, 8), dtype=np.float32),
    )
    rows = figure.subplots(len(SHOWN), len(z))
    steps = digits_steps(gan, Random(0), SHOWN[-1])
    for step in range(SHOWN[-1] + 1):
        if step in SHOWN:
            row = rows[SHOWN.index(step)]
            for axes, image in zip(row, gan.generator.forward(z, train=False)[0]):
                axes.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1)
                axes.set(xticks=(), yticks=())
            row[0].set_ylabel(f"step {step}", rotation=0, ha="right", va="center", fontsize=9)
        next(steps, None)
