"""The planned step of a GAN whose generator is updated first: raschka_mlp_gan, raschka_dcgan."""

from rawgan.planned.base import PlannedStep
from rawgan.planned.network import forward


class GeneratorFirstStep(PlannedStep):
    """GAN.generator_first.

    | gan.py                                    | here                                     |
    |-------------------------------------------|------------------------------------------|
    | `generate`: fake = G(z)                   | `forward` of G                           |
    | `discriminator_input`                     | `condition`                              |
    | `generator_step`: `D.forward(fake)`, but  | second half of one                       |
    | for D's last layer                        | `discriminator_forward` of 2B            |
    | D's last layer, `objective.generator`     | `generator_loss`                         |
    | `D.backward`, `G.backward`                | `generator_gradient`                     |
    | `flatten_gradients`, the mean over ranks, | `G.step`                                 |
    | `generator_optimizer.step`                |                                          |
    | `one_pass` or `separate_passes`:          | the same `discriminator_forward` of 2B   |
    | `D.forward`, but for D's last layer       |                                          |
    | D's last layer, `objective.discriminator` | `discriminator_loss`                     |
    | and `score`                               |                                          |
    | `D.backward`, of one pass or both         | `discriminator_gradient` of 2B           |
    | `flatten_gradients`, the mean over ranks, | `D.step`, which clips                    |
    | `update_discriminator`                    |                                          |

    D does not change in G's step, so one pass serves both players. Dropout then has the same mask
    for a fake in both, where gan.py draws two. With BatchNorm in D, whose running statistics every
    pass updates, the fakes take a separate pass.
    """

    fusions = ("shared forward pass", "unused gradients")

    def unsupported(self):
        return {
            "a penalty with a generator that is updated first": bool(self.gan.penalties),
            "another order of updates": self.schedule.order != "generator_first",
            "a joint loss of real and fake": self.schedule.joint_batch,
            "a new z for G": self.schedule.resample_z,
        }

    def allocate(self):
        normalised = any(block.norm for block in self.D.blocks)
        self.shares_forward = "shared forward pass" not in self.disabled and not normalised
        self.x = self.xp.empty((2 * self.batch, *self.images.shape[1:]), self.dtype)  # real, fake

    def launch(self) -> None:
        B, terms, fake = self.batch, self.loss_terms, self.x[self.batch :]
        z = self.draw_inputs(self.x[:B])
        train = self.schedule.generator_mode == "train"
        _, g_cache = forward(self.G.blocks, z, out=fake, train=train)
        x = self.condition(self.D, self.x, 0)
        if self.shares_forward:
            y, cache = self.discriminator_forward(x)
            fake_y, fake_cache = y[B:], [block_cache.from_sample(B) for block_cache in cache]
        else:
            fake_y, fake_cache = self.discriminator_forward(x[B:], first_sample=B)
            y, cache = self.discriminator_forward(x, groups=2)
        fake_cache, dzs = self.generator_loss(fake_y, fake_cache, first_label=self.generator_labels)
        self.generator_gradient(fake_cache, dzs, fake, g_cache)
        self.G.step()
        cache, dzs = self.discriminator_loss(y, cache, B, terms.real, terms.fake)
        self.discriminator_gradient(cache, dzs)
        self.D.step(step_counter=self.state[1:])
