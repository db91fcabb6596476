"""The autoencoders, systems/vae.py and models/autoencoder.py: gradients and whole trainings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.backend import to_host
from rawgan.errors import UserError
from rawgan.layers import Parameters, parameter_count
from rawgan.models.autoencoder import build, decoder, encoder, generator
from rawgan.random import Random
from rawgan.systems.vae import (
    VAE,
    Autoencoder,
    cross_entropy,
    elbo,
    kl_to_normal,
    mean_squared_error,
    reparameterize,
    reparameterize_backward,
)
from tests.support.reference import assert_close, assert_same, tensor
from tests.support.twins import set_epsilon_hat, states, to_nchw, to_nhwc, twin

FAR = (-1e4, -120.0, 0.0, 120.0, 1e4)
both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def torch_bce(logits, x):
    """Binary cross-entropy summed over the pixels, averaged over the batch."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def torch_mse(logits, x):
    return F.mse_loss(logits.sigmoid(), x)


def torch_kl(mu, logvar):
    """KL divergence of two normal distributions by PyTorch."""
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(
        normal(mu, (logvar / 2).exp()), normal(0, 1)
    ).sum() / len(mu)


def autograd(f, *inputs):
    """Return the value and the gradients of a function in float64 by autograd."""
    leaves = [tensor(a).requires_grad_() for a in inputs]
    value = f(*leaves)
    return [t.detach().numpy() for t in (value, *torch.autograd.grad(value, leaves))]


def draw(rng, dtype, shape=(5, 4, 3, 2), z=7):
    """Draw logits and images of one shape, mu and logvar."""
    logits, x = rng.normal(size=shape, scale=3), rng.uniform(size=shape)
    return [a.astype(dtype) for a in (logits, x, *rng.normal(size=(2, shape[0], z)))]


class TestLosses:
    @both_dtypes
    @pytest.mark.parametrize(
        "ours, theirs", [(mean_squared_error, torch_mse), (cross_entropy, torch_bce)]
    )
    def test_of_images(self, ours, theirs, dtype, device, rng):
        logits, x, *_ = draw(rng, dtype)
        x[0], x[1] = 0, 1  # pixels of exactly 0 and 1
        want = autograd(lambda logits: theirs(logits, tensor(x)), logits)
        for name, g, w in zip(
            ("loss", "dlogits"), ours(device.asarray(logits), device.asarray(x)), want, strict=True
        ):
            assert g.dtype == dtype
            assert_close(g, w, name, terms=x.size)

    @both_dtypes
    @pytest.mark.parametrize(
        "ours, theirs", [(mean_squared_error, torch_mse), (cross_entropy, torch_bce)]
    )
    def test_far_out(self, ours, theirs, dtype):
        logits = np.array(FAR, dtype).reshape(-1, 1, 1, 1)
        for pixel in (0, 0.5, 1):
            x = np.full_like(logits, pixel)
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                got = ours(logits, x)
            for g, w in zip(
                got,
                autograd(lambda logits: theirs(logits, tensor(x)), logits),  # noqa: B023
                strict=True,
            ):
                assert_close(g, w, scale=max(1, np.abs(w).max()))

    @both_dtypes
    def test_kl(self, dtype, device, rng):
        _, _, mu, logvar = draw(rng, dtype)
        got = kl_to_normal(device.asarray(mu), device.asarray(logvar))
        for name, g, w in zip(
            ("kl", "dmu", "dlogvar"), got, autograd(torch_kl, mu, logvar), strict=True
        ):
            assert g.dtype == dtype
            assert_close(g, w, name, terms=mu.size)

    def test_kl_of_the_normal_distribution_is_zero(self):
        loss, dmu, dlogvar = kl_to_normal(np.zeros((3, 4)), np.zeros((3, 4)))
        assert loss == 0 and not dmu.any() and not dlogvar.any()

    def test_kl_keeps_its_digits_close_to_the_normal_distribution(self):
        """The KL is accurate near the normal distribution.

        exp(v) - v - 1 = v^2 / 2 + ... would be lost in the rounding of exp(v).
        """
        loss, _, _ = kl_to_normal(np.zeros((1, 1)), np.full((1, 1), 1e-6))
        assert_close(loss, 1e-12 / 4 * (1 + 1e-6 / 3), scale=1e-9)

    @both_dtypes
    def test_elbo(self, dtype, device, rng):
        inputs = logits, x, mu, logvar = draw(rng, dtype)
        before = [a.copy() for a in inputs]
        losses, *got = elbo(*map(device.asarray, inputs))
        value, *want = autograd(
            lambda a, mu, v: torch_bce(a, tensor(x)) + torch_kl(mu, v), logits, mu, logvar
        )
        for name, w in (
            ("loss", value),
            ("reconstruction", torch_bce(*map(tensor, (logits, x)))),
            ("kl", torch_kl(tensor(mu), tensor(logvar))),
        ):
            assert_close(losses[name], w, name, terms=x.size)
        for name, g, w in zip(("dlogits", "dmu", "dlogvar"), got, want, strict=True):
            assert g.dtype == dtype
            assert_close(g, w, name, terms=x.size)
        for a, b in zip(inputs, before):
            assert_same(a, b)

    def test_twice_the_batch_is_half_the_gradient(self, rng):
        once = elbo(*draw(rng, np.float64, (1, 4, 4, 1)))
        twice = elbo(
            *(a.repeat(2, 0) for a in draw(np.random.default_rng(5), np.float64, (1, 4, 4, 1)))
        )
        assert_close(twice[0]["loss"], once[0]["loss"])
        for g, w in zip(twice[1:], once[1:], strict=True):
            assert_close(g, w.repeat(2, 0) / 2)


class TestReparameterization:
    @both_dtypes
    def test_value_and_gradients(self, dtype, device, rng):
        mu, logvar, eps, dz = rng.normal(size=(4, 5, 7)).astype(dtype)
        leaves = [tensor(a).requires_grad_() for a in (mu, logvar)]
        z = leaves[0] + (leaves[1] / 2).exp() * tensor(eps)
        want = [t.detach().numpy() for t in (z, *torch.autograd.grad(z, leaves, tensor(dz)))]
        mu, logvar, eps, dz = map(device.asarray, (mu, logvar, eps, dz))
        got = reparameterize(mu, logvar, eps), *reparameterize_backward(dz, logvar, eps)
        for name, g, w in zip(("z", "dmu", "dlogvar"), got, want, strict=True):
            assert g.dtype == dtype
            assert_close(g, w, name, terms=4)

    def test_samples_have_the_mean_and_the_variance(self, rng):
        mu, logvar = np.full((100_000, 1), 0.7), np.full((100_000, 1), -1.2)
        z = reparameterize(mu, logvar, rng.standard_normal(mu.shape))
        assert abs(z.mean() - 0.7) < 0.01 and abs(z.var() - np.exp(-1.2)) < 0.01

    def test_without_noise_z_is_mu(self, rng):
        mu, logvar = rng.normal(size=(2, 3, 4))
        assert_same(reparameterize(mu, logvar, np.zeros((3, 4))), mu)


class TestNetworks:
    def test_parameter_counts(self):
        """Parameter counts equal Keras' for the book's autoencoder: 69,008 + 108,993 = 178,001."""
        assert parameter_count(encoder()) == 69_008
        assert (
            parameter_count(decoder())
            == parameter_count(decoder(relu=True))
            == parameter_count(generator())
            == 108_993
        )
        assert parameter_count(encoder(z=32)) - parameter_count(encoder()) == 16 * (7 * 7 * 64 + 1)

    @pytest.mark.parametrize("size, channels", [(4, 1), (16, 3), (28, 1), (32, 3)])
    def test_shapes(self, size, channels):
        for variational in (False, True):
            model = build(Random(0), variational, size, channels, width=2, z=5)
            x = np.random.default_rng(0).uniform(size=(3, size, size, channels)).astype(np.float32)
            z = model.encode(x)
            assert z.shape == (3, 5)
            y = model.decode(z)
            assert y.shape == x.shape and y.dtype == np.float32
            assert 0 <= y.min() and y.max() <= 1

    def test_the_generator_is_the_decoder_and_a_sigmoid(self):
        model = build(Random(1), True, 8, 1, width=2)
        net = generator(8, 1, 2)
        Parameters(net).load(model.decoder.params)
        z = np.random.default_rng(0).standard_normal((4, 16), np.float32)
        assert_same(net.forward(z)[0], model.decode(z))

    @pytest.mark.parametrize("size", [-4, 0, 2, 30])
    @pytest.mark.parametrize("make", [encoder, decoder])
    def test_sizes_that_cannot_be_doubled_twice(self, make, size):
        with pytest.raises(UserError, match=f"{size} is no multiple of 4"):
            make(size)


class Twin:
    """Encoder and decoder in PyTorch, trained with autograd and torch.optim.Adam."""

    def __init__(self, model):
        self.model = model
        self.encoder, self.decoder = twin(model.encoder), twin(model.decoder)
        self.optimizer = torch.optim.Adam(
            [*self.encoder.parameters(), *self.decoder.parameters()], lr=1e-3
        )

    def decode(self, z):
        return to_nhwc(self.decoder(z))

    def train_step(self, x, eps=None):
        x = tensor(x)
        code = self.encoder(to_nchw(x))
        if eps is None:
            losses = {
                "loss": (torch_bce if self.model.loss is cross_entropy else torch_mse)(
                    self.decode(code), x
                )
            }
        else:
            mu, logvar = code.chunk(2, 1)
            z = mu + (logvar / 2).exp() * tensor(eps)
            losses = {"reconstruction": torch_bce(self.decode(z), x), "kl": torch_kl(mu, logvar)}
            losses["loss"] = losses["reconstruction"] + losses["kl"]
        self.optimizer.zero_grad()
        losses["loss"].backward()
        set_epsilon_hat(self.optimizer, 1e-7)
        self.optimizer.step()
        return losses

    def states(self):
        return states(self.model.encoder, self.encoder) | {
            f"decoder {name}": pair
            for name, pair in states(self.model.decoder, self.decoder).items()
        }


class TestTraining:
    """Every loss and every weight of ten steps in float64 equals the twin's."""

    def follow(self, model, noise, device, steps=10):
        rng = np.random.default_rng(7)
        torch_model = Twin(model)
        first = {name: pair[1].copy() for name, pair in torch_model.states().items()}
        for step in range(steps):
            batch = [rng.uniform(size=(6, 12, 12, 2))] + (
                [rng.standard_normal((6, 3))] if noise else []
            )
            got, want = (
                model.train_step(*map(device.asarray, batch)),
                torch_model.train_step(*batch),
            )
            assert got.keys() == want.keys()
            for name in want:
                assert_close(got[name], want[name].detach(), f"step {step}: {name}")
        for name, (g, w) in torch_model.states().items():
            assert_close(g, w, name)
            assert (w != first[name]).any(), f"{name} has not moved"

    def test_vae(self, device):
        model = build(Random(3), True, 12, 2, width=4, z=3, device=device, dtype=np.float64)
        assert isinstance(model, VAE)
        self.follow(model, True, device)

    @pytest.mark.parametrize("loss", [mean_squared_error, cross_entropy])
    def test_autoencoder(self, loss, device):
        model = build(Random(3), False, 12, 2, width=4, z=3, device=device, dtype=np.float64)
        assert isinstance(model, Autoencoder) and model.loss is mean_squared_error
        model.loss = loss
        self.follow(model, False, device)

    def test_forgetting_the_way_through_z_is_caught(self, device, monkeypatch):
        monkeypatch.setattr(
            "rawgan.systems.vae.reparameterize_backward", lambda dz, logvar, eps: (dz, dz * 0)
        )
        with pytest.raises(AssertionError, match="step 1: "):
            self.test_vae(device)

    def test_the_same_seed_the_same_bits(self):
        weights = []
        for _ in range(2):
            model, rng = build(Random(3), True, 8, 1, width=4), np.random.default_rng(0)
            for _ in range(3):
                model.train_step(
                    rng.random((5, 8, 8, 1), np.float32), rng.standard_normal((5, 16), np.float32)
                )
            weights.append(to_host(model.encoder_optimizer.parameters.flat).copy())
        assert_same(*weights)
