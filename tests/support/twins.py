"""PyTorch twins of networks (NCHW, same weights), objectives and penalties; comparison by name."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from rawgan import layers, losses, penalties

NAMES = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's "same" padding (before, after), computed independently of rawgan.

    P = ceil(size / stride); an odd pixel is added after.
    """
    steps = (size + stride - 1) // stride
    total = max(0, kernel + stride * (steps - 1) - size)
    return total // 2, (total + 1) // 2


class SameConv2d(nn.Conv2d):
    """Convolution without padding of an image that is padded explicitly."""

    def forward(self, x):
        vertical, horizontal = map(same_pad, x.shape[2:], self.kernel_size, self.stride)
        return super().forward(F.pad(x, (*horizontal, *vertical)))


class SameConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution without padding, cropped explicitly to stride times the input size."""

    def forward(self, x):
        H, W = (n * s for n, s in zip(x.shape[2:], self.stride))
        (top, _), (left, _) = map(same_pad, (H, W), self.kernel_size, self.stride)
        y = super().forward(x)
        return F.pad(
            y, (-left, left + W - y.shape[3], -top, top + H - y.shape[2])
        )  # negative padding crops


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm for (N, C) and (N, C, H, W)."""

    def __init__(self, layer):
        super().__init__(*layer.shape, eps=layer.eps, momentum=layer.momentum)
        if not layer.trained_scale:
            del self.weight
            self.register_buffer("weight", torch.ones(layer.shape))

    def _check_input_dim(self, x):
        pass


class LayerNorm(nn.Module):
    """LayerNorm over all axes but the batch, with gamma and beta of shape (C,) or (C, H, W)."""

    def __init__(self, shape, eps):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = (nn.Parameter(chw(torch.zeros(shape))) for _ in range(2))

    def forward(self, x):
        weight, bias = (
            p.reshape(*p.shape, *(1,) * (x.ndim - 1 - p.ndim)) for p in (self.weight, self.bias)
        )
        return F.layer_norm(x, x.shape[1:], eps=self.eps) * weight + bias


class Softplus(nn.Module):
    """log(1 + exp x): nn.Softplus is x above its threshold, and without one its slope overflows."""

    def forward(self, x):
        return -F.logsigmoid(-x)


class Reshape(nn.Module):
    """Reshape of samples in the order H, W, C."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return to_nchw(to_nhwc(x).reshape(len(x), *self.shape))


class Flatten(nn.Module):
    """Flatten in the order H, W, C."""

    def forward(self, x):
        return to_nhwc(x).flatten(1)


def to_nchw(x):
    """Transpose (N, H, W, C) to (N, C, H, W); return (N, C) unchanged."""
    return x.movedim(-1, 1)


def to_nhwc(x):
    """Transpose (N, C, H, W) to (N, H, W, C); return (N, C) unchanged."""
    return x.movedim(1, -1)


def chw(a):
    """Transpose a parameter to PyTorch's order of axes.

    (K, R, S, C) becomes (K, C, R, S), (H, W, C) becomes (C, H, W); other shapes are unchanged.
    """
    return a.movedim(-1, {4: 1, 3: 0}.get(a.ndim, -1))


def hwc(a):
    """Inverse of chw."""
    return a.movedim({4: 1, 3: 0}.get(a.ndim, -1), -1)


def conv_twin(layer, channels, plain, same):
    bias = "b" in layer.params
    if layer.pad == "same":
        return same(*channels, layer.kernel, layer.stride, bias=bias)
    extra = {"output_padding": layer.output_padding} if plain is nn.ConvTranspose2d else {}
    return plain(*channels, layer.kernel, layer.stride, layer.pad, bias=bias, **extra)


# layer constructors in PyTorch, with PyTorch's default initialisation
MAKE = {
    layers.Sequential: lambda layer: nn.Sequential(
        OrderedDict((name, make(child)) for name, child in layer.children().items())
    ),
    layers.Linear: lambda layer: nn.Linear(layer.C, layer.K, bias="b" in layer.params),
    layers.Conv2d: lambda layer: conv_twin(layer, (layer.C, layer.K), nn.Conv2d, SameConv2d),
    layers.ConvTranspose2d: lambda layer: conv_twin(
        layer, (layer.K, layer.C), nn.ConvTranspose2d, SameConvTranspose2d
    ),
    layers.BatchNorm: BatchNorm,
    layers.InstanceNorm: lambda layer: nn.InstanceNorm2d(*layer.shape, eps=layer.eps, affine=True),
    layers.LayerNorm: lambda layer: LayerNorm(layer.shape, layer.eps),
    layers.ReLU: lambda layer: nn.ReLU(),
    layers.LeakyReLU: lambda layer: nn.LeakyReLU(layer.slope),
    layers.Tanh: lambda layer: nn.Tanh(),
    layers.Sigmoid: lambda layer: nn.Sigmoid(),
    layers.Softplus: lambda layer: Softplus(),
    layers.Reshape: lambda layer: Reshape(layer.shape),
    layers.Flatten: lambda layer: Flatten(),
}


def make(layer: layers.Layer) -> nn.Module:
    """Return a layer as a PyTorch module with PyTorch's default initialisation."""
    from tests.support.block_twins import MAKE_BLOCK

    constructors = MAKE | MAKE_BLOCK
    if type(layer) not in constructors:
        raise NotImplementedError(f"no PyTorch module is known for {layer!r}: add it to MAKE")
    return constructors[type(layer)](layer)


def twin(net: layers.Sequential, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return the network as a PyTorch module on (N, C, H, W), in training mode.

    Its weights and running statistics are copies.
    """
    copy = make(net).to(dtype)
    state = layers.state(net)
    for name, t in tensors(net, copy).items():
        t.copy_(chw(torch.from_numpy(state[name])))
    return copy


def tensors(net: layers.Sequential, copy: nn.Sequential) -> dict[str, torch.Tensor]:
    """Return the twin's parameters and running statistics under rawgan's names.

    Raise if a name exists in one network only.
    """
    left = {
        name: t
        for name, t in copy.state_dict(keep_vars=True).items()
        if not name.endswith("num_batches_tracked")
    }
    tensors_of = {}
    for name in (*net.params, *net.buffers):
        layer, _, parameter = name.rpartition(".")
        tensors_of[name] = left.pop(f"{layer}.{NAMES.get(parameter, parameter)}").data
    assert not left, f"only the twin has {', '.join(left)}"
    return tensors_of


def gradients(net: layers.Sequential, copy: nn.Sequential) -> dict:
    """Return the twin's gradients under rawgan's names and in rawgan's order of axes."""
    grads = {p.data_ptr(): p.grad for p in copy.parameters()}
    return {
        name: hwc(grads[t.data_ptr()]).numpy()
        for name, t in tensors(net, copy).items()
        if name in net.params
    }


def states(net: layers.Sequential, copy: nn.Sequential) -> dict[str, tuple]:
    """Return (got, want) of every parameter and running statistic by name.

    They are host arrays in rawgan's order of axes.
    """
    got = layers.state(net)
    return {name: (got[name], hwc(t).numpy()) for name, t in tensors(net, copy).items()}


def set_epsilon_hat(optimizer: torch.optim.Adam, eps: float) -> None:
    """Make the next step of PyTorch's Adam add eps at the place where Keras adds it.

    sqrt(v / c^2) + eps / c = (sqrt(v) + eps) / c,  c^2 = 1 - beta2^t
    """
    t = 1 + max((int(state["step"]) for state in optimizer.state.values()), default=0)
    for group in optimizer.param_groups:
        group["eps"] = eps / (1 - group["betas"][1] ** t) ** 0.5


class Objective(NamedTuple):
    """Objective with its PyTorch losses: all that the tests need to know of it.

    D minimises discriminator(a, c) with a = D(real) and c = D(fake), G generator(c, a). `largest`
    is the largest magnitude of a score whose loss is a number in float32. `paired`: a and c must
    have the same shape.
    """

    ours: losses.Objective
    discriminator: Callable
    generator: Callable
    largest: float = 1e4
    paired: bool = False

    def generator_scores(self, c, a) -> tuple:
        """Return the arguments of the objective's own `generator`."""
        return (c, a) if self.ours.takes_real_scores else (c,)


def separate(
    ours: losses.Objective, real: Callable, fake: Callable, generator: Callable, **facts
) -> Objective:
    """Return an objective whose D loss is real(a) + fake(c) and whose G loss is generator(c)."""
    return Objective(ours, lambda a, c: real(a) + fake(c), lambda c, a: generator(c), **facts)


def exchanged(ours: losses.Objective, discriminator: Callable, **facts) -> Objective:
    """Return an objective whose G loss is D's with a and c exchanged."""
    return Objective(ours, discriminator, discriminator, **facts)


def to_the_average(real: Callable, fake: Callable) -> Callable:
    """Return the relativistic average loss of D: mean real(a - E c) and mean fake(c - E a)."""
    return lambda a, c: (real(a - c.mean()).mean() + fake(c - a.mean()).mean()) / 2


def bce_to(label: float) -> Callable:
    """Return the binary cross-entropy of logits against one constant label."""
    return lambda scores: F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


def mse_to(label: float) -> Callable:
    return lambda scores: F.mse_loss(scores, torch.full_like(scores, label))


# for each class the losses in PyTorch, as functions of the objective's fields
LOSSES = {
    losses.BCE: lambda o: separate(
        o,
        bce_to(o.real_label),
        bce_to(0),
        (lambda c: -bce_to(0)(c)) if o.minimax else bce_to(1),
    ),
    losses.LeastSquares: lambda o: separate(o, mse_to(1), mse_to(0), mse_to(1)),
    losses.Wasserstein: lambda o: separate(o, lambda a: -a.mean(), torch.mean, lambda c: -c.mean()),
    losses.Hinge: lambda o: separate(
        o,
        lambda a: F.relu(1 - a).mean(),
        lambda c: F.relu(1 + c).mean(),
        lambda c: -c.mean(),
    ),
    losses.RpGAN: lambda o: exchanged(o, lambda a, c: -F.logsigmoid(a - c).mean(), paired=True),
    losses.RaGAN: lambda o: exchanged(
        o, to_the_average(lambda x: -F.logsigmoid(x), lambda x: -F.logsigmoid(-x))
    ),
    losses.RaLSGAN: lambda o: exchanged(
        o, to_the_average(lambda x: (x - 1) ** 2, lambda x: (x + 1) ** 2)
    ),
    losses.RaHinge: lambda o: exchanged(
        o, to_the_average(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x))
    ),
}
OBJECTIVES = [
    losses.BCE(),
    losses.BCE(real_label=0.9),
    losses.BCE(minimax=True),
    losses.LeastSquares(),
    losses.Wasserstein(),
    losses.Hinge(),
    losses.RpGAN(),
    losses.RaGAN(),
    losses.RaLSGAN(),
    losses.RaHinge(),
]


def objective_twin(ours: losses.Objective) -> Objective:
    """Return the objective with its PyTorch losses."""
    if type(ours) not in LOSSES:
        raise NotImplementedError(f"no PyTorch loss is known for {ours!r}: add it to LOSSES")
    return LOSSES[type(ours)](ours)


class Penalty(NamedTuple):
    """Penalty in PyTorch: all that the tests need to know of it.

    points(real, fake, rng) are images (N, C, H, W), value(norms) is the penalty of |g[n]| (N,). The
    random numbers are those of rawgan, in its order of axes. of_scores: value takes the scores
    D(x), there is no g. labels(real, fake) are those of the points. interval: D's steps from one
    evaluation to the next; its gradients are so many times those of `value`.
    """

    points: Callable
    value: Callable
    of_scores: bool = False
    labels: Callable = lambda real, fake: real
    interval: int = 1

    def __call__(self, critic: Callable, x: torch.Tensor) -> torch.Tensor:
        """Return the penalty at points x, differentiable with respect to the critic's weights."""
        x = x.detach().requires_grad_()
        scores = critic(x)
        if self.of_scores:
            return self.value(scores)
        (g,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        return self.value(g.flatten(1).norm(dim=1))


def alpha(rng, like: torch.Tensor) -> torch.Tensor:
    """Return a number of U(0, 1) for each sample, (N, 1, 1, 1)."""
    return torch.from_numpy(rng.random((len(like), 1, 1, 1)))


def between(real, fake, rng):
    a = alpha(rng, real)
    return a * real + (1 - a) * fake


def around(spread: float) -> Callable:
    def points(real, fake, rng):
        noise = alpha(rng, real) * torch.from_numpy(rng.random(to_nhwc(real).shape)).movedim(-1, 1)
        return real + spread * real.std(unbiased=False) * noise

    return points


def distance_to_one(o) -> Callable:
    return lambda norm: o.weight * ((torch.relu(norm - 1) if o.one_sided else norm - 1) ** 2).mean()


# for each class the penalty in PyTorch, as functions of its fields
PENALTY_TWINS = {
    penalties.WGANGP: lambda o: Penalty(between, distance_to_one(o)),
    penalties.R1: lambda o: Penalty(
        lambda real, fake, rng: real, lambda norm: o.weight / 2 * (norm**2).mean()
    ),
    penalties.R2: lambda o: Penalty(
        lambda real, fake, rng: fake,
        lambda norm: o.weight / 2 * (norm**2).mean(),
        labels=lambda real, fake: fake,
    ),
    penalties.Drift: lambda o: Penalty(
        lambda real, fake, rng: real,
        lambda scores: o.weight * (scores**2).mean(),
        of_scores=True,
    ),
    penalties.Lazy: lambda o: penalty_twin(o.penalty)._replace(interval=o.interval),
    penalties.DRAGAN: lambda o: Penalty(around(o.spread), distance_to_one(o)),
}
PENALTIES = [
    penalties.WGANGP(10),
    penalties.WGANGP(3, one_sided=True),
    penalties.R1(10),
    penalties.DRAGAN(10),
    penalties.R2(10),
    penalties.Drift(0.5),
    penalties.Lazy(penalties.R1(10), 4),
]


def penalty_twin(ours: penalties.Penalty) -> Penalty:
    """Return the penalty in PyTorch."""
    if type(ours) not in PENALTY_TWINS:
        raise NotImplementedError(f"no PyTorch penalty is known for {ours!r}: see PENALTY_TWINS")
    return PENALTY_TWINS[type(ours)](ours)
