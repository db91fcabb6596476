"""Worker of tests/training/test_parallel.py: train in float64 and save the results of this rank.

mpirun -n 2 python tests/support/ranks.py FOLDER
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
from rawgan.losses import RaGAN, RaLSGAN
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES
from rawgan.ops.norm import batchnorm_dx
from rawgan.parallel import SINGLE_PROCESS, Ranks, connect
from rawgan.penalties import R1, Drift, Lazy
from rawgan.random import Random
from rawgan.training.prefetch import Feed

RECIPE = RECIPES | {
    "wgan_gp_batchnorm": replace(
        RECIPES["wgan_gp"], discriminator=partial(dcgan_discriminator, norm="batch")
    ),
    "lazy": replace(RECIPES["r3gan"], penalty=(Lazy(R1(1.0), 2), Lazy(Drift(0.1), 2))),
    "ragan": replace(RECIPES["dcgan"], objective=RaGAN()),
    "ralsgan": replace(RECIPES["raschka_mlp_gan"], objective=RaLSGAN()),
}
EQUAL = {  # recipes that equal training in one process, and the mode of BatchNorm's statistics
    "dcgan": "synchronised",
    "cgan": "synchronised",
    "wgan_gp": "synchronised",  # no BatchNorm in the critic
    "wgan_gp_batchnorm": "synchronised",  # second derivatives through BatchNorm
    "raschka_mlp_gan": "local",  # no BatchNorm, but Dropout
    "raschka_wgan_gp": "synchronised",  # Dropout, and a penalty in inference mode
    "atienza_dcgan": "synchronised",  # real and fake in one batch
    "r3gan": "local",  # pairs of real and fake scores, penalties at both
    "lazy": "local",
    "ragan": "synchronised",  # mean scores of the whole batch
    "ralsgan": "local",
}


def own_alpha(gan, patch):
    """Mistake: each rank draws alpha for its samples only."""
    gan.rng = gan.rng.rng


def own_masks(gan, patch):
    for _, layer in leaves(gan.generator) + leaves(gan.discriminator):
        if isinstance(layer, Dropout):
            layer.bind(layer.rng.rng)


def own_gradient(gan, patch):
    """Mistake: BatchNorm's statistics are over all ranks, but its input gradient is local."""
    from rawgan.layers import norm

    patch(
        norm,
        "batchnorm_dx",
        lambda dy, xhat, rstd, gamma, ranks: batchnorm_dx(dy, xhat, rstd, gamma),
    )


def own_means(gan, patch):
    """Mistake: each rank takes the mean of its own scores."""
    gan.objective = RaLSGAN()


def summed(gan, patch):
    """Mistake: gradients are summed over the ranks instead of averaged.

    Adam divides by the gradient's magnitude, which nearly hides it; its moment estimates show it.
    """
    mean = type(gan.ranks).all_reduce_mean_
    patch(type(gan.ranks), "all_reduce_mean_", lambda self, a: mean(self, a).__imul__(self.size))


WRONG = {  # mistakes, each with a recipe in which it has an effect
    "statistics of its own": ("dcgan", "local", None),
    "alpha of its own": ("wgan_gp", "synchronised", own_alpha),
    "masks of its own": ("raschka_mlp_gan", "local", own_masks),
    "gradient of its own": ("dcgan", "synchronised", own_gradient),
    "mean score of its own": ("ralsgan", "local", own_means),
    "sum in the place of the mean": ("raschka_mlp_gan", "local", summed),
}


def trained(
    recipe: str, batchnorm: str, ranks: Ranks, images: Images, mistake=None, steps: int = 3
) -> dict[str, np.ndarray]:
    """Return the state after some steps in float64, and the mean metrics of the last step.

    The state is all parameters, running statistics and optimizer slots.
    """
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
        metrics = gan.train_step(*[list(map(double, kind)) for kind in feed.step(step)])
        gan.average_running_stats()
    for owner, name, value in changed:
        setattr(owner, name, value)
    nets = {"generator": gan.generator, "discriminator": gan.discriminator}
    results = {f"{who}.{name}": a for who, net in nets.items() for name, a in state(net).items()}
    for who, optimizer in (
        ("generator", gan.generator_optimizer),
        ("discriminator", gan.discriminator_optimizer),
    ):
        results |= {f"{who}_optimizer.{name}": a.copy() for name, a in optimizer.slots.items()}
    numbers = ranks.mean_numbers({name: float(value) for name, value in metrics.items()})
    return results | {name: np.array(value) for name, value in numbers.items()}


def double(samples):
    """Return an array in float64, labels unchanged."""
    if isinstance(samples, tuple):
        return double(samples[0]), samples[1]
    return samples.astype(np.float64)


def alone(recipe: str, batchnorm: str, images: Images) -> dict[str, np.ndarray]:
    return trained(recipe, batchnorm, SINGLE_PROCESS, images)


def contract(ranks: Ranks) -> dict[str, np.ndarray]:
    """Return the results of each method of Ranks, and the messages raised when one rank fails."""
    results = {
        "mean": ranks.all_reduce_mean_(np.arange(6.0, dtype=np.float32) + 10 * ranks.rank),
        "all_gather": ranks.all_gather(np.full(3, ranks.rank)),
    }
    a, b = np.full((2, 3), float(ranks.rank)), np.full(4, 2.0 * ranks.rank)
    ranks.average_([a, b])
    results |= {
        "level": np.concatenate([a.ravel(), b]),
        "all_gather_object": np.array(ranks.all_gather_object(ranks.rank + 5)),
    }
    for name, act in {
        "same": lambda: ranks.require_same("it", ranks.rank),
        "together": lambda: fail(ranks, 1),
    }.items():
        try:
            act()
        except UserError as error:
            results[name] = np.array(str(error))
    return results


def fail(ranks: Ranks, rank: int) -> None:
    with ranks.all_or_raise():
        if ranks.rank == rank:
            raise UserError(f"rank {rank} finds no file")


def main(folder: Path) -> None:
    images = load("digits", 16)
    with connect("mpi") as ranks:
        np.savez(folder / f"contract.{ranks.rank}.npz", **contract(ranks))
        for recipe, batchnorm in EQUAL.items():
            np.savez(
                folder / f"{recipe}.{ranks.rank}.npz", **trained(recipe, batchnorm, ranks, images)
            )
        for name, (recipe, batchnorm, mistake) in WRONG.items():
            np.savez(
                folder / f"{name}.{ranks.rank}.npz",
                **trained(recipe, batchnorm, ranks, images, mistake),
            )
    try:
        with connect("mpi"):
            pass
    except UserError as error:
        (folder / f"again.{ranks.rank}").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
