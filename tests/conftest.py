"""What every test has: one torch thread, the same examples on every run, memory that is never zero by luck, and the devices."""

import os
import runpy
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from example_runs import EXAMPLES
from hypothesis import settings

from rawgan.backend import choose_device
from rawgan.data import load
from rawgan.training import loop, session, trainer

torch.set_num_threads(1)
settings.register_profile("rawgan", deadline=None, derandomize=True)
settings.load_profile("rawgan")


# so that mpirun starts two processes whoever the user is, and however many cores there are
os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
os.environ["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"

collect_ignore_glob = [] if find_spec("triton") else ["test_kernels*.py"]


def pytest_report_header():
    """Says what is left out where Triton has no wheel."""
    return "kernels: not tested, Triton is not installed" if collect_ignore_glob else None


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` are skipped, and counted, where there is none; the summary says why."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (device := choose_device()).name != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {device.why}"))


@pytest.fixture(scope="session", params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """The devices that a test is run on: the same cases with NumPy and, where there is a GPU, with CuPy."""
    return choose_device(request.param)


@pytest.fixture(scope="session", autouse=True)
def poisoned_empty():
    """np.empty hands out NaN instead of whatever lay there, so an entry that nobody wrote shows."""
    empty = np.empty

    def poisoned(*args, **kwargs):
        a = empty(*args, **kwargs)
        if a.dtype.kind == "f":
            a.fill(np.nan)
        return a

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", poisoned)
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def example(monkeypatch, capsys):
    """An example in this process: (exit status, stdout, stderr)."""

    def call(script, *args):
        monkeypatch.setattr(sys, "argv", [script, *map(str, args), "--device", "cpu"])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return leaving.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def nothing_plotted():
    """For tests of runs: the digits are drawn once, and nothing is plotted, which would take longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "load", cache(load))
        patch.setattr(loop, "save_curves", lambda *_: None)
        for name in ("save_gradients", "save_norms", "save_progress"):
            patch.setattr(trainer, name, lambda *_: None)
        yield
