"""rawgan.systems.cyclegan and rawgan.models.cyclegan: losses, networks, and a training in PyTorch.

Mistakes put into the step are detected by the comparison.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.backend import CPU, to_host
from rawgan.errors import UserError
from rawgan.geometry import same_pad
from rawgan.layers import Sequential, Sigmoid, parameter_count
from rawgan.losses import LeastSquares
from rawgan.models.atienza import atienza_discriminator
from rawgan.models.cyclegan import build, discriminator, generator
from rawgan.random import Random
from rawgan.systems import cyclegan
from rawgan.systems.cyclegan import (
    NETWORKS,
    CycleGAN,
    discriminator_loss,
    generator_loss,
    mean_absolute_error,
)
from tests.support.reference import assert_close, assert_same, randomize, tensor
from tests.support.twins import mse_to, states, to_nchw, twin

EXACT = {"allowed": 1e-10}


class TestLosses:
    def test_l1(self, device, rng):
        y, x = rng.normal(size=(2, 3, 4, 5, 2))
        y[0, 0] = x[0, 0]  # the gradient is 0 there
        leaf = tensor(y).requires_grad_()
        want = F.l1_loss(leaf, tensor(x))
        want.backward()
        got, dy = mean_absolute_error(device.asarray(y), device.asarray(x))
        assert_close(got, want.item(), **EXACT)
        assert_close(dy, leaf.grad.numpy(), **EXACT)
        assert not to_host(dy)[0, 0].any()

    def test_of_the_discriminator_is_the_mean_over_one_batch(self, device, rng):
        a, c = rng.normal(size=(2, 5, 2, 2, 1))
        leaves = [tensor(scores).requires_grad_() for scores in (a, c)]
        labels = torch.cat([torch.ones(a.shape), torch.zeros(c.shape)]).double()
        want = F.mse_loss(torch.cat(leaves), labels)
        want.backward()
        got = discriminator_loss(device.asarray(a), device.asarray(c))
        for g, w in zip(got, (want.detach(), *(leaf.grad for leaf in leaves)), strict=True):
            assert_close(g, w.numpy(), **EXACT)

    def test_of_the_generator(self, device, rng):
        D = build(Random(0), 16, width=2, device=device, dtype=np.float64).d_target
        fake = rng.uniform(size=(3, 16, 16, 3))
        leaf = tensor(fake).requires_grad_()
        want = mse_to(1)(twin(D)(to_nchw(leaf)))
        want.backward()
        loss, dfake = generator_loss(D, device.asarray(fake))
        assert_close(loss, want.item(), **EXACT)
        assert_close(dfake, leaf.grad.numpy(), **EXACT)


class TestNetworks:
    @pytest.mark.parametrize(
        "net, count",
        [
            (generator(1, 3), 870_757),
            (generator(3, 1), 870_183),
            (generator(1, 3, kernel=5), 2_414_437),
            (generator(3, 1, kernel=5), 2_412_839),
            (discriminator(1), 390_145),
            (discriminator(3), 390_721),
            (discriminator(1, kernel=5), 1_082_881),
            (discriminator(3, kernel=5), 1_084_481),
            (atienza_discriminator(32, 1), 1_080_577),  # the book's variant with a Linear
            (atienza_discriminator(32, 3), 1_082_177),
        ],
    )
    def test_parameter_counts(self, net, count):
        assert parameter_count(net) == count

    @pytest.mark.parametrize("kernel, even, halved", [(3, (1, 1), (0, 1)), (5, (2, 2), (1, 2))])
    def test_padding_is_that_of_keras(self, kernel, even, halved):
        for size in (32, 16, 8):
            assert same_pad(size, kernel, 1) == even and same_pad(size, kernel, 2) == halved

    @pytest.mark.parametrize("size, patches", [(16, 1), (24, 2), (32, 2), (64, 4)])
    def test_shapes(self, size, patches, rng):
        model = build(Random(0), size, width=2)
        x = rng.random((2, size, size, 1), np.float32)
        fake, again = model.translate(x)
        assert fake.shape == (2, size, size, 3) and again.shape == x.shape
        assert model.translate_back(fake)[0].shape == x.shape
        assert 0 <= fake.min() and fake.max() <= 1 and fake.dtype == np.float32
        assert model.d_target.forward(fake)[0].shape == (2, patches, patches, 1)

    @pytest.mark.parametrize("kernel", [3, 5])
    def test_second_derivatives(self, kernel, rng):
        """<ddx, dx> differentiated by double_backward, as PyTorch's autograd does."""
        net = build(Random(0), 16, (1, 2), 2, kernel, dtype=np.float64).g_target
        randomize(net, rng)
        x, ddx = rng.normal(size=(2, 2, 16, 16, 1))
        dy = rng.normal(size=(2, 16, 16, 2))
        leaf, copy = tensor(x).requires_grad_(), twin(net)
        (dx,) = torch.autograd.grad(
            copy(to_nchw(leaf)), leaf, to_nchw(tensor(dy)), create_graph=True
        )
        (dx * tensor(ddx)).sum().backward()
        _, got, _ = net.double_backward(ddx, dy, net.forward(x)[1])
        assert_close(got, leaf.grad.numpy(), **EXACT)

    def test_brightness_and_contrast_do_not_reach_the_generator(self, rng):
        """The first InstanceNorm removes them, but for eps: the translation is the same."""
        model = build(Random(0), 16, width=4, dtype=np.float64)
        x = rng.uniform(size=(2, 16, 16, 1))
        x = 1e4 * x  # eps = 1e-3 is then small beside the variance
        want = model.translate(x)[0]
        for changed in (2e4 + x, 3 * x, 2e4 + 3 * x):
            assert_close(model.translate(changed)[0], want, allowed=1e-9)
        assert abs(model.translate(x**2)[0] - want).max() > 1e-3

    @pytest.mark.parametrize("size", [-8, 0, 8, 20, 28])
    def test_sizes_that_cannot_be_halved(self, size):
        with pytest.raises(UserError, match=f"{size} is no 16, 24, 32"):
            build(Random(0), size)

    def test_identity_needs_like_channels(self):
        with pytest.raises(UserError, match="as many channels in source and target, not 1 and 3"):
            build(Random(0), 16, identity=0.5)


class Twin:
    """The four networks in PyTorch, trained with autograd and torch.optim.RMSprop."""

    def __init__(self, model: CycleGAN, decay: float):
        self.model = model
        self.nets = {name: twin(net) for name, net in model.networks().items()}
        lr = {name: model.optimizers[name].lr for name in NETWORKS}
        self.optimizers = {
            name: torch.optim.RMSprop(net.parameters(), lr[name], 0.9, 1e-7)
            for name, net in self.nets.items()
        }
        rates = {name: decay if name.startswith("d_") else decay / 2 for name in NETWORKS}
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda t, rate=rates[name]: 1 / (1 + rate * t)
            )
            for name, optimizer in self.optimizers.items()
        ]

    def train_step(self, source, target):
        """Train in the order of the book's program; return the losses under rawgan's names."""
        x, y = (to_nchw(tensor(images)) for images in (source, target))
        nets, losses = self.nets, {}
        for who, real, other in (("target", y, x), ("source", x, y)):
            with torch.no_grad():
                fake = nets[f"g_{who}"](other)
            scores = nets[f"d_{who}"](torch.cat([real, fake]))
            labels = torch.zeros_like(scores)
            labels[: len(real)] = 1
            losses[f"d_{who}_loss"] = F.mse_loss(scores, labels)
            self.optimizers[f"d_{who}"].zero_grad()
            losses[f"d_{who}_loss"].backward()
            self.optimizers[f"d_{who}"].step()
        for who, other, start, end in (("target", "source", x, y), ("source", "target", y, x)):
            fake = nets[f"g_{who}"](start)
            losses[f"g_{who}_loss"] = mse_to(1)(nets[f"d_{who}"](fake))
            losses[f"cycle_{other}"] = F.l1_loss(nets[f"g_{other}"](fake), start)
            if self.model.identity:
                losses[f"identity_{who}"] = F.l1_loss(nets[f"g_{who}"](end), end)
        weights = {"g": 1, "cycle": 10, "identity": self.model.identity}
        for who in ("g_target", "g_source"):
            self.optimizers[who].zero_grad()
        sum(
            weights[kind] * loss
            for name, loss in losses.items()
            if (kind := name.partition("_")[0]) != "d"
        ).backward()
        for who in ("g_target", "g_source"):
            self.optimizers[who].step()
        for schedule in self.schedules:
            schedule.step()
        return {name: loss.item() for name, loss in losses.items()}

    def states(self):
        return {
            f"{name} {key}": pair
            for name, net in self.nets.items()
            for key, pair in states(self.model.networks()[name], net).items()
        }


def assert_parity(steps, channels=(1, 3), identity=0.0, kernel=3, device=CPU, decay=1e-2):
    """Assert that every loss and every weight of `steps` steps in float64 equals the twin's."""
    model = build(
        Random(3), 16, channels, 2, kernel, 2e-3, decay, identity, device=device, dtype=np.float64
    )
    torch_model, rng = Twin(model, decay), np.random.default_rng(7)
    first = {name: pair[1].copy() for name, pair in torch_model.states().items()}
    for step in range(steps):
        source, target = (rng.uniform(size=(4, 16, 16, C)) for C in channels)
        got = model.train_step(device.asarray(source), device.asarray(target))
        want = torch_model.train_step(source, target)
        assert got.keys() == want.keys()
        for name in want:
            assert_close(got[name], want[name], f"step {step}: {name}", **EXACT)
    for name, (g, w) in torch_model.states().items():
        assert_close(g, w, name, **EXACT)
        assert (w != first[name]).any(), f"{name} has not moved"


class TestTraining:
    def test_gray_to_colour(self, device):
        assert_parity(20, device=device)

    def test_with_identity(self, device):
        assert_parity(20, (2, 2), 0.5, 5, device)

    def test_the_same_seed_the_same_bits(self):
        weights = []
        for _ in range(2):
            model, rng = build(Random(3), 16, width=2), np.random.default_rng(0)
            for _ in range(3):
                model.train_step(*(rng.random((4, 16, 16, C), np.float32) for C in (1, 3)))
            weights.append([to_host(o.parameters.flat).copy() for o in model.optimizers.values()])
        for a, b in zip(*weights, strict=True):
            assert_same(a, b)


def no_gradient_through_d(m):
    """Mistake: G learns from the cycles alone."""
    m.setattr(cyclegan, "generator_loss", lambda D, x: (generator_loss(D, x)[0], x * 0))


def discriminator_forgets_the_batch(m):
    """Mistake: the gradient is of the sum of the means over real and over fake."""

    def doubled(a, c):
        return discriminator_loss(a, c)[0], *LeastSquares().discriminator(a, c)[1:]

    m.setattr(cyclegan, "discriminator_loss", doubled)


def cycle_ends_at_the_translation(m):
    """Mistake: the way back passes no gradient to the translated image."""
    backward = Sequential.backward

    def cut(self, dy, cache, need_dx=True, need_grads=True):
        dx, grads = backward(self, dy, cache, need_dx, need_grads)
        of_the_way_back = need_dx and need_grads and isinstance(self.layers[-1], Sigmoid)
        return (dx * 0 if of_the_way_back else dx), grads

    m.setattr(Sequential, "backward", cut)


def a_pass_is_forgotten(m):
    """Mistake: the weights receive no gradient from the way back."""
    update = CycleGAN.update
    m.setattr(
        CycleGAN, "update", lambda self, name, *passes: update(self, name, passes[0], *passes[2:])
    )


def ways_back_are_exchanged(m):
    """Mistake: each G receives the gradient of the other's way back."""
    update, waiting = CycleGAN.update, []

    def exchanged(self, name, *passes):
        if name.startswith("d_"):
            update(self, name, *passes)
        elif name == "g_target":
            waiting.append(passes)
        else:
            there, back, *same = waiting.pop()
            update(self, "g_target", there, passes[1], *same)
            update(self, name, passes[0], back, *passes[2:])

    m.setattr(CycleGAN, "update", exchanged)


def old_discriminators(m):
    """Mistake: both G learn from the discriminators before their updates."""
    update, waiting = CycleGAN.update, []

    def postponed(self, name, *passes):
        if name.startswith("d_"):
            waiting.append((name, passes))
            return
        update(self, name, *passes)
        while name == "g_source" and waiting:
            d, d_passes = waiting.pop()
            update(self, d, *d_passes)

    m.setattr(CycleGAN, "update", postponed)


@pytest.mark.parametrize(
    "mistake",
    [
        no_gradient_through_d,
        discriminator_forgets_the_batch,
        cycle_ends_at_the_translation,
        a_pass_is_forgotten,
        ways_back_are_exchanged,
        old_discriminators,
    ],
    ids=lambda mistake: mistake.__name__,
)
def test_mistakes_are_caught(mistake, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match=r"^step [01]: "):
        assert_parity(2, (2, 2), 0.5)
