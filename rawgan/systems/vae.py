"""The training steps of the autoencoder and the variational autoencoder, and their losses.

An encoder E maps an image x to a code, a decoder D maps a code z to the logits of an image. Images
are (N, H, W, C) in [0, 1], codes (N, Z). Both networks descend the gradient of one loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rawgan.backend import Array, array_module
from rawgan.layers import Sequential
from rawgan.layers.base import Grads
from rawgan.ops.act import sigmoid, sigmoid_dx, softplus
from rawgan.optim import Optimizer


def residual(logits: Array, x: Array) -> tuple[Array, Array]:
    """Return s - x with s = sigmoid(logits), and sigmoid(-|logits|).

    Both keep all digits where s is near 1, and x may be 1.
    """
    right = logits > 0
    small = sigmoid(-abs(logits))
    miss = array_module(logits, x).where(right, 1 - x, x)
    return array_module(logits).where(right, miss - small, small - miss), small


def mean_squared_error(logits: Array, x: Array) -> tuple[Array, Array]:
    """Return mean( (s - x)^2 ) over all pixels of all images, s = sigmoid(logits), and dlogits.

    dlogits = 2 (s - x) s (1 - s) / x.size
    """
    difference, small = residual(logits, x)
    return (difference**2).mean(), sigmoid_dx(2 * difference / x.size, small)


def cross_entropy(logits: Array, x: Array) -> tuple[Array, Array]:
    """Return the binary cross-entropy, -log p(x|z) of Bernoulli pixels, and dlogits.

    Summed over the pixels, averaged over the batch:

          1/N sum( x softplus(-l) + (1-x) softplus(l) )         l = logits, s = sigmoid(l)
        = -1/N sum( x log s + (1-x) log(1-s) )
        dlogits = (s - x) / N

    Neither by log(s), which is -inf for large -l, nor by softplus(l) - x l, a difference of two
    large numbers.
    """
    difference, _ = residual(logits, x)
    return (x * softplus(-logits) + (1 - x) * softplus(logits)).sum() / len(x), difference / len(x)


def kl_to_normal(mu: Array, logvar: Array) -> tuple[Array, Array, Array]:
    """Return the Kullback-Leibler divergence of N(mu, exp(logvar)) to N(0, 1), dmu and dlogvar.

    Averaged over the batch:

        1/N sum( mu^2 + exp(logvar) - logvar - 1 ) / 2
        dmu = mu / N        dlogvar = (exp(logvar) - 1) / (2 N)

    mu and logvar (N, Z). Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
    """
    N = len(mu)
    excess = array_module(mu, logvar).expm1(logvar)  # of the variance over 1
    return (mu * mu + excess - logvar).sum() / (2 * N), mu / N, excess / (2 * N)


def elbo(
    logits: Array, x: Array, mu: Array, logvar: Array
) -> tuple[dict[str, Array], Array, Array, Array]:
    """Return the negative evidence lower bound, an upper bound of -log p(x), and its gradients.

    ({"loss", "reconstruction", "kl"}, dlogits, dmu, dlogvar):

        loss = cross_entropy(logits, x) + kl_to_normal(mu, logvar)

    dmu and dlogvar are those at fixed logits; reparameterize_backward gives those through z.
    Source: Kingma & Welling 2014 (arXiv:1312.6114), equation 10, with one sample of z per image.
    """
    reconstruction, dlogits = cross_entropy(logits, x)
    kl, dmu, dlogvar = kl_to_normal(mu, logvar)
    return (
        {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl},
        dlogits,
        dmu,
        dlogvar,
    )


def reparameterize(mu: Array, logvar: Array, eps: Array) -> Array:
    """Return z = mu + exp(logvar / 2) eps, for eps ~ N(0, 1) a sample of N(mu, exp(logvar)).

    All (N, Z).
    Derivative: reparameterize_backward.
    Source: Kingma & Welling 2014 (arXiv:1312.6114), section 2.4.
    """
    return mu + array_module(mu, logvar, eps).exp(logvar / 2) * eps


def reparameterize_backward(dz: Array, logvar: Array, eps: Array) -> tuple[Array, Array]:
    """Return dmu = dz and dlogvar = dz eps exp(logvar / 2) / 2."""
    return dz, dz * eps * array_module(dz, logvar, eps).exp(logvar / 2) / 2


@dataclass
class Coder:
    """An encoder E and a decoder D, with their optimizers."""

    encoder: Sequential
    decoder: Sequential
    encoder_optimizer: Optimizer
    decoder_optimizer: Optimizer

    def encode(self, x: Array) -> Array:
        """Return the code of each image, without noise."""
        return self.encoder.forward(x, train=False)[0]

    def decode(self, z: Array) -> Array:
        """Return sigmoid(D(z)): images in [0, 1]."""
        return sigmoid(self.decoder.forward(z, train=False)[0])

    def update(self, e_grads: Grads, d_grads: Grads) -> None:
        """Take one optimizer step of both networks."""
        for optimizer, grads in (
            (self.encoder_optimizer, e_grads),
            (self.decoder_optimizer, d_grads),
        ):
            optimizer.step(optimizer.parameters.flatten_gradients(grads))


@dataclass
class Autoencoder(Coder):
    """Reconstruction of x from a code z = E(x). loss: mean_squared_error or cross_entropy."""

    loss: Callable[[Array, Array], tuple[Array, Array]] = mean_squared_error

    def train_step(self, x: Array) -> dict[str, Array]:
        """Update both networks; return the loss.

        d loss / d theta_D = d loss / d logits * d logits / d theta_D
        d loss / d theta_E = d loss / d logits * d logits / d z * d z / d theta_E
        """
        z, e_cache = self.encoder.forward(x)
        logits, d_cache = self.decoder.forward(z)
        loss, dlogits = self.loss(logits, x)
        dz, d_grads = self.decoder.backward(dlogits, d_cache)
        _, e_grads = self.encoder.backward(dz, e_cache, need_dx=False)
        self.update(e_grads, d_grads)
        return {"loss": loss}


class VAE(Coder):
    """Variational autoencoder: E(x) = (mu, logvar), 2 Z numbers, and z ~ N(mu, exp(logvar)).

    The divergence to N(0, 1) keeps these distributions close to it, so that D maps any z ~ N(0, 1)
    to an image.
    Source: Kingma & Welling 2014 (arXiv:1312.6114).
    """

    def encode(self, x: Array) -> Array:
        """Return mu, (N, Z)."""
        return halves(super().encode(x))[0]

    def train_step(self, x: Array, eps: Array) -> dict[str, Array]:
        """Update both networks; return the losses of `elbo`. eps (N, Z): noise from N(0, 1).

        The gradient reaches c = (mu, logvar) through z and from the divergence:

            d loss / d theta_D = d loss / d logits * d logits / d theta_D
            d loss / d theta_E = (d loss / d z * d z / d c + d kl / d c) * d c / d theta_E
        """
        code, e_cache = self.encoder.forward(x)
        mu, logvar = halves(code)
        z = reparameterize(mu, logvar, eps)
        logits, d_cache = self.decoder.forward(z)
        losses, dlogits, dmu_kl, dlogvar_kl = elbo(logits, x, mu, logvar)
        dz, d_grads = self.decoder.backward(dlogits, d_cache)
        dmu, dlogvar = reparameterize_backward(dz, logvar, eps)
        dcode = array_module(code).concatenate([dmu + dmu_kl, dlogvar + dlogvar_kl], 1)
        _, e_grads = self.encoder.backward(dcode, e_cache, need_dx=False)
        self.update(e_grads, d_grads)
        return losses


def halves(code: Array) -> tuple[Array, Array]:
    """Return mu and logvar, the halves of the code."""
    Z = code.shape[1] // 2
    return code[:, :Z], code[:, Z:]
