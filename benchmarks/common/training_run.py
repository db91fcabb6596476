"""Train a recipe from a seed, by the planned step in some precision or by GAN.train_step on arrays.

This is the only place in which benchmarks choose between the two.
"""

from rawgan.backend import Device
from rawgan.data import Images
from rawgan.models.recipe import Recipe
from rawgan.random import Random
from rawgan.training.graph_runner import GraphRunner
from rawgan.training.prefetch import Feed

ARRAYS = "arrays"  # value of `precision` that selects GAN.train_step on arrays


class TrainingRun:
    """A GAN with its data, trained by one of the two paths.

    `precision`: one of rawgan.precision.PRECISIONS for the planned step, or ARRAYS. Both paths
    start from the same weights and use the same real images; the planned step draws z and fake
    labels on the GPU.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Images,
        width: int,
        batch: int,
        seed: int,
        precision: str,
        device: Device,
    ):
        random = Random(seed)
        size, channels = data.images.shape[1], data.images.shape[3]
        self.recipe, self.device, self.done = recipe, device, 0
        self.gan = recipe.build(random, size, channels, width, device)
        self.feed = Feed(recipe, data, batch, random, device)
        planned = precision != ARRAYS
        self.replay = GraphRunner(self.gan, self.feed, seed, precision) if planned else None

    def train(self, last: int) -> list[dict[str, float]]:
        """Train up to step `last` and return the metrics of each step."""
        rows = []
        while self.done < last:
            if self.replay:
                taken = self.replay.run(self.done, last)
            else:
                metrics = self.gan.train_step(*self.feed.step(self.done))
                taken = [{name: float(value) for name, value in metrics.items()}]
            rows += taken
            self.done += len(taken)
        return rows
