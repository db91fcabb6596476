"""The benchmark of small training sets with and without augmentation."""

import json
import sys

import pytest

from benchmarks.quality import few_images as benchmark
from rawgan.metrics.classifier import train_classifier


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """Return a function that gives the JSON of runs of four steps on drawn digits."""
    monkeypatch.setattr(
        benchmark, "load_or_train_classifier", lambda train: train_classifier(train, steps=2)
    )
    options = (
        "--data digits --size 16 --width 4 --count 40 20 --seed 3 --steps 4 --samples 300 --lr 5e-3"
    )
    folders = ["--pictures", str(tmp_path / "pictures"), "--out", str(tmp_path / "results.json")]

    def measure(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["few_images", *options.split(), *folders, *arguments])
        benchmark.main()
        return json.loads((tmp_path / "results.json").read_text())

    return measure


def test_benchmark(measure, tmp_path):
    """It writes the metrics of each mark, and of as many training and test images."""
    result = measure()
    assert len([*(tmp_path / "pictures").iterdir()]) == 6
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


def test_stopped_benchmark_goes_on(measure, tmp_path):
    """It makes the runs that its file lacks, and refuses a file of other settings."""
    out, options = tmp_path / "results.json", ("--count", "20", "--augment", "none", "ada")
    whole = measure(*options)
    out.write_text(json.dumps(whole | {"runs": [whole["runs"][0] | {"cpu_seconds": -1.0}]}))
    first, second = measure(*options)["runs"]
    assert first == whole["runs"][0] | {"cpu_seconds": -1.0}
    assert second["marks"] == whole["runs"][1]["marks"] and second["cpu_seconds"] >= 0
    with pytest.raises(SystemExit, match="has other settings: name another file"):
        measure(*options, "--steps", "5")
