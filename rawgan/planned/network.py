"""A network in a planned step as fused blocks: linear map, BatchNorm, activation, Dropout.

    fused_blocks(net, shape, precision)   in fuse.py: groups the layers
    forward(net, x)                       output, and the BlockCache of each block
    backward(net, cache, dzs, gradient)   the gradients of the parameters, and that of the input
    backward_maps(net, cache, dzs, gradient)   the same, but for the input
    map_gradients(net, cache, dzs)        the gradient of each block's linear map, from the last

A block's activation derivative and gradient statistics of BatchNorm are computed in the epilogue of
the input gradient of the next block: see FusedBlock.backward_from.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from rawgan.backend import Array
from rawgan.kernels import kernels
from rawgan.kernels.batchnorm import (
    batchnorm_apply_act,
    batchnorm_apply_dx,
    compute_batch_grad_stats,
    compute_batch_stats,
)
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.batch_stats import BatchGradStats, BatchStats
from rawgan.kernels.tile.dropout import DropoutMask
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Linear,
)
from rawgan.planned.gradient import Gradient

# Rows of the smallest tile; statistics are fused only if it divides the rows of a group
TILE_ROWS = 32


class BlockCache(NamedTuple):
    """The values of a block's forward pass that its backward pass needs.

    x              input
    z, stats       output of the linear map, and BatchNorm's statistics (None without BatchNorm)
    y              output of the block
    first_sample   row of the first sample in Dropout's mask of the step
    train          whether BatchNorm and Dropout ran in training mode
    """

    x: Array
    z: Array | None = None
    stats: Array | None = None
    y: Array | None = None
    first_sample: int = 0
    train: bool = True

    @property
    def normalised(self) -> bool:
        """Return whether the block has BatchNorm with the statistics of its batch."""
        return self.stats is not None and self.train

    def from_sample(self, n: int) -> "BlockCache":
        """Return the cache of samples n, n + 1, ... of a block without BatchNorm."""
        return self._replace(x=self.x[n:], y=self.y[n:], first_sample=self.first_sample + n)


@dataclass
class FusedBlock:
    """A linear map z = A x + b with the BatchNorm, the activation and the Dropout after it.

    in_shape, out_shape   of a sample of x and of z
    norm_shape            of a sample of z for BatchNorm: out_shape, or that of a Reshape after it
    act, slope            of the activation, None without one
    drop                  probability of Dropout, whose mask is drawn from `state`, `stream`
    """

    layer: Conv2d | ConvTranspose2d | Linear
    name: str  # prefix of the layer's parameters, "3."
    in_shape: tuple[int, ...]
    precision: str
    norm: BatchNorm | None = None
    norm_name: str = ""
    act: str | None = None
    slope: float = 0.0
    drop: float = 0.0
    w: Array | None = None  # in the dtype of the arrays
    state: Array | None = None  # (2,) int64, seed and step
    stream: int = 0  # of random numbers
    out_shape: tuple[int, ...] = field(init=False)
    norm_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self):
        layer = self.layer
        if isinstance(layer, Linear):
            self.out_shape = (layer.K,)
        elif isinstance(layer, ConvTranspose2d):
            self.out_shape = (*layer.output_size(*self.in_shape[:2]), layer.C)
            self.pad = layer.same_pads(*self.out_shape[:2])
        else:
            self.pad = layer.same_pads(*self.in_shape[:2])
            sizes = zip(self.in_shape, layer.kernel, layer.stride, self.pad)
            self.out_shape = (*((n + sum(p) - k) // s + 1 for n, k, s, p in sizes), layer.K)
        self.norm_shape = self.out_shape

    @property
    def is_dot_product(self) -> bool:
        """Return whether the map has one output, the dot product of w with the whole of x."""
        return prod(self.out_shape) == 1 and self.w.size == prod(self.in_shape)

    def crop(self, H: int, W: int) -> None:
        """Keep the first H rows and W columns of a transposed convolution: padding at the end."""
        (top, bottom), (left, right) = self.pad
        self.pad = (top, bottom + self.out_shape[0] - H), (left, right + self.out_shape[1] - W)
        self.out_shape = self.norm_shape = (H, W, self.out_shape[2])

    def forward_map(self, x: Array, out: Array | None = None, **epilogue) -> Array:
        """Return z = A x + b, (N, *norm_shape).

        epilogue: act, slope and mask, or `norm`, the statistics of z to take. out: the array to
        write to.
        """
        return self.apply_map(x, self.layer.params.get("b"), out=out, **epilogue)

    def jvp(self, ddx: Array, v: Array | None = None, **epilogue) -> Array:
        """Return A ddx, (N, *norm_shape); with v, the output of the activation f, f'(v) A ddx.

        epilogue: act and slope of f, and out, the array to write to, which may be v.
        """
        return self.apply_map(ddx, None, v=v, **epilogue)

    def apply_map(
        self,
        x: Array,
        b: Array | None,
        v: Array | None = None,
        out: Array | None = None,
        mask: DropoutMask | None = None,
        **epilogue,
    ) -> Array:
        """Return A x + b with an epilogue, (N, *norm_shape); v and out have as many numbers.

        mask: of Dropout, in the epilogue of a Linear, else in a launch of its own.
        """
        layer, x = self.layer, x.reshape(len(x), *self.in_shape)
        v, out = (a if a is None else a.reshape(len(x), *self.out_shape) for a in (v, out))
        options = {"precision": self.precision, "v": v, "out": out, **epilogue}
        if isinstance(layer, Linear):
            y = kernels.linear(x, self.w, b, **options, **self.linear_dropout(mask))
        elif isinstance(layer, Conv2d):
            y = kernels.conv2d(x, self.w, b, layer.stride, self.pad, **options)
            y = self.dropout(y, mask)
        else:
            size = self.out_shape[:2]
            y = kernels.conv2d_dx(x, self.w, size, layer.stride, self.pad, b=b, **options)
            y = self.dropout(y, mask)
        return y.reshape(len(y), *self.norm_shape)

    def input_grad(
        self, dz: Array, v: Array | None = None, mask: DropoutMask | None = None, **epilogue
    ) -> Array:
        """Return dx = A^T dz; with act, slope and the activation's output v: f'(v) A^T dz.

        mask: as in apply_map.
        """
        layer, dz = self.layer, dz.reshape(len(dz), *self.out_shape)
        v = None if v is None else v.reshape(len(v), *self.in_shape)
        options = {"precision": self.precision, "v": v, **epilogue}
        if isinstance(layer, Linear):
            return kernels.linear_dx(dz, self.w, **options, **self.linear_dropout(mask))
        if isinstance(layer, Conv2d):
            size = self.in_shape[:2]
            dx = kernels.conv2d_dx(dz, self.w, size, layer.stride, self.pad, **options)
        else:
            dx = kernels.conv2d(dz, self.w, None, layer.stride, self.pad, **options)
        return self.dropout(dx, mask)

    def add_gradients(
        self, gradient: Gradient, x: Array, dz: Array, bias_samples: int | None = None
    ) -> None:
        """Add the gradients of w and b to `gradient`: of w the split-K partial sums of Cw(x, dz).

        bias_samples: b gets the gradient of the first ones alone; None: of all.
        """
        layer, w, b = self.layer, self.name + "w", self.name + "b"
        x, dz = x.reshape(len(x), *self.in_shape), dz.reshape(len(dz), *self.out_shape)
        partials = gradient.partials(w)
        options = {"precision": self.precision, "partials": True if partials is None else partials}
        rows = len(dz) if bias_samples is None else bias_samples
        has_bias = "b" in layer.params and rows > 0
        if isinstance(layer, Linear) and has_bias:
            dw, db = kernels.linear_dw(x, dz, bias_rows=rows, db=gradient.partials(b), **options)
            gradient.advance(b, len(db))
        elif isinstance(layer, Linear):
            dw = kernels.linear_dw(x, dz, **options)
        else:
            pair = (x, dz) if isinstance(layer, Conv2d) else (dz, x)
            dw = kernels.conv2d_dw(*pair, layer.kernel, layer.stride, self.pad, **options)
            if has_bias:
                kernels.bias_db(dz[:rows], out=gradient.reserve_vector(b))
        gradient.advance(w, len(dw))

    def forward(
        self, x: Array, groups: int, train: bool, first_sample: int, **options
    ) -> BlockCache:
        """Return the cache of the block for x, with its output y.

        groups: number of groups of samples, each with its BatchNorm statistics. options: out, the
        array for y.
        """
        z = stats = None
        if self.norm:
            z, stats, y = self.normalize(x, groups, train, **options)
            y = self.dropout(y, self.mask(first_sample, train))
        else:
            options |= {"act": self.act, "slope": self.slope}
            y = self.forward_map(x, mask=self.mask(first_sample, train), **options)
        return BlockCache(x, z, stats, y, first_sample, train)

    def normalize(
        self, x: Array, groups: int, train: bool, **options
    ) -> tuple[Array, Array, Array]:
        """Return z, BatchNorm's statistics and f(BatchNorm(z))."""
        gamma, beta, mean, var = *self.norm.params.values(), *self.norm.buffers.values()
        if not train:
            z = self.forward_map(x)
            y, stats = kernels.batchnorm_infer_act(
                z, gamma, beta, mean, var, self.act, self.slope, self.norm.eps, **options
            )
            return z, stats, y
        norm = BatchStats(gamma, beta, mean, var, self.norm.eps, self.norm.momentum, groups)
        transposed = isinstance(self.layer, ConvTranspose2d)
        fused = self.fuses_statistics(self.out_shape, transposed, len(x), groups)
        if fused and self.norm_shape == self.out_shape:
            z = self.forward_map(x, norm=norm)
        else:
            z = self.forward_map(x)
            compute_batch_stats(z, norm)
        return z, norm.stats, batchnorm_apply_act(z, norm.stats, self.act, self.slope, **options)

    def fuses_statistics(
        self, image: tuple[int, ...], transposed: bool, N: int, groups: int
    ) -> bool:
        """Return whether the epilogue of the map that makes N images can take their statistics.

        The pixels of a group then fill whole tiles. A transposed map has a tile for each phase of
        its stride.
        """
        if isinstance(self.layer, Linear):
            return False
        strides = self.layer.stride if transposed else (1, 1)
        pixels = prod(launch.cdiv(n, s) for n, s in zip(image, strides))
        return groups == 1 or N // groups * pixels % TILE_ROWS == 0

    def mask(self, first_sample: int, train: bool) -> DropoutMask | None:
        """Return Dropout's mask of the samples from the first on; None where none is applied."""
        if not (train and self.drop):
            return None
        return DropoutMask(self.drop, self.stream, first_sample * prod(self.norm_shape))

    def dropout(self, y: Array, mask: DropoutMask | None) -> Array:
        """Return y, or its gradient, under a mask, in place."""
        return y if mask is None else kernels.dropout(y, self.state, *mask)

    def linear_dropout(self, mask: DropoutMask | None) -> dict:
        """Return the arguments with which the epilogue of a Linear applies a mask."""
        return {} if mask is None else {"mask": mask, "state": self.state}

    def backward_from(
        self, next_block: "FusedBlock", dz: Array, cache: BlockCache, gradient: Gradient | None
    ) -> Array:
        """Return the gradient of this block's z from dz, that of the next block.

        The gradients of gamma and beta are added to `gradient`, unless it is None.
        """
        _, z, stats, y, first_sample, train = cache
        act, mask = {"act": self.act, "slope": self.slope}, self.mask(first_sample, train)
        if not self.norm:
            v = y if self.act else None
            return next_block.input_grad(dz, v, mask=mask, **act).reshape(y.shape)
        names = [self.norm_name + name for name in ("gamma", "beta")] if gradient else []
        norm = BatchGradStats(z, stats, *map(gradient.reserve_vector, names) if gradient else ())
        fused = next_block.fuses_statistics(
            next_block.in_shape, isinstance(next_block.layer, Conv2d), len(z), norm.groups
        )
        if fused and next_block.in_shape == self.norm_shape and mask is None:
            dy = next_block.input_grad(dz, norm=norm, **act)
        else:
            dy = next_block.input_grad(dz).reshape(z.shape)
            compute_batch_grad_stats(self.dropout(dy, mask), norm, **act)
        return batchnorm_apply_dx(dy, z, stats, norm.means if train else None)

    def backward_from_score(
        self, head: "FusedBlock", dscore: Array, x: Array, cache: BlockCache,
        gradient: Gradient | None,
    ) -> Array:  # fmt: skip
        """Return the gradient of this block's z from dscore, that of the head's only output.

        x: the head's input. The gradients of the head's parameters, of gamma and of beta are added
        to `gradient`, unless it is None.
        """
        z, stats, mask = cache.z, cache.stats, self.mask(cache.first_sample, cache.train)
        options = {"mask": mask, "state": mask and self.state}
        if gradient is None:
            norm = BatchGradStats(z, stats)
        else:
            names = (self.norm_name + name for name in ("gamma", "beta"))
            norm = BatchGradStats(z, stats, *map(gradient.reserve_vector, names))
            w, b, bias = head.name + "w", head.name + "b", "b" in head.layer.params
            options |= {"x": x.reshape(z.shape), "dw": gradient.partials(w), "bias": bias}
            options |= {"db": gradient.partials(b)} if bias else {}
        act = {"act": self.act, "slope": self.slope}
        dp, dw, db = kernels.head_gradient(dscore, head.w, norm, **act, **options)
        if gradient is not None:
            gradient.advance(w, len(dw))
            if bias:
                gradient.advance(b, len(db))
        return batchnorm_apply_dx(dp, z, stats, norm.means)


def forward(
    net: list[FusedBlock],
    x: Array,
    groups: int = 1,
    out: Array | None = None,
    train: bool = True,
    first_sample: int = 0,
) -> tuple[Array, list[BlockCache]]:
    """Return the network's output, in `out` unless None, and the cache of each block."""
    cache = []
    for block in net:
        options = {"out": out} if block is net[-1] and out is not None else {}
        cache.append(block.forward(x, groups, train, first_sample, **options))
        x = cache[-1].y
    return x, cache


def map_gradients(
    net: list[FusedBlock],
    cache: list[BlockCache],
    dzs: list[Array],
    gradient: Gradient | None = None,
) -> Iterator[tuple[int, Array]]:
    """Yield (i, the gradient dz of block i's linear map), from the last block to the first.

    dzs: those of the last blocks, the last block's first. The gradients of gamma and beta are added
    to `gradient`.
    """
    dz = None
    for i in reversed(range(len(net))):
        blocks_after = len(net) - 1 - i
        if blocks_after < len(dzs):
            dz = dzs[blocks_after]
        else:
            dz = net[i].backward_from(net[i + 1], dz, cache[i], gradient)
        yield i, dz


def backward_maps(
    net: list[FusedBlock], cache: list[BlockCache], dzs: list[Array], gradient: Gradient | None
) -> Array:
    """Add the gradients of all parameters to `gradient`, from the dzs of the last linear maps.

    Returns dz of the first linear map. Without a gradient only the dzs are computed.
    """
    if len(dzs) == 1 and len(net) > 1 and net[-1].is_dot_product and cache[-2].normalised:
        (dscore,), x = dzs, cache[-1].x
        dzs = [net[-2].backward_from_score(net[-1], dscore, x, cache[-2], gradient)]
        net, cache = net[:-1], cache[:-1]
    for i, dz in map_gradients(net, cache, dzs, gradient):
        if gradient is not None:
            net[i].add_gradients(gradient, cache[i].x, dz)
    return dz


def backward(
    net: list[FusedBlock],
    cache: list[BlockCache],
    dzs: list[Array],
    gradient: Gradient | None,
    input_activation: tuple | None = None,
) -> Array | None:
    """Add the gradients of all parameters by `backward_maps`; return that of the input.

    input_activation: act, slope and output of the activation that made the network's input; the
    gradient before it is returned. None: no gradient of the input is computed.
    """
    dz = backward_maps(net, cache, dzs, gradient)
    if input_activation is None:
        return None
    act, slope, v = input_activation
    return net[0].input_grad(dz, v, act=act, slope=slope)
