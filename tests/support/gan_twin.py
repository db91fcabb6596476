"""GANs with a PyTorch twin trained as in pytorch/examples/dcgan, for tests of rawgan.gan."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rawgan.backend import CPU, Device
from rawgan.gan import GAN
from rawgan.init import dcgan_init, glorot_uniform
from rawgan.layers import Parameters, Sequential, state
from rawgan.losses import BCE
from rawgan.models.atienza import atienza_discriminator, atienza_generator
from rawgan.models.dcgan import dcgan_discriminator, dcgan_generator
from rawgan.optim import SGD, Adam, RMSprop
from tests.support.reference import assert_close, assert_same
from tests.support.twins import bce_to, gradients, objective_twin, states, to_nchw, twin

# Largest distance of float32 losses from those of float64 PyTorch. They stay within rounding until
# an activation falls on the other side of its kink, or the sign of a gradient of 0 in Adam's first
# step; from there they drift, and so do PyTorch's in float32: on the small networks below to 2e-3
# at the fiftieth step, at width 32 from the second step on and to 6e-2.
FIRST, DRIFT_FIRST, DRIFT = 5, 1e-6, 5e-2


@dataclass
class Recipe:
    """Two networks with initial weights, their images, and the optimizers of both libraries.

    minimum: smallest value of a pixel; the largest is 1.
    """

    generator: Sequential
    discriminator: Sequential
    image: tuple[int, int, int]
    minimum: float
    draw_z: Callable[[np.random.Generator, int], np.ndarray]
    optimizer: Callable[[Parameters], object]
    torch_optimizer: Callable[[object], torch.optim.Optimizer]
    schedule: Callable[[int], float] = lambda t: 1.0
    real_label: float = 1.0
    batch: int = 8

    def __post_init__(self):
        self.initial = state(self.generator), state(self.discriminator)

    def gan(self, dtype=np.float64, device: Device = CPU, objective=None, optimizer=None) -> GAN:
        """Return the GAN with its initial weights."""
        parameters = [
            Parameters(net, device, dtype) for net in (self.generator, self.discriminator)
        ]
        for p, weights in zip(parameters, self.initial):
            p.load(weights)
        optimizers = map(optimizer or self.optimizer, parameters)
        return GAN(
            self.generator, self.discriminator, objective or BCE(self.real_label), *optimizers
        )

    def batches(self, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (real, z) of every step, in float32, which float64 represents exactly."""
        rng = np.random.default_rng(7)
        for _ in range(steps):
            real = rng.uniform(self.minimum, 1, (self.batch, *self.image))
            yield real.astype(np.float32), self.draw_z(rng, self.batch).astype(np.float32)


def dcgan(size=16, channels=1, width=4, z=16, batch=8, real_label=0.9):
    rng = np.random.default_rng(0)
    nets = dcgan_generator(size, channels, width, z), dcgan_discriminator(size, channels, width)
    for net in nets:
        dcgan_init(net, rng)
    return Recipe(
        *nets,
        image=(size, size, channels),
        minimum=-1,
        draw_z=lambda rng, n: rng.normal(size=(n, z)),
        optimizer=lambda parameters: Adam(parameters, 2e-4, (0.5, 0.999)),
        torch_optimizer=lambda parameters: torch.optim.Adam(parameters, 2e-4, (0.5, 0.999)),
        real_label=real_label,
        batch=batch,
    )


def atienza(width=2, z=10, decay=1e-2):
    """Return the networks of the book, with a decay that has an effect within ten steps.

    The book's decay is 3e-8.
    """
    rng = np.random.default_rng(0)
    nets = atienza_generator(width=width, z=z), atienza_discriminator(width=width)
    for net in nets:
        glorot_uniform(net, rng)
    return Recipe(
        *nets,
        image=(28, 28, 1),
        minimum=0,
        draw_z=lambda rng, n: rng.uniform(-1, 1, (n, z)),
        optimizer=lambda parameters: RMSprop(parameters, 2e-4, decay=decay),
        torch_optimizer=lambda parameters: torch.optim.RMSprop(parameters, 2e-4, 0.9, 1e-7),
        schedule=lambda t: 1 / (1 + decay * t),
    )


def train(recipe, steps, dtype=np.float64, device=CPU):
    """Return the trained GAN, and [d_loss, g_loss] of every step."""
    gan, losses = recipe.gan(dtype, device), []
    for real, z in recipe.batches(steps):
        metrics = gan.train_step(
            device.asarray(real.astype(dtype)), device.asarray(z.astype(dtype))
        )
        losses.append([float(metrics["d_loss"]), float(metrics["g_loss"])])
    return gan, np.array(losses)


def train_twin(recipe, steps, dtype=torch.float64):
    """Return (G, D) and losses in PyTorch, in the order of pytorch/examples/dcgan/main.py."""
    recipe.gan(np.float32)
    G, D = twin(recipe.generator, dtype), twin(recipe.discriminator, dtype)
    g_optimizer, d_optimizer = (recipe.torch_optimizer(net.parameters()) for net in (G, D))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, recipe.schedule) for o in (g_optimizer, d_optimizer)
    ]
    losses = []
    for batch in recipe.batches(steps):
        real, z = (to_nchw(torch.from_numpy(a)).to(dtype).contiguous() for a in batch)
        D.zero_grad()
        loss_real = bce_to(recipe.real_label)(D(real))
        loss_real.backward()
        fake = G(z)
        loss_fake = bce_to(0)(D(fake.detach()))
        loss_fake.backward()
        d_optimizer.step()
        G.zero_grad()
        loss = bce_to(1)(D(fake))
        loss.backward()
        g_optimizer.step()
        for schedule in schedules:
            schedule.step()
        losses.append([(loss_real + loss_fake).item(), loss.item()])
    return (G, D), np.array(losses)


def assert_parity(recipe, steps, device=CPU):
    """Assert equal losses, parameters and running statistics of both libraries in float64.

    The bound is absolute where a whole array may be near zero: running statistics, and biases in
    front of a BatchNorm, which only rounding changes.
    """
    twins, want = train_twin(recipe, steps)
    gan, got = train(recipe, steps, device=device)
    assert_close(got, want, "losses")
    for net, copy in zip((gan.generator, gan.discriminator), twins):
        for name, (g, w) in states(net, copy).items():
            assert_close(
                g, w, name, scale=max(abs(w).max(), name in net.buffers or name.endswith(".b"))
            )


def assert_drift(recipe, steps, device=CPU, first=FIRST):
    """Assert that float32 losses drift from float64 by at most DRIFT, or twice PyTorch's drift."""
    want = train_twin(recipe, steps)[1]
    theirs = train_twin(recipe, steps, torch.float32)[1]
    got = train(recipe, steps, np.float32, device)[1]
    drift = abs(got / want - 1).max(1)
    assert (drift[:first] < DRIFT_FIRST).all(), drift[:first]
    assert drift.max() < max(DRIFT, 2 * abs(theirs / want - 1).max()), drift


SMOOTH = BCE(real_label=0.9)


def assert_steps(recipe, objective=SMOOTH):
    """Assert that a player's step changes its parameters alone, by -lr times the gradient."""
    lr = 0.5
    gan = recipe.gan(objective=objective, optimizer=lambda parameters: SGD(parameters, lr))
    G, D = gan.generator, gan.discriminator
    G_twin, D_twin = twin(G), twin(D)
    losses = objective_twin(objective)
    real, z = (a.astype(np.float64) for a in next(recipe.batches(1)))

    fake, cache = G.forward(z)
    real_twin, fake_twin = to_nchw(torch.from_numpy(real)), G_twin(to_nchw(torch.from_numpy(z)))
    for step, mover, copy, other, loss in (
        (
            lambda: gan.discriminator_step(real, fake),
            D, D_twin, G,
            lambda: losses.discriminator(D_twin(real_twin), D_twin(fake_twin.detach())),
        ),
        (
            lambda: gan.generator_step(fake, cache, real), G, G_twin, D,
            lambda: losses.generator(D_twin(fake_twin), D_twin(real_twin).detach()),
        ),
    ):  # fmt: skip
        copy.zero_grad()
        loss().backward()
        before, others = state(mover), state(other)
        step()
        after = state(mover)
        for name, grad in gradients(mover, copy).items():
            assert abs(grad).max() > 0, name
            floor = 1e-6  # for biases in front of a BatchNorm, whose gradients are rounding
            assert_close(
                after[name] - before[name], -lr * grad, name, scale=max(lr * abs(grad).max(), floor)
            )
        for name, value in state(other).items():
            if name in other.params or other is G:  # G's step does change D's running statistics
                assert_same(value, others[name], name)
        with torch.no_grad():
            for p in copy.parameters():
                p.sub_(lr * p.grad)
