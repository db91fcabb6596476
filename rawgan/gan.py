"""The two-player step, written out: what is differentiated with respect to what."""

from dataclasses import dataclass

from rawgan.backend import Array
from rawgan.layers import Sequential
from rawgan.losses import Objective
from rawgan.optim import Optimizer


@dataclass
class GAN:
    """A generator G, a discriminator D, what they minimise, and how each moves.

    G maps z to images, D images to scores. Each step below changes the parameters of exactly one player.
    """

    generator: Sequential
    discriminator: Sequential
    objective: Objective
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer

    def train_step(self, real: Array, z: Array) -> dict[str, Array]:
        """D learns from real and fake images, then G from what the new D says of the same fakes.

        real (N, H, W, C) and z are one batch. Returns the losses and mean scores as arrays of no dimension.
        """
        fake, g_cache = self.generator.forward(z)
        return self.discriminator_step(real, fake) | self.generator_step(fake, g_cache)

    def discriminator_step(self, real: Array, fake: Array) -> dict[str, Array]:
        """d loss_D / d theta_D. The fakes are constants here: G receives nothing, and nobody needs d/d image.

        Real and fake pass through D separately, each with BatchNorm statistics of its own, and their gradients add.
        """
        D = self.discriminator
        a, real_cache = D.forward(real)
        c, fake_cache = D.forward(fake)
        loss, da, dc = self.objective.discriminator(a, c)
        _, real_grads = D.backward(da, real_cache, need_dx=False)
        _, fake_grads = D.backward(dc, fake_cache, need_dx=False)
        self.discriminator_optimizer.step(self.discriminator_optimizer.parameters.gather(real_grads, fake_grads))
        return {"d_loss": loss, "d_real": self.objective.score(a), "d_fake": self.objective.score(c)}

    def generator_step(self, fake: Array, g_cache) -> dict[str, Array]:
        """d loss_G / d theta_G = d loss_G / d D(fake) * dD / d fake * dG / d theta_G.

        The gradient passes through D (dx only: D's weights receive nothing) into G (weights only: nobody needs d/d z).
        """
        c, d_cache = self.discriminator.forward(fake)
        loss, dc = self.objective.generator(c)
        dfake, _ = self.discriminator.backward(dc, d_cache, need_grads=False)
        _, grads = self.generator.backward(dfake, g_cache, need_dx=False)
        self.generator_optimizer.step(self.generator_optimizer.parameters.gather(grads))
        return {"g_loss": loss}
