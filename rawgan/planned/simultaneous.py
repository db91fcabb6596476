"""The planned step that takes both gradients before either update: raschka_wgan_gp.

G's Wasserstein loss is minus D's loss of the fakes, so one backward pass of D serves both:
dL_G/dfake = -dL_D/dfake, bit for bit.
"""

from rawgan.backend import Array
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.losses import Wasserstein
from rawgan.planned.base import critic_steps
from rawgan.planned.network import BlockCache, FusedBlock, backward, backward_maps, forward
from rawgan.planned.penalty import PenaltyStep, check_critic, unsupported_penalty
from rawgan.precision import to_bfloat16


class SimultaneousStep(PenaltyStep):
    """GAN.simultaneous with a penalty of WGAN-GP whose pass through D runs in inference mode.

    | gan.py                                       | here                                     |
    |----------------------------------------------|------------------------------------------|
    | `generate`: fake = G(z)                      | `forward` of G                           |
    | `penalty.points`                             | `critic_inputs`: real, fake and points   |
    | `separate_passes`: both `D.forward`,         | `loss_gradient`: one pass of 2B,         |
    | `objective.discriminator`, `score`, both     | BatchNorm statistics of each half        |
    | `D.backward`                                 |                                          |
    | `penalty_gradient` in inference mode, but    | `penalty_gradient`                       |
    | for `points`                                 |                                          |
    | `loss + value`                               | `named_metrics`                          |
    | `objective.generator`                        | `named_metrics`: minus the mean score of |
    |                                              | the fakes                                |
    | `generator_gradient`: `D.backward` of the    | minus the gradient of the fakes in       |
    | fakes, from dy = -1/B                        | `loss_gradient`, from +1/B               |
    | ... and `G.backward`                         | `backward` of G                          |
    | `flatten_gradients`, the mean over ranks,    | `D.step`, which clips                    |
    | `update_discriminator`                       |                                          |
    | `flatten_gradients`, the mean over ranks,    | `G.step`                                 |
    | `generator_optimizer.step`                   |                                          |

    `GAN.norms`, the norm at each point, is not kept: the metrics have the mean.
    """

    metric_names = ("critic_loss", "d_real", "d_fake", "penalty", "gradient_norm")

    def unsupported(self):
        gan, schedule, both = self.gan, self.schedule, "both updates at once"
        return unsupported_penalty(gan.penalties) | {
            "another order of updates": schedule.order != "simultaneous",
            f"{both} of losses other than Wasserstein's": type(gan.objective) is not Wasserstein,
            f"a penalty pass in training mode with {both}": schedule.penalty_mode == "train",
            f"several critic steps with {both}": critic_steps(gan) != {1},
            f"a new z for G with {both}": schedule.resample_z,
            "classes with a penalty": gan.classes > 0,
        }

    def allocate(self):
        check_critic(self.D.blocks[:-1], normalised=True)
        xp, B, shape = self.xp, self.batch, self.images.shape[1:]
        self.real, self.fake = (xp.empty((B, *shape), self.dtype) for _ in range(2))
        self.x = xp.empty((1, 3, B, *shape), self.dtype)  # real, fake, points
        self.alpha, self.minus_one = xp.empty(B, "float32"), xp.full(B, -1, "float32")
        ones = xp.ones((B, *self.D.blocks[-1].out_shape), "float32")
        self.ones = ones if self.dtype == "float32" else to_bfloat16(ones)

    def launch(self) -> None:
        B, G = self.batch, self.G.blocks
        z = self.draw_inputs(self.real, self.input_counter)
        train = self.schedule.generator_mode == "train"
        _, g_cache = forward(G, z, out=self.fake, train=train)
        kernels.critic_inputs(self.real, self.fake, self.state, self.alpha, self.x)
        x = self.x.reshape(3 * B, *self.fake.shape[1:])
        dfake = self.loss_gradient(x[: 2 * B])
        self.penalty_gradient(x[2 * B :])
        dz = kernels.scale_samples(dfake, self.minus_one)
        backward(G, g_cache, [dz], self.G.gradient)
        self.D.step()
        self.G.step(step_counter=self.state[1:])

    def loss_gradient(self, x: Array) -> Array:
        """Add D's gradient of its loss on real and fake x (2 B, ...).

        Return the loss's gradient with respect to the output of G's last linear map, through the
        activation that made the fakes.
        """
        B, D, last = self.batch, self.D, self.G.blocks[-1]
        y, cache = self.discriminator_forward(x, groups=2)
        cache, dzs = self.discriminator_loss(
            y, cache, B, self.loss_terms.real, self.loss_terms.fake
        )
        dz = backward_maps(D.blocks, cache, dzs, D.gradient)
        return D.blocks[0].input_grad(dz[B:], self.fake, act=last.act, slope=last.slope)

    def penalty_gradient(self, x: Array) -> None:
        """Add D's gradient of the penalty P at x (B, ...).

        D is in inference mode, after its running statistics have moved: real first, then fake, as
        D.forward saw them.

        For n a sample, i a pixel, k a channel, block l of D with weights w, and D(x[n]) the sum of
        the last product's outputs, the four sweeps of penalties.py are

            1   z_l = A_l x_l + b_l           A_l linear in x and in w
                p_l[n,i,k] = scale_l[k] z_l[n,i,k] + shift_l[k]
                    rstd_l[k] = (running_var[k] + eps)^-1/2,  scale_l[k] = gamma_l[k] rstd_l[k],
                    shift_l[k] = beta_l[k] - running_mean[k] scale_l[k]
                x_{l+1} = f(p_l)              f LeakyReLU or ReLU; Dropout is the identity
            2   dz_L = 1                      of the last product, the score
                dx_{l+1} = A_{l+1}^T dz_{l+1}
                dp_l[n,i,k] = f'(p_l[n,i,k]) dx_{l+1}[n,i,k]
                dz_l[n,i,k] = scale_l[k] dp_l[n,i,k]
                g = dx_0 = A_0^T dz_0
            3   ddx_0 = dP/dg
                ddz_l = A_l ddx_l             without the bias
                ddp_l[n,i,k] = scale_l[k] ddz_l[n,i,k]
                ddx_{l+1}[n,i,k] = f'(p_l[n,i,k]) ddp_l[n,i,k]
            4   none: f'' = 0, and scale and shift do not depend on x

        and the gradients of P, from <ddx_l, A_l^T dz_l> and <ddz_l, scale_l dp_l>:

            w_l       Cw(ddx_l, dz_l), the weight gradient of A_l for input ddx_l
            gamma_l   dgamma_l[k] = sum over n, i of (ddz_l[n,i,k] rstd_l[k]) dp_l[n,i,k]
            beta_l    0: f' is constant but at the kink
            b_l       0, for the same reason

        A block without BatchNorm has scale 1 and shift 0.
        """
        D = self.D.blocks
        _, cache = forward(D[:-1], x, train=False)  # 1
        dxs, dzs = input_gradients(D, cache, self.ones)  # 2
        g = D[0].input_grad(dzs[0])
        ddx = launch.empty(g, g.shape)
        self.penalty_step(g, ddx)
        for block, block_cache, dx, dz in zip(D, cache, dxs, dzs):  # 3
            block.add_gradients(self.D.gradient, ddx, dz, bias_samples=0)
            ddx = self.block_jvp(block, block_cache, ddx, dx)
        D[-1].add_gradients(self.D.gradient, ddx, dzs[-1], bias_samples=0)

    def block_jvp(
        self, block: FusedBlock, cache: BlockCache, ddx: Array, dx: Array | None
    ) -> Array:
        """Return ddx_{l+1} from ddx_l; add the penalty's gradient of gamma, from dx_{l+1} too."""
        act, slope = block.act, block.slope
        if not block.norm:
            return block.jvp(ddx, v=cache.y, act=act, slope=slope)
        ddz = block.jvp(ddx).reshape(cache.z.shape)
        dgamma = self.D.gradient.reserve_vector(block.norm_name + "gamma")
        return kernels.batchnorm_infer_dx(
            ddz, cache.z, cache.stats, act, slope, upstream=dx, dgamma=dgamma
        )

    def named_metrics(self, row):
        metrics = super().named_metrics(row)
        return metrics | {"g_loss": -metrics["d_fake"]}


def input_gradients(
    net: list[FusedBlock], cache: list[BlockCache], ones: Array
) -> tuple[list[Array | None], list[Array]]:
    """Return dx_{l+1} (None without BatchNorm) and dz_l of all blocks in inference mode."""
    dxs, dzs = [], [ones]
    for next_block, block, block_cache in zip(net[:0:-1], net[-2::-1], cache[::-1]):
        if block.norm:
            z, stats = block_cache.z, block_cache.stats
            dx = next_block.input_grad(dzs[-1]).reshape(z.shape)
            dz = kernels.batchnorm_infer_dx(dx, z, stats, block.act, block.slope)
        else:
            dx, dz = None, block.backward_from(next_block, dzs[-1], block_cache, None)
        dxs.append(dx)
        dzs.append(dz)
    return dxs[::-1], dzs[::-1]
