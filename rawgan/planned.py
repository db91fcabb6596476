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

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import numpy as np

from rawgan.backend import Array, array_module, to_host
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.kernels import kernels, launch
from rawgan.kernels.adam import slice_table
from rawgan.kernels.moments import Moments, Sums
from rawgan.kernels.norm_act import norm_act, norm_dx
from rawgan.kernels.plan import Plan
from rawgan.layers import BatchNorm, Conv2d, ConvTranspose2d, Flatten, LeakyReLU, Linear, ReLU, Reshape, Sequential, Sigmoid, Tanh
from rawgan.losses import BCE, Hinge, LeastSquares, Objective, Wasserstein
from rawgan.models.recipes import Recipe
from rawgan.optim import Adam, Optimizer, RMSprop
from rawgan.parallel import ALONE

ACTS = {ReLU: "relu", LeakyReLU: "leaky_relu", Tanh: "tanh", Sigmoid: "sigmoid"}
PRECISIONS = {"fp32": ("float32", "tf32x3"), "tf32": ("float32", "tf32"), "bf16": ("uint16", "ieee")}  # arrays, products
SAID = ("d_loss", "d_real", "d_fake", "g_loss")  # columns of the ring of metrics, and two that nobody reads


@dataclass
class Block:
    """A product of a network with the BatchNorm and the activation that follow it: what the kernels do together."""

    layer: Conv2d | ConvTranspose2d | Linear
    name: str  # of the layer's parameters, "3."
    shape: tuple[int, ...]  # of a sample that comes in
    precision: str
    norm: BatchNorm | None = None
    norm_name: str = ""
    act: str | None = None
    slope: float = 0.0
    w: Array | None = None  # in the precision of the arrays
    end: tuple[int, ...] = field(init=False)  # of a sample that goes out

    def __post_init__(self):
        layer = self.layer
        if isinstance(layer, Linear):
            self.end = (layer.K,)
        elif isinstance(layer, ConvTranspose2d):
            self.end = (*layer.output_size(*self.shape[:2]), layer.C)
            self.pad = layer.same_pads(*self.end[:2])
        else:
            self.pad = layer.same_pads(*self.shape[:2])
            sizes = zip(self.shape, layer.kernel, layer.stride, self.pad)
            self.end = (*((n + sum(p) - k) // s + 1 for n, k, s, p in sizes), layer.K)

    def product(self, x: Array, **how) -> Array:
        """The layer's own map of x."""
        x, b, layer = x.reshape(len(x), *self.shape), self.layer.params.get("b"), self.layer
        if isinstance(layer, Linear):
            return kernels.linear(x, self.w, b, precision=self.precision, **how)
        if isinstance(layer, Conv2d):
            return kernels.conv2d(x, self.w, b, layer.stride, self.pad, precision=self.precision, **how)
        return kernels.conv2d_dx(x, self.w, self.end[:2], layer.stride, self.pad, b=b, precision=self.precision, **how)

    def tangent(self, ddx: Array, **how) -> Array:
        """The layer's map without its bias: what it makes of a change of x."""
        x, layer = ddx.reshape(len(ddx), *self.shape), self.layer
        if isinstance(layer, Linear):
            return kernels.linear(x, self.w, precision=self.precision, **how)
        return kernels.conv2d(x, self.w, None, layer.stride, self.pad, precision=self.precision, **how)

    def adjoint(self, dy: Array, **how) -> Array:
        """The gradient of what comes in."""
        layer = self.layer
        if isinstance(layer, Linear):
            return kernels.linear_dx(dy, self.w, precision=self.precision, **how)
        if isinstance(layer, Conv2d):
            return kernels.conv2d_dx(dy, self.w, self.shape[:2], layer.stride, self.pad, precision=self.precision, **how)
        return kernels.conv2d(dy, self.w, None, layer.stride, self.pad, precision=self.precision, **how)

    def weight_gradient(self, x: Array, dy: Array, slices: Array | bool) -> Array:
        """The slices of dw."""
        x, layer = x.reshape(len(x), *self.shape), self.layer
        if isinstance(layer, Linear):
            return kernels.linear_dw(x, dy, precision=self.precision, slices=slices)
        x, dy = (x, dy) if isinstance(layer, Conv2d) else (dy, x)
        return kernels.conv2d_dw(x, dy, layer.kernel, layer.stride, self.pad, precision=self.precision, slices=slices)


def blocks(net: Sequential, shape: tuple[int, ...], precision: str) -> list[Block]:
    """The network as blocks, for samples of a shape. Raises UserError, naming the layer, where it cannot be cut so."""
    found: list[Block] = []
    for i, layer in enumerate(net.layers):
        last = found[-1] if found else None
        if isinstance(layer, Conv2d | ConvTranspose2d | Linear):
            found.append(Block(layer, f"{i}.", shape, precision))
            shape = found[-1].end
        elif isinstance(layer, Reshape):
            shape = layer.shape
        elif isinstance(layer, Flatten):
            shape = (prod(shape),)
        elif isinstance(layer, BatchNorm) and last and not last.norm and not last.act and not isinstance(last.layer, Linear):
            last.norm, last.norm_name = layer, f"{i}."
        elif type(layer) in ACTS and last and not last.act:
            last.act, last.slope = ACTS[type(layer)], getattr(layer, "slope", 0.0)
        else:
            raise UserError(
                f"the planned step cannot take {layer.label}: it wants products, each followed by BatchNorm and one activation"
            )
    for below, above in pairwise(found):
        if below.norm and isinstance(above.layer, Linear):
            raise UserError(f"the planned step cannot take {below.norm.label} below a Linear")
    return found


class Gradient:
    """The gradient of a network: for each parameter the slices in which it is computed, which the optimizer adds.

    First the slices are counted, and nothing is kept; then there is room for them.
    """

    def __init__(self, parameters):
        self.parameters, self.flat, self.parts, self.counts = parameters, None, {}, dict.fromkeys(parameters.shapes, 1)

    def allocate(self) -> Array:
        """Makes room for the slices that were counted; returns the table that kernels.adam takes."""
        rows, theta, start = [], 0, 0
        for name, shape in self.parameters.shapes.items():
            size = prod(shape)
            rows.append((theta, size, start, self.counts[name]))
            self.parts[name] = start, self.counts[name], shape
            theta, start = theta + size, -(-(start + size * self.counts[name]) // 64) * 64
        self.flat = array_module(self.parameters.flat).zeros(start, "float32")
        return self.parameters.device.asarray(slice_table(rows))

    def slices(self, name: str) -> Array | bool:
        """Where the slices of a parameter go."""
        if self.flat is None:
            return True
        start, count, shape = self.parts[name]
        return self.flat[start : start + count * prod(shape)].reshape(count, *shape)

    def vector(self, name: str) -> Array | None:
        """Where a gradient goes that is not split."""
        return None if self.flat is None else self.slices(name)[0]

    def add(self, block: Block, x: Array, dy: Array, biased: int | None = None) -> None:
        """The gradients of a block's weight, and of its bias, which only the first `biased` samples reach."""
        self.counts[block.name + "w"] = len(block.weight_gradient(x, dy, self.slices(block.name + "w")))
        if "b" in block.layer.params:
            kernels.bias_db(dy[:biased], out=self.vector(block.name + "b"))


def forward(net: list[Block], x: Array, groups: int = 1, out: Array | None = None) -> tuple[Array, list[tuple]]:
    """The network's output, in `out` if given, and what backward needs of each block: x, z and stats of BatchNorm, the output."""
    cache = []
    for i, block in enumerate(net):
        where = {"out": out} if i == len(net) - 1 and out is not None else {}
        if block.norm:
            p, b = block.norm.params, block.norm.buffers
            norm = Moments(p["gamma"], p["beta"], b["running_mean"], b["running_var"], block.norm.eps, block.norm.momentum, groups)
            z = block.product(x, norm=norm)
            y = norm_act(z, norm.stats, block.act, block.slope, **where)
            cache.append((x, z, norm.stats, y))
        else:
            y = block.product(x, act=block.act, slope=block.slope, **where)
            cache.append((x, None, None, y))
        x = y
    return x, cache


def backward(
    net: list[Block], cache: list[tuple], dz: Array, gradient: Gradient | None, below: tuple | None = None
) -> Array | None:
    """One sweep down, from the gradient dz of the highest product. `gradient` takes those of the parameters, if any are wanted.

    below: act, slope and output of what made the network's input: then the gradient before that activation is returned.
    """
    for i in reversed(range(len(net))):
        block, x = net[i], cache[i][0]
        if gradient is not None:
            gradient.add(block, x, dz)
        if i == 0:
            if below is None:
                return None
            act, slope, v = below
            return block.adjoint(dz, act=act, slope=slope, v=v)
        under, (_, z, stats, y) = net[i - 1], cache[i - 1]
        if under.norm:
            names = (under.norm_name + "gamma", under.norm_name + "beta")
            dgamma, dbeta = (gradient.vector(name) for name in names) if gradient is not None else (None, None)
            sums = Sums(z, stats, dgamma, dbeta)
            through = block.adjoint(dz, norm=sums, act=under.act, slope=under.slope)
            dz = norm_dx(through, z, stats, sums.means)
        else:
            v = y if isinstance(block.layer, Conv2d | ConvTranspose2d) else y.reshape(len(y), -1)
            dz = block.adjoint(dz, act=under.act, slope=under.slope, v=v) if under.act else block.adjoint(dz)
            dz = dz.reshape(y.shape)
    return None


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
    raise UserError(f"the planned step does not know the objective {objective}")


class Player:
    """A network with what moves it, as the kernels take them."""

    def __init__(self, net: Sequential, optimizer: Optimizer, shape: tuple[int, ...], precision: str):
        dtype, products = PRECISIONS[precision]
        self.optimizer, self.parameters = optimizer, optimizer.parameters
        self.blocks = blocks(net, shape, products)
        self.low = None if dtype == "float32" else to_bfloat16(self.parameters.flat)
        views = self.parameters.views(self.parameters.flat if self.low is None else self.low)
        for block in self.blocks:
            block.w = views[block.name + "w"]
        self.gradient = Gradient(self.parameters)
        self.step, self.lr = optimizer.clock()
        self.table: Array | None = None
        self.ranks = ALONE

    def move(self, tick: Array | None = None) -> None:
        """One step of the optimizer, from the slices of the gradient; of several ranks from the mean of their sums."""
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

    images (n, H, W, C) uint8, where the networks live; `batches` rows of `index` are fed at a time. Of several ranks each has a
    plan of its own part of the batch, in which the gradients are averaged. Raises UserError for a recipe or a network that cannot
    be planned.
    """

    said_names: tuple[str, ...]  # what stands in a row of the metrics
    reals = 1  # real batches of a step

    def __init__(
        self, gan: GAN, recipe: Recipe, images: Array, batch: int, seed: int = 0, precision: str = "fp32", batches: int = 50
    ):
        if why := self.unsupported(recipe):
            raise UserError(f"{recipe.name} has {why}, which the planned step does not know yet")
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r} is not known; choose {', '.join(PRECISIONS)}")
        if gan.synchronised:
            raise UserError("the planned step does not synchronise BatchNorm between processes: its statistics are local")
        self.recipe, self.images, self.batch, self.objective = recipe, images, batch, gan.objective
        self.sides, self.dtype = sides(gan.objective), PRECISIONS[precision][0]
        self.xp = array_module(images, gan.generator_optimizer.parameters.flat)
        self.G = Player(gan.generator, gan.generator_optimizer, (recipe.z,), precision)
        self.D = Player(gan.discriminator, gan.discriminator_optimizer, images.shape[1:], precision)
        head = self.D.blocks[-1]
        if prod(head.end) != 1 or head.norm or head.act or "b" in head.layer.params:
            raise UserError(f"the planned step wants a discriminator that ends in one score without bias, not {head.layer.label}")
        self.allocate()
        self.index = self.xp.zeros((batches, self.reals * batch), "int32")
        self.state = self.xp.array([seed ^ gan.ranks.rank, 0], "int64")  # every rank draws z of its own
        self.said = self.xp.zeros((batches, len(self.said_names) + 2), "float32")
        with launch.record(dry=True):  # counts the slices of the weight gradients
            self.launch()
        for player in (self.G, self.D):
            player.table, player.ranks = player.gradient.allocate(), gan.ranks
        with launch.record(dry=True) as recording:
            self.launch()
        self.plan = Plan(recording)

    def unsupported(self, recipe: Recipe) -> str | None:
        """What of a recipe the step does not know, in words; None where it knows all."""
        known = {
            "clipped weights": recipe.clip is None,
            "classes": not recipe.classes,
            "another order of updates": recipe.first == "discriminator" and not recipe.joint,
            "fakes in inference mode": recipe.train_fakes and recipe.train_generator,
        }
        return next((what for what, fine in known.items() if not fine), None)

    def allocate(self) -> None:
        """Makes what outlives a step."""
        raise NotImplementedError

    def launch(self) -> None:
        """The step, written out."""
        raise NotImplementedError

    def judge(self, x: Array, groups: int, real: int, *terms, **how) -> tuple[list[tuple], tuple[Array, ...]]:
        """D's forward of x with its loss: what backward needs, and what kernels.head gives after the scores."""
        *body, last = self.D.blocks
        y, cache = forward(body, x, groups)
        probability = isinstance(self.objective, BCE)
        _, *gradients = kernels.head(y, last.w, self.said, self.state, real, *terms, probability=probability, **how)
        return [*cache, (y, None, None, None)], gradients

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
        row = to_host(self.said)[(int(self.state[1]) - 1) % len(self.said)]
        return dict(zip(self.said_names, map(float, row)))


class PlannedStep(Planned):
    """The step of a DCGAN and its relatives. See the head of the file."""

    said_names = ("d_loss", "d_real", "d_fake", "g_loss")

    def unsupported(self, recipe):
        if recipe.penalty is not None:
            return "a penalty"
        if why := super().unsupported(recipe):
            return why
        one = not recipe.fresh_z and recipe.critic_steps(0) == recipe.critic_steps(1) == 1
        return None if one else "several critic steps"

    def allocate(self):
        self.z = self.xp.empty((self.batch, self.recipe.z), self.dtype)
        self.x = self.xp.empty((2 * self.batch, *self.images.shape[1:]), self.dtype)

    def launch(self) -> None:
        B, (real, fake, generator) = self.batch, self.sides
        how = {"draw": self.recipe.draw, "pixels": self.recipe.pixels}
        kernels.step_inputs(self.z, self.x[:B], self.images, self.index, self.state, self.G.step, self.D.step, **how)
        _, g_cache = forward(self.G.blocks, self.z, out=self.x[B:])
        d_cache, (dscore,) = self.judge(self.x, 2, B, real, fake)
        backward(self.D.blocks, d_cache, dscore, self.D.gradient)
        self.D.move()
        d_cache, (dscore,) = self.judge(self.x[B:], 1, B, generator, None, column=3)
        last = self.G.blocks[-1]
        dz = backward(self.D.blocks, d_cache, dscore, None, below=(last.act, last.slope, self.x[B:]))
        backward(self.G.blocks, g_cache, dz, self.G.gradient)
        self.G.move(tick=self.state[1:])
