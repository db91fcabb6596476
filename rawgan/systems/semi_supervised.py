"""The semi-supervised GAN: its losses and its training step.

D is a classifier with K logits l, one per class; "fake" is a class K + 1 whose logit is 0. So

    L(l) = log sum_k exp(l_k)                      log-sum-exp over the K classes
    D(x) = sum_k exp(l_k) / (1 + sum_k exp(l_k))   the probability that x is real: sigmoid(L)
    p_k  = exp(l_k - L)                            of class k, given that it is real

A few images x have labels y; many images u have none; G makes fakes from z. The step, which a test
runs beside `SemiSupervisedGAN.train_step`:

    # D: three passes, two losses
    fake, _ = G.forward(z)
    logits, cache = D.forward(x)
    real_logits, real_cache = D.forward(u)
    fake_logits, fake_cache = D.forward(fake)
    labelled, dlogits = cross_entropy(logits, y)
    unlabelled, dreal, dfake = unlabelled_loss(real_logits, fake_logits)
    _, grads = D.backward(dlogits, cache, need_dx=False)
    _, real_grads = D.backward(dreal, real_cache, need_dx=False)
    _, fake_grads = D.backward(dfake, fake_cache, need_dx=False)
    d_optimizer.step(d_optimizer.parameters.flatten_gradients(grads, real_grads, fake_grads))

    # G: the mean features of its fakes approach those of other images v; body is D without its head
    fake, g_cache = G.forward(z2)
    real_features, _ = body.forward(v)
    features, cache = body.forward(fake)
    matching, dfeatures = feature_matching(features, real_features)
    dfake, _ = body.backward(dfeatures, cache, need_grads=False)
    _, grads = G.backward(dfake, g_cache, need_dx=False)
    g_optimizer.step(g_optimizer.parameters.flatten_gradients(grads))

Source: Salimans et al. 2016 (arXiv:1606.03498), sections 3.1 and 5, and its code.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from rawgan.backend import Array, array_module
from rawgan.ema import moving_average
from rawgan.layers import Parameters, Sequential
from rawgan.layers.base import Grads
from rawgan.losses import cross_entropy
from rawgan.ops.act import sigmoid, softplus
from rawgan.optim import Optimizer

BATCH = 500  # images of a pass in `classify`


def log_sum_exp(logits: Array) -> tuple[Array, Array]:
    """Return L[n] = log sum_k exp(l[n,k]), (N, 1), and its gradient, the softmax p (N, K).

        p[n,k] = exp(l[n,k] - L[n])

    logits (N, K). The largest logit is subtracted first, so nothing overflows;
    p is a quotient of exponentials, as l - L has few digits left where l is large.
    """
    xp = array_module(logits)
    largest = logits.max(1, keepdims=True)
    e = xp.exp(logits - largest)
    total = e.sum(1, keepdims=True)
    return largest + xp.log(total), e / total


def unlabelled_loss(real: Array, fake: Array) -> tuple[Array, Array, Array]:
    """Return the loss of D on images without labels, dreal and dfake.

    The cross-entropy of real against fake, each half of it, with D = sigmoid(L):

        loss = -mean( log D(u) ) / 2 - mean( log(1 - D(G(z))) ) / 2
             = mean( softplus(-L(real)) ) / 2 + mean( softplus(L(fake)) ) / 2
        dreal = -sigmoid(-L(real)) p(real) / (2 N)     dfake = sigmoid(L(fake)) p(fake) / (2 N)

    real, fake: logits (N, K). Source: Salimans et al. 2016 (arXiv:1606.03498), section 5.
    """
    real_sum, real_p = log_sum_exp(real)
    fake_sum, fake_p = log_sum_exp(fake)
    loss = (softplus(-real_sum).mean() + softplus(fake_sum).mean()) / 2
    dreal = sigmoid(-real_sum) * real_p / (-2 * len(real))
    dfake = sigmoid(fake_sum) * fake_p / (2 * len(fake))
    return loss, dreal, dfake


def feature_matching(fake: Array, real: Array) -> tuple[Array, Array]:
    """Return the distance of the mean features, the loss of G, and its gradient dfake.

        d_f   = E fake[:, f] - E real[:, f]            E: mean over the N samples
        loss  = mean over the F features of d_f^2
        dfake[n, f] = 2 d_f / (N F)

    fake, real: (N, F); real is a constant. The same for every sample: G learns nothing of a single
    fake, and need not make any look real. Source: Salimans et al. 2016 (arXiv:1606.03498), section
    3.1; the mean over features is its code's.
    """
    xp, d = array_module(fake, real), fake.mean(0) - real.mean(0)
    dfake = xp.ascontiguousarray(xp.broadcast_to(2 * d / fake.size, fake.shape))
    return (d * d).mean(), dfake


def absolute_feature_matching(fake: Array, real: Array) -> tuple[Array, Array]:
    """Return the absolute distance of the mean features, and its gradient dfake.

        d_f   = E fake[:, f] - E real[:, f]            E: mean over the N samples
        loss  = mean over the F features of |d_f|
        dfake[n, f] = sign(d_f) / (N F)                0 where d_f = 0

    fake, real: (N, F); real is a constant. Source: the code of Salimans et al. 2016
    (arXiv:1606.03498) for color images.
    """
    xp, d = array_module(fake, real), fake.mean(0) - real.mean(0)
    dfake = xp.ascontiguousarray(xp.broadcast_to(xp.sign(d) / fake.size, fake.shape))
    return xp.abs(d).mean(), dfake


@dataclass
class Classifier:
    """D alone, trained on the labelled images: a baseline of the semi-supervised GAN.

    `averaged` is D with the average of its weights over the steps, which classifies:

        a_t = a_(t-1) + rate (theta_t - a_(t-1)),  a_0 = 0,  theta_averaged = a_t / (1 - (1-rate)^t)

    The divisor, which the source lacks, is 1 after its 180,000 steps. Without it the weights of a
    short training would be nearly 0. Buffers are not averaged: those of D are constants.
    """

    discriminator: Sequential
    discriminator_optimizer: Optimizer
    rate: float

    def __post_init__(self):
        parameters = self.discriminator_optimizer.parameters
        self.average = parameters.flat * 0
        self.averaged = copy.deepcopy(self.discriminator)
        self.averaged_parameters = Parameters(
            self.averaged, parameters.device, parameters.flat.dtype
        )

    def train_step(self, x: Array, labels: Array) -> dict[str, Array]:
        """Update D with the gradient of the cross-entropy of its K classes; return it."""
        logits, cache = self.discriminator.forward(x)
        labelled, dlogits = cross_entropy(logits, labels)
        _, grads = self.discriminator.backward(dlogits, cache, need_dx=False)
        self.update_discriminator(grads)
        return {"labelled": labelled}

    def update_discriminator(self, *passes: Grads) -> None:
        """Take a step of D with the sum of the gradients of several passes, and average."""
        optimizer = self.discriminator_optimizer
        optimizer.step(optimizer.parameters.flatten_gradients(*passes))
        moving_average(self.average, optimizer.parameters.flat, 1 - self.rate)

    def classify(self, x: Array) -> Array:
        """Return the class (N,) of each image, by the averaged weights and without noise."""
        self.set_averaged()
        return classes(self.averaged, x)

    def set_averaged(self) -> None:
        """Set the weights of `averaged` to the average so far, before the first step to D's."""
        source, averaged = self.discriminator_optimizer.parameters, self.averaged_parameters
        t = self.discriminator_optimizer.t
        averaged.flat[...] = self.average / (1 - (1 - self.rate) ** t) if t else source.flat
        averaged.flat_buffers[...] = source.flat_buffers


@dataclass
class SemiSupervisedGAN(Classifier):
    """D, which also learns from images without labels, and from the fakes of a generator G.

    D's first layer is its body, whose outputs are the features that G matches; the rest is its
    head. matching: the loss of G, (fake, real) -> (loss, dfake).
    """

    generator: Sequential
    generator_optimizer: Optimizer
    matching: Callable[[Array, Array], tuple[Array, Array]] = feature_matching

    def __post_init__(self):
        super().__post_init__()
        self.body = self.discriminator.layers[0]

    def train_step(
        self, x: Array, labels: Array, u: Array, z: Array, v: Array, z2: Array
    ) -> dict[str, Array]:
        """Update D, then G; return their losses.

        x, labels: images with labels; u, v: images without; z, z2: inputs of G in the two updates.
        """
        return self.discriminator_step(x, labels, u, z) | self.generator_step(v, z2)

    def discriminator_step(self, x: Array, labels: Array, u: Array, z: Array) -> dict[str, Array]:
        """Update D with the gradient of its two losses; the fakes are constants."""
        D = self.discriminator
        fake, _ = self.generator.forward(z)
        (logits, cache), (real, real_cache), (fakes, fake_cache) = map(D.forward, (x, u, fake))
        labelled, dlogits = cross_entropy(logits, labels)
        unlabelled, dreal, dfake = unlabelled_loss(real, fakes)
        _, grads = D.backward(dlogits, cache, need_dx=False)
        _, real_grads = D.backward(dreal, real_cache, need_dx=False)
        _, fake_grads = D.backward(dfake, fake_cache, need_dx=False)
        self.update_discriminator(grads, real_grads, fake_grads)
        return {"labelled": labelled, "unlabelled": unlabelled}

    def generator_step(self, v: Array, z: Array) -> dict[str, Array]:
        """Update G; its gradient passes through the body of D, whose weights receive none."""
        fake, g_cache = self.generator.forward(z)
        real_features, _ = self.body.forward(v)
        features, cache = self.body.forward(fake)
        matching, dfeatures = self.matching(features, real_features)
        dfake, _ = self.body.backward(dfeatures, cache, need_grads=False)
        _, grads = self.generator.backward(dfake, g_cache, need_dx=False)
        optimizer = self.generator_optimizer
        optimizer.step(optimizer.parameters.flatten_gradients(grads))
        return {"matching": matching}


def classes(D: Sequential, x: Array) -> Array:
    """Return the class with the largest logit of each image, (N,), in inference mode."""
    parts = [x[n : n + BATCH] for n in range(0, len(x), BATCH)]
    return array_module(x).concatenate([D.forward(part, False)[0].argmax(1) for part in parts])
