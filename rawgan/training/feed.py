"""What a training is fed: real batches and latent vectors, prepared one step ahead."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rawgan.backend import Device
from rawgan.data import Batches, Images, to_float
from rawgan.errors import UserError
from rawgan.gan import Samples
from rawgan.models.recipes import Recipe
from rawgan.parallel import ALONE, Ranks
from rawgan.random import Random

Step = tuple[list[Samples], list[Samples]]  # real batches and latent vectors, as GAN.train_step takes them


class Feed:
    """What a recipe's networks are fed: real batches and latent vectors, on the device, labels beside them where it is conditional.

    Real images carry their own labels, latent vectors uniform random ones. With `flip`, every real image is mirrored with
    probability 1/2. `random` is the feed's own, so that it may draw ahead: nobody else may use the same object. Of `ranks` each
    draws everything and is fed its part.
    """

    def __init__(
        self, recipe: Recipe, data: Images, batch: int, random: Random, device: Device, flip: bool = False, ranks: Ranks = ALONE
    ):
        self.part = ranks.part(batch)
        self.recipe, self.data, self.batch, self.random, self.device, self.flip = recipe, data, batch, random, device, flip
        for name in ("z", *(["labels"] if recipe.classes else []), *(["flip"] if flip else [])):
            random.stream(name)  # there from the start, so that a state can be held against it
        self.order = Batches(data, batch, random.stream("data"))
        if recipe.classes and (data.labels is None or data.labels.max() >= recipe.classes):
            raise UserError(f"{recipe.name} needs labels from 0 to {recipe.classes - 1}, which {data.name} does not have")

    def choose(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch as numbers of images, and which of them are mirrored."""
        index = next(self.order)
        return index, self.random.stream("flip").random(self.batch) < 0.5 if self.flip else np.zeros(self.batch, bool)

    def number(self) -> np.ndarray:
        """The next batch as numbers of `pictures`: the same images that `real` would give."""
        index, mirrored = (a[self.part] for a in self.choose())
        return index + len(self.data) * mirrored

    def pictures(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All images uint8, with `flip` their mirror images behind them; and their labels where the recipe has classes."""
        images, labels = self.data.images, self.data.labels if self.recipe.classes else None
        if self.flip:
            images = np.concatenate([images, images[:, :, ::-1]])
            labels = None if labels is None else np.concatenate([labels, labels])
        return images, labels

    def real(self) -> Samples:
        """The next batch, on the host, in the recipe's range of pixels."""
        index, mirrored = (a[self.part] for a in self.choose())
        x = to_float(self.data.images[index])
        if self.flip:
            x[mirrored] = x[mirrored, :, ::-1]
        if self.recipe.pixels == "unit":
            x = (x + 1) / 2
        return (x, self.data.labels[index]) if self.recipe.classes else x

    def z(self) -> Samples:
        """A batch of latent vectors, on the host."""
        z = self.recipe.draw_z(self.random.stream("z"), self.batch)[self.part]
        if not self.recipe.classes:
            return z
        return z, self.random.stream("labels").integers(self.recipe.classes, size=self.batch)[self.part]

    def prepare(self, step: int) -> Step:
        """Everything that generator step `step`, from 0, needs, on the host."""
        n = self.recipe.critic_steps(step)
        return [self.real() for _ in range(n)], [self.z() for _ in range(n + self.recipe.fresh_z)]

    def move(self, step: Step) -> Step:
        """What was prepared, on the device."""
        return tuple([on_device(samples, self.device) for samples in kind] for kind in step)

    def step(self, step: int) -> Step:
        """Everything that generator step `step` needs, on the device."""
        return self.move(self.prepare(step))

    def state(self) -> dict:
        """Everything needed to go on later with the same batches, as plain JSON-able values."""
        return {"random": self.random.state(), "position": self.order.position()}

    def restore(self, state: dict) -> None:
        """Goes back to what `state()` said. Raises ValueError for the state of another feed."""
        restore_streams(self.random, state["random"])
        self.order.seek(state["position"])


class Ahead:
    """A feed whose next step is prepared in a thread while this one trains: the same numbers as Feed.step, in the same order.

    `state` is the feed's as of the step last taken, whatever was prepared since.
    """

    def __init__(self, feed: Feed, first: int):
        self.feed, self.at, self.state = feed, first, feed.state()
        self.pool = ThreadPoolExecutor(1, "feed")
        self.prepared = self.pool.submit(self.prepare)

    def prepare(self) -> tuple[Step, dict]:
        return self.feed.prepare(self.at), self.feed.state()

    def take(self) -> Step:
        """What the next step needs, on the device."""
        step, self.state = self.prepared.result()
        self.at += 1
        self.prepared = self.pool.submit(self.prepare)
        return self.feed.move(step)

    def close(self) -> None:
        """Ends the thread; the feed is then one step ahead of what was taken."""
        self.pool.shutdown()


def restore_streams(random: Random, state: dict) -> None:
    """Random.restore. Raises ValueError unless seed and streams are those that there are already."""
    if state["seed"] != random.seed or state["streams"].keys() != random.state()["streams"].keys():
        raise ValueError("other random streams")
    random.restore(state)


def on_device(samples: Samples, device: Device) -> Samples:
    """An array, or a pair of them, on the device."""
    return tuple(map(device.asarray, samples)) if isinstance(samples, tuple) else device.asarray(samples)
