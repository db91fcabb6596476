"""Diagnose the training of a GAN: saturation, gradients, mode collapse, numerical overflow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np

from rawgan.backend import array_module, to_host
from rawgan.gan import GAN
from rawgan.layers import Sequential, leaves
from rawgan.losses import ACGAN, BCE, Hinge, LeastSquares, RelativisticAverage, RpGAN
from rawgan.models.recipe import Recipe

PATIENCE = 10  # rows of metrics in a row that have a symptom before it is reported
# a gradient explodes above EXPLODING times its median norm before and LARGE, or above HUGE
EXPLODING, LARGE, HUGE = 100, 1e3, 1e5
# it vanishes below VANISHING times the median norm of its first rows, or below TINY
VANISHING, TINY = 1e-3, 1e-7
LOOK_EVERY = 50  # steps between two looks at samples
COLLAPSED = 0.2  # mean distance of two samples in units of that of two real images
# samples of an untrained G are alike: they count as a failure from EARLY steps on below ALIKE, from
# LATE on below COLLAPSED
EARLY, LATE, ALIKE = 150, 1000, 0.07
SMALL_RATE = 1e-3  # below it a larger learning rate is a remedy for samples that are alike


class Diagnostics:
    """Diagnoses from metrics, gradient norms and samples, each returned once while it lasts.

    real (N, H, W, C) uint8: real images, to compare the variety of samples with.
    """

    def __init__(self, recipe: Recipe, real: np.ndarray):
        self.recipe, self.remedies, self.real_spread = recipe, remedies(recipe), spread(real)
        self.looked = 0  # step of the last look at samples
        self.had_variety = False  # whether samples have differed clearly from each other before
        self.norms: dict[str, list[float]] = {}  # of each player, one per row of metrics
        self.streak: dict[str, int] = {}  # rows or grids in a row that had a symptom, by its name

    def on_metrics(self, done: int, row: dict[str, float], norms: dict[str, float]) -> list[str]:
        """Return diagnoses after a row of metrics.

        norms: the gradient norm of each "player.parameter"; {} in the middle of a CUDA graph.
        """
        sentence = self.saturation(row)
        sentences = self.persistent(
            "saturated", bool(sentence), PATIENCE, f"step {done}: {sentence}"
        )
        for player in ("generator", "discriminator"):
            parts = {name: norm for name, norm in norms.items() if name.startswith(f"{player}.")}
            if parts:
                sentences += self.gradient_diagnoses(done, player, parts)
        return sentences

    def gradient_diagnoses(self, done: int, player: str, norms: dict[str, float]) -> list[str]:
        """Return diagnoses of a player's gradient, of which `norms` has the norm per parameter."""
        total, history = (
            float(np.hypot.reduce(list(norms.values()))),
            self.norms.setdefault(player, []),
        )
        known = len(history) >= PATIENCE
        recent, first = (median(history[-50:]), median(history[:PATIENCE])) if known else (0, 0)
        explodes = total > HUGE or (total > max(EXPLODING * recent, LARGE) and recent > 0)
        before = f", {recent:.3g} in the lines before" if recent else ""
        gradient = f"step {done}: the gradient of the {player}"
        sentences = self.persistent(
            f"{player} explodes",
            explodes,
            1,
            f"{gradient} explodes: its norm is {total:.3g}{before}, "
            f"most of it in {max(norms, key=norms.get)}; {self.remedies}",
        )
        sentences += self.persistent(
            f"{player} vanishes",
            total < max(VANISHING * first, TINY),
            PATIENCE,
            f"{gradient} vanishes: its norm is {total:.3g}, and it hardly learns; "
            f"in a new run, {self.remedies}",
        )
        history.append(total)
        return sentences

    def saturation(self, row: dict[str, float]) -> str:
        """Return a sentence where D separates real from generated images with certainty; else ''.

        A Wasserstein critic has no such state: its scores are unbounded.
        """
        objective = self.recipe.objective
        objective = objective.source if isinstance(objective, ACGAN) else objective
        if isinstance(objective, BCE):
            certain = row["d_real"] > 0.97 * objective.real_label and row["d_fake"] < 0.01
        else:
            bounded = LeastSquares | Hinge | RpGAN | RelativisticAverage
            certain = isinstance(objective, bounded) and row["d_loss"] < 0.005
        if not certain:
            return ""
        return (
            f"D saturates: for a while it has separated real images (score {row['d_real']:.2f}) "
            f"from generated ones ({row['d_fake']:.2f}) with certainty, and G learns little from "
            f"it; {self.remedies}"
        )

    def on_samples(self, done: int, images: np.ndarray) -> list[str]:
        """Return a diagnosis where the images of the fixed z, uint8 (N, H, W, C), are all alike."""
        if self.looked == done > 0:
            return []
        self.looked = done
        ratio = spread(images) / self.real_spread if self.real_spread else 1.0
        self.had_variety |= ratio > 2 * COLLAPSED
        differ = f"two of them differ by {ratio:.0%} of what two real pictures do"
        sentences = self.persistent(
            "collapsed",
            ratio < COLLAPSED and self.had_variety,
            2,
            f"step {done}: the samples collapse: {differ}; {self.remedies}",
        )
        limit = COLLAPSED if done >= LATE else ALIKE
        return sentences + self.persistent(
            "alike",
            ratio < limit and not self.had_variety and done >= EARLY,
            2,
            f"step {done}: the samples are all alike: {differ}, and never differed more; "
            f"{self.remedies_of_a_start()}",
        )

    def remedies_of_a_start(self) -> str:
        """Return what to try where samples have never differed: a larger rate if it is small."""
        rate = getattr(self.recipe.generator_optimizer, "keywords", {}).get("lr")
        if rate is None or rate >= SMALL_RATE:
            return self.remedies
        return f"try a larger --lr, such as {min(10 * rate, SMALL_RATE):g} in the place of {rate:g}"

    def persistent(self, name: str, present: bool, times: int, sentence: str) -> list[str]:
        """Return [sentence] where the symptom is present for the `times`-th time in a row."""
        self.streak[name] = self.streak.get(name, 0) + 1 if present else 0
        return [sentence] if self.streak[name] == times else []


def remedies(recipe: Recipe) -> str:
    """Return changes to try with a recipe that does not have them yet."""
    objective = recipe.objective.source if isinstance(recipe.objective, ACGAN) else recipe.objective
    smooth = isinstance(objective, BCE) and objective.real_label == 1
    changes = [
        "a smaller --lr",
        *(["--real-label 0.9"] if smooth else []),
        *([] if recipe.penalty else ["the recipe wgan_gp"]),
    ]
    return f"try {' or '.join(changes)}"


def spread(images: np.ndarray) -> float:
    """Return the mean Euclidean distance between two of the images uint8 (N, ...)."""
    x = images.reshape(len(images), -1).astype(np.float64)
    if len(x) < 2:
        return 0.0
    squares = (x * x).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0))
    np.fill_diagonal(distances, 0)
    return float(distances.sum() / (len(x) * (len(x) - 1)))


class Overflow(Exception):
    """A number is not finite; the message names the layer or launch."""


def first_overflow(gan: GAN, step: Callable[[], dict], first: int, last: int) -> str:
    """Train from step `first` to `last`; return in words where the first number overflows."""
    with checked(gan), np.errstate(all="ignore"):
        for done in range(first, last):
            try:
                step()
            except Overflow as overflow:
                return f"the first number to overflow is in step {done + 1}, in {overflow}"
    return f"the overflow was not reproduced: repeated from step {first}, all numbers were finite"


@contextmanager
def checked(gan: GAN) -> Iterator[None]:
    """Inside, passes of layers, losses and updates raise Overflow where a result is not finite."""
    players = {"generator": (gan.generator, gan.generator_optimizer)}
    players |= {"discriminator": (gan.discriminator, gan.discriminator_optimizer)}
    layers = [(who, path, leaf) for who, (net, _) in players.items() for path, leaf in leaves(net)]
    patched = [(leaf, kind) for *_, leaf in layers for kind in PASSES] + [
        (o, "step") for _, o in players.values()
    ]
    objective = gan.objective
    try:
        for who, path, leaf in layers:
            for kind, description in PASSES.items():
                where = f"the {description} of the {who}'s layer {path}, {leaf!r}"
                setattr(
                    leaf,
                    kind,
                    checking(getattr(leaf, kind), where, 1 if kind == "forward" else None),
                )
        for who, (net, optimizer) in players.items():
            optimizer.step = checking_update(optimizer.step, net, who)
        gan.objective = CheckedObjective(objective)
        yield
    finally:
        gan.objective = objective
        for owner, name in patched:
            owner.__dict__.pop(name, None)


PASSES = {
    "forward": "forward pass",
    "backward": "backward pass",
    "double_backward": "second-order pass",
}


class CheckedObjective:
    """An objective whose losses and gradients raise Overflow where they are not finite."""

    def __init__(self, objective):
        self.objective, self.labelled, self.score = objective, objective.labelled, objective.score
        self.takes_real_scores = objective.takes_real_scores
        self.discriminator = checking(objective.discriminator, "the discriminator's loss")
        self.generator = checking(objective.generator, "the generator's loss")


def checking(f: Callable, where: str, first: int | None = None) -> Callable:
    """Return f, raising Overflow where a result, or one of the `first` results, is not finite."""

    def run(*args, **options):
        result = f(*args, **options)
        for value in result[:first]:
            for a in value.values() if isinstance(value, dict) else (value,):
                if not finite(a):
                    raise Overflow(where)
        return result

    return run


def checking_update(f: Callable, net: Sequential, who: str) -> Callable:
    """Return an optimizer's step, raising Overflow where a new parameter is not finite."""

    def run(grads):
        f(grads)
        for name, a in net.params.items():
            if not finite(a):
                raise Overflow(f"the update of the {who}'s {name}")

    return run


def finite(a) -> bool:
    """Return whether all numbers of an array of floats are finite; True for others and None."""
    if a is not None and a.dtype == np.uint16:  # bfloat16
        return bool(to_host(((a & 0x7F80) != 0x7F80).all()))
    return a is None or a.dtype.kind != "f" or bool(to_host(array_module(a).isfinite(a).all()))
