"""InfoGAN: code losses, parameter counts, and 20 steps of both forms beside a PyTorch twin."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.backend import array_module
from rawgan.layers import Sequential, leaves, parameter_count
from rawgan.layers.norm import BatchNorm
from rawgan.models.infogan import build, discriminator, generator
from rawgan.random import Random
from rawgan.systems import infogan
from rawgan.systems.infogan import (
    FORMS,
    Code,
    gaussian_nll,
    normal_codes,
    uniform_codes,
    weighted_log_sigmoid,
)
from tests.support.reference import assert_close, tensor
from tests.support.twins import states, to_nchw, twin

N, SIZE, CHANNELS, K = 4, 12, 2, 3


def torch_log_sigmoid(u, c):
    """Return the loss with log(s + 1e-7) as Keras has it."""
    return -(c * (u.sigmoid() + 1e-7).log()).mean(0).sum()


def torch_nll(u, c):
    """Return the negative log-likelihood without log(2 pi) / 2 for each code."""
    log_p = torch.distributions.Normal(u, 1).log_prob(c) + np.log(2 * np.pi) / 2
    return -log_p.mean(0).sum()


LOSSES = {"book": (weighted_log_sigmoid, torch_log_sigmoid), "gaussian": (gaussian_nll, torch_nll)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_code_loss(form, dtype, device, rng):
    """Value and gradient equal autograd's, far outputs included."""
    ours, theirs = LOSSES[form]
    u, c = rng.normal(size=(2, 7, 2)).astype(dtype)
    u[:4] = [[-200, 200], [60, -60], [0, 0], [-20, 20]]
    leaf = tensor(u).requires_grad_()
    value = theirs(leaf, tensor(c))
    (du,) = torch.autograd.grad(value, leaf)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        got = ours(device.asarray(u), device.asarray(c))
    scale = 1 if dtype == np.float64 else float(np.abs(value.item()))
    for name, g, w in zip(("value", "du"), got, (value.detach(), du), strict=True):
        assert g.dtype == dtype
        assert_close(g, w.numpy(), name, scale=scale, terms=c.size)
    if dtype == np.float64:
        assert np.abs(np.asarray(got[1]) - du.numpy()).max() < 1e-10


def test_the_books_loss_is_no_likelihood():
    """It is monotone in u, whatever the code: c = 0.3 and c = 0.5 have the same best u.

    Keras' epsilon alone bounds that of a negative code, and ends its gradient.
    """
    u = np.linspace(-60, 60, 121)[:, None]
    for c in (-0.5, -0.3, 0.3, 0.5):
        code = np.full((1, 1), c)
        values, slopes = zip(*(weighted_log_sigmoid(v.reshape(1, 1), code) for v in u))
        assert np.all(np.diff(values) * c <= 1e-12)
        assert np.isclose(max(np.abs(values)), 16.118 * abs(c), atol=1e-3)
        assert abs(slopes[0].item()) < 1e-18 and np.abs(slopes).max() > 0.9 * abs(c)


def test_codes_are_drawn_as_in_the_sources(rng):
    normal, uniform = (draw(rng, (20_000, 2)) for draw in (normal_codes, uniform_codes))
    assert normal.dtype == uniform.dtype == np.float32
    assert abs(normal.std() - 0.5) < 0.01 and np.abs(normal).max() > 1.5
    assert -1 <= uniform.min() < -0.99 and 0.99 < uniform.max() <= 1
    assert [form.draw for form in FORMS.values()] == [normal_codes, uniform_codes]


def test_parameter_counts():
    """Parameter counts are Keras' for the networks of the book."""
    assert parameter_count(generator(), buffers=True) == 1_138_433
    assert parameter_count(generator()) == 1_137_729
    assert parameter_count(discriminator()) == 1_606_541


def test_optimizers_of_the_book():
    model = build(Random(0), width=4)
    rates = [(o.lr, o.decay, o.rho, o.eps)
             for o in (model.generator_optimizer, model.discriminator_optimizer)]  # fmt: skip
    assert rates == [(1e-4, 3e-8, 0.9, 1e-7), (2e-4, 6e-8, 0.9, 1e-7)]


class Twin:
    """The same system in PyTorch, by autograd, with the formulas of the book and of the paper."""

    def __init__(self, model, form):
        self.model, self.form = model, form
        self.G, self.D = twin(model.generator), twin(model.discriminator)
        self.optimizers = [
            torch.optim.RMSprop(net.parameters(), lr=ours.lr, alpha=0.9, eps=1e-7)
            for net, ours in (
                (self.G, model.generator_optimizer),
                (self.D, model.discriminator_optimizer),
            )
        ]

    def generate(self, z, code, train):
        x = torch.cat([z, F.one_hot(code.labels, K), code.values], 1)
        return self.G.train(train)(x)

    def code_losses(self, scores, code):
        logits, u = scores[:, 1 : 1 + K], scores[:, 1 + K :]
        return F.cross_entropy(logits, code.labels), LOSSES[self.form][1](u, code.values)

    def loss(self, scores, real, code):
        """Return BCE of one label, and the losses of the codes where there is a code."""
        target = torch.full_like(scores[:, :1], float(real))
        source = F.binary_cross_entropy_with_logits(scores[:, :1], target)
        if code is None:
            return source
        of_class, of_codes = self.code_losses(scores, code)
        return source + of_class + (0.5 if self.form == "book" else 1.0) * of_codes

    def update(self, player, loss):
        ours = (self.model.generator_optimizer, self.model.discriminator_optimizer)[player]
        net, optimizer = (self.G, self.D)[player], self.optimizers[player]
        for group in optimizer.param_groups:  # PyTorch's RMSprop has no decay
            group["lr"] = ours.lr / (1 + ours.decay * (ours.t - 1))
        optimizer.zero_grad()
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters()))):
            p.grad = g
        optimizer.step()

    def train_step(self, x, x_code, z, code, new_z, new_code):
        real_scores = self.D(x)
        fake_scores = self.D(self.generate(z, code, False).detach())
        if self.form == "book":
            d_loss = (
                self.loss(real_scores, True, x_code) + self.loss(fake_scores, False, code)
            ) / 2
        else:
            d_loss = self.loss(real_scores, True, None) + self.loss(fake_scores, False, code)
        self.update(1, d_loss)
        scores = self.D(self.generate(new_z, new_code, True))
        g_loss = self.loss(scores, True, new_code)
        of_class, of_codes = self.code_losses(scores, new_code)
        self.update(0, g_loss)
        return {
            "d_loss": d_loss,
            "g_loss": g_loss,
            "class_loss": of_class,
            "code_loss": of_codes,
            "d_real": real_scores[:, :1].sigmoid().mean(),
            "d_fake": fake_scores[:, :1].sigmoid().mean(),
        }


def batch(rng, form, device):
    """Return the inputs of a step for rawgan and for the twin."""

    def code():
        return Code(rng.integers(K, size=N), rng.normal(size=(N, 2)) / 2)

    def both(a):
        if a is None:
            return None, None
        if isinstance(a, Code):
            arrays = Code(*map(device.asarray, a))
            return arrays, Code(torch.from_numpy(a.labels), tensor(a.values))
        return device.asarray(a), to_nchw(tensor(a)) if a.ndim == 4 else tensor(a)

    inputs = [rng.uniform(size=(N, SIZE, SIZE, CHANNELS)), code() if form == "book" else None]
    for _ in range(2):
        inputs += [rng.uniform(-1, 1, (N, 62)), code()]
    return zip(*map(both, inputs))


def follow(form, device, steps=20):
    """Train rawgan and its twin on the same inputs; every loss and weight is equal to 1e-10."""
    shape = {"size": SIZE, "channels": CHANNELS, "width": 2, "classes": K}
    model = build(Random(5), form, **shape, lr=1e-3, device=device, dtype=np.float64)
    # decays that count within 20 steps
    model.generator_optimizer.decay, model.discriminator_optimizer.decay = 0.03, 0.06
    other, rng = Twin(model, form), np.random.default_rng(7)
    nets = ((model.generator, other.G), (model.discriminator, other.D))
    first = [{name: w.copy() for name, (_, w) in states(*pair).items()} for pair in nets]
    for n in range(steps):
        ours, theirs = batch(rng, form, device)
        got, want = model.train_step(*ours), other.train_step(*theirs)
        assert got.keys() == want.keys()
        for name in want:
            assert_close(got[name], want[name].detach(), f"step {n}: {name}", allowed=1e-10)
    for pair, before in zip(nets, first):
        for name, (g, w) in states(*pair).items():
            assert_close(g, w, name, allowed=1e-10)
            assert (w != before[name]).any(), f"{name} has not moved"


@pytest.mark.parametrize("form", FORMS)
def test_training_is_that_of_pytorch(form, device):
    follow(form, device)


def fakes_in_training_mode(m):
    forward = Sequential.forward
    m.setattr(Sequential, "forward", lambda self, x, train=True: forward(self, x))


def codes_of_the_fakes_on_real_images(m):
    step = infogan.InfoGAN.train_step
    m.setattr(
        infogan.InfoGAN,
        "train_step",
        lambda self, x, x_code, z, code, *new: step(self, x, code, z, code, *new),
    )


def no_mean_over_both(m):
    loss = infogan.InfoGAN.discriminator_loss
    m.setattr(
        infogan.InfoGAN,
        "discriminator_loss",
        lambda self, *args: tuple(2 * a for a in loss(self, *args)),
    )


def weight_forgotten_in_the_gradient(m):
    losses = infogan.InfoGAN.code_losses

    def wrong(self, scores, code):
        class_loss, code_loss, dcode = losses(self, scores, code)
        du = dcode[:, K:] / self.form.weight
        return class_loss, code_loss, array_module(dcode).concatenate([dcode[:, :K], du], 1)

    m.setattr(infogan.InfoGAN, "code_losses", wrong)


def generator_learns_from_the_old_codes(m):
    step = infogan.InfoGAN.train_step
    m.setattr(
        infogan.InfoGAN,
        "train_step",
        lambda self, x, x_code, z, code, *new: step(self, x, x_code, z, code, z, code),
    )


MISTAKES = [
    fakes_in_training_mode,
    codes_of_the_fakes_on_real_images,
    no_mean_over_both,
    weight_forgotten_in_the_gradient,
    generator_learns_from_the_old_codes,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_mistake_is_found(mistake, device, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        follow("book", device, steps=3)


def test_the_paper_form_never_sees_a_label(device):
    """In the Gaussian form the scores of real images have a gradient at the source alone."""
    model = build(Random(0), "gaussian", SIZE, CHANNELS, 2, K, device=device)
    scores = device.asarray(np.random.default_rng(0).standard_normal((2 * N, 3 + K), np.float32))
    code = Code(device.asarray(np.zeros(N, np.int64)), device.asarray(np.ones((N, 2), np.float32)))
    _, dscores = model.discriminator_loss(scores, None, code)
    assert dscores[:N, :1].all() and not dscores[:N, 1:].any() and dscores[N:].all()


def test_categories_are_those_of_the_largest_logit():
    scores = np.array([[9, 0, 1, 2, 9, 9], [9, 5, 1, 2, 9, 9]], np.float32)
    network = SimpleNamespace(forward=lambda x, train: (scores, None))
    model = infogan.InfoGAN(None, network, None, None, classes=3)
    assert model.categories(None).tolist() == [2, 0]


def test_batch_norm_is_in_the_generator_alone():
    """So D's joint batch computes what two passes would."""
    model = build(Random(0), width=2)
    assert not any(isinstance(layer, BatchNorm) for _, layer in leaves(model.discriminator))
    assert any(isinstance(layer, BatchNorm) for _, layer in leaves(model.generator))
