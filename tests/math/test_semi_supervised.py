"""rawgan.systems.semi_supervised: losses, networks and whole trainings against PyTorch."""

import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.layers import GaussianNoise, Sequential, WeightNorm, leaves, parameter_count
from rawgan.losses import cross_entropy
from rawgan.models.semi_supervised import build, discriminator, generator
from rawgan.random import Random
from rawgan.systems import semi_supervised as system
from rawgan.systems.semi_supervised import (
    SemiSupervisedGAN,
    absolute_feature_matching,
    classes,
    feature_matching,
    log_sum_exp,
    unlabelled_loss,
)
from tests.support.block_twins import GaussianNoise as TorchNoise
from tests.support.reference import assert_close, assert_same, tensor
from tests.support.twins import states, to_nchw, twin

both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])
N, SHAPE, Z, K = 6, (4, 4, 1), 5, 3
X = np.random.default_rng(2).uniform(size=(30, *SHAPE))


def with_fake(logits):
    """Return the log-probabilities of K + 1 classes, the last one being "fake", of logit 0."""
    return F.log_softmax(torch.cat([logits, torch.zeros(len(logits), 1).to(logits)], 1), 1)


def torch_unlabelled(real, fake):
    """Return the loss of D from the probabilities of the K + 1 classes."""
    is_real = with_fake(real)[:, :-1].logsumexp(1)
    return -is_real.mean() / 2 - with_fake(fake)[:, -1].mean() / 2


def torch_matching(fake, real):
    return F.mse_loss(fake.mean(0), real.mean(0))


def torch_absolute_matching(fake, real):
    return F.l1_loss(fake.mean(0), real.mean(0))


def autograd(f, *inputs):
    """Return the value and the gradients of a function in float64 by autograd."""
    inputs = [tensor(a).requires_grad_() for a in inputs]
    value = f(*inputs)
    return [t.detach().numpy() for t in (value, *torch.autograd.grad(value.sum(), inputs))]


class TestLosses:
    @both_dtypes
    def test_log_sum_exp(self, dtype, device, rng):
        logits = rng.normal(size=(5, 7), scale=3).astype(dtype)
        got = log_sum_exp(device.asarray(logits))
        want = autograd(lambda a: a.logsumexp(1, keepdim=True), logits)
        for name, g, w in zip(("L", "p"), got, want, strict=True):
            assert g.dtype == dtype
            assert_close(g, w, name, terms=7)

    @both_dtypes
    def test_unlabelled(self, dtype, device, rng):
        real, fake = (rng.normal(size=(n, 4), scale=3).astype(dtype) for n in (5, 6))
        got = unlabelled_loss(device.asarray(real), device.asarray(fake))
        want = autograd(torch_unlabelled, real, fake)
        for name, g, w in zip(("loss", "dreal", "dfake"), got, want, strict=True):
            assert g.dtype == dtype
            assert_close(g, w, name, terms=real.size)

    @both_dtypes
    @pytest.mark.parametrize(
        "loss, of_torch",
        [(feature_matching, torch_matching), (absolute_feature_matching, torch_absolute_matching)],
    )
    def test_matching(self, loss, of_torch, dtype, device, rng):
        fake, real = (rng.normal(size=(n, 4)).astype(dtype) for n in (5, 6))
        got = loss(device.asarray(fake), device.asarray(real))
        want = autograd(of_torch, fake, real)[:2]
        for name, g, w in zip(("loss", "dfake"), got, want, strict=True):
            assert g.dtype == dtype
            assert_close(g, w, name, terms=fake.size)

    @both_dtypes
    def test_far_out(self, dtype):
        """Nothing overflows, and a loss near 0 keeps its digits, at logits of any size."""
        far = np.array([-1e4, -120, 0, 120, 1e4], dtype)
        logits = np.stack(np.meshgrid(far, far), -1).reshape(-1, 2)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            for n in range(len(logits)):
                for m in range(len(logits)):
                    pair = logits[n : n + 1], logits[m : m + 1]
                    want = autograd(torch_unlabelled, *pair)
                    for g, w in zip(unlabelled_loss(*pair), want, strict=True):
                        assert_close(g, w, scale=max(1, np.abs(w).max()), terms=4)

    def test_one_class_is_the_usual_discriminator(self, rng):
        """With K = 1, L is the logit, and the loss half the binary cross-entropy of a GAN."""
        a, c = rng.normal(size=(2, 5, 1))
        loss, da, dc = unlabelled_loss(a, c)
        want = np.logaddexp(0, -a).mean() / 2 + np.logaddexp(0, c).mean() / 2
        assert_close(loss, want)
        assert_close(da, (1 / (1 + np.exp(-a)) - 1) / 10)
        assert_close(dc, 1 / (1 + np.exp(-c)) / 10)


def small(device=None, seed=3, **sizes):
    """Return a small system in float64."""
    first = np.random.default_rng(1).uniform(size=(20, *SHAPE))
    options = {"classes": K, "width": 8, "z": Z, "dtype": np.float64} | sizes
    if device is None:
        return build(Random(seed), first, **options)
    return build(Random(seed), device.asarray(first), device=device, **options)


def batches(steps):
    """Yield the inputs of train_step."""
    rng = np.random.default_rng(7)
    for _ in range(steps):
        x, u, v = rng.uniform(size=(3, N, *SHAPE))
        z, z2 = rng.uniform(size=(2, N, Z))
        yield x, rng.integers(K, size=N), u, z, v, z2


class TestNetworks:
    def test_parameter_counts(self):
        """The counts are those of the source: 694,568 of G, 1,538,770 of D, and 2,250 scales."""
        G, D = generator(), discriminator()
        assert parameter_count(G) == 694_568 and parameter_count(D) == 1_538_770
        assert parameter_count(D, buffers=True) == 1_538_770 + 2_250

    def test_of_other_shapes(self):
        G, D = generator((16, 8, 3), 12), discriminator((16, 8, 3), 12, 4)
        model = build(Random(0), np.random.default_rng(0).random((30, 16, 8, 3), np.float32), 4, 12)
        assert parameter_count(model.generator) == parameter_count(G)
        assert parameter_count(model.discriminator) == parameter_count(D)
        fake, _ = model.generator.forward(np.random.default_rng(0).random((5, 100), np.float32))
        assert fake.shape == (5, 16, 8, 3) and fake.min() > 0 and fake.max() < 1
        assert model.discriminator.forward(fake)[0].shape == (5, 4)
        assert model.body.forward(fake)[0].shape == (5, 6)

    def test_noise_is_off_in_inference(self, rng):
        D, x = small().discriminator, rng.uniform(size=(N, *SHAPE))
        assert_same(D.forward(x, False)[0], D.forward(x, False)[0])
        assert (D.forward(x)[0] != D.forward(x)[0]).any()

    def test_first_values(self):
        """Scales and biases of D give each unit mean 0 and std 1 over the images, with noise."""
        D, first = small(seed=5).discriminator, np.random.default_rng(1).uniform(size=(20, *SHAPE))
        noise, x = Random(5).stream("noise"), tensor(first.reshape(20, -1))
        for _, layer in leaves(D):
            if isinstance(layer, GaussianNoise):
                copy = TorchNoise(layer)
                copy.rng = noise
                x = copy(x)
            elif isinstance(layer, WeightNorm):
                w = tensor(layer.params["w"])
                t = x @ (w / w.norm(dim=1, keepdim=True)).T
                mean, std = t.mean(0), t.std(0, unbiased=False)
                assert_close(layer.g, 1 / std, terms=100)
                assert_close(layer.params["b"], -mean / std, terms=100)
                x = ((t - mean) / std).relu()
        assert len(leaves(D)) == 1 + 3 * 5 + 2


class Twin:
    """The system in PyTorch, with autograd, torch.optim.Adam and the average as a plain sum."""

    def __init__(self, model: SemiSupervisedGAN, seed=3, lr=3e-3, matching=torch_matching):
        self.model, self.matching = model, matching
        self.D = twin(model.discriminator)
        noise = Random(seed).stream("noise")
        layers = [layer for _, layer in leaves(model.discriminator)]
        noise.bit_generator.state = next(
            layer.rng.bit_generator.state for layer in layers if hasattr(layer, "rng")
        )
        for module in self.D.modules():
            if hasattr(module, "rng"):
                module.rng = noise
        nets = [self.D]
        if isinstance(model, SemiSupervisedGAN):
            self.G = twin(model.generator)
            nets.append(self.G)
        self.optimizers = {
            net: torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.999), eps=1e-4)
            for net in nets
        }
        self.weights = []

    def take_step(self, net, loss):
        optimizer = self.optimizers[net]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def train_step(self, x, labels, u, z, v, z2):
        images = [to_nchw(tensor(a)) for a in (x, u, v)]
        fake = self.G(tensor(z)).detach()
        logits, real, fakes = self.D(images[0]), self.D(images[1]), self.D(fake)
        labelled = F.cross_entropy(logits, torch.from_numpy(labels))
        unlabelled = torch_unlabelled(real, fakes)
        self.take_step(self.D, labelled + unlabelled)
        self.weights.append([p.detach().clone() for p in self.D.parameters()])
        fake = self.G(tensor(z2))
        real = self.D[0](images[2]).detach()
        matching = self.matching(self.D[0](fake), real)
        self.take_step(self.G, matching)
        return {"labelled": labelled, "unlabelled": unlabelled, "matching": matching}

    def average(self):
        """Return D with the mean of its weights after each step t, weighted by (1 - rate)^(T-t)."""
        T, mean = len(self.weights), twin(self.model.discriminator)
        shares = (1 - self.model.rate) ** np.arange(T - 1, -1, -1.0)
        for p, *of_steps in zip(mean.parameters(), *self.weights):
            p.data = sum(s * w for s, w in zip(shares / shares.sum(), of_steps))
        return mean.eval()

    def states(self):
        return states(self.model.generator, self.G) | {
            f"D {name}": pair for name, pair in states(self.model.discriminator, self.D).items()
        }


def follow(device, steps=20, **options):
    """Train a system and its twin; compare losses, weights and averaged logits to 1e-10."""
    model = small(device, **options)
    torch_model = Twin(model)
    first = {name: pair[1].copy() for name, pair in torch_model.states().items()}
    buffers = (f"D {name}" for name in model.discriminator.buffers)
    constant = {name for name in model.generator.buffers if name.endswith("gamma")} | {*buffers}
    for step, batch in enumerate(batches(steps)):
        got = model.train_step(*map(device.asarray, batch))
        want = torch_model.train_step(*batch)
        assert got.keys() == want.keys()
        for name in want:
            assert_close(got[name], want[name].detach(), f"step {step}: {name}", allowed=1e-10)
    for name, (g, w) in torch_model.states().items():
        assert_close(g, w, name, allowed=1e-10)
        assert (w != first[name]).any() == (name not in constant), name
    chosen = model.classify(device.asarray(X))
    want = torch_model.average()(to_nchw(tensor(X))).detach().numpy()
    got, _ = model.averaged.forward(device.asarray(X), False)
    assert_close(got, want, "averaged logits", allowed=1e-10)
    assert_same(chosen, want.argmax(1))


def test_training(device):
    """Every loss, weight and averaged weight of 20 steps in float64 equals the twin's."""
    follow(device)


def test_long_average(device):
    """The average with a rate at which its start matters little."""
    follow(device, 12, rate=0.3)


def test_the_listing_in_the_docstring_is_the_step():
    """The code in the docstring gives the bits of `train_step`."""
    one, other = small(), small()
    _, _, rest = system.__doc__.partition("beside `SemiSupervisedGAN.train_step`:\n")
    listing, _, _ = rest.partition("\nSource:")
    for batch in batches(3):
        names = dict(zip(("x", "y", "u", "z", "v", "z2"), batch))
        names |= {
            "G": one.generator,
            "D": one.discriminator,
            "body": one.body,
            "g_optimizer": one.generator_optimizer,
            "d_optimizer": one.discriminator_optimizer,
            "cross_entropy": cross_entropy,
            "unlabelled_loss": unlabelled_loss,
            "feature_matching": feature_matching,
        }
        exec(textwrap.dedent(listing), names)
        metrics = other.train_step(*batch)
        for name, value in metrics.items():
            assert names[name] == value, name
        for mine, theirs in ((one.generator, other.generator), (names["D"], other.discriminator)):
            for name, a in mine.params.items():
                assert_same(a, theirs.params[name], name)


def test_supervised():
    """D alone descends the cross-entropy of the labelled images; its first weights are the same."""
    model = small(supervised=True)
    assert_same(
        model.discriminator.forward(X, False)[0], small().discriminator.forward(X, False)[0]
    )
    torch_model = Twin(model)
    for x, labels, *_ in batches(5):
        got = model.train_step(x, labels)
        loss = F.cross_entropy(torch_model.D(to_nchw(tensor(x))), torch.from_numpy(labels))
        torch_model.take_step(torch_model.D, loss)
        assert got.keys() == {"labelled"}
        assert_close(got["labelled"], loss.detach(), allowed=1e-10)
    for name, (g, w) in states(model.discriminator, torch_model.D).items():
        assert_close(g, w, name, allowed=1e-10)


def test_classes_of_many_images(monkeypatch, rng):
    """Before the first step the initial weights classify; images are taken in parts."""
    model, x = small(), rng.uniform(size=(11, *SHAPE))
    want = model.discriminator.forward(x, False)[0].argmax(1)
    monkeypatch.setattr(system, "BATCH", 4)
    assert_same(model.classify(x), want)
    assert_same(classes(model.discriminator, x), want)


def fakes_called_real(m):
    """Mistake: the gradient of the fakes has the wrong sign."""
    right = system.unlabelled_loss

    def wrong(real, fake):
        loss, dreal, dfake = right(real, fake)
        return loss, dreal, -dfake

    m.setattr(system, "unlabelled_loss", wrong)


def not_halved(m):
    """Mistake: the gradients lack the factor 1/2 of the loss."""
    right = system.unlabelled_loss

    def wrong(real, fake):
        loss, dreal, dfake = right(real, fake)
        return loss, 2 * dreal, 2 * dfake

    m.setattr(system, "unlabelled_loss", wrong)


def without_the_fake_class(m):
    """Mistake: the probability of a class is that of K + 1 classes, too small by 1 - D."""
    right = system.log_sum_exp

    def wrong(logits):
        L, p = right(logits)
        return L, p / (1 + np.exp(-L))

    m.setattr(system, "log_sum_exp", wrong)


def features_of_the_logits(m):
    """Mistake: G matches the logits."""
    init = SemiSupervisedGAN.__post_init__

    def wrong(self):
        init(self)
        self.body = self.discriminator

    m.setattr(SemiSupervisedGAN, "__post_init__", wrong)


def real_features_without_noise(m):
    """Mistake: the features of the real images are those of inference."""
    step = SemiSupervisedGAN.generator_step

    def wrong(self, v, z):
        forward = Sequential.forward

        def quiet(net, x, train=True):
            return forward(net, x, train and x is not v)

        with pytest.MonkeyPatch.context() as here:
            here.setattr(Sequential, "forward", quiet)
            return step(self, v, z)

    m.setattr(SemiSupervisedGAN, "generator_step", wrong)


def average_from_zero(m):
    """Mistake: the average is not divided, as in the source."""
    right = SemiSupervisedGAN.classify

    def wrong(self, x):
        right(self, x)
        self.averaged_parameters.flat[...] = self.average
        return classes(self.averaged, x)

    m.setattr(SemiSupervisedGAN, "classify", wrong)


@pytest.mark.parametrize(
    "mistake",
    [
        fakes_called_real, not_halved, without_the_fake_class, features_of_the_logits,
        real_features_without_noise, average_from_zero,
    ],
    ids=lambda mistake: mistake.__name__,
)  # fmt: skip
def test_mistakes_are_caught(monkeypatch, device, mistake):
    follow(device, 3)
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        follow(device, 3)
