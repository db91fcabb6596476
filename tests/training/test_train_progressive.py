"""Training of a progressive GAN: run folder, pictures, resumed runs, options that cannot be."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from rawgan.backend import CPU
from rawgan.data import load, to_uint8
from rawgan.errors import UserError
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.load import load_generator, load_player
from rawgan.training.sampling import sample
from rawgan.training.systems.base import Training
from rawgan.training.systems.progressive import COLUMNS, ProgressiveOptions, ProgressiveTraining
from rawgan.training.systems.run import resume, start
from tests.cli.test_cli import rawgan, refused
from tests.support.example_runs import assert_one_sentence, write_pictures
from tests.support.runs import assert_same_run, killed_at

# 4x4 in steps 1 to 4, a fade in 5 to 7, 8x8 in 8 to 11, a fade in 12 to 14, 16x16 in 15 to 17
STEPS = 17
SIZES = {"size": 16, "width": 8, "base": 16, "batch": 8, "stable": 24, "fade": 32}
PERIODS = {"sample_every": 5, "checkpoint_every": 4, "keep": 9}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


def options(data, **changes):
    return ProgressiveOptions(source=str(data), **(SIZES | PERIODS | changes))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Return a run without interruption, to the end of the schedule."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    assert start(options(data), CPU, run) == (STEPS, STEPS)
    return run


def sheet(path):
    """Return the images of a grid by row: uint8 (rows, columns, 16, 16)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)[::4, ::4]
    rows, columns = (side // 17 for side in pixels.shape)
    return pixels[1:, 1:].reshape(rows, 17, columns, 17)[:, :16, :, :16].swapaxes(1, 2)


class TestRun:
    def test_leaves_everything(self, straight):
        names = {"config.json", "metrics.csv", "losses.png", "samples", "checkpoints"}
        assert {path.name for path in straight.iterdir()} == names | {"weights.safetensors"}
        kinds = ("growing", "step")
        samples = [f"{kind}_{n:06}.png" for kind in kinds for n in (0, 5, 10, 15, STEPS)]
        assert sorted(path.name for path in (straight / "samples").iterdir()) == samples
        rows = list(csv.DictReader((straight / "metrics.csv").read_text().splitlines()))
        assert [(row["step"], float(row["log2_resolution"])) for row in rows] == [
            ("10", 3),
            (str(STEPS), 4),
        ]
        config = json.loads((straight / "config.json").read_text())
        assert (
            config.items()
            >= ({"recipe": "progressive", "steps": STEPS, "group": 4} | SIZES).items()
        )

    def test_a_row_for_each_resolution(self, straight):
        """Each of the pixels of its resolution, and kept as it was when the next began."""
        folder = straight / "samples"
        for n, rows in ((0, 1), (5, 2), (10, 2), (15, 3), (STEPS, 3)):
            grid = sheet(folder / f"growing_{n:06}.png")
            assert grid.shape[:2] == (rows, COLUMNS)
            for row, k in zip(grid, (4, 2, 1)):
                np.testing.assert_array_equal(row, row[:, ::k, ::k].repeat(k, 1).repeat(k, 2))
        last = sheet(folder / f"growing_{STEPS:06}.png")
        np.testing.assert_array_equal(last[0], sheet(folder / "growing_000005.png")[0])
        np.testing.assert_array_equal(last[1], sheet(folder / "growing_000015.png")[1])
        assert (last[1] != last[1][:, ::4, ::4].repeat(4, 1).repeat(4, 2)).any()
        samples = sheet(folder / f"step_{STEPS:06}.png")
        np.testing.assert_array_equal(last[2], samples.reshape(-1, 16, 16)[:COLUMNS])

    def test_the_example_is_the_library(self, straight, example, data, tmp_path):
        """The loop in the example leaves the bytes of the library with the same options."""
        told = {f"--{name.replace('_', '-')}": value for name, value in SIZES.items()}
        told |= {"--data": data, "--sample-every": 5, "--checkpoint-every": 4}
        words = [word for pair in told.items() for word in pair]
        code, out, err = example("train_progressive.py", *words, "--out", tmp_path / "run")
        assert code == 0, err
        assert "growing from 4x4, 8x8, 16x16" in out
        for name in ("metrics.csv", "weights.safetensors", f"samples/growing_{STEPS:06}.png"):
            assert (tmp_path / "run" / name).read_bytes() == (straight / name).read_bytes(), name

    @pytest.mark.parametrize("step, k", [(4, 2), (8, 2), (12, 1), (None, 1)])
    def test_one_draws_from_the_stage_of_a_checkpoint(self, step, k, straight, data, tmp_path):
        """The samples are those of the training at that step, of the full size."""
        training = ProgressiveTraining(options(data), load(str(data), 16), CPU)
        training.restore(straight / "checkpoints" / f"step_{step or STEPS:06}.safetensors")
        recipe, generator, config = load_generator(straight, step=step)
        z = np.random.default_rng(0).standard_normal((5, recipe.z)).astype(np.float32)
        images = sample(recipe, generator, z)
        np.testing.assert_array_equal(images, to_uint8(training.model.sample(z)))
        np.testing.assert_array_equal(
            images, images[:, ::k, ::k].repeat(k, 1).repeat(k, 2), strict=True
        )
        _, D, _ = load_player(straight, "discriminator", step=step)
        scores, _ = D.forward(np.zeros((4, 16, 16, 1), np.float32))
        part = training.model.discriminator.at(training.model.stage)
        want, _ = part.forward(np.zeros((4, 16 // k, 16 // k, 1), np.float32))
        np.testing.assert_array_equal(scores, want)
        assert config["fade"] == SIZES["fade"]

    def test_the_command_draws(self, straight, tmp_path):
        rawgan("sample", straight, "--count", 5, "--out", tmp_path / "five.npy")
        assert np.load(tmp_path / "five.npy").shape == (5, 16, 16, 1)
        refused(("info", straight), "whose step has no plan")
        refused(
            ("export", straight, "--out", tmp_path / "g.safetensors"), "no counterpart in torch.nn"
        )


class TestResume:
    @pytest.mark.parametrize("at", [2, 5, 11, 13])
    def test_killed_and_resumed_is_the_same_run(self, at, straight, data, tmp_path):
        """From no checkpoint, from one as a fade begins, across a change of size, in a fade."""
        with killed_at(at, Training):
            start(options(data), CPU, tmp_path / "run")
        assert resume(tmp_path / "run", CPU) == (STEPS, STEPS)
        assert_same_run(tmp_path / "run", straight)

    def test_in_parts_it_is_the_same_run(self, straight, data, tmp_path):
        """Each part ends within or beside a fade, and begins from its last checkpoint."""
        start(options(data, steps=3), CPU, tmp_path / "run")
        for steps in (5, 10, 13, STEPS):
            assert resume(tmp_path / "run", CPU, steps=steps) == (steps, steps)
        assert_same_run(tmp_path / "run", straight)

    def test_the_optimizers_begin_anew(self, straight):
        """The step counts of a checkpoint are those since the last begin or end of a fade."""
        counts = {n: load_checkpoint(path)[1]["t"] for n, path in checkpoints(straight).items()}
        since = {4: 0, 8: 1, 12: 1, 16: 2, STEPS: 3}
        assert counts == {n: {"generator": t, "discriminator": t} for n, t in since.items()}

    def test_another_schedule_is_another_run(self, straight, data, tmp_path):
        shutil.copytree(straight, tmp_path / "run")
        config = tmp_path / "run" / "config.json"
        config.write_text(config.read_text().replace('"fade": 32', '"fade": 40'))
        with pytest.raises(UserError, match="is of another run"):
            resume(tmp_path / "run", CPU, steps=20)


class TestOptions:
    @pytest.mark.parametrize(
        "args, words",
        [
            (("--size", 24), "a power of 2, not 24"),
            (("--base", 4), "a base of at least 8"),
            (("--batch", 10), "groups of 4 must divide the batch of 10"),
            (("--lr", "nan"), "learning rate"),
            (("--batch", 200), "120 pictures"),
        ],
    )
    def test_bad_input(self, example, data, args, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        told = ("--data", data, "--size", 16, "--width", 8, *args)
        code, out, err = example("train_progressive.py", *told)
        assert_one_sentence((code, out, err[err.find("error: ") :]), words)
        assert not any(tmp_path.iterdir())

    def test_by_the_command(self, data):
        refused(("train", "progressive", "--path", "planned"), "--path is no option")

    @pytest.mark.parametrize(
        "name, value", [("base", 0), ("stable", 0), ("fade", -1), ("group", 0)]
    )
    def test_numbers_that_cannot_be(self, name, value, straight, tmp_path):
        with pytest.raises(UserError, match=f"{name} {value}"):
            ProgressiveOptions(**{name: value})
        shutil.copytree(straight, tmp_path / "run")
        config = json.loads((straight / "config.json").read_text()) | {name: value}
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"no usable {name}"):
            resume(tmp_path / "run", CPU, steps=20)

    def test_steps_are_those_of_the_schedule(self):
        assert ProgressiveOptions().steps == 8750
        assert ProgressiveOptions(size=16, batch=32).steps == 3125
        assert ProgressiveOptions(steps=5).steps == 5
