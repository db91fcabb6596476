"""`rawgan evaluate`: from a run folder to metrics in a file."""

import json
import re
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from rawgan.cli.main import app
from rawgan.data import Images, digits
from rawgan.layers import state
from rawgan.metrics import classifier
from rawgan.metrics.classifier import Classifier, network
from rawgan.metrics.evaluation import too_few
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.load import load_generator
from rawgan.training.run_folder import load_weights, write_whole
from rawgan.training.sampling import sample


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(classifier, "STEPS", 20)
    monkeypatch.setattr(digits, "digits", partial(digits.digits, 300))


def made_run(path, recipe="dcgan", **config):
    """Return the folder of an untrained run."""
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
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert (evaluation["count"], evaluation["seed"], evaluation["source"], evaluation["test"]) == (
        60,
        0,
        evaluation["source"],
        "its own test split",
    )
    scores = evaluation["scores"]
    assert (
        scores["train"]["frechet"] < scores["samples"]["frechet"]
        and 0 < evaluation["classifier"]["accuracy"] < 1
    )
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
    """Without labels the classifier predicts quarter turns, and there are no class metrics."""
    images = rng.integers(0, 256, (90, 16, 16), dtype=np.uint8)
    images[:, :8] //= 4  # dark above, so that a turn can be seen
    np.save(tmp_path / "mine.npy", images)
    folder = made_run(tmp_path / "run", source=str(tmp_path / "mine.npy"), data="mine")
    code, output = run(folder, "--count", 30)
    assert code == 0, output
    assert (
        "quarter turns correct" in output
        and "no test split" in output
        and "class entropy" not in output
    )
    assert run(folder, "--count", 30, "--data", "digits")[0] == 0


def test_it_draws_in_inference_mode(tmp_path):
    """Images are drawn in inference mode: an additional image changes none of the others."""
    folder = made_run(tmp_path / "run")
    weights = load_weights(folder / "weights.safetensors")
    assert any("running" in name for name in weights)
    recipe, generator, _ = load_generator(folder)
    z = recipe.draw_z(np.random.default_rng(0), 9)
    np.testing.assert_array_equal(
        sample(recipe, generator, z)[:4], sample(recipe, generator, z[:4])
    )


@pytest.mark.parametrize(
    "config, word",
    [({"data": 7}, "--data"), ({"data": "no-such"}, "no-such"), ({"size": 0}, "size")],
)
def test_what_cannot_be_judged_is_one_sentence(tmp_path, config, word):
    code, output = run(made_run(tmp_path / "run", **config), "--count", 20)
    assert (
        code == 2
        and re.search(rf"^error: .*{word}", output, re.MULTILINE)
        and "Traceback" not in output
    )
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_a_judge_that_guesses_is_refused(tmp_path, rng):
    """Quarter turns of noise cannot be told: no score is taken in the features of such a judge."""
    np.save(tmp_path / "mine.npy", rng.integers(0, 256, (900, 16, 16), dtype=np.uint8))
    folder = made_run(tmp_path / "run", source=str(tmp_path / "mine.npy"), data="mine")
    code, output = run(folder, "--count", 30)
    assert code == 2 and "where guessing finds 25%" in output, output
    assert not list(folder.glob("evaluation*"))


def test_few_pictures_are_warned_of(tmp_path):
    folder = made_run(tmp_path / "run")
    code, output = run(folder, "--count", 20)
    assert code == 0 and "far too large" in output and "vary by much" in output
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert len(evaluation["warnings"]) >= 2
    code, output = run(folder, "--count", 290, "--json", tmp_path / "x.json")
    assert code == 0 and "warning" not in output


@pytest.mark.parametrize(
    "features, classes, enough, words",
    [
        (128, 2, 256, ["Frechet distance of 128 features"]),
        (16, 2, 100, ["KID, precision and recall", "copies are counted"]),
        (16, 20, 200, ["fewer than 10 for each of 20 classes"]),
    ],
)
def test_the_numbers_that_are_enough(features, classes, enough, words, rng):
    """From these numbers on there is no warning; with one less there are those of its limit."""
    judge = Classifier(network(16, 1, classes, features), classes)
    images = [
        Images(rng.integers(0, 256, (n, 16, 16, 1), np.uint8), np.arange(n) % classes, "x", "", "")
        for n in (20, enough, enough - 1)
    ]
    train, test, fewer = images
    assert too_few(enough, train, test, judge) == []
    for sentences in (
        too_few(enough - 1, train, test, judge) + too_few(enough, train, fewer, judge)[1:],
        too_few(enough - 1, train, fewer, judge),
    ):
        assert len(sentences) == len(words)
        for sentence, word in zip(sentences, words):
            assert word in sentence


def test_another_split_counts_the_classes_as_the_training_did(tmp_path, rng):
    """A run of the classes 2 and 5 is judged by those, whichever others the data number first."""
    drawn = digits.digits(size=16)
    chosen = np.isin(drawn.labels, (2, 5))
    np.savez(tmp_path / "two.npz", images=drawn.images[chosen], labels=drawn.labels[chosen])
    path = tmp_path / "run"
    path.mkdir()
    gan = RECIPES["cgan"].with_classes(2).build(Random(0), 16, 1, 4)
    weights = {f"generator.{name}": a for name, a in state(gan.generator).items()}
    write_whole(path / "weights.safetensors", save(weights))
    about = {"recipe": "cgan", "source": str(tmp_path / "two.npz"), "size": 16, "channels": 1}
    (path / "config.json").write_text(json.dumps(about | {"width": 4, "classes": ["2", "5"]}))
    code, output = run(path, "--count", 20)
    assert code == 0 and "requested class found" in output, output
    code, output = run(path, "--count", 20, "--data", "digits")
    assert code == 2 and "has the class 0" in output
