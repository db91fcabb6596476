"""rawgan evaluate: from a run folder to numbers in a file."""

import json
import re
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from rawgan.cli.main import app
from rawgan.data import digits
from rawgan.layers import state
from rawgan.metrics import classifier
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.load import load_generator
from rawgan.training.loop import sample
from rawgan.training.run import load_weights, write_whole


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(classifier, "STEPS", 20)
    monkeypatch.setattr(digits, "digits", partial(digits.digits, 300))


def made_run(path, recipe="dcgan", **config):
    """The folder of a run that has not learnt anything."""
    path.mkdir()
    gan = RECIPES[recipe].build(Random(0), 16, 1, 4)
    weights = {f"generator.{name}": a for name, a in state(gan.generator).items()}
    write_whole(path / "weights.safetensors", save(weights))
    about = {"recipe": recipe, "data": "digits", "size": 16, "channels": 1, "width": 4} | config
    (path / "config.json").write_text(json.dumps(about))
    return path


def run(*args):
    got = CliRunner().invoke(app, ["evaluate", *map(str, args), "--device", "cpu"])
    return got.exit_code, got.output


def test_numbers_are_printed_and_written(tmp_path):
    folder = made_run(tmp_path / "run")
    code, output = run(folder, "--count", 60)
    assert code == 0, output
    found = json.loads((folder / "evaluation.json").read_text())
    assert (found["count"], found["seed"], found["source"], found["test"]) == (60, 0, found["source"], "its own test split")
    scores = found["scores"]
    assert scores["train"]["frechet"] < scores["samples"]["frechet"] and 0 < found["judge"]["accuracy"] < 1
    for name in ("Frechet distance", "KID", "precision", "recall", "class entropy"):
        assert re.search(rf"^{name} +\S+", output, re.MULTILINE), name
    assert "requested class" not in output


def test_the_seed_decides(tmp_path):
    folder = made_run(tmp_path / "run")
    files = [tmp_path / f"{i}.json" for i in range(3)]
    for file, seed in zip(files, (1, 1, 2)):
        assert run(folder, "--count", 20, "--seed", seed, "--json", file)[0] == 0
    one, same, other = (file.read_text() for file in files)
    assert one == same != other and not (folder / "evaluation.json").exists()


def test_a_conditional_run_is_asked_for_its_classes(tmp_path):
    code, output = run(made_run(tmp_path / "run", "cgan"), "--count", 40)
    assert code == 0 and "requested class found" in output


def test_pictures_without_labels(tmp_path, rng):
    """Their judge tells quarter turns; there are no classes to count."""
    np.save(tmp_path / "mine.npy", rng.integers(0, 256, (90, 16, 16), dtype=np.uint8))
    folder = made_run(tmp_path / "run", source=str(tmp_path / "mine.npy"), data="mine")
    code, output = run(folder, "--count", 30)
    assert code == 0, output
    assert "quarter turns found" in output and "no test split" in output and "class entropy" not in output
    assert run(folder, "--count", 30, "--data", "digits")[0] == 0


def test_it_draws_in_inference_mode(tmp_path):
    """One picture more changes none of the others: BatchNorm does not see the neighbours."""
    folder = made_run(tmp_path / "run")
    weights = load_weights(folder / "weights.safetensors")
    assert any("running" in name for name in weights)
    recipe, generator, _ = load_generator(folder)
    z = recipe.draw_z(np.random.default_rng(0), 9)
    np.testing.assert_array_equal(sample(recipe, generator, z)[:4], sample(recipe, generator, z[:4]))


@pytest.mark.parametrize("config, word", [({"data": 7}, "--data"), ({"data": "no-such"}, "no-such"), ({"size": 0}, "size")])
def test_what_cannot_be_judged_is_one_sentence(tmp_path, config, word):
    code, output = run(made_run(tmp_path / "run", **config), "--count", 20)
    assert code == 2 and re.search(rf"^error: .*{word}", output, re.MULTILINE) and "Traceback" not in output
    assert not (tmp_path / "run" / "evaluation.json").exists()
