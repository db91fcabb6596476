"""Mistakes in the gradient penalty: each as the wrong line of code, and its effect."""

from unittest.mock import patch

import numpy as np

from docs.figures import BLUE, GREEN, GREY, ORANGE, RED, drawing
from docs.figures.toy import smooth, watched
from rawgan.init import he_uniform
from rawgan.layers import Flatten, LeakyReLU, Linear, Parameters, Sequential, Sigmoid
from rawgan.losses import Wasserstein
from rawgan.optim import Adam
from rawgan.penalties import WGANGP, Penalty, per_sample
from rawgan.random import Random
from rawgan.toys import ring


def norm_over_the_channels(self, critic, x, condition=None, train=True):
    scores, cache = critic.forward(x, train)
    dys = critic.upstream(np.ones_like(scores), cache)
    g = dys[0]
    norm = np.sqrt((g * g).sum(axis=-1, keepdims=True))  # wrong: one norm per pixel, not per image
    ddx = 2 * self.weight / norm.size * (norm - 1) * g / norm
    _, _, grads = critic.double_backward(ddx, dys[-1], cache, dys=dys)
    return self.weight * ((norm - 1) ** 2).mean(), grads, norm


def value_alone(self, critic, x, condition=None, train=True):
    value, _, norms = right_call(self, critic, x, condition, train)
    # wrong: the penalty is in the printed loss, but not in the gradient
    return value, {}, norms


def without_the_square(self, squared):
    norm = np.sqrt(squared)
    # wrong: no minimum at a norm of 1
    return self.weight * (norm - 1).mean(), self.weight / len(norm) / norm


def one_sided_by_accident(self, squared):
    # wrong: no penalty for a slope below 1
    return right_value(WGANGP(self.weight, one_sided=True), squared)


right_call, right_value = Penalty.__call__, WGANGP.value


@drawing(7, 3.2)
def mistake_norms(figure):
    axes = figure.subplots()
    axes.axhline(1, color=GREY, linewidth=0.8)
    cases = (
        ("as it should be", WGANGP, "value", right_value, BLUE),
        ("value without its gradient", Penalty, "__call__", value_alone, RED),
        ("without the square", WGANGP, "value", without_the_square, ORANGE),
        ("one-sided", WGANGP, "value", one_sided_by_accident, GREEN),
    )
    for name, place, method, wrong, colour in cases:
        with patch.object(place, method, wrong):
            norms = watched(lambda gan, metrics: float(metrics["gradient_norm"]))
        axes.plot(
            smooth(norms), color=colour, label=f"{name}: {np.mean(norms[-50:]):.2f} at the end"
        )
    axes.set(
        yscale="log", xlabel="step on the ring", title="mean |gradient of D|, which should be 1"
    )
    axes.legend(fontsize=8)


def flat_critic(last=()) -> Sequential:
    return Sequential(Flatten(), Linear(64, 32), LeakyReLU(0.2), Linear(32, 1), *last)


@drawing(7, 2.8)
def mistake_channels(figure):
    """Draw the true gradient norm over a whole image while a critic of 8x8 images is trained.

    The critic is trained with the correct penalty, and with one norm per pixel.
    """
    axes = figure.subplots()
    for name, call, colour in (
        ("over the image", right_call, BLUE),
        ("over the channels", norm_over_the_channels, RED),
    ):
        random = Random(0)
        net = flat_critic()
        he_uniform(net, random.stream("weights"))
        optimizer, penalty, norms = Adam(Parameters(net), 2e-3, (0.5, 0.9)), WGANGP(10), []
        for _ in range(400):
            real = random.stream("real").normal(0.3, 1, (32, 8, 8, 1)).astype(np.float32)
            fake = random.stream("fake").normal(-0.3, 1, (32, 8, 8, 1)).astype(np.float32)
            (a, real_cache), (c, fake_cache) = net.forward(real), net.forward(fake)
            _, da, dc = Wasserstein().discriminator(a, c)
            x = penalty.points(real, fake, random.stream("penalty"))
            _, grads, _ = call(penalty, net, x)
            norms.append(right_call(penalty, net, x)[2].mean())
            passes = [
                net.backward(dy, cache, need_dx=False)[1]
                for dy, cache in ((da, real_cache), (dc, fake_cache))
            ]
            optimizer.step(optimizer.parameters.flatten_gradients(*passes, grads))
        axes.plot(norms, color=colour, label=f"norm {name}: {np.mean(norms[-50:]):.1f} at the end")
    axes.set(
        xlabel="critic steps on 8x8 images",
        title="the slope that the critic takes: |g| over the whole image",
        ylim=(0, None),
    )
    axes.legend()


def alphas(kind: str, rng, like):
    """Return the values drawn instead of one U(0, 1) per sample."""
    shapes = {
        "one per pixel": like.shape,
        "one for the batch": (1,) * like.ndim,
        "normal": (len(like), *[1] * (like.ndim - 1)),
    }
    if kind == "one per sample":
        return per_sample(rng, like)
    return rng.normal(size=shapes[kind]) if kind == "normal" else rng.random(shapes[kind])


@drawing(7, 2.5)
def mistake_alphas(figure):
    rng = np.random.default_rng(1)
    real = ring(rng, 8) / ring.spread
    fake = np.stack([np.linspace(-1.2, 1.2, 8), np.full(8, 2.3)], 1).astype(np.float32)
    many = np.tile(np.arange(8), 60)
    for axes, kind in zip(
        figure.subplots(1, 4), ("one per sample", "normal", "one per pixel", "one for the batch")
    ):
        with patch(
            "rawgan.penalties.per_sample", lambda rng, like, kind=kind: alphas(kind, rng, like)
        ):
            x = WGANGP().points(real[many], fake[many], rng)
        axes.plot(*np.stack([real, fake], 1).transpose(2, 1, 0), color=GREY, linewidth=0.5)
        axes.scatter(*x.T, s=2, color=BLUE if kind == "one per sample" else RED)
        axes.scatter(*real.T, s=16, color=GREEN)
        axes.scatter(*fake.T, s=16, color=ORANGE)
        axes.set(title=kind, xticks=(), yticks=(), xlim=(-3.2, 3.2), ylim=(-3, 4), aspect="equal")


@drawing(7, 2.8)
def mistake_sigmoid(figure):
    """Critic on a line, trained to convergence between two clusters, with and without a sigmoid.

    The sigmoid acts on the score.
    """
    axes = figure.subplots()
    x = np.linspace(-4, 4, 161, dtype=np.float32)[:, None]
    for name, last, colour in (
        ("linear score", (), BLUE),
        ("sigmoid on the score", (Sigmoid(),), RED),
    ):
        random = Random(0)
        net = Sequential(
            Linear(1, 32), LeakyReLU(0.2), Linear(32, 32), LeakyReLU(0.2), Linear(32, 1), *last
        )
        he_uniform(net, random.stream("weights"))
        optimizer, penalty = Adam(Parameters(net), 3e-3, (0.5, 0.9)), WGANGP(10)
        for _ in range(500):
            real, fake = (
                random.stream(f"{m}").normal(m, 0.3, (64, 1)).astype(np.float32) for m in (-2, 2)
            )
            (a, real_cache), (c, fake_cache) = net.forward(real), net.forward(fake)
            _, da, dc = Wasserstein().discriminator(a, c)
            _, grads, _ = penalty(net, penalty.points(real, fake, random.stream("penalty")))
            passes = [
                net.backward(dy, cache, need_dx=False)[1]
                for dy, cache in ((da, real_cache), (dc, fake_cache))
            ]
            optimizer.step(optimizer.parameters.flatten_gradients(*passes, grads))
        score, cache = net.forward(x)
        slope = net.backward(np.ones_like(score), cache, need_grads=False)[0]
        score = score - score.mean()
        there = abs(slope[(x > 1.7) & (x < 2.3)]).mean()
        axes.plot(x, score, color=colour, label=f"{name}: slope {there:.2f} where the fakes are")
    axes.axvspan(-2.6, -1.4, color=GREEN, alpha=0.15, linewidth=0)
    axes.axvspan(1.4, 2.6, color=ORANGE, alpha=0.15, linewidth=0)
    axes.set(title="critic's score along a line; green: real, orange: fake")
    axes.legend(fontsize=8, loc="lower left")
