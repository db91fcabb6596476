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
from rawgan.planned import Planned, critic_steps
from rawgan.planned_blocks import Trace, backward, descend, forward


class PlannedPenaltyStep(Planned):
    """The step of WGAN-GP, for critics without normalisation and of activations without curvature."""

    said_names = ("critic_loss", "d_real", "d_fake", "penalty", "gradient_norm", "g_loss")

    def unsupported(self, recipe: Recipe) -> str | None:
        if type(recipe.penalty) is not WGANGP:
            return "no penalty of WGAN-GP"
        known = {
            "both updates at once": recipe.first == "discriminator",
            "a changing number of critic steps": len(critic_steps(recipe)) == 1,
            "no z of G's own": recipe.fresh_z,
            "a joint loss of real and fake": not recipe.joint,
            "fakes in inference mode": recipe.train_fakes and recipe.train_generator,
            "classes beside a penalty": not recipe.classes,
            "clipped weights": recipe.clip is None,
        }
        return next((what for what, fine in known.items() if not fine), None)

    def savings(self, recipe):
        return ("one generator pass", "penalty pass", "idle gradients")

    def batches(self, recipe):
        return recipe.critic_steps(0), recipe.critic_steps(0) + 1

    def allocate(self):
        for block in self.D.blocks[:-1]:
            if block.norm or block.drop or block.act not in ("relu", "leaky_relu"):
                raise UserError(
                    f"the planned penalty cannot take what follows {block.layer.label}: it wants ReLU or LeakyReLU alone"
                )
        xp, n, B, shape = self.xp, self.reals, self.batch, self.images.shape[1:]
        self.real, self.fake = (xp.empty((n * B, *shape), self.dtype) for _ in range(2))
        self.x, self.own = xp.empty((n, 3, B, *shape), self.dtype), xp.empty((B, *shape), self.dtype)
        self.alpha = xp.empty(n * B, "float32")
        self.ticks = xp.zeros(1, "int32")  # of the inputs; the critic's steps are counted by its penalties

    def launch(self) -> None:
        n, B, G = self.reals, self.batch, self.G.blocks
        z = self.inputs(self.real, self.ticks)
        if "one generator pass" in self.without:
            for i in range(0, n * B, B):
                forward(G, z[i : i + B], out=self.fake[i : i + B], row=i)
        else:
            forward(G, z[: n * B], groups=n, out=self.fake)
        kernels.critic_inputs(self.real, self.fake, self.state, self.alpha, self.x)
        critic_step = self.critic_apart if "penalty pass" in self.without else self.critic_step
        for x in self.x:
            critic_step(x.reshape(3 * B, *x.shape[2:]))
        _, g_cache = forward(G, z[n * B :], out=self.own, row=n * B)
        d_cache, dzs = self.judge(self.own, B, self.sides[2], None, column=5)
        dz = self.through_discriminator(d_cache, dzs, self.own)
        backward(G, g_cache, [dz], self.G.gradient)
        self.G.move(tick=self.state[1:])

    def critic_step(self, x: Array) -> None:
        """One step of the critic on real, fake and between, (3 B, ...)."""
        B, D = self.batch, self.D.blocks
        cache, dzs = self.judge(x, B, *self.sides[:2], fake=B)  # 1
        dzs = self.chain(cache, dzs)  # 2
        self.tangent(x[2 * B :], [trace.after(2 * B) for trace in cache[:-1]], self.image_gradient(dzs[0], 2 * B))  # 3
        for block, trace, dz in zip(D, cache, dzs):
            self.D.gradient.add(block, trace.x, dz, biased=2 * B)
        self.D.move()

    def critic_apart(self, x: Array) -> None:
        """The same in a pass for the loss and one for the penalty, whose gradients add."""
        B, D = self.batch, self.D.blocks
        cache, dzs = self.judge(x[: 2 * B], B, *self.sides[:2])
        dzs = self.chain(cache, dzs)
        for block, trace, dz in zip(D, cache, dzs):
            self.D.gradient.add(block, trace.x, dz)
        cache, dzs = self.judge(x[2 * B :], 0, None, None, fake=0, add=True)
        dzs = self.chain(cache, dzs)
        self.tangent(x[2 * B :], cache[:-1], D[0].adjoint(dzs[0]))
        for block, trace, dz in zip(D, cache, dzs):
            self.D.gradient.add(block, trace.x, dz, biased=0)
        self.D.move()

    def chain(self, cache: list[Trace], dzs: list[Array]) -> list[Array]:
        """The gradients of all of the critic's products, lowest first, from those of the highest."""
        return [dz for _, dz in descend(self.D.blocks, cache, dzs)][::-1]

    def image_gradient(self, dz: Array, first: int) -> Array:
        """The gradient of the critic's input, from that of its lowest product, of the samples from the first on."""
        lowest = self.D.blocks[0]
        return lowest.adjoint(dz[first:]) if self.idle is None else lowest.adjoint(dz)[first:]

    def tangent(self, x: Array, cache: list[Trace], g: Array) -> None:
        """The penalty of the gradient g at x, and the third sweep: what each block got and gave makes place for the tangent."""
        penalty = self.recipe.penalty
        counts = {"weight": penalty.weight, "one_sided": penalty.one_sided, "column": 3}
        kernels.penalty_step(g, x, self.said, self.state, self.D.step, **counts)
        for block, trace in zip(self.D.blocks, cache):
            x = block.tangent(x, act=block.act, slope=block.slope, v=trace.y, out=trace.y)

    def named(self, row):
        said = super().named(row)
        return {"d_loss": said.pop("critic_loss") + said["penalty"]} | said
