"""StackedGAN: parameter counts, losses, and encoder and stacks beside a PyTorch twin."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.backend import CPU
from rawgan.layers import Sequential, parameter_count, state
from rawgan.models import stackedgan as models
from rawgan.models.stackedgan import Z, build
from rawgan.random import Random
from rawgan.systems import stackedgan
from rawgan.systems.infogan import normal_codes
from rawgan.systems.stackedgan import Stack, squared_error
from tests.support.reference import assert_close, assert_same, tensor
from tests.support.twins import set_epsilon_hat, states, to_nchw, twin

N, SIZE, CHANNELS, K = 4, 12, 2, 3

COUNTS = {  # of the book: with running statistics, and trained
    "encoder0": (840_640, 840_640),
    "encoder1": (2_570, 2_570),
    "generator1": (429_312, 427_264),
    "generator0": (2_593_537, 2_592_833),
    "discriminator1": (144_691, 144_691),
    "discriminator0": (1_285_427, 1_285_427),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    net = getattr(models, name)()
    assert (parameter_count(net, buffers=True), parameter_count(net)) == COUNTS[name]


def test_squared_error(device, rng):
    estimate, target = rng.normal(size=(2, 5, 3))
    leaf = tensor(estimate).requires_grad_()
    value = F.mse_loss(leaf, tensor(target))
    (gradient,) = torch.autograd.grad(value, leaf)
    got = squared_error(device.asarray(estimate), device.asarray(target))
    for g, w in zip(got, (value.detach(), gradient), strict=True):
        assert_close(g, w, allowed=1e-10)


def test_noise_and_optimizers_are_those_of_the_book(rng):
    z = normal_codes(rng, (20_000, 2))
    assert z.dtype == np.float32 and abs(z.std() - 0.5) < 0.01 and np.abs(z).max() > 1.5
    model = build(Random(0), width=4)
    for stack, weight in ((model.features, 1.0), (model.images, 10.0)):
        assert stack.weight == weight
        for o, want in (
            (stack.generator_optimizer, (1e-4, 3e-8)),
            (stack.discriminator_optimizer, (2e-4, 6e-8)),
        ):
            assert (o.lr, o.decay, o.rho, o.eps) == (*want, 0.9, 1e-7)
    for adam in (model.encoder.features_optimizer, model.encoder.logits_optimizer):
        assert (adam.lr, adam.betas, adam.eps, adam.epsilon_hat) == (1e-3, (0.9, 0.999), 1e-7, True)


class Twin:
    """The same system in PyTorch, by autograd."""

    def __init__(self, model):
        self.model = model
        self.E0, self.E1 = twin(model.encoder.features), twin(model.encoder.logits)
        self.stacks = [self.stack(model.images), self.stack(model.features)]
        both = [*self.E0.parameters(), *self.E1.parameters()]
        self.adam = torch.optim.Adam(both, lr=1e-3)

    def stack(self, stack):
        """Return (G, its optimizer), (D, its optimizer), each with rawgan's optimizer."""
        return [
            (
                net := twin(ours),
                torch.optim.RMSprop(net.parameters(), lr=o.lr, alpha=0.9, eps=1e-7),
                o,
            )
            for ours, o in (
                (stack.generator, stack.generator_optimizer),
                (stack.discriminator, stack.discriminator_optimizer),
            )
        ]

    def nets(self):
        model = self.model
        pairs = [(model.encoder.features, self.E0), (model.encoder.logits, self.E1)]
        for ours, theirs in ((model.images, self.stacks[0]), (model.features, self.stacks[1])):
            pairs += [(ours.generator, theirs[0][0]), (ours.discriminator, theirs[1][0])]
        return pairs

    def encoder_step(self, x, labels):
        loss = F.cross_entropy(self.E1(self.E0(x)), labels)
        self.adam.zero_grad()
        loss.backward()
        set_epsilon_hat(self.adam, 1e-7)
        self.adam.step()
        return loss

    def update(self, player, loss):
        net, optimizer, ours = player
        for group in optimizer.param_groups:  # PyTorch's RMSprop has no decay
            group["lr"] = ours.lr / (1 + ours.decay * (ours.t - 1))
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters()))):
            p.grad = g
        optimizer.step()
        return loss.detach()

    def losses(self, scores, real, z, weight):
        target = torch.full_like(scores[:, :1], float(real))
        source = F.binary_cross_entropy_with_logits(scores[:, :1], target)
        return source + weight * F.mse_loss(scores[:, 1:], z)

    def discriminator_step(self, level, real, condition, z, weight):
        (G, *_), D = self.stacks[level]
        fake = G.eval()(torch.cat([condition, z], 1)).detach()
        of_real = self.losses(D[0](real), True, z, weight)
        of_fake = self.losses(D[0](fake), False, z, weight)
        return self.update(D, (of_real + of_fake) / 2)

    def generator_step(self, level, condition, z, weight, of_fake):
        G, (D, *_) = self.stacks[level]
        fake = G[0].train()(torch.cat([condition, z], 1))
        loss = self.losses(D(fake), True, z, weight) + of_fake(fake)
        return self.update(G, loss)

    def train_step(self, x, labels, z1, z0, new_z1, new_z0):
        f, hot = self.E0(x).detach(), F.one_hot(labels, K).double()
        return {
            "d1_loss": self.discriminator_step(1, f, hot, z1, 1.0),
            "d0_loss": self.discriminator_step(0, x, f, z0, 10.0),
            "g1_loss": self.generator_step(
                1, hot, new_z1, 1.0, lambda f: F.cross_entropy(self.E1(f), labels)
            ),
            "g0_loss": self.generator_step(
                0, f, new_z0, 10.0, lambda image: F.mse_loss(self.E0(image), f)
            ),
        }


def follow(device, steps=20):
    """Train the encoder 5 steps, then the stacks; every loss and weight is equal to 1e-10."""
    shape = {"size": SIZE, "channels": CHANNELS, "width": 1, "classes": K}
    model = build(Random(4), **shape, lr=1e-3, device=device, dtype=np.float64)
    for stack in (model.features, model.images):  # decays that count within 20 steps
        stack.generator_optimizer.decay, stack.discriminator_optimizer.decay = 0.03, 0.06
    other, rng = Twin(model), np.random.default_rng(7)
    first = [{name: w.copy() for name, (_, w) in states(*pair).items()} for pair in other.nets()]

    def images():
        return rng.uniform(size=(N, SIZE, SIZE, CHANNELS)), rng.integers(K, size=N)

    for n in range(5):
        x, labels = images()
        got = model.encoder.train_step(device.asarray(x), device.asarray(labels))["loss"]
        want = other.encoder_step(to_nchw(tensor(x)), torch.from_numpy(labels))
        assert_close(got, want.detach(), f"encoder, step {n}", allowed=1e-10)
    for n in range(steps):
        (x, labels), noise = images(), rng.normal(size=(4, N, Z)) / 2
        got = model.train_step(*map(device.asarray, (x, labels, *noise)))
        want = other.train_step(to_nchw(tensor(x)), torch.from_numpy(labels), *map(tensor, noise))
        assert got.keys() == want.keys()
        for name in want:
            assert_close(got[name], want[name], f"step {n}: {name}", allowed=1e-10)
    for pair, before in zip(other.nets(), first):
        for name, (g, w) in states(*pair).items():
            assert_close(g, w, name, allowed=1e-10)
            assert (w != before[name]).any(), f"{name} has not moved"


def test_training_is_that_of_pytorch(device):
    follow(device)


def test_the_encoder_is_frozen(rng):
    model = build(Random(0), SIZE, CHANNELS, 1, K)
    nets = (model.encoder.features, model.encoder.logits)
    before = [{name: a.copy() for name, a in state(net).items()} for net in nets]
    noise = normal_codes(rng, (4 * N, Z)).reshape(4, N, Z)
    x = rng.uniform(size=(N, SIZE, SIZE, CHANNELS)).astype(np.float32)
    model.train_step(x, np.arange(N) % K, *noise)
    for net, arrays in zip(nets, before):
        for name, a in state(net).items():
            assert_same(a, arrays[name])


def fakes_in_training_mode(m):
    forward = Sequential.forward
    m.setattr(Sequential, "forward", lambda self, x, train=True: forward(self, x))


def no_gradient_through_the_encoder(m):
    step = Stack.generator_step

    def wrong(self, condition, z, encoder, of_code):
        def constant(code):
            loss, dcode = of_code(code)
            return loss, dcode * 0

        return step(self, condition, z, encoder, constant)

    m.setattr(Stack, "generator_step", wrong)


def weight_of_the_noise_forgotten(m):
    m.setattr(
        stackedgan,
        "squared_error",
        lambda estimate, target: tuple(
            a / (10 if estimate.shape[1] == Z else 1) for a in squared_error(estimate, target)
        ),
    )


def images_from_fake_features(m):
    step = stackedgan.StackedGAN.train_step

    def wrong(self, x, labels, z1, *noise):
        forward = self.encoder.features.forward
        self.encoder.features.forward = lambda a, train=True: (
            (self.features.generate(np.eye(K)[labels], z1), None) if a is x else forward(a, train)
        )
        return step(self, x, labels, z1, *noise)

    m.setattr(stackedgan.StackedGAN, "train_step", wrong)


MISTAKES = [
    fakes_in_training_mode,
    no_gradient_through_the_encoder,
    weight_of_the_noise_forgotten,
    images_from_fake_features,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_mistake_is_found(mistake, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        follow(CPU, steps=2)


def test_an_image_passes_both_generators(rng):
    """generate is G0([G1([label, z1]), z0]), and another label gives another image."""
    model = build(Random(1), SIZE, CHANNELS, 2, K)
    z1, z0 = normal_codes(rng, (2 * N, Z)).reshape(2, N, Z)
    labels = np.arange(N) % K
    hot = np.eye(K, dtype=np.float32)[labels]
    f, _ = model.features.generator.forward(np.concatenate([hot, z1], 1), train=False)
    x, _ = model.images.generator.forward(np.concatenate([f, z0], 1), train=False)
    assert_same(model.generate(labels, z1, z0), x)
    assert (model.generate((labels + 1) % K, z1, z0) != x).any()
