"""The training step of a CycleGAN, and its losses: translation between images without pairs.

Source and target are two sets of images, (N, H, W, C) in [0, 1]. The generator g_target maps images
of the source to images as in the target, g_source maps back. d_target and d_source tell the real
images of their set from translated ones, with a score for each patch, (N, P, Q, 1).
"""

from dataclasses import dataclass

from rawgan.backend import Array, array_module
from rawgan.layers import Sequential
from rawgan.layers.base import Grads
from rawgan.losses import LeastSquares
from rawgan.optim import Optimizer

NETWORKS = ("g_target", "g_source", "d_target", "d_source")


def mean_absolute_error(y: Array, x: Array) -> tuple[Array, Array]:
    """Return mean( |y - x| ) over all pixels of all images, the L1 loss, and dy.

        dy = sign(y - x) / x.size        0 where y = x

    y and x of any shape, the same.
    """
    difference = y - x
    return abs(difference).mean(), array_module(y, x).sign(difference) / x.size


def discriminator_loss(a: Array, c: Array) -> tuple[Array, Array, Array]:
    """Return the least-squares loss of D on real and fake as one batch, da and dc.

        1/(2M) ( sum( (a - 1)^2 ) + sum( c^2 ) )     a = D(real), c = D(fake), M scores each
        da = (a - 1) / M        dc = c / M

    a and c (N, P, Q, 1). Half of `LeastSquares`, which adds the means over real and over fake.
    Source: Mao et al. 2017 (arXiv:1611.04076), equation 9.
    """
    loss, da, dc = LeastSquares().discriminator(a, c)
    return loss / 2, da / 2, dc / 2


def generator_loss(D: Sequential, fake: Array) -> tuple[Array, Array]:
    """Return mean( (D(fake) - 1)^2 ) and dfake. D's weights receive no gradient."""
    scores, cache = D.forward(fake)
    loss, dy = LeastSquares().generator(scores)
    dfake, _ = D.backward(dy, cache, need_grads=False)
    return loss, dfake


@dataclass
class CycleGAN:
    """Two generators, two discriminators, and the weights of the losses of pixels.

    optimizers  one for each network, under the names of the fields
    cycle       weight of the L1 distance of an image from itself, translated there and back
    identity    weight of the L1 distance of g_source(source) from source and of g_target(target)
                from target; unless it is 0, both sets have the same number of channels

    Source: Zhu et al. 2017 (arXiv:1703.10593).
    """

    g_target: Sequential
    g_source: Sequential
    d_target: Sequential
    d_source: Sequential
    optimizers: dict[str, Optimizer]
    cycle: float = 10.0
    identity: float = 0.0

    def networks(self) -> dict[str, Sequential]:
        """Return the four networks by name."""
        return {name: getattr(self, name) for name in NETWORKS}

    def translate(self, source: Array) -> tuple[Array, Array]:
        """Return g_target(source), and that translated back by g_source."""
        return there_and_back(self.g_target, self.g_source, source)

    def translate_back(self, target: Array) -> tuple[Array, Array]:
        """Return g_source(target), and that translated back by g_target."""
        return there_and_back(self.g_source, self.g_target, target)

    def train_step(self, source: Array, target: Array) -> dict[str, Array]:
        """Update both D, then both G through the new D; return the losses.

        With x the source, y the target, E the mean and w = cycle, v = identity, both G descend

            E( d_target(g_target(x)) - 1 )^2 + E( d_source(g_source(y)) - 1 )^2
            + w E|g_source(g_target(x)) - x| + w E|g_target(g_source(y)) - y|
            + v E|g_source(x) - x|           + v E|g_target(y) - y|

        The image g_target(x) receives two gradients, through d_target and through g_source. The
        weights of g_target receive one from each of its passes: of x, of g_source(y) and, unless
        v = 0, of y.
        """
        g_target, g_source, w = self.g_target, self.g_source, self.cycle
        fake_target, source_cache = g_target.forward(source)
        fake_source, target_cache = g_source.forward(target)

        # each D: real images of its set and translated ones, which are constants
        d_target_loss = self.discriminator_step("d_target", target, fake_target)
        d_source_loss = self.discriminator_step("d_source", source, fake_source)

        # gradients of the translated images through the updated D
        g_target_loss, dfake_target = generator_loss(self.d_target, fake_target)
        g_source_loss, dfake_source = generator_loss(self.d_source, fake_source)

        # the way back: gradients of the weights of its pass, and of the translated images
        source_again, fake_target_cache = g_source.forward(fake_target)
        target_again, fake_source_cache = g_target.forward(fake_source)
        cycle_source, dsource_again = mean_absolute_error(source_again, source)
        cycle_target, dtarget_again = mean_absolute_error(target_again, target)
        dx, g_source_again = g_source.backward(w * dsource_again, fake_target_cache)
        dfake_target = dfake_target + dx
        dx, g_target_again = g_target.backward(w * dtarget_again, fake_source_cache)
        dfake_source = dfake_source + dx

        # the way there
        _, g_target_grads = g_target.backward(dfake_target, source_cache, need_dx=False)
        _, g_source_grads = g_source.backward(dfake_source, target_cache, need_dx=False)

        # each G: the sum over its passes
        metrics, (g_target_same, g_source_same) = self.identity_gradients(source, target)
        self.update("g_target", g_target_grads, g_target_again, g_target_same)
        self.update("g_source", g_source_grads, g_source_again, g_source_same)
        return {
            "d_target_loss": d_target_loss,
            "d_source_loss": d_source_loss,
            "g_target_loss": g_target_loss,
            "g_source_loss": g_source_loss,
            "cycle_source": cycle_source,
            "cycle_target": cycle_target,
        } | metrics

    def discriminator_step(self, name: str, real: Array, fake: Array) -> Array:
        """Update one D on real and fake images as one batch; return its loss."""
        D, N = getattr(self, name), len(real)
        scores, cache = D.forward(array_module(real, fake).concatenate([real, fake]))
        loss, da, dc = discriminator_loss(scores[:N], scores[N:])
        _, grads = D.backward(array_module(da).concatenate([da, dc]), cache, need_dx=False)
        self.update(name, grads)
        return loss

    def identity_gradients(
        self, source: Array, target: Array
    ) -> tuple[dict[str, Array], list[Grads]]:
        """Return the losses of images that a G should not change, and the gradients of both G.

        identity E|g_target(y) - y| and identity E|g_source(x) - x|; nothing where identity is 0.
        """
        if not self.identity:
            return {}, [{}, {}]
        losses, gradients = {}, []
        for name, G, x in (("target", self.g_target, target), ("source", self.g_source, source)):
            same, cache = G.forward(x)
            losses[f"identity_{name}"], dy = mean_absolute_error(same, x)
            gradients.append(G.backward(self.identity * dy, cache, need_dx=False)[1])
        return losses, gradients

    def update(self, name: str, *passes: Grads) -> None:
        """Take one optimizer step of a network from the sum of the gradients of several passes."""
        optimizer = self.optimizers[name]
        optimizer.step(optimizer.parameters.flatten_gradients(*passes))


def there_and_back(there: Sequential, back: Sequential, x: Array) -> tuple[Array, Array]:
    """Return there(x) and back(there(x))."""
    fake, _ = there.forward(x, train=False)
    return fake, back.forward(fake, train=False)[0]
