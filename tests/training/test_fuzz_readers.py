"""Fuzzing of every reader of a run's files and of the cache: only UserError, bounded memory.

Nothing outside the folder is changed. tests/data/test_fuzz_data.py tests the readers of data sets.
`pytest -m slow tests/training/test_fuzz_readers.py` reads 2,500 mutations of each file.
"""

import json
import random
import shutil

import numpy as np
import pytest

from rawgan.cli.import_ import read as read_import
from rawgan.data import Images
from rawgan.errors import UserError
from rawgan.metrics import classifier
from rawgan.report import classifier_entry, page, scores, shown
from rawgan.report.read import Reader
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.load import load_config, load_generator
from rawgan.training.options import from_config, read_config
from rawgan.training.tables import read_rows
from rawgan.training.train import start
from tests.support.file_faults import counts_of_child, replace
from tests.support.runs import SCORES, options
from tests.training.test_run_files import mutate_bytes, mutate_json

GROWTH = 64 << 20  # growth of resident memory in bytes that all mutations together may cause
EVALUATION = {
    "count": 100,
    "seed": 0,
    "data": "digits",
    "test": "own",
    "scores": dict.fromkeys(("samples", "train", "noise"), SCORES),
}
EVALUATION |= {"classifier": {"task": "classes", "accuracy": 0.9, "sha256": "ab" * 32}}
PICTURES = Images(
    np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8),
    np.arange(20) % 10,
    "n",
    "l",
    "s",
)
EDGES = (
    "nan",
    "inf",
    "-1",
    "1e308",
    "-1e308",
    "1e-308",
    "9" * 400,
    "",
    "\0",
    "\ud800",
    "$\\frac{$",
    "x" * 300,
    '"',
    "0x1",
    "1_0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, nothing_plotted):
    """Return a run with every kind of file, and a classifier."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    start(options("wgan_gp", size=8, width=2, steps=20, checkpoint_every=20), folder)
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    (folder / "diagnosis.txt").write_text("step 10: D saturates\nstep 20: G collapses\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAWGAN_DATA", str(folder.parent))
        patch.setattr(classifier, "STEPS", 1)
        classifier.load_or_train_classifier(PICTURES)
    shutil.copy(next((folder.parent / "judges").iterdir()), folder / "classifier.safetensors")
    return folder


def mutate(name: str, content: bytes, dice: random.Random) -> bytes:
    """Return a file's content with a random change that fits its kind."""
    if name.endswith(".json") and dice.random() < 0.7:
        return json.dumps(mutate_json(json.loads(content), dice)).encode()
    if name.endswith(".csv") and dice.random() < 0.7:
        lines = [line.split(",") for line in content.decode().splitlines()]
        line = lines[dice.randrange(len(lines))]
        line[dice.randrange(len(line))] = dice.choice(EDGES)
        return "\n".join(map(",".join, lines)).encode("utf-8", "surrogatepass") + b"\n"
    if name.endswith(".safetensors") and dice.random() < 0.5:
        length = int.from_bytes(content[:8], "little")
        text = json.dumps(mutate_json(json.loads(content[8 : 8 + length]), dice)).encode()
        return (
            dice.choice((len(text), len(text), 2**40, 0)).to_bytes(8, "little")
            + text
            + content[8 + length :]
        )
    return mutate_bytes(content, dice)


def table(folder, columns):
    return lambda path: (read_rows(path, columns), Reader(folder).table(path.name))


def readers(run, folder) -> dict:
    """Return {file: function that reads it} for every file of a run, as the commands read it."""
    columns = {
        name: tuple((run / name).read_text().split("\r\n")[0].split(","))
        for name in ("metrics.csv", "gradients.csv")
    }

    def evaluation(_):
        loaded = Reader(folder).json("evaluation.json")
        (
            scores(loaded),
            classifier_entry(loaded),
            [shown(value) for value in (loaded or {}).values()],
        )

    def config(path):
        load_config(path), from_config(read_config(path), path)

    return {
        "config.json": config,
        "weights.safetensors": lambda _: load_generator(folder),
        f"checkpoints/{list(checkpoints(run).values())[-1].name}": load_checkpoint,
        "classifier.safetensors": lambda path: classifier.load_classifier(path, PICTURES),
        "generator.safetensors": read_import,
        "metrics.csv": table(folder, columns["metrics.csv"]),
        "gradients.csv": table(folder, columns["gradients.csv"]),
        "penalty_norms.csv": lambda _: Reader(folder).table("penalty_norms.csv", ("step", "norm")),
        "evaluation.json": evaluation,
        "diagnosis.txt": lambda path: Reader(folder).lines(path.name),
        "samples/step_000000.png": lambda _: Reader(folder).picture("samples/step_000000.png"),
    }


def fuzz(run, folder, n, seed):
    """Read n mutations of each file; return how many of each raised a UserError."""
    shutil.copytree(run, folder)
    shutil.copy(folder / "weights.safetensors", folder / "generator.safetensors")
    outside = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    names, refused = {path for path in folder.rglob("*")}, {}
    for name, read in readers(run, folder).items():
        dice, path = random.Random(f"{seed} {name}"), folder / name
        content, refused[name] = path.read_bytes(), 0
        for _ in range(n):
            replace(path, mutate(name, content, dice))
            try:
                read(path)
            except UserError as error:
                refused[name] += 1
                assert str(error).isprintable() and len(str(error)) <= 1000
        path.write_bytes(content)
    assert {path for path in folder.rglob("*")} == names
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == outside
    return refused


def refused_in_child(run, tmp_path, figures, n, seed):
    """Return fuzz(...) of a process that changes nothing outside tmp_path nor grows by GROWTH."""
    refused = counts_of_child(
        lambda: fuzz(run, tmp_path / "run", n, seed), tmp_path / "log", figures
    )
    assert figures.growth < GROWTH
    return refused


def test_mutated_files(run, tmp_path, figures):
    refused = refused_in_child(run, tmp_path, figures, 60, 0)
    assert all(
        refused[name] > 10 for name in refused if name.endswith((".safetensors", "config.json"))
    ), refused


@pytest.mark.slow
def test_very_many_mutated_files(run, tmp_path, figures):
    refused = refused_in_child(run, tmp_path, figures, 2500, 1)
    figures.title = f"{2500 * len(refused):,} mutated files, of them refused"


@pytest.mark.parametrize("seed", range(3))
def test_pages_of_mutated_runs(run, tmp_path, seed):
    """With all files mutated at once the report is written and names what it cannot show."""
    dice, folder = random.Random(seed), shutil.copytree(run, tmp_path / "run")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.write_bytes(mutate(path.name, path.read_bytes(), dice))
    assert page(folder).encode("utf-8", "backslashreplace").startswith(b"<!doctype html>")
