"""The planned step of WGAN-GP: several D steps with the gradient penalty, then one of G.

G does not change in D's steps, so all their fakes are one batch, with BatchNorm statistics of each
step. A D step takes real, fake and the points between them as one batch of 3B, with three seeds of
the backward pass: the slope of the loss for real and for fake, 1 for the points. The four sweeps of
penalties.py are then

    1, 2   that pass and its backward pass, down to the input of the points alone: g
    3      the jvp from ddx = dP/dg, whose results replace the inputs of the points
    4      none: D is piecewise linear

The loss has the weight gradient Cw(x, dz) and the penalty Cw(ddx, dz), so both are one product over
3B rows: x of real and of fake and ddx of the points, with dz of all three.
"""

from rawgan.backend import Array
from rawgan.kernels import kernels
from rawgan.planned.base import critic_steps
from rawgan.planned.network import BlockCache, forward, map_gradients
from rawgan.planned.penalty import PenaltyStep, check_critic, unsupported_penalty


class WganGpStep(PenaltyStep):
    """GAN.several_critic_steps with the penalty of WGAN-GP, for a D without BatchNorm and Dropout.

    | gan.py, penalties.py                         | here                                     |
    |----------------------------------------------|------------------------------------------|
    | `generate` for each D step                   | `forward` of G for all D steps, n groups |
    | `penalty.points`; `concatenate` of real and  | `critic_inputs`: real, fake and points   |
    | fake in `one_pass`                           | of all D steps                           |
    | `D.forward` and sweep 1, but for D's last    | `discriminator_forward` of 3B            |
    | layer                                        |                                          |
    | D's last layer, `objective.discriminator`,   | `discriminator_loss`                     |
    | `score`; `ones_like` of sweep 2; of both     |                                          |
    | backward passes dz of D's last two maps      |                                          |
    | dz of the other maps, in `D.backward` and    | `block_gradients` of 3B                  |
    | in `upstream`, sweep 2                       |                                          |
    | g, the last of `upstream`                    | `image_gradient` of the points           |
    | `squared_norms`, `value`, `scale_samples`,   | `penalty_step`                           |
    | the mean of the norms                        |                                          |
    | ddx of each layer in `double_backward`,      | `penalty_jvp`                            |
    | sweep 3                                      |                                          |
    | weight gradients, in `D.backward` and in     | `add_gradients` of 3B                    |
    | `double_backward`                            |                                          |
    | `flatten_gradients`, which adds both, the    | `D.step`, which clips                    |
    | mean over ranks, `update_discriminator`      |                                          |
    | `loss + value`                               | `named_metrics`                          |
    | `generate`, `generator_step` with a new z    | `forward` of G, `generator_step`         |

    gan.py takes `one_pass` in one process and `separate_passes` in several; here every process has
    the one pass. `GAN.norms`, the norm at each point, is not kept: the metrics have the mean.
    """

    metric_names = ("critic_loss", "d_real", "d_fake", "penalty", "gradient_norm", "g_loss")
    fusions = ("one generator pass", "penalty pass", "unused gradients")

    def unsupported(self):
        schedule = self.schedule
        modes = schedule.fake_mode, schedule.generator_mode
        return unsupported_penalty(self.gan.penalties) | {
            "another order of updates": schedule.order != "discriminator_first",
            "a changing number of critic steps": len(critic_steps(self.gan)) > 1,
            "no new z for G": not schedule.resample_z,
            "a joint loss of real and fake": schedule.joint_batch,
            "fakes in inference mode": "inference" in modes,
            "classes with a penalty": self.gan.classes > 0,
        }

    def configure(self):
        self.real_batches = self.schedule.critic_steps(0)
        self.z_batches = self.real_batches + 1

    def allocate(self):
        check_critic(self.D.blocks[:-1], normalised=False)
        xp, n, B, shape = self.xp, self.real_batches, self.batch, self.images.shape[1:]
        self.real, self.fake = (xp.empty((n * B, *shape), self.dtype) for _ in range(2))
        self.x = xp.empty((n, 3, B, *shape), self.dtype)  # real, fake, points of each D step
        self.generator_fake = xp.empty((B, *shape), self.dtype)
        self.alpha = xp.empty(n * B, "float32")

    def launch(self) -> None:
        n, B, G = self.real_batches, self.batch, self.G.blocks
        z = self.draw_inputs(self.real, self.input_counter)
        if "one generator pass" in self.disabled:
            for i in range(0, n * B, B):
                forward(G, z[i : i + B], out=self.fake[i : i + B], first_sample=i)
        else:
            forward(G, z[: n * B], groups=n, out=self.fake)
        kernels.critic_inputs(self.real, self.fake, self.state, self.alpha, self.x)
        separate = "penalty pass" in self.disabled
        discriminator_step = self.separate_penalty_pass if separate else self.discriminator_step
        for x in self.x:
            discriminator_step(x.reshape(3 * B, *x.shape[2:]))
        fake = self.generator_fake
        _, g_cache = forward(G, z[n * B :], out=fake, first_sample=n * B)
        self.generator_step(fake, fake, g_cache)

    def discriminator_step(self, x: Array) -> None:
        """Update D on real, fake and points x (3 B, ...)."""
        B, terms, points = self.batch, self.loss_terms, 2 * self.batch
        y, cache = self.discriminator_forward(x)  # sweep 1
        cache, dzs = self.discriminator_loss(y, cache, B, terms.real, terms.fake, fake=B)
        dzs = self.block_gradients(cache, dzs)  # sweep 2
        g = self.image_gradient(dzs[0], points)
        points_cache = [block_cache.from_sample(points) for block_cache in cache[:-1]]
        # sweep 3: ddx replaces the points in x, and in y of each block, which is x of the next;
        # with it add_gradients computes Cw(ddx, dz) for the points
        self.penalty_jvp(x[points:], points_cache, g)
        self.add_gradients(cache, dzs, bias_samples=points)
        self.D.step()

    def separate_penalty_pass(self, x: Array) -> None:
        """Update D in a pass for the loss and one for the penalty, whose gradients add."""
        B, terms = self.batch, self.loss_terms
        y, cache = self.discriminator_forward(x[: 2 * B])
        cache, dzs = self.discriminator_loss(y, cache, B, terms.real, terms.fake)
        self.add_gradients(cache, self.block_gradients(cache, dzs))
        y, cache = self.discriminator_forward(x[2 * B :])
        cache, dzs = self.discriminator_loss(y, cache, 0, None, None, fake=0, add=True)
        dzs = self.block_gradients(cache, dzs)
        self.penalty_jvp(x[2 * B :], cache[:-1], self.D.blocks[0].input_grad(dzs[0]))
        self.add_gradients(cache, dzs, bias_samples=0)
        self.D.step()

    def block_gradients(self, cache: list[BlockCache], dzs: list[Array]) -> list[Array]:
        """Return dz of each of D's linear maps, from those of the last ones.

        A list, not an iterator: activations' derivatives come from the y that penalty_jvp replaces.
        """
        return [dz for _, dz in map_gradients(self.D.blocks, cache, dzs)][::-1]

    def add_gradients(
        self, cache: list[BlockCache], dzs: list[Array], bias_samples: int | None = None
    ) -> None:
        """Add D's gradients from each block's x and dz; of biases by the first samples alone."""
        for block, block_cache, dz in zip(self.D.blocks, cache, dzs):
            block.add_gradients(self.D.gradient, block_cache.x, dz, bias_samples)

    def image_gradient(self, dz: Array, first: int) -> Array:
        """Return g = dD/dx of samples first, first + 1, ..., from dz of D's first linear map."""
        block = self.D.blocks[0]
        if self.unused_gradient is None:
            return block.input_grad(dz[first:])
        return block.input_grad(dz)[first:]

    def penalty_jvp(self, ddx: Array, cache: list[BlockCache], g: Array) -> None:
        """Compute the penalty of g at its points, and sweep 3: ddx of each block.

        ddx, the memory of the points x, gets dP/dg; y of each block in the cache gets ddx of the
        next. cache: of the points alone.
        """
        self.penalty_step(g.reshape(ddx.shape), ddx)
        for block, block_cache in zip(self.D.blocks, cache):
            y = block_cache.y
            ddx = block.jvp(ddx, act=block.act, slope=block.slope, v=y, out=y)
