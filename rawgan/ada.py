"""Augmentation of a training: which transforms D's images get, and how often (ADA).

With a fixed probability p the augmentation is as strong at the first step as at the last.
Adaptive discriminator augmentation raises p while D is overfitting, which shows in the scores of
real images, and lowers it otherwise. Source: Karras et al. 2020 (ADA, arXiv:2006.06676).
"""

from dataclasses import dataclass

from rawgan.backend import Array, array_module
from rawgan.errors import UserError, alternatives
from rawgan.gan import GAN, Metrics
from rawgan.layers import Augment
from rawgan.losses import Objective
from rawgan.ops.augment import TRANSFORMS
from rawgan.parallel import Ranks

ADAPTIVE = "ada"  # the word of --augment
ADA_IMAGES = 500_000  # real images in which p goes from 0 to 1, as in the source


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a training: its transforms, and whether ADA chooses their probability.

    transforms  some of "color", "translation" and "cutout", in this order
    adaptive    whether p begins at 0 and is moved by ADA; else it is 1
    ada_images  real images in which ADA moves p by 1
    """

    transforms: tuple[str, ...] = TRANSFORMS
    adaptive: bool = False
    ada_images: int = ADA_IMAGES

    @classmethod
    def parse(cls, text: str, ada_images: int | None = None) -> "Augmentation":
        """Return the augmentation of a text such as "color,cutout" or "ada,translation".

        "ada" alone is all transforms. Raises UserError for an unknown word, and for ada_images
        without "ada".
        """
        words = [word.strip() for word in text.split(",")]
        for word in words:
            if word not in (*TRANSFORMS, ADAPTIVE):
                known = alternatives(word, (*TRANSFORMS, ADAPTIVE))
                raise UserError(f"--augment has no {word!r:.80}; {known}, separated by commas")
        if ada_images is not None and ADAPTIVE not in words:
            raise UserError(f"--ada-images goes with --augment ada, not with --augment {text}")
        transforms = tuple(name for name in TRANSFORMS if name in words) or TRANSFORMS
        return cls(transforms, ADAPTIVE in words, ada_images or ADA_IMAGES)

    def __str__(self) -> str:
        """Return it in words, with all that its draws depend on."""
        probability = f"p by ADA, 1 in {self.ada_images:,} images" if self.adaptive else "p = 1"
        return f"{', '.join(self.transforms)}; {probability}"

    def layer(self, pixels: str) -> Augment:
        """Return the first layer of D for images of this range: "tanh" or "unit"."""
        return Augment(self.transforms, 0.0 if self.adaptive else 1.0, pixels)

    def check(self, objective: Objective) -> None:
        """Raise UserError where ADA cannot read from D's scores what D takes for real."""
        if self.adaptive and objective.boundary is None:
            raise UserError(
                f"--augment ada reads from the scores how many real images D takes for real, which "
                f"those of {type(objective).__name__} do not tell: name the transforms alone, "
                f"--augment {','.join(self.transforms)}"
            )


class ADA:
    """Adaptive probability p of an Augment, by the sign of D's scores of real images.

        r = E sign(D(real) - boundary)       over `interval` steps of D
        p = p + sign(r - target) n / images  n real images in these steps, p kept in [0, 1]

    boundary is the score at which D is undecided. r is near 0 where D tells little, and 1 where it
    takes every real image for real. The source does not keep p below 1, beyond which it changes
    nothing. Source: Karras et al. 2020 (ADA, arXiv:2006.06676), section 3 and its code.
    """

    def __init__(
        self,
        layer: Augment,
        images: int = ADA_IMAGES,
        boundary: float = 0.0,
        target: float = 0.6,
        interval: int = 4,
    ):
        self.layer, self.images, self.boundary = layer, images, boundary
        self.target, self.interval = target, interval
        self.signs: Array | float = 0.0  # their sum since p was moved: whole numbers, exact
        self.steps = 0  # of D since then

    def update(self, scores: Array, ranks: Ranks) -> Metrics:
        """Count the scores of a step of D, move p after the last of `interval`; return metrics.

        scores (N, ...) are those of this process. The metrics are p, and r of this step alone.
        """
        xp = array_module(scores)
        signs = xp.sign(scores - self.boundary).sum()
        self.signs, self.steps = self.signs + signs, self.steps + 1
        if self.steps == self.interval:
            batches = ranks.size * self.interval
            n, total = len(scores) * batches, ranks.all_gather(xp.asarray(self.signs).reshape(1))
            r = float(total.sum()) / (scores.size * batches)
            step = ((r > self.target) - (r < self.target)) * n / self.images
            self.layer.p = min(max(self.layer.p + step, 0.0), 1.0)
            self.signs, self.steps = 0.0, 0
        return {"augment_p": xp.asarray(self.layer.p), "real_sign": signs / scores.size}

    def state(self) -> list:
        """Return p, the sum of signs and the steps as numbers, for a checkpoint."""
        return [self.layer.p, float(self.signs), self.steps]

    def restore(self, state: list, like: Array) -> None:
        """Load a state; the sum needs no dtype of `like`. Raises ValueError, TypeError."""
        p, signs, steps = state
        if not (0 <= p <= 1 and 0 <= steps < self.interval and signs == int(signs)):
            raise ValueError(f"{state} is no state of ADA")
        self.layer.p, self.signs, self.steps = float(p), float(signs), int(steps)


@dataclass
class AdaptiveGAN(GAN):
    """A GAN in which ADA moves the probability of D's augmentation after each step of D."""

    ada: ADA | None = None

    def discriminator_gradient(self, real, fake):
        """Return what GAN's does, with the metrics of ADA, after moving p."""
        metrics, grads, d_pass = super().discriminator_gradient(real, fake)
        scores = d_pass.real_scores
        if self.objective.labelled:  # the first column is the source, real or fake
            scores = scores[:, :1]
        return metrics | self.ada.update(scores, self.ranks), grads, d_pass
