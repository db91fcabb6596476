"""Flat buffers: one for all the parameters of a network, one for its running statistics."""

from math import prod

import numpy as np

from rawgan.backend import CPU, Array, Device, array_module, to_host
from rawgan.cpu import limit_blas_threads
from rawgan.errors import UserError
from rawgan.layers.base import Grads, Layer, leaves


class Parameters:
    """All parameters of a network in one vector `flat`, and all its buffers in `flat_buffers`.

    The layers hold views of both, so that the optimizer, clipping, averaging, an all-reduce or a
    check for NaN is one pass over one array. The constructor moves the network to a device and a
    dtype. It also limits BLAS to one thread, in the whole process: the rounding of matrix products
    depends on the number of threads, and this is where every network that computes is made.
    """

    def __init__(self, net: Layer, device: Device = CPU, dtype=np.float32):
        self.net, self.device = net, device
        limit_blas_threads()
        if len({id(leaf) for _, leaf in leaves(net)}) < len(leaves(net)):
            raise ValueError(
                "a layer stands in the network twice: sharing weights is not supported, make "
                "two layers"
            )
        self.shapes, self.flat = _flattened(net.params, device, dtype)
        shapes, self.flat_buffers = _flattened(net.buffers, device, dtype)
        views, buffers = self.views(self.flat), _split(self.flat_buffers, shapes)
        for path, leaf in leaves(net):
            leaf.dtype = np.dtype(dtype)
            leaf.params = {name: views[f"{path}.{name}".lstrip(".")] for name in leaf.params}
            leaf.buffers = {name: buffers[f"{path}.{name}".lstrip(".")] for name in leaf.buffers}

    def views(self, flat: Array) -> dict[str, Array]:
        """Return views of a flat vector by the parameters' names, in their shapes."""
        return _split(flat, self.shapes)

    def flatten_gradients(self, *passes: Grads) -> Array:
        """Return the sum of the gradients of several backward passes as one flat vector.

        A parameter that a pass lacks counts as 0.
        """
        xp, parts = array_module(self.flat), []
        for name, shape in self.shapes.items():
            first, *others = [grads[name] for grads in passes if name in grads] or [
                xp.zeros(shape, self.flat.dtype)
            ]
            for g in others:
                first = first + g
            parts.append(first.ravel())
        return xp.concatenate(parts) if parts else xp.empty_like(self.flat)

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Set parameters and buffers from host arrays by name.

        Raises UserError, changing nothing, unless names and shapes are exactly this network's.
        """
        here = {**self.net.params, **self.net.buffers}
        for name in sorted(here.keys() ^ arrays.keys()):
            raise UserError(
                f"the weights do not fit this network: {name} is only in "
                f"{'the network' if name in here else 'the file'}"
            )
        for name, a in here.items():
            if a.shape != arrays[name].shape:
                raise UserError(
                    f"the weights do not fit this network: {name} is {arrays[name].shape}, "
                    f"wanted {a.shape}"
                )
        for name, a in here.items():
            a[...] = array_like(a, arrays[name])


def _flattened(
    arrays: dict[str, Array], device: Device, dtype
) -> tuple[dict[str, tuple[int, ...]], Array]:
    """Return the shapes of arrays by name, and a concatenated copy of all of them on the device."""
    # np.zeros(0): concatenate needs an array; its float64 holds every float32 exactly
    host = np.concatenate([np.zeros(0), *(np.ravel(to_host(a)) for a in arrays.values())])
    return {name: a.shape for name, a in arrays.items()}, device.asarray(host.astype(dtype))


def _split(flat: Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return views of a flat vector by name, one after another, in these shapes."""
    views, start = {}, 0
    for name, shape in shapes.items():
        views[name] = flat[start : start + prod(shape)].reshape(shape)
        start += prod(shape)
    return views


def array_like(like: Array, host: np.ndarray) -> Array:
    """Return the host array with the dtype and on the device of `like`."""
    return array_module(like).asarray(host.astype(like.dtype))
