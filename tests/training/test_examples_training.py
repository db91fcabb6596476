"""The short training examples as a user calls them: their loop, folder and messages."""

import csv
import inspect
import runpy
import sys

import numpy as np
import pytest

from rawgan.models.recipes import RECIPES
from rawgan.training.load import load_generator, load_player
from tests.cli.test_cli import rawgan
from tests.support.example_runs import EXAMPLES, assert_one_sentence, size_of, write_pictures

RECIPE_OF = {"mlp_gan": "raschka_mlp_gan", "cgan": "cgan", "wgan": "wgan", "wgan_gp": "wgan_gp"}
OF_SYSTEMS = ("vae", "infogan", "stackedgan", "cyclegan", "progressive", "semi_supervised")
LOOPS = {"train_dcgan.py": "run_steps"} | {
    f"train_{name}.py": "train_step" for name in (*OF_SYSTEMS, *RECIPE_OF)
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", RECIPE_OF)
def test_leaves_a_run_to_draw_from(name, example, data, tmp_path, monkeypatch):
    """The folder has metrics, sample grids and both networks, and `rawgan sample` draws from it."""
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE_OF[name]
    steps = 2 if name == "wgan" else 12  # its first steps have 100 critic steps
    args = ("--data", data, "--size", 16, "--steps", steps, "--width", 4)
    for number in ("001", "002"):
        code, output, err = example(f"train_{name}.py", *args)
        assert code == 0, err
        run = tmp_path / "runs" / f"{recipe}-{data.name}-{number}"
        assert output.splitlines()[-1].endswith(f", runs/{run.name}/samples/step_{steps:06}.png")
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.csv", "samples", "weights.safetensors"
    }  # fmt: skip
    columns = RECIPES[recipe].classes or 8
    grid = run / "samples" / f"step_{steps:06}.png"
    assert size_of(grid) == (4 * (columns * 17 + 1), 4 * (8 * 17 + 1))
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == [str(n) for n in range(10, steps + 1, 10)]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    again = tmp_path / "runs" / f"{recipe}-{data.name}-001"
    for file in ("metrics.csv", "weights.safetensors", f"samples/{grid.name}"):
        assert (again / file).read_bytes() == (run / file).read_bytes()
    load_player(run, "discriminator")
    assert load_generator(run)[0].name == recipe
    labels = ("--label", 7) if RECIPES[recipe].classes else ()
    assert example("sample.py", run, "--count", 4, *labels, "--out", tmp_path / "a.png")[0] == 0


@pytest.mark.parametrize("name", RECIPE_OF)
def test_its_steps_are_those_of_train(name, example, data, tmp_path, monkeypatch):
    """The loop in an example leaves the metrics and the weights of `rawgan train`, bit for bit."""
    monkeypatch.chdir(tmp_path)
    recipe, steps = RECIPE_OF[name], 1 if name == "wgan" else 10
    args = ("--data", data, "--size", 16, "--steps", steps, "--width", 4, "--seed", 3)
    assert example(f"train_{name}.py", *args)[0] == 0
    rawgan("train", recipe, *args, "--path", "arrays", "--out", "trained")
    (run,) = (tmp_path / "runs").iterdir()
    for file in ("weights.safetensors", *(() if name == "wgan" else ("metrics.csv",))):
        assert (run / file).read_bytes() == (tmp_path / "trained" / file).read_bytes()


@pytest.mark.parametrize(
    "script, args, words",
    [
        ("train_wgan.py", ("--size", 33), "33"),
        ("train_wgan_gp.py", ("--steps", 0), "--steps"),
        ("train_mlp_gan.py", ("--data", "nowhere"), "nowhere"),
        ("train_cgan.py", ("--data", "unlabelled.npy"), "needs labels"),
    ],
)
def test_bad_input(example, script, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("unlabelled.npy", np.zeros((9, 16, 16), np.uint8))
    assert_one_sentence(example(script, *args), words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("script", LOOPS)
def test_the_loop_is_in_the_example(script, monkeypatch):
    """Each training example has the loop over its steps: it hands it to no other function."""
    monkeypatch.setattr(sys, "argv", [script])
    source = inspect.getsource(runpy.run_path(str(EXAMPLES / script))["main"])
    loop = source[source.index("    while " if "while " in source else "    for ") :]
    assert f".{LOOPS[script]}(" in loop and "train_loop" not in source
