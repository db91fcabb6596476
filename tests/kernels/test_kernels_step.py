"""Training steps on the kernels at toy width, compared with the same steps in NumPy.

They run in Triton's interpreter and on a GPU. The worker, which prints the differences as JSON:

    TRITON_INTERPRET=1 python tests/kernels/test_kernels_step.py dcgan cpu
"""

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rawgan.backend import CPU, Device, choose_device, to_host, use_kernels
from rawgan.models.dcgan import dcgan_discriminator
from rawgan.models.recipe import Recipe
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from tests.support.process import run_process

HERE = Path(__file__).parent
BATCH = 4
# Kernels that a step has to launch: matrix products and their derivatives, activations,
# normalisation, the optimizer.

EVERY = {
    "conv2d_kernel",
    "conv2d_dx_small_c_kernel",
    "conv2d_dw_kernel",
    "matmul_kernel",
    "act_kernel",
}
NORM = {"norm_sums_kernel", "norm_moments_kernel", "norm_means_kernel", "norm_apply_kernel"}
BOX = {"conv2d_tma_kernel", "conv2d_dx_tma_kernel", "conv2d_dw_tma_kernel"}
MOVE = {"adam_kernel"}
WGAN_GP = RECIPES["wgan_gp"].with_schedule(critic_steps=lambda step: 2)
LAYER_NORM = replace(
    WGAN_GP.with_schedule(critic_steps=lambda step: 1),
    discriminator=partial(dcgan_discriminator, norm="layer"),
)


class Run(NamedTuple):
    recipe: Recipe
    size: int
    width: int
    launches: set[str]
    steps: int = 2


RUNS = {
    "dcgan": Run(RECIPES["dcgan"], 16, 4, EVERY | NORM | MOVE),
    "dcgan, width 64": Run(RECIPES["dcgan"], 16, 64, EVERY | NORM | MOVE | BOX, steps=1),
    "wgan_gp": Run(WGAN_GP, 16, 4, EVERY | NORM | MOVE),
    "wgan_gp, LayerNorm": Run(LAYER_NORM, 16, 8, EVERY | NORM | MOVE | {"conv2d_dx_kernel"}),
    "atienza_dcgan": Run(
        RECIPES["atienza_dcgan"], 8, 4, EVERY | NORM | MOVE | {"conv2d_dx_kernel"}
    ),
    "raschka_mlp_gan": Run(
        RECIPES["raschka_mlp_gan"], 8, 8, MOVE | {"matmul_kernel", "act_kernel"}
    ),
}


def train(run: Run, dtype, device: Device, kernels: bool):
    """Train some generator steps; return the losses and the parameters of both networks."""
    gan = run.recipe.build(Random(3), run.size, 1, run.width, device, dtype)
    rng = np.random.default_rng(5)
    losses = []
    with use_kernels(kernels):
        for step in range(run.steps):
            n = run.recipe.schedule.critic_steps(step)
            reals = [rng.uniform(-1, 1, (BATCH, run.size, run.size, 1)) for _ in range(n)]
            zs = [run.recipe.draw_z(rng, BATCH) for _ in range(n + run.recipe.schedule.resample_z)]
            batches = ([device.asarray(a.astype(dtype)) for a in arrays] for arrays in (reals, zs))
            losses += [float(value) for value in gan.train_step(*batches).values()]
    players = gan.generator_optimizer, gan.discriminator_optimizer
    return [
        np.array(losses),
        *(to_host(player.parameters.flat).astype(np.float64) for player in players),
    ]


def worker(name: str, where: str) -> dict:
    """Return the distances of losses, G and D from NumPy in float64, and the launched kernels.

    The distances are those of the kernels in float32 and of NumPy in float32.
    """
    from rawgan.kernels.runtime import launch

    run, device = RUNS[name], choose_device(where)
    want, plain = (train(run, dtype, CPU, False) for dtype in (np.float64, np.float32))
    got = train(run, np.float32, device, True)
    again = (
        train(run, np.float32, device, True) if where == "gpu" else got
    )  # the interpreter is single-threaded and deterministic
    return {
        "kernels": [float(np.abs(a - b).max()) for a, b in zip(got, want)],
        "numpy": [float(np.abs(a - b).max()) for a, b in zip(plain, want)],
        "launched": dict(launch.launched),
        "capability": launch.capability(device.asarray(np.zeros(1))),
        "same bits": all(np.array_equal(a, b) for a, b in zip(got, again)),
    }


@pytest.mark.parametrize("where", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", RUNS)
def test_steps_on_kernels_equal_numpy(name, where):
    """The kernels' distance from float64 is at most four times that of NumPy's float32.

    A second run gives the same bits.
    """
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    done = run_process([sys.executable, __file__, name, where], env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for quantity, got, plain in zip(("losses", "G", "D"), results["kernels"], results["numpy"]):
        assert got <= 4 * plain, (
            f"{quantity}: {got:.3g} from float64, NumPy's float32 is {plain:.3g}"
        )
    assert results["same bits"]
    wanted = RUNS[name].launches if results["capability"] >= 90 else RUNS[name].launches - BOX
    assert wanted <= results["launched"].keys()


if __name__ == "__main__":
    print(json.dumps(worker(*sys.argv[1:])))
