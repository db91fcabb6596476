"""The planned step of a Wasserstein GAN with clipped weights: many D steps, then one of G.

The number of D steps changes from step to step: 100 in the first 25 steps and in every 500th, else
5. So the plan has two parts:

    launch_repeated    n D steps, n the greatest common divisor of all numbers of D steps: 5
    launch             G's step

and a step runs the first part 20 times or once. G does not change in D's steps, so the fakes of n
D steps are one batch, in n groups with BatchNorm statistics each. The first part draws z and the
row of the index from the counter `input_state[1]`, which its last launch raises; its last run in a
step draws the z of `launch` as well.
"""

from math import gcd

from rawgan.backend import Array
from rawgan.errors import UserError
from rawgan.kernels import kernels
from rawgan.planned.base import PlannedStep, critic_steps
from rawgan.planned.network import forward


class WganStep(PlannedStep):
    """GAN.several_critic_steps without penalty.

    | gan.py                                    | here                                        |
    |-------------------------------------------|---------------------------------------------|
    | `generate` for each D step                | `forward` of G for n D steps, in n groups   |
    | `one_pass`: `concatenate`                 | `critic_pairs`                              |
    | `one_pass` or `separate_passes`:          | `discriminator_forward` of 2B, BatchNorm    |
    | `D.forward`, but for D's last layer       | statistics of each half                     |
    | D's last layer, `objective.discriminator` | `discriminator_loss`                        |
    | and `score`                               |                                             |
    | `D.backward`, of one pass or both         | `discriminator_gradient` of 2B              |
    | `flatten_gradients`, the mean over ranks, | `D.step`, which clips                       |
    | `update_discriminator`                    |                                             |
    | `generate` with a new z                   | `forward` of G in `launch`                  |
    | `generator_step`                          | `generator_step`                            |
    """

    fusions = ("unused gradients",)

    def unsupported(self):
        return {
            "a penalty": bool(self.gan.penalties),
            "another order of updates": self.schedule.order != "discriminator_first",
            "several critic steps and no new z for G": not self.schedule.resample_z,
            "several critic steps and a joint loss of real and fake": self.schedule.joint_batch,
            "several critic steps and classes": self.gan.classes > 0,
        }

    def configure(self):
        self.real_batches = gcd(*critic_steps(self.gan))
        self.z_batches = self.real_batches + 1

    def repeats(self, step):
        steps, n = self.schedule.critic_steps(step), self.real_batches
        if steps < 1 or steps % n:
            raise UserError(
                f"step {step} of {self.gan.name} has {steps} critic steps,"
                f" its plan any multiple of {n}"
            )
        return steps // n

    def allocate(self):
        if any(block.drop for block in self.G.blocks + self.D.blocks):
            raise UserError("the planned step does not support Dropout and several critic steps")
        xp, n, B, shape = self.xp, self.real_batches, self.batch, self.images.shape[1:]
        max_repeats = max(critic_steps(self.gan)) // n
        if len(self.index) < max_repeats:  # each run of launch_repeated has a row
            self.index = xp.zeros((max_repeats, n * B), "int32")
        self.real, self.fake = (xp.empty((n * B, *shape), self.dtype) for _ in range(2))
        self.x = xp.empty((n, 2, B, *shape), self.dtype)  # real, fake of each D step
        self.generator_fake = xp.empty((B, *shape), self.dtype)
        self.input_state = self.state.copy()  # the seed, and the number of runs of launch_repeated
        self.input_state[1] = self.D.optimizer.t // n

    def launch_repeated(self) -> None:
        n, B = self.real_batches, self.batch
        z = self.draw_inputs(self.real, self.input_counter, self.input_counter)
        train = self.schedule.fake_mode == "train"
        forward(self.G.blocks, z[: n * B], groups=n, out=self.fake, train=train)
        kernels.critic_pairs(self.real, self.fake, self.x)
        for i, x in enumerate(self.x):
            step_counter = self.input_state[1:] if i == n - 1 else None
            self.discriminator_step(x.reshape(2 * B, *x.shape[2:]), step_counter)

    def discriminator_step(self, x: Array, step_counter: Array | None) -> None:
        """Update D on real and fake x (2 B, ...), with BatchNorm statistics of each half."""
        y, cache = self.discriminator_forward(x, groups=2)
        cache, dzs = self.discriminator_loss(
            y, cache, self.batch, self.loss_terms.real, self.loss_terms.fake, step_counter=self.D.t
        )
        self.discriminator_gradient(cache, dzs)
        self.D.step(step_counter)

    def launch(self) -> None:
        fake, train = self.generator_fake, self.schedule.generator_mode == "train"
        _, g_cache = forward(self.G.blocks, self.z[-self.batch :], out=fake, train=train)
        self.generator_step(fake, fake, g_cache, step_counter=self.G.t)

    def run(self):
        self.plan.run(self.repeats(int(self.state[1])))
