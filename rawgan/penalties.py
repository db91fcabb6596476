"""Penalties on the gradient of the critic with respect to its input, and their gradients by hand.

With g[n] = d D(x[n]) / d x[n] at points x (N, ...) and |g[n]| its norm over the image, a penalty is
a mean of p(|g[n]|^2). Its gradient with respect to the critic's weights is a second derivative of
the critic. It takes four sweeps over the layers:

    1  forward at the points, keeping the caches
    2  backward with dy = 1, of Heads for the first alone, keeping every dy: the input's is g
    3  forward through the layers from ddx = dP/dg, with each layer's double_backward: the jvp of
       the network (Pearlmutter's R-operator)
    4  backward through the layers from the curvature terms of sweep 3, an ordinary backward;
       skipped if there are none (ReLU family, no normalisation)

No tape, no finite differences. For a critic without curvature, sweeps 3 and 4 are one forward jvp
and one weight gradient per layer. `Penalties` are several of them, each of them lazy or not.
Source: Gulrajani et al. 2017 (arXiv:1704.00028); Pearlmutter 1994.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rawgan.backend import Array, array_module, kernels_on, to_host
from rawgan.kernels import kernels
from rawgan.layers import BatchNorm, Heads, Sequential, leaves
from rawgan.layers.base import Grads
from rawgan.parallel import SINGLE_PROCESS, Ranks


def couples_samples(critic: Sequential) -> str | None:
    """Return a sentence if D(x[n]) depends on the other samples of the batch, else None.

    P is then no mean of independent penalties, one per sample.
    """
    for path, layer in leaves(critic):
        if layer.couples_samples:
            return (
                f"layer {path} of the critic is a {type(layer).__name__}: it couples the samples of"
                " a batch, so that the penalty is not one per sample"
            ) + ("; LayerNorm or InstanceNorm do not" if isinstance(layer, BatchNorm) else "")
    return None


def source_size(critic: Sequential, scores: Array, cache) -> int:
    """Return the number of columns of scores (N, K) that are the source's, real or fake.

    D(x) = scores[:, :source_size]: all of them, or those of the first of several Heads.
    """
    last = critic.layers[-1]
    return last.source_size(cache[-1]) if isinstance(last, Heads) else scores.shape[-1]


def squared_norms(g: Array) -> Array:
    """|g[n]|^2 (N,), each a sum over the whole of sample n; g (N, ...)."""
    if kernels_on(g):
        return kernels.squared_norms(g)
    return (g * g).reshape(len(g), -1).sum(1)


def scale_samples(g: Array, factor: Array) -> Array:
    """factor[n] g[n]: g (N, ...), factor (N,)."""
    if kernels_on(g, factor):
        return kernels.scale_samples(g, factor)
    return g * factor.reshape(-1, *[1] * (g.ndim - 1))


def interpolate(real: Array, fake: Array, alpha: Array) -> Array:
    """alpha[n] real[n] + (1 - alpha[n]) fake[n]: real and fake (N, ...), alpha (N, 1, ..., 1)."""
    if kernels_on(real, fake, alpha):
        return kernels.interpolate(real, fake, alpha)
    return alpha * real + (1 - alpha) * fake


class Penalty:
    """Base class: the `points` of the gradient, and `value`, the penalty of its squared norm.

    interval: D's steps from one evaluation to the next. of_gradient: whether P is one of g.
    """

    interval = 1
    of_gradient = True

    def labels(self, real: Array | None, fake: Array | None) -> Array | None:
        """Return the labels of the points, from those of real and fake samples: of the real."""
        return real

    def points(self, real: Array, fake: Array, rng) -> Array:
        raise NotImplementedError

    def value(self, squared: Array) -> tuple[Array, Array]:
        """Return the penalty P and the factor f (N,) with dP/dg[n] = f[n] g[n].

        squared (N,) holds |g[n]|^2; P is averaged over N.
        """
        raise NotImplementedError

    def __call__(
        self, critic: Sequential, x: Array, condition=None, train: bool = True
    ) -> tuple[Array, Grads, Array | None]:
        """Return P, its gradients by parameter name, and the norms |g[n]| (N,), None without g.

        The points are x (N, ...). `condition` is the critic's conditioning input; `train` selects
        the mode of its normalisation. Raises NotImplementedError, naming the layer, if a layer of
        the critic has no second derivative.
        """
        xp = array_module(x)
        scores, cache = critic.forward(x if condition is None else (x, condition), train)  # 1
        dy = xp.ones_like(scores)
        dy[..., source_size(critic, scores, cache) :] = 0
        dys = critic.upstream(dy, cache)  # 2
        g = dys[0]
        squared = squared_norms(g)
        penalty, factor = self.value(squared)
        ddx = scale_samples(g, factor)
        # 3, 4
        _, _, grads = critic.double_backward(
            ddx, dys[-1], cache, need_ddy=False, need_dx=False, dys=dys
        )
        return penalty, grads, xp.sqrt(squared)


def uniform(rng, like: Array, shape: tuple[int, ...]) -> Array:
    """Return U(0, 1) of `shape` on the device and with the dtype of `like`.

    It is float32 for a bfloat16 `like`, which NumPy stores as integers.
    """
    return array_module(like).asarray(
        rng.random(shape).astype(like.dtype if like.dtype.kind == "f" else "float32")
    )


def per_sample(rng, like: Array) -> Array:
    """alpha ~ U(0, 1), one per sample: (N, 1, ..., 1), to broadcast over `like`."""
    return uniform(rng, like, (len(like), *[1] * (like.ndim - 1)))


@dataclass(frozen=True)
class WGANGP(Penalty):
    """P = weight mean( (|g| - 1)^2 ) between real and fake; one-sided: only where |g| > 1.

        x = alpha real + (1 - alpha) fake,  alpha ~ U(0, 1), one per sample

    Where g is exactly 0 the norm has no derivative, and its subgradient 0 is taken.
    Source: Gulrajani et al. 2017.
    """

    weight: float = 10.0
    one_sided: bool = False

    def points(self, real, fake, rng):
        return interpolate(real, fake, per_sample(rng, real))

    def value(self, squared):
        if kernels_on(squared):
            return kernels.wgan_gp_value(squared, self.weight, self.one_sided)
        xp = array_module(squared)
        norm = xp.sqrt(squared)
        excess = norm - 1
        if self.one_sided:
            excess = xp.maximum(excess, 0)
        slope = excess / xp.where(norm > 0, norm, 1) * (norm > 0)
        return self.weight * (excess * excess).mean(), 2 * self.weight / len(norm) * slope


@dataclass(frozen=True)
class R1(Penalty):
    """P = weight / 2 mean( |g|^2 ) at the real images.

    Source: Mescheder et al. 2018 (arXiv:1801.04406).
    """

    weight: float = 10.0

    def points(self, real, fake, rng):
        return real

    def value(self, squared):
        if kernels_on(squared):
            return kernels.r1_value(squared, self.weight)
        xp = array_module(squared)
        return self.weight / 2 * squared.mean(), xp.full_like(squared, self.weight / len(squared))


@dataclass(frozen=True)
class DRAGAN(WGANGP):
    """P = weight mean( (|g| - 1)^2 ) around the real images.

        x = real + alpha spread std(real) u,  u ~ U(0, 1) per pixel, alpha ~ U(0, 1) per sample

    std is taken over the whole batch. Source: Kodali et al. 2017 (arXiv:1705.07215), with the noise
    of its authors' code.
    """

    spread: float = 0.5

    def points(self, real, fake, rng):
        if real.dtype.kind != "f":
            raise TypeError(
                f"the points of DRAGAN are computed in float32 or float64, got {real.dtype} images"
            )
        return real + per_sample(rng, real) * (self.spread * real.std()) * uniform(
            rng, real, real.shape
        )


@dataclass(frozen=True)
class R2(R1):
    """P = weight / 2 mean( |g|^2 ) at the fakes.

    Source: Mescheder et al. 2018 (arXiv:1801.04406).
    """

    def points(self, real, fake, rng):
        return fake

    def labels(self, real, fake):
        return fake


@dataclass(frozen=True)
class Drift(Penalty):
    """P = weight mean( D(x)^2 ) at the real images: keeps the scores near 0.

    There is no g: P is one forward pass and one backward pass from dy = 2 weight / N D(x), for the
    gradients of the weights alone. Source: Karras et al. 2018 (arXiv:1710.10196), appendix A.1.
    """

    weight: float = 1e-3
    of_gradient = False

    def points(self, real, fake, rng):
        return real

    def __call__(self, critic, x, condition=None, train=True):
        scores, cache = critic.forward(x if condition is None else (x, condition), train)
        size = source_size(critic, scores, cache)
        source = scores[..., :size]
        dy = 2 * self.weight / source.size * scores
        dy[..., size:] = 0
        _, grads = critic.backward(dy, cache, need_dx=False)
        return self.weight * (source * source).mean(), grads, None


@dataclass(frozen=True)
class Lazy(Penalty):
    """P of another penalty in every `interval`-th step of D, with `interval` times its gradient.

        steps 0, interval, 2 interval, ... of D:  P,  interval dP/dw;  the others: nothing

    The sum of the gradients over `interval` steps is about that of P in each step (N, ...). Raises
    ValueError for an interval below 1. Source: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958),
    appendix B, without its correction of Adam's rate and betas.
    """

    penalty: Penalty
    interval: int = 16

    @property
    def of_gradient(self):
        return self.penalty.of_gradient

    def __post_init__(self):
        if self.interval < 1:
            raise ValueError(f"the interval of a lazy penalty is 1 or more, not {self.interval}")

    def points(self, real, fake, rng):
        return self.penalty.points(real, fake, rng)

    def labels(self, real, fake):
        return self.penalty.labels(real, fake)

    def __call__(self, critic, x, condition=None, train=True):
        value, grads, norms = self.penalty(critic, x, condition, train)
        return value, {name: self.interval * g for name, g in grads.items()}, norms


def as_penalties(penalty: Penalty | Sequence[Penalty] | None) -> tuple[Penalty, ...]:
    """Return one penalty, a sequence of them, or None as a tuple."""
    if penalty is None:
        return ()
    return (penalty,) if isinstance(penalty, Penalty) else tuple(penalty)


class Penalties:
    """The penalties of a GAN, P = sum over i of P[i], and the last value of each.

    A value is kept until the next evaluation of a lazy penalty, so that the metrics of every step
    have all of them. `state` and `restore` are for a checkpoint between two evaluations.
    """

    def __init__(self, penalty: Penalty | Sequence[Penalty] | None):
        self.penalties = as_penalties(penalty)
        self.last: list[tuple[Array, Array | None]] = [None] * len(self.penalties)

    def __len__(self) -> int:
        return len(self.penalties)

    def __iter__(self) -> Iterator[Penalty]:
        return iter(self.penalties)

    @property
    def lazy(self) -> bool:
        """Return whether a penalty is not evaluated in every step of D."""
        return any(penalty.interval > 1 for penalty in self.penalties)

    def gradients(
        self,
        critic: Sequential,
        real: tuple[Array, Array | None],
        fake: tuple[Array, Array | None],
        rng,
        step: int,
        train: bool,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> list[Grads]:
        """Evaluate the penalties of D's step `step` from 0; return the gradients of each.

        real and fake are pairs (x, labels or None).
        """
        (real_x, real_labels), (fake_x, fake_labels) = real, fake
        grads = []
        for i, penalty in enumerate(self.penalties):
            if step % penalty.interval and self.last[i] is not None:
                continue
            x = penalty.points(real_x, fake_x, rng)
            labels = penalty.labels(real_labels, fake_labels)
            value, penalty_grads, norms = penalty(critic, x, labels, train)
            if penalty.interval > 1:  # of all processes, since rank 0 alone writes the checkpoint
                value = ranks.all_gather(array_module(x).asarray(value).reshape(1)).mean()
                norms = norms if norms is None else ranks.all_gather(norms).reshape(-1)
            self.last[i] = value, norms
            grads.append(penalty_grads)
        return grads

    @property
    def value(self) -> Array:
        """Return the sum of the last values."""
        first, *others = (value for value, _ in self.last)
        return sum(others, first)

    @property
    def norms(self) -> Array | None:
        """Return the last norms |g[n]| at the points of all penalties, None without any."""
        norms = [norm for _, norm in self.last if norm is not None]
        if len(norms) < 2:
            return norms[0] if norms else None
        return array_module(*norms).concatenate(norms)

    def state(self) -> list:
        """Return the last values and norms as numbers, None for a penalty without one."""
        return [
            last and [float(last[0]), None if last[1] is None else to_host(last[1]).tolist()]
            for last in self.last
        ]

    def restore(self, state: list, like: Array) -> None:
        """Load a state, as arrays of the device and dtype of `like`. Raises ValueError, TypeError.

        NumPy computes float32 from the numbers of a float32 array without rounding.
        """
        xp = array_module(like)

        def array(numbers) -> Array | None:
            return None if numbers is None else xp.asarray(np.asarray(numbers, like.dtype))

        if len(state) != len(self.penalties):
            raise ValueError(f"{len(state)} penalties in the place of {len(self.penalties)}")
        self.last = [last and (array(last[0]), array(last[1])) for last in state]
