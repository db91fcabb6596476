"""The training step of a GAN: the update of D, the update of G, and their order.

The step of a DCGAN as one listing, which a test runs beside `GAN.train_step`:

    fake, g_cache = G.forward(z)

    # D: scores of real and fake, the loss, the gradients of D's weights
    real_scores, real_cache = D.forward(real)
    fake_scores, fake_cache = D.forward(fake)
    d_loss, real_dy, fake_dy = objective.discriminator(real_scores, fake_scores)
    _, real_grads = D.backward(real_dy, real_cache, need_dx=False)
    _, fake_grads = D.backward(fake_dy, fake_cache, need_dx=False)
    d_optimizer.step(d_optimizer.parameters.flatten_gradients(real_grads, fake_grads))

    # G: its gradient passes through the updated D, whose weights receive none
    scores, d_cache = D.forward(fake)
    g_loss, dy = objective.generator(scores)
    dfake, _ = D.backward(dy, d_cache, need_grads=False)
    _, g_grads = G.backward(dfake, g_cache, need_dx=False)
    g_optimizer.step(g_optimizer.parameters.flatten_gradients(g_grads))

`GAN` has a method for each part of it, and for each variant: other orders, several critic steps,
one batch of real and fake, a gradient penalty, labels, several processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np

from rawgan.backend import Array, array_module
from rawgan.errors import UserError
from rawgan.layers import Augment, Dropout, GaussianNoise, Layer, MinibatchStd, Sequential, leaves
from rawgan.layers.base import Grads
from rawgan.losses import Objective
from rawgan.optim import LinearDecay, Optimizer
from rawgan.parallel import SINGLE_PROCESS, Ranks
from rawgan.penalties import Penalties, Penalty

Samples = Array | tuple[Array, Array]  # images or z; of a conditional GAN with labels (N,)
Metrics = dict[str, Array]
Order = Literal["discriminator_first", "generator_first", "simultaneous"]
Mode = Literal["train", "inference"]


def one_critic_step(step: int) -> int:
    """Return 1: as many updates of D as of G."""
    return 1


@dataclass(frozen=True)
class Schedule:
    """The order of the updates of a training step, and the mode of each pass.

    order           "discriminator_first"; "generator_first": D then learns from the fakes made
                    before G's update; "simultaneous": both gradients are taken before either update
    joint_batch     D takes real and fake as one batch, and its loss is the mean over both
    resample_z      G learns from a new z, not from the last fakes of D
    critic_steps    critic_steps(i): number of D's updates before G's update i = 0, 1, ...
    fake_mode       mode of G for fakes that only D learns from: "train" or "inference" (eval)
    generator_mode  mode of G for fakes that G learns from
    penalty_mode    mode of D for the gradient penalty

    Raises ValueError for an unknown order or mode, and for a joint batch of simultaneous updates.
    """

    order: Order = "discriminator_first"
    joint_batch: bool = False
    resample_z: bool = False
    critic_steps: Callable[[int], int] = one_critic_step
    fake_mode: Mode = "train"
    generator_mode: Mode = "train"
    penalty_mode: Mode = "train"

    def __post_init__(self):
        if self.order not in get_args(Order):
            raise ValueError(f"no order of updates {self.order!r}: {', '.join(get_args(Order))}")
        for mode in (self.fake_mode, self.generator_mode, self.penalty_mode):
            if mode not in get_args(Mode):
                raise ValueError(f"no mode {mode!r}: {', '.join(get_args(Mode))}")
        if self.joint_batch and self.order == "simultaneous":
            raise ValueError(
                "simultaneous updates need D's scores of the fakes in a pass of their own: "
                "they cannot be combined with a joint batch"
            )


class DiscriminatorPass(NamedTuple):
    """The loss of D on a batch, its scores, and the gradients of its parameters, to be added.

    fake_pass: (D(fake), cache), None where real and fake passed together.
    """

    loss: Array
    real_scores: Array
    fake_scores: Array
    grads: list[Grads]
    fake_pass: tuple[Array, object] | None


@dataclass
class GAN:
    """A generator G, a discriminator D, their objective and optimizers, and the schedule of a step.

    G maps z to images, D images to scores. In a conditional GAN z, real and fake are pairs
    (array, labels); where the objective is `labelled`, the loss takes the labels and D does not.

    penalty    added to D's loss, at points drawn from `rng`: one or several, each lazy or not
    clip       D's parameters are clipped to [-clip, clip] after each update
    gradients  the flat gradients of the last step, by player
    norms      |g[n]| of the last penalties: the norm of dD/dx at each of their points

    The fields from `name` on are those of Recipe (models/recipes.py), for the planned step, and the
    number of training steps over which both learning rates fall to 0, None where they are constant.
    """

    generator: Sequential
    discriminator: Sequential
    objective: Objective
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    penalty: Penalty | Sequence[Penalty] | None = None
    clip: float | None = None
    schedule: Schedule = field(default_factory=Schedule)
    rng: np.random.Generator | None = None
    name: str = "GAN"
    z_size: int = 100
    draw: str = "normal"
    pixels: str = "tanh"
    classes: int = 0
    steps: int = 40_000
    decay_steps: int | None = None

    def __post_init__(self):
        self.gradients: dict[str, Array] = {}
        self.penalties, self.norms = Penalties(self.penalty), None
        optimizers = self.generator_optimizer, self.discriminator_optimizer
        self.decay = LinearDecay(self.decay_steps, *optimizers) if self.decay_steps else None
        self.ranks: Ranks = SINGLE_PROCESS
        self.synchronised = False
        if self.schedule.joint_batch and (layer := self.minibatch_std()):
            raise ValueError(
                f"{layer.label} of D would mix real and fake in its groups: it cannot be combined "
                "with a joint batch"
            )

    # The step of a DCGAN, from top to bottom

    def train_step(self, real: Samples | list[Samples], z: Samples | list[Samples]) -> Metrics:
        """Take one training step in the schedule's order.

        Lists have a real batch and a z for each step of D; an additional last z is for G.
        Returns the losses and mean scores of the last update of each player, 0-d arrays.
        """
        if self.decay:
            self.decay.set_rates(self.generator_optimizer.t)
        reals, zs = (samples if isinstance(samples, list) else [samples] for samples in (real, z))
        if self.schedule.order == "generator_first":
            return self.generator_first(reals[0], zs[0])
        if self.schedule.order == "simultaneous":
            return self.simultaneous(reals[0], zs[0])
        if len(zs) == len(reals) == 1:
            return self.discriminator_first(reals[0], zs[0])
        return self.several_critic_steps(reals, zs)

    def discriminator_first(self, real: Samples, z: Samples) -> Metrics:
        """Update D, then G through the new D on the same fakes."""
        fake, g_cache = self.generate(z, self.schedule.generator_mode)
        d_metrics = self.discriminator_step(real, fake)
        return d_metrics | self.generator_step(fake, g_cache, real)

    def generate(self, z: Samples, mode: Mode = "train") -> tuple[Samples, object]:
        """Return G(z), with the labels of z in a conditional GAN, and G's cache."""
        x, cache = self.generator.forward(z, mode == "train")
        return ((x, z[1]) if isinstance(z, tuple) else x), cache

    def discriminator_step(self, real: Samples, fake: Samples) -> Metrics:
        """Update D with d loss_D / d theta_D. The fakes are constants: G receives no gradient."""
        metrics, grads, _ = self.discriminator_gradient(real, fake)
        self.update_discriminator(grads)
        return metrics

    def discriminator_gradient(
        self, real: Samples, fake: Samples
    ) -> tuple[Metrics, Array, DiscriminatorPass]:
        """Return the metrics, d loss_D / d theta_D as one flat vector, and the pass of the loss."""
        passes = self.one_pass if self.takes_one_pass() else self.separate_passes
        d_pass = passes(real, fake)
        loss, real_scores, fake_scores, grads, _ = d_pass
        penalty_metrics = {}
        if self.penalties:
            value, penalty_grads, penalty_metrics = self.penalty_gradient(real, fake)
            loss = loss + value
            grads = grads + penalty_grads
        metrics = {
            "d_loss": loss,
            "d_real": self.objective.score(real_scores),
            "d_fake": self.objective.score(fake_scores),
        }
        flat = self.ranks.all_reduce_mean_(
            self.discriminator_optimizer.parameters.flatten_gradients(*grads)
        )
        self.gradients["discriminator"] = flat
        return metrics | penalty_metrics, flat, d_pass

    def separate_passes(self, real: Samples, fake: Samples) -> DiscriminatorPass:
        """Return D's loss on real and fake, in a pass each, with its BatchNorm statistics.

        need_dx=False: the gradient of an image is not needed.
        """
        D = self.discriminator
        real_scores, real_cache = D.forward(self.discriminator_input(real))
        fake_scores, fake_cache = D.forward(self.discriminator_input(fake))
        labels = self.loss_labels(real, fake)
        loss, real_dy, fake_dy = self.objective.discriminator(real_scores, fake_scores, *labels)
        _, real_grads = D.backward(real_dy, real_cache, need_dx=False)
        _, fake_grads = D.backward(fake_dy, fake_cache, need_dx=False)
        grads, fake_pass = [real_grads, fake_grads], (fake_scores, fake_cache)
        return DiscriminatorPass(loss, real_scores, fake_scores, grads, fake_pass)

    def update_discriminator(self, grads: Array) -> None:
        """Take one step of D's optimizer, and clip the weights of a Wasserstein critic."""
        self.discriminator_optimizer.step(grads)
        if self.clip is not None:
            theta = self.discriminator_optimizer.parameters.flat
            theta.clip(-self.clip, self.clip, out=theta)

    def generator_step(self, fake: Samples, g_cache, real: Samples | None = None) -> Metrics:
        """Update G with d loss_G / d theta_G, through D at its present parameters.

        A loss that takes the scores of real samples needs `real`; D(real) has no backward pass.
        Raises ValueError without it.
        """
        fake_pass = self.discriminator.forward(self.discriminator_input(fake))
        real_scores = None
        if self.objective.takes_real_scores:
            if real is None:
                raise ValueError(f"G's loss of {self.objective} takes D(real): pass the real batch")
            real_scores, _ = self.discriminator.forward(self.discriminator_input(real))
        metrics, grads = self.generator_gradient(fake, fake_pass, g_cache, real_scores)
        self.generator_optimizer.step(grads)
        return metrics

    def generator_gradient(
        self, fake: Samples, fake_pass: tuple[Array, object], g_cache, real_scores=None
    ) -> tuple[Metrics, Array]:
        """Return the metrics and d loss_G / d theta_G as one flat vector.

            d loss_G / d theta_G = d loss_G / d D(fake) * dD / d fake * dG / d theta_G

        The gradient passes through D as dx alone (no gradient of its weights), and through G as
        gradients of weights alone (none of z). fake_pass: D(fake) and its cache. real_scores:
        D(real), a constant, where the loss takes it.
        """
        scores, d_cache = fake_pass
        real = (real_scores,) if self.objective.takes_real_scores else ()
        loss, dy = self.objective.generator(scores, *real, *self.loss_labels(fake))
        dfake, _ = self.discriminator.backward(dy, d_cache, need_grads=False)
        _, grads = self.generator.backward(dfake, g_cache, need_dx=False)
        flat = self.ranks.all_reduce_mean_(
            self.generator_optimizer.parameters.flatten_gradients(grads)
        )
        self.gradients["generator"] = flat
        return {"g_loss": loss}, flat

    # Other orders of the updates

    def generator_first(self, real: Samples, z: Samples) -> Metrics:
        """Update G, then D on the fakes made before G's update."""
        fake, g_cache = self.generate(z, self.schedule.generator_mode)
        g_metrics = self.generator_step(fake, g_cache, real)
        return g_metrics | self.discriminator_step(real, fake)

    def simultaneous(self, real: Samples, z: Samples) -> Metrics:
        """Take both gradients at the same parameters, from one pass of the fakes; update both."""
        fake, g_cache = self.generate(z, self.schedule.generator_mode)
        d_metrics, d_grads, d_pass = self.discriminator_gradient(real, fake)
        g_metrics, g_grads = self.generator_gradient(
            fake, d_pass.fake_pass, g_cache, d_pass.real_scores
        )
        self.update_discriminator(d_grads)
        self.generator_optimizer.step(g_grads)
        return d_metrics | g_metrics

    def several_critic_steps(self, reals: list[Samples], zs: list[Samples]) -> Metrics:
        """Update D on each real batch and the fakes of its z, then G.

        G learns from the fakes of an additional z, or from the last fakes of D.
        """
        resample_z = len(zs) > len(reals)
        for i, (real, z) in enumerate(zip(reals, zs)):
            shared = not resample_z and i == len(reals) - 1
            mode = self.schedule.generator_mode if shared else self.schedule.fake_mode
            fake, g_cache = self.generate(z, mode)
            d_metrics = self.discriminator_step(real, fake)
        if resample_z:
            fake, g_cache = self.generate(zs[-1], self.schedule.generator_mode)
        return d_metrics | self.generator_step(fake, g_cache, reals[-1])

    # Variants of D's step: one batch of real and fake, gradient penalty, labels

    def takes_one_pass(self) -> bool:
        """Return whether real and fake pass through D as one batch.

        So they do in a joint batch. In a D without buffers (BatchNorm's statistics, the vectors of
        SpectralNorm) a forward pass changes nothing. Where no layer couples samples either, one
        pass computes what two do, in less time. Not with several processes: a batch of a rank's
        real and fake shards is no shard of the whole batch, by which Dropout draws its mask. Nor
        where both players are updated at once: G reuses D's pass of the fakes.
        """
        coupled = any(layer.couples_samples for _, layer in leaves(self.discriminator))
        independent = not self.discriminator.buffers and not coupled and self.ranks.size == 1
        return self.schedule.joint_batch or (independent and self.schedule.order != "simultaneous")

    def one_pass(self, real: Samples, fake: Samples) -> DiscriminatorPass:
        """Return D's loss on real and fake as one batch: of a joint batch, the mean over both."""
        D = self.discriminator
        batch = concatenate(self.discriminator_input(real), self.discriminator_input(fake))
        scores, cache = D.forward(batch)
        N = len(split(real)[0])
        labels = self.loss_labels(real, fake)
        loss, real_dy, fake_dy = self.objective.discriminator(scores[:N], scores[N:], *labels)
        dy = array_module(real_dy).concatenate([real_dy, fake_dy])
        if self.schedule.joint_batch:
            loss, dy = loss / 2, dy / 2
        _, grads = D.backward(dy, cache, need_dx=False)
        return DiscriminatorPass(loss, scores[:N], scores[N:], [grads], None)

    def penalty_gradient(self, real: Samples, fake: Samples) -> tuple[Array, list[Grads], Metrics]:
        """Return the sum of the penalties, the gradients of each, and their metrics."""
        pairs = (split(self.discriminator_input(samples)) for samples in (real, fake))
        step, train = self.discriminator_optimizer.t, self.schedule.penalty_mode == "train"
        grads = self.penalties.gradients(
            self.discriminator, *pairs, self.rng, step, train, self.ranks
        )
        self.norms = self.penalties.norms
        metrics = {"penalty": self.penalties.value}
        if self.norms is not None:
            metrics["gradient_norm"] = self.norms.mean()
        return self.penalties.value, grads, metrics

    def discriminator_input(self, samples: Samples) -> Samples:
        """Return samples for D: without labels where the loss takes them."""
        return samples[0] if self.objective.labelled else samples

    def loss_labels(self, *batches: Samples) -> tuple[Array, ...]:
        """Return the labels of each batch where the loss takes them, else ()."""
        return tuple(batch[1] for batch in batches) if self.objective.labelled else ()

    # Several processes

    def join(self, ranks: Ranks, synchronised: bool = False) -> None:
        """Train as one of `ranks`, each on its shard of every batch, with averaged gradients.

        synchronised: BatchNorm takes the statistics of the whole batch; else of each shard, and
        `average_running_stats` averages the running ones. Raises UserError for synchronised
        statistics beside a MinibatchStd, whose groups are of the samples of one process.
        """
        if synchronised and ranks.size > 1 and (layer := self.minibatch_std()):
            raise UserError(
                f"{layer.label} of D forms its groups within each process: it needs local, not "
                "synchronised statistics"
            )
        self.ranks, self.rng = ranks, ranks.shard_rng(self.rng)
        self.objective = self.objective.with_ranks(ranks)
        self.synchronised = synchronised and ranks.size > 1
        for layer in self.layers():
            if isinstance(layer, Augment | Dropout | GaussianNoise):
                layer.bind(ranks.shard_rng(layer.rng))
            elif layer.averaged and self.synchronised:  # BatchNorm, with labels or without
                layer.ranks = ranks

    def average_running_stats(self) -> None:
        """Average the running statistics of unsynchronised BatchNorm over all ranks."""
        if not self.synchronised:
            running = (layer.buffers[name] for layer in self.layers() for name in layer.averaged)
            self.ranks.average_(list(running))

    def minibatch_std(self) -> Layer | None:
        """Return the first MinibatchStd of D, None without one."""
        layers = (layer for _, layer in leaves(self.discriminator))
        return next((layer for layer in layers if isinstance(layer, MinibatchStd)), None)

    def layers(self) -> list[Layer]:
        """Return the layers of both networks."""
        return [layer for net in (self.generator, self.discriminator) for _, layer in leaves(net)]


def split(samples: Samples) -> tuple[Array, Array | None]:
    """Return (array, labels or None)."""
    return samples if isinstance(samples, tuple) else (samples, None)


def concatenate(real: Samples, fake: Samples) -> Samples:
    """Return real and fake as one batch, real first."""
    (x, labels), (y, fake_labels) = split(real), split(fake)
    xp = array_module(x, y)
    batch = xp.concatenate([x, y])
    return batch if labels is None else (batch, xp.concatenate([labels, fake_labels]))
