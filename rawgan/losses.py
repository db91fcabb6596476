"""What the two players minimise, from logits, with the gradients by hand.

Each objective has two methods. With a = D(real) and c = D(fake), both (N, ...) scores, one or more per sample,

    loss, da, dc = objective.discriminator(a, c)        what D minimises, and its gradients with respect to both scores
    loss, dc     = objective.generator(c)               what G minimises

All losses are means over all scores, so every gradient carries the 1/N. A loss is an array of no dimension. `score(a)` is the
one number worth watching: the mean probability that D gives "real" for BCE, the mean score for the others.
"""

from dataclasses import dataclass

from rawgan.backend import Array, array_module, kernels_on
from rawgan.kernels import kernels
from rawgan.layers.embed import one_hot
from rawgan.ops.act import sigmoid, softplus


def _average(x: Array) -> Array:
    """The mean of all numbers of x: sum(x) / size. NumPy's own takes three times as long where x is small."""
    return x.sum() / x.size


class Objective:
    """See the head of the file. `labelled` objectives take the samples' labels after the scores."""

    labelled = False

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        raise NotImplementedError

    def generator(self, c: Array) -> tuple[Array, Array]:
        raise NotImplementedError

    def score(self, a: Array) -> Array:
        if kernels_on(a):
            return kernels.mean_score(a)
        return _average(a)


@dataclass(frozen=True)
class BCE(Objective):
    """Binary cross-entropy from logits, with t = real_label:

        D:  mean( softplus(a) - t a ) + mean( softplus(c) )        = -mean( t log s(a) + (1-t) log(1-s(a)) ) - mean( log(1-s(c)) )
        G:  mean( softplus(-c) )  (non-saturating)   or   -mean( softplus(c) )  (minimax: the negative of D's part)

    s the sigmoid. Never through log(s(x)), which is -inf at -120. real_label below 1 is one-sided label smoothing: only real
    samples' labels move. Sources: Goodfellow et al. 2014 (arXiv:1406.2661), section 3; Salimans et al. 2016 (arXiv:1606.03498).
    """

    real_label: float = 1.0
    minimax: bool = False

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.bce_discriminator(a, c, self.real_label)
        array_module(a, c)
        loss = _average(softplus(a) - self.real_label * a) + _average(softplus(c))
        return loss, (sigmoid(a) - self.real_label) / a.size, sigmoid(c) / c.size

    def generator(self, c: Array) -> tuple[Array, Array]:
        if kernels_on(c):
            return kernels.bce_generator(c, self.minimax)
        if self.minimax:
            return -_average(softplus(c)), -sigmoid(c) / c.size
        return _average(softplus(-c)), (sigmoid(c) - 1) / c.size

    def score(self, a: Array) -> Array:
        if kernels_on(a):
            return kernels.mean_probability(a)
        return _average(sigmoid(a))


@dataclass(frozen=True)
class LeastSquares(Objective):
    """D: mean( (a - 1)^2 ) + mean( c^2 );  G: mean( (c - 1)^2 ). Source: Mao et al. 2017 (arXiv:1611.04076), without its 1/2."""

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.least_squares_discriminator(a, c)
        array_module(a, c)
        return _average((a - 1) ** 2) + _average(c * c), 2 * (a - 1) / a.size, 2 * c / c.size

    def generator(self, c: Array) -> tuple[Array, Array]:
        if kernels_on(c):
            return kernels.least_squares_generator(c)
        return _average((c - 1) ** 2), 2 * (c - 1) / c.size


@dataclass(frozen=True)
class Wasserstein(Objective):
    """Critic: mean(c) - mean(a);  G: -mean(c). The scores are not probabilities: no sigmoid anywhere.

    Source: Arjovsky et al. 2017 (arXiv:1701.07875).
    """

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.wasserstein_discriminator(a, c)
        xp = array_module(a, c)
        return _average(c) - _average(a), xp.full_like(a, -1 / a.size), xp.full_like(c, 1 / c.size)

    def generator(self, c: Array) -> tuple[Array, Array]:
        if kernels_on(c):
            return kernels.wasserstein_generator(c)
        return -_average(c), array_module(c).full_like(c, -1 / c.size)


@dataclass(frozen=True)
class Hinge(Objective):
    """D: mean( max(1 - a, 0) ) + mean( max(1 + c, 0) );  G: -mean(c). Source: Lim & Ye 2017 (arXiv:1705.02894)."""

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.hinge_discriminator(a, c)
        xp = array_module(a, c)
        loss = _average(xp.maximum(1 - a, 0)) + _average(xp.maximum(1 + c, 0))
        return loss, -(a < 1).astype(a.dtype) / a.size, (c > -1).astype(c.dtype) / c.size

    def generator(self, c: Array) -> tuple[Array, Array]:
        if kernels_on(c):
            return kernels.wasserstein_generator(c)
        return -_average(c), array_module(c).full_like(c, -1 / c.size)


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """mean( log sum_k exp(logits[n,k]) - logits[n,labels[n]] ) and its gradient (softmax - one_hot) / N; logits (N, K)."""
    if kernels_on(logits, labels):
        return kernels.cross_entropy(logits, labels)
    xp = array_module(logits, labels)
    shifted = logits - logits.max(1, keepdims=True)
    sums = xp.exp(shifted).sum(1, keepdims=True)
    hit = one_hot(labels, logits.shape[1], logits.dtype)
    loss = _average(xp.log(sums) - (shifted * hit).sum(1, keepdims=True))
    return loss, (xp.exp(shifted) / sums - hit) / len(logits)


@dataclass(frozen=True)
class ACGAN(Objective):
    """Real or fake, and which class: scores (N, 1 + K), first the logit of "real", then one logit per class.

        D:  BCE(a, c) + CE(a's classes, labels) + CE(c's classes, labels)        G:  BCE(c) + CE(c's classes, labels)

    Source: Odena et al. 2017 (arXiv:1610.09585).
    """

    source: BCE = BCE()
    labelled = True

    def discriminator(self, a: Array, c: Array, real_labels: Array, fake_labels: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.acgan_discriminator(a, c, real_labels, fake_labels, self.source.real_label)
        xp = array_module(a, c)
        loss, da, dc = self.source.discriminator(a[:, :1], c[:, :1])
        real_loss, da_class = cross_entropy(a[:, 1:], real_labels)
        fake_loss, dc_class = cross_entropy(c[:, 1:], fake_labels)
        return loss + real_loss + fake_loss, xp.concatenate([da, da_class], 1), xp.concatenate([dc, dc_class], 1)

    def generator(self, c: Array, labels: Array) -> tuple[Array, Array]:
        if kernels_on(c, labels):
            return kernels.acgan_generator(c, labels, self.source.minimax)
        loss, dc = self.source.generator(c[:, :1])
        class_loss, dc_class = cross_entropy(c[:, 1:], labels)
        return loss + class_loss, array_module(c).concatenate([dc, dc_class], 1)

    def score(self, a: Array) -> Array:
        if kernels_on(a):
            return kernels.mean_probability(a, a.shape[1])
        return self.source.score(a[:, :1])
