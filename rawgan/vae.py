"""The autoencoder and the variational autoencoder: their losses with gradients by hand, and their steps, written out.

An encoder E turns an image x into a code, a decoder D turns a code z into the logits of an image. Images are (N, H, W, C) in
[0, 1], codes (N, Z). Nobody plays against anybody: one loss, and both networks go down its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rawgan.backend import Array, array_module
from rawgan.layers import Sequential
from rawgan.layers.base import Grads
from rawgan.ops.act import sigmoid, sigmoid_dx, softplus
from rawgan.optim import Optimizer


def mean_squared_error(logits: Array, x: Array) -> tuple[Array, Array]:
    """mean( (s - x)^2 ) over all pixels of all images, s = sigmoid(logits), and its gradient.

    dlogits = 2 (s - x) s (1 - s) / x.size
    """
    array_module(logits, x)
    s = sigmoid(logits)
    return ((s - x) ** 2).mean(), sigmoid_dx(2 * (s - x) / x.size, s)


def cross_entropy(logits: Array, x: Array) -> tuple[Array, Array]:
    """Binary cross-entropy, summed over the pixels, averaged over the batch: -log p(x|z) of Bernoulli pixels; and its gradient.

        1/N sum( softplus(l) - x l )  =  -1/N sum( x log s + (1-x) log(1-s) ),  l = logits, s = sigmoid(l)
        dlogits = (s - x) / N

    Never through log(s), which is -inf far out.
    """
    array_module(logits, x)
    return (softplus(logits) - x * logits).sum() / len(x), (sigmoid(logits) - x) / len(x)


def kl_to_normal(mu: Array, logvar: Array) -> tuple[Array, Array, Array]:
    """The Kullback-Leibler divergence of N(mu, exp(logvar)) to N(0, 1), averaged over the batch; and its gradients.

        1/N sum( mu^2 + exp(logvar) - logvar - 1 ) / 2
        dmu = mu / N        dlogvar = (exp(logvar) - 1) / (2 N)

    mu and logvar (N, Z). Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
    """
    N = len(mu)
    excess = array_module(mu, logvar).expm1(logvar)  # of the variance over 1
    return (mu * mu + excess - logvar).sum() / (2 * N), mu / N, excess / (2 * N)


def elbo(logits: Array, x: Array, mu: Array, logvar: Array) -> tuple[dict[str, Array], Array, Array, Array]:
    """The negative evidence lower bound, an upper bound of -log p(x): {"loss", "reconstruction", "kl"}, dlogits, dmu, dlogvar.

        loss = cross_entropy(logits, x) + kl_to_normal(mu, logvar)

    The gradients are those at fixed logits: what z passes on to mu and logvar is reparameterize_backward's.
    Source: Kingma & Welling 2014 (arXiv:1312.6114), equation 10, with one sample of z per image.
    """
    reconstruction, dlogits = cross_entropy(logits, x)
    kl, dmu, dlogvar = kl_to_normal(mu, logvar)
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}, dlogits, dmu, dlogvar


def reparameterize(mu: Array, logvar: Array, eps: Array) -> Array:
    """z = mu + exp(logvar / 2) eps, which for eps ~ N(0, 1) is a sample of N(mu, exp(logvar)) with a derivative; all (N, Z).

    Derivative: reparameterize_backward. Source: Kingma & Welling 2014 (arXiv:1312.6114), section 2.4.
    """
    return mu + array_module(mu, logvar, eps).exp(logvar / 2) * eps


def reparameterize_backward(dz: Array, logvar: Array, eps: Array) -> tuple[Array, Array]:
    """dmu = dz,  dlogvar = dz eps exp(logvar / 2) / 2."""
    return dz, dz * eps * array_module(dz, logvar, eps).exp(logvar / 2) / 2


@dataclass
class Coder:
    """An encoder E and a decoder D, and how each moves."""

    encoder: Sequential
    decoder: Sequential
    encoder_optimizer: Optimizer
    decoder_optimizer: Optimizer

    def encode(self, x: Array) -> Array:
        """The code of each image, without noise."""
        return self.encoder.forward(x, train=False)[0]

    def decode(self, z: Array) -> Array:
        """sigmoid(D(z)): images in [0, 1]."""
        return sigmoid(self.decoder.forward(z, train=False)[0])

    def move(self, e_grads: Grads, d_grads: Grads) -> None:
        """One step of both networks."""
        for optimizer, grads in ((self.encoder_optimizer, e_grads), (self.decoder_optimizer, d_grads)):
            optimizer.step(optimizer.parameters.gather(grads))


@dataclass
class Autoencoder(Coder):
    """Gives back what went in, through a code z = E(x) of few numbers; loss: mean_squared_error or cross_entropy."""

    loss: Callable[[Array, Array], tuple[Array, Array]] = mean_squared_error

    def train_step(self, x: Array) -> dict[str, Array]:
        """d loss / d theta_D = d loss / d logits * d logits / d theta_D
        d loss / d theta_E = d loss / d logits * d logits / d z * d z / d theta_E
        """
        z, e_cache = self.encoder.forward(x)
        logits, d_cache = self.decoder.forward(z)
        loss, dlogits = self.loss(logits, x)
        dz, d_grads = self.decoder.backward(dlogits, d_cache)
        _, e_grads = self.encoder.backward(dz, e_cache, need_dx=False)
        self.move(e_grads, d_grads)
        return {"loss": loss}


class VAE(Coder):
    """The code is a distribution: E(x) = (mu, logvar), 2 Z numbers, and z is drawn from N(mu, exp(logvar)).

    The divergence to N(0, 1) keeps these distributions together, so that D makes images of any z ~ N(0, 1).
    Source: Kingma & Welling 2014 (arXiv:1312.6114).
    """

    def encode(self, x: Array) -> Array:
        """mu."""
        return halves(super().encode(x))[0]

    def train_step(self, x: Array, eps: Array) -> dict[str, Array]:
        """The gradient reaches mu and logvar on two ways: through z, and from the divergence itself.

            d loss / d theta_D = d loss / d logits * d logits / d theta_D
            d loss / d theta_E = (d loss / d z * d z / d (mu, logvar) + d kl / d (mu, logvar)) * d (mu, logvar) / d theta_E

        eps (N, Z) is the noise, from N(0, 1). Returns the losses of `elbo`.
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
        self.move(e_grads, d_grads)
        return losses


def halves(code: Array) -> tuple[Array, Array]:
    """mu and logvar, side by side in the code."""
    Z = code.shape[1] // 2
    return code[:, :Z], code[:, Z:]
