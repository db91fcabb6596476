"""The training step of a GAN whose generator moves first, as a plan: raschka_mlp_gan. See planned.py.

D does not change while G moves, and it learns from the fakes that G made before its move. So D sees real and fake once, in one pass
of 2B, and what it says of the fakes is there for both players. Dropout's mask of a fake is then the same for both, where
GAN.train_step draws it twice.
"""

from rawgan.planned import Planned
from rawgan.planned_blocks import backward, forward


class PlannedFirstStep(Planned):
    """G moves, and then D. With BatchNorm in D, whose running statistics every pass moves, the fakes pass it twice."""

    def unsupported(self, recipe):
        known = {
            "a penalty": recipe.penalty is None,
            "clipped weights": recipe.clip is None,
            "both updates at once": recipe.first == "generator",
            "a joint loss of real and fake": not recipe.joint,
            "z of G's own": not recipe.fresh_z,
        }
        return next((what for what, fine in known.items() if not fine), None)

    def savings(self, recipe):
        return ("reused forward", "idle gradients")

    def allocate(self):
        self.reused = "reused forward" not in self.without and not any(block.norm for block in self.D.blocks)
        self.x = self.xp.empty((2 * self.batch, *self.images.shape[1:]), self.dtype)  # real, fake

    def launch(self) -> None:
        B, body, (real, fake, generator) = self.batch, self.D.blocks[:-1], self.sides
        z = self.inputs(self.x[:B])
        _, g_cache = forward(self.G.blocks, z, out=self.x[B:], train=self.recipe.train_generator)
        seen = self.seen(self.x, 0)
        if self.reused:
            y, d_cache = forward(body, seen)
            fake_y, fake_cache = y[B:], [trace.after(B) for trace in d_cache]
        else:
            fake_y, fake_cache = forward(body, seen[B:], row=B)
            y, d_cache = forward(body, seen, groups=2)
        fake_cache, dzs = self.say(fake_y, fake_cache, B, generator, None, column=3)
        dz = self.through_discriminator(fake_cache, dzs, self.x[B:])
        backward(self.G.blocks, g_cache, [dz], self.G.gradient)
        self.G.move()
        d_cache, dzs = self.say(y, d_cache, B, real, fake)
        self.discriminator_gradient(d_cache, dzs)
        self.D.move(tick=self.state[1:])
