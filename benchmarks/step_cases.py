"""The whole steps that are measured: recipes at a size, width and batch; and how each is planned."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.gan import GAN
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.planned import Planned
from rawgan.planned_steps import planned_step
from rawgan.random import Random


class Case(NamedTuple):
    """A recipe with its sizes; `toy`, one that runs in a moment; `critic_steps`, where others than the recipe's are wanted."""

    recipe: str
    size: int
    channels: int
    width: int
    batch: int
    critic_steps: int | None = None

    @property
    def toy(self) -> "Case":
        return self._replace(size=28, width=8, batch=32) if self.size == 28 else self._replace(size=16, width=8, batch=8)

    @property
    def system(self) -> Recipe:
        recipe = RECIPES[self.recipe]
        return replace(recipe, critic_steps=lambda _: self.critic_steps) if self.critic_steps else recipe

    @property
    def reals(self) -> int:
        """Real batches of a step."""
        return self.system.critic_steps(1000)

    @property
    def savings(self) -> tuple[str, ...]:
        """What the planned step can be told to go without."""
        step = self.toy.plan("bf16", images=1)
        return step.savings(step.recipe)

    def build(self, device: Device = CPU, dtype=np.float32) -> GAN:
        return self.system.build(Random(3), self.size, self.channels, self.width, device, dtype)

    def data(self, n: int = 4096) -> tuple[np.ndarray, np.ndarray | None]:
        """n images of noise, (n, H, W, C) uint8, and labels where the recipe has classes."""
        rng = np.random.default_rng(7)
        images = rng.integers(0, 256, (n, self.size, self.size, self.channels), dtype=np.uint8)
        return images, rng.integers(0, self.system.classes, n).astype(np.int32) if self.system.classes else None

    def plan(self, precision: str, device: Device = CPU, images: int = 4096, **how) -> Planned:
        """The planned step, fed. Raises UserError, in words, for what cannot be planned."""
        data, labels = self.data(images)
        given = {} if labels is None else {"labels": device.asarray(labels)}
        step = planned_step(
            self.build(device), self.system, device.asarray(data), self.batch, seed=5, precision=precision, **given, **how
        )
        step.feed(np.random.default_rng(7).integers(0, images, step.index.shape))
        return step


CASES = {
    "dcgan 64x64x3": Case("dcgan", 64, 3, 64, 128),
    "dcgan 32x32x1": Case("dcgan", 32, 1, 64, 128),
    "dcgan 28x28x1": Case("dcgan", 28, 1, 64, 128),
    "wgan_gp 64x64x3": Case("wgan_gp", 64, 3, 64, 64),
    "raschka_mlp_gan 28x28x1": Case("raschka_mlp_gan", 28, 1, 100, 64),
    "cgan 32x32x1": Case("cgan", 32, 1, 64, 128),
}
