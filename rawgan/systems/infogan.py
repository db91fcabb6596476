"""The training step of InfoGAN: G draws codes as images, and D reads the codes from the images.

G maps z (N, Z), a label k (N,) of K categories and codes c (N, M) to images. D maps an image to
scores (N, 1 + K + M): the logit of "real", K logits of the categories, and M outputs u, one for
each code. Both players descend the loss of real or fake, and both the losses of the codes:

    loss = BCE + cross_entropy(logits, k) + weight sum over m of code_loss(u[:, m], c[:, m])

There are two forms of it, FORMS, whose code losses are `weighted_log_sigmoid` and `gaussian_nll`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rawgan.backend import Array, array_module
from rawgan.layers import Sequential
from rawgan.layers.embed import one_hot
from rawgan.losses import BCE, cross_entropy
from rawgan.ops.act import sigmoid
from rawgan.optim import Optimizer

SOURCE = BCE()
EPSILON = 1e-7  # of Keras, in the book's code loss


class Code(NamedTuple):
    """The code of each image of a batch: its category k (N,), and its continuous codes c (N, M)."""

    labels: Array
    values: Array


def weighted_log_sigmoid(u: Array, c: Array) -> tuple[Array, Array]:
    """Return the book's code loss, and du: codes c and outputs u of D, both (N, M).

    Summed over the codes, averaged over the batch, with s = sigmoid(u):

        -1/N sum( c log(s + eps) )
        du = -c s (1 - s) / (s + eps) / N

    It is no likelihood of c: a positive code pushes u to +inf, a negative one to -inf. Keras'
    epsilon, eps = 1e-7, bounds it, and ends the gradient of a negative code where s is below eps;
    without it the loss is 1/N sum( c softplus(-u) ), and that gradient, -c (1 - s) / N, never ends.
    Source: Atienza, Advanced Deep Learning with Keras, ch. 6.
    """
    xp = array_module(u, c)
    s, rest = sigmoid(u), sigmoid(-u)  # rest = 1 - s, with all digits where s is near 1
    log_s = xp.where(u > 0, xp.log1p(EPSILON - rest), xp.log(s + EPSILON))
    return -(c * log_s).sum() / len(u), -c * rest * (s / (s + EPSILON)) / len(u)


def gaussian_nll(u: Array, c: Array) -> tuple[Array, Array]:
    """Return -log N(c; u, 1) but for a constant, and du: codes c and their means u, both (N, M).

    Summed over the codes, averaged over the batch, with the standard deviation fixed to 1:

        1/N sum( (c - u)^2 / 2 )
        du = (u - c) / N

    Its negative bounds the mutual information of c and the image from below, but for a constant.
    Source: Chen et al. 2016 (arXiv:1606.03657), and the authors' program.
    """
    array_module(u, c)
    difference = u - c
    return (difference * difference).sum() / (2 * len(u)), difference / len(u)


def normal_codes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return codes drawn from N(0, 0.5^2), float32."""
    return rng.standard_normal(shape, np.float32) / 2


def uniform_codes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return codes drawn from U(-1, 1), float32."""
    return rng.uniform(-1, 1, shape).astype(np.float32)


class Form(NamedTuple):
    """What the book and the paper do differently.

    code_loss   loss(u, c) -> (value, du), of all codes
    weight      of the code loss
    supervised  D also learns the codes of real images: their true labels, and codes that were drawn
                without a look at them. Its loss is then the mean of the losses on real and fake,
                one batch; else that on real and that on fake are added
    draw        draw(rng, shape) -> codes
    limit       codes are swept from -limit to limit in pictures
    """

    code_loss: Callable[[Array, Array], tuple[Array, Array]]
    weight: float
    supervised: bool
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
    limit: float


FORMS = {
    "book": Form(weighted_log_sigmoid, 0.5, True, normal_codes, 2.0),
    "gaussian": Form(gaussian_nll, 1.0, False, uniform_codes, 1.0),
}


@dataclass
class InfoGAN:
    """G, D with heads for the codes, their optimizers, and the form of the loss.

    classes: number of categories K. Sources: Chen et al. 2016 (arXiv:1606.03657); Atienza, Advanced
    Deep Learning with Keras, ch. 6.
    """

    generator: Sequential
    discriminator: Sequential
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    form: Form = FORMS["book"]
    classes: int = 10

    def train_step(
        self, x: Array, x_code: Code | None, z: Array, code: Code, new_z: Array, new_code: Code
    ) -> dict[str, Array]:
        """Update D on real and fake as one batch, then G through the new D; return the losses.

        x (N, H, W, C) real images, x_code their code where the form is supervised, else None; z
        and code of the fakes that D learns from, which G makes in inference mode; new_z and
        new_code of those that G learns from. class_loss and code_loss are those of G's step,
        before the weight.
        """
        G, D, xp = self.generator, self.discriminator, array_module(x)
        g_optimizer, d_optimizer = self.generator_optimizer, self.discriminator_optimizer
        fake, _ = G.forward(self.generator_input(z, code), train=False)

        # D: its loss on real and fake, the gradients of its weights
        scores, d_cache = D.forward(xp.concatenate([x, fake]))
        d_loss, dscores = self.discriminator_loss(scores, x_code, code)
        _, d_grads = D.backward(dscores, d_cache, need_dx=False)
        d_optimizer.step(d_optimizer.parameters.flatten_gradients(d_grads))

        # G: its gradient passes through D, whose weights receive none
        fake, g_cache = G.forward(self.generator_input(new_z, new_code))
        fake_scores, d_cache = D.forward(fake)
        losses, dscores = self.generator_loss(fake_scores, new_code)
        dfake, _ = D.backward(dscores, d_cache, need_grads=False)
        _, g_grads = G.backward(dfake, g_cache, need_dx=False)
        g_optimizer.step(g_optimizer.parameters.flatten_gradients(g_grads))

        real, fake = xp.split(scores[:, :1], [len(x)])
        means = {"d_real": SOURCE.score(real), "d_fake": SOURCE.score(fake)}
        return {"d_loss": d_loss} | losses | means

    def generator_input(self, z: Array, code: Code) -> Array:
        """Return [z, one-hot label, codes], (N, Z + K + M)."""
        hot = one_hot(code.labels, self.classes, z.dtype)
        return array_module(z).concatenate([z, hot, code.values], 1)

    def discriminator_loss(
        self, scores: Array, x_code: Code | None, code: Code
    ) -> tuple[Array, Array]:
        """Return D's loss on the scores of N real and N fake images, (2 N, 1 + K + M), and dscores.

        supervised    ( L(real, x_code) + L(fake, code) ) / 2    L: BCE and the code losses
        else          BCE(real) + L(fake, code)
        """
        xp, N = array_module(scores), len(code.labels)
        real, fake = scores[:-N], scores[-N:]
        loss, dreal, dfake = SOURCE.discriminator(real[:, :1], fake[:, :1])
        class_loss, code_loss, dcode = self.code_losses(fake, code)
        loss = loss + class_loss + self.form.weight * code_loss
        dx_code = xp.zeros_like(real[:, 1:])
        if self.form.supervised:
            class_loss, code_loss, dx_code = self.code_losses(real, x_code)
            loss = loss + class_loss + self.form.weight * code_loss
        dscores = xp.concatenate(
            [xp.concatenate([dreal, dx_code], 1), xp.concatenate([dfake, dcode], 1)]
        )
        return (loss / 2, dscores / 2) if self.form.supervised else (loss, dscores)

    def generator_loss(self, scores: Array, code: Code) -> tuple[dict[str, Array], Array]:
        """Return G's losses on the scores of fakes, (N, 1 + K + M), and dscores."""
        loss, dsource = SOURCE.generator(scores[:, :1])
        class_loss, code_loss, dcode = self.code_losses(scores, code)
        losses = {
            "g_loss": loss + class_loss + self.form.weight * code_loss,
            "class_loss": class_loss,
            "code_loss": code_loss,
        }
        return losses, array_module(scores).concatenate([dsource, dcode], 1)

    def code_losses(self, scores: Array, code: Code) -> tuple[Array, Array, Array]:
        """Return the losses of the categories and of the codes, and d/dscores[:, 1:] of both.

        The last is the gradient of class_loss + weight code_loss, (N, K + M).
        """
        end = 1 + self.classes
        class_loss, dlogits = cross_entropy(scores[:, 1:end], code.labels)
        code_loss, du = self.form.code_loss(scores[:, end:], code.values)
        dcode = array_module(scores).concatenate([dlogits, self.form.weight * du], 1)
        return class_loss, code_loss, dcode

    def generate(self, z: Array, code: Code) -> Array:
        """Return images, G in inference mode."""
        return self.generator.forward(self.generator_input(z, code), train=False)[0]

    def categories(self, x: Array) -> Array:
        """Return the category that D reads from each image, (N,): that of the largest logit."""
        scores, _ = self.discriminator.forward(x, train=False)
        return scores[:, 1 : 1 + self.classes].argmax(1)
