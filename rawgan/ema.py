"""Exponential moving average (EMA) of a network's parameters and running statistics."""

import copy

from rawgan.backend import Array, kernels_on
from rawgan.kernels import kernels
from rawgan.layers import Parameters, Sequential
from rawgan.layers.base import leaves


def moving_average(average: Array, value: Array, decay: float) -> None:
    """average = average + (1 - decay) (value - average), in place; both (n,)."""
    if kernels_on(average, value):
        return kernels.moving_average(average, value, decay)
    average += (1 - decay) * (value - average)


class EMA:
    """Exponential moving average of the parameters and running statistics of a network.

        theta_ema = decay theta_ema + (1 - decay) theta

    `net` is a copy of the source network that holds the average; sample from it in inference mode.
    BatchNorm's running statistics are averaged with the same decay, so that they match the averaged
    weights. Buffers that a layer does not list in `averaged` are copied instead: the mean of unit
    vectors, such as SpectralNorm's u, is no unit vector. A planned step updates both vectors itself
    (rawgan/planned/player.py). Raises ValueError for a decay outside [0, 1). Source: Karras et al.
    2018 (arXiv:1710.10196).
    """

    def __init__(self, parameters: Parameters, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average lies in [0, 1), got {decay}")
        self.source, self.decay = parameters, decay
        self.net: Sequential = copy.deepcopy(parameters.net)
        self.parameters = Parameters(self.net, parameters.device, parameters.flat.dtype)

    def update(self) -> None:
        """Update the average from the source network's current parameters and buffers."""
        moving_average(self.parameters.flat, self.source.flat, self.decay)
        moving_average(self.parameters.flat_buffers, self.source.flat_buffers, self.decay)
        for (_, average), (_, layer) in zip(leaves(self.net), leaves(self.source.net)):
            for name in layer.buffers.keys() - set(layer.averaged):
                average.buffers[name][...] = layer.buffers[name]
