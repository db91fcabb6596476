"""Planned steps of two processes, with the all-reduce of the gradients as an entry of the plan.

The worker, which runs once in each process:

    TRITON_INTERPRET=1 mpirun -n 2 python tests/planned/test_planned_parallel.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from rawgan.backend import CPU
from rawgan.errors import UserError
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.memory_plan import Plan
from rawgan.models.recipes import RECIPES
from rawgan.parallel import Ranks, connect
from rawgan.planned.discriminator_first import DiscriminatorFirstStep
from rawgan.random import Random
from tests.support.kernel_worker import float64
from tests.support.mpi import ENVIRONMENT, PATIENCE, TWO, two, with_mpi
from tests.support.process import run_process
from tests.support.runs import assert_same_run

DCGAN, BATCH, STEPS = RECIPES["dcgan"], 4, 2


def build(ranks: Ranks, dtype=np.float32, synchronised: bool = False):
    gan = DCGAN.build(Random(3), 16, 1, 4, CPU, dtype)
    gan.join(ranks, synchronised)
    return gan


def planned(ranks: Ranks):
    gan = build(ranks)
    images = np.random.default_rng(7).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    step = DiscriminatorFirstStep(gan, images, BATCH, batches=4)
    step.feed(np.random.default_rng(ranks.rank).integers(0, 40, (4, BATCH)))
    return gan, step


def parameters(gan) -> np.ndarray:
    return np.concatenate(
        [o.parameters.flat for o in (gan.generator_optimizer, gan.discriminator_optimizer)]
    )


def main(folder: Path) -> None:
    """Save the weights after planned steps, and after GAN.train_step in float32 and float64."""
    with connect("mpi") as ranks:
        gan, step = planned(ranks)
        plain, exact = build(ranks), build(ranks, np.float64)
        for _ in range(STEPS):
            step.run()
            z, real = (float64(a) for a in (step.z, step.x[:BATCH]))
            exact.train_step(real, z)
            plain.train_step(real.astype(np.float32), z.astype(np.float32))
        weights = {
            "planned": parameters(gan),
            "plain": parameters(plain),
            "exact": parameters(exact),
            "z": z,
        }
        np.savez(folder / f"{ranks.rank}.npz", **weights)


@with_mpi
def test_two_planned_processes_train_as_two_do(tmp_path):
    environment = ENVIRONMENT | {"TRITON_INTERPRET": "1"}
    done = run_process([*TWO, __file__, tmp_path], env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert not np.array_equal(first["z"], second["z"]), "each draws for itself"
    for name in ("planned", "plain", "exact"):
        assert first[name].tobytes() == second[name].tobytes()
    far = {name: np.abs(first[name] - first["exact"]).max() for name in ("planned", "plain")}
    assert far["planned"] <= 4 * far["plain"] + 1e-9


@with_mpi
def test_a_planned_run(tmp_path, monkeypatch):
    """A resumed run gives the same bits as an uninterrupted one.

    A checkpoint is refused if ranks differ by a bit, and the average of G has the running
    statistics of all ranks.
    """
    monkeypatch.setitem(ENVIRONMENT, "TRITON_INTERPRET", "1")
    arguments = [
        "train",
        "dcgan",
        "--width",
        4,
        "--batch",
        4,
        "--size",
        8,
        "--flip",
        "--sample-every",
        2,
        "--device",
        "cpu",
    ]
    arguments += ["--path", "planned", "--parallel", "mpi", "--checkpoint-every", 1, "--ema", 0.9]
    two(*arguments, "--steps", 1, "--out", "run", folder=tmp_path)
    two("train", "--resume", "run", "--steps", 2, folder=tmp_path)
    printed = two(*arguments, "--steps", 2, "--out", "straight", folder=tmp_path).stdout
    assert "all_reduce_mean_ 4" in printed and "sum_partials_kernel 4" in printed
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    two(
        *arguments,
        "--batchnorm",
        "synchronised",
        "--steps",
        1,
        "--out",
        "not",
        folder=tmp_path,
        status=2,
    )
    assert not (tmp_path / "not").exists()


def twice(calls: list | None = None) -> Ranks:
    """Return ranks of size 2 in one process; `calls` collects the size of each averaged array."""
    ranks = Ranks()
    ranks.size = 2

    def all_reduce_mean_(a):
        if calls is not None:
            calls.append(a.size)
        return a

    ranks.all_reduce_mean_ = all_reduce_mean_
    return ranks


def test_the_mean_stands_between_gradient_and_optimizer():
    """The all-reduce comes between gradient and optimizer of both networks, on arena memory."""
    calls = []
    gan, step = planned(twice(calls))
    names = [entry.name for entry in step.plan.launches]
    at = [i for i, name in enumerate(names) if name == "all_reduce_mean_"]
    assert len(at) == 2 and calls == []  # planning runs nothing
    for i in at:
        before, mean, after = step.plan.launches[i - 1 : i + 2]
        assert (before.name, after.name) == ("sum_partials_kernel", "adam_kernel")
        for neighbour in (before, after):
            assert mean.arrays[0].ctypes.data in [a.ctypes.data for a in neighbour.arrays]
    for i in at:
        step.plan.launches[i]()
    assert calls == [
        o.parameters.flat.size for o in (gan.discriminator_optimizer, gan.generator_optimizer)
    ]


def test_a_call_is_recorded_and_moved():
    """Outside a recording a call runs at once; in a dry recording it is only recorded.

    In a plan its arrays lie in the arena.
    """
    a, seen = np.zeros(3, np.float32), []
    launch.call(seen.append, a)
    with launch.record(dry=True) as recording:
        b = launch.empty(a, (3,), "float32")
        launch.call(seen.append, b)
    assert len(seen) == 1 and len(recording) == 1
    plan = Plan(recording)
    plan.run()
    assert len(seen) == 2 and seen[1].ctypes.data == plan.array(b).ctypes.data != b.ctypes.data
    assert plan.counts() == {"append": 1}


def test_synchronised_statistics_are_refused():
    gan = build(twice(), synchronised=True)
    with pytest.raises(UserError, match="does not synchronise BatchNorm between processes"):
        DiscriminatorFirstStep(gan, np.zeros((1, 16, 16, 1), np.uint8), BATCH)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
