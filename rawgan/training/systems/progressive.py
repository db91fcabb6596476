"""Training of a progressive GAN."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rawgan.backend import Device, to_host
from rawgan.data import Batches, Images, to_float, to_uint8
from rawgan.errors import UserError
from rawgan.layers import parameter_count
from rawgan.models.progressive import build
from rawgan.systems.progressive import GrowthSchedule, Stage
from rawgan.training.options import Check, integer_in
from rawgan.training.plots import save_grid
from rawgan.training.systems.base import SystemOptions, Training

SAMPLES, COLUMNS = 64, 10  # images of a grid, and of a row of the growing grid
MAX_IMAGES = 10**12
PANELS = {
    "losses": {"d_loss": "D, with the penalties", "g_loss": "G"},
    "mean scores": {"d_real": "D(x)", "d_fake": "D(G(z))"},
    "penalties": {"penalty": "penalties", "gradient_norm": "mean of |dD/dx|"},
    "growth": {"log2_resolution": "log2 of the resolution, in a fade between"},
}


@dataclass(frozen=True)
class ProgressiveOptions(SystemOptions):
    """Options of a progressive GAN. The defaults take about 22 minutes of CPU time.

    steps    those of the schedule to the end of its last phase, unless given
    base     the networks have min(2 base / r, width) channels at the resolution r
    stable   images that D sees at a resolution before the next is faded in
    fade     images of a fade
    group    samples of a group of MinibatchStd; divides the batch
    """

    recipe: str = "progressive"
    size: int = 32
    width: int = 64
    steps: int | None = None
    batch: int = 16
    sample_every: int = 750
    checkpoint_every: int = 750
    base: int = 512
    stable: int = 12_000
    fade: int = 12_000
    group: int = 4

    checks: ClassVar[dict[str, Check]] = {
        "base": integer_in(1, 1 << 20),
        "stable": integer_in(1, MAX_IMAGES),
        "fade": integer_in(0, MAX_IMAGES),
        "group": integer_in(1, 1 << 20),
    }

    def __post_init__(self):
        super().__post_init__()
        if self.steps is None:
            object.__setattr__(self, "steps", -(-self.schedule(self.size).images() // self.batch))
        if self.batch % min(self.group, self.batch):
            raise UserError(
                f"D compares the samples of a group: groups of {self.group} must divide the batch "
                f"of {self.batch}"
            )

    def schedule(self, size: int) -> GrowthSchedule:
        """Return the schedule up to images of a size."""
        return GrowthSchedule(size, self.stable, self.fade)


class ProgressiveTraining(Training):
    """The steps of a progressive GAN, with samples, and a row of them for each resolution.

    The stage of growth is a function of the number of images, steps times batch. A row is drawn
    when its resolution has had its images, and kept in the checkpoints.
    """

    options_type = ProgressiveOptions
    panels = PANELS
    pictures = ("step", "growing")

    def __init__(self, options: ProgressiveOptions, images: Images, device: Device):
        super().__init__(options, images, device)
        _, H, _, C = images.images.shape
        self.model = build(
            self.random,
            *(H, C, options.width, options.base),
            options.schedule(H),
            options.group,
            options.lr,
            device,
        )
        model = self.model
        self.networks = {
            "generator": model.generator,
            "discriminator": model.discriminator,
            "average": model.average.net,
        }
        self.optimizers = {
            "generator": model.generator_optimizer,
            "discriminator": model.discriminator_optimizer,
        }
        self.frozen = {"average": model.average.parameters}
        self.orders = {"data": Batches(images, options.batch, self.random.stream("data"))}
        self.noise = self.random.stream("z")
        fixed = self.random.stream("fixed z").standard_normal((SAMPLES, options.width), np.float32)
        self.fixed_z = device.asarray(fixed)
        self.resolutions = model.generator.resolutions
        rows = np.zeros((len(self.resolutions), COLUMNS, H, H, C), np.float32)
        self.averages = {"rows": device.asarray(rows)}

    def describe(self) -> str:
        """Return the networks and the schedule in words."""
        options, (G, D, _) = self.options, self.networks.values()
        sizes = "growing from " + ", ".join(f"{r}x{r}" for r in self.resolutions)
        return (
            f"{options.recipe}, {sizes}. G has {parameter_count(G):,} parameters, D "
            f"{parameter_count(D):,}. Each phase has {options.stable:,} images, each fade "
            f"{options.fade:,}."
        )

    def inputs(self):
        """Return the next batch of images in [-1, 1], the z of D's step and the z of G's."""
        self.keep_row()
        shape = (self.options.batch, self.options.width)
        z = (self.noise.standard_normal(shape, np.float32) for _ in range(2))
        real = to_float(self.images.images[next(self.orders["data"])])
        return tuple(map(self.device.asarray, (real, *z)))

    def keep_row(self) -> None:
        """Draw the row of a resolution whose stable phase the last step has ended."""
        model = self.model
        before = model.schedule.stage(max(0, model.images - self.options.batch))
        if before.alpha == 1 and before != model.stage:
            self.averages["rows"][self.row_of(before)] = self.row(before)

    def row_of(self, stage: Stage) -> int:
        """Return the row of a stage's resolution: 0 for 4x4."""
        return self.resolutions.index(stage.resolution)

    def row(self, stage: Stage):
        """Return samples of a stage, (COLUMNS, H, H, C)."""
        return self.model.sample(self.fixed_z[:COLUMNS], stage)

    def load_numbers(self, saved):
        """Set the stage, which follows from the number of steps."""
        self.model.continue_after(self.done * self.options.batch)

    def draw(self, done):
        """Write samples of the averaged G, and a row of samples for each resolution so far."""
        self.keep_row()
        stage, folder = self.model.stage, self.run.path / "samples"
        samples = to_uint8(to_host(self.model.sample(self.fixed_z)))
        save_grid(folder / f"step_{done:06}.png", samples)
        before = to_host(self.averages["rows"])[: self.row_of(stage)]
        rows = to_uint8(np.concatenate([*before, to_host(self.row(stage))]))
        save_grid(folder / f"growing_{done:06}.png", rows, COLUMNS)
