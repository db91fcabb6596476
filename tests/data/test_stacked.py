"""Stacked MNIST: pictures, labels, origin of the digits; the count of modes; the example."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import stacked as benchmark
from rawgan.data import idx, load, stacked, summary
from rawgan.data.digits import digits
from rawgan.data.images import Images
from rawgan.errors import UserError
from rawgan.metrics.classes import kl_to_uniform, modes_covered
from rawgan.metrics.classifier import train_classifier

EXAMPLE = Path(__file__).parents[2] / "examples" / "stacked_mnist.py"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))


def numbered_digits(n: int = 40) -> Images:
    """Return pictures whose pixels are all their own number, of the digits 0, 1, ..., 9, 0, ..."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 1))
    return Images(images, np.arange(n) % 10, "numbered", "", "")


def test_a_picture_has_a_digit_in_each_channel():
    made = stacked.stacked(numbered_digits(), 500, seed=3)
    assert made.images.shape == (500, 4, 4, 3) and made.images.dtype == np.uint8
    assert (made.images == made.images[:, :1, :1]).all()
    hundreds, tens, ones = made.images[:, 0, 0].T.astype(np.int64) % 10
    np.testing.assert_array_equal(made.labels, 100 * hundreds + 10 * tens + ones)
    assert made.classes[7] == "007" and len(made.classes) == 1000
    other = stacked.stacked(numbered_digits(), 500, seed=4)
    assert not np.array_equal(made.images, other.images)
    np.testing.assert_array_equal(
        made.images, stacked.stacked(numbered_digits(), 500, seed=3).images
    )


def test_the_channels_are_independent():
    """The three digits are drawn independently: every mode has about 1/1000 of the pictures."""
    labels = stacked.stacked(numbered_digits(), 50_000).labels
    counts = np.bincount(labels, minlength=1000)
    assert counts.min() > 15 and counts.max() < 90  # 50 on average, standard deviation 7
    assert abs(kl_to_uniform(labels, 1000) - 999 / (2 * 50_000)) < 1e-3


def test_digits_of_fonts_where_mnist_is_not_here():
    made = load("stacked-mnist", 16)
    assert made.images.shape == (50_000, 16, 16, 3) and made.source.startswith("generated from 5")
    assert made.notes == ("three channels are digits of digits, drawn independently: 1,000 modes",)
    assert load("stacked-mnist", 16, 1, "test").images.shape == (10_000, 16, 16, 1)
    about = summary("stacked-mnist")
    assert (about.count, about.side, about.classes) == (50_000, 16, 1000)
    drawn = digits(size=16, seed=0)
    first = made.images[0, :, :, 2]
    assert (drawn.images[..., 0] == first).all((1, 2)).any()


def test_mnist_where_it_is_here(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    monkeypatch.setattr(idx, "is_here", lambda name, split: name == "mnist")
    monkeypatch.setattr(
        idx, "read_known", lambda name, split: (images, np.arange(30) % 10, Path("cache/mnist"))
    )
    made = load("stacked-mnist")
    assert made.images.shape == (50_000, 28, 28, 3) and made.source == "cache/mnist"
    assert made.licence.startswith("CC BY-SA") and "digits of mnist" in made.notes[0]
    assert summary("stacked-mnist").side == 28
    assert load("stacked-mnist", 32).images.shape[1:] == (32, 32, 3)


def test_whether_a_data_set_is_here(tmp_path):
    folder = tmp_path / "cache" / "mnist"
    folder.mkdir(parents=True)
    assert not idx.is_here("mnist", "train")
    for stem in idx.STEMS["train"]:
        assert not idx.is_here("mnist", "train")
        (folder / f"{stem}.gz").touch()
    assert idx.is_here("mnist", "train") and not idx.is_here("mnist", "test")


def test_modes_and_their_divergence():
    even, lost = np.arange(8), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert (modes_covered(even), modes_covered(lost)) == (8, 2)
    assert abs(kl_to_uniform(even, 8)) < 1e-15
    assert kl_to_uniform(lost, 8) == pytest.approx(np.log(4))
    assert kl_to_uniform(np.zeros(5, np.int64), 8) == pytest.approx(np.log(8))


def test_benchmark(monkeypatch, tmp_path):
    """The benchmark writes modes and KL of each run, and those of real pictures."""
    monkeypatch.setattr(
        benchmark, "load_or_train_classifier", lambda digits: train_classifier(digits, steps=2)
    )
    out = tmp_path / "results.json"
    options = ["--method", "r3gan", "--seed", "3", "4", "--steps", "1", "--samples", "64"]
    pictures = ["--pictures", str(tmp_path / "pictures"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["stacked", *options, *pictures])
    benchmark.main()
    result = json.loads(out.read_text())
    assert [(run["method"], run["seed"]) for run in result["runs"]] == [("r3gan", 3), ("r3gan", 4)]
    for run in result["runs"]:
        assert 1 <= run["modes"]["1"] <= 64 and 0 < run["kl"]["1"] <= np.log(1000)
    assert 1 <= result["real"]["modes"] <= 64
    assert result["digits"] == "digits" and result["samples"] == 64
    assert len([*(tmp_path / "pictures").iterdir()]) == 2


class TestExample:
    def run(self, monkeypatch, *args):
        monkeypatch.setattr(sys, "argv", ["stacked_mnist.py", *map(str, args)])
        monkeypatch.setattr(
            "rawgan.metrics.classifier.load_or_train_classifier",
            lambda digits: train_classifier(digits, steps=2),
        )
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    def test_each_method(self, monkeypatch, tmp_path, capsys):
        out = tmp_path / "out"
        with pytest.raises(SystemExit, match=r"^0$"):
            self.run(monkeypatch, "--steps", 1, "--samples", 64, "--out", out)
        printed = capsys.readouterr().out
        assert printed.startswith("Data: digits, generated from 5 DejaVu fonts with seed 0, three")
        for name in ("plain", "wgan_gp", "r3gan"):
            assert f"{name}: " in printed and (out / f"{name}.png").stat().st_size > 1000
        assert "of 1000 modes, KL " in printed

    def test_an_unknown_method(self, monkeypatch, tmp_path, capsys):
        with pytest.raises((SystemExit, UserError)):
            self.run(monkeypatch, "--method", "dcgan", "--out", tmp_path / "out")
        assert "choose all, plain, wgan_gp, r3gan" in " ".join(capsys.readouterr().err.split())
