"""Base class of the planned steps: GAN.train_step as fixed launches on fixed memory.

    step = DiscriminatorFirstStep(gan, images, batch=128)
    step.feed(index)                 the images of the next batches
    step.run()                       one training step; step.metrics() returns its losses

A planned step computes the results of GAN.train_step, without work whose result is known or not
needed:

    one pass of 2B      real and fake pass through D together, BatchNorm statistics of each half
    no unused gradient  no weight gradients of D in G's step, no gradient of D's input in D's step
    epilogues           statistics, activations, their derivatives, Dropout and losses are computed
                        where a kernel stores its result; the optimizer adds the split-K partial
                        sums of the gradients and writes the bfloat16 copy of the parameters

Data set, step number and optimizer counters lie in device memory, so a CUDA graph can replay the
launches: a step needs nothing from the host but the indices of the images.
"""

from collections.abc import Collection

import numpy as np

from rawgan.backend import Array, array_module, to_host
from rawgan.ema import EMA
from rawgan.errors import UserError
from rawgan.gan import GAN
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.memory_plan import Plan
from rawgan.layers.embed import check_labels
from rawgan.losses import BCE
from rawgan.planned.checks import check_discriminator_output, check_generator_output
from rawgan.planned.gradient import Gradient
from rawgan.planned.labels import LabelPlane
from rawgan.planned.loss_terms import Term, loss_terms
from rawgan.planned.network import BlockCache, backward, forward
from rawgan.planned.player import Player
from rawgan.precision import PRECISIONS

LABEL_STREAM, DROPOUT_STREAM = 2, 3  # of random numbers; 0 is z, 1 the points of the penalty
NO_INPUT_ACTIVATION = None, 0.0, None  # the network's input is no activation's output


def critic_steps(gan: GAN) -> set[int]:
    """Return the numbers of D steps that the training steps have, over the recipe's length."""
    return set(map(gan.schedule.critic_steps, range(gan.steps)))


class PlannedStep:
    """Players, data, counters and plan of a training step; a subclass writes the launches out.

    images (n, H, W, C) uint8, where the networks are; labels (n,) integers for a conditional GAN.
    batches: rows of `index` that are fed at a time. disable: names of `fusions` to compute without.
    average: moving average of G, updated by every step. Of several ranks each has the plan of its
    shard of the batch. Raises UserError for a GAN that cannot be planned.

    A training step is `launch_repeated`, `repeats` times, then `launch`; most are `launch` alone.

    metric_names    columns of a row of the metrics
    fusions         names for `disable`
    real_batches    batches of real images of a step, or of one run of `launch_repeated`
    z_batches       batches of z
    """

    metric_names: tuple[str, ...] = ("d_loss", "d_real", "d_fake", "g_loss")
    fusions: tuple[str, ...] = ()
    real_batches, z_batches = 1, 1

    def __init__(
        self,
        gan: GAN,
        images: Array,
        batch: int,
        *,
        labels: Array | None = None,
        seed: int = 0,
        precision: str = "fp32",
        batches: int = 50,
        disable: Collection[str] = (),
        average: EMA | None = None,
    ):
        self.gan, self.schedule, self.objective = gan, gan.schedule, gan.objective
        self.images, self.batch, self.disabled = images, batch, frozenset(disable)
        self.check(precision)
        self.configure()
        self.check_fusions()
        self.loss_terms, self.dtype = loss_terms(gan.objective), PRECISIONS[precision][0]
        xp = self.xp = array_module(images, gan.generator_optimizer.parameters.flat)
        self.state = xp.array([seed ^ gan.ranks.rank, 0], "int64")  # z differs by rank
        self.input_state = self.state  # seed and counter of the inputs
        # Counter that draw_inputs raises where an optimizer's is raised with its loss
        self.input_counter = xp.zeros(1, "int32")
        columns = len(self.metric_names) + 2  # of which the last two are not read
        self.metric_rows = xp.zeros((batches, columns), "float32")
        self.index = xp.zeros((batches, self.real_batches * batch), "int32")
        self.create_players(precision, average)
        self.labels = self.allocate_labels(labels) if gan.classes else None
        self.z = xp.empty((self.z_batches * batch, gan.z_size), self.dtype)
        self.allocate()
        self.plan = self.record()

    def check(self, precision: str) -> None:
        """Raise UserError where the step, its precision or its ranks are not planned."""
        features = {"a learning rate that decays": self.gan.decay is not None}
        for feature, present in (features | self.unsupported()).items():
            if present:
                raise UserError(
                    f"{self.gan.name} has {feature}, which the planned step does not support"
                )
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r} is not known; choose {', '.join(PRECISIONS)}")
        if self.gan.synchronised:
            raise UserError(
                "the planned step does not synchronise BatchNorm between processes:"
                " its statistics are local"
            )

    def check_fusions(self) -> None:
        """Raise UserError for a name in `disable` that is none of the fusions."""
        if unknown := self.disabled - set(self.fusions):
            raise UserError(
                f"the planned step of {self.gan.name} cannot disable {min(unknown)!r},"
                f" only: {', '.join(self.fusions) or 'nothing'}"
            )

    def create_players(self, precision: str, average: EMA | None) -> None:
        """Create G and D. Raises UserError for a network that is not planned."""
        gan = self.gan
        self.G = Player(
            gan.generator, gan.generator_optimizer, (gan.z_size,), precision, self.state, False
        )
        # of real images and of fakes
        non_negative = gan.pixels == "unit" and self.G.blocks[-1].act in ("relu", "sigmoid")
        image = self.images.shape[1:]
        self.D = Player(
            gan.discriminator,
            gan.discriminator_optimizer,
            image,
            precision,
            self.state,
            non_negative,
        )
        for i, block in enumerate(self.G.blocks + self.D.blocks):
            block.stream = DROPOUT_STREAM + i
        self.G.average, self.D.clip = average, gan.clip
        check_generator_output(self.G.blocks[-1])
        check_discriminator_output(gan, self.D.blocks[-1])
        unused = "unused gradients" in self.disabled
        self.unused_gradient = Gradient(self.D.parameters) if unused else None

    def record(self) -> Plan:
        """Return the plan: a dry run counts the gradients' partial sums, a second is recorded."""
        with launch.record(dry=True):
            self.launch_repeated()
            self.launch()
        for player in (self.G, self.D):
            player.gradient.allocate()
            player.ranks = self.gan.ranks
        with launch.record(dry=True) as recording:
            self.launch_repeated()
            repeated = len(recording)
            self.launch()
        return Plan(recording, repeated=repeated)

    # What a subclass writes

    def unsupported(self) -> dict[str, bool]:
        """Return features that this step does not compute, and whether the GAN has each."""
        raise NotImplementedError

    def configure(self) -> None:
        """Set `fusions`, `real_batches` and `z_batches` where they depend on the GAN."""

    def allocate(self) -> None:
        """Allocate the arrays that outlive a step."""
        raise NotImplementedError

    def launch_repeated(self) -> None:
        """Launch the part of a step that may run several times, before `launch`."""

    def launch(self) -> None:
        """Launch the step."""
        raise NotImplementedError

    def repeats(self, step: int) -> int:
        """Return the runs of `launch_repeated`, a row of the index each, in step `step` from 0."""
        return 1

    # The parts of a step

    def allocate_labels(self, labels: Array | None) -> Array:
        """Keep the labels of the data set as `all_labels`; return an array for those of a step.

        They are those of its real images, then of its z.
        """
        gan = self.gan
        if labels is None:
            raise UserError(
                f"{gan.name} has {gan.classes} classes:"
                " its planned step requires the labels of the images"
            )
        check_labels(gan.generator, labels, gan.classes)
        launch.require_equal((labels.shape, (len(self.images),)))
        self.all_labels = self.xp.asarray(labels).astype("int32")
        return self.xp.zeros((self.real_batches + self.z_batches) * self.batch, "int32")

    def draw_inputs(
        self, real: Array, d_counter: Array | None = None, g_counter: Array | None = None
    ) -> Array:
        """Draw z and its labels, gather real images with their labels; return G's input.

        d_counter, g_counter: raised by 1; by default the optimizers' step counters.
        """
        gan = self.gan
        kernels.step_inputs(
            self.z,
            real,
            self.images,
            self.index,
            self.input_state,
            self.G.t if g_counter is None else g_counter,
            self.D.t if d_counter is None else d_counter,
            draw=gan.draw,
            pixels=gan.pixels,
        )
        if gan.classes:
            kernels.step_labels(
                self.labels,
                self.all_labels,
                self.index,
                self.input_state,
                gan.classes,
                LABEL_STREAM,
            )
        return self.condition(self.G, self.z, self.real_batches * self.batch)

    def condition(self, player: Player, x: Array, first_label: int) -> Array:
        """Return a player's input: x with the labels from the first on, where it is conditional."""
        if not player.conditioning:
            return x
        return player.conditioning.concatenate(x, self.labels[first_label : first_label + len(x)])

    @property
    def generator_labels(self) -> int:
        """Return the place in `labels` of those of the fakes that G learns from: the last ones."""
        return (self.real_batches + self.z_batches - 1) * self.batch

    def discriminator_forward(
        self, x: Array, groups: int = 1, first_sample: int = 0
    ) -> tuple[Array, list[BlockCache]]:
        """Return the input of D's last block, the head, and the cache of the blocks below it."""
        return forward(self.D.blocks[:-1], x, groups, first_sample=first_sample)

    def discriminator_loss(
        self,
        y: Array,
        cache: list[BlockCache],
        real: int,
        real_term: Term | None,
        fake_term: Term | None,
        *,
        first_label: int = 0,
        **options,
    ) -> tuple[list[BlockCache], list[Array]]:
        """Compute scores and loss from `discriminator_forward`, and write the metrics.

        The first `real` samples have real_term, the next `fake` (an option; by default the rest)
        fake_term. Samples after those, the points of a penalty, have no loss: their gradient is
        that of the score, 1. first_label: place of the samples' labels, where the loss takes them.
        options: of kernels.discriminator_head and acgan_step. Returns the cache of all blocks, and
        dz of the last linear map, or of the last two.
        """
        *below, head = self.D.blocks
        cache = [*cache, BlockCache(y)]
        metrics = self.metric_rows, self.state, real, real_term, fake_term
        if self.objective.labelled:
            labels = self.labels[first_label : first_label + len(y)]
            return cache, [kernels.acgan_step(head.forward_map(y), labels, *metrics, **options)]
        if below and not below[-1].norm:
            options |= {"act": below[-1].act, "slope": below[-1].slope, "dx": True}
            options["mask"] = below[-1].mask(cache[-2].first_sample, train=True)
        b, probability = head.layer.params.get("b"), isinstance(self.objective, BCE)
        w = head.w.reshape(1, *y.shape[1:])  # y is not flattened before a Linear
        _, *dzs = kernels.discriminator_head(y, w, *metrics, b, probability=probability, **options)
        return cache, dzs

    def generator_loss(
        self, y: Array, cache: list[BlockCache], **options
    ) -> tuple[list[BlockCache], list[Array]]:
        """Compute G's loss as `discriminator_loss` does D's; all samples are fakes."""
        # the kernel writes the loss to this column, and means that are not read to the next ones
        column = self.metric_names.index("g_loss")
        term = self.loss_terms.generator
        return self.discriminator_loss(y, cache, len(y), term, None, column=column, **options)

    def generator_step(
        self,
        d_input: Array,
        fake: Array,
        g_cache: list[BlockCache],
        first_sample: int = 0,
        **options,
    ) -> None:
        """Update G on its fakes through D, the last launches of a training step.

        d_input: the fakes, with their labels where D is conditional. options: of `generator_loss`.
        """
        y, d_cache = self.discriminator_forward(d_input, first_sample=first_sample)
        d_cache, dzs = self.generator_loss(y, d_cache, **options)
        self.generator_gradient(d_cache, dzs, fake, g_cache)
        self.G.step(step_counter=self.state[1:])

    def discriminator_gradient(
        self, cache: list[BlockCache], dzs: list[Array], first_label: int = 0
    ) -> None:
        """Add D's gradient, from the result of `discriminator_loss`."""
        plane = isinstance(self.D.conditioning, LabelPlane)
        activation = NO_INPUT_ACTIVATION if plane or self.unused_gradient is not None else None
        self.discriminator_backward(cache, dzs, self.D.gradient, activation, first_label)

    def generator_gradient(
        self, d_cache: list[BlockCache], dzs: list[Array], fake: Array, g_cache: list[BlockCache]
    ) -> None:
        """Add G's gradient, through D from the result of `generator_loss`."""
        last = self.G.blocks[-1]
        if not self.D.conditioning:
            activation = last.act, last.slope, fake
            dz = self.discriminator_backward(d_cache, dzs, self.unused_gradient, activation)
        else:
            dx = self.discriminator_backward(
                d_cache, dzs, self.unused_gradient, NO_INPUT_ACTIVATION, self.generator_labels
            )
            dz = kernels.condition_dx(dx, fake, last.act, last.slope)
        backward(self.G.blocks, g_cache, [dz], self.G.gradient)

    def discriminator_backward(
        self,
        cache: list[BlockCache],
        dzs: list[Array],
        gradient: Gradient | None,
        input_activation: tuple | None,
        first_label: int = 0,
    ) -> Array | None:
        """Run `backward` through D and its label plane; return the gradient of D's input."""
        x = cache[0].x
        dx = backward(self.D.blocks, cache, dzs, gradient, input_activation)
        if dx is not None:
            dx = dx.reshape(x.shape)
        if gradient is not None and isinstance(self.D.conditioning, LabelPlane):
            labels = self.labels[first_label : first_label + len(x)]
            self.D.conditioning.add_gradient(gradient, dx, x, labels)
        return dx

    # Running it

    def feed(self, index: np.ndarray) -> None:
        """Set the images of the next batches: (batches, images of a step) integers."""
        launch.require_equal((index.shape, self.index.shape))
        self.index[...] = self.xp.asarray(index.astype(np.int32))

    def run(self) -> None:
        """Take one training step."""
        self.plan.run()

    def finish(self) -> None:
        """Set the optimizers' step counts, so that training can go on without the plan."""
        for player in (self.G, self.D):
            player.optimizer.t = int(player.t[0])

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the last step."""
        return self.history(1)[-1]

    def history(self, steps: int) -> list[dict[str, float]]:
        """Return the metrics of the last steps, oldest first: at most the rows that are fed."""
        rows, done = to_host(self.metric_rows), int(self.state[1])
        return [self.named_metrics(rows[step % len(rows)]) for step in range(done - steps, done)]

    def named_metrics(self, row: np.ndarray) -> dict[str, float]:
        """Return a row of the metrics as GAN.train_step returns them."""
        return dict(zip(self.metric_names, map(float, row)))
