"""examples/train_semi_supervised.py: its folder, its errors, the same bits after a resume."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from rawgan.backend import CPU
from rawgan.data import Images, load, to_uint8
from rawgan.errors import UserError
from rawgan.models.semi_supervised import Z
from rawgan.random import Random
from rawgan.report import page
from rawgan.training.checkpoint import checkpoints
from rawgan.training.run_folder import load_weights
from rawgan.training.systems.base import Training
from rawgan.training.systems.run import open_training, resume, start
from rawgan.training.systems.semi_supervised import SemiSupervisedOptions, choose, split
from tests.cli.test_cli import rawgan, refused
from tests.support.example_runs import assert_one_sentence, size_of
from tests.support.reference import assert_close, assert_same
from tests.support.runs import assert_same_run, killed_at

TINY = {"width": 4, "batch": 16, "labels": 20, "sample_every": 4, "checkpoint_every": 6}
NAMES = ("semi_supervised", "supervised")


def write_noise(path, count, *channels):
    """Write an .npz file of images of noise with ten labels; return its path."""
    shape = (count, 16, 16, *channels)
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 10)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data") / "noise.npz", 120)


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data") / "colors.npz", 60, 3)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Return an .npz file of 400 noisy 8x8 images of three classes: a bright part each."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 3
    images = rng.integers(100, size=(400, 8, 8))
    for image, k in zip(images, labels):
        image[:, 3 * k : 3 * k + 2] += rng.integers(40, 120)
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def options(name, source, **changes):
    return SemiSupervisedOptions(name, str(source), **(TINY | changes))


def rows(run):
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


class TestExample:
    def test_leaves_everything(self, example, data, tmp_path):
        """The loop in the example leaves the bytes of the library's, and all files."""
        run = tmp_path / "run"
        args = ("--data", data, "--width", 4, "--batch", 16, "--labels", 20, "--steps", 12)
        every = ("--sample-every", 4, "--checkpoint-every", 6, "--out", run)
        code, output, err = example("train_semi_supervised.py", *args, *every)
        assert code == 0, err
        assert (
            "Model: semi_supervised, 20 of 96 images with labels, 24 to test. The discriminator "
            "has 2,154 parameters, the generator 1,960." in output
        )
        assert {path.name for path in run.iterdir()} == {
            *("config.json", "metrics.csv", "losses.png", "samples", "checkpoints"),
            "weights.safetensors",
        }
        samples = sorted((run / "samples").iterdir())
        assert [path.name for path in samples] == [f"step_{n:06}.png" for n in (0, 4, 8, 12)]
        for path in (run / "losses.png", *samples):
            size_of(path)
        assert [row["step"] for row in rows(run)] == ["10", "12"]
        columns = {"step", "labelled", "unlabelled", "matching", "test_error"}
        assert {*rows(run)[0]} == columns
        html = page(run)
        for title in ("Losses of a classifier", "Feature matching", "Test error"):
            assert title in html
        start(options("semi_supervised", data, steps=12), CPU, tmp_path / "library")
        for name in ("metrics.csv", "weights.safetensors", "samples/step_000012.png"):
            assert (tmp_path / "library" / name).read_bytes() == (run / name).read_bytes(), name

    def test_supervised(self, example, data, tmp_path):
        args = ("--supervised", "--data", data, "--width", 4, "--labels", 20, "--steps", 2)
        code, output, err = example(
            "train_semi_supervised.py", *args, "--batch", 16, "--out", tmp_path / "run"
        )
        assert code == 0, err
        assert "generator" not in output
        assert {*rows(tmp_path / "run")[0]} == {"step", "labelled", "test_error"}
        assert not [*(tmp_path / "run/samples").iterdir()]
        assert_one_sentence(
            example("sample.py", tmp_path / "run"), "'supervised', which is no recipe to draw from"
        )

    def test_by_the_command(self, data, tmp_path):
        """`rawgan train` takes its options, and the source's setting."""
        told = ("--data", data, "--width", 4, "--batch", 16, "--steps", 2)
        settings = ("--set", "labels=20", "--set", "rate=0.01")
        rawgan("train", "supervised", *told, *settings, "--out", tmp_path / "run")
        config = json.loads((tmp_path / "run/config.json").read_text())
        assert config["labels"] == 20 and config["rate"] == 0.01
        source = SemiSupervisedOptions(**SemiSupervisedOptions.of_source)
        assert (source.source, source.width, source.steps) == ("mnist", 500, 180_000)
        assert (source.batch, source.lr, source.labels, source.rate) == (100, 3e-3, 100, 1e-4)

    @pytest.mark.parametrize(
        "args, words",
        [
            (("--labels", 25), "25 labelled images cannot be equally many of the 10 classes"),
            (("--labels", 110), "110 labelled images cannot be equally many"),
            (("--rate", 2), "rate 2.0 of semi_supervised cannot be used"),
            (("--networks", "x"), "networks 'x' of semi_supervised cannot be used"),
            (("--networks", "convolutional", "--size", 20), "multiples of 8 from 16 on, not 20x20"),
            (("--lr", "nan"), "learning rate"),
            (("--batch", 97), "too few for a batch"),
            (("--data", "nowhere"), "nowhere"),
            (("--data", "unlabelled.npy"), "unlabelled has no labels"),
        ],
    )
    def test_bad_input(self, example, data, args, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.save("unlabelled.npy", np.zeros((120, 8, 8), np.uint8))
        told = ("--data", data, "--width", 4, "--batch", 16, "--labels", 20, "--steps", 2)
        code, out, err = example("train_semi_supervised.py", *told, *args)
        assert_one_sentence((code, out, err[err.find("error: ") :]), words)


class TestErrors:
    def test_they_fall(self, stripes, tmp_path, capsys):
        """What is logged and printed is the share of the test images that the average misses."""
        sizes = {"steps": 90, "width": 20, "sample_every": 30, "checkpoint_every": 90}
        told = options("semi_supervised", stripes, labels=12, rate=0.05, **sizes)
        start(told, CPU, tmp_path / "run")
        errors = [float(row["test_error"]) for row in rows(tmp_path / "run")]
        assert errors[0] == errors[1] > 0.3 and errors[-1] < 0.2
        training = open_training(told, CPU)
        weights = load_weights(tmp_path / "run/weights.safetensors")
        classifier, images = training.model.averaged_parameters, training.test.images
        prefix = "classifier."
        classifier.load(
            {n.removeprefix(prefix): a for n, a in weights.items() if n.startswith(prefix)}
        )
        logits, _ = training.model.averaged.forward((images / 255).astype(np.float32), False)
        wrong = int((logits.argmax(1) != training.test.labels).sum())
        assert errors[-1] == wrong / 80
        assert f"step 90: {wrong} of 80 test images wrong" in capsys.readouterr().out

    def test_the_last_row_is_that_of_the_last_step(self, stripes, tmp_path, capsys):
        """Also where no test is due there; the rows before it have the error of step 0."""
        sizes = {"steps": 90, "width": 20, "sample_every": 91, "checkpoint_every": 90}
        told = options("supervised", stripes, labels=12, rate=0.05, **sizes)
        start(told, CPU, tmp_path / "run")
        *before, last = (float(row["test_error"]) for row in rows(tmp_path / "run"))
        assert len({*before}) == 1 and last < before[0] - 0.1
        assert f"step 90: {round(80 * last)} of 80 test images" in capsys.readouterr().out

    def test_the_test_images_are_seen_in_no_training(self, data):
        """They are the same for every seed, and the labels are hidden but for the chosen ones."""
        images = load(str(data))
        trainings = [open_training(options("supervised", data, seed=seed), CPU) for seed in (0, 1)]
        assert_same(trainings[0].test.images, trainings[1].test.images)
        one = trainings[0]
        unlabelled, test = (
            {a.tobytes() for a in part.images} for part in (one.unlabelled, one.test)
        )
        assert len(unlabelled) == 96 and len(test) == 24 and not unlabelled & test
        assert one.unlabelled.labels is None and len(images) == 120
        labelled = {a.tobytes() for a in one.labelled.images}
        assert labelled < unlabelled
        assert labelled != {a.tobytes() for a in trainings[1].labelled.images}
        number = {a.tobytes(): k for a, k in zip(images.images, images.labels)}
        for image, k in zip(one.labelled.images, one.labelled.labels):
            assert number[image.tobytes()] == k
        assert_same(np.bincount(one.labelled.labels), np.full(10, 2))

    def test_a_test_split(self, monkeypatch):
        """Data with a test split are tested on it, their labels counted as in training."""
        rng = np.random.default_rng(0)
        images = rng.integers(256, size=(6, 8, 8, 1), dtype=np.uint8)
        train = Images(images, np.array([0, 1, 2, 0, 1, 2]), "x", "", "", ("a", "b", "c"))
        test = replace(train, labels=np.array([0, 1, 0, 1, 0, 1]), classes=("b", "c"))
        monkeypatch.setattr("rawgan.training.systems.semi_supervised.load", lambda *_, split: test)
        seen, held_out = split(SemiSupervisedOptions(), train)
        assert seen is train
        assert_same(held_out.labels, np.array([1, 2, 1, 2, 1, 2]))

    def test_a_class_with_too_few(self):
        images = Images(np.zeros((5, 8, 8, 1), np.uint8), np.array([0, 0, 0, 0, 1]), "x", "", "")
        with pytest.raises(UserError, match="4 labelled images cannot be equally many of the 2"):
            choose(images, 4, Random(0).stream("labels"))


@pytest.mark.parametrize("name", NAMES)
class TestResume:
    def test_killed_and_resumed_is_the_same_run(self, name, data, tmp_path):
        told = options(name, data, steps=13)
        assert start(told, CPU, tmp_path / "straight") == (13, 13)
        with killed_at(7, Training):
            start(told, CPU, tmp_path / "killed")
        assert list(checkpoints(tmp_path / "killed")) == [6]
        assert resume(tmp_path / "killed", CPU) == (13, 13)
        assert_same_run(tmp_path / "killed", tmp_path / "straight")

    def test_in_parts_it_is_the_same_run(self, name, data, tmp_path):
        """Also where a part ends between two tests, whose error is then the last one measured."""
        start(options(name, data, steps=13), CPU, tmp_path / "straight")
        start(options(name, data, steps=7), CPU, tmp_path / "parts")
        assert resume(tmp_path / "parts", CPU, steps=13) == (13, 13)
        assert_same_run(tmp_path / "parts", tmp_path / "straight")


class TestColor:
    """The convolutional networks, on images of 16x16x3."""

    told = {"networks": "convolutional", "width": 2}  # noqa: RUF012

    @pytest.mark.parametrize("name", NAMES)
    def test_killed_and_resumed_is_the_same_run(self, name, colors, tmp_path):
        told = options(name, colors, steps=9, **self.told)
        assert told.lr == 3e-4
        start(told, CPU, tmp_path / "straight")
        with killed_at(7, Training):
            start(told, CPU, tmp_path / "killed")
        assert resume(tmp_path / "killed", CPU) == (9, 9)
        assert_same_run(tmp_path / "killed", tmp_path / "straight")
        if name == "semi_supervised":
            assert {path.name for path in (tmp_path / "straight/samples").iterdir()} == {
                f"step_{n:06}.png" for n in (0, 4, 8, 9)
            }

    def test_more_steps_change_the_rates(self, colors, tmp_path, capsys):
        start(options("supervised", colors, steps=6, **self.told), CPU, tmp_path / "run")
        assert resume(tmp_path / "run", CPU, steps=9) == (9, 9)
        assert "falls to 0 at step 9, in the place of 6" in capsys.readouterr().out
        start(options("supervised", colors, steps=9, **self.told), CPU, tmp_path / "straight")
        run, straight = (
            load_weights(tmp_path / name / "weights.safetensors") for name in ("run", "straight")
        )
        assert any((run[name] != straight[name]).any() for name in run)

    def test_images_and_rates(self, colors):
        """Images lie in [-1, 1]; the rates of both players fall in the last third of the steps."""
        training = open_training(options("semi_supervised", colors, steps=9, **self.told), CPU)
        rates = []
        for _ in range(9):
            x, _, u, z, v, z2 = training.next_inputs()
            for images in (x, u, v):
                assert images.min() == -1 and images.max() == 1
            for noise in (z, z2):
                assert 0 <= noise.min() < 0.1 and 0.9 < noise.max() < 1
            (rate,) = {optimizer.lr for optimizer in training.optimizers.values()}
            rates.append(rate)
        assert_close(rates, [3e-4] * 7 + [2e-4, 1e-4])

    def test_rates_of_linear_networks_are_constant(self, colors):
        training = open_training(options("semi_supervised", colors, steps=3, lr=0.1), CPU)
        for _ in range(3):
            training.next_inputs()
            assert {optimizer.lr for optimizer in training.optimizers.values()} == {0.1}

    def test_sample(self, colors, tmp_path):
        assert_samples(options("semi_supervised", colors, steps=2, **self.told), tmp_path)


def test_sample(data, tmp_path):
    assert_samples(options("semi_supervised", data, steps=2), tmp_path)


def assert_samples(told, folder):
    """Assert that `rawgan sample` writes G's images of z from U(0, 1), in inference mode."""
    start(told, CPU, folder / "run")
    training = open_training(told, CPU)
    arrays = load_weights(folder / "run/weights.safetensors").items()
    training.model.generator_optimizer.parameters.load(
        {n.removeprefix("generator."): a for n, a in arrays if n.startswith("generator.")}
    )
    z = Random(5).stream("z").random((9, Z), np.float32)
    fakes, _ = training.model.generator.forward(z, train=False)
    rawgan("sample", folder / "run", "--count", 9, "--seed", 5, "--out", folder / "s.npy")
    low = -1 if told.networks == "convolutional" else 0
    assert_same(np.load(folder / "s.npy"), to_uint8(2 * (fakes - low) / (1 - low) - 1))
    refused(("sample", folder / "run", "--label", 1), "trained without labels")
    refused(("export", folder / "run", "--out", folder / "g.onnx"), "no counterpart")
