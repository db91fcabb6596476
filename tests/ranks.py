"""What each of the processes of tests/test_parallel.py does: trains in float64, and leaves what it came to.

mpirun -n 2 python tests/ranks.py FOLDER
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rawgan.backend import CPU
from rawgan.data import Images, load
from rawgan.errors import UserError
from rawgan.layers import Dropout, leaves, state
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES
from rawgan.ops.norm import normalize_dx
from rawgan.parallel import ALONE, Ranks, connect
from rawgan.random import Random
from rawgan.training.feed import Feed

RECIPE = RECIPES | {"wgan_gp_batchnorm": replace(RECIPES["wgan_gp"], discriminator=partial(dcgan_discriminator, norm="batch"))}
EQUAL = {  # to one process: recipe, how BatchNorm takes its statistics
    "dcgan": "synchronised",
    "cgan": "synchronised",
    "wgan_gp": "synchronised",  # no BatchNorm in the critic
    "wgan_gp_batchnorm": "synchronised",  # second derivatives through BatchNorm
    "raschka_mlp_gan": "local",  # none at all, but Dropout
    "raschka_wgan_gp": "synchronised",  # Dropout, and a penalty in inference mode
    "atienza_dcgan": "synchronised",  # real and fake in one batch
}


def own_alpha(gan, patch):
    """Each rank draws for its own samples alone."""
    gan.rng = gan.rng.rng


def own_masks(gan, patch):
    for _, layer in leaves(gan.generator) + leaves(gan.discriminator):
        if isinstance(layer, Dropout):
            layer.bind(layer.rng.rng)


def own_gradient(gan, patch):
    """BatchNorm's statistics are of all, what flows back through them is not."""
    from rawgan.ops import norm

    patch(norm, "normalize_dx", lambda v, xhat, rstd, axes, ranks: normalize_dx(v, xhat, rstd, axes))


def summed(gan, patch):
    """Adam divides by the size of the gradient and nearly hides it; what it keeps does not."""
    mean = type(gan.ranks).mean_
    patch(type(gan.ranks), "mean_", lambda self, a: mean(self, a).__imul__(self.size))


WRONG = {  # mistakes, each with a recipe in which it shows
    "statistics of its own": ("dcgan", "local", None),
    "alpha of its own": ("wgan_gp", "synchronised", own_alpha),
    "masks of its own": ("raschka_mlp_gan", "local", own_masks),
    "gradient of its own": ("dcgan", "synchronised", own_gradient),
    "sum in the place of the mean": ("raschka_mlp_gan", "local", summed),
}


def trained(recipe: str, batchnorm: str, ranks: Ranks, images: Images, mistake=None, steps: int = 3) -> dict[str, np.ndarray]:
    """All parameters, running statistics and slots after some steps in float64, and the mean metrics of the last."""
    recipe, changed = RECIPE[recipe], []
    gan = recipe.build(Random(0), 16, 1, 4, dtype=np.float64)
    gan.join(ranks, batchnorm == "synchronised")
    feed = Feed(recipe, images, 8, Random(0), CPU, flip=True, ranks=ranks)

    def patch(owner, name, value):
        changed.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    if mistake:
        mistake(gan, patch)
    for step in range(steps):
        said = gan.train_step(*[list(map(double, kind)) for kind in feed.step(step)])
        gan.level()
    for owner, name, value in changed:
        setattr(owner, name, value)
    nets = {"generator": gan.generator, "discriminator": gan.discriminator}
    found = {f"{who}.{name}": a for who, net in nets.items() for name, a in state(net).items()}
    for who, optimizer in (("generator", gan.generator_optimizer), ("discriminator", gan.discriminator_optimizer)):
        found |= {f"{who}_optimizer.{name}": a.copy() for name, a in optimizer.slots.items()}
    numbers = ranks.mean_numbers({name: float(value) for name, value in said.items()})
    return found | {name: np.array(value) for name, value in numbers.items()}


def double(samples):
    """Float64, labels as they are."""
    if isinstance(samples, tuple):
        return double(samples[0]), samples[1]
    return samples.astype(np.float64)


def alone(recipe: str, batchnorm: str, images: Images) -> dict[str, np.ndarray]:
    return trained(recipe, batchnorm, ALONE, images)


def contract(ranks: Ranks) -> dict[str, np.ndarray]:
    """What the methods of Ranks give here, and what they raise when one rank fails."""
    found = {
        "mean": ranks.mean_(np.arange(6.0, dtype=np.float32) + 10 * ranks.rank),
        "gather": ranks.gather(np.full(3, ranks.rank)),
    }
    a, b = np.full((2, 3), float(ranks.rank)), np.full(4, 2.0 * ranks.rank)
    ranks.level([a, b])
    found |= {"level": np.concatenate([a.ravel(), b]), "exchange": np.array(ranks.exchange(ranks.rank + 5))}
    for name, act in {"same": lambda: ranks.same("it", ranks.rank), "together": lambda: fail(ranks, 1)}.items():
        try:
            act()
        except UserError as error:
            found[name] = np.array(str(error))
    return found


def fail(ranks: Ranks, rank: int) -> None:
    with ranks.together():
        if ranks.rank == rank:
            raise UserError(f"rank {rank} finds no file")


def main(folder: Path) -> None:
    images = load("digits", 16)
    with connect("mpi") as ranks:
        np.savez(folder / f"contract.{ranks.rank}.npz", **contract(ranks))
        for recipe, batchnorm in EQUAL.items():
            np.savez(folder / f"{recipe}.{ranks.rank}.npz", **trained(recipe, batchnorm, ranks, images))
        for name, (recipe, batchnorm, mistake) in WRONG.items():
            np.savez(folder / f"{name}.{ranks.rank}.npz", **trained(recipe, batchnorm, ranks, images, mistake))
    try:
        with connect("mpi"):
            pass
    except UserError as error:
        (folder / f"again.{ranks.rank}").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
