"""rawgan.systems.progressive and its networks: counts, growth, whole trainings against PyTorch."""

import copy
from itertools import islice
from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.backend import CPU, to_host
from rawgan.ema import EMA
from rawgan.errors import UserError
from rawgan.layers import Lerp, leaves, parameter_count, state
from rawgan.models.progressive import Discriminator, Generator, build
from rawgan.optim import Optimizer
from rawgan.penalties import Drift
from rawgan.random import Random
from rawgan.systems import progressive
from rawgan.systems.progressive import GrowthSchedule, ProgressiveGAN, Stage, real_images
from tests.support.reference import assert_close, assert_same, tensor
from tests.support.twins import set_epsilon_hat, to_nchw, to_nhwc

# (base, width, size, channels): parameters of G and of D
COUNTS = {
    (8192, 512, 1024, 3): (23_079_115, 23_087_249),
    (8192, 512, 128, 3): (22_933_394, 22_941_313),
    (2048, 256, 128, 3): (4_583_282, 4_587_041),
    (2048, 512, 128, 3): (13_629_810, 13_636_897),
    (4096, 128, 32, 3): (1_296_908, 1_298_689),
    (1024, 128, 32, 1): (1_111_364, 1_113_153),
    (1024, 128, 32, 3): (1_112_268, 1_114_049),
    (512, 64, 32, 1): (278_180, 279_073),
    (512, 64, 32, 3): (278_636, 279_521),
}
SIZE, CHANNELS, WIDTH, BATCH = 16, 2, 8, 8
SCHEDULE = GrowthSchedule(SIZE, stable=16, fade=24)
STAGES = [
    *[(4, 1)] * 3,
    *[(8, 1 / 3), (8, 2 / 3)],
    *[(8, 1)] * 3,
    *[(16, 1 / 3), (16, 2 / 3)],
    *[(16, 1)] * 10,
]  # of the 20 steps of the comparison


def small(device=CPU, dtype=np.float64, schedule=SCHEDULE) -> ProgressiveGAN:
    """Return networks up to 16x16 with 8, 8 and 4 channels."""
    sizes = {"size": SIZE, "channels": CHANNELS, "width": WIDTH, "base": 32}
    return build(Random(3), **sizes, schedule=schedule, device=device, dtype=dtype)


def batches(dtype=np.float64):
    """Yield (real, z_d, z_g) of every step."""
    rng = np.random.default_rng(7)
    for _ in STAGES:
        real = rng.uniform(-1, 1, (BATCH, SIZE, SIZE, CHANNELS))
        yield [a.astype(dtype) for a in (real, *rng.normal(size=(2, BATCH, WIDTH)))]


class Twin:
    """The progressive GAN in PyTorch, from its equations: autograd, torch.optim.Adam."""

    def __init__(self, system: ProgressiveGAN):
        nets = system.generator, system.discriminator
        self.G, self.D = (
            {name: tensor(a).requires_grad_() for name, a in state(net).items()} for net in nets
        )
        self.average = {name: a.detach().clone() for name, a in self.G.items()}
        self.rng, self.phase = copy.deepcopy(system.rng), None

    def linear(self, net, name, x, gain=2**0.5):
        """Return a convolution that keeps the size, or a linear layer of (N, C), both scaled."""
        w, b = net[f"{name}.w"], net[f"{name}.b"]
        w = w * gain / sqrt(w[0].numel())
        if w.ndim == 2:
            return F.linear(x, w, b)
        return F.conv2d(x, w.permute(0, 3, 1, 2), b, padding=w.shape[1] // 2)

    def generator(self, z, r, alpha):
        def activated(x):
            x = F.leaky_relu(x, 0.2)
            return x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()

        def image(x, r):
            return self.linear(self.G, f"rgb{r}", x, 1)

        z = z / (z.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
        w, b = self.G["block4.2.w"], self.G["block4.2.b"]
        x = torch.einsum("nz,zijk->nkij", z, w) * sqrt(2) / 4 / sqrt(z.shape[1])
        x = activated(self.linear(self.G, "block4.5", activated(x + b[:, None, None])))
        below = x
        for i in [i for i in (8, 16) if i <= r]:
            below, x = x, F.interpolate(x, scale_factor=2)
            for layer in (1, 4):
                x = activated(self.linear(self.G, f"block{i}.{layer}", x))
        if alpha == 1:
            return image(x, r)
        old = F.interpolate(image(below, r // 2), scale_factor=2)
        return (1 - alpha) * old + alpha * image(x, r)

    def discriminator(self, x, r, alpha):
        def layer(name, x):
            return F.leaky_relu(self.linear(self.D, name, x), 0.2)

        h = layer(f"rgb{r}.0", x)
        for i in [i for i in (16, 8) if i <= r]:
            h = F.avg_pool2d(layer(f"block{i}.2", layer(f"block{i}.0", h)), 2)
            if i == r and alpha < 1:
                h = (1 - alpha) * layer(f"rgb{r // 2}.0", F.avg_pool2d(x, 2)) + alpha * h
        groups = h.reshape(4, len(h) // 4, -1)  # of samples n, n + 2, n + 4, n + 6
        sigma = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean(1).repeat(4)
        h = torch.cat([h, sigma[:, None, None, None].expand(-1, 1, 4, 4)], 1)
        h = to_nhwc(layer("block4.1", h)).flatten(1)
        return self.linear(self.D, "block4.6", layer("block4.4", h), 1)

    def step(self, loss, net):
        optimizer = self.optimizers[id(net)]
        optimizer.zero_grad()
        loss.backward()
        set_epsilon_hat(optimizer, 1e-8)
        optimizer.step()

    def train_step(self, real, z_d, z_g, r, alpha):
        if self.phase != (r, alpha < 1):
            self.phase = r, alpha < 1
            self.optimizers = {
                id(net): torch.optim.Adam(net.values(), 1e-3, (0.0, 0.99))
                for net in (self.G, self.D)
            }
        real, z_d, z_g = to_nchw(tensor(real)), tensor(z_d), tensor(z_g)
        real = F.avg_pool2d(real, SIZE // r)
        if alpha < 1:
            real = torch.lerp(F.interpolate(F.avg_pool2d(real, 2), scale_factor=2), real, alpha)
        fake = self.generator(z_d, r, alpha).detach()
        a, c = (self.discriminator(x, r, alpha) for x in (real, fake))
        u = torch.from_numpy(self.rng.random((len(real), 1, 1, 1)))
        x = (u * real + (1 - u) * fake).requires_grad_()
        score = self.discriminator(x, r, alpha).sum()
        (g,) = torch.autograd.grad(score, x, create_graph=True)
        norm = g.flatten(1).norm(dim=1)
        penalty = 10 * ((norm - 1) ** 2).mean() + 1e-3 * a.pow(2).mean()
        metrics = {"d_loss": c.mean() - a.mean() + penalty, "penalty": penalty}
        metrics |= {"d_real": a.mean(), "d_fake": c.mean(), "gradient_norm": norm.mean()}
        self.step(metrics["d_loss"], self.D)
        for name, average in self.average.items():
            average.add_(0.001 * (self.G[name].detach() - average))
        metrics["g_loss"] = -self.discriminator(self.generator(z_g, r, alpha), r, alpha).mean()
        self.step(metrics["g_loss"], self.G)
        return {name: value.item() for name, value in metrics.items()}


@pytest.fixture(scope="module")
def trajectory():
    """Return the twin after 20 steps, and its metrics of each."""
    twin = Twin(small())
    return twin, [twin.train_step(*batch, *stage) for batch, stage in zip(batches(), STAGES)]


def follow(trajectory, device=CPU):
    """Assert that metrics and parameters of 20 steps equal the twin's to 1e-10, in float64."""
    twin, metrics = trajectory
    system = small(device)
    for batch, stage, want in zip(batches(), STAGES, metrics):
        assert (system.stage.resolution, system.stage.alpha) == pytest.approx(stage)
        got = system.train_step(*map(device.asarray, batch))
        assert float(got.pop("log2_resolution")) == np.log2(stage[0]) - 1 + stage[1]
        assert got.keys() == want.keys()
        for name, value in want.items():
            allowed = 1e-10 * max(1, abs(value))
            assert_close(got[name], value, f"{stage}: {name}", allowed=allowed)
    for net, want in (
        (system.generator, twin.G),
        (system.discriminator, twin.D),
        (system.average.net, twin.average),
    ):
        for name, a in state(net).items():
            assert_close(a, want[name].detach(), name, allowed=1e-10)


def test_twenty_steps_are_those_of_pytorch(trajectory, device):
    """Over two fades and two changes of resolution."""
    follow(trajectory, device)


# Mistakes


def no_reset(patch):
    patch.setattr(Optimizer, "reset", lambda self: None)


def sharp_reals(patch):
    """Mistake: the reals of a fade are not blended with half the resolution."""
    shrunk = progressive.shrink
    patch.setattr(progressive, "real_images", lambda x, stage: shrunk(x, stage.resolution))


def fade_out(patch):
    """Mistake: the new layers are faded out."""
    joint = Lerp.joint
    patch.setattr(Lerp, "joint", lambda self, ys: 1 - joint(self, ys))


def the_same_z(patch):
    step = ProgressiveGAN.train_step
    patch.setattr(ProgressiveGAN, "train_step", lambda self, x, z, _: step(self, x, z, z))


def average_after_the_step(patch):
    """Mistake: the average takes the generator after its update."""
    step, update = ProgressiveGAN.train_step, EMA.update

    def train_step(self, *batch):
        metrics = step(self, *batch)
        update(self.average)
        return metrics

    patch.setattr(EMA, "update", lambda self: None)
    patch.setattr(ProgressiveGAN, "train_step", train_step)


def no_drift(patch):
    call = Drift.__call__
    patch.setattr(Drift, "__call__", lambda self, *args: (call(self, *args)[0], {}, None))


def no_curvature(patch):
    """Mistake: the penalty's gradient lacks the second derivative of MinibatchStd."""
    name = "rawgan.layers.minibatch_std.minibatch_std_dx2"
    patch.setattr(name, lambda ddx, *rest: ddx * 0)


def rgb_of_an_activation(patch):
    """Mistake: the gain of the convolution to RGB is that of a layer with a LeakyReLU."""
    convert = Generator.convert

    def scaled(self, resolution):
        layer = convert(self, resolution)
        layer.scale *= sqrt(2)
        return layer

    patch.setattr(Generator, "convert", scaled)


MISTAKES = (
    no_reset, sharp_reals, fade_out, the_same_z, average_after_the_step, no_drift, no_curvature,
    rgb_of_an_activation,
)  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistake_is_found(trajectory, monkeypatch, mistake):
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        follow(trajectory)


# Networks


@pytest.mark.parametrize("sizes", COUNTS)
def test_parameter_counts(sizes):
    """As in the published code; the arrays of zeros take no memory before they are written."""
    base, width, size, channels = sizes
    nets = Generator(size, channels, width, base), Discriminator(size, channels, width, base)
    assert tuple(map(parameter_count, nets)) == COUNTS[sizes]


@pytest.mark.parametrize("size, width, base", [(2, 8, 64), (24, 8, 64), (32, 0, 64), (32, 8, 15)])
def test_networks_that_cannot_be(size, width, base):
    for net in (Generator, Discriminator):
        with pytest.raises(UserError):
            net(size, 1, width, base)


def test_a_fade_begins_where_the_smaller_networks_end():
    """So it does for a few images; the gradients of the new layers begin at 0."""
    system, z = small(), np.random.default_rng(0).normal(size=(4, WIDTH))
    G, D = system.generator, system.discriminator
    images, _ = G.at(Stage(4)).forward(z)
    faded, _ = G.at(Stage(8, 1e-13)).forward(z)
    assert_close(faded, images.repeat(2, 1).repeat(2, 2), allowed=1e-10)
    scores, _ = D.at(Stage(4)).forward(images)
    part = D.at(Stage(8, 1e-13))
    faded_scores, cache = part.forward(faded)
    assert_close(faded_scores, scores, allowed=1e-10)
    _, grads = part.backward(np.ones_like(scores), cache)
    assert abs(grads["block8.0.w"]).max() < 1e-10
    assert abs(grads["block4.1.w"]).max() > 1e-3


def test_layers_of_other_stages_do_not_move():
    system = small(dtype=np.float32)
    nets = system.generator, system.discriminator
    first = [state(net) for net in nets]
    for batch in islice(batches(np.float32), 5):  # to the end of the fade to 8x8
        system.train_step(*batch)
    for net, before in zip(nets, first):
        for name, a in state(net).items():
            if name.split(".")[0] in ("block16", "rgb16"):
                assert_same(a, before[name], name)
            else:
                assert (a != before[name]).any(), name


def test_initial_weights():
    """w ~ N(0, 1), b = 0: the scales are those of EqualizedLR."""
    system = build(Random(0))
    for net in (system.generator, system.discriminator):
        for path, layer in leaves(net):
            if layer.params:
                w, b = layer.params["w"], layer.params["b"]
                assert abs(w.std() - 1) < 4 / sqrt(w.size) and not b.any(), path


# Schedule and images


def test_schedule():
    schedule = GrowthSchedule(16, stable=100, fade=50)
    stages = {
        0: (4, 1), 100: (4, 1), 101: (8, 0.02), 125: (8, 0.5), 149: (8, 0.98), 150: (8, 1),
        250: (8, 1), 275: (16, 0.5), 300: (16, 1), 10**9: (16, 1),
    }  # fmt: skip
    for n, (resolution, alpha) in stages.items():
        assert schedule.stage(n) == Stage(resolution, pytest.approx(alpha)), n
    assert schedule.images() == 400
    assert GrowthSchedule(4).images() == 12_000 and GrowthSchedule(32).images() == 84_000


def test_without_fades_it_jumps():
    schedule = GrowthSchedule(8, stable=10, fade=0)
    assert [schedule.stage(n) for n in (9, 10)] == [Stage(4), Stage(8)]


def test_real_images(device, rng):
    x = rng.uniform(-1, 1, (3, 16, 16, 2))
    four = F.avg_pool2d(to_nchw(tensor(x)), 4)
    eight = F.avg_pool2d(to_nchw(tensor(x)), 2)
    want = 0.7 * F.interpolate(four, scale_factor=2) + 0.3 * eight
    x = device.asarray(x)
    assert_close(real_images(x, Stage(4)), to_nhwc(four))
    assert_close(real_images(x, Stage(8, 0.3)), to_nhwc(want))
    assert_same(real_images(x, Stage(16)), to_host(x))


def test_samples_have_the_full_size():
    system, z = small(), np.random.default_rng(0).normal(size=(3, WIDTH))
    for stage, k in ((None, 4), (Stage(4), 4), (Stage(8, 0.5), 2), (Stage(16), 1)):
        y = system.sample(z, stage)
        assert y.shape == (3, SIZE, SIZE, CHANNELS)
        assert_same(y, y[:, ::k, ::k].repeat(k, 1).repeat(k, 2))
