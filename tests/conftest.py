"""Fixtures of all tests: one torch thread, fixed examples, np.empty filled with NaN, devices."""

import os
import runpy
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import settings

from rawgan.backend import choose_device
from rawgan.cpu import set_up
from rawgan.data import digits, load
from rawgan.training import callbacks as trainer
from rawgan.training import loop, session
from tests.support.example_runs import EXAMPLES
from tests.support.figures import Figures

set_up()
torch.set_num_threads(1)
settings.register_profile("rawgan", deadline=None, derandomize=True)
settings.load_profile("rawgan")

# matplotlib reads no settings and no list of fonts of the user; workers and commands inherit this,
# and the list that is written here
if "PYTEST_XDIST_WORKER" not in os.environ:
    MATPLOTLIB_FOLDER = TemporaryDirectory(prefix="rawgan-matplotlib-")
    os.environ["MPLCONFIGDIR"] = MATPLOTLIB_FOLDER.name
    import_module("matplotlib.font_manager")

# lets mpirun start two processes for any user and any number of cores
os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
os.environ["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"

collect_ignore_glob = [] if find_spec("triton") else ["test_kernels*.py"]


def pytest_report_header():
    """Report what is not tested where Triton has no wheel."""
    return "kernels: not tested, Triton is not installed" if collect_ignore_glob else None


def pytest_collection_modifyitems(items):
    """Skip tests marked `gpu` where there is no GPU, and report their number and the reason."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (device := choose_device()).name != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {device.reason}"))


@pytest.fixture(scope="session", params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """Run a test with NumPy and, where there is a GPU, with CuPy."""
    return choose_device(request.param)


@pytest.fixture(scope="session", autouse=True)
def poisoned_empty():
    """Make np.empty return NaN, so that an entry that was never written is detected."""
    empty = np.empty

    def poisoned(*args, **kwargs):
        a = empty(*args, **kwargs)
        if a.dtype.kind == "f":
            a.fill(np.nan)
        return a

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", poisoned)
        yield


@pytest.fixture(scope="session", autouse=True)
def digits_drawn_once():
    """Draw each set of digits once in a process: it takes longer than most tests."""
    original = digits.digits

    @cache
    def drawn(*args, **kwargs):
        images = original(*args, **kwargs)
        images.images.flags.writeable = images.labels.flags.writeable = False
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "digits", drawn)
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def figures(request, capsys):
    """Return the Figures of a test; those of a slow test are printed in one line at its end."""
    result = Figures()
    yield result
    if request.node.get_closest_marker("slow"):
        with capsys.disabled():
            print(f"\n{request.node.name}: {result}")


@pytest.fixture
def example(monkeypatch, capsys):
    """Run an example in this process; return (exit status, stdout, stderr)."""

    def call(script, *args):
        monkeypatch.setattr(sys, "argv", [script, *map(str, args), "--device", "cpu"])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return leaving.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def nothing_plotted():
    """Draw the digits once and plot nothing, as plots take longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "load", cache(load))
        patch.setattr(loop, "save_curves", lambda *_: None)
        for name in ("save_gradients", "save_norms", "save_progress"):
            patch.setattr(trainer, name, lambda *_: None)
        yield
