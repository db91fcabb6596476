"""The classifier of the evaluation: its training, its checked cache, and its metrics."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from rawgan.data import Images, load
from rawgan.errors import UserError
from rawgan.init import he_uniform
from rawgan.layers import parameter_count, state
from rawgan.metrics import classifier
from rawgan.metrics.classifier import (
    Classifier,
    load_or_train_classifier,
    network,
    train_classifier,
    turned,
)
from rawgan.metrics.evaluation import evaluate, part, splits
from rawgan.optim import Adam
from rawgan.random import Random
from tests.support.data_files import files
from tests.support.reference import assert_close


@pytest.fixture(scope="module")
def digits():
    return load("digits"), load("digits", split="test")


@pytest.fixture(scope="module")
def trained(digits):
    """Return a classifier trained for 200 steps instead of 2000."""
    return train_classifier(digits[0], steps=200)


def test_it_learns(trained, digits):
    assert trained.accuracy(digits[1]) > 0.95 and trained.classes == 10


def test_turns_are_learnt_where_there_are_no_labels(digits):
    train, test = (replace(images, labels=None) for images in digits)
    turner = train_classifier(train, steps=150)
    assert (turner.task, turner.classes) == ("quarter turns", 4) and turner.accuracy(test) > 0.7


def test_a_turner_is_asked_for_all_four_turns(digits):
    turner = Classifier(network(16, 1, 4), 4, "quarter turns")
    labels, _ = turner.answers(part(digits[1], slice(0, 40)))
    assert (np.bincount(labels, minlength=4) == 10).all()


def test_the_rate_falls_along_a_cosine(digits, monkeypatch):
    rates = []

    class Watched(Adam):
        def update(self, *args, **slots):
            rates.append(self.lr)
            super().update(*args, **slots)

    monkeypatch.setattr(classifier, "Adam", Watched)
    train_classifier(digits[0], steps=8)
    assert_close(
        np.array(rates), 2e-3 * np.cos(np.pi * np.arange(8) / 16) ** 2
    )  # (1 + cos 2x) / 2 = cos(x)^2


def test_turned(rng):
    images = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    quarters = np.array([0, 1, 2, 3, 1])
    for got, image, q in zip(turned(images, quarters), images, quarters):
        np.testing.assert_array_equal(got, np.rot90(image, q))


@pytest.mark.parametrize(
    "side, blocks, last",
    [(4, 2, 1), (8, 2, 2), (16, 2, 4), (28, 2, 7), (32, 2, 8), (64, 3, 8), (130, 4, 8)],
)
def test_the_network_fits_every_side(side, blocks, last, rng):
    net = network(side, 3, 7)
    assert sum(type(layer).__name__ == "Conv2d" for layer in net.layers) == blocks
    assert net.forward(rng.normal(size=(2, side, side, 3)).astype(np.float32))[0].shape == (2, 7)
    assert net.layers[-3].C == last**2 * min(16 * 2 ** (blocks - 1), 128)


def test_the_seed_decides(digits):
    sums = [train_classifier(digits[0], seed=s, steps=2).sha256 for s in (1, 1, 2)]
    assert sums[0] == sums[1] != sums[2]


def test_what_cannot_be_judged_is_refused(trained):
    with pytest.raises(UserError, match="side of at least 4"):
        network(3, 1, 10)
    with pytest.raises(TypeError, match="uint8 pictures, not float32"):
        trained.features(np.zeros((1, 16, 16, 1), np.float32))


def test_the_stored_judge_is_pytorchs(rng):
    """The judge of the published numbers, trained by PyTorch, has the same features in rawgan."""
    from safetensors.torch import load_file
    from torch import nn

    from benchmarks.quality.judge import WEIGHTS, Judge

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
    np.testing.assert_array_equal(
        ours.classifier.classify(images[:, 2:30, 2:30])[1], net(x).argmax(1).numpy()
    )
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
        first = load_or_train_classifier(digits[0])
        monkeypatch.setattr(classifier, "train_classifier", None)
        again = load_or_train_classifier(digits[0])
        assert again.sha256 == first.sha256 and len(files(cache)) == 1
        np.testing.assert_array_equal(
            again.features(digits[1].images[:9]), first.features(digits[1].images[:9])
        )

    def test_other_data_seed_or_training_is_another_classifier(self, digits, cache, monkeypatch):
        train, _ = digits
        load_or_train_classifier(train)
        load_or_train_classifier(train, seed=1)
        load_or_train_classifier(part(train, np.arange(1000)))
        load_or_train_classifier(replace(train, labels=train.labels[::-1]))
        load_or_train_classifier(replace(train, labels=None, name="../../evil name"))
        monkeypatch.setattr(classifier, "STEPS", 4)
        load_or_train_classifier(train)
        assert len(files(cache / "judges")) == len(files(cache)) == 6

    @pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
    def test_a_corrupt_classifier_is_said_and_kept(self, digits, cache, spoil):
        load_or_train_classifier(digits[0])
        (path,) = (cache / "judges").iterdir()
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(UserError, match="delete it, and it is trained again") as error:
            load_or_train_classifier(digits[0])
        assert str(path) in str(error.value) and path.exists()

    def test_a_cache_that_cannot_be_made_is_named(self, digits, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "file"))
        with pytest.raises(UserError, match="RAWGAN_DATA"):
            load_or_train_classifier(digits[0])


@pytest.fixture(scope="module")
def table(trained, digits):
    """Return the table of a perfect generator of one digit, an example of mode collapse."""
    train, test = digits
    threes = train.images[train.labels == 3][:300]
    return evaluate(threes, np.arange(300) % 10, part(train, slice(0, 2000)), test, trained)


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
        """All training images count as copies of themselves, and noise images do not."""
        assert (
            table["train"]["copies"] == 1
            and table["train"]["nearest"] == 0
            and table["noise"]["copies"] == 0
        )

    def test_the_seed_decides(self, trained, digits):
        train, test = (part(images, slice(0, 300)) for images in digits)
        got = [evaluate(train.images[:50], None, train, test, trained, seed=s) for s in (1, 1, 2)]
        assert got[0] == got[1] != got[2] and "conditional_accuracy" not in got[0]["samples"]

    def test_too_few(self, trained, digits):
        with pytest.raises(UserError, match="3 samples"):
            evaluate(digits[0].images[:3], None, *digits, trained)

    def test_splits(self, tmp_path, rng):
        train, test, description = splits("digits", None, None)
        assert len(train) == len(test) == 8192 and description == "its own test split"
        images = rng.integers(0, 256, (60, 4, 4), dtype=np.uint8)
        np.save(tmp_path / "x.npy", images)
        train, test, description = splits(str(tmp_path / "x.npy"), None, None)
        assert (len(train), len(test)) == (50, 10) and "no test split" in description
        both = np.concatenate([train.images, test.images])[..., 0]
        np.testing.assert_array_equal(
            np.sort(both.reshape(60, -1), 0), np.sort(images.reshape(60, -1), 0)
        )


def test_the_digest_is_of_all_weights(trained):
    net = network(16, 1, 10)
    assert parameter_count(net) == parameter_count(trained.net)
    for name, a in state(trained.net).items():
        net.params[name][...] = a
    assert Classifier(net, 10).sha256 == trained.sha256
    net.params["0.b"][3] += 1e-6
    assert Classifier(net, 10).sha256 != trained.sha256


class TestTask:
    @pytest.mark.parametrize("label", [0, 8])
    def test_one_class_is_no_task(self, digits, label):
        """The judge of pictures of one class learns quarter turns, and learns them."""
        train = part(digits[0], digits[0].labels == label)
        judge = train_classifier(train, steps=20)
        assert (judge.task, judge.classes) == ("quarter turns", 4)
        first = network(16, 1, 4, classifier.settings(len(train))[1])
        he_uniform(first, Random(0).stream("judge weights"))
        assert any((a != state(judge.net)[name]).any() for name, a in state(first).items())

    def test_two_are(self, digits):
        train = part(digits[0], np.isin(digits[0].labels, (0, 8)))
        assert train_classifier(train, steps=1).task == "classes"

    @pytest.mark.parametrize("N, steps, features", [(2000, 2000, 128), (1999, 1999, 64)])
    def test_a_large_set_has_the_judge_that_it_had(self, N, steps, features):
        assert classifier.settings(N) == (steps, features)

    @pytest.mark.parametrize("N", [8, 60, 499, 500, 1999])
    def test_a_small_set_has_a_smaller_judge(self, N):
        steps, features = classifier.settings(N)
        assert steps < 2000 and steps >= 300 and features == (64 if N >= 500 else 32)


class TestChance:
    """A judge that guesses is refused, one that has learned little is not."""

    class Fixed(Classifier):
        def __init__(self, classes, predicted):
            super().__init__(network(16, 1, classes, 32), classes)
            self.predicted = predicted

        def classify(self, images, batch=500, on_batch=None):
            return np.zeros((len(images), 32)), self.predicted

    def pictures(self, labels):
        return Images(np.zeros((len(labels), 16, 16, 1), np.uint8), labels, "x", "", "")

    @pytest.mark.parametrize("K", [2, 3, 10, 37])
    def test_guesses_are_refused_and_better_ones_taken(self, K, rng):
        labels = np.arange(40 * K) % K
        for accuracy in (rng.permutation(labels), np.zeros_like(labels), (labels + 1) % K):
            with pytest.raises(UserError, match="where guessing finds"):
                self.Fixed(K, accuracy).require_better_than_chance(self.pictures(labels))
        accuracy = np.where(rng.random(len(labels)) < 0.4, labels, rng.permutation(labels))
        right = self.Fixed(K, accuracy).require_better_than_chance(self.pictures(labels))
        assert right == (accuracy == labels).mean()

    def test_a_judge_that_always_finds_the_most_frequent_class_guesses(self):
        labels = np.array([0] * 190 + [1] * 10)
        judge = self.Fixed(2, np.zeros(200, int))
        with pytest.raises(UserError, match="finds 50%"):
            judge.require_better_than_chance(self.pictures(labels))
        judge = self.Fixed(2, labels)
        assert judge.require_better_than_chance(self.pictures(labels)) == 1

    @pytest.mark.parametrize("counts", [(100, 100), (400, 25), (40, 50, 60, 70)], ids=str)
    def test_the_limit_is_twice_the_standard_error(self, counts):
        """Just below this mean accuracy of K classes a judge is refused, just above it is taken.

        With n[k] pictures of class k: 1/K + 2 sqrt( sum over k of 1/K (1 - 1/K) / n[k] ) / K.
        """
        K, labels = len(counts), np.repeat(np.arange(len(counts)), counts)
        limit = 1 / K + 2 * np.sqrt(sum((1 / K) * (1 - 1 / K) / n for n in counts)) / K
        right = np.floor(limit * np.array(counts)).astype(int)
        largest = int(np.argmax(counts))  # whose accuracy changes by the smallest amounts
        while (right / counts).mean() <= limit:
            right[largest] += 1
        for less, refused in ((1, True), (0, False)):
            right[largest] -= less
            predicted = (labels + 1) % K
            for k in range(K):
                predicted[np.flatnonzero(labels == k)[: right[k]]] = k
            right[largest] += less
            judge = self.Fixed(K, predicted)
            with pytest.raises(UserError, match="guess") if refused else nullcontext():
                judge.require_better_than_chance(self.pictures(labels))
