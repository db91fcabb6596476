"""The benchmark of small training sets with and without augmentation."""

import json
import sys

import pytest

from benchmarks.quality import few_images as benchmark
from rawgan.metrics.classifier import train_classifier


@pytest.fixture
def result(monkeypatch, tmp_path):
    """Return the JSON of a run of two steps on drawn digits."""
    monkeypatch.setattr(
        benchmark, "load_or_train_classifier", lambda train: train_classifier(train, steps=2)
    )
    out, pictures = tmp_path / "results.json", tmp_path / "pictures"
    options = (
        "--data digits --size 16 --width 4 --count 40 20 --seed 3 --steps 4 --samples 300 --lr 5e-3"
    )
    folders = ["--pictures", str(pictures), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["few_images", *options.split(), *folders])
    benchmark.main()
    assert len([*pictures.iterdir()]) == 6
    return json.loads(out.read_text())


def test_benchmark(result):
    """It writes the metrics of each mark, and of as many training and test images."""
    cases = [(count, augment) for count in (40, 20)
             for augment in ("none", "color,translation,cutout", "ada")]  # fmt: skip
    assert [(run["count"], run["augment"]) for run in result["runs"]] == cases
    assert result["settings"]["steps"] == 4 and not {"out", "pictures"} & {*result["settings"]}
    for run in result["runs"]:
        assert list(run["marks"]) == ["1", "2", "3", "4"] and run["seed"] == 3
        for scores in run["marks"].values():
            assert scores["frechet"] > 0 and 0 <= scores["copies"] <= 1
            assert ("p" in scores) == (run["augment"] == "ada")
    assert all(scores["copies"] == 1 for scores in result["train"].values())
    assert all(scores["copies"] < 0.1 for scores in result["test"].values())
    first, second, third = (run["marks"]["4"] for run in result["runs"][:3])
    assert first != second
    assert first == {name: third[name] for name in first}  # ADA begins at p = 0
