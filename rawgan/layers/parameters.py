"""One flat buffer for all the parameters of a network."""

from math import prod

import numpy as np

from rawgan.backend import CPU, Array, Device, array_module, to_host
from rawgan.errors import UserError
from rawgan.layers.base import Grads, Layer, leaves


class Parameters:
    """All parameters of a network end to end in `flat`; the layers hold views of it.

    So the optimizer, clipping, averaging, an all-reduce or a check for NaN is one pass over one array. Making it moves the
    network (running statistics too) to a device and a dtype.
    """

    def __init__(self, net: Layer, device: Device = CPU, dtype=np.float32):
        self.net, self.device = net, device
        if len({id(leaf) for _, leaf in leaves(net)}) < len(leaves(net)):
            raise ValueError("a layer stands in the network twice: sharing weights is not supported, make two layers")
        self.shapes = {name: p.shape for name, p in net.params.items()}
        host = np.concatenate([np.ravel(to_host(p)) for p in net.params.values()]) if self.shapes else np.zeros(0)
        self.flat = device.asarray(host.astype(dtype))
        views = self.views(self.flat)
        for path, leaf in leaves(net):
            leaf.dtype = np.dtype(dtype)
            leaf.params = {name: views[f"{path}.{name}".lstrip(".")] for name in leaf.params}
            leaf.buffers = {name: device.asarray(to_host(b).astype(dtype)) for name, b in leaf.buffers.items()}

    def views(self, flat: Array) -> dict[str, Array]:
        """The parts of a flat vector under the parameters' names and in their shapes, without a copy."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            views[name] = flat[start : start + prod(shape)].reshape(shape)
            start += prod(shape)
        return views

    def gather(self, *passes: Grads) -> Array:
        """The gradients of several backward passes, added up, as one flat vector; a parameter that a pass lacks counts as 0."""
        xp, parts = array_module(self.flat), []
        for name, shape in self.shapes.items():
            first, *more = [grads[name] for grads in passes if name in grads] or [xp.zeros(shape, self.flat.dtype)]
            for g in more:
                first = first + g
            parts.append(first.ravel())
        return xp.concatenate(parts) if parts else xp.empty_like(self.flat)

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Sets parameters and running statistics from host arrays by name.

        Raises UserError, changing nothing, unless names and shapes are exactly this network's.
        """
        here = {**self.net.params, **self.net.buffers}
        for name in sorted(here.keys() ^ arrays.keys()):
            raise UserError(
                f"the weights do not fit this network: {name} is only in {'the network' if name in here else 'the file'}"
            )
        for name, a in here.items():
            if a.shape != arrays[name].shape:
                raise UserError(f"the weights do not fit this network: {name} is {arrays[name].shape}, wanted {a.shape}")
        for name, a in here.items():
            a[...] = array_like(a, arrays[name])


def array_like(like: Array, host: np.ndarray) -> Array:
    """host with the dtype of `like`, where `like` lives."""
    return array_module(like).asarray(host.astype(like.dtype))
