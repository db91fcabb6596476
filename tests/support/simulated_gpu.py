"""A simulated GPU: a device named "gpu" whose arrays are NumPy's.

Runs on it are planned, and stop before the first step.
"""

import functools
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np

from rawgan import backend
from rawgan.training import session, train

UNPLANNED = "wgan_gp has the penalty R1, which the planned step does not support"
PLANNED = (
    "Path: planned in bf16 with Triton kernels on CuPy (auto, the fastest path on a GPU; "
    "compute capability 9.0"
)
SLOWER = "Path: arrays in fp32 with CuPy (auto, slower on a GPU than planned: {})."
NO_GPU = "Path: arrays in fp32 with NumPy (auto: the planned step needs a GPU)."
TINY = ("--batch", 4, "--steps", 1, "--width", 8, "--size", 28)


class SimulatedCuPy:
    """NumPy under CuPy's name, with a GPU of a compute capability."""

    __version__ = "14.2.0"

    def __init__(self, capability: tuple[int, int]):
        properties = {"name": b"Simulated GPU", "major": capability[0], "minor": capability[1]}
        runtime = SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda n: properties)
        self.cuda = SimpleNamespace(runtime=runtime)

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: None)

    def __getattr__(self, name):
        return getattr(np, name)


LOAD = functools.cache(session.load)  # the digits are drawn once for all tests


def simulate(monkeypatch, capability: tuple[int, int] | None = (9, 0)):
    """Simulate a GPU of this capability, or none, from now on."""
    library = (
        (None, "the driver is on holiday")
        if capability is None
        else (SimulatedCuPy(capability), "")
    )
    monkeypatch.setattr(backend, "_cupy", lambda: library)
    monkeypatch.setattr(session, "load", LOAD)
    monkeypatch.setattr(
        session.GraphRunner, "compile", lambda *_: None
    )  # tested by tests/kernels/test_kernels_pool.py
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def stop(monkeypatch):
    """End every run before its first step, from now on."""

    @contextmanager
    def recorded(session, run, board):
        """Yield a recorder of a training whose steps are all done, which writes nothing."""
        yield Mock(done=session.options.steps, steps=session.options.steps)

    monkeypatch.setattr(train, "recorded", recorded)


def resolved(run: Path) -> tuple[str, ...]:
    """Return the path in a run's config.json: requested, and resolved."""
    config = json.loads((run / "config.json").read_text())
    return tuple(
        config[name]
        for name in ("requested_path", "requested_precision", "path", "precision", "backend")
    )
