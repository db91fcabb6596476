"""PyTorch twins: the same network, NCHW, from the same weights; the same objectives; and the comparison, name by name."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from rawgan import layers, losses

NAMES = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) of TensorFlow's "same", worked out here anew: P = ceil(size / stride), the odd pixel goes after."""
    steps = (size + stride - 1) // stride
    total = max(0, kernel + stride * (steps - 1) - size)
    return total // 2, (total + 1) // 2


class SameConv2d(nn.Conv2d):
    """The image padded by hand, then a convolution without padding."""

    def forward(self, x):
        vertical, horizontal = map(same_pad, x.shape[2:], self.kernel_size, self.stride)
        return super().forward(F.pad(x, (*horizontal, *vertical)))


class SameConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution without padding, then cropped by hand to stride times the size."""

    def forward(self, x):
        H, W = (n * s for n, s in zip(x.shape[2:], self.stride))
        (top, _), (left, _) = map(same_pad, (H, W), self.kernel_size, self.stride)
        y = super().forward(x)
        return F.pad(y, (-left, left + W - y.shape[3], -top, top + H - y.shape[2]))  # negative: cropped


class BatchNorm(nn.BatchNorm2d):
    """Of (N, C) as well as of (N, C, H, W)."""

    def _check_input_dim(self, x):
        pass


class LayerNorm(nn.Module):
    """Over everything but the batch, with gamma and beta of either (C,) or (C, H, W)."""

    def __init__(self, shape, eps):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = (nn.Parameter(chw(torch.zeros(shape))) for _ in range(2))

    def forward(self, x):
        weight, bias = (p.reshape(*p.shape, *(1,) * (x.ndim - 1 - p.ndim)) for p in (self.weight, self.bias))
        return F.layer_norm(x, x.shape[1:], eps=self.eps) * weight + bias


class Reshape(nn.Module):
    """Of samples whose numbers are in the order H, W, C."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return to_nchw(to_nhwc(x).reshape(len(x), *self.shape))


class Flatten(nn.Module):
    """In the order H, W, C."""

    def forward(self, x):
        return to_nhwc(x).flatten(1)


def to_nchw(x):
    """(N, H, W, C) as (N, C, H, W); (N, C) as it is."""
    return x.movedim(-1, 1)


def to_nhwc(x):
    """(N, C, H, W) as (N, H, W, C); (N, C) as it is."""
    return x.movedim(1, -1)


def chw(a):
    """A parameter in PyTorch's order of axes: (K, R, S, C) as (K, C, R, S), (H, W, C) as (C, H, W), others as they are."""
    return a.movedim(-1, {4: 1, 3: 0}.get(a.ndim, -1))


def hwc(a):
    """The inverse of chw."""
    return a.movedim({4: 1, 3: 0}.get(a.ndim, -1), -1)


def conv_twin(layer, channels, plain, same):
    bias = "b" in layer.params
    if layer.pad == "same":
        return same(*channels, layer.kernel, layer.stride, bias=bias)
    extra = {"output_padding": layer.output_padding} if plain is nn.ConvTranspose2d else {}
    return plain(*channels, layer.kernel, layer.stride, layer.pad, bias=bias, **extra)


# a layer in PyTorch, with PyTorch's own first weights
MAKE = {
    layers.Sequential: lambda layer: nn.Sequential(*(MAKE[type(child)](child) for child in layer.layers)),
    layers.Linear: lambda layer: nn.Linear(layer.C, layer.K, bias="b" in layer.params),
    layers.Conv2d: lambda layer: conv_twin(layer, (layer.C, layer.K), nn.Conv2d, SameConv2d),
    layers.ConvTranspose2d: lambda layer: conv_twin(layer, (layer.K, layer.C), nn.ConvTranspose2d, SameConvTranspose2d),
    layers.BatchNorm: lambda layer: BatchNorm(*layer.shape, eps=layer.eps, momentum=layer.momentum),
    layers.InstanceNorm: lambda layer: nn.InstanceNorm2d(*layer.shape, eps=layer.eps, affine=True),
    layers.LayerNorm: lambda layer: LayerNorm(layer.shape, layer.eps),
    layers.ReLU: lambda layer: nn.ReLU(),
    layers.LeakyReLU: lambda layer: nn.LeakyReLU(layer.slope),
    layers.Tanh: lambda layer: nn.Tanh(),
    layers.Sigmoid: lambda layer: nn.Sigmoid(),
    layers.Softplus: lambda layer: nn.Softplus(threshold=float("inf")),  # PyTorch's is x itself above 20 otherwise
    layers.Reshape: lambda layer: Reshape(layer.shape),
    layers.Flatten: lambda layer: Flatten(),
}


def twin(net: layers.Sequential, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The network as a PyTorch module on (N, C, H, W), in training mode, with copies of its weights and running statistics."""
    copy = MAKE[layers.Sequential](net).to(dtype)
    state = layers.state(net)
    for name, t in tensors(net, copy).items():
        t.copy_(chw(torch.from_numpy(state[name])))
    return copy


def tensors(net: layers.Sequential, copy: nn.Sequential) -> dict[str, torch.Tensor]:
    """The twin's parameters and running statistics under rawgan's names. Both must have them all."""
    left = {name: t for name, t in copy.state_dict(keep_vars=True).items() if not name.endswith("num_batches_tracked")}
    found = {}
    for name in (*net.params, *net.buffers):
        layer, _, own = name.rpartition(".")
        found[name] = left.pop(f"{layer}.{NAMES.get(own, own)}").data
    assert not left, f"only the twin has {', '.join(left)}"
    return found


def gradients(net: layers.Sequential, copy: nn.Sequential) -> dict:
    """What autograd left in the twin's parameters, under rawgan's names and in its order of axes."""
    grads = {p.data_ptr(): p.grad for p in copy.parameters()}
    return {name: hwc(grads[t.data_ptr()]).numpy() for name, t in tensors(net, copy).items() if name in net.params}


def states(net: layers.Sequential, copy: nn.Sequential) -> dict[str, tuple]:
    """(got, want) of every parameter and running statistic by name, as host arrays in rawgan's order of axes."""
    got = layers.state(net)
    return {name: (got[name], hwc(t).numpy()) for name, t in tensors(net, copy).items()}


class Objective(NamedTuple):
    """An objective, and in PyTorch what D minimises of D(real) and of D(fake), and what G minimises of D(fake)."""

    ours: losses.Objective
    real: Callable
    fake: Callable
    generator: Callable


def bce_to(label: float) -> Callable:
    """The binary cross-entropy of logits for one label."""
    return lambda scores: F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


def mse_to(label: float) -> Callable:
    return lambda scores: F.mse_loss(scores, torch.full_like(scores, label))


def objective_twin(ours: losses.Objective) -> Objective:
    """The objective with PyTorch's losses beside it."""
    match ours:
        case losses.BCE(real_label=label, minimax=False):
            return Objective(ours, bce_to(label), bce_to(0), bce_to(1))
        case losses.BCE(real_label=label):
            return Objective(ours, bce_to(label), bce_to(0), lambda c: -bce_to(0)(c))
        case losses.LeastSquares():
            return Objective(ours, mse_to(1), mse_to(0), mse_to(1))
        case losses.Wasserstein():
            return Objective(ours, lambda a: -a.mean(), torch.mean, lambda c: -c.mean())
        case losses.Hinge():
            return Objective(ours, lambda a: F.relu(1 - a).mean(), lambda c: F.relu(1 + c).mean(), lambda c: -c.mean())
        case _:
            raise NotImplementedError(f"no PyTorch loss is known for {ours!r}")


OBJECTIVES = [
    losses.BCE(),
    losses.BCE(real_label=0.9),
    losses.BCE(minimax=True),
    losses.LeastSquares(),
    losses.Wasserstein(),
    losses.Hinge(),
]
