"""A network as the planned steps see it: products, each with what follows it, and the gradient that the optimizer adds up.

    blocks(net, shape, precision)         cuts it
    forward(net, x)                       runs it, and keeps of each block what backward needs: its Trace
    backward(net, cache, dzs, gradient)   the sweep down; `descend` gives the gradient of each product on the way

In the sweep a block computes the gradient of its own product from that of the block above: see Block.down.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from rawgan.backend import Array, array_module
from rawgan.errors import UserError
from rawgan.kernels import kernels, launch
from rawgan.kernels.adam import slice_table
from rawgan.kernels.moments import Moments, Sums
from rawgan.kernels.norm_act import norm_act, norm_dx
from rawgan.kernels.norm_pass import moments, sums
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Crop,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Tanh,
)
from rawgan.layers.base import leaves
from rawgan.planned_labels import Hot, Plane

ACTS = {ReLU: "relu", LeakyReLU: "leaky_relu", Tanh: "tanh", Sigmoid: "sigmoid"}
ROWS = 32  # of the smallest tile of a product: the pixels of a group have to fill some, if the product is to take its statistics


class Trace(NamedTuple):
    """What backward needs of a block: what came in, z and stats of BatchNorm, what went out, the first row of Dropout's mask, and
    whether all that was as in training."""

    x: Array
    z: Array | None = None
    stats: Array | None = None
    y: Array | None = None
    row: int = 0
    train: bool = True

    def after(self, n: int) -> "Trace":
        """That of the samples from n on, where there are no statistics."""
        return self._replace(x=self.x[n:], y=self.y[n:], row=self.row + n)


@dataclass
class Block:
    """A product of a network with the BatchNorm, the activation and the Dropout that follow it."""

    layer: Conv2d | ConvTranspose2d | Linear
    name: str  # of the layer's parameters, "3."
    shape: tuple[int, ...]  # of a sample that comes in
    precision: str
    norm: BatchNorm | None = None
    norm_name: str = ""
    act: str | None = None
    slope: float = 0.0
    drop: float = 0.0
    w: Array | None = None  # in the precision of the arrays
    state: Array | None = None  # the seed and the step, from which Dropout draws,
    stream: int = 0  # in a stream of its own
    end: tuple[int, ...] = field(init=False)  # of a sample that the product makes,
    view: tuple[int, ...] = field(init=False)  # as BatchNorm sees it

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
        self.view = self.end

    def crop(self, H: int, W: int) -> None:
        """Takes the first H rows and W columns alone: a transposed convolution with more padding behind."""
        (top, bottom), (left, right) = self.pad
        self.pad = (top, bottom + self.end[0] - H), (left, right + self.end[1] - W)
        self.end = self.view = (H, W, self.end[2])

    def product(self, x: Array, out: Array | None = None, **how) -> Array:
        """The layer's own map of x."""
        x, b, layer = x.reshape(len(x), *self.shape), self.layer.params.get("b"), self.layer
        how |= {"precision": self.precision, "out": None if out is None else out.reshape(len(x), *self.end)}
        if isinstance(layer, Linear):
            y = kernels.linear(x, self.w, b, **how)
        elif isinstance(layer, Conv2d):
            y = kernels.conv2d(x, self.w, b, layer.stride, self.pad, **how)
        else:
            y = kernels.conv2d_dx(x, self.w, self.end[:2], layer.stride, self.pad, b=b, **how)
        return y.reshape(len(y), *self.view)

    def tangent(self, ddx: Array, **how) -> Array:
        """The layer's map without its bias: what it makes of a change of x."""
        x, layer = ddx.reshape(len(ddx), *self.shape), self.layer
        if isinstance(layer, Linear):
            return kernels.linear(x, self.w, precision=self.precision, **how)
        return kernels.conv2d(x, self.w, None, layer.stride, self.pad, precision=self.precision, **how)

    def adjoint(self, dy: Array, v: Array | None = None, **how) -> Array:
        """The gradient of what comes in."""
        layer, dy = self.layer, dy.reshape(len(dy), *self.end)
        how |= {"precision": self.precision, "v": None if v is None else v.reshape(len(v), *self.shape)}
        if isinstance(layer, Linear):
            return kernels.linear_dx(dy, self.w, **how)
        if isinstance(layer, Conv2d):
            return kernels.conv2d_dx(dy, self.w, self.shape[:2], layer.stride, self.pad, **how)
        return kernels.conv2d(dy, self.w, None, layer.stride, self.pad, **how)

    def weight_gradient(self, x: Array, dy: Array, slices: Array | bool) -> Array:
        """The slices of dw."""
        x, dy, layer = x.reshape(len(x), *self.shape), dy.reshape(len(dy), *self.end), self.layer
        if isinstance(layer, Linear):
            return kernels.linear_dw(x, dy, precision=self.precision, slices=slices)
        x, dy = (x, dy) if isinstance(layer, Conv2d) else (dy, x)
        return kernels.conv2d_dw(x, dy, layer.kernel, layer.stride, self.pad, precision=self.precision, slices=slices)

    def forward(self, x: Array, groups: int, train: bool, row: int, **where) -> Trace:
        """The block's output for x, samples `row` and following of the step, in groups with statistics of their own."""
        z = stats = None
        if self.norm:
            z, stats, y = self.normalize(x, groups, train, **where)
        else:
            y = self.product(x, act=self.act, slope=self.slope, **where)
        return Trace(x, z, stats, self.dropped(y, row) if train else y, row, train)

    def normalize(self, x: Array, groups: int, train: bool, **where) -> tuple[Array, Array, Array]:
        """The product z, the statistics, and the activation of BatchNorm of it."""
        gamma, beta, mean, var = *self.norm.params.values(), *self.norm.buffers.values()
        if not train:
            z = self.product(x)
            y, stats = kernels.running_act(z, gamma, beta, mean, var, self.act, self.slope, self.norm.eps, **where)
            return z, stats, y
        norm = Moments(gamma, beta, mean, var, self.norm.eps, self.norm.momentum, groups)
        if self.view == self.end and self.leaves_statistics(self.end, isinstance(self.layer, ConvTranspose2d), len(x), groups):
            z = self.product(x, norm=norm)
        else:
            z = self.product(x)
            moments(z, norm)
        return z, norm.stats, norm_act(z, norm.stats, self.act, self.slope, **where)

    def leaves_statistics(self, image: tuple[int, ...], transposed: bool, N: int, groups: int) -> bool:
        """Whether the product that makes N images, in so many groups, can take their statistics on the way."""
        if isinstance(self.layer, Linear):
            return False
        strides = self.layer.stride if transposed else (1, 1)
        return groups == 1 or N // groups * prod(launch.cdiv(n, s) for n, s in zip(image, strides)) % ROWS == 0

    def dropped(self, y: Array, row: int) -> Array:
        """y or its gradient under Dropout's mask of samples `row` and following, in its place."""
        return kernels.dropout(y, self.state, self.drop, self.stream, row * prod(y.shape[1:])) if self.drop else y

    def down(self, above: "Block", dz: Array, trace: Trace, gradient: "Gradient | None") -> Array:
        """The gradient of this block's product from dz, that of the product above it."""
        _, z, stats, y, row, train = trace
        how = {"act": self.act, "slope": self.slope}
        if not self.norm:
            dz = above.adjoint(dz, y if self.act else None, **how).reshape(y.shape)
            return self.dropped(dz, row) if train else dz
        vectors = (gradient.vector(self.norm_name + name) for name in ("gamma", "beta")) if gradient else ()
        norm, drop = Sums(z, stats, *vectors), train and self.drop
        fused = above.leaves_statistics(above.shape, isinstance(above.layer, Conv2d), len(z), norm.groups)
        if fused and above.shape == self.view and not drop:
            da = above.adjoint(dz, norm=norm, **how)
        else:
            da = above.adjoint(dz).reshape(z.shape)
            sums(self.dropped(da, row) if train else da, norm, **how)
        return norm_dx(da, z, stats, norm.means if train else None)


def blocks(
    net: Sequential, shape: tuple[int, ...], precision: str, labels: Hot | Plane | None = None, positive: bool = False
) -> list[Block]:
    """The network as blocks, for samples of a shape, with what its first layer puts beside them, if that is `labels`.

    positive: no number that comes in is below 0, so that a ReLU or LeakyReLU before the first product changes nothing. Raises
    UserError, naming the layer, where the network cannot be cut so.
    """
    found: list[Block] = []
    for i, layer in enumerate(net.layers):
        last = found[-1] if found else None
        bare = last and not last.norm and not last.act and not last.drop
        if isinstance(layer, Conv2d | ConvTranspose2d | Linear):
            found.append(Block(layer, f"{i}.", shape, precision))
            shape = found[-1].end
        elif isinstance(layer, Reshape | Flatten):
            shape = layer.shape if isinstance(layer, Reshape) else (prod(shape),)
            if bare:
                last.view = shape
        elif isinstance(layer, BatchNorm) and bare:
            last.norm, last.norm_name = layer, f"{i}."
        elif type(layer) in ACTS and last and not last.act and not last.drop:
            last.act, last.slope = ACTS[type(layer)], getattr(layer, "slope", 0.0)
        elif isinstance(layer, ReLU | LeakyReLU) and not last and positive:
            continue
        elif isinstance(layer, Dropout) and last and not last.drop and (last.norm or last.act in ("relu", "leaky_relu", None)):
            last.drop = layer.p
        elif isinstance(layer, Crop) and last and isinstance(last.layer, ConvTranspose2d) and not last.norm and shape == last.end:
            last.crop(layer.H, layer.W)
            shape = last.end
        elif i == 0 and labels:
            shape = (*shape[:-1], shape[-1] + labels.width)
        else:
            label = leaves(layer)[-1][1].label
            raise UserError(
                f"the planned step cannot take {label}: it wants products, each followed by BatchNorm, one activation and Dropout"
            )
    return found


class Gradient:
    """The gradient of a network: for each parameter the slices in which it is computed, which the optimizer adds.

    A parameter may get several parts before the optimizer moves it. First the slices of each are counted, and nothing is kept;
    after `allocate` there is room for them.
    """

    def __init__(self, parameters):
        self.parameters, self.flat, self.starts = parameters, None, {}
        self.counts: dict[str, list[int]] = {}  # of the slices of each part of a parameter
        self.taken: dict[str, list[int]] = defaultdict(list)  # those since the optimizer moved

    def allocate(self) -> Array:
        """Makes room for the slices that were counted; returns the table that kernels.adam takes."""
        rows, theta, start = [], 0, 0
        for name, shape in self.parameters.shapes.items():
            size, count = prod(shape), sum(self.counts[name])
            rows.append((theta, size, start, count))
            self.starts[name] = start
            theta, start = theta + size, -(-(start + size * count) // 64) * 64
        self.flat = array_module(self.parameters.flat).zeros(start, "float32")
        return self.parameters.device.asarray(slice_table(rows))

    def added(self) -> dict[str, Array]:
        """The gradient of each parameter: its slices added."""
        found = {}
        for name, shape in self.parameters.shapes.items():
            start, count = self.starts[name], sum(self.counts[name])
            found[name] = self.flat[start : start + count * prod(shape)].reshape(count, *shape).sum(0)
        return found

    def close(self) -> None:
        """The optimizer has moved: what comes next is the first part again."""
        self.counts, self.taken = dict(self.taken), defaultdict(list)

    def room(self, name: str) -> Array | bool:
        """Where the slices of the next part of a parameter go."""
        if self.flat is None:
            return True
        i, shape = len(self.taken[name]), self.parameters.shapes[name]
        start, count = self.starts[name] + sum(self.counts[name][:i]) * prod(shape), self.counts[name][i]
        return self.flat[start : start + count * prod(shape)].reshape(count, *shape)

    def part(self, name: str, count: int) -> Array | None:
        """Where the next part goes, which is so many slices."""
        room = self.room(name)
        self.taken[name].append(count)
        return None if self.flat is None else room

    def vector(self, name: str) -> Array | None:
        """Where a part goes that is one slice."""
        part = self.part(name, 1)
        return None if part is None else part[0]

    def add(self, block: Block, x: Array, dy: Array, biased: int | None = None) -> None:
        """The gradients of a block's weight, and of its bias, which only the first `biased` samples reach."""
        name = block.name + "w"
        self.taken[name].append(len(block.weight_gradient(x, dy, self.room(name))))
        if "b" in block.layer.params and biased != 0:
            kernels.bias_db(dy.reshape(len(dy), *block.end)[:biased], out=self.vector(block.name + "b"))


def forward(
    net: list[Block], x: Array, groups: int = 1, out: Array | None = None, train: bool = True, row: int = 0
) -> tuple[Array, list[Trace]]:
    """The network's output, in `out` if given, and the trace of each block; see Block.forward."""
    cache = []
    for block in net:
        where = {"out": out} if block is net[-1] and out is not None else {}
        cache.append(block.forward(x, groups, train, row, **where))
        x = cache[-1].y
    return x, cache


def descend(
    net: list[Block], cache: list[Trace], dzs: list[Array], gradient: Gradient | None = None
) -> Iterator[tuple[int, Array]]:
    """(i, the gradient of the product of block i) from the highest to the lowest, of which dzs are the first ones; that of gamma
    and beta goes to `gradient`."""
    dz = None
    for i in reversed(range(len(net))):
        known = len(net) - 1 - i
        dz = dzs[known] if known < len(dzs) else net[i].down(net[i + 1], dz, cache[i], gradient)
        yield i, dz


def backward(
    net: list[Block], cache: list[Trace], dzs: list[Array], gradient: Gradient | None, below: tuple | None = None
) -> Array | None:
    """One sweep down, from the gradients of the highest products. `gradient` takes those of the parameters, if any are wanted.

    below: act, slope and output of what made the network's input: then the gradient before that activation is returned.
    """
    for i, dz in descend(net, cache, dzs, gradient):
        if gradient is not None:
            gradient.add(net[i], cache[i].x, dz)
    if below is None:
        return None
    act, slope, v = below
    return net[0].adjoint(dz, v, act=act, slope=slope)
