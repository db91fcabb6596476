"""Inputs of training steps: real batches and latent vectors, prefetched by one step."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rawgan.backend import Device
from rawgan.data import Batches, Images, to_float
from rawgan.errors import UserError
from rawgan.gan import Samples
from rawgan.models.recipe import Recipe
from rawgan.parallel import SINGLE_PROCESS, Ranks
from rawgan.random import Random

StepInputs = tuple[list[Samples], list[Samples]]  # real batches and latent vectors of a step


class Feed:
    """Real batches and latent vectors of a recipe, as GAN.train_step takes them.

    In a conditional recipe they are paired with labels: of the images, or uniform random ones of
    the latent vectors. flip: mirror every real image with probability 1/2. `random` must be used by
    nothing else, because the feed prefetches from it. Each of several ranks draws the whole batch
    and keeps its part. Raises UserError where the data lack labels that the recipe needs.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Images,
        batch: int,
        random: Random,
        device: Device,
        flip: bool = False,
        ranks: Ranks = SINGLE_PROCESS,
    ):
        self.shard = ranks.shard(batch)
        self.recipe, self.data, self.batch, self.random, self.device, self.flip = (
            recipe,
            data,
            batch,
            random,
            device,
            flip,
        )
        for name in ("z", *(["labels"] if recipe.classes else []), *(["flip"] if flip else [])):
            random.stream(name)  # all streams exist from the start: restore compares their names
        self.order = Batches(data, batch, random.stream("data"))
        if recipe.classes:
            check_labels(recipe, data)

    def next_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return indices of the images of this rank's next batch, and which of them to mirror."""
        index, mirrored = next(self.order), np.zeros(self.batch, bool)
        if self.flip:
            mirrored = self.random.stream("flip").random(self.batch) < 0.5
        return index[self.shard], mirrored[self.shard]

    def next_indices(self) -> np.ndarray:
        """Return the next batch as indices into all_images(): the same images as `real`."""
        index, mirrored = self.next_batch()
        return index + len(self.data) * mirrored

    def all_images(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return all images uint8, with `flip` then their mirror images; and labels or None."""
        images, labels = self.data.images, self.data.labels if self.recipe.classes else None
        if self.flip:
            images = np.concatenate([images, images[:, :, ::-1]])
            labels = None if labels is None else np.concatenate([labels, labels])
        return images, labels

    def real(self) -> Samples:
        """Return the next real batch, on the host, in the recipe's range of pixels."""
        index, mirrored = self.next_batch()
        x = self.images_for_discriminator(index, mirrored)
        return (x, self.data.labels[index]) if self.recipe.classes else x

    def images_for_discriminator(self, index: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """Return images as D gets them: some mirrored, in the recipe's range of pixels."""
        x = to_float(self.data.images[index])
        if self.flip:
            x[mirrored] = x[mirrored, :, ::-1]
        return (x + 1) / 2 if self.recipe.pixels == "unit" else x

    def z(self) -> Samples:
        """Return a batch of latent vectors, on the host."""
        z = self.recipe.draw_z(self.random.stream("z"), self.batch)[self.shard]
        if not self.recipe.classes:
            return z
        labels = self.random.stream("labels").integers(self.recipe.classes, size=self.batch)
        return z, labels[self.shard]

    def prepare(self, step: int) -> StepInputs:
        """Return the inputs of generator step `step`, counted from 0, on the host."""
        schedule = self.recipe.schedule
        n = schedule.critic_steps(step)
        return [self.real() for _ in range(n)], [self.z() for _ in range(n + schedule.resample_z)]

    def to_device(self, inputs: StepInputs) -> StepInputs:
        """Return inputs copied to the device."""
        return tuple([on_device(samples, self.device) for samples in kind] for kind in inputs)

    def step(self, step: int) -> StepInputs:
        """Return the inputs of generator step `step` on the device."""
        return self.to_device(self.prepare(step))

    def state(self) -> dict:
        """Return random streams and the place in the data as JSON-able values, for `restore`."""
        return {"random": self.random.state(), "position": self.order.position()}

    def restore(self, state: dict) -> None:
        """Load a state. Raises ValueError for the state of another feed."""
        restore_streams(self.random, state["random"])
        self.order.seek(state["position"])


def check_labels(recipe: Recipe, data: Images) -> None:
    """Raise UserError unless the data have every label of a conditional recipe, and no other."""
    if data.labels is None:
        raise UserError(
            f"{recipe.name} needs labels, which {data.name} does not have: give a folder per "
            "class, IDX files or a .npz file with labels, or train an unconditional recipe"
        )
    present = np.unique(data.labels)
    if len(present) != recipe.classes or present[-1] != recipe.classes - 1 or present[0]:
        raise UserError(
            f"{recipe.name} needs labels from 0 to {recipe.classes - 1} with pictures of each, and "
            f"{data.name} has {', '.join(map(str, present[:20]))}{', ...' * (len(present) > 20)}"
        )


def fitted_recipe(recipe: Recipe, data: Images) -> Recipe:
    """Return a conditional recipe with the classes of the data; others unchanged.

    Raises UserError for data with fewer than two classes.
    """
    if not recipe.classes or data.labels is None:
        return recipe
    if len(data.classes) < 2:
        raise UserError(
            f"{recipe.name} needs pictures of two classes or more, and all of {data.name} are of "
            "one: train an unconditional recipe"
        )
    return recipe.with_classes(len(data.classes))


class Prefetcher:
    """The inputs of Feed.step, the next step's prepared in a thread while the current one trains.

    state: the feed's as of the inputs returned last, without those prepared since.
    """

    def __init__(self, feed: Feed, first: int):
        self.feed, self.next_step, self.state = feed, first, feed.state()
        self.pool = ThreadPoolExecutor(1, "feed")
        self.prepared = self.pool.submit(self.prepare)

    def prepare(self) -> tuple[StepInputs, dict]:
        """Return the inputs of the next step and the state of the feed after them."""
        return self.feed.prepare(self.next_step), self.feed.state()

    def next(self) -> StepInputs:
        """Return the inputs of the next step on the device, and begin to prepare those after it."""
        inputs, self.state = self.prepared.result()
        self.next_step += 1
        self.prepared = self.pool.submit(self.prepare)
        return self.feed.to_device(inputs)

    def close(self) -> None:
        """End the thread."""
        self.pool.shutdown()


def restore_streams(random: Random, state: dict) -> None:
    """Load a state of `random`. Raises ValueError where its seed or the names of streams differ."""
    if state["seed"] != random.seed or state["streams"].keys() != random.state()["streams"].keys():
        raise ValueError("other random streams")
    random.restore(state)


def on_device(samples: Samples, device: Device) -> Samples:
    """Return an array, or a pair of arrays, copied to the device."""
    return (
        tuple(map(device.asarray, samples))
        if isinstance(samples, tuple)
        else device.asarray(samples)
    )
