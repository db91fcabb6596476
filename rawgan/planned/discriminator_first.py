"""The planned step of a DCGAN and its relatives: D is updated, and then G."""

from rawgan.backend import Array
from rawgan.planned.base import PlannedStep, critic_steps
from rawgan.planned.network import forward


class DiscriminatorFirstStep(PlannedStep):
    """GAN.discriminator_first, and GAN.several_critic_steps with one step of D and a new z for G.

    | gan.py                                   | here                                        |
    |------------------------------------------|---------------------------------------------|
    | `generate`: fake = G(z)                  | `forward` of G                              |
    | `discriminator_input`                    | `condition`                                 |
    | `separate_passes`: both `D.forward`, but | `discriminator_forward` of 2B, BatchNorm    |
    | for D's last layer                       | statistics of each half                     |
    | or `one_pass`: `D.forward`, likewise     | the same; of a joint batch, statistics of   |
    |                                          | all samples                                 |
    | D's last layer, `objective.discriminator`| `discriminator_loss`; of a joint batch,     |
    | and `score`                              | weight 1/2                                  |
    | `D.backward`, both or of one pass        | `discriminator_gradient` of 2B              |
    | `flatten_gradients`, the mean over ranks,| `D.step`                                    |
    | `update_discriminator`                   |                                             |
    | `generate` with a new z                  | `forward` of G                              |
    | `generator_step`: `D.forward`, but for   | `generator_step`: `discriminator_forward`   |
    | D's last layer                           |                                             |
    | D's last layer, `objective.generator`    | `generator_loss`                            |
    | `D.backward`, `G.backward`               | `generator_gradient`                        |
    | `flatten_gradients`, the mean over ranks,| `G.step`                                    |
    | `generator_optimizer.step`               |                                             |

    self.x holds the images of the step: real, fake, and where z is resampled the fakes for G.
    """

    def unsupported(self):
        return {
            "a penalty": bool(self.gan.penalties),
            "another order of updates": self.schedule.order != "discriminator_first",
            "several critic steps": critic_steps(self.gan) != {1},
        }

    def configure(self):
        self.fusions = ("joint pass", "unused gradients")
        if self.schedule.joint_batch:
            self.fusions = ("unused gradients",)
        self.z_batches = 1 + self.schedule.resample_z

    def allocate(self):
        images = (self.real_batches + self.z_batches) * self.batch
        self.x = self.xp.empty((images, *self.images.shape[1:]), self.dtype)

    def launch(self) -> None:
        B, G, schedule, x = self.batch, self.G.blocks, self.schedule, self.x
        mode = schedule.fake_mode if schedule.resample_z else schedule.generator_mode
        z = self.draw_inputs(x[:B])
        _, g_cache = forward(G, z[:B], out=x[B : 2 * B], train=mode == "train")
        d_input = self.condition(self.D, x[: 2 * B], 0)
        if "joint pass" in self.disabled:
            self.separate_passes(d_input)
        else:
            self.discriminator_step(d_input)
        if schedule.resample_z:
            train = schedule.generator_mode == "train"
            _, g_cache = forward(G, z[B:], out=x[-B:], train=train, first_sample=B)
            d_input = self.condition(self.D, x[-B:], self.generator_labels)
        self.generator_step(
            d_input[-B:], x[-B:], g_cache, first_sample=2 * B, first_label=self.generator_labels
        )

    def discriminator_step(self, x: Array) -> None:
        """Update D on real and fake x (2 B, ...) in one pass, BatchNorm statistics of each half.

        In a joint batch the statistics are of all samples, and the loss is the mean over both.
        """
        joint = self.schedule.joint_batch
        y, cache = self.discriminator_forward(x, groups=1 if joint else 2)
        cache, dzs = self.discriminator_loss(
            y,
            cache,
            self.batch,
            self.loss_terms.real,
            self.loss_terms.fake,
            weight=0.5 if joint else 1.0,
        )
        self.discriminator_gradient(cache, dzs)
        self.D.step()

    def separate_passes(self, x: Array) -> None:
        """Update D on real and fake x (2 B, ...) in a pass each, whose gradients add."""
        B, terms = self.batch, self.loss_terms
        y, cache = self.discriminator_forward(x[:B])
        cache, dzs = self.discriminator_loss(y, cache, B, terms.real, None)
        self.discriminator_gradient(cache, dzs)
        y, cache = self.discriminator_forward(x[B:], first_sample=B)
        cache, dzs = self.discriminator_loss(y, cache, 0, None, terms.fake, add=True, first_label=B)
        self.discriminator_gradient(cache, dzs, first_label=B)
        self.D.step()
