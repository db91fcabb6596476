"""PyTorch twins: the same network, NCHW, from the same weights, and the comparison of both, parameter by parameter."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rawgan import layers, losses

torch.set_num_threads(1)

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
        self.weight, self.bias = (nn.Parameter(torch.empty(chw(np.empty(shape)).shape)) for _ in range(2))

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


def to_nchw(x: torch.Tensor) -> torch.Tensor:
    """(N, H, W, C) as (N, C, H, W); (N, C) as it is."""
    return x.movedim(-1, 1)


def to_nhwc(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) as (N, H, W, C); (N, C) as it is."""
    return x.movedim(1, -1)


def chw(a: np.ndarray) -> np.ndarray:
    """A parameter in PyTorch's order of axes: (K, R, S, C) as (K, C, R, S), (H, W, C) as (C, H, W), others as they are."""
    return np.moveaxis(a, -1, {4: 1, 3: 0}.get(a.ndim, -1))


def tensor(x: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Images or vectors of rawgan's for a twin."""
    return to_nchw(torch.tensor(x, dtype=dtype)).contiguous()


def conv_twin(layer, channels, plain, same) -> nn.Module:
    bias = "b" in layer.params
    if layer.pad == "same":
        return same(*channels, layer.kernel, layer.stride, bias=bias)
    extra = {"output_padding": layer.output_padding} if plain is nn.ConvTranspose2d else {}
    return plain(*channels, layer.kernel, layer.stride, layer.pad, bias=bias, **extra)


MAKE = {
    layers.Linear: lambda l: nn.Linear(l.C, l.K, bias="b" in l.params),
    layers.Conv2d: lambda l: conv_twin(l, (l.C, l.K), nn.Conv2d, SameConv2d),
    layers.ConvTranspose2d: lambda l: conv_twin(l, (l.K, l.C), nn.ConvTranspose2d, SameConvTranspose2d),
    layers.BatchNorm: lambda l: BatchNorm(*l.shape, eps=l.eps, momentum=l.momentum),
    layers.InstanceNorm: lambda l: nn.InstanceNorm2d(*l.shape, eps=l.eps, affine=True),
    layers.LayerNorm: lambda l: LayerNorm(l.shape, l.eps),
    layers.ReLU: lambda l: nn.ReLU(),
    layers.LeakyReLU: lambda l: nn.LeakyReLU(l.slope),
    layers.Tanh: lambda l: nn.Tanh(),
    layers.Sigmoid: lambda l: nn.Sigmoid(),
    layers.Softplus: lambda l: nn.Softplus(threshold=float("inf")),  # PyTorch's turns into x above 20
    layers.Reshape: lambda l: Reshape(l.shape),
    layers.Flatten: lambda l: Flatten(),
    layers.Sequential: lambda l: nn.Sequential(*(MAKE[type(child)](child) for child in l.layers)),
}


def twin(net: layers.Sequential, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The network as a PyTorch module on (N, C, H, W), in training mode, with copies of its weights and running statistics."""
    module = MAKE[layers.Sequential](net).to(dtype)
    for name, t in tensors(net, module).items():
        t.copy_(torch.tensor(chw({**net.params, **net.buffers}[name])))
    return module


def tensors(net: layers.Sequential, module: nn.Sequential) -> dict[str, torch.Tensor]:
    """The twin's parameters and running statistics under rawgan's names; every one of them has to be there."""
    theirs = {name: t for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = {}
    for name in (*net.params, *net.buffers):
        layer, _, own = name.rpartition(".")
        found[name] = theirs.pop(f"{layer}.{NAMES.get(own, own)}")
    assert not theirs, f"only the twin has {', '.join(theirs)}"
    return found


def gradients(net: layers.Sequential, module: nn.Sequential) -> dict[str, np.ndarray]:
    """What autograd left in the twin's parameters, under rawgan's names and in its order of axes."""
    grads = {t.data_ptr(): t.grad for t in module.parameters()}
    return {
        name: np.moveaxis(grads[t.data_ptr()].numpy(), {4: 1, 3: 0}.get(t.ndim, -1), -1)
        for name, t in tensors(net, module).items()
        if name in net.params
    }


def assert_same_state(net: layers.Sequential, module: nn.Sequential, tolerance: float) -> None:
    """Every parameter agrees relative to the largest number of its array, every running statistic to that or absolutely."""
    for name, t in tensors(net, module).items():
        got, want = chw({**net.params, **net.buffers}[name]), t.numpy()
        scale = np.abs(want).max() if name in net.params else max(1, np.abs(want).max())
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale, err_msg=name, strict=True)


bce = F.binary_cross_entropy_with_logits


def bce_to(label: float):
    return lambda scores: bce(scores, torch.full_like(scores, label))


# objective, what D minimises of D(real), what D minimises of D(fake), what G minimises of D(fake)
OBJECTIVES = [
    (losses.BCE(), bce_to(1), bce_to(0), bce_to(1)),
    (losses.BCE(real_label=0.9), bce_to(0.9), bce_to(0), bce_to(1)),
    (losses.BCE(minimax=True), bce_to(1), bce_to(0), lambda c: -bce_to(0)(c)),
    (losses.LeastSquares(), lambda a: F.mse_loss(a, torch.ones_like(a)), lambda c: c.square().mean(),
     lambda c: F.mse_loss(c, torch.ones_like(c))),
    (losses.Wasserstein(), lambda a: -a.mean(), lambda c: c.mean(), lambda c: -c.mean()),
    (losses.Hinge(), lambda a: F.relu(1 - a).mean(), lambda c: F.relu(1 + c).mean(), lambda c: -c.mean()),
]  # fmt: skip
