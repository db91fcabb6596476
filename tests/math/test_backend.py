"""Devices of arrays, and the imports of the source."""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rawgan import backend
from rawgan.backend import (
    CPU,
    Device,
    array_module,
    choose_device,
    to_host,
)
from rawgan.errors import UserError
from rawgan.ops import act, conv, linear, norm
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]


class CupyArray:
    """Stand-in with the part of a CuPy array that array_module and to_host use."""

    def __init__(self, a):
        self.a, self.shape = a, a.shape

    def get(self):
        return self.a


CupyArray.__module__ = "cupy._core.core"


# Arrays and devices


def test_array_module():
    assert array_module(np.ones(3)) is array_module(np.ones(3), None, np.float32(1)) is np


@pytest.mark.parametrize(
    "arrays",
    [(np.ones((2, 3)), CupyArray(np.ones(4))), (CupyArray(np.ones(4)), None, np.ones((2, 3)))],
)
def test_mixed_arrays(arrays):
    with pytest.raises(TypeError, match=r"NumPy and CuPy are mixed") as error:
        array_module(*arrays)
    assert "numpy (2, 3)" in str(error.value) and "cupy (4,)" in str(error.value)


@pytest.mark.parametrize("thing", [1.0, [1.0], "x"])
def test_no_array(thing):
    with pytest.raises(
        TypeError, match=f"expected NumPy or CuPy arrays, got numpy, {type(thing).__module__}"
    ):
        array_module(np.ones(3), thing)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: linear.linear(a, b),
        lambda a, b: linear.linear_dx(a, b),
        lambda a, b: linear.linear_dw(a, b),
        lambda a, b: conv.conv2d(a, b),
        lambda a, b: conv.conv2d_dx(a, b, (4, 4)),
        lambda a, b: conv.conv2d_dw(a, b, 3),
        lambda a, b: act.relu_dx(a, b),
        lambda a, b: norm.normalize_dx(a, b, b, (0,)),
    ],
)
def test_operations_refuse_mixed_arrays(call):
    with pytest.raises(TypeError, match="mixed"):
        call(np.ones((2, 4, 4, 3)), CupyArray(np.ones((2, 4, 4, 3))))


def test_to_host():
    a = np.arange(3)
    assert to_host(a) is a
    assert to_host(CupyArray(a)) is a
    assert CPU.asarray(CupyArray(a)) is a


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(backend, "_cupy", lambda: (None, "the driver is on holiday"))
    assert choose_device("cpu") is CPU and CPU.xp is np
    assert (
        choose_device()
        == choose_device("auto")
        == Device("cpu", "NumPy", "the driver is on holiday")
    )
    with pytest.raises(
        UserError,
        match="--device gpu was asked for, but the driver is on holiday; use --device cpu, or auto",
    ):
        choose_device("gpu")


class CUDARuntimeError(RuntimeError):
    """Stand-in for CuPy's error."""


def raise_(error):
    raise error


DRIVERS = {  # versions of driver and runtime, the number of GPUs or the error, and the reason
    "no driver": (0, 12090, 0, "no NVIDIA driver is installed here"),
    "too old": (11040, 12090, 1, "driver is for CUDA 11 and CuPy 14.2 for CUDA 12: update the"),
    "an older minor version": (12000, 12090, 1, ""),
    "newer": (13000, 12090, 1, ""),
    "no GPU": (12090, 12090, CUDARuntimeError("cudaErrorNoDevice: none"), "no NVIDIA GPU was"),
    "none counted": (12090, 12090, 0, "no NVIDIA GPU was found here"),
    "another": (12090, 12090, CUDARuntimeError("cudaErrorUnknown: x"), "14.2 finds no NVIDIA GPU"),
}


@pytest.mark.parametrize("driver, needed, count, reason", DRIVERS.values(), ids=DRIVERS)
def test_driver_fault(driver, needed, count, reason):
    runtime = SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: needed,
        getDeviceCount=lambda: raise_(count) if isinstance(count, Exception) else count,
        CUDARuntimeError=CUDARuntimeError,
    )
    cupy = SimpleNamespace(__version__="14.2", cuda=SimpleNamespace(runtime=runtime))
    fault = backend._driver_fault(cupy)
    assert reason in fault if reason else fault == ""


def test_cupy_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert backend._cupy.__wrapped__() == (None, "CuPy is not installed")


def test_gpu(monkeypatch):
    properties = {"major": 9, "minor": 0}
    runtime = SimpleNamespace(
        getDevice=lambda: 3,
        getDeviceProperties=lambda n: {"name": f"H{n}00".encode(), **properties},
    )
    cupy = SimpleNamespace(
        __version__="14.2", cuda=SimpleNamespace(runtime=runtime), asarray=CupyArray
    )
    monkeypatch.setattr(backend, "_cupy", lambda: (cupy, ""))
    for wish in ("auto", "gpu"):
        device = choose_device(wish)
        assert device == Device("gpu", "CuPy", "H300 found by CuPy 14.2", capability=90)
        assert device.xp is cupy is array_module(device.asarray(np.ones(2)))
    assert choose_device("cpu") is CPU


def test_unknown_device():
    with pytest.raises(UserError, match="device 'tpu' is not known; choose auto, cpu or gpu"):
        choose_device("tpu")


# Elementwise


# The source


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_import_is_light():
    """Importing anything but kernels imports neither PyTorch nor CuPy nor Triton."""
    code = """
import importlib, sys, rawgan
from pathlib import Path
folder = Path(rawgan.__file__).parent
for path in sorted(folder.rglob("*.py")):
    name = ".".join(["rawgan", *path.relative_to(folder).with_suffix("").parts])
    if not name.startswith(("rawgan.kernels", "rawgan.planned")) and not name.endswith("__main__"):
        importlib.import_module(name.removesuffix(".__init__"))
assert "rawgan.layers.conv" in sys.modules
print(sorted({"torch", "cupy", "triton"} & sys.modules.keys()))
"""
    done = run_process([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def names_of_xp(path):
    """Return the names that a file uses of xp or array_module(...), such as linalg.norm."""
    for expression in ast.walk(ast.parse(path.read_text())):
        node, chain = expression, []
        while isinstance(node, ast.Attribute):
            chain, node = [node.attr, *chain], node.value
        called = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "array_module"
        )
        if chain and (called or (isinstance(node, ast.Name) and node.id == "xp")):
            yield ".".join(chain)


def test_cupy_has_every_name():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    used = {name for path in sources("rawgan") for name in names_of_xp(path)}
    assert {"matmul", "tanh", "lib.stride_tricks.as_strided"} <= used
    assert [name for name in sorted(used) if not has(cupy, name)] == []


def has(module, name):
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True
