"""The judge: it learns, it is kept, and what is kept is checked; its metrics tell good samples from bad."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import files
from reference import assert_close
from safetensors.numpy import save

from rawgan.data import load
from rawgan.errors import UserError
from rawgan.layers import parameter_count, state
from rawgan.metrics import classifier
from rawgan.metrics.classifier import Classifier, judge_for, network, train_classifier, turned
from rawgan.metrics.evaluation import evaluate, part, splits


@pytest.fixture(scope="module")
def digits():
    return load("digits"), load("digits", split="test")


@pytest.fixture(scope="module")
def judge(digits):
    """Trained for 200 steps in the place of 2000."""
    return train_classifier(digits[0], steps=200)


def test_it_learns(judge, digits):
    assert judge.accuracy(digits[1]) > 0.95 and judge.classes == 10


def test_turns_are_learnt_where_there_are_no_labels(digits):
    train, test = (replace(images, labels=None) for images in digits)
    turner = train_classifier(train, steps=150)
    assert (turner.task, turner.classes) == ("quarter turns", 4) and turner.accuracy(test) > 0.7


def test_turned(rng):
    images = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    quarters = np.array([0, 1, 2, 3, 1])
    for got, image, q in zip(turned(images, quarters), images, quarters):
        np.testing.assert_array_equal(got, np.rot90(image, q))


@pytest.mark.parametrize("side, blocks, last", [(4, 2, 1), (8, 2, 2), (16, 2, 4), (28, 2, 7), (32, 2, 8), (64, 3, 8), (130, 4, 8)])
def test_the_network_fits_every_side(side, blocks, last, rng):
    net = network(side, 3, 7)
    assert sum(type(layer).__name__ == "Conv2d" for layer in net.layers) == blocks
    assert net.forward(rng.normal(size=(2, side, side, 3)).astype(np.float32))[0].shape == (2, 7)
    assert net.layers[-3].C == last**2 * min(16 * 2 ** (blocks - 1), 128)


def test_the_seed_decides(digits):
    sums = [train_classifier(digits[0], seed=s, steps=2).sha256 for s in (1, 1, 2)]
    assert sums[0] == sums[1] != sums[2]


def test_what_cannot_be_judged_is_refused(judge):
    with pytest.raises(UserError, match="side of at least 4"):
        network(3, 1, 10)
    with pytest.raises(TypeError, match="uint8 pictures, not float32"):
        judge.features(np.zeros((1, 16, 16, 1), np.float32))


def test_the_stored_judge_is_pytorchs(rng):
    """The published numbers' judge, trained by PyTorch, gives PyTorch's features from our layers."""
    from safetensors.torch import load_file
    from torch import nn

    from benchmarks.judge import WEIGHTS, Judge

    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    net.load_state_dict(load_file(WEIGHTS))
    net.double()
    images = rng.integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    x = torch.from_numpy(images[:, 2:30, 2:30].transpose(0, 3, 1, 2) / 255)
    ours = Judge()
    assert_close(ours.features(images), net[:-1](x).detach().numpy(), dtype=np.float32, terms=1568)
    np.testing.assert_array_equal(ours.classifier.judge(images[:, 2:30, 2:30])[1], net(x).argmax(1).numpy())
    assert ours.sha256 == "3d28a28dd9b342dd94b81098ea0e358c48e8055a28f462be8fd4aa341d22dc08"


SPOIL = {
    "cut short": lambda b: b[:-9],
    "empty": lambda b: b"",
    "a weight changed": lambda b: b[:-4] + b"\0\0\0\1",
    "a weight no number": lambda b: b[:-4] + b"\xff\xff\xff\x7f",
    "no header": lambda b: b"{}" + b[2:],
    "another digest": lambda b: b.replace(b'"sha256":"', b'"sha256":"x', 1)[:-1],
    "no digest": lambda b: b.replace(b'"sha256"', b'"sha257"', 1),
    "another name": lambda b: b.replace(b'"0.w"', b'"9.w"', 1),
    "another network": lambda b: save({"0.w": np.zeros(3, np.float32)}, {"sha256": "x"}),
}


class TestCache:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RAWGAN_DATA", str(tmp_path))
        monkeypatch.setattr(classifier, "STEPS", 3)
        return tmp_path

    def test_the_second_time_it_is_read(self, digits, cache, monkeypatch):
        first = judge_for(digits[0])
        monkeypatch.setattr(classifier, "train_classifier", None)
        again = judge_for(digits[0])
        assert again.sha256 == first.sha256 and len(files(cache)) == 1
        np.testing.assert_array_equal(again.features(digits[1].images[:9]), first.features(digits[1].images[:9]))

    def test_other_data_seed_or_training_is_another_judge(self, digits, cache, monkeypatch):
        train, _ = digits
        judge_for(train)
        judge_for(train, seed=1)
        judge_for(part(train, np.arange(1000)))
        judge_for(replace(train, labels=train.labels[::-1]))
        judge_for(replace(train, labels=None, name="../../evil name"))
        monkeypatch.setattr(classifier, "STEPS", 4)
        judge_for(train)
        assert len(files(cache / "judges")) == len(files(cache)) == 6

    @pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
    def test_a_corrupt_judge_is_said_and_kept(self, digits, cache, spoil):
        judge_for(digits[0])
        (path,) = (cache / "judges").iterdir()
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(UserError, match="delete it, and it is trained again") as error:
            judge_for(digits[0])
        assert str(path) in str(error.value) and path.exists()

    def test_a_cache_that_cannot_be_made_is_named(self, digits, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "file"))
        with pytest.raises(UserError, match="RAWGAN_DATA"):
            judge_for(digits[0])


@pytest.fixture(scope="module")
def table(judge, digits):
    """Of one digit, drawn well: what mode collapse looks like."""
    train, test = digits
    threes = train.images[train.labels == 3][:300]
    return evaluate(threes, np.arange(300) % 10, part(train, slice(0, 2000)), test, judge)


class TestEvaluation:
    def test_the_floor_is_low_and_noise_is_high(self, table):
        assert table["train"]["frechet"] < table["samples"]["frechet"] < table["noise"]["frechet"]
        assert table["train"]["kid"] < table["samples"]["kid"] < table["noise"]["kid"]
        assert table["noise"]["precision"] == table["noise"]["recall"] == 0

    def test_collapse_shows(self, table):
        samples, train = table["samples"], table["train"]
        assert samples["precision"] > 0.7 and samples["recall"] < 0.3 < train["recall"]
        assert samples["class_entropy"] < 0.2 and train["class_entropy"] > 2.2
        assert samples["conditional_accuracy"] < 0.15 and train["conditional_accuracy"] > 0.95

    def test_copies_show(self, table):
        """The training pictures themselves are all copies, as most of the threes are not among those it compares with."""
        assert table["train"]["copies"] == 1 and table["train"]["nearest"] == 0 and table["noise"]["copies"] == 0

    def test_the_seed_decides(self, judge, digits):
        train, test = (part(images, slice(0, 300)) for images in digits)
        got = [evaluate(train.images[:50], None, train, test, judge, seed=s) for s in (1, 1, 2)]
        assert got[0] == got[1] != got[2] and "conditional_accuracy" not in got[0]["samples"]

    def test_too_few(self, judge, digits):
        with pytest.raises(UserError, match="3 samples"):
            evaluate(digits[0].images[:3], None, *digits, judge)

    def test_splits(self, tmp_path, rng):
        train, test, said = splits("digits", None, None)
        assert len(train) == len(test) == 8192 and said == "its own test split"
        images = rng.integers(0, 256, (60, 4, 4), dtype=np.uint8)
        np.save(tmp_path / "x.npy", images)
        train, test, said = splits(str(tmp_path / "x.npy"), None, None)
        assert (len(train), len(test)) == (50, 10) and "no test split" in said
        both = np.concatenate([train.images, test.images])[..., 0]
        np.testing.assert_array_equal(np.sort(both.reshape(60, -1), 0), np.sort(images.reshape(60, -1), 0))


def test_the_digest_is_of_all_weights(judge):
    net = network(16, 1, 10)
    assert parameter_count(net) == parameter_count(judge.net)
    for name, a in state(judge.net).items():
        net.params[name][...] = a
    assert Classifier(net, 10).sha256 == judge.sha256
    net.params["0.b"][3] += 1e-6
    assert Classifier(net, 10).sha256 != judge.sha256
