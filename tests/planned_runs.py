"""Planned steps at toy width beside GAN.train_step, for the tests of rawgan/planned*.py (it has no tests itself).

TRITON_INTERPRET=1 python tests/planned_runs.py compare cpu fp32 dcgan wgan_gp ...   the worker: prints what it found, as JSON
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from test_kernels_worker import float64, mend_interpreter

from rawgan.backend import CPU, Device, choose_device, to_host
from rawgan.kernels import kernels, launch
from rawgan.layers import Condition, Flatten, LeakyReLU, Linear, OneHot, Planes, Reshape, Sequential
from rawgan.losses import Hinge, LeastSquares
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.optim import RMSprop
from rawgan.penalties import WGANGP
from rawgan.planned_steps import planned_step
from rawgan.random import Random

HERE = Path(__file__).parent
STEPS = 2
WHERE = pytest.mark.parametrize("where", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])


class Run(NamedTuple):
    recipe: Recipe
    size: int
    channels: int
    width: int
    batch: int = 4


def one_layer(size, channels, width):
    """A D that is one product of image and one-hot planes."""
    return Sequential(Condition(Sequential(OneHot(10), Planes(size, size))), Flatten(), Linear(size * size * (channels + 10), 1))


def perceptron(size, channels, width):
    """A D that flattens image and learnt plane."""
    P = size * size
    plane = Condition(Sequential(OneHot(10), Linear(10, P), Reshape(size, size, 1)))
    return Sequential(plane, Flatten(), Linear(P * (channels + 1), width), LeakyReLU(0.2), Linear(width, 1))


DCGAN, WGAN_GP = RECIPES["dcgan"], replace(RECIPES["wgan_gp"], critic_steps=lambda step: 2)
RUNS = {
    "dcgan": Run(DCGAN, 16, 3, 4),
    "dcgan, width 64": Run(DCGAN, 8, 1, 64),
    "dcgan, batch 3": Run(DCGAN, 16, 1, 4, 3),  # no tile fits into half of the batch
    "least squares": Run(
        replace(DCGAN, objective=LeastSquares(), generator_optimizer=partial(RMSprop, lr=1e-3), draw="uniform", pixels="unit"),
        16,
        1,
        4,
    ),
    "hinge, no norm in D": Run(
        replace(DCGAN, objective=Hinge(), discriminator=partial(dcgan_discriminator, norm="none")), 16, 1, 4
    ),
    "cgan": Run(RECIPES["cgan"], 8, 1, 4),
    "atienza_dcgan": Run(RECIPES["atienza_dcgan"], 4, 1, 2),
    "atienza_cgan": Run(RECIPES["atienza_cgan"], 4, 1, 2),
    "cgan, one layer": Run(replace(RECIPES["cgan"], discriminator=one_layer), 8, 1, 4),
    "atienza_cgan, perceptron": Run(replace(RECIPES["atienza_cgan"], discriminator=perceptron), 4, 1, 2),
    "raschka_mlp_gan": Run(RECIPES["raschka_mlp_gan"], 8, 1, 8),
    "raschka_dcgan": Run(RECIPES["raschka_dcgan"], 8, 1, 8),
    "wgan_gp": Run(WGAN_GP, 16, 3, 4),
    "wgan_gp, one-sided": Run(replace(WGAN_GP, penalty=WGANGP(0.5, one_sided=True)), 8, 1, 8),
    "wgan_gp_mnist": Run(replace(RECIPES["wgan_gp_mnist"], critic_steps=lambda step: 2), 12, 1, 4),
}


class Draws:
    """Random numbers that a planned step has drawn, for GAN.train_step to draw."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def random(self, shape, dtype=None):
        return self.numbers.pop(0).reshape(shape)


class Masks:
    """Which numbers Dropout has kept in D, in a step that began at `state`: real, fake and again fake, or as `rows` says."""

    def __init__(self, step, state, rows):
        self.step, self.state, self.passes = step, state, [(block, row) for row in rows for block in step.D.blocks if block.drop]

    def random(self, shape, dtype):
        block, row = self.passes.pop(0)
        ones = self.step.xp.ones(shape, "float32")
        kernels.dropout(ones, self.state, block.drop, block.stream, row * (ones.size // len(ones)))
        return to_host(ones > 0).astype(dtype)


def build(run: Run, device: Device, dtype=np.float32):
    return run.recipe.build(Random(3), run.size, run.channels, run.width, device, dtype)


def planned(run: Run, device: Device, precision="fp32", without=()):
    """A GAN and its step, fed from a small data set."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (40, run.size, run.size, run.channels), dtype=np.uint8)
    labels = device.asarray(rng.integers(0, 10, 40)) if run.recipe.classes else None
    gan = build(run, device)
    how = {"seed": 5, "precision": precision, "batches": 4, "without": without}
    step = planned_step(gan, run.recipe, device.asarray(images), run.batch, labels=labels, **how)
    step.feed(rng.integers(0, 40, (4, step.reals * run.batch)))
    return gan, step


def given(run: Run, step) -> tuple:
    """(real, z, alphas) of the step that has just been run, as GAN.train_step takes them, in float64."""
    real = step.real if run.recipe.penalty else step.x[: run.batch]
    reals, zs = (list(float64(a).reshape(-1, run.batch, *a.shape[1:])) for a in (real, step.z))
    if step.labels is not None:
        labels = to_host(step.labels).reshape(-1, run.batch).astype(np.int64)
        reals, zs = list(zip(reals, labels)), list(zip(zs, labels[len(reals) :]))
    alphas = list(float64(step.alpha).reshape(-1, run.batch)) if run.recipe.penalty else []
    return *((reals, zs) if run.recipe.fresh_z else (reals[0], zs[0])), alphas


def single(samples):
    """The same in float32; labels stay what they are."""
    if isinstance(samples, list | tuple):
        return type(samples)(single(a) for a in samples)
    return samples.astype(np.float32) if samples.dtype == np.float64 else samples


def weights(gan) -> list[np.ndarray]:
    """The parameters of G and D, and their running statistics."""
    flats = [gan.generator_optimizer.parameters.flat, gan.discriminator_optimizer.parameters.flat]
    running = [b for net in (gan.generator, gan.discriminator) for b in net.buffers.values()] or [np.zeros(1)]
    return [to_host(a).astype(np.float64) for a in (*flats, np.concatenate([to_host(b) for b in running]))]


def compare(run: Run, device: Device, precision: str) -> dict:
    """How far metrics, G, D and running statistics are from GAN.train_step in float64, planned and in float32 NumPy."""
    gan, step = planned(run, device, precision)
    plain, exact = build(run, CPU), build(run, CPU, np.float64)
    said = {"planned": [], "numpy": []}
    for _ in range(STEPS):
        state = step.state.copy()
        empty, launch.empty = launch.empty, None  # a plan makes no arrays
        step.run()
        launch.empty = empty
        *samples, alphas = given(run, step)
        rows = (run.batch, 0, run.batch) if run.recipe.first == "generator" else (0, run.batch, 2 * run.batch)
        for one in (exact, plain):
            one.rng = Draws(alphas)
            one.discriminator.bind(Masks(step, state, rows))
        want = exact.train_step(*samples)
        got = {"planned": step.metrics(), "numpy": plain.train_step(*single(samples))}
        for who, metrics in got.items():
            said[who].append(max(abs(float(metrics[key]) - float(want[key])) for key in want))
    step.finish()
    apart = {
        who: [max(said[who]), *(float(np.abs(a - b).max()) for a, b in zip(weights(g), weights(exact)))]
        for who, g in (("planned", gan), ("numpy", plain))
    }
    return apart | {"t": [gan.generator_optimizer.t, gan.discriminator_optimizer.t], "reals": step.reals}


def leave_out(run: Run, device: Device, precision: str) -> dict[str, list]:
    """{saving: [launches more, how far a step without it is from one with all]}, and of the launches one by one as "the plan"."""
    gan, step = planned(run, device, precision)
    step.run()
    found = {}
    for name in ("the plan", *step.savings(run.recipe)):
        other, plain = planned(run, device, precision, () if name == "the plan" else (name,))
        plain.launch() if name == "the plan" else plain.run()
        apart = [float(np.abs(a - b).max()) for a, b in zip(weights(gan), weights(other))]
        apart += [abs(value - plain.metrics()[key]) for key, value in step.metrics().items()]
        found[name] = [len(plain.plan.launches) - len(step.plan.launches), max(apart)]
    return found


def results(what: str, where: str, precision: str, names) -> dict[str, dict]:
    """What `compare` or `leave_out` says of each run, from another process."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    command = [sys.executable, __file__, what, where, precision, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict) -> None:
    """No further from float64 than four times what NumPy's own float32 is, and every step counted."""
    for what, got, plain in zip(("metrics", "G", "D", "running statistics"), found["planned"], found["numpy"]):
        assert got <= 4 * plain + 1e-9, f"{what}: {got:.3g} from float64, NumPy's float32 is {plain:.3g}"
    assert found["t"] == [STEPS, found["reals"] * STEPS]


def main(what: str, where: str, precision: str, *names: str) -> None:
    if precision != "fp32" and where == "cpu":
        mend_interpreter()
    run = {"compare": compare, "leave_out": leave_out}[what]
    print(json.dumps({name: run(RUNS[name], choose_device(where), precision) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
