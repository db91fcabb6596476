"""PyTorch modules of pooling, blocks, reparameterized weights, statistics and labels inside."""

from collections import OrderedDict
from math import sqrt

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from rawgan import layers
from rawgan.layers import blocks
from tests.support.twins import make, to_nchw, to_nhwc


class Function(nn.Module):
    """A module without parameters that computes f."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class Branches(nn.Module):
    """The children of a layer on the same x, and the join of their outputs."""

    def __init__(self, layer, join):
        super().__init__()
        self.names, self.join = list(layer.branches), join
        for name, child in layer.branches.items():
            self.add_module(name, make(child))

    def forward(self, x):
        return self.join([self.get_submodule(name)(x) for name in self.names])


def concatenated(ys):
    return torch.cat(ys, 1)


class Reparameterized(nn.Module):
    """Another module, run with weight(module) in place of its weight."""

    def __init__(self, inner, weight, g=None):
        super().__init__()
        self.weight, self.reweighted = inner.weight, weight
        self.bias = getattr(inner, "bias", None)
        self.inner = [inner]  # in a list, so that its parameters are not counted twice
        if isinstance(g, nn.Parameter):
            self.g = g
        elif g is not None:
            self.register_buffer("g", g)

    def forward(self, x):
        tensors = {"weight": self.reweighted(self)}
        tensors |= {} if self.bias is None else {"bias": self.bias}
        return functional_call(self.inner[0], tensors, x)


def equalized(layer):
    w = layer.params["w"]
    outputs = layer.inner.C if isinstance(layer.inner, layers.ConvTranspose2d) else layer.inner.K
    scale = layer.gain / sqrt(w.size / outputs)
    return Reparameterized(make(layer.inner), lambda module: scale * module.weight)


def weight_normed(layer):
    """Return the module; in PyTorch too the outputs of a transposed convolution are axis 1."""
    inner = make(layer.inner)
    output = 1 if isinstance(layer.inner, layers.ConvTranspose2d) else 0
    axes = [axis for axis in range(inner.weight.ndim) if axis != output]

    def weight(module):
        length = module.weight.pow(2).sum(axes, keepdim=True).sqrt()
        return module.g.reshape(length.shape) * module.weight / length

    g = torch.ones(inner.weight.shape[output])
    return Reparameterized(inner, weight, nn.Parameter(g) if layer.trained_scale else g)


def spectral_norm(layer):
    """Return the module; u is a buffer, which each training pass moves by one power iteration."""

    def weight(module):
        W, u = module.weight.flatten(1), module.u.clone()
        with torch.no_grad():
            v = F.normalize(u @ W, dim=0)
            if module.training:
                u = F.normalize(W @ v, dim=0)
                module.u.copy_(u)
        return module.weight / (u @ W @ v)

    module = Reparameterized(make(layer.inner), weight)
    module.register_buffer("u", torch.zeros(len(module.weight)))
    return module


class ConditionalSequential(nn.Sequential):
    """A Sequential of (x, labels), which the modules inside it that have `labels` are given."""

    def forward(self, pair):
        x, labels = pair
        for module in self.modules():
            if hasattr(module, "labels"):
                module.labels = labels
        return super().forward(x)


class ConditionalBatchNorm(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.labels, self.eps, self.momentum = None, layer.eps, layer.momentum
        self.weight, self.bias = (
            nn.Parameter(torch.zeros(layer.K, *layer.shape)) for _ in range(2)
        )
        self.register_buffer("running_mean", torch.zeros(layer.shape))
        self.register_buffer("running_var", torch.ones(layer.shape))

    def forward(self, x):
        running = self.running_mean, self.running_var
        xhat = F.batch_norm(
            x, *running, training=self.training, momentum=self.momentum, eps=self.eps
        )
        weight, bias = (
            p[self.labels].reshape(*xhat.shape[:2], *(1,) * (x.ndim - 2))
            for p in (self.weight, self.bias)
        )
        return weight * xhat + bias


class Projection(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.labels, self.linear, self.inner = None, make(layer.linear), make(layer.inner)

    def forward(self, x):
        return self.linear(x) + (self.inner(self.labels) * x).sum(1, keepdim=True)


class GaussianNoise(nn.Module):
    """Noise by Box & Muller from the uniform numbers of `rng`, as many as x (N, H, W, C) has."""

    def __init__(self, layer):
        super().__init__()
        self.std, self.rng = layer.std, None

    def forward(self, x):
        if not self.training:
            return x
        shape = to_nhwc(x).shape
        u, v = torch.from_numpy(self.rng.random((len(x), 2, *shape[1:]))).unbind(1)
        return x + self.std * to_nchw((-2 * (1 - u).log()).sqrt() * (2 * torch.pi * v).cos())


def pixel_norm(eps):
    return lambda x: x / (x.pow(2).mean(1, keepdim=True) + eps).sqrt()


def minibatch_std(group, eps):
    """Return the function, group by group: sample n belongs to group n modulo their number."""

    def f(x):
        M = len(x) // min(group or len(x), len(x))
        sigma = [(x[m::M].var(0, unbiased=False) + eps).sqrt().mean() for m in range(M)]
        planes = [sigma[n % M].expand(1, *x.shape[2:]) for n in range(len(x))]
        return torch.cat([x, torch.stack(planes)], 1)

    return f


MAKE_BLOCK = {
    layers.MaxPool2d: lambda layer: nn.MaxPool2d(layer.k),
    layers.AvgPool2d: lambda layer: nn.AvgPool2d(layer.k),
    layers.Upsample2d: lambda layer: nn.Upsample(scale_factor=layer.k),
    layers.GlobalMeanPool: lambda layer: Function(lambda x: x.mean((2, 3))),
    layers.GlobalSumPool: lambda layer: Function(lambda x: x.sum((2, 3))),
    layers.GaussianNoise: GaussianNoise,
    layers.PixelNorm: lambda layer: Function(pixel_norm(layer.eps)),
    layers.MinibatchStd: lambda layer: Function(minibatch_std(layer.group, layer.eps)),
    layers.EqualizedLR: equalized,
    layers.WeightNorm: weight_normed,
    layers.SpectralNorm: spectral_norm,
    layers.Embedding: lambda layer: nn.Embedding(layer.K, layer.C),
    layers.ConditionalSequential: lambda layer: ConditionalSequential(
        OrderedDict((name, make(child)) for name, child in layer.children().items())
    ),
    layers.ConditionalBatchNorm: ConditionalBatchNorm,
    layers.Projection: Projection,
    layers.Residual: lambda layer: Branches(layer, lambda ys: ys[0] + ys[1]),
    layers.Lerp: lambda layer: Branches(
        layer, lambda ys, alpha=layer.alpha: torch.lerp(ys[0], ys[1], alpha)
    ),
    layers.Skip: lambda layer: Branches(layer, concatenated),
    layers.Heads: lambda layer: Branches(layer, concatenated),
    blocks._Identity: lambda layer: nn.Identity(),
}
