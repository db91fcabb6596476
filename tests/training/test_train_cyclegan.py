"""examples/train_cyclegan.py and `rawgan train cyclegan`: folder, pictures, resume, refusals."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import translation
from rawgan import report
from rawgan.backend import CPU
from rawgan.data import Images, load
from rawgan.errors import UserError
from rawgan.training.checkpoint import checkpoints
from rawgan.training.systems.cyclegan import HELD_OUT, CycleGANOptions, CycleGANTraining
from rawgan.training.systems.run import resume, start
from tests.cli.test_cli import rawgan, refused
from tests.support.example_runs import assert_one_sentence
from tests.support.reference import assert_same
from tests.support.runs import assert_same_run, killed_at

TINY = {"size": 16, "width": 2, "batch": 4, "steps": 6, "sample_every": 4, "checkpoint_every": 2}


def write(folder, channels, count=40, seed=0):
    """Write random images as a .npy file."""
    shape = (count, 16, 16, channels)
    pictures = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    path = folder / f"pictures_{channels}_{seed}.npy"
    np.save(path, pictures)
    return path


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"), 3)


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"), 1, count=30)


def options(colour, **changes):
    return CycleGANOptions(source=str(colour), **(TINY | changes))


def training_of(told):
    return CycleGANTraining(told, told.load_images(), CPU)


def rows_of(picture):
    """Return the images of a sample grid by row, (rows, HELD_OUT, 16, 16, 3)."""
    with Image.open(picture) as image:
        sheet = np.asarray(image)[::4, ::4]
    rows = (len(sheet) - 1) // 17
    cells = sheet[1:, 1:].reshape(rows, 17, HELD_OUT, 17, 3)[:, :16, :, :16]
    return cells.swapaxes(1, 2)


class TestExample:
    def test_leaves_everything(self, example, colour, tmp_path):
        run = tmp_path / "run"
        sizes = ("--size", 16, "--width", 2, "--batch", 4, "--steps", 12)
        code, output, err = example("train_cyclegan.py", "--data", colour, *sizes, "--out", run)
        assert code == 0, err
        assert "40 images of gray pictures_3_0 to 40 of pictures_3_0. Parameters: g_tar" in output
        assert {path.name for path in run.iterdir()} == {
            "config.json", "metrics.csv", "losses.png", "samples", "checkpoints",
            "weights.safetensors",
        }  # fmt: skip
        rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
        assert [row["step"] for row in rows] == ["10", "12"]
        assert list(rows[0]) == [
            "step", "d_target_loss", "d_source_loss", "g_target_loss", "g_source_loss",
            "cycle_source", "cycle_target",
        ]  # fmt: skip
        assert all(0 < float(value) < 100 for row in rows for value in row.values())
        config = json.loads((run / "config.json").read_text())
        expected = {"recipe": "cyclegan", "target": "", "kernel": 3, "identity": 0.0, "lr": 4e-4}
        assert config.items() >= expected.items()

    def test_its_loop_is_that_of_the_command(self, example, colour, tmp_path):
        told = ("--data", colour, "--size", 16, "--width", 2, "--batch", 4, "--steps", 5)
        told += ("--lr", 0.001, "--sample-every", 3)
        assert example("train_cyclegan.py", *told, "--out", tmp_path / "run")[0] == 0
        rawgan("train", "cyclegan", *told, "--out", tmp_path / "trained")
        assert_same_run(tmp_path / "run", tmp_path / "trained")

    @pytest.mark.parametrize(
        "args, words",
        [
            (("--size", 20), "20 is no 16, 24, 32"),
            (("--batch", 31), "too few for a batch of 31 and 10 to translate"),
            (("--target", "nowhere"), "nowhere"),
            (("--identity", 0.5), "as many channels in source and target, not 1 and 3"),
            (("--identity", "nan"), "identity nan of cyclegan cannot be used"),
            (("--kernel", 99), "kernel 99 of cyclegan cannot be used"),
            (("--lr", 0), "learning rate"),
        ],
    )
    def test_bad_input(self, example, colour, args, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        told = ("--data", colour, "--size", 16, "--width", 2, "--batch", 4, "--steps", 2)
        code, out, err = example("train_cyclegan.py", *told, *args)
        assert_one_sentence((code, out, err[err.find("error: ") :]), words)
        assert not (tmp_path / "runs").exists()

    def test_gray_images_need_a_target(self, gray):
        refused(("train", "cyclegan", "--data", gray, "--size", 16), "is gray: a CycleGAN maps")


class TestInputs:
    def test_the_source_is_the_gray_version(self, colour):
        """0.299 R + 0.587 G + 0.114 B, rounded; held-out images are in no batch."""
        training, images = training_of(options(colour)), np.load(colour)
        luma = images @ np.array([0.299, 0.587, 0.114])
        assert np.abs(training.sets["source"].images[..., 0] - luma).max() < 0.51
        assert_same(training.sets["target"].images, images)
        source, target = training.inputs()
        assert source.shape == (4, 16, 16, 1) and target.shape == (4, 16, 16, 3)
        assert target.dtype == np.float32 and 0 <= target.min() and target.max() <= 1
        for name, shown in training.held_out.items():
            assert len(shown) == HELD_OUT and len(training.seen[name]) == 40 - HELD_OUT
            assert not any((image == x).all() for image in shown for x in training.seen[name])
        assert_same(training.sets["source"].images[[0, -1]], training.held_out["source"][[0, -1]])

    def test_images_are_drawn_without_their_counterparts(self, colour):
        training = training_of(options(colour, batch=30))
        source, target = (next(order) for order in training.orders.values())
        assert sorted(source) == sorted(target) == list(range(30))
        assert (source == target).sum() < 10

    def test_two_data_sets(self, colour, gray):
        training = training_of(options(gray, target=str(colour)))
        source, target = training.inputs()
        assert source.shape == (4, 16, 16, 1) and target.shape == (4, 16, 16, 3)
        whole = training.sets["source"], training.sets["target"]
        assert [len(images) for images in whole] == [30, 40]
        assert whole[1].images.shape == load(str(colour)).images.shape

    def test_the_setting_of_the_book(self):
        told = CycleGANOptions(**CycleGANOptions.of_source)
        assert (told.source, told.steps, told.batch, told.lr) == ("cifar10", 100_000, 32, 2e-4)


class TestRun:
    def test_pictures_and_resume(self, colour, tmp_path):
        """In parts it is the same run; the rows are originals, translated, and translated back."""
        assert start(options(colour), CPU, tmp_path / "straight") == (6, 6)
        start(options(colour, steps=3), CPU, tmp_path / "run")
        rawgan("train", "--resume", tmp_path / "run", "--steps", 6)
        assert_same_run(tmp_path / "run", tmp_path / "straight")
        training = training_of(options(colour))
        training.restore([*checkpoints(tmp_path / "run").values()][-1])
        rows = rows_of(tmp_path / "run" / "samples" / "step_000006.png")
        assert rows.shape == (6, HELD_OUT, 16, 16, 3)
        source, target = (training.held_out[name] for name in ("source", "target"))
        assert_same(rows[0], source.repeat(3, -1))
        assert_same(rows[3], target)
        there, back = training.model.translate((source / 255).astype(np.float32))
        for row, images in ((rows[1], there), (rows[2], back)):
            assert np.abs(row - 255 * images).max() < 0.51
        there, back = training.model.translate_back((target / 255).astype(np.float32))
        for row, images in ((rows[4], there), (rows[5], back)):
            assert np.abs(row - 255 * images).max() < 0.51

    def test_a_killed_one_goes_on(self, colour, gray, tmp_path, monkeypatch):
        """With an identity loss, between two data sets, the second given as a relative path."""
        monkeypatch.chdir(colour.parent)
        second = write(colour.parent, 3, seed=1)
        told = options(colour, target=second.name, identity=0.5, kernel=5)
        start(told, CPU, tmp_path / "straight")
        with killed_at(5, CycleGANTraining):
            start(told, CPU, tmp_path / "killed")
        monkeypatch.chdir(tmp_path)
        assert resume(tmp_path / "killed", CPU) == (6, 6)
        assert_same_run(tmp_path / "killed", tmp_path / "straight")
        rows = list(csv.DictReader((tmp_path / "killed/metrics.csv").read_text().splitlines()))
        assert 0 < float(rows[-1]["identity_target"]) < 1

    def test_another_target_is_refused(self, colour, gray, tmp_path):
        second = write(tmp_path, 3, seed=2)
        start(options(gray, target=str(second), steps=2), CPU, tmp_path / "run")
        np.save(second, np.load(second)[::-1])
        with pytest.raises(UserError, match="was trained on other pictures"):
            resume(tmp_path / "run", CPU, steps=4)

    def test_report_and_refusals(self, colour, tmp_path):
        """The report has both charts; there is no z to sample, and no resume without a kernel."""
        run = tmp_path / "run"
        start(options(colour, steps=1), CPU, run)
        page = report.page(run)
        assert "Discriminators of a CycleGAN" in page and "There and back" in page
        refused(("sample", run), "'cyclegan', which is no recipe to draw from")
        path = run / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"kernel": "3"}))
        with pytest.raises(UserError, match="no usable kernel"):
            resume(run, CPU, steps=4)


class TestMeasure:
    def test_of_gray_and_colour(self, colour, tmp_path):
        start(options(colour, steps=1), CPU, tmp_path / "run")
        training = translation.load_run(tmp_path / "run")
        result = translation.measure(training)
        gray, images = (whole.images.astype(float) for whole in training.sets.values())
        assert result["source"]["gray"] == pytest.approx(abs(gray - images).mean() / 255, abs=1e-4)
        there, back = training.model.translate((gray / 255).astype(np.float32))
        for name, got, want in (("colour", there, images), ("cycle", back, gray)):
            difference = abs(255 * got - want).mean() / 255
            assert result["source"][name] == pytest.approx(difference, abs=2e-3)

    def test_of_labels(self):
        """Translated to themselves all are kept; exchanged, or merged, `to` says so."""
        rng = np.random.default_rng(0)
        labels = np.arange(60) % 3
        noise = rng.integers(9, size=(60, 2, 2, 1))
        images = (60 * labels[:, None, None, None] + noise).astype(np.uint8)
        others = Images(images, labels, "set", "", "")
        same = {"kept": 1.0, "own": 1.0, "to": [0, 1, 2], "become_to": 1.0}
        assert translation.kept_labels(images, labels, others) == same
        exchanged = translation.kept_labels(images, (labels + 1) % 3, others)
        assert exchanged == same | {"kept": 0.0, "to": [2, 0, 1]}
        merged = translation.kept_labels(images[np.zeros(60, int)], labels, others)
        assert merged == same | {"kept": pytest.approx(1 / 3, abs=1e-4), "to": [0, 0, 0]}
        mixed = Images(images, rng.permutation(labels), "set", "", "")
        assert translation.kept_labels(images, labels, mixed)["own"] < 0.7
