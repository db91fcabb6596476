"""The measured training steps: recipes at a size, width and batch, and how to plan each."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.gan import GAN
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.planned import plan_step
from rawgan.planned.base import PlannedStep
from rawgan.random import Random


class Case(NamedTuple):
    """A recipe with its sizes.

    `toy`: a smaller case that runs in a moment; `critic_steps`: overrides the recipe's number.
    """

    recipe: str
    size: int
    channels: int
    width: int
    batch: int
    critic_steps: int | None = None

    @property
    def toy(self) -> "Case":
        return (
            self._replace(size=28, width=8, batch=32)
            if self.size == 28
            else self._replace(size=16, width=8, batch=8)
        )

    @property
    def tiny(self) -> "Case":
        """The case with the smallest networks, for a step of about a second in the interpreter."""
        size = self.size if self.recipe == "dcgan" and self.size == 28 else 8
        critic_steps = 1 if self.system.penalty else None
        return self._replace(size=size, width=4, batch=2, critic_steps=critic_steps)

    @property
    def system(self) -> Recipe:
        recipe = RECIPES[self.recipe]
        return (
            recipe.with_schedule(critic_steps=lambda _: self.critic_steps)
            if self.critic_steps
            else recipe
        )

    @property
    def reals(self) -> int:
        """The number of real batches of a step."""
        return self.system.schedule.critic_steps(1000)

    @property
    def savings(self) -> tuple[str, ...]:
        """The fusions that the planned step can disable."""
        return self.toy.plan("bf16", images=1).fusions

    def build(self, device: Device = CPU, dtype=np.float32) -> GAN:
        return self.system.build(Random(3), self.size, self.channels, self.width, device, dtype)

    def data(self, n: int = 4096) -> tuple[np.ndarray, np.ndarray | None]:
        """Return n images of noise, (n, H, W, C) uint8, and labels if the recipe has classes."""
        rng = np.random.default_rng(7)
        images = rng.integers(0, 256, (n, self.size, self.size, self.channels), dtype=np.uint8)
        return images, rng.integers(0, self.system.classes, n).astype(
            np.int32
        ) if self.system.classes else None

    def plan(
        self,
        precision: str,
        device: Device = CPU,
        images: int = 4096,
        batches: int = 50,
        disable: Collection[str] = (),
    ) -> PlannedStep:
        """Return the planned step with its data loaded; the arguments are those of plan_step.

        Raises UserError, with the reason, if the case cannot be planned.
        """
        data, labels = self.data(images)
        step = plan_step(
            self.build(device),
            device.asarray(data),
            self.batch,
            labels=None if labels is None else device.asarray(labels),
            seed=5,
            precision=precision,
            batches=batches,
            disable=disable,
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
