"""Planned steps at toy width compared with GAN.train_step, for the tests of rawgan/planned.

The worker, which prints the comparison as JSON:

    TRITON_INTERPRET=1 python tests/support/planned_runs.py compare cpu fp32 dcgan wgan_gp ...
"""

import hashlib
import json
import os
import sys
from contextlib import contextmanager, nullcontext
from functools import reduce
from operator import mul
from pathlib import Path

import numpy as np
import pytest

from rawgan.backend import CPU, Array, Device, choose_device, reference_cpu, to_host
from rawgan.ema import EMA
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.kernels.specs.testing import mend_interpreter
from rawgan.ops import norm
from rawgan.planned import plan_step
from rawgan.random import Random
from tests.support.kernel_worker import float64
from tests.support.planned_cases import RUNS, Run
from tests.support.process import run_process
from tests.support.program_order import ORDERS, program_order

HERE = Path(__file__).parent
PLAYERS = ("generator", "discriminator")
QUANTITIES = (
    "metrics",
    "G",
    "D",
    "running statistics",
    "average of G",
    "gradient of G",
    "gradient of D",
)
WHERE = pytest.mark.parametrize("where", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])


class Draws:
    """Generator for GAN.train_step that returns the random numbers of a planned step."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def random(self, shape, dtype=None):
        return self.numbers.pop(0).reshape(shape)


class Masks:
    """Generator for Dropout in D that returns the masks of a planned step, which began at `state`.

    rows: first row in the mask of each pass through D, in the order of GAN.train_step.
    """

    def __init__(self, step, state, rows):
        self.step, self.state, self.passes = (
            step,
            state,
            [(block, row) for row in rows for block in step.D.blocks if block.drop],
        )

    def random(self, shape, dtype):
        block, row = self.passes.pop(0)
        ones = self.step.xp.ones(shape, "float32")
        kernels.dropout(ones, self.state, block.drop, block.stream, row * (ones.size // len(ones)))
        return to_host(ones > 0).astype(dtype)


def build(run: Run, device: Device, dtype=np.float32):
    return run.recipe.build(Random(3), run.size, run.channels, run.width, device, dtype)


def averaged(run: Run, gan) -> EMA | None:
    """Return the moving average of G, None where the run has none."""
    return EMA(gan.generator_optimizer.parameters, run.ema) if run.ema else None


def planned(run: Run, device: Device, precision="fp32", disable=()):
    """Return a GAN and its planned step, fed from a small data set."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (40, run.size, run.size, run.channels), dtype=np.uint8)
    labels = device.asarray(rng.integers(0, 10, 40)) if run.recipe.classes else None
    gan = build(run, device)
    options = {"seed": 5, "precision": precision, "batches": 4, "disable": disable}
    options |= {"labels": labels, "average": averaged(run, gan)}
    step = plan_step(gan, device.asarray(images), run.batch, **options)
    step.feed(rng.integers(0, 40, (4, step.real_batches * run.batch)))
    return gan, step


def inputs(run: Run, step, first: int) -> tuple[Array, Array]:
    """Return the images and z of the last step.

    Of a step with repeated launches they are drawn again, from row `first` of the index on.
    """
    if not step.plan.repeated:
        return step.real if run.recipe.penalty else step.x[: run.batch], step.z
    xp, reals, zs, counter = step.xp, [], [], step.xp.zeros(1, "int32")
    for row in range(first, int(step.input_state[1])):
        state = xp.array([int(step.input_state[0]), row], "int64")
        real, z = xp.empty_like(step.real), xp.empty_like(step.z)
        options = {"draw": run.recipe.draw, "pixels": run.recipe.pixels}
        kernels.step_inputs(z, real, step.images, step.index, state, counter, counter, **options)
        reals, zs, generator_z = [*reals, real], [*zs, z[: -run.batch]], z[-run.batch :]
    return xp.concatenate(reals), xp.concatenate([*zs, generator_z])


def step_samples(run: Run, step, first: int) -> tuple:
    """Return (real, z, alphas) of the last step, as GAN.train_step takes them, in float64."""
    reals, zs = (
        list(float64(a).reshape(-1, run.batch, *a.shape[1:])) for a in inputs(run, step, first)
    )
    if step.labels is not None:
        labels = to_host(step.labels).reshape(-1, run.batch).astype(np.int64)
        reals, zs = list(zip(reals, labels)), list(zip(zs, labels[len(reals) :]))
    alphas = list(float64(step.alpha).reshape(-1, run.batch)) if run.recipe.penalty else []
    return *((reals, zs) if run.recipe.schedule.resample_z else (reals[0], zs[0])), alphas


def single(samples):
    """Return the samples in float32, labels unchanged."""
    if isinstance(samples, list | tuple):
        return type(samples)(single(a) for a in samples)
    return samples.astype(np.float32) if samples.dtype == np.float64 else samples


def weights(gan, average: EMA | None) -> list[np.ndarray]:
    """Return the parameters and running statistics of G and D, and those of G's moving average."""
    players = [gan.generator_optimizer.parameters, gan.discriminator_optimizer.parameters]
    mean = [average.parameters.flat, average.parameters.flat_buffers] if average else []
    arrays = [players[0].flat], [players[1].flat], [player.flat_buffers for player in players], mean
    return [
        np.concatenate([np.zeros(1), *map(to_host, parts)]).astype(np.float64) for parts in arrays
    ]


def gradients(gan) -> dict[str, dict[str, np.ndarray]]:
    """Return the gradients of the last GAN.train_step, by player and parameter."""
    optimizers = gan.generator_optimizer, gan.discriminator_optimizer
    return {who: o.parameters.views(gan.gradients[who]) for who, o in zip(PLAYERS, optimizers)}


def planned_gradients(step) -> dict[str, dict[str, np.ndarray]]:
    """Return the gradients of the last planned step, by player and parameter."""
    players = zip(PLAYERS, (step.G, step.D))
    return {
        who: {name: to_host(g) for name, g in player.gradient.summed().items()}
        for who, player in players
    }


def gradients_apart(got: dict, want: dict) -> list[float]:
    """Return, for each player, the largest |got - want| of a parameter, over |want| of all."""
    apart = []
    for who in PLAYERS:
        total = np.linalg.norm([np.linalg.norm(g) for g in want[who].values()])
        apart.append(
            max(float(np.linalg.norm(got[who][name] - g)) for name, g in want[who].items()) / total
        )
    return apart


@contextmanager
def float32_sums():
    """Let NumPy take the formulas of ops/, with means in the arrays' dtype, as the kernels do."""

    def mean(axes, *factors):
        return reduce(mul, factors).mean(axes, keepdims=True)

    with reference_cpu(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(norm, "mean", mean)
        yield


def relative(got: dict, want: dict) -> float:
    """Return the largest difference of a metric, relative to it where it is above 1."""
    return max(
        abs(float(got[key]) - float(want[key])) / max(1, abs(float(want[key]))) for key in want
    )


def compare(run: Run, device: Device, precision: str) -> dict:
    """Return the distances of QUANTITIES from GAN.train_step in float64.

    Of the planned step, and of NumPy in float32: the larger error of its two forms, the fast one
    and the formulas with `float32_sums`. A metric above 1 is compared relative to it, a gradient
    relative to that of the whole player. Parameters whose exact gradient is 0, as a bias before
    BatchNorm, are compared by their gradients alone: Adam moves them by its rate in the direction
    of a rounding, and where NumPy's sums happen to give exactly 0 in one form, they do not in the
    other.
    """
    gan, step = planned(run, device, precision)
    twins = {name: build(run, CPU) for name in ("fast", "formulas")}
    twins["exact"] = exact = build(run, CPU, np.float64)
    averages = {name: averaged(run, twin) for name, twin in twins.items()}
    B, moved, errors = run.batch, True, {name: [] for name in ("planned", "fast", "formulas")}
    for _ in range(run.steps):
        state, first = step.state.copy(), int(step.input_state[1])
        empty, launch.empty = launch.empty, None  # a plan makes no arrays
        step.run()
        launch.empty = empty
        *samples, alphas = step_samples(run, step, first)
        rows = {
            "generator_first": (B, 0, B),
            "simultaneous": (0, B),
            "discriminator_first": (0, 2 * B) if exact.takes_one_pass() else (0, B, 2 * B),
        }[run.recipe.schedule.order]
        metrics, slopes = {"planned": step.metrics()}, {"planned": planned_gradients(step)}
        for name, twin in twins.items():
            twin.rng = Draws(alphas)
            twin.discriminator.bind(Masks(step, state, rows))
            with float32_sums() if name == "formulas" else nullcontext():
                metrics[name] = twin.train_step(*(samples if name == "exact" else single(samples)))
            slopes[name] = gradients(twin)
            if run.ema:
                averages[name].update()
        for name, rounds in errors.items():
            distances = gradients_apart(slopes[name], slopes["exact"])
            rounds.append([relative(metrics[name], metrics["exact"]), *distances])
        flats = [np.abs(exact.gradients[who]) for who in PLAYERS]
        moved = moved & np.concatenate([flat > 1e-12 * flat.max() for flat in flats])
    step.finish()
    masks = [np.concatenate([[True], part]) for part in np.split(moved, [len(flats[0])])]
    masks += [True, True]
    want = weights(exact, averages["exact"])
    arrays = {"planned": weights(gan, step.G.average)}
    arrays |= {name: weights(twins[name], averages[name]) for name in ("fast", "formulas")}

    def largest(name: str) -> list[float]:
        """Return the errors in the order of QUANTITIES."""
        metric, *gradient_errors = map(max, zip(*errors[name]))
        apart = [np.abs((a - b) * mask).max() for a, b, mask in zip(arrays[name], want, masks)]
        return [metric, *map(float, apart), *gradient_errors]

    t = [gan.generator_optimizer.t, gan.discriminator_optimizer.t]
    counts = {
        "t": t,
        "steps": run.steps,
        "critic steps": sum(map(run.recipe.schedule.critic_steps, range(run.steps))),
    }
    numpy = [*map(max, largest("fast"), largest("formulas"))]
    first = [float(apart) for apart in errors["planned"][0][1:]]  # gradients of the first step
    planned_errors = {"planned": largest("planned"), "first gradients": first, "numpy": numpy}
    return planned_errors | counts | {"bits": bits(gan)}


def bits(gan) -> str:
    """Return a digest of the parameters and running statistics."""
    return hashlib.sha256(b"".join(a.tobytes() for a in weights(gan, None))).hexdigest()[:16]


def orders(run: Run, device: Device, precision: str) -> dict:
    """Return the result of `compare`, and the bits after the steps in every order of programs."""
    result = compare(run, device, precision)
    every = {ORDERS[0]: result["bits"]}
    for order in ORDERS[1:]:
        with program_order(order):
            gan, step = planned(run, device, precision)
            for _ in range(run.steps):
                step.run()
            step.finish()
        every[order] = bits(gan)
    return result | {"orders": every}


def disable_fusions(run: Run, device: Device, precision: str) -> dict[str, list]:
    """Return {fusion: [additional launches, distance of the step without it from the full step]}.

    "the plan" is the distance of the full step launched one kernel at a time.
    """
    gan, step = planned(run, device, precision)
    step.run()
    result = {}
    for name in ("the plan", *step.fusions):
        other, plain = planned(run, device, precision, () if name == "the plan" else (name,))
        plain.launch() if name == "the plan" else plain.run()
        apart = [
            float(np.abs(a - b).max()) for a, b in zip(weights(gan, None), weights(other, None))
        ]
        apart += [abs(value - plain.metrics()[key]) for key, value in step.metrics().items()]
        result[name] = [len(plain.plan.launches) - len(step.plan.launches), max(apart)]
    return result


def run_python(*arguments, where: str = "cpu") -> dict:
    """Return the JSON that a worker prints; it runs in Triton's interpreter unless on a GPU."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if where == "cpu" else {}
    done = run_process([sys.executable, *arguments], env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def results(task: str, where: str, precision: str, names) -> dict[str, dict]:
    """Return the result of `compare`, `disable_fusions` or `orders` of each run."""
    return run_python(__file__, task, where, precision, *names, where=where)


def check_quantities(result: dict) -> None:
    """Assert distances from float64 of at most four times those of NumPy's float32."""
    for quantity, got, plain in zip(QUANTITIES, result["planned"], result["numpy"]):
        assert got <= 4 * plain + 1e-9, (
            f"{quantity}: {got:.3g} from float64, NumPy's float32 is {plain:.3g}"
        )


def check(result: dict) -> None:
    """Assert the distances of `check_quantities`, and that every step is counted."""
    check_quantities(result)
    assert result["t"] == [result["steps"], result["critic steps"]]


def main(task: str, where: str, precision: str, *names: str) -> None:
    if precision != "fp32" and where == "cpu":
        mend_interpreter()
    run = {"compare": compare, "disable_fusions": disable_fusions, "orders": orders}[task]
    print(json.dumps({name: run(RUNS[name], choose_device(where), precision) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
