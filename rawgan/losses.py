"""GAN objectives from logits, with gradients by hand.

Each objective has two methods. With a = D(real) and c = D(fake), both (N, ...) scores, one or more
per sample,

    loss, da, dc = objective.discriminator(a, c)    loss of D, and its gradients w.r.t. both scores
    loss, dc     = objective.generator(c)           loss of G, and its gradient
    loss, dc     = objective.generator(c, a)        the same, where `takes_real_scores`

All losses are means over all scores, so every gradient includes the factor 1/N. A loss is an array
of no dimension. `score(a)` is the number to log: the mean probability that D assigns to "real" for
BCE, the mean score for the others.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from rawgan.backend import Array, array_module, fuse, kernels_on
from rawgan.kernels import kernels
from rawgan.layers.embed import one_hot
from rawgan.ops.act import sigmoid, softplus
from rawgan.parallel import SINGLE_PROCESS, Ranks


def _average(x: Array) -> Array:
    """Return the mean of all numbers of x: sum(x) / size.

    For small x three times as fast as NumPy's mean.
    """
    return x.sum() / x.size


@fuse
def _to_label(x: Array, size: float, smoothing: float) -> tuple[Array, Array]:
    """Return the cross-entropy of each logit to the label 1 - smoothing, and its slope / size.

    Called with -x it is the cross-entropy of x to the label 0, and the slope has the opposite sign.
    """
    return softplus(-x) + smoothing * x, (smoothing - sigmoid(-x)) / size


class Objective:
    """Base class of objectives, see the module's docstring.

    labelled            both methods take the samples' labels after the scores
    takes_real_scores   generator takes a = D(real) after c; a is a constant of G's step
    boundary            the score at which D is undecided between real and fake; None where
                        differences of scores alone have a meaning
    """

    labelled = False
    takes_real_scores = False
    boundary: ClassVar[float | None] = None

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        raise NotImplementedError

    def generator(self, c: Array) -> tuple[Array, Array]:
        raise NotImplementedError

    def score(self, a: Array) -> Array:
        if kernels_on(a):
            return kernels.mean_score(a)
        return _average(a)

    def with_real_label(self, real_label: float) -> "Objective":
        """Return the objective with one-sided label smoothing.

        Raises NotImplementedError for an objective without binary cross-entropy.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no binary cross-entropy, whose labels could be smoothed"
        )

    def with_ranks(self, ranks: Ranks) -> "Objective":
        """Return the objective of one of several processes, whose scores are one batch."""
        return self


@dataclass(frozen=True)
class BCE(Objective):
    """Binary cross-entropy from logits, with t = real_label and s the sigmoid.

        D:  mean( softplus(-a) + (1-t) a ) + mean( softplus(c) )
                = -mean( t log s(a) + (1-t) log(1-s(a)) ) - mean( log(1-s(c)) )
        G:  mean( softplus(-c) )  (non-saturating)
            or -mean( softplus(c) )  (minimax: the negative of D's part)

    Computed neither from log(s(x)), which is -inf at -120, nor from 1 - s(x), which is 0 from 17 up
    in float32, but from s(-x). real_label below 1 is one-sided label smoothing: only the labels of
    real samples change. Sources: Goodfellow et al. 2014 (arXiv:1406.2661), section 3; Salimans et
    al. 2016 (arXiv:1606.03498).
    """

    real_label: float = 1.0
    minimax: bool = False
    boundary = 0.0

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.bce_discriminator(a, c, self.real_label)
        array_module(a, c)
        real, da = _to_label(a, float(a.size), 1 - self.real_label)
        fake, dc = _to_label(-c, float(c.size), 0.0)
        return _average(real) + _average(fake), da, -dc

    def generator(self, c: Array) -> tuple[Array, Array]:
        if kernels_on(c):
            return kernels.bce_generator(c, self.minimax)
        if self.minimax:
            value, dc = _to_label(-c, float(c.size), 0.0)
            return -_average(value), dc
        value, dc = _to_label(c, float(c.size), 0.0)
        return _average(value), dc

    def score(self, a: Array) -> Array:
        if kernels_on(a):
            return kernels.mean_probability(a)
        return _average(sigmoid(a))

    def with_real_label(self, real_label: float) -> "BCE":
        return replace(self, real_label=real_label)


@dataclass(frozen=True)
class LeastSquares(Objective):
    """D: mean( (a - 1)^2 ) + mean( c^2 );  G: mean( (c - 1)^2 ).

    Source: Mao et al. 2017 (arXiv:1611.04076), without its 1/2.
    """

    boundary = 0.5

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
    """Critic: mean(c) - mean(a);  G: -mean(c).

    The scores are not probabilities: no sigmoid anywhere.

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
    """D: mean( max(1 - a, 0) ) + mean( max(1 + c, 0) );  G: -mean(c).

    Source: Lim & Ye 2017 (arXiv:1705.02894).
    """

    boundary = 0.0

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


@dataclass(frozen=True)
class RpGAN(Objective):
    """Relativistic pairing: the score of each real sample against that of one fake, N pairs.

        D:  mean( softplus(-(a - c)) )    da = -s(c - a) / N,  dc = s(c - a) / N
        G:  mean( softplus(-(c - a)) )    dc = -s(a - c) / N,  a constant

    s is the sigmoid. G's loss is D's with a and c exchanged. Raises ValueError unless a and c have
    the same shape. Sources: Jolicoeur-Martineau 2018 (arXiv:1807.00734), there RSGAN; Huang et al.
    2024 (arXiv:2501.05441), R3GAN's loss.
    """

    takes_real_scores = True

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if a.shape != c.shape:
            raise ValueError(f"RpGAN pairs real with fake scores: got {a.shape} and {c.shape}")
        if kernels_on(a, c):
            return kernels.relativistic_pairs(a, c)
        array_module(a, c)
        value, da = _to_label(a - c, float(a.size), 0.0)
        return _average(value), da, -da

    def generator(self, c: Array, a: Array) -> tuple[Array, Array]:
        loss, dc, _ = self.discriminator(c, a)
        return loss, dc


@dataclass(frozen=True)
class RelativisticAverage(Objective):
    """Each score against the mean score of the other batch, by a function f of the difference.

        D:  ( mean( f(a - E c) ) + mean( f(E a - c) ) ) / 2
        da = ( p + E q ) / (2 N),  p = f'(a - E c)        E: mean over the batch of N real
        dc = -( q + E p ) / (2 M),  q = f'(E a - c)       or of M fake samples
        G:  the same with a and c exchanged, a constant

    E couples the samples: of several processes all take the mean over the whole batch. A subclass
    defines f by `term`, and as a term of kernels/tile/loss_terms.py. Source: Jolicoeur-Martineau
    2018 (arXiv:1807.00734), section 4, with the sign of the second part as corrected by its author.
    """

    ranks: Ranks = field(default=SINGLE_PROCESS, repr=False, compare=False)

    takes_real_scores = True
    kernel_term = "", 0.0  # name and parameter

    def term(self, x: Array) -> tuple[Array, Array]:
        """Return f(x) and f'(x)."""
        raise NotImplementedError

    def means(self, *arrays: Array) -> Array:
        """Return the mean of each array, over the batches of all processes."""
        xp = array_module(*arrays)
        return self.ranks.all_reduce_mean_(xp.stack([_average(x) for x in arrays]))

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c) and self.ranks.size == 1:
            return kernels.relativistic_average(a, c, *self.kernel_term)
        mean_a, mean_c = self.means(a, c)
        real, p = self.term(a - mean_c)
        fake, q = self.term(mean_a - c)
        mean_p, mean_q = self.means(p, q)
        loss = (_average(real) + _average(fake)) / 2
        return loss, (p + mean_q) / (2 * a.size), -(q + mean_p) / (2 * c.size)

    def generator(self, c: Array, a: Array) -> tuple[Array, Array]:
        loss, dc, _ = self.discriminator(c, a)
        return loss, dc

    def with_ranks(self, ranks: Ranks) -> "RelativisticAverage":
        return replace(self, ranks=ranks)


@dataclass(frozen=True)
class RaGAN(RelativisticAverage):
    """f(x) = softplus(-x): D's logit is the difference to the mean score of the other batch.

    Source: Jolicoeur-Martineau 2018 (arXiv:1807.00734), there RaSGAN.
    """

    kernel_term = "bce_real", 0.0

    def term(self, x: Array) -> tuple[Array, Array]:
        return _to_label(x, 1.0, 0.0)


@dataclass(frozen=True)
class RaLSGAN(RelativisticAverage):
    """f(x) = (x - 1)^2. Source: Jolicoeur-Martineau 2018 (arXiv:1807.00734), appendix."""

    kernel_term = "square", 1.0

    def term(self, x: Array) -> tuple[Array, Array]:
        return (x - 1) ** 2, 2 * (x - 1)


@dataclass(frozen=True)
class RaHinge(RelativisticAverage):
    """f(x) = max(1 - x, 0). Source: Jolicoeur-Martineau 2018 (arXiv:1807.00734), appendix."""

    kernel_term = "hinge", -1.0

    def term(self, x: Array) -> tuple[Array, Array]:
        return array_module(x).maximum(1 - x, 0), -(x < 1).astype(x.dtype)


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """mean( log sum_k exp(logits[n,k]) - logits[n,labels[n]] ) and its gradient.

    The gradient is (softmax - one_hot) / N; logits (N, K). In float32, softmax - 1 is 0 once the
    label's logit leads by 17: it is computed as the negative sum of the others' softmax.
    """
    if kernels_on(logits, labels):
        return kernels.cross_entropy(logits, labels)
    xp = array_module(logits, labels)
    shifted = logits - logits.max(1, keepdims=True)
    hit = one_hot(labels, logits.shape[1], logits.dtype)
    of_label = (shifted * hit).sum(1, keepdims=True)
    others = xp.exp(shifted) * (1 - hit)
    sum_others = others.sum(1, keepdims=True)
    # expm1 is 0 where the label has the largest logit
    log_sum = xp.log1p(sum_others + xp.expm1(of_label))
    return _average(log_sum - of_label), (others - sum_others * hit) / (
        sum_others + xp.exp(of_label)
    ) / len(logits)


@dataclass(frozen=True)
class ACGAN(Objective):
    """Real or fake, and class: scores (N, 1 + K), the logit of "real", then one logit per class.

        D:  BCE(a, c) + CE(a's classes, labels) + CE(c's classes, labels)
        G:  BCE(c) + CE(c's classes, labels)

    Source: Odena et al. 2017 (arXiv:1610.09585).
    """

    source: BCE = BCE()
    labelled = True
    boundary = 0.0

    def discriminator(
        self, a: Array, c: Array, real_labels: Array, fake_labels: Array
    ) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.acgan_discriminator(
                a, c, real_labels, fake_labels, self.source.real_label
            )
        xp = array_module(a, c)
        loss, da, dc = self.source.discriminator(a[:, :1], c[:, :1])
        real_loss, da_class = cross_entropy(a[:, 1:], real_labels)
        fake_loss, dc_class = cross_entropy(c[:, 1:], fake_labels)
        return (
            loss + real_loss + fake_loss,
            xp.concatenate([da, da_class], 1),
            xp.concatenate([dc, dc_class], 1),
        )

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

    def with_real_label(self, real_label: float) -> "ACGAN":
        return replace(self, source=self.source.with_real_label(real_label))
