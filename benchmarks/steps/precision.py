"""Error of one planned step in each precision, and of NumPy's float32 step, against float64.

    python -m benchmarks.steps.precision                            the table
    python -m benchmarks.steps.precision --out benchmarks/results   also precision_<device>.json

Without a GPU the kernels run in Triton's interpreter at toy width, TF32 and bfloat16 emulated; the
device in the file is then "interpreter". On a GPU the command uses the recipes' sizes. Both steps
use the same numbers: the parameters, and the z, images and alphas that the plan drew, rounded to
bfloat16 where the plan stores them so. A recipe with a penalty takes one critic step, so that D's
gradients are evaluated at the same parameters; G's gradient passes through the updated D, as in
training.

    error    |got - want| / |want|; of a gradient as one vector, per parameter and for all
    angle    1 - cosine of the two gradients
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks.common.command import add_choices
from benchmarks.common.facts import NOT, ROOT, as_program, facts, slug, write
from benchmarks.common.worker import why
from benchmarks.steps.cases import CASES, Case
from rawgan.backend import CPU, Array, Device, array_module, choose_device, to_host
from rawgan.kernels import kernels
from rawgan.kernels.specs.testing import float64, mend_interpreter
from rawgan.layers import conv, linear
from rawgan.planned.base import PlannedStep
from rawgan.planned.player import Player
from rawgan.precision import PRECISIONS

PLAIN = "NumPy float32"
# Relative error of the products in `kinks`: 4 times the largest of tf32x3, the largest of bf16x3,
# which is 7 times its root mean square
PERTURBED = {"fp32": 4 * 3 * 2**-22, "bf16x3": 2**-15}
INTERPRETER = {
    "name": "interpreter",
    "emulated": "Triton's interpreter; NumPy cuts factors to TF32, or rounds them to bfloat16",
}
Gradients = dict[str, dict[str, np.ndarray]]


class Drawn:
    """Random generator of a penalty that returns the numbers the plan drew."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers

    def random(self, shape) -> np.ndarray:
        return self.numbers.reshape(shape)


class Masks:
    """Random generator that reproduces D's Dropout masks of a planned step that began at `state`.

    GAN.train_step draws them in the order real, fake, fake again; fake first if G is updated first.
    """

    def __init__(self, step: PlannedStep, state: Array, order: str):
        rows = (
            (step.batch, 0, step.batch)
            if order == "generator_first"
            else (0, step.batch, 2 * step.batch)
        )
        self.step, self.state, self.left = (
            step,
            state,
            [(block, row) for row in rows for block in step.D.blocks if block.drop],
        )

    def random(self, shape, dtype) -> np.ndarray:
        block, row = self.left.pop(0)
        ones = self.step.xp.ones(shape, "float32")
        kernels.dropout(ones, self.state, block.drop, block.stream, row * (ones.size // len(ones)))
        return to_host(ones > 0).astype(dtype)


class Given(NamedTuple):
    """Inputs that a planned step drew, for GAN.train_step.

    reals and zs are lists of real images and of z, each paired with labels if there are classes.
    """

    reals: list
    zs: list
    alphas: np.ndarray | None
    step: PlannedStep
    state: Array  # seed and step counter, at the start of the step


def draws_of(step: PlannedStep, state: Array) -> Given:
    """Return the inputs that the last run of the step drew, in float64."""
    B, penalty = step.batch, step.gan.penalty is not None
    reals, zs = (
        [*float64(to_host(a)).reshape(-1, B, *a.shape[1:])]
        for a in (step.real if penalty else step.x[:B], step.z)
    )
    if step.labels is not None:
        labels = [*to_host(step.labels).reshape(-1, B).astype(np.int64)]
        reals, zs = list(zip(reals, labels)), list(zip(zs, labels[len(reals) :]))
    return Given(reals, zs, float64(to_host(step.alpha)) if penalty else None, step, state)


def gradient(player: Player) -> dict[str, np.ndarray]:
    """Return a player's gradient by parameter: the split-K partial sums, added in float64.

    The partial sums and their layout are those that the optimizer kernel reads.
    """
    partials, total = (
        to_host(player.gradient.flat).astype(np.float64),
        np.zeros(player.parameters.flat.size),
    )
    for theta, count, start, n, size in to_host(player.gradient.table).tolist():
        total[theta : theta + count] = sum(
            partials[start + i * size : start + i * size + count] for i in range(n)
        )
    return player.parameters.views(total)


def planned(step: PlannedStep) -> tuple[dict[str, float], Gradients]:
    """Return the metrics of a planned step, and its gradients by player and parameter."""
    step.run()
    return step.metrics(), {"D": gradient(step.D), "G": gradient(step.G)}


def cast(samples, dtype):
    """Convert arrays in nested lists and pairs to a dtype; labels keep theirs."""
    if isinstance(samples, list | tuple):
        return type(samples)(cast(a, dtype) for a in samples)
    return samples.astype(dtype) if samples.dtype.kind == "f" else samples


def on(device: Device, samples):
    """Copy arrays in nested lists and pairs to a device."""
    if isinstance(samples, list | tuple):
        return type(samples)(on(device, a) for a in samples)
    return device.asarray(samples)


def plain(
    case: Case, drawn: Given, dtype, device: Device = CPU
) -> tuple[dict[str, float], Gradients]:
    """Return metrics and gradients of GAN.train_step on arrays of a device, NumPy's by default."""
    gan = case.build(device, dtype)
    gan.rng = None if drawn.alphas is None else Drawn(drawn.alphas)
    gan.discriminator.bind(Masks(drawn.step, drawn.state, case.system.schedule.order))
    metrics = gan.train_step(
        *(on(device, cast(samples, dtype)) for samples in (drawn.reals, drawn.zs))
    )
    players = {
        "D": ("discriminator", gan.discriminator_optimizer),
        "G": ("generator", gan.generator_optimizer),
    }
    return {name: float(value) for name, value in metrics.items()}, {
        player: {
            name: to_host(g).astype(np.float64)
            for name, g in optimizer.parameters.views(gan.gradients[name]).items()
        }
        for player, (name, optimizer) in players.items()
    }


@contextmanager
def moved_products(by: float) -> Iterator[None]:
    """Context in which every output of a layer's matrix product is perturbed at random.

    The standard deviation is `by` times the root mean square of the outputs.
    """
    rng = np.random.default_rng(0)

    def moved(product):
        def f(*args, **options):
            y = product(*args, **options)
            noise = array_module(y).asarray(rng.standard_normal(y.shape))
            return y + by * float((y * y).mean()) ** 0.5 * noise

        return f

    with ExitStack() as stack:
        for module, name in ((conv, "conv2d"), (conv, "conv2d_dx"), (linear, "linear")):
            stack.enter_context(patch.object(module, name, moved(getattr(module, name))))
        yield


def kinks(
    case: Case, drawn: Given, want: tuple, precision: str, device: Device = CPU
) -> dict[str, float]:
    """Return {player: error of float64 gradients if products have the error PERTURBED}.

    A gradient is discontinuous where a pre-activation of ReLU or LeakyReLU changes its sign, and of
    some 10^7 pre-activations a few are closer to 0 than any rounding error. This perturbation, not
    a multiple of a rounding error, therefore bounds the error of a correct gradient in `precision`.
    """
    with moved_products(PERTURBED[precision]):
        row = compare(plain(case, drawn, np.float64, device), want)
    return {player: row[player]["error"] for player in ("D", "G")}


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(f"{np.linalg.norm(got - want) / np.linalg.norm(want):.3g}")


def angle(got: np.ndarray, want: np.ndarray) -> float:
    """Return 1 - cosine, computed from the distance of the two unit vectors.

    A rounded cosine would lose small angles to cancellation.
    """
    apart = got / np.linalg.norm(got) - want / np.linalg.norm(want)
    return float(f"{apart @ apart / 2:.3g}")


def compare(
    got: tuple[dict[str, float], Gradients], want: tuple[dict[str, float], Gradients]
) -> dict:
    """Return the errors of the metrics of a step and of its gradients."""
    (metrics, gradients), (true, exact) = got, want
    row = {
        "metrics": {
            name: error(np.array([metrics[name]]), np.array([value]))
            for name, value in true.items()
        }
    }
    for player, parts in exact.items():
        a, b = (
            np.concatenate([g[player][name].ravel() for name in parts]) for g in (gradients, exact)
        )
        layers = {
            name: error(gradients[player][name].ravel(), part.ravel())
            for name, part in parts.items()
            if part.any()
        }
        row[player] = {"error": error(a, b), "angle": angle(a, b), "layers": layers}
    return row


def rows(name: str, case: Case, device: Device) -> Iterator[dict]:
    """Yield a row for each precision, and one of NumPy's float32 on the inputs of the first."""
    if case.system.penalty is not None:
        case = case._replace(critic_steps=1)
    head = {"case": name, "size": case.size, "width": case.width, "batch": case.batch}
    for precision in PRECISIONS:
        try:
            step = case.plan(precision, device, images=4 * case.batch, batches=2)
            state = step.state.copy()
            got = planned(step)
            drawn = draws_of(step, state)
            want = plain(case, drawn, np.float64)
            if precision == "fp32":
                yield {
                    **head,
                    "precision": PLAIN,
                    **compare(plain(case, drawn, np.float32), want),
                    "want": want[0],
                }
            row = {**head, "precision": precision, **compare(got, want)}
            # at toy size no pre-activation is so close to 0
            if precision in PERTURBED and device.name == "gpu":
                row["kinks"] = kinks(case, drawn, want, precision)
            yield row
        except Exception as wrong:
            yield {**head, "precision": precision, **why(wrong)}


def worker(names: list[str]) -> None:
    """Print one row per line; without a GPU the kernels run in Triton's interpreter."""
    device = choose_device()
    if device.name == "cpu":
        mend_interpreter()
    for name in names:
        for row in rows(name, CASES[name] if device.name == "gpu" else CASES[name].toy, device):
            print(json.dumps(row), flush=True)


HEAD = (
    "| step | precision | D's loss | G's loss | penalty, gradient norm "
    "| D's gradient | G's gradient | worst parameter |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table(result: dict) -> str:
    """Return the rows of a result as a Markdown table, then the cases that were not planned."""
    lines = HEAD.splitlines()
    for row in result["rows"]:
        case, size = CASES[row["case"]], row["size"]
        cells = [
            f"{case.recipe} {size}x{size}x{case.channels}, "
            f"width {row['width']}, batch {row['batch']}",
            row["precision"],
        ]
        if "metrics" in row:
            errors = {name: f"{value:.0e}" for name, value in row["metrics"].items()}
            cells += [
                errors["d_loss"],
                errors["g_loss"],
                ", ".join(errors[name] for name in ("penalty", "gradient_norm") if name in errors),
            ]
            cells += [
                f"{row[player]['error']:.1e} ({row[player]['angle']:.0e})" for player in ("D", "G")
            ]
            layers = {
                f"{player} {name}": e
                for player in ("D", "G")
                for name, e in row[player]["layers"].items()
            }
            worst = max(layers, key=layers.get)
            lines.append("| " + " | ".join([*cells, f"{worst} {layers[worst]:.1e}"]) + " |")
        elif "failed" in row:
            lines.append("| " + " | ".join([*cells, *[NOT] * 6]) + " |")
    reasons = dict.fromkeys(
        f"{row['case']}: {row['not_measured']}" for row in result["rows"] if "not_measured" in row
    )
    return (
        "\n".join([*lines, *([""] if reasons else []), *(f"- {reason}" for reason in reasons)])
        + "\n"
    )


def nothing() -> str:
    """Return the table of a GPU that was not measured."""
    cells = [[name, precision, *[NOT] * 6] for name in CASES for precision in PRECISIONS]
    return "\n".join([HEAD, *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_choices(parser, "--case", CASES, "CASE")
    parser.add_argument("--out", type=Path, help="the folder of the JSON file")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.case)
        return 0
    gpu = choose_device()
    if gpu.name == "gpu":
        from benchmarks.common.timing import gpu as describe

        device = describe(gpu.xp.cuda)
    else:
        device = INTERPRETER
    result = {**facts(device, args.commit), "rows": []}
    command = [sys.executable, "-m", "benchmarks.steps.precision", "--worker", "--case", *args.case]
    environment = os.environ | ({} if gpu.name == "gpu" else {"TRITON_INTERPRET": "1"})
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            result["rows"].append(row := json.loads(line))
            print(row["case"], row["precision"], row.get("not_measured", ""), flush=True)
            if args.out:
                write(result, args.out / f"precision_{slug(device['name'])}.json")
    print(table(result))
    return process.returncode or any("failed" in row for row in result["rows"])


if __name__ == "__main__":
    as_program(main)
