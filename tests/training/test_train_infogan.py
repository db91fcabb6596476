"""examples/train_infogan.py as a user calls it: folder, pictures of the codes, resume, refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rawgan.backend import CPU
from rawgan.errors import UserError
from rawgan.random import Random
from rawgan.training.checkpoint import checkpoints
from rawgan.training.load import load_generator
from rawgan.training.run_folder import load_weights
from rawgan.training.systems import infogan
from rawgan.training.systems.infogan import InfoGANOptions, InfoGANTraining, classified
from rawgan.training.systems.run import open_training, resume, start
from tests.cli.test_cli import rawgan, refused
from tests.support.example_runs import assert_one_sentence, write_pictures
from tests.support.reference import assert_same
from tests.support.runs import assert_same_run, killed_at


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def unlabelled(tmp_path):
    pictures = np.random.default_rng(1).integers(256, size=(40, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    return tmp_path / "pictures.npy"


def tiny(data, **changes):
    sizes = {"width": 2, "steps": 4, "batch": 8, "sample_every": 2, "checkpoint_every": 2}
    return InfoGANOptions(source=str(data), **(sizes | changes))


def write_class(folder, images):
    """Write a folder of pictures."""
    folder.mkdir(parents=True)
    for n, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{n}.png")


SIZES = ("--width", 2, "--batch", 8, "--steps", 4, "--sample-every", 2, "--checkpoint-every", 2)


def sheet(path, columns):
    """Return the images of a grid, (rows, columns, 16, 16)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)[::4, ::4]
    rows = (len(pixels) - 1) // 17
    assert pixels.shape == (rows * 17 + 1, columns * 17 + 1)
    return pixels[1:, 1:].reshape(rows, 17, columns, 17)[:, :16, :, :16].swapaxes(1, 2)


def test_the_example_and_its_pictures(example, data, tmp_path):
    """The example leaves the bytes of the library; its pictures are what the page says."""
    run = tmp_path / "run"
    code, out, err = example("train_infogan.py", "--data", data, *SIZES, "--out", run)
    assert code == 0, err
    assert "Form book, 10 categories, 2 codes." in out
    assert "learns the categories from the labels" in out and "is no likelihood" in out
    assert "The category that D reads classifies " in out and "of the 120 images" in out
    names = [f"{kind}_{n:06}.png" for kind in ("code1", "code2", "step") for n in (0, 2, 4)]
    assert sorted(path.name for path in (run / "samples").iterdir()) == names
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert header == "step,d_loss,g_loss,d_real,d_fake,class_loss,code_loss"

    start(tiny(data), CPU, tmp_path / "library")
    assert_same_run(run, tmp_path / "library")

    categories = sheet(run / "samples/step_000004.png", 10)
    code1, code2 = (sheet(run / f"samples/code{i}_000004.png", 11) for i in (1, 2))
    assert categories.shape[:2] == (8, 10) and code1.shape[:2] == (10, 11)
    # a code of 0, in the middle of both sweeps, is the category of the first noise
    assert_same(code1[:, 5], categories[0])
    assert_same(code2[:, 5], categories[0])
    assert (code1[:, 0] != code1[:, 10]).any() and (code1[:, 0] != code2[:, 0]).any()


@pytest.mark.parametrize("form", ["book", "gaussian"])
def test_killed_and_resumed_is_the_same_run(form, data, tmp_path):
    wanted = tiny(data, form=form, steps=6)
    assert start(wanted, CPU, tmp_path / "straight") == (6, 6)
    with killed_at(3, InfoGANTraining):
        start(wanted, CPU, tmp_path / "killed")
    assert list(checkpoints(tmp_path / "killed")) == [2]
    assert resume(tmp_path / "killed", CPU) == (6, 6)
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_the_paper_form_needs_no_labels(example, unlabelled, tmp_path):
    told = ("--data", unlabelled, "--form", "gaussian", *SIZES, "--out", tmp_path / "run")
    code, out, err = example("train_infogan.py", *told)
    assert code == 0, err
    assert "No label is used" in out and "classifies" not in out
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["form"] == "gaussian" and config["recipe"] == "infogan"


def test_labels_do_not_change_the_paper_form(data, unlabelled):
    """Steps of the Gaussian form on the same pictures, with and without labels, are the same."""
    training = [
        InfoGANTraining(tiny(data, form="gaussian"), images, CPU)
        for images in (tiny(data).load_images(), tiny(unlabelled).load_images())
    ]
    pictures = training[0].images.images[:40]
    for one in training:
        one.images = SimpleNamespace(images=pictures, labels=one.images.labels)
        one.orders["data"] = iter([np.arange(8)] * 3)
        for _ in range(3):
            one.run_steps(3)
    for name, a in training[0].arrays().items():
        assert_same(a, training[1].arrays()[name])


def test_the_setting_of_the_book():
    book = InfoGANOptions(**InfoGANOptions.of_source)
    assert (book.source, book.size, book.width, book.batch) == ("mnist", 28, 32, 64)
    assert (book.steps, book.lr, book.form) == (40_000, 2e-4, "book")


@pytest.mark.parametrize(
    "args, words",
    [
        (("--form", "paper"), "form 'paper' of infogan cannot be used"),
        (("--lr", "nan"), "learning rate"),
        (("--batch", 121), "cannot be drawn from the 120 pictures"),
        (("--size", 18), "multiple of 4"),
    ],
)
def test_bad_input(example, data, args, words, tmp_path):
    told = ("--data", data, *SIZES, *args, "--out", tmp_path / "run")
    assert_one_sentence(example("train_infogan.py", *told), words)
    assert not (tmp_path / "run").exists()


def test_the_book_form_needs_labels(example, unlabelled, tmp_path):
    answer = example("train_infogan.py", "--data", unlabelled, *SIZES, "--out", tmp_path / "run")
    assert_one_sentence(answer, "learns from labels", "form gaussian")


def test_the_command_trains_resumes_and_does_not_plan(data, tmp_path):
    run = tmp_path / "run"
    rawgan("train", "infogan", "--data", data, *SIZES, "--out", run)
    rawgan("train", "--resume", run, "--steps", 6)
    assert list(checkpoints(run)) == [4, 6]
    refused(("train", "infogan", "--path", "planned"), "--path is no option")


class TestClassified:
    def share(self, data, monkeypatch, read):
        """Return the share where D reads read(labels) from the images."""
        training = InfoGANTraining(tiny(data), tiny(data).load_images(), CPU)
        labels = iter(np.array_split(training.images.labels, 3))
        monkeypatch.setattr(infogan, "CHUNK", 40)
        monkeypatch.setattr(training.model, "categories", lambda x: read(next(labels)))
        return classified(training)

    def test_any_order_of_the_categories_will_do(self, data, monkeypatch):
        for read in (lambda labels: labels, lambda labels: (3 * labels + 1) % 10):
            assert self.share(data, monkeypatch, read) == 1.0

    def test_two_digits_in_one_category_and_one_in_two(self, data, monkeypatch):
        assert self.share(data, monkeypatch, lambda labels: labels // 2) == 0.5
        halves = self.share(data, monkeypatch, lambda labels: np.arange(len(labels)) % 2)
        assert halves == pytest.approx(0.2)

    def test_without_labels(self, unlabelled):
        options = tiny(unlabelled, form="gaussian")
        training = InfoGANTraining(options, options.load_images(), CPU)
        with pytest.raises(UserError, match="has no labels to compare"):
            classified(training)


class TestSample:
    @pytest.mark.parametrize("form", ["book", "gaussian"])
    def test_noise_codes_and_categories(self, form, data, tmp_path):
        """The images are those of G for drawn noise and codes, and categories in turn or fixed."""
        told, run = tiny(data, form=form, batch=16), tmp_path / "run"
        start(told, CPU, run)
        training = open_training(told, CPU)
        arrays = load_weights(run / "weights.safetensors").items()
        training.model.generator_optimizer.parameters.load(
            {n.removeprefix("generator."): a for n, a in arrays if n.startswith("generator.")}
        )
        rng = Random(3).stream("z")
        z = rng.uniform(-1, 1, (12, infogan.Z)).astype(np.float32)
        values = training.form.draw(rng, (12, infogan.CODES))
        for label, k in (((), np.arange(12) % 10), (("--label", 7), np.full(12, 7))):
            out = tmp_path / f"{len(label)}.npy"
            rawgan("sample", run, "--count", 12, "--seed", 3, *label, "--out", out)
            assert_same(np.load(out), training.images_of(z, k, values))
        refused(("sample", run, "--label", "a"), "infogan knows the labels 0 to 9, not a")
        refused(("export", run, "--out", tmp_path / "g.onnx"), "CodeInput")
        refused(("export", run, "--out", tmp_path / "g.safetensors"), "CodeInput")

    def test_names_of_the_classes(self, tmp_path):
        """Categories have the names of the classes where D learns them, else numbers."""
        images = np.random.default_rng(0).integers(256, size=(16, 8, 8), dtype=np.uint8)
        for name in ("cat", "dog", "owl"):
            write_class(tmp_path / "pets" / name, images)
        for form, names in (("book", ["cat", "dog", "owl"]), ("gaussian", ["0", "1", "2"])):
            run = tmp_path / form
            start(tiny(tmp_path / "pets", form=form, size=8, steps=1), CPU, run)
            assert json.loads((run / "config.json").read_text())["classes"] == names
            rawgan("sample", run, "--count", 4, "--label", names[2])
            recipe, _, _ = load_generator(run)
            assert recipe.classes == 3
