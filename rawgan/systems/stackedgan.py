"""The training step of a StackedGAN: two GANs on two levels of a classifier.

An encoder E, a classifier, has two parts: E0 maps an image to features f, E1 features to logits of
the labels. It is trained first, then frozen. Each part has a generator that inverts it, and a
discriminator that reads its noise back:

    G1 maps [label, z1] to features, D1 features to [logit of "real", estimate of z1]
    G0 maps [f, z0] to images, D0 images to [logit of "real", estimate of z0]

The two stacks meet in no gradient: G0 learns from the features of real images, E0(x). A new image
is G0([G1([label, z1]), z0]).
"""

from collections.abc import Callable
from dataclasses import dataclass

from rawgan.backend import Array, array_module
from rawgan.layers import Sequential
from rawgan.layers.base import Grads
from rawgan.layers.embed import one_hot
from rawgan.losses import BCE, cross_entropy
from rawgan.optim import Optimizer

SOURCE = BCE()


def squared_error(estimate: Array, target: Array) -> tuple[Array, Array]:
    """Return mean( (estimate - target)^2 ) over all numbers, and its gradient.

    destimate = 2 (estimate - target) / size
    """
    difference = estimate - target
    return (difference * difference).sum() / difference.size, 2 * difference / difference.size


@dataclass
class Encoder:
    """A classifier in two parts: images to features, features to logits; Adam of each part."""

    features: Sequential
    logits: Sequential
    features_optimizer: Optimizer
    logits_optimizer: Optimizer

    def train_step(self, x: Array, labels: Array) -> dict[str, Array]:
        """Descend the cross-entropy of images and their labels; return the loss."""
        f, f_cache = self.features.forward(x)
        logits, cache = self.logits.forward(f)
        loss, dlogits = cross_entropy(logits, labels)
        df, grads = self.logits.backward(dlogits, cache)
        _, f_grads = self.features.backward(df, f_cache, need_dx=False)
        update(self.logits_optimizer, grads)
        update(self.features_optimizer, f_grads)
        return {"loss": loss}

    def read(self, x: Array) -> Array:
        """Return the label of the largest logit of each image, (N,)."""
        f, _ = self.features.forward(x, train=False)
        return self.logits.forward(f, train=False)[0].argmax(1)


@dataclass
class Stack:
    """A generator, a discriminator that reads the noise back, and their optimizers.

    weight: of the squared error of the noise.
    """

    generator: Sequential
    discriminator: Sequential
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    weight: float = 1.0

    def generate(self, condition: Array, z: Array) -> Array:
        """Return G([condition, z]), G in inference mode."""
        return self.generator.forward(generator_input(condition, z), train=False)[0]

    def discriminator_step(self, real: Array, condition: Array, z: Array) -> Array:
        """Update D on N real and N fake samples as one batch; return the loss.

            1/2 ( BCE(D(real), D(fake)) + weight MSE of z, of real and of fake )

        As in the book, D learns the noise of the fakes from the real samples too, which know
        nothing of it: the best estimate there is the mean of the noise, 0.
        """
        D, N, xp = self.discriminator, len(real), array_module(real)
        fake = self.generate(condition, z)
        scores, cache = D.forward(xp.concatenate([real, fake]))
        source, dreal, dfake = SOURCE.discriminator(scores[:N, :1], scores[N:, :1])
        error, dz = squared_error(scores[:, 1:], xp.concatenate([z, z]))
        dsource = xp.concatenate([dreal, dfake]) / 2
        dscores = xp.concatenate([dsource, self.weight * dz], 1)
        _, grads = D.backward(dscores, cache, need_dx=False)
        update(self.discriminator_optimizer, grads)
        return source / 2 + self.weight * error

    def generator_step(
        self,
        condition: Array,
        z: Array,
        encoder: Sequential,
        code_loss: Callable[[Array], tuple[Array, Array]],
    ) -> Array:
        """Update G through D and through the frozen encoder of the fakes; return the loss.

            BCE(D(fake)) + weight MSE of z + code_loss(encoder(fake))

        code_loss(code) -> (loss, dcode): how far the code of the fakes is from the condition.
        """
        G, D, xp = self.generator, self.discriminator, array_module(z)
        fake, g_cache = G.forward(generator_input(condition, z))
        scores, d_cache = D.forward(fake)
        source, dsource = SOURCE.generator(scores[:, :1])
        error, dz = squared_error(scores[:, 1:], z)
        dscores = xp.concatenate([dsource, self.weight * dz], 1)
        code, e_cache = encoder.forward(fake, train=False)
        encoder_loss, dcode = code_loss(code)
        dfake, _ = D.backward(dscores, d_cache, need_grads=False)
        dfake_encoder, _ = encoder.backward(dcode, e_cache, need_grads=False)
        _, grads = G.backward(dfake + dfake_encoder, g_cache, need_dx=False)
        update(self.generator_optimizer, grads)
        return source + self.weight * error + encoder_loss


@dataclass
class StackedGAN:
    """The encoder and both stacks: `features` makes f from labels, `images` makes x from f.

    classes: number of labels. Sources: Huang et al. 2017 (arXiv:1612.04357); Atienza, Advanced Deep
    Learning with Keras, ch. 6.
    """

    encoder: Encoder
    features: Stack
    images: Stack
    classes: int = 10

    def train_step(
        self, x: Array, labels: Array, z1: Array, z0: Array, new_z1: Array, new_z0: Array
    ) -> dict[str, Array]:
        """Update D1, D0, G1 and G0, in this order; return their losses.

        x (N, H, W, C) real images and labels (N,); noise (N, Z): z1 and z0 of the fakes that D1 and
        D0 learn from, new_z1 and new_z0 of those that G1 and G0 learn from. The fakes have the
        labels, and G0's the features, of the real images.
        """
        to_features, to_logits = self.encoder.features, self.encoder.logits
        f, _ = to_features.forward(x, train=False)
        hot = one_hot(labels, self.classes, z1.dtype)
        return {
            "d1_loss": self.features.discriminator_step(f, hot, z1),
            "d0_loss": self.images.discriminator_step(x, f, z0),
            "g1_loss": self.features.generator_step(
                hot, new_z1, to_logits, lambda logits: cross_entropy(logits, labels)
            ),
            "g0_loss": self.images.generator_step(
                f, new_z0, to_features, lambda features: squared_error(features, f)
            ),
        }

    def generate(self, labels: Array, z1: Array, z0: Array) -> Array:
        """Return G0([G1([label, z1]), z0]), images of labels (N,)."""
        hot = one_hot(labels, self.classes, z1.dtype)
        return self.images.generate(self.features.generate(hot, z1), z0)


def generator_input(condition: Array, z: Array) -> Array:
    """Concatenate a condition (N, F) and noise (N, Z), (N, F + Z)."""
    return array_module(condition, z).concatenate([condition, z], 1)


def update(optimizer: Optimizer, grads: Grads) -> None:
    """Take one step of an optimizer with the gradients of its network."""
    optimizer.step(optimizer.parameters.flatten_gradients(grads))
