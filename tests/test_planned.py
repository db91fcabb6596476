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
from test_kernels_worker import float64, mend_interpreter

from rawgan.backend import CPU, Device, choose_device, to_host
from rawgan.errors import UserError
from rawgan.kernels import launch
from rawgan.losses import ACGAN, Hinge, LeastSquares
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipes import RECIPES, Recipe
from rawgan.optim import SGD, RMSprop
from rawgan.planned import PlannedStep
from rawgan.random import Random

HERE = Path(__file__).parent
DCGAN = RECIPES["dcgan"]
BATCH, STEPS = 8, 2


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


def worker(name: str, where: str, precision: str) -> dict:
    """How far metrics, G, D and running statistics are from GAN.train_step in float64, planned and in float32 NumPy."""
    if precision != "fp32" and where == "cpu":
        mend_interpreter()
    run, device = RUNS[name], choose_device(where)
    gan, step = planned(run, device, precision)
    twin, unplanned = planned(run, device, precision)
    plain, exact = build(run, CPU), build(run, CPU, np.float64)
    said = {"planned": [], "numpy": []}
    unplanned.launch()
    for i in range(STEPS):
        if i == 0:
            empty, launch.empty = launch.empty, None  # a plan makes no arrays
        step.run()
        if i == 0:
            launch.empty = empty
            same = all(np.array_equal(a, b) for a, b in zip(state(gan), state(twin)))
        z, real = (float64(a) for a in (step.z, step.x[:BATCH]))
        want = exact.train_step(real, z)
        got = {"planned": step.metrics(), "numpy": plain.train_step(real.astype(np.float32), z.astype(np.float32))}
        for who, metrics in got.items():
            said[who].append(max(abs(float(metrics[key]) - float(want[key])) for key in want))
    step.finish()
    apart = {
        who: [max(said[who]), *(float(np.abs(a - b).max()) for a, b in zip(state(g), state(exact)))]
        for who, g in (("planned", gan), ("numpy", plain))
    }
    return apart | {"t": [gan.generator_optimizer.t, gan.discriminator_optimizer.t], "same bits": same}


def run_worker(file, name, where, *more):
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    done = subprocess.run([sys.executable, file, name, where, *more], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


WHERE = pytest.mark.parametrize("where", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])


@WHERE
@pytest.mark.parametrize("name", RUNS)
def test_planned_step_trains_the_same(name, where):
    """No further from float64 than four times what NumPy's own float32 is, in metrics, parameters and running statistics; and the
    same bits as its launches without a plan."""
    said = run_worker(__file__, name, where, "fp32")
    for what, got, plain in zip(("metrics", "G", "D", "running statistics"), said["planned"], said["numpy"]):
        assert got <= 4 * plain + 1e-9, f"{what}: {got:.3g} from float64, NumPy's float32 is {plain:.3g}"
    assert said["t"] == [STEPS, STEPS]
    assert said["same bits"]


@WHERE
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precision(where, precision):
    """Metrics stay within 16 roundings of float64. A gradient near 0 may have the other sign, so that Adam moves a parameter the
    other way: by up to 1.06 of its rate, where the second of two gradients is twice the first."""
    said = run_worker(__file__, "dcgan", where, precision)
    metrics, G, D, _ = said["planned"]
    assert metrics <= 16 * {"tf32": 2**-11, "bf16": 2**-8}[precision]
    assert max(G, D) <= 2 * STEPS * 1.06 * 2e-4
    assert said["same bits"]


def test_launches_and_memory():
    """DCGAN-64 in 61 launches, as few as its model counts, in an arena as small as what lives at once."""
    for size, channels, launches in ((64, 3, 61), (32, 1, 47)):
        images = np.zeros((1, size, size, channels), np.uint8)
        plan = PlannedStep(DCGAN.build(Random(0), size, channels, 64), DCGAN, images, 128, precision="bf16").plan
        assert len(plan.launches) == launches
        assert plan.bytes <= 1.05 * plan.least < 0.5 * plan.separate


def test_what_cannot_be_planned():
    """One sentence that names it."""
    images = np.zeros((1, 16, 16, 1), np.uint8)

    def plan(recipe, **how):
        return PlannedStep(recipe.build(Random(0), 16, 1, 4), recipe, images, 4, **how)

    for recipe, words in (
        (RECIPES["wgan_gp"], "wgan_gp has a penalty"),
        (RECIPES["wgan"], "wgan has clipped weights"),
        (RECIPES["cgan"], "cgan has classes"),
        (RECIPES["atienza_dcgan"], "atienza_dcgan has another order of updates"),
        (replace(DCGAN, critic_steps=lambda step: 5), "dcgan has several critic steps"),
        (replace(DCGAN, discriminator=partial(dcgan_discriminator, norm="layer")), "cannot take layer 3, LayerNorm"),
        (replace(DCGAN, objective=ACGAN()), "does not know the objective"),
        (replace(DCGAN, generator_optimizer=partial(SGD, lr=1e-3)), "no kernel for SGD"),
    ):
        with pytest.raises(UserError, match=words):
            plan(recipe)
    with pytest.raises(UserError, match="precision 'fp8' is not known; choose fp32, tf32, bf16"):
        plan(DCGAN, precision="fp8")


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:])))
