"""The planned step: what it launches, in what memory, and that it trains as GAN.train_step does.

TRITON_INTERPRET=1 python tests/test_planned.py dcgan fp32      the worker: prints how far the two are apart, as JSON
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

from rawgan.backend import CPU, Device, choose_device, to_host
from rawgan.errors import UserError
from rawgan.kernels import launch
from rawgan.losses import Hinge, LeastSquares
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.optim import SGD, RMSprop
from rawgan.planned import PlannedStep
from rawgan.random import Random

HERE = Path(__file__).parent
DCGAN = RECIPES["dcgan"]
BATCH, STEPS = 8, 3


class Run(NamedTuple):
    recipe: Recipe
    size: int
    channels: int
    width: int


RUNS = {
    "dcgan": Run(DCGAN, 16, 3, 8),
    "dcgan, width 64": Run(DCGAN, 8, 1, 64),
    "lsgan": Run(
        replace(DCGAN, objective=LeastSquares(), generator_optimizer=partial(RMSprop, lr=1e-3), draw="uniform", pixels="unit"),
        16,
        1,
        4,
    ),
    "hinge, no norm in D": Run(
        replace(DCGAN, objective=Hinge(), discriminator=partial(dcgan_discriminator, norm="none")), 16, 1, 4
    ),
}


def build(run: Run, device: Device, dtype=np.float32):
    return run.recipe.build(Random(3), run.size, run.channels, run.width, device, dtype)


def planned(run: Run, device: Device, precision="fp32"):
    """The step for a small data set, and the images."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (40, run.size, run.size, run.channels), dtype=np.uint8)
    gan = build(run, device)
    step = PlannedStep(gan, run.recipe, device.asarray(images), BATCH, seed=5, precision=precision, batches=4)
    step.feed(rng.integers(0, 40, (4, BATCH)))
    return gan, step


def state(gan) -> list[np.ndarray]:
    """The parameters of G and D, and their running statistics."""
    flats = [gan.generator_optimizer.parameters.flat, gan.discriminator_optimizer.parameters.flat]
    running = [b for net in (gan.generator, gan.discriminator) for b in net.buffers.values()] or [np.zeros(1)]
    return [to_host(a).astype(np.float64) for a in (*flats, np.concatenate([to_host(b) for b in running]))]


def worker(name: str, where: str) -> dict:
    """How far metrics, G, D and running statistics are from GAN.train_step in float64, planned and in float32 NumPy."""
    run, device = RUNS[name], choose_device(where)
    gan, step = planned(run, device)
    plain, exact = build(run, CPU), build(run, CPU, np.float64)
    said = {"planned": [], "numpy": []}
    launch.empty = None  # a plan makes no arrays
    for _ in range(STEPS):
        step.run()
        z, real = (to_host(a).astype(np.float64) for a in (step.z, step.x[:BATCH]))
        want = exact.train_step(real, z)
        got = {"planned": step.metrics(), "numpy": plain.train_step(real.astype(np.float32), z.astype(np.float32))}
        for who, metrics in got.items():
            said[who].append(max(abs(float(metrics[key]) - float(want[key])) for key in want))
    step.finish()
    apart = {
        who: [max(said[who]), *(float(np.abs(a - b).max()) for a, b in zip(state(g), state(exact)))]
        for who, g in (("planned", gan), ("numpy", plain))
    }
    return apart | {"t": [gan.generator_optimizer.t, gan.discriminator_optimizer.t]}


@pytest.mark.parametrize("where", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", RUNS)
def test_planned_step_trains_the_same(name, where):
    """No further from float64 than four times what NumPy's own float32 is, in metrics, parameters and running statistics."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    done = subprocess.run([sys.executable, __file__, name, where], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for what, got, plain in zip(("metrics", "G", "D", "running statistics"), said["planned"], said["numpy"]):
        assert got <= 4 * plain + 1e-9, f"{what}: {got:.3g} from float64, NumPy's float32 is {plain:.3g}"
    assert said["t"] == [STEPS, STEPS]


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:])))
