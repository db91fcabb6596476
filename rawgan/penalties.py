"""Penalties on the gradient of the critic with respect to its input, and their gradients by hand.

With g[n] = d D(x[n]) / d x[n] at some points x and |g[n]| its norm over the whole image, a penalty is a mean of p(|g[n]|^2). Its
gradient with respect to the critic's weights is a second derivative of the critic. It takes four sweeps over the layers:

    1  forward at the points, keeping the caches
    2  backward with dy = 1, keeping every dy: what comes out at the bottom is g
    3  upwards from ddx = dP/dg: each layer's double_backward, the tangent of the network (Pearlmutter's R-operator)
    4  downwards with the curvature that 3 met: an ordinary backward, skipped where there is none (ReLU family, no normalisation)

No tape, no finite differences. For a critic without curvature, sweeps 3 and 4 are one tangent forward and one weight gradient per
layer. Source: Gulrajani et al. 2017 (arXiv:1704.00028); Pearlmutter 1994.
"""

from dataclasses import dataclass

from rawgan.backend import Array, array_module, kernels_on
from rawgan.kernels import kernels
from rawgan.layers import BatchNorm, Sequential, leaves
from rawgan.layers.base import Grads


def couples_samples(critic: Sequential) -> str | None:
    """A sentence for critics in which D(x[n]) depends on the other samples, so that P is not one per sample; else None."""
    for path, layer in leaves(critic):
        if isinstance(layer, BatchNorm):
            return (
                f"layer {path} of the critic is a BatchNorm: it couples the samples of a batch, so that the penalty is not"
                " one per sample; LayerNorm or InstanceNorm do not"
            )
    return None


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
    """Where the gradient is taken (`points`), and what of its squared norm is penalised (`value`)."""

    def points(self, real: Array, fake: Array, rng) -> Array:
        raise NotImplementedError

    def value(self, squared: Array) -> tuple[Array, Array]:
        """squared (N,) = |g[n]|^2 to the penalty P, averaged over N, and the factor f (N,) with dP/dg[n] = f[n] g[n]."""
        raise NotImplementedError

    def __call__(self, critic: Sequential, x: Array, condition=None, train: bool = True) -> tuple[Array, Grads, Array]:
        """P, the gradients of P by parameter name, and the norms |g[n]| (N,), at the points x (N, ...).

        `condition` goes to the critic beside x; `train` says in which mode its normalisation runs. Raises NotImplementedError,
        naming the layer, where a layer of the critic has no second derivative.
        """
        xp = array_module(x)
        scores, cache = critic.forward(x if condition is None else (x, condition), train)  # 1
        dys = critic.upstream(xp.ones_like(scores), cache)  # 2
        g = dys[0]
        squared = squared_norms(g)
        penalty, factor = self.value(squared)
        ddx = scale_samples(g, factor)
        _, _, grads = critic.double_backward(ddx, dys[-1], cache, need_ddy=False, need_dx=False, dys=dys)  # 3, 4
        return penalty, grads, xp.sqrt(squared)


def uniform(rng, like: Array, shape: tuple[int, ...]) -> Array:
    """U(0, 1) of `shape`, where `like` lives and with its dtype: float32 beside bfloat16, which NumPy holds as integers."""
    return array_module(like).asarray(rng.random(shape).astype(like.dtype if like.dtype.kind == "f" else "float32"))


def per_sample(rng, like: Array) -> Array:
    """alpha ~ U(0, 1), one per sample: (N, 1, ..., 1), to broadcast over `like`."""
    return uniform(rng, like, (len(like), *[1] * (like.ndim - 1)))


@dataclass(frozen=True)
class WGANGP(Penalty):
    """P = weight mean( (|g| - 1)^2 ) between real and fake; one-sided: only where |g| > 1.

        x = alpha real + (1 - alpha) fake,  alpha ~ U(0, 1), one per sample

    Where g is exactly 0 the norm has no derivative, and its subgradient 0 is taken. Source: Gulrajani et al. 2017.
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
    """P = weight / 2 mean( |g|^2 ) at the real images. Source: Mescheder et al. 2018 (arXiv:1801.04406)."""

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

        x = real + alpha spread std(real) u,  u ~ U(0, 1) per pixel, alpha ~ U(0, 1) per sample, std over the whole batch

    Source: Kodali et al. 2017 (arXiv:1705.07215), with the noise of its authors' code.
    """

    spread: float = 0.5

    def points(self, real, fake, rng):
        if real.dtype.kind != "f":
            raise TypeError(f"the points of DRAGAN are computed in float32 or float64, got {real.dtype} images")
        return real + per_sample(rng, real) * (self.spread * real.std()) * uniform(rng, real, real.shape)
