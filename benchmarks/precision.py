"""What each precision costs: one planned step in each against the same step in float64, and NumPy's float32 beside it.

    python -m benchmarks.precision                                        the table
    python -m benchmarks.precision --out benchmarks/results               and the JSON file precision_<device>.json

Without a GPU the kernels run in Triton's interpreter at toy width, its TF32 and bfloat16 emulated; the file says so: its device is
"interpreter". On a GPU the same command takes the recipes' own sizes. The same numbers go into both steps: parameters, and the z,
images and alphas that the plan drew, rounded to bfloat16 where the plan holds them so. A recipe with a penalty takes one critic
step, so that the gradients of D are those at the same parameters; G's gradient passes through the D that has just moved, as it does
in training.

    error    |got - want| / |want| of a number, and of a gradient as one vector, for each parameter and in all
    angle    1 - cosine of the two gradients
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path
from typing import NamedTuple

import numpy as np

from benchmarks.facts import NOT, ROOT, as_program, facts, slug, write
from benchmarks.kernel_rows import float64
from benchmarks.step_cases import CASES, Case
from benchmarks.step_worker import why
from rawgan.backend import CPU, Array, Device, choose_device, to_host
from rawgan.kernels import kernels
from rawgan.planned import PRECISIONS, Planned, Player

PLAIN = "NumPy float32"
INTERPRETER = {
    "name": "interpreter",
    "emulated": "Triton's interpreter; NumPy cuts factors to TF32, or rounds them to bfloat16",
}
Gradients = dict[str, dict[str, np.ndarray]]


class Drawn:
    """Random numbers that the plan drew, for the penalty of another to draw."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers

    def random(self, shape) -> np.ndarray:
        return self.numbers.reshape(shape)


class Masks:
    """What Dropout kept in D in a planned step that began at `state`, for GAN.train_step to draw: of real, fake and fake again, or
    of the fakes first."""

    def __init__(self, step: Planned, state: Array, first: str):
        rows = (step.batch, 0, step.batch) if first == "generator" else (0, step.batch, 2 * step.batch)
        self.step, self.state, self.left = step, state, [(block, row) for row in rows for block in step.D.blocks if block.drop]

    def random(self, shape, dtype) -> np.ndarray:
        block, row = self.left.pop(0)
        ones = self.step.xp.ones(shape, "float32")
        kernels.dropout(ones, self.state, block.drop, block.stream, row * (ones.size // len(ones)))
        return to_host(ones > 0).astype(dtype)


class Given(NamedTuple):
    """What a planned step drew, for GAN.train_step: lists of real images and of z, with labels where there are any."""

    reals: list
    zs: list
    alphas: np.ndarray | None
    step: Planned
    state: Array  # when it began


def given(step: Planned, state: Array) -> Given:
    """What the step that was just run drew, in float64."""
    B, penalty = step.batch, step.recipe.penalty is not None
    reals, zs = ([*float64(to_host(a)).reshape(-1, B, *a.shape[1:])] for a in (step.real if penalty else step.x[:B], step.z))
    if step.labels is not None:
        labels = [*to_host(step.labels).reshape(-1, B).astype(np.int64)]
        reals, zs = list(zip(reals, labels)), list(zip(zs, labels[len(reals) :]))
    return Given(reals, zs, float64(to_host(step.alpha)) if penalty else None, step, state)


def gradient(player: Player) -> dict[str, np.ndarray]:
    """A player's gradient by parameter: the slices that its optimizer was given, added in float64, by the same table."""
    slices, total = to_host(player.gradient.flat).astype(np.float64), np.zeros(player.parameters.flat.size)
    for theta, count, start, n, size in to_host(player.table).tolist():
        total[theta : theta + count] = sum(slices[start + i * size : start + i * size + count] for i in range(n))
    return player.parameters.views(total)


def planned(step: Planned) -> tuple[dict[str, float], Gradients]:
    """What a planned step says, and its gradients by player and parameter."""
    step.run()
    return step.metrics(), {"D": gradient(step.D), "G": gradient(step.G)}


def cast(samples, dtype):
    """Arrays in lists and pairs as another type; labels stay what they are."""
    if isinstance(samples, list | tuple):
        return type(samples)(cast(a, dtype) for a in samples)
    return samples.astype(dtype) if samples.dtype.kind == "f" else samples


def plain(case: Case, drawn: Given, dtype) -> tuple[dict[str, float], Gradients]:
    """The same of GAN.train_step on NumPy."""
    gan = case.build(CPU, dtype)
    gan.rng = None if drawn.alphas is None else Drawn(drawn.alphas)
    gan.discriminator.bind(Masks(drawn.step, drawn.state, case.system.first))
    said = gan.train_step(cast(drawn.reals, dtype), cast(drawn.zs, dtype))
    players = {"D": ("discriminator", gan.discriminator_optimizer), "G": ("generator", gan.generator_optimizer)}
    return {name: float(value) for name, value in said.items()}, {
        player: {name: g.astype(np.float64) for name, g in optimizer.parameters.views(gan.gradients[name]).items()}
        for player, (name, optimizer) in players.items()
    }


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(f"{np.linalg.norm(got - want) / np.linalg.norm(want):.3g}")


def angle(got: np.ndarray, want: np.ndarray) -> float:
    """1 - cosine, from the distance of the two directions: a difference of cosines would lose what is small."""
    apart = got / np.linalg.norm(got) - want / np.linalg.norm(want)
    return float(f"{apart @ apart / 2:.3g}")


def compare(got: tuple[dict[str, float], Gradients], want: tuple[dict[str, float], Gradients]) -> dict:
    """The errors of what a step said and of its gradients."""
    (said, gradients), (true, exact) = got, want
    row = {"said": {name: error(np.array([said[name]]), np.array([value])) for name, value in true.items()}}
    for player, parts in exact.items():
        a, b = (np.concatenate([g[player][name].ravel() for name in parts]) for g in (gradients, exact))
        layers = {name: error(gradients[player][name].ravel(), part.ravel()) for name, part in parts.items() if part.any()}
        row[player] = {"error": error(a, b), "angle": angle(a, b), "layers": layers}
    return row


def rows(name: str, case: Case, device: Device) -> Iterator[dict]:
    """A row for each precision, and one of NumPy's float32 on the inputs of the first."""
    if case.system.penalty is not None:
        case = case._replace(critic_steps=1)
    head = {"case": name, "size": case.size, "width": case.width, "batch": case.batch}
    for precision in PRECISIONS:
        try:
            step = case.plan(precision, device, images=4 * case.batch, batches=2)
            state = step.state.copy()
            got = planned(step)
            drawn = given(step, state)
            want = plain(case, drawn, np.float64)
            if precision == "fp32":
                yield {**head, "precision": PLAIN, **compare(plain(case, drawn, np.float32), want), "want": want[0]}
            yield {**head, "precision": precision, **compare(got, want)}
        except Exception as wrong:
            yield {**head, "precision": precision, **why(wrong)}


def worker(names: list[str]) -> None:
    """Prints a row a line; without a GPU this process is Triton's interpreter."""
    device = choose_device()
    if device.name == "cpu":
        run_path(str(ROOT / "tests/test_kernels_worker.py"))["mend_interpreter"]()
    for name in names:
        for row in rows(name, CASES[name] if device.name == "gpu" else CASES[name].toy, device):
            print(json.dumps(row), flush=True)


HEAD = """| step | precision | D's loss | G's loss | penalty, gradient norm | D's gradient | G's gradient | worst parameter |
|---|---|---|---|---|---|---|---|"""


def table(result: dict) -> str:
    """The rows of a result as Markdown; what cannot be planned is listed below."""
    lines = HEAD.splitlines()
    for row in result["rows"]:
        case, size = CASES[row["case"]], row["size"]
        cells = [f"{case.recipe} {size}x{size}x{case.channels}, width {row['width']}, batch {row['batch']}", row["precision"]]
        if "said" in row:
            said = {name: f"{value:.0e}" for name, value in row["said"].items()}
            cells += [
                said["d_loss"],
                said["g_loss"],
                ", ".join(said[name] for name in ("penalty", "gradient_norm") if name in said),
            ]
            cells += [f"{row[player]['error']:.1e} ({row[player]['angle']:.0e})" for player in ("D", "G")]
            layers = {f"{player} {name}": e for player in ("D", "G") for name, e in row[player]["layers"].items()}
            worst = max(layers, key=layers.get)
            lines.append("| " + " | ".join([*cells, f"{worst} {layers[worst]:.1e}"]) + " |")
        elif "failed" in row:
            lines.append("| " + " | ".join([*cells, *[NOT] * 6]) + " |")
    reasons = dict.fromkeys(f"{row['case']}: {row['not_measured']}" for row in result["rows"] if "not_measured" in row)
    return "\n".join([*lines, *([""] if reasons else []), *(f"- {said}" for said in reasons)]) + "\n"


def nothing() -> str:
    """The table of a GPU before there is one."""
    cells = [[name, precision, *[NOT] * 6] for name in CASES for precision in PRECISIONS]
    return "\n".join([HEAD, *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--out", type=Path, help="the folder of the JSON file")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.case)
        return 0
    gpu = choose_device()
    if gpu.name == "gpu":
        from benchmarks.timing import gpu as describe

        device = describe(gpu.xp.cuda)
    else:
        device = INTERPRETER
    result = {**facts(device, args.commit), "rows": []}
    command = [sys.executable, "-m", "benchmarks.precision", "--worker", "--case", *args.case]
    environment = os.environ | ({} if gpu.name == "gpu" else {"TRITON_INTERPRET": "1"})
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            result["rows"].append(row := json.loads(line))
            print(row["case"], row["precision"], row.get("not_measured", ""), flush=True)
            if args.out:
                write(result, args.out / f"precision_{slug(device['name'])}.json")
    print(table(result))
    return process.returncode or any("failed" in row for row in result["rows"])


if __name__ == "__main__":
    as_program(main)
