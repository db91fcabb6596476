"""Tiny runs for tests, and their comparison to the last bit."""

from pathlib import Path

from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.options import Options

TABLES = ("metrics.csv", "gradients.csv", "penalty_norms.csv")


class Killed(BaseException):
    """What ends a run at once."""


def options(recipe, **changes):
    """A run that is over in a second."""
    tiny = {"size": 16, "width": 4, "batch": 8, "steps": 40, "sample_every": 10, "checkpoint_every": 20, "device": "cpu"}
    return Options(recipe, **(tiny | changes))


def assert_same_run(got: Path, want: Path):
    """The last checkpoints have the same arrays and facts to the last bit, and the tables and pictures the same bytes."""
    (arrays, facts), (arrays_want, facts_want) = (load_checkpoint(list(checkpoints(run).values())[-1]) for run in (got, want))
    assert facts == facts_want
    assert arrays.keys() == arrays_want.keys() and any("optimizer" in name for name in arrays)
    for name, a in arrays.items():
        assert a.tobytes() == arrays_want[name].tobytes(), name
    names = [*TABLES, "weights.safetensors", *(f"samples/{path.name}" for path in (want / "samples").iterdir())]
    for name in names:
        if (want / name).exists():
            assert (got / name).read_bytes() == (want / name).read_bytes(), name
    assert len(list((got / "samples").iterdir())) == len(list((want / "samples").iterdir()))
