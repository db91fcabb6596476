"""The two-player step, written out: what is differentiated with respect to what."""

from dataclasses import dataclass

import numpy as np

from rawgan.backend import Array, array_module, blas
from rawgan.layers import BatchNorm, Conv2d, ConvTranspose2d, Dropout, Layer, Sequential, leaves
from rawgan.losses import Objective
from rawgan.optim import Optimizer
from rawgan.parallel import ALONE, Ranks
from rawgan.penalties import Penalty

Samples = Array | tuple[Array, Array]  # images or z, and where the networks are conditional, labels (N,) beside them


@dataclass
class GAN:
    """A generator G, a discriminator D, what they minimise, and how each moves.

    G maps z to images, D images to scores. Each step below changes the parameters of exactly one player. In a conditional GAN z,
    real and fake are pairs (array, labels); where the objective is `labelled`, D sees the images alone and the loss the labels.

    penalty          added to D's loss, at points that `rng` draws; penalty_train: in which mode D runs for it
    clip             after each D step, D's parameters are clipped to [-clip, clip]
    first            "discriminator"; "generator": G moves before D, which then sees the fakes made before that move; "both": both
                     gradients are taken before either moves, from one pass of the fakes through D
    joint            D sees real and fake as one batch, and its loss is the mean over both
    train_fakes      in which mode G makes fakes that only D learns from
    train_generator  in which mode G makes the fakes that it learns from itself
    """

    generator: Sequential
    discriminator: Sequential
    objective: Objective
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    penalty: Penalty | None = None
    penalty_train: bool = True
    clip: float | None = None
    first: str = "discriminator"
    joint: bool = False
    train_fakes: bool = True
    train_generator: bool = True
    rng: np.random.Generator | None = None

    def __post_init__(self):
        """For those who watch: the flat gradients of the last step by player, and |g[n]| of its penalty."""
        if self.joint and self.first == "both":
            raise ValueError("of a joint pass no scores of the fakes alone are there for G: both updates at once need two passes")
        self.gradients: dict[str, Array] = {}
        self.norms: Array | None = None
        self.convolves = any(isinstance(layer, Conv2d | ConvTranspose2d) for layer in self.layers())
        self.ranks: Ranks = ALONE
        self.synchronised = False

    def layers(self) -> list[Layer]:
        """Those of both networks."""
        return [layer for net in (self.generator, self.discriminator) for _, layer in leaves(net)]

    def join(self, ranks: Ranks, synchronised: bool = False) -> None:
        """From now on this is one of several that train together, each on its part of every batch: their gradients are averaged.

        `synchronised`: BatchNorm takes the statistics of the whole batch; else each of its own part, and the running ones are
        averaged by `level`.
        """
        self.ranks, self.rng, self.synchronised = ranks, ranks.share(self.rng), synchronised and ranks.size > 1
        for layer in self.layers():
            if isinstance(layer, Dropout):
                layer.bind(ranks.share(layer.rng))
            elif isinstance(layer, BatchNorm) and self.synchronised:
                layer.ranks = ranks

    def level(self) -> None:
        """Running statistics that each process took of its own samples become their means: the same on all."""
        if not self.synchronised:
            self.ranks.level([a for layer in self.layers() if isinstance(layer, BatchNorm) for a in layer.buffers.values()])

    def train_step(self, real: Samples | list[Samples], z: Samples | list[Samples]) -> dict[str, Array]:
        """D learns from real and fake images, then G from what the new D says of the same fakes.

        With lists, D takes a step for each real batch and z; one z more than real batches is G's own, else G learns from the
        last fakes of D. Returns the losses and mean scores of the last steps, as arrays of no dimension.
        """
        blas.share(not self.convolves)
        reals = real if isinstance(real, list) else [real]
        zs = z if isinstance(z, list) else [z]
        if self.first != "discriminator":
            fake, g_cache = self.generate(zs[0], self.train_generator)
            if self.first == "both":
                return self.simultaneous_step(reals[0], fake, g_cache)
            return self.generator_step(fake, g_cache) | self.discriminator_step(reals[0], fake)
        own = len(zs) > len(reals)
        for i, batch in enumerate(reals):
            shared = not own and i == len(reals) - 1
            fake, g_cache = self.generate(zs[i], self.train_generator if shared else self.train_fakes)
            said = self.discriminator_step(batch, fake)
        if own:
            fake, g_cache = self.generate(zs[-1], self.train_generator)
        return said | self.generator_step(fake, g_cache)

    def generate(self, z: Samples, train: bool = True) -> tuple[Samples, object]:
        """G(z), with the labels of z beside it where there are any, and G's cache."""
        x, cache = self.generator.forward(z, train)
        return ((x, z[1]) if isinstance(z, tuple) else x), cache

    def discriminator_step(self, real: Samples, fake: Samples) -> dict[str, Array]:
        """D moves along -d loss_D / d theta_D. The fakes are constants here: G receives nothing, and nobody needs d/d image."""
        said, grads, _ = self.discriminator_gradient(real, fake)
        self.move_discriminator(grads)
        return said

    def generator_step(self, fake: Samples, g_cache) -> dict[str, Array]:
        """G moves along -d loss_G / d theta_G, D staying as it is."""
        said, grads = self.generator_gradient(fake, self.discriminator.forward(self.seen(fake)), g_cache)
        self.generator_optimizer.step(grads)
        return said

    def simultaneous_step(self, real: Samples, fake: Samples, g_cache) -> dict[str, Array]:
        """Both gradients, at the parameters before the step; then both players move."""
        d_said, d_grads, judged = self.discriminator_gradient(real, fake)
        g_said, g_grads = self.generator_gradient(fake, judged, g_cache)
        self.move_discriminator(d_grads)
        self.generator_optimizer.step(g_grads)
        return d_said | g_said

    def discriminator_gradient(self, real: Samples, fake: Samples) -> tuple[dict[str, Array], Array, tuple | None]:
        """d loss_D / d theta_D as one flat vector; and what D said of the fakes, with its cache, where they passed on their own.

        Real and fake pass through D separately, each with BatchNorm statistics of its own, and their gradients add. In a D without
        statistics (it has no buffers) no sample meets another, and one pass of both computes the same.
        """
        D = self.discriminator
        labels = (real[1], fake[1]) if self.objective.labelled else ()
        if self.joint or (not D.buffers and self.first != "both" and self.ranks.size == 1):
            scores, cache = D.forward(both(self.seen(real), self.seen(fake)))
            N = len(split(real)[0])
            a, c = scores[:N], scores[N:]
            loss, da, dc = self.objective.discriminator(a, c, *labels)
            dy, judged = array_module(da).concatenate([da, dc]), None
            if self.joint:
                loss, dy = loss / 2, dy / 2
            passes = [D.backward(dy, cache, need_dx=False)[1]]
        else:
            a, real_cache = D.forward(self.seen(real))
            c, fake_cache = judged = D.forward(self.seen(fake))
            loss, da, dc = self.objective.discriminator(a, c, *labels)
            passes = [D.backward(da, real_cache, need_dx=False)[1], D.backward(dc, fake_cache, need_dx=False)[1]]
        said = {}
        if self.penalty is not None:
            (real_x, condition), (fake_x, _) = split(self.seen(real)), split(self.seen(fake))
            x = self.penalty.points(real_x, fake_x, self.rng)
            value, grads, norms = self.penalty(D, x, condition, self.penalty_train)
            passes.append(grads)
            loss = loss + value
            said, self.norms = {"penalty": value, "gradient_norm": norms.mean()}, norms
        said = {"d_loss": loss, "d_real": self.objective.score(a), "d_fake": self.objective.score(c)} | said
        self.gradients["discriminator"] = grads = self.ranks.mean_(self.discriminator_optimizer.parameters.gather(*passes))
        return said, grads, judged

    def generator_gradient(self, fake: Samples, judged: tuple, g_cache) -> tuple[dict[str, Array], Array]:
        """d loss_G / d theta_G = d loss_G / d D(fake) * dD / d fake * dG / d theta_G as one flat vector.

        The gradient passes through D (dx only: D's weights receive nothing) into G (weights only: nobody needs d/d z).
        `judged` is D's forward of the fakes, with its cache.
        """
        c, d_cache = judged
        labels = (fake[1],) if self.objective.labelled else ()
        loss, dc = self.objective.generator(c, *labels)
        dfake, _ = self.discriminator.backward(dc, d_cache, need_grads=False)
        _, grads = self.generator.backward(dfake, g_cache, need_dx=False)
        self.gradients["generator"] = flat = self.ranks.mean_(self.generator_optimizer.parameters.gather(grads))
        return {"g_loss": loss}, flat

    def move_discriminator(self, grads: Array) -> None:
        """One step of D's optimizer, and the clipping of a Wasserstein critic."""
        self.discriminator_optimizer.step(grads)
        if self.clip is not None:
            theta = self.discriminator_optimizer.parameters.flat
            theta.clip(-self.clip, self.clip, out=theta)

    def seen(self, samples: Samples) -> Samples:
        """What D gets of the samples: without the labels where the objective takes them."""
        return samples[0] if self.objective.labelled else samples


def split(samples: Samples) -> tuple[Array, Array | None]:
    """The array, and the labels or None."""
    return samples if isinstance(samples, tuple) else (samples, None)


def both(real: Samples, fake: Samples) -> Samples:
    """Real and fake as one batch, real first."""
    (x, labels), (y, more) = split(real), split(fake)
    xp = array_module(x, y)
    joined = xp.concatenate([x, y])
    return joined if labels is None else (joined, xp.concatenate([labels, more]))
