"""The steps of a run as a plan: which images come next, many steps at a time, and what they said.

On a GPU the first step after a start or a resume is launched kernel by kernel, and all others are CUDA graphs of STEPS steps, or of
one where fewer are left. Where there is no GPU every step is launched kernel by kernel, in Triton's interpreter. They are the same
launches on the same memory in the same order, so they give the same bits on one machine.
"""

from collections.abc import Callable

import numpy as np

from rawgan.backend import address, to_host
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.kernels import specs
from rawgan.training.diagnosis import Overflow, finite
from rawgan.training.feed import Feed

LOOK = 100  # steps at most that are fed, and whose metrics are read, at a time
STEPS = 25  # of a graph


class Replay:
    """The planned step of a GAN, after `done` steps. `after`, if any, is done after each step: then a graph has one step alone.

    Raises UserError for what cannot be planned.
    """

    def __init__(self, gan: GAN, feed: Feed, seed: int, precision: str, done: int = 0, after: Callable[[], None] | None = None):
        specs()  # says where Triton is not installed
        from rawgan.planned_steps import planned_step

        self.feed, self.after = feed, after
        self.most, self.together = (LOOK, 1 if after else STEPS) if feed.device.name == "gpu" else (1, 1)
        if (size := feed.data.images.nbytes * (1 + feed.flip)) >= 2**31:
            what = "pictures and their mirror images" if feed.flip else "pictures"
            raise UserError(f"the planned step takes less than {2**31:,} bytes of {what}, and {feed.data.name} has {size:,}")
        images, labels = feed.pictures()
        labels = None if labels is None else feed.device.asarray(labels)
        how = {"labels": labels, "seed": seed, "precision": precision, "batches": LOOK}
        self.batch = feed.part.stop - feed.part.start
        self.step = planned_step(gan, feed.recipe, feed.device.asarray(images), self.batch, **how)
        self.step.state[1] = done
        self.graphs, self.warm, self.starts = {}, False, 0

    def run(self, done: int, last: int) -> list[dict[str, float]]:
        """Trains at least once, and not beyond step `last`; what each step said."""
        taken = min(last, done - done % LOOK + LOOK, done + self.most) - done
        self.prepare(done, taken)
        self.train(taken)
        self.step.finish()
        return self.step.history(taken)

    def prepare(self, done: int, steps: int) -> None:
        """Says which images the next steps see."""
        index = np.zeros((LOOK, self.step.reals * self.batch), np.int32)
        for step in range(done, done + steps):
            index[step % LOOK] = np.concatenate([self.feed.number() for _ in range(self.step.reals)])
        self.step.feed(index)

    def train(self, steps: int) -> None:
        """Takes the steps, and waits for nothing."""
        while steps:
            taken = self.together if self.warm and steps >= self.together else 1
            if self.warm and self.most > 1:
                self.graph(taken).launch()
            else:
                self.step.run()
            self.warm, self.starts, steps = True, self.starts + 1, steps - taken
            if self.after:
                self.after()

    def graph(self, steps: int):
        """The CUDA graph of some steps."""
        if steps not in self.graphs:
            self.graphs[steps] = self.step.plan.capture(steps)
        return self.graphs[steps]

    def careful(self, done: int) -> None:
        """Trains once, launch by launch. Raises Overflow after the first that reads or writes a number that is not finite."""
        self.prepare(done, 1)
        launches, weights = self.step.plan.launches, {}
        for who, player in (("generator", self.step.G), ("discriminator", self.step.D)):
            for block in player.blocks:
                weights[address(block.w)] = f" with the {who}'s {block.name}w"
        for i, launch in enumerate(launches):
            launch()
            if not all(map(finite, launch.arrays)):
                whose = next((weights[address(a)] for a in launch.arrays if address(a) in weights), "")
                raise Overflow(f"launch {i + 1} of {len(launches)}, {launch.name}{whose}")

    def gradient_norms(self) -> dict[str, float]:
        """|d loss / d parameter| of the last step, by player and parameter."""
        players, xp = {"generator": self.step.G, "discriminator": self.step.D}, self.feed.device.xp
        found = {f"{who}.{name}": g for who, player in players.items() for name, g in player.gradient.added().items()}
        return dict(zip(found, to_host(xp.stack([xp.sqrt((g * g).sum()) for g in found.values()])).tolist()))

    def about(self) -> str:
        """What is planned, in words."""
        plan = self.step.plan
        how = f"in CUDA graphs of {self.together} steps" if self.most > 1 else "in Triton's interpreter, a second or more each"
        return f"{len(plan.launches)} launches a step, {how}; {memory(self.step)}"


def memory(step) -> str:
    """The sizes of a planned step, in words; the data set is not counted."""
    plan = step.plan
    outside = plan.outside - step.images.nbytes - (step.every_label.nbytes if step.recipe.classes else 0)
    arena, least, separate, outside = map(in_bytes, (plan.bytes, plan.least, plan.separate, outside))
    arena = f"an arena of {arena}, where {least} are alive at once and all arrays side by side take {separate}"
    return f"{arena}; outside it {outside}: parameters, optimizers, slices of gradients, inputs"


def in_bytes(size: int) -> str:
    """152.1 MB, 3.3 kB."""
    return f"{size / 1e6:,.1f} MB" if size >= 10**6 else f"{size / 1e3:.1f} kB"
