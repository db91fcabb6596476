"""Check that the planned DCGAN trains as GAN.train_step does, and that a seed is reproducible.

    python -m benchmarks.steps.train_check        DCGAN-64, 250 steps, on a GPU, into
                                                  train_<device>.json

The planned step in bf16 and in fp32, each twice from seed 0, and the array path from seeds 0, 1
and 2 train on drawn digits. A planned run passes if

- every metric of every step is finite;
- over the second half of the steps, the means of D(x), D(G(z)) and both losses differ from those
  of the array path, averaged over its seeds, by no more than the larger of three standard
  deviations over the seeds and SLACK;
- both runs of its seed end with the same weights, bit for bit.
"""

from hashlib import sha256
from math import isfinite
from statistics import mean, stdev

from benchmarks.common.command import Command, begin, parser
from benchmarks.common.facts import NOT, as_program
from benchmarks.common.training_run import ARRAYS, TrainingRun
from benchmarks.common.worker import why
from benchmarks.steps.cases import CASES
from benchmarks.steps.dry_run import compile_plans
from rawgan.backend import to_host
from rawgan.data import Images, load
from rawgan.gan import GAN
from rawgan.models.recipes import RECIPES

CASE = "dcgan 64x64x3"  # case of benchmarks/steps/cases.py, which sets width and batch
SEEDS = (0, 1, 2)
SLACK = {"d_real": 0.1, "d_fake": 0.1, "d_loss": 0.5, "g_loss": 1.0}
PRECISIONS = ("bf16", "fp32")
RUNS = [(precision, 0, n) for precision in PRECISIONS for n in (1, 2)] + [
    (ARRAYS, seed, 1) for seed in SEEDS
]
FULL = {"size": 64, "channels": 3, "width": 64, "batch": 128, "steps": 250, "every": 25}
TOY = {"size": 8, "channels": 1, "width": 4, "batch": 2, "steps": 2, "every": 1}

Rows = list[dict[str, float]]


def checksum(gan: GAN) -> str:
    """Return a digest of all parameters and running statistics of both networks."""
    digest = sha256()
    for net, optimizer in (
        (gan.generator, gan.generator_optimizer),
        (gan.discriminator, gan.discriminator_optimizer),
    ):
        for a in (optimizer.parameters.flat, *net.buffers.values()):
            digest.update(to_host(a).tobytes())
    return digest.hexdigest()[:16]


def train(precision: str, seed: int, data: Images, sizes: dict, command: Command) -> dict:
    """Train one run; return its metrics, means over intervals, and the checksum of its weights."""
    begun, recipe = command.left(), RECIPES["dcgan"]
    run = TrainingRun(recipe, data, sizes["width"], sizes["batch"], seed, precision, command.device)
    rows: Rows = []
    while run.done < sizes["steps"]:
        if command.left() < 0:
            raise TimeoutError(f"no time was left after {run.done} steps")
        rows += run.train(run.done + sizes["every"])
    seconds = round(begun - command.left(), 2)
    return {
        "seconds": seconds,
        "steps": len(rows),
        **summary(rows, sizes["every"]),
        "weights": checksum(run.gan),
    }


def summary(rows: Rows, every: int) -> dict:
    """Return whether all metrics are finite, and their means per interval and second half."""
    intervals = [rows[i : i + every] for i in range(0, len(rows), every)]
    return {
        "finite": all(isfinite(value) for row in rows for value in row.values()),
        "intervals": [means(part) for part in intervals],
        "second_half": means(rows[len(rows) // 2 :]),
    }


def means(rows: Rows) -> dict[str, float]:
    """Return the mean of each metric."""
    return {name: round(mean(row[name] for row in rows), 5) for name in SLACK}


def verdict(precision: str, runs: dict[str, dict]) -> list[str]:
    """Return the failures of the planned runs of a precision, by the module's criterion."""
    repeats = [runs.get(key(precision, 0, n), {"not_measured": "not run"}) for n in (1, 2)]
    arrays = [runs.get(key(ARRAYS, seed, 1), {"not_measured": "not run"}) for seed in SEEDS]
    if missing := [run["not_measured"] for run in (*repeats, *arrays) if "not_measured" in run]:
        return [f"no verdict: {missing[0]}"]
    wrong = [] if all(run["finite"] for run in repeats) else ["a metric is not finite"]
    for name, slack in SLACK.items():
        values = [run["second_half"][name] for run in arrays]
        bound, got = max(3 * stdev(values), slack), repeats[0]["second_half"][name]
        if not abs(got - mean(values)) <= bound:
            wrong.append(f"{name} {got:.3f} is further than {bound:.3f} from {mean(values):.3f}")
    if repeats[0]["weights"] != repeats[1]["weights"]:
        wrong.append("two runs of one seed end with different weights")
    return wrong


def key(precision: str, seed: int, n: int) -> str:
    """Return the name of a run in the result."""
    return f"{precision}, seed {seed}, run {n}"


def table(result: dict) -> str:
    """Return the runs as a Markdown table, and the verdicts."""
    lines = ["| run | seconds | " + " | ".join(SLACK) + " | D(x) at intervals | weights |"]
    lines.append("|---|---|" + "---|" * (len(SLACK) + 2))
    for name, run in result["train"]["runs"].items():
        if "not_measured" in run:
            lines.append(f"| {name} | {run['not_measured']} |" + f" {NOT} |" * (len(SLACK) + 2))
            continue
        half = [f"{run['second_half'][metric]:.3f}" for metric in SLACK]
        trace = " ".join(f"{part['d_real']:.2f}" for part in run["intervals"])
        lines.append(
            f"| {name} | {run['seconds']} | " + " | ".join([*half, trace, run["weights"]]) + " |"
        )
    verdicts = result["train"]["verdicts"]
    verdicts = [
        f"{precision}: {'; '.join(wrong) or 'trains as the array path'}"
        for precision, wrong in verdicts.items()
    ]
    return "\n".join([*lines, "", *verdicts]) + "\n"


def main() -> int:
    """Train all runs, writing each at once; return 1 if a planned run fails the check."""
    args = parser(__doc__, minutes=2).parse_args()
    command, sizes = begin("train", args), TOY if args.dry_run else FULL
    if not args.dry_run:
        compile_plans({CASE: CASES[CASE]}, command.result["device"]["capability"], PRECISIONS)
    data = load("digits", sizes["size"], sizes["channels"])
    record = command.result["train"] = {"sizes": sizes, "slack": SLACK, "runs": {}, "verdicts": {}}
    for precision, seed, n in RUNS:
        try:
            run = train(precision, seed, data, sizes, command)
        except Exception as error:
            run = why(error)
        record["runs"][key(precision, seed, n)] = run
        command.save()
        print(key(precision, seed, n), run.get("not_measured", run.get("second_half")), flush=True)
    record["verdicts"] = {precision: verdict(precision, record["runs"]) for precision in PRECISIONS}
    command.save()
    print(table(command.result))
    return any(record["verdicts"].values())


if __name__ == "__main__":
    as_program(main)
