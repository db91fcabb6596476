"""An exponential moving average of a generator: a second network that follows the trained one."""

import copy

from rawgan.layers import Parameters, Sequential
from rawgan.layers.base import leaves


class EMA:
    """A copy of `net` whose parameters and running statistics follow it:

        theta_ema = decay theta_ema + (1 - decay) theta

    The statistics of BatchNorm are averaged with the same decay: weights of the average with the last batch's statistics would be
    a network that never existed. Sample from `ema.net` in inference mode. Source: Karras et al. 2018 (arXiv:1710.10196).
    """

    def __init__(self, parameters: Parameters, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average lies in [0, 1), got {decay}")
        self.source, self.decay = parameters, decay
        self.net: Sequential = copy.deepcopy(parameters.net)
        self.parameters = Parameters(self.net, parameters.device, parameters.flat.dtype)

    def update(self) -> None:
        """One step after the trained network."""
        pairs = [(self.parameters.flat, self.source.flat)]
        for (_, average), (_, layer) in zip(leaves(self.net), leaves(self.source.net)):
            pairs += [(average.buffers[name], layer.buffers[name]) for name in layer.buffers]
        for average, value in pairs:
            average += (1 - self.decay) * (value - average)
