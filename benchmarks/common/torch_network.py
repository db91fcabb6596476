"""Our networks in PyTorch, by the code that rawgan/exchange.py writes."""

import torch
from torch import nn

from rawgan.exchange import Exchange
from rawgan.layers import Sequential, state


def network(net: Sequential, shape: tuple[int, ...], dtype=torch.float32) -> nn.Sequential:
    """Return the network in PyTorch with the same weights, for inputs (N, C, H, W)."""
    exchange, namespace = Exchange(net, shape), {"nn": nn}
    if exchange.condition:
        raise NotImplementedError("a learned embedding of labels")
    exec(exchange.code(), namespace)
    tensors = exchange.export(state(net))
    module = namespace["main"].to(dtype)
    module.load_state_dict({name: torch.from_numpy(a) for name, a in tensors.items()})
    return module
