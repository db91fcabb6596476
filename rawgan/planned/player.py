"""One network of a planned step with its optimizer."""

from rawgan.backend import Array
from rawgan.ema import EMA
from rawgan.errors import UserError
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.layers import Sequential
from rawgan.optim import Adam, Optimizer, RMSprop
from rawgan.parallel import SINGLE_PROCESS
from rawgan.planned.fuse import fused_blocks
from rawgan.planned.gradient import Gradient
from rawgan.planned.labels import LabelPlane, conditioning
from rawgan.precision import PRECISIONS, to_bfloat16


class Player:
    """A network as fused blocks, its gradient, and its optimizer's update as a kernel.

    shape: of a sample of the network's input, without labels. state (2,) int64: the seed and the
    step. non_negative: no image is negative.

    t, lr          step counter and rate of the optimizer, in device memory
    theta_lowp     copy of the parameters in bfloat16, None in float32
    clip           the parameters are clipped to [-clip, clip] after each update
    average        moving average of the network, updated with each step
    """

    def __init__(
        self,
        net: Sequential,
        optimizer: Optimizer,
        shape: tuple[int, ...],
        precision: str,
        state: Array,
        non_negative: bool,
    ):
        dtype, map_precision = PRECISIONS[precision]
        self.optimizer, self.parameters = optimizer, optimizer.parameters
        self.conditioning = conditioning(net, non_negative)
        self.blocks = fused_blocks(net, shape, map_precision, self.conditioning, non_negative)
        theta = self.parameters.flat
        self.theta_lowp = None if dtype == "float32" else to_bfloat16(theta)
        views = self.parameters.views(theta if self.theta_lowp is None else self.theta_lowp)
        for block in self.blocks:
            block.w, block.state = views[block.name + "w"], state
        if isinstance(self.conditioning, LabelPlane):
            self.conditioning.w = views[self.conditioning.name + "w"]
        self.gradient = Gradient(self.parameters)
        self.t, self.lr = optimizer.clock()
        self.ranks = SINGLE_PROCESS
        self.clip: float | None = None
        self.average: EMA | None = None

    def step(self, step_counter: Array | None = None) -> None:
        """Take one optimizer step, on the sum of the gradient's partial sums.

        With several ranks these are summed first, and averaged over the ranks. step_counter: raised
        by 1, where this is the last launch of a training step.
        """
        self.gradient.finish_step()
        g, table = self.gradient.flat, self.gradient.table
        if table is None:  # the partial sums are still being counted
            return
        if self.ranks.size > 1:
            g = kernels.sum_partials(self.parameters.flat, g, table, self.gradient.alignment)
            table = None
            launch.call(self.ranks.all_reduce_mean_, g)
        self.update(g, table, step_counter)
        if self.average:
            kernels.moving_average(
                self.average.parameters.flat_buffers,
                self.parameters.flat_buffers,
                self.average.decay,
            )

    def update(self, g: Array, table: Array | None, step_counter: Array | None) -> None:
        """Launch the optimizer's kernel. Raises UserError for one that has none.

        g: the flat gradient, or with `table` its partial sums. The kernel also clips the
        parameters, and updates theta_lowp and the moving average.
        """
        theta, o = self.parameters.flat, self.optimizer
        options = {"theta_lowp": self.theta_lowp, "table": table, "step_counter": step_counter}
        options |= {"clip": self.clip, "alignment": self.gradient.alignment}
        if self.average:
            options |= {"average": self.average.parameters.flat}
            options |= {"average_decay": self.average.decay}
        if isinstance(o, Adam):
            m, v = o.slots["m"], o.slots["v"]
            options |= {"epsilon_hat": o.epsilon_hat}
            kernels.adam(theta, g, m, v, self.t, self.lr, o.betas, o.eps, **options)
        elif isinstance(o, RMSprop):
            v = o.slots["v"]
            kernels.rmsprop(theta, g, v, self.t, self.lr, o.rho, o.eps, o.decay, **options)
        else:
            raise UserError(f"the planned step has no kernel for {type(o).__name__}")
