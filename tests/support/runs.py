"""Tiny runs for tests, and their bitwise comparison."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.options import Options

TABLES = ("metrics.csv", "gradients.csv", "penalty_norms.csv")
SCORES = {  # of an evaluation.json
    "frechet": 12.5,
    "kid": 3.0,
    "kid_std": 0.25,
    "precision": 0.5,
    "recall": 0.25,
    "nearest": None,
    "copies": 0.01,
}


class Killed(BaseException):
    """Exception that ends a run at once."""


@contextmanager
def killed_at(step: int, training: type) -> Iterator[None]:
    """Raise Killed, and expect it, where a training is about to go on from `step`."""
    original = training.run_steps

    def run_steps(self, last):
        if self.done == step:
            raise Killed
        return original(self, last)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "run_steps", run_steps)
        yield


def options(recipe, **changes):
    """Return the options of a run that takes about a second."""
    tiny = {
        "size": 16,
        "width": 4,
        "batch": 8,
        "steps": 40,
        "sample_every": 10,
        "checkpoint_every": 20,
        "device": "cpu",
    }
    return Options(recipe, **(tiny | changes))


def assert_same_run(got: Path, want: Path):
    """Assert that two runs have the same last checkpoint, tables and images, byte for byte."""
    (arrays, state), (arrays_want, state_want) = (
        load_checkpoint(list(checkpoints(run).values())[-1]) for run in (got, want)
    )
    assert state == state_want
    assert arrays.keys() == arrays_want.keys() and any("optimizer" in name for name in arrays)
    for name, a in arrays.items():
        assert a.tobytes() == arrays_want[name].tobytes(), name
    assert (
        list(checkpoints(got).values())[-1].read_bytes()
        == list(checkpoints(want).values())[-1].read_bytes()
    )
    names = [
        *TABLES,
        "weights.safetensors",
        *(f"samples/{path.name}" for path in (want / "samples").iterdir()),
    ]
    for name in names:
        if (want / name).exists():
            assert (got / name).read_bytes() == (want / name).read_bytes(), name
    assert len(list((got / "samples").iterdir())) == len(list((want / "samples").iterdir()))
