"""The training step of gan.py out of fused kernels, planned once: one block of memory, a fixed list of launches, a CUDA graph.

    step = PlannedStep(gan, recipe, images, batch=128)
    step.feed(index)                 which images make the next batches
    step.run()                       trains once; step.metrics() says what came out

It computes what GAN.train_step computes, and leaves out work whose result is known or not needed:

    2B                D sees real and fake in one pass, BatchNorm's statistics taken over each half, the running ones moved twice
    no idle gradient  no weight gradients of D in G's step, no gradient of D's first layer in D's step
    no idle pass      statistics, activations, their derivatives and the losses are done where a product is stored; the optimizer
                      adds the slices of the weight gradients and writes the copies in lower precision

Everything the kernels read lies in device memory: the data set, the step's number, the counters of the optimizers. So the same
launches can be captured in a graph, and a step needs nothing from the host but which images come next.
"""

from collections.abc import Collection
from math import prod

import numpy as np

from rawgan.backend import Array, array_module, to_host
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.kernels import kernels, launch
from rawgan.kernels.plan import Plan
from rawgan.layers import Sequential
from rawgan.layers.embed import check_labels
from rawgan.losses import BCE, Hinge, LeastSquares, Objective, Wasserstein
from rawgan.models.recipes import Recipe
from rawgan.optim import Adam, Optimizer, RMSprop
from rawgan.parallel import ALONE
from rawgan.planned_blocks import Gradient, Trace, backward, blocks, forward
from rawgan.planned_labels import Plane, beside

PRECISIONS = {"fp32": ("float32", "tf32x3"), "tf32": ("float32", "tf32"), "bf16": ("uint16", "ieee")}  # arrays, products
LABELS, DROPOUT = 2, 3  # the first streams of random numbers; 0 is z, 1 what lies between real and fake
NOWHERE = (None, 0.0, None)  # below D, where its input's gradient is computed for nobody


def sides(objective: Objective) -> tuple[tuple, tuple, tuple]:
    """The losses as terms of kernels/terms.py: D's of real and of fake, and G's. Raises UserError for another objective."""
    if type(objective) is BCE:
        return ("real", 1 - objective.real_label), ("fake", 1.0), ("fake", -1.0) if objective.minimax else ("real", 0.0)
    if type(objective) is LeastSquares:
        return ("square", 1.0), ("square", 0.0), ("square", 1.0)
    if type(objective) is Wasserstein:
        return ("linear", -1.0), ("linear", 1.0), ("linear", -1.0)
    if type(objective) is Hinge:
        return ("hinge", -1.0), ("hinge", 1.0), ("linear", -1.0)
    raise UserError(f"the planned step does not know the losses of {type(objective).__name__} yet")


def critic_steps(recipe: Recipe) -> set[int]:
    """How many critic steps a step has, over the recipe's own length: a plan has one number for all."""
    return set(map(recipe.critic_steps, range(recipe.steps)))


class Player:
    """A network with what moves it, as the kernels take them; state (2,) int64, the seed and the step."""

    def __init__(self, net: Sequential, optimizer: Optimizer, shape: tuple[int, ...], precision: str, state: Array, positive: bool):
        dtype, products = PRECISIONS[precision]
        self.optimizer, self.parameters = optimizer, optimizer.parameters
        self.beside = beside(net, positive)
        self.blocks = blocks(net, shape, products, self.beside, positive)
        self.low = None if dtype == "float32" else to_bfloat16(self.parameters.flat)
        views = self.parameters.views(self.parameters.flat if self.low is None else self.low)
        for block in self.blocks:
            block.w, block.state = views[block.name + "w"], state
        if isinstance(self.beside, Plane):
            self.beside.w = views[self.beside.name + "w"]
        self.gradient = Gradient(self.parameters)
        self.step, self.lr = optimizer.clock()
        self.table: Array | None = None
        self.ranks = ALONE

    def move(self, tick: Array | None = None) -> None:
        """One step of the optimizer, from the slices of the gradient; of several ranks from the mean of their sums."""
        self.gradient.close()
        if self.table is None:  # the slices are still being counted
            return
        o, state = self.optimizer, (self.step, self.lr)
        g, table = self.gradient.flat, self.table
        if self.ranks.size > 1:
            g, table = kernels.add_slices(self.parameters.flat, g, table), None
            launch.call(self.ranks.mean_, g)
        more = {"low": self.low, "table": table, "tick": tick}
        if isinstance(o, Adam):
            kernels.adam(self.parameters.flat, g, o.slots["m"], o.slots["v"], *state, o.betas, o.eps, **more)
        elif isinstance(o, RMSprop):
            kernels.rmsprop(self.parameters.flat, g, o.slots["v"], *state, o.rho, o.eps, o.decay, **more)
        else:
            raise UserError(f"the planned step has no kernel for {type(o).__name__}")


def to_bfloat16(a: Array) -> Array:
    """float32 as bfloat16, rounded to nearest even, held as uint16."""
    bits = a.view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")


class Planned:
    """What every planned step has: the players, the data, the counters, the plan. A subclass writes `launch` out.

    images (n, H, W, C) uint8, where the networks live, labels (n,) integers beside them where the recipe has classes; `batches`
    rows of `index` are fed at a time. Of several ranks each has a plan of its own part of the batch, in which the gradients are
    averaged. `without`: savings that are not to be made, to see what they are worth. Raises UserError for a recipe or a network
    that cannot be planned.
    """

    said_names: tuple[str, ...] = ("d_loss", "d_real", "d_fake", "g_loss")  # what stands in a row of the metrics

    def __init__(
        self,
        gan: GAN,
        recipe: Recipe,
        images: Array,
        batch: int,
        labels: Array | None = None,
        seed: int = 0,
        precision: str = "fp32",
        batches: int = 50,
        without: Collection[str] = (),
    ):
        if why := self.unsupported(recipe):
            raise UserError(f"{recipe.name} has {why}, which the planned step does not know yet")
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r} is not known; choose {', '.join(PRECISIONS)}")
        if gan.synchronised:
            raise UserError("the planned step does not synchronise BatchNorm between processes: its statistics are local")
        if unknown := set(without) - set(known := self.savings(recipe)):
            raise UserError(
                f"the planned step of {recipe.name} cannot go without {min(unknown)!r}, only without: {', '.join(known)}"
            )
        self.recipe, self.images, self.batch, self.without = recipe, images, batch, frozenset(without)
        self.reals, self.zs = self.batches(recipe)
        self.objective, self.sides, self.dtype = gan.objective, sides(gan.objective), PRECISIONS[precision][0]
        xp = self.xp = array_module(images, gan.generator_optimizer.parameters.flat)
        self.state = xp.array([seed ^ gan.ranks.rank, 0], "int64")  # every rank draws z of its own
        self.said = xp.zeros((batches, len(self.said_names) + 2), "float32")  # two that nobody reads
        self.index = xp.zeros((batches, self.reals * batch), "int32")
        self.G = Player(gan.generator, gan.generator_optimizer, (recipe.z,), precision, self.state, False)
        positive = recipe.pixels == "unit" and self.G.blocks[-1].act in ("relu", "sigmoid")  # real images, and fakes too
        self.D = Player(gan.discriminator, gan.discriminator_optimizer, images.shape[1:], precision, self.state, positive)
        for i, block in enumerate(self.G.blocks + self.D.blocks):
            block.stream = DROPOUT + i
        head = self.D.blocks[-1]
        if prod(head.end) != 1 or head.norm or head.act or head.drop:
            raise UserError(f"the planned step wants a discriminator that ends in one score, not {head.layer.label}")
        self.idle = Gradient(self.D.parameters) if "idle gradients" in without else None
        self.labels = self.own_labels(gan, labels) if recipe.classes else None
        self.z = xp.empty((self.zs * batch, recipe.z), self.dtype)
        self.allocate()
        with launch.record(dry=True):  # counts the slices of the weight gradients
            self.launch()
        for player in (self.G, self.D):
            player.table, player.ranks = player.gradient.allocate(), gan.ranks
        with launch.record(dry=True) as recording:
            self.launch()
        self.plan = Plan(recording)

    def unsupported(self, recipe: Recipe) -> str | None:
        """What of a recipe the step does not know, in words; None where it knows all."""
        raise NotImplementedError

    def savings(self, recipe: Recipe) -> tuple[str, ...]:
        """What the step of a recipe can be told to go without."""
        raise NotImplementedError

    def batches(self, recipe: Recipe) -> tuple[int, int]:
        """How many batches of real images and of z a step takes."""
        return 1, 1 + recipe.fresh_z

    def allocate(self) -> None:
        """Makes what outlives a step."""
        raise NotImplementedError

    def launch(self) -> None:
        """The step, written out."""
        raise NotImplementedError

    def own_labels(self, gan: GAN, labels: Array | None) -> Array:
        """Room for the labels of the images and of the z of a step, in this order; `every_label` keeps those of the data set."""
        classes = self.recipe.classes
        if labels is None:
            raise UserError(f"{self.recipe.name} has {classes} classes: its planned step wants the labels of the images")
        check_labels(gan.generator, labels, classes)
        launch.fit((labels.shape, (len(self.images),)))
        self.every_label = self.xp.asarray(labels).astype("int32")
        return self.xp.zeros((self.reals + self.zs) * self.batch, "int32")

    def inputs(self, real: Array, ticks: Array | None = None) -> Array:
        """Draws z and the labels, gathers real images, and counts the step of both optimizers; gives what G gets."""
        recipe, ticks = self.recipe, self.D.step if ticks is None else ticks
        how = {"draw": recipe.draw, "pixels": recipe.pixels}
        kernels.step_inputs(self.z, real, self.images, self.index, self.state, self.G.step, ticks, **how)
        if recipe.classes:
            kernels.step_labels(self.labels, self.every_label, self.index, self.state, recipe.classes, LABELS)
        return self.seen(self.z, self.reals * self.batch, self.G)

    def seen(self, x: Array, first: int, player: Player | None = None) -> Array:
        """What D, or a player, sees of x: with its labels beside it, those from the first on, where there are classes."""
        join = (player or self.D).beside
        return join.join(x, self.labels[first : first + len(x)]) if join else x

    def judge(self, x: Array, real: int, *terms, groups: int = 1, row: int = 0, **how) -> tuple[list[Trace], list[Array]]:
        """D's forward of x with its loss: what backward needs, and the gradients of the highest product or two."""
        return self.say(*forward(self.D.blocks[:-1], x, groups, row=row), real, *terms, **how)

    def say(self, y: Array, cache: list[Trace], real: int, *terms, **how) -> tuple[list[Trace], list[Array]]:
        """The end of `judge`: the scores of y, which the blocks below the last have made, and the loss."""
        *under, last = self.D.blocks
        if under and not under[-1].norm and not under[-1].drop:
            how |= {"act": under[-1].act, "slope": under[-1].slope, "dx": True}
        b, probability = last.layer.params.get("b"), isinstance(self.objective, BCE)
        _, *dzs = kernels.head(y, last.w, self.said, self.state, real, *terms, b, probability=probability, **how)
        return [*cache, Trace(y)], dzs

    def discriminator_gradient(self, cache: list[Trace], dzs: list[Array], first: int = 0) -> None:
        """D's, from what `judge` gives for samples whose labels are those from the first on."""
        D, idle = self.D, self.idle is not None
        self.sweep(cache, dzs, D.gradient, NOWHERE if idle or isinstance(D.beside, Plane) else None, first)

    def through_discriminator(self, cache: list[Trace], dzs: list[Array], fake: Array) -> Array:
        """The gradient of G's last product, through D from what `judge` gives for its images, the last of the step."""
        last = self.G.blocks[-1]
        if not self.D.beside:
            return self.sweep(cache, dzs, self.idle, (last.act, last.slope, fake))
        dx = self.sweep(cache, dzs, self.idle, NOWHERE, -len(fake))
        return kernels.condition_dx(dx, fake, last.act, last.slope)

    def sweep(self, cache: list[Trace], dzs: list[Array], gradient: Gradient | None, below: tuple | None, first: int = 0):
        """`backward` through D, and as far as what it has learnt of its labels; the gradient has the shape of what D saw."""
        dx, y = backward(self.D.blocks, cache, dzs, gradient, below), cache[0].x
        if dx is not None:
            dx = dx.reshape(y.shape)
        if gradient is not None and isinstance(self.D.beside, Plane):
            self.D.beside.add(gradient, dx, y, self.labels[first:][: len(y)])
        return dx

    def feed(self, index: np.ndarray) -> None:
        """Which images make the next batches: (batches, images of a step) of integers."""
        launch.fit((index.shape, self.index.shape))
        self.index[...] = self.xp.asarray(index.astype(np.int32))

    def run(self) -> None:
        """Trains once."""
        self.plan.run()

    def finish(self) -> None:
        """Tells the optimizers how many steps they have taken, so that training can go on without the plan."""
        for player in (self.G, self.D):
            player.optimizer.t = int(player.step[0])

    def metrics(self) -> dict[str, float]:
        """What the last step said."""
        return self.history(1)[-1]

    def history(self, steps: int) -> list[dict[str, float]]:
        """What the last steps said, oldest first: at most as many as are fed at a time."""
        said, done = to_host(self.said), int(self.state[1])
        return [self.named(said[step % len(said)]) for step in range(done - steps, done)]

    def named(self, row: np.ndarray) -> dict[str, float]:
        """A row of `said`, as GAN.train_step would say it."""
        return dict(zip(self.said_names, map(float, row)))


class PlannedStep(Planned):
    """The step of a DCGAN and its relatives: D moves, and then G. See the head of the file."""

    def unsupported(self, recipe):
        known = {
            "a penalty": recipe.penalty is None,
            "clipped weights": recipe.clip is None,
            "another order of updates": recipe.first == "discriminator",
            "several critic steps": critic_steps(recipe) == {1},
        }
        return next((what for what, fine in known.items() if not fine), None)

    def savings(self, recipe):
        return ("idle gradients",) if recipe.joint else ("joint pass", "idle gradients")

    def allocate(self):
        self.x = self.xp.empty(((1 + self.zs) * self.batch, *self.images.shape[1:]), self.dtype)  # real, fake, and G's own fake

    def launch(self) -> None:
        B, recipe, G = self.batch, self.recipe, self.G.blocks
        fake, own = self.x[B : 2 * B], self.x[-B:]
        z = self.inputs(self.x[:B])
        train = recipe.train_fakes if recipe.fresh_z else recipe.train_generator
        _, g_cache = forward(G, z[:B], out=fake, train=train)
        seen = self.seen(self.x[: 2 * B], 0)
        if "joint pass" in self.without:
            self.discriminator_apart(seen)
        else:
            self.discriminator_joint(seen)
        if recipe.fresh_z:
            _, g_cache = forward(G, z[B:], out=own, train=recipe.train_generator, row=B)
            seen = self.seen(own, 2 * B)
        d_cache, dzs = self.judge(seen[-B:], B, self.sides[2], None, row=2 * B, column=3)
        dz = self.through_discriminator(d_cache, dzs, own)
        backward(G, g_cache, [dz], self.G.gradient)
        self.G.move(tick=self.state[1:])

    def discriminator_joint(self, x: Array) -> None:
        """D's step on real and fake in one pass, with statistics of each half; in a joint recipe they and the mean are of all."""
        B, joint = self.batch, self.recipe.joint
        how = {"groups": 1, "weight": 0.5} if joint else {"groups": 2}
        cache, dzs = self.judge(x, B, *self.sides[:2], **how)
        self.discriminator_gradient(cache, dzs)
        self.D.move()

    def discriminator_apart(self, x: Array) -> None:
        """The same in two passes, whose gradients add."""
        B, (real, fake, _) = self.batch, self.sides
        cache, dzs = self.judge(x[:B], B, real, None)
        self.discriminator_gradient(cache, dzs)
        cache, dzs = self.judge(x[B:], 0, None, fake, row=B, add=True)
        self.discriminator_gradient(cache, dzs, first=B)
        self.D.move()
