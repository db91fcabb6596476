"""Mistakes in normalisation, losses and the training loop: the wrong line, and its effect."""

from unittest.mock import patch

import numpy as np

from docs.figures import BLUE, GREEN, GREY, ORANGE, RED, drawing
from docs.figures.distances import bell
from docs.figures.toy import digits_gan, digits_steps, real_and_z, ring_gan, smooth, watched
from rawgan.gan import GAN
from rawgan.layers import BatchNorm, Linear, Parameters, leaves
from rawgan.losses import BCE, Wasserstein
from rawgan.ops.act import sigmoid, softplus
from rawgan.optim import SGD
from rawgan.random import Random
from rawgan.toys import ring


def descends(self, c):
    loss, dc = right_generator(self, c)
    return loss, -dc  # wrong: G learns to be classified as fake


def not_connected(self, fake, judged, g_cache, real_scores=None):
    c, _ = judged
    loss, _ = self.objective.generator(c)
    # wrong: no gradient through D
    return {"g_loss": loss}, self.generator_optimizer.parameters.flat * 0


right_generator, right_gradient = Wasserstein.generator, GAN.generator_gradient


def from_the_modes(gan, metrics) -> float:
    """Return the distance of a mode from the nearest of 256 fakes, averaged over the modes."""
    fake, _ = gan.generate(
        np.random.default_rng(3).standard_normal((256, 2), dtype=np.float32), "inference"
    )
    return float(np.linalg.norm(fake[:, None] * ring.spread - ring.centres, axis=2).min(0).mean())


@drawing(7, 2.9)
def mistake_generator(figure):
    axes = figure.subplots()
    cases = (
        ("as it should be", GAN, "generator_gradient", right_gradient, BLUE),
        ("sign flipped", Wasserstein, "generator", descends, RED),
        ("not connected through D", GAN, "generator_gradient", not_connected, ORANGE),
    )
    for name, place, method, wrong, colour in cases:
        with patch.object(place, method, wrong):
            axes.plot(watched(from_the_modes, rate=2e-3), color=colour, label=name)
    axes.set(
        yscale="log",
        xlabel="step on the ring",
        title="distance of a mode from the nearest of 256 fakes",
    )
    axes.legend(fontsize=8)


@drawing(7, 2.6)
def mistake_momentum(figure):
    axes = figure.subplots()
    for momentum, colour in ((0.9, RED), (0.1, BLUE)):
        rng, layer, seen = np.random.default_rng(0), BatchNorm(1, momentum=momentum), []
        for _ in range(120):
            layer.forward(rng.normal(2, 1, (8, 1)).astype(np.float32))
            seen.append(layer.buffers["running_mean"].item())
        axes.plot(
            seen, color=colour, label=f"momentum = {momentum} in the convention of this library"
        )
    axes.axhline(2, color=GREY, linewidth=0.8)
    axes.set(xlabel="batches of 8", title="running mean of values whose mean is 2")
    axes.legend(fontsize=8)


@drawing(7, 2.6)
def mistake_one_batch(figure):
    """Real and fake features after BatchNorm in D, with separate or with common statistics."""
    rng, layer, bins = np.random.default_rng(0), BatchNorm(1), np.linspace(-4, 4, 61)
    real, fake = (rng.normal(m, 0.5, (4000, 1)).astype(np.float32) for m in (1, -1))
    apart, together = figure.subplots(1, 2, sharey=True)
    joint = layer.forward(np.concatenate([real, fake]))[0]
    for axes, values, name in (
        (apart, (layer.forward(real)[0], layer.forward(fake)[0]), "two passes"),
        (together, (joint[:4000], joint[4000:]), "one batch"),
    ):
        for x, colour, who in zip(values, (BLUE, ORANGE), ("real", "fake")):
            axes.hist(x[:, 0], bins, color=colour, alpha=0.5, label=who)
        axes.set(
            title=f"{name}: means {values[0].mean():.1f} and {values[1].mean():.1f}", yticks=()
        )
    apart.legend()


@drawing(7, 3.0)
def mistake_statistics(figure):
    """Images of the same ten z with different BatchNorm statistics.

    In inference, in training mode with other samples in the batch, and with running statistics that
    were never updated.
    """
    gan = digits_gan(Random(0))
    for _ in digits_steps(gan, Random(0), 350):
        pass
    net = gan.generator
    rng = np.random.default_rng(1)
    z = rng.standard_normal((10, 8), dtype=np.float32)
    rows = {"inference": net.forward(z, train=False)[0]}
    for name, different in (
        ("training, 20\nneighbours", 20),
        ("training, one\nneighbour 20 times", 1),
    ):
        neighbours = np.tile(
            rng.standard_normal((different, 8), dtype=np.float32), (20 // different, 1)
        )
        rows[name] = net.forward(np.concatenate([z, neighbours]), train=True)[0][:10]
    for _, layer in leaves(net):
        if isinstance(layer, BatchNorm):
            layer.buffers["running_mean"][...], layer.buffers["running_var"][...] = 0, 1
    rows["average without\nstatistics"] = net.forward(z, train=False)[0]
    for row, (name, images) in zip(figure.subplots(4, 10), rows.items()):
        for axes, image in zip(row, images):
            axes.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=(), yticks=())
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def from_probabilities(x):
    """Return the log of the sigmoid, computed incorrectly."""
    return np.log(sigmoid(x))  # wrong: log 0 where the sigmoid has rounded to 0


@drawing(7, 2.6)
def mistake_log(figure):
    x = np.linspace(-130, 5, 400, dtype=np.float32)
    with np.errstate(divide="ignore"):
        wrong = from_probabilities(x)
    axes = figure.subplots()
    axes.plot(x, -softplus(-x), color=BLUE, label="-softplus(-x)")
    axes.plot(x, wrong, color=RED, linestyle="--", label="log(sigmoid(x)): -inf where it is shaded")
    axes.axvspan(x[0], x[np.isinf(wrong)].max(), color=RED, alpha=0.1, linewidth=0)
    axes.set(xlabel="score x")
    axes.legend(fontsize=8)


@drawing(7, 2.7)
def mistake_smoothing(figure):
    x = np.linspace(-4, 4, 301)
    p, q, t = bell(x, -1, 0.6), bell(x, 1.4, 0.6), 0.9
    axes = figure.subplots()
    axes.fill_between(x, p, color=BLUE, alpha=0.25, linewidth=0, label="real")
    axes.fill_between(x, q, color=ORANGE, alpha=0.25, linewidth=0, label="fake")
    axes.plot(x, t * p / (p + q), color=GREEN, label="best D, real label 0.9")
    axes.plot(x, (t * p + 0.3 * q) / (p + q), color=RED, label="best D, fake label 0.3 too")
    axes.set(yticks=(0, 0.3, 0.9))
    axes.legend(fontsize=8)


@drawing(7, 2.8)
def mistake_mean(figure):
    """D is a line through the origin, trained by gradient descent for three batch sizes.

    The learning rate is the same for all.
    """
    for axes, summed in zip(figure.subplots(1, 2, sharey=True), (False, True)):
        for N, colour in ((4, BLUE), (32, GREEN), (256, ORANGE)):
            rng, parameters, losses = (
                np.random.default_rng(0),
                Parameters(Linear(2, 1, bias=False), dtype=np.float64),
                [],
            )
            optimizer = SGD(parameters, 0.5)
            parameters.flat[:] = (3, -3)
            for _ in range(40):
                real, fake = rng.normal(0.5, 1, (N, 2)), rng.normal(-0.5, 1, (N, 2))
                loss, da, dc = BCE().discriminator(real @ parameters.flat, fake @ parameters.flat)
                losses.append(loss)
                # wrong if summed: 1/N is missing
                optimizer.step((da @ real + dc @ fake) * (N if summed else 1))
            axes.plot(losses, color=colour, label=f"batch of {N}")
        axes.set(
            title="gradient forgets 1/N" if summed else "gradient of the mean",
            yscale="log",
            xlabel="step",
        )
    figure.axes[0].legend(fontsize=8)


left_over: list = []


def step_with_leftovers(gan, real, z):
    """GAN.train_step, except that D's gradients of G's step are added to those of D's next step."""
    fake, g_cache = gan.generate(z)
    metrics, grads, _ = gan.discriminator_gradient(real, fake)
    # wrong: not set to zero
    gan.update_discriminator(grads + (left_over.pop() if left_over else 0))
    c, cache = gan.discriminator.forward(fake)
    _, dc = gan.objective.generator(c)
    dfake, d_grads = gan.discriminator.backward(dc, cache)
    left_over.append(gan.discriminator_optimizer.parameters.flatten_gradients(d_grads))
    _, g_grads = gan.generator.backward(dfake, g_cache, need_dx=False)
    gan.generator_optimizer.step(gan.generator_optimizer.parameters.flatten_gradients(g_grads))
    return metrics


@drawing(7, 2.8)
def mistake_leftover(figure):
    axes = figure.subplots()
    for name, step, colour in (
        ("as it should be", GAN.train_step, BLUE),
        ("left over from G's step", step_with_leftovers, RED),
    ):
        left_over.clear()
        gap = watched(
            lambda gan, metrics: float(metrics["d_real"] - metrics["d_fake"]),
            step=step,
            objective=BCE(),
            penalty=None,
        )
        axes.plot(smooth(gap), color=colour, label=name)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(
        xlabel="step on the ring", title="how well D tells them apart: mean D(real) - mean D(fake)"
    )
    axes.legend(fontsize=8)


def resumed(forget: tuple[str, ...], stop: int = 100, steps: int = 200) -> np.ndarray:
    """Return G's parameters after each step of a run that was stopped and resumed.

    `forget` names the state that is not restored.
    """
    random = Random(0)
    gan, path = ring_gan(random), []
    for step in range(steps):
        if step == stop and "optimizer" in forget:
            for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
                optimizer.t = 0
                for slot in optimizer.slots.values():
                    slot[...] = 0
        if step == stop and "random streams" in forget:
            random.restore(Random(0).state())
            gan.rng = random.stream("penalty")
        gan.train_step(*real_and_z(random))
        path.append(gan.generator_optimizer.parameters.flat.copy())
    return np.array(path)


@drawing(7, 2.8)
def mistake_resumed(figure):
    axes, whole = figure.subplots(), resumed(())
    scale = np.linalg.norm(whole, axis=1)
    for forget, colour in ((("optimizer",), RED), (("random streams",), ORANGE)):
        distance = np.linalg.norm(resumed(forget) - whole, axis=1) / scale
        axes.plot(
            distance,
            color=colour,
            label=f"without the {forget[0]}: {distance[-1]:.1%} of its length away",
        )
    axes.axvline(100, color=GREY, linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="step; resumed at 100",
        title="distance of G's weights from those of the uninterrupted run",
    )
    axes.legend(fontsize=8)
