"""examples/train_stackedgan.py as a user calls it: folder, pictures, resume, refusals."""

import numpy as np
import pytest
from PIL import Image

from rawgan.backend import CPU
from rawgan.training.checkpoint import checkpoints
from rawgan.training.systems.run import resume, start
from rawgan.training.systems.stackedgan import StackedGANOptions, StackedGANTraining, agreement
from tests.cli.test_cli import rawgan, refused
from tests.support.example_runs import assert_one_sentence, size_of, write_pictures
from tests.support.reference import assert_same
from tests.support.runs import assert_same_run, killed_at

SIZES = ("--width", 1, "--batch", 8, "--steps", 4, "--sample-every", 2, "--checkpoint-every", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


def tiny(data, **changes):
    sizes = {"width": 1, "steps": 4, "batch": 8, "sample_every": 2, "checkpoint_every": 2}
    return StackedGANOptions(source=str(data), **(sizes | changes))


def test_the_example_and_its_pictures(example, data, tmp_path):
    """The example leaves the bytes of the library, and pictures of the sizes of the page."""
    run = tmp_path / "run"
    code, out, err = example("train_stackedgan.py", "--data", data, *SIZES, "--out", run)
    assert code == 0, err
    assert "Parameters: encoder0 " in out and "discriminator0 " in out
    assert "encoder: reads the label of " in out + err
    assert "The encoder reads the wanted label from " in out
    names = [f"{kind}_{n:06}.png" for kind in ("step", "z0", "z1") for n in (0, 2, 4)]
    assert sorted(path.name for path in (run / "samples").iterdir()) == names
    assert size_of(run / "samples/step_000004.png") == (4 * (10 * 17 + 1), 4 * (8 * 17 + 1))
    for name in ("z0", "z1"):
        path = run / f"samples/{name}_000004.png"
        assert size_of(path) == (4 * (11 * 17 + 1), 4 * (10 * 17 + 1))
        with Image.open(path) as picture:
            row = np.asarray(picture)[4:68, 4:]
        assert (row[:, :64] != row[:, 680:744]).any()
    start(tiny(data), CPU, tmp_path / "library")
    assert_same_run(run, tmp_path / "library")


def test_killed_and_resumed_is_the_same_run(data, tmp_path):
    """The encoder is trained once: a resumed run has that of its checkpoint."""
    assert start(tiny(data, steps=6), CPU, tmp_path / "straight") == (6, 6)
    with killed_at(3, StackedGANTraining):
        start(tiny(data, steps=6), CPU, tmp_path / "killed")
    assert list(checkpoints(tmp_path / "killed")) == [2]
    assert resume(tmp_path / "killed", CPU) == (6, 6)
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_the_encoder_learns_and_is_then_frozen(data, capsys):
    """It reads more labels after more epochs, and no step of the stacks changes it."""
    shares = []
    for epochs in (1, 60):
        options = tiny(data, encoder_epochs=epochs, width=2)
        training = StackedGANTraining(options, options.load_images(), CPU)
        training.train_encoder()
        line = capsys.readouterr().out
        shares.append(float(line.split("label of ")[1].split("%")[0]))
    assert shares[1] > shares[0] and shares[1] > 25
    encoder = {n: a.copy() for n, a in training.weights().items() if n.startswith("encoder")}
    for _ in range(2):
        training.model.train_step(*training.next_inputs())
    for name, a in encoder.items():
        assert_same(training.weights()[name], a)
    assert 0 <= agreement(training, 40) <= 1


def test_agreement_counts_the_wanted_labels(data, monkeypatch):
    options = tiny(data)
    training = StackedGANTraining(options, options.load_images(), CPU)
    monkeypatch.setattr(training.model.encoder, "read", lambda x: np.arange(len(x)) % 10)
    assert agreement(training, 40) == 1
    monkeypatch.setattr(training.model.encoder, "read", lambda x: np.zeros(len(x), int))
    assert agreement(training, 40) == pytest.approx(0.1)


def test_the_setting_of_the_book():
    book = StackedGANOptions(**StackedGANOptions.of_source)
    assert (book.source, book.size, book.width, book.batch) == ("mnist", 28, 32, 64)
    assert (book.steps, book.lr, book.encoder_epochs) == (10_000, 2e-4, 10)


@pytest.mark.parametrize(
    "args, words",
    [
        (("--lr", 0), "learning rate"),
        (("--batch", 121), "cannot be drawn from the 120 pictures"),
        (("--size", 18), "multiple of 4"),
    ],
)
def test_bad_input(example, data, args, words, tmp_path):
    told = ("--data", data, *SIZES, *args, "--out", tmp_path / "run")
    assert_one_sentence(example("train_stackedgan.py", *told), words)


def test_labels_are_needed(example, tmp_path):
    pictures = np.random.default_rng(1).integers(256, size=(40, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    answer = example("train_stackedgan.py", "--data", tmp_path / "pictures.npy", *SIZES)
    assert_one_sentence(answer, "needs labels")


def test_the_command_trains_resumes_and_does_not_plan(data, tmp_path):
    run = tmp_path / "run"
    rawgan("train", "stackedgan", "--data", data, *SIZES, "--out", run)
    rawgan("train", "--resume", run, "--steps", 6)
    assert list(checkpoints(run)) == [4, 6]
    refused(("train", "stackedgan", "--path", "planned"), "--path is no option")
