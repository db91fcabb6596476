"""What goes wrong in the training of a GAN, said in words: while it runs, and where a run broke off."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np

from rawgan.backend import array_module, to_host
from rawgan.gan import GAN
from rawgan.layers import Sequential, leaves
from rawgan.losses import ACGAN, BCE, Hinge, LeastSquares
from rawgan.models.recipes import Recipe

PATIENCE = 10  # lines of metrics in a row that say the same, before it is said
EXPLODING, LARGE, HUGE = 100, 1e3, 1e5  # so many times the median gradient norm before and LARGE, or HUGE anyway
VANISHING, TINY = 1e-3, 1e-7  # of the median gradient norm of the first lines, or TINY anyway
EARLY = 1000  # steps in which samples that are still all alike are no collapse, unless they were varied before
COLLAPSED = 0.2  # mean distance of two samples, of that of two real pictures


class Doctor:
    """Looks at metrics, gradients and samples, and says each complaint once until it is over."""

    def __init__(self, recipe: Recipe, real: np.ndarray):
        self.recipe, self.real_spread, self.varied, self.remedies = recipe, spread(real), False, remedies(recipe)
        self.lines: dict[str, list[float]] = {}  # the gradient norm of each player, line by line
        self.held: dict[str, int] = {}

    def listen(self, done: int, row: dict[str, float], norms: dict[str, float]) -> list[str]:
        """Complaints after a line of metrics: `row` is that line, norms the gradient norm of each "player.parameter", if known."""
        sure = self.saturated(row)
        said = self.lasting("saturated", bool(sure), PATIENCE, f"step {done}: {sure}")
        for who in ("generator", "discriminator"):
            own = {name: norm for name, norm in norms.items() if name.startswith(f"{who}.")}
            if not own:  # a planned step whose gradients are gone
                continue
            total, lines = float(np.hypot.reduce(list(own.values()))), self.lines.setdefault(who, [])
            usual, first = (median(some) if len(lines) >= PATIENCE else 0 for some in (lines[-50:], lines[:PATIENCE]))
            explodes = total > HUGE or (total > max(EXPLODING * usual, LARGE) and usual > 0)
            before = f", {usual:.3g} in the lines before" if usual else ""
            words = f"step {done}: the gradient of the {who} explodes: its norm is {total:.3g}{before}, most of it in"
            words += f" {max(own, key=own.get)}; {self.remedies}"
            said += self.lasting(f"{who} explodes", explodes, 1, words)
            words = f"step {done}: the gradient of the {who} vanishes: its norm is {total:.3g}, and it hardly learns;"
            words += f" in a new run, {self.remedies}"
            said += self.lasting(f"{who} vanishes", total < max(VANISHING * first, TINY), PATIENCE, words)
            lines.append(total)
        return said

    def saturated(self, row: dict[str, float]) -> str:
        """A sentence where D is sure of every picture; else ''. A Wasserstein critic is never sure: its scores have no end."""
        objective = self.recipe.objective
        objective = objective.source if isinstance(objective, ACGAN) else objective
        if isinstance(objective, BCE):
            sure = row["d_real"] > 0.97 * objective.real_label and row["d_fake"] < 0.01
        else:
            sure = isinstance(objective, LeastSquares | Hinge) and row["d_loss"] < 0.005
        if not sure:
            return ""
        return (
            f"D saturates: it has told real pictures (score {row['d_real']:.2f}) from generated ones ({row['d_fake']:.2f}) without"
            f" doubt for a while, and G learns little from it; {self.remedies}"
        )

    def look(self, done: int, images: np.ndarray) -> list[str]:
        """Complaints about the pictures of the fixed z, uint8 (N, H, W, C): that they are all alike."""
        ratio = spread(images) / self.real_spread if self.real_spread else 1.0
        self.varied |= ratio > 2 * COLLAPSED
        words = f"step {done}: the samples collapse: two of them differ by {ratio:.0%} of what two real pictures do;"
        words += f" {self.remedies}"
        return self.lasting("collapsed", ratio < COLLAPSED and (self.varied or done >= EARLY), 2, words)

    def lasting(self, name: str, complaint: bool, times: int, words: str) -> list[str]:
        """The words, where the complaint comes for the `times`-th time in a row."""
        self.held[name] = self.held.get(name, 0) + 1 if complaint else 0
        return [words] if self.held[name] == times else []


def remedies(recipe: Recipe) -> str:
    """What to try with a recipe, as far as it is not done yet."""
    smooth = isinstance(recipe.objective, BCE) and recipe.objective.real_label == 1
    found = ["a smaller --lr", *(["--real-label 0.9"] if smooth else []), *([] if recipe.penalty else ["the recipe wgan_gp"])]
    return f"try {' or '.join(found)}"


def spread(images: np.ndarray) -> float:
    """The mean Euclidean distance between two of the pictures uint8 (N, ...)."""
    x = images.reshape(len(images), -1).astype(np.float64)
    if len(x) < 2:
        return 0.0
    squares = (x * x).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0))
    np.fill_diagonal(distances, 0)
    return float(distances.sum() / (len(x) * (len(x) - 1)))


class Overflow(Exception):
    """A number is not finite; the message says where."""


def first_overflow(gan: GAN, step: Callable[[], dict], first: int, last: int) -> str:
    """Trains from step `first` to `last` with an eye on every layer: where the first number appears that is not finite."""
    with watched(gan), np.errstate(all="ignore"):
        for done in range(first, last):
            try:
                step()
            except Overflow as overflow:
                return f"the first number to overflow is in step {done + 1}, in {overflow}"
    return f"gone through again from step {first}, the same steps gave finite numbers"


@contextmanager
def watched(gan: GAN) -> Iterator[None]:
    """Every layer's forward, backward and double_backward, the losses and the updates raise Overflow at what is not finite."""
    players = {"generator": (gan.generator, gan.generator_optimizer)}
    players |= {"discriminator": (gan.discriminator, gan.discriminator_optimizer)}
    layers = [(who, path, leaf) for who, (net, _) in players.items() for path, leaf in leaves(net)]
    patched = [(leaf, kind) for *_, leaf in layers for kind in PASSES] + [(o, "step") for _, o in players.values()]
    objective = gan.objective
    try:
        for who, path, leaf in layers:
            for kind in PASSES:
                where = f"the {PASSES[kind]} of the {who}'s layer {path}, {leaf!r}"
                setattr(leaf, kind, checking(getattr(leaf, kind), where, 1 if kind == "forward" else None))
        for who, (net, optimizer) in players.items():
            optimizer.step = checking_update(optimizer.step, net, who)
        gan.objective = Watched(objective)
        yield
    finally:
        gan.objective = objective
        for owner, name in patched:
            owner.__dict__.pop(name, None)


PASSES = {"forward": "forward pass", "backward": "backward pass", "double_backward": "second-order pass"}


class Watched:
    """An objective whose losses and gradients are looked at."""

    def __init__(self, objective):
        self.objective, self.labelled, self.score = objective, objective.labelled, objective.score
        self.discriminator = checking(objective.discriminator, "the discriminator's loss")
        self.generator = checking(objective.generator, "the generator's loss")


def checking(f: Callable, where: str, first: int | None = None) -> Callable:
    """f, raising Overflow where one of the things that it returns, or only of the `first` of them, is not finite."""

    def run(*args, **options):
        result = f(*args, **options)
        for value in result[:first]:
            for a in value.values() if isinstance(value, dict) else (value,):
                if not finite(a):
                    raise Overflow(where)
        return result

    return run


def checking_update(f: Callable, net: Sequential, who: str) -> Callable:
    """An optimizer's step, raising Overflow where a parameter comes out not finite."""

    def run(grads):
        f(grads)
        for name, a in net.params.items():
            if not finite(a):
                raise Overflow(f"the update of the {who}'s {name}")

    return run


def finite(a) -> bool:
    """Whether an array, if it is one with a fraction, has finite numbers alone."""
    if a is not None and a.dtype == np.uint16:  # bfloat16
        return bool(to_host(((a & 0x7F80) != 0x7F80).all()))
    return a is None or a.dtype.kind != "f" or bool(to_host(array_module(a).isfinite(a).all()))
