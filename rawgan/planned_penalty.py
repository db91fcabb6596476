"""The training step of WGAN-GP as a plan: several critic steps with their penalty, and one of the generator. See planned.py.

The generator does not change while the critic learns, so all its fakes are one batch, with BatchNorm's statistics of each part. A
critic step sees real, fake and what lies between them as one batch of 3B, and asks for gradients from three seeds at once: the
slope of the loss on real and fake, 1 between them. Then the four sweeps of penalties.py are

    1, 2   that pass and its input gradients, down to the image between real and fake only: g
    3      the tangent upwards, from ddx = dP/dg; it takes the places of what lay between real and fake
    4      none: the critic is piecewise linear

and since dw is one formula, Cw(x, dy) of the loss and Cw(ddx, dy) of the penalty, the weight gradients of both are one product over
the 3B rows: x of real and of fake and the tangent, against dy of all three.
"""

from rawgan.backend import Array
from rawgan.errors import UserError
from rawgan.kernels import kernels
from rawgan.models.recipes import Recipe
from rawgan.penalties import WGANGP
from rawgan.planned import Block, Planned, backward, forward


class PlannedPenaltyStep(Planned):
    """The step of WGAN-GP, for critics without normalisation and of activations without curvature."""

    said_names = ("critic_loss", "d_real", "d_fake", "penalty", "gradient_norm", "g_loss")

    def unsupported(self, recipe: Recipe) -> str | None:
        if type(recipe.penalty) is not WGANGP:
            return "no penalty of WGAN-GP"
        if not recipe.fresh_z or recipe.critic_steps(0) != recipe.critic_steps(1):
            return "a changing number of critic steps, or none of its own for the generator"
        self.reals = recipe.critic_steps(0)
        return super().unsupported(recipe)

    def allocate(self):
        for block in self.D.blocks[:-1]:
            if block.norm or block.act not in ("relu", "leaky_relu"):
                raise UserError(
                    f"the planned penalty cannot take what follows {block.layer.label}: it wants ReLU or LeakyReLU alone"
                )
        xp, n, B, shape = self.xp, self.reals, self.batch, self.images.shape[1:]
        self.z = xp.empty(((n + 1) * B, self.recipe.z), self.dtype)
        self.real, self.fake = (xp.empty((n * B, *shape), self.dtype) for _ in range(2))
        self.x, self.own = xp.empty((n, 3, B, *shape), self.dtype), xp.empty((B, *shape), self.dtype)
        self.alpha = xp.empty(n * B, "float32")
        self.ticks = xp.zeros(1, "int32")  # of the inputs; the critic's steps are counted by its penalties

    def launch(self) -> None:
        n, B = self.reals, self.batch
        how = {"draw": self.recipe.draw, "pixels": self.recipe.pixels}
        kernels.step_inputs(self.z, self.real, self.images, self.index, self.state, self.G.step, self.ticks, **how)
        forward(self.G.blocks, self.z[: n * B], groups=n, out=self.fake)
        kernels.critic_inputs(self.real, self.fake, self.state, self.alpha, self.x)
        for i in range(n):
            self.critic_step(self.x[i].reshape(3 * B, *self.x.shape[3:]))
        _, g_cache = forward(self.G.blocks, self.z[n * B :], out=self.own)
        d_cache, gradients = self.judge(self.own, 1, B, self.sides[2], None, **self.top(column=5))
        last = self.G.blocks[-1]
        dzs = self.chain(d_cache, *gradients)
        dz = self.D.blocks[0].adjoint(dzs[0], act=last.act, slope=last.slope, v=self.own)
        backward(self.G.blocks, g_cache, dz, self.G.gradient)
        self.G.move(tick=self.state[1:])

    def critic_step(self, x: Array) -> None:
        """One step of the critic on real, fake and between, (3 B, ...)."""
        B, D, penalty = self.batch, self.D.blocks, self.recipe.penalty
        cache, gradients = self.judge(x, 1, B, *self.sides[:2], fake=B, **self.top())  # 1
        dzs = self.chain(cache, *gradients)  # 2
        g = D[0].adjoint(dzs[0][2 * B :])
        counts = {"weight": penalty.weight, "one_sided": penalty.one_sided, "column": 3}
        kernels.penalty_step(g, x[2 * B :], self.said, self.state, self.D.step, **counts)
        ddx = x[2 * B :]
        for block, (_, _, _, y) in zip(D[:-1], cache):  # 3
            y = y[2 * B :]
            ddx = block.tangent(ddx, act=block.act, slope=block.slope, v=y, out=y)
        for block, (inside, *_), dz in zip(D, cache, dzs):
            self.D.gradient.add(block, inside, dz, biased=2 * B)
        self.D.move()

    def metrics(self):
        said = super().metrics()
        return {"d_loss": said.pop("critic_loss") + said["penalty"]} | said

    def top(self, **how) -> dict:
        """How kernels.head carries the gradient on, through the activation under the last layer."""
        below = self.D.blocks[-2]
        return {"act": below.act, "slope": below.slope, "dx": True, **how}

    def chain(self, cache: list[tuple], dscore: Array, dz: Array) -> list[Array]:
        """The gradients of all of the critic's products, lowest first; dz is that of the last but one."""
        dzs = [dscore, dz]
        for i in reversed(range(1, len(self.D.blocks) - 1)):
            block, under, y = self.D.blocks[i], self.D.blocks[i - 1], cache[i - 1][3]
            dzs.append(_down(block, under, dzs[-1], y))
        return dzs[::-1]


def _down(block: Block, under: Block, dz: Array, y: Array) -> Array:
    """The gradient of the product under a block, through the activation between them, whose output is y."""
    v = y.reshape(len(y), *block.shape)
    return block.adjoint(dz, act=under.act, slope=under.slope, v=v).reshape(y.shape)
