"""Figure of the schedule of a progressive GAN."""

import numpy as np

from docs.figures import BLUE, GREY, drawing
from rawgan.systems.progressive import GrowthSchedule


@drawing(7, 2.5)
def growth_schedule(figure):
    """Resolution by the images seen, and where the optimizers are reset."""
    schedule = GrowthSchedule(32)
    n = np.linspace(0, schedule.images(), 701)
    level = [schedule.stage(int(images)).log2_resolution for images in n]
    axes = figure.subplots()
    axes.plot(n / 1000, level, color=BLUE)
    for reset in range(schedule.stable, schedule.images(), schedule.stable):
        axes.axvline(reset / 1000, color=GREY, linestyle=":", linewidth=0.9)
    axes.set(xlabel="thousand real images seen by D", ylabel="resolution", ylim=(1.8, 5.2))
    axes.set_yticks([2, 3, 4, 5], ["4x4", "8x8", "16x16", "32x32"])
