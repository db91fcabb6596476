"""Where arrays live, how batches are cut, and what the source may import."""

import ast
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from reference import assert_close, assert_same

from rawgan import backend
from rawgan.backend import CPU, Device, array_module, choose_device, elementwise, over_batch, to_host
from rawgan.errors import UserError
from rawgan.ops import act, conv, linear, norm

ROOT = Path(__file__).parents[1]


class CupyArray:
    """What array_module and to_host know of a CuPy array."""

    def __init__(self, a):
        self.a, self.shape = a, a.shape

    def get(self):
        return self.a


CupyArray.__module__ = "cupy._core.core"


# Arrays and devices


def test_array_module():
    assert array_module(np.ones(3)) is array_module(np.ones(3), None, np.float32(1)) is np


@pytest.mark.parametrize("arrays", [(np.ones((2, 3)), CupyArray(np.ones(4))), (CupyArray(np.ones(4)), None, np.ones((2, 3)))])
def test_mixed_arrays(arrays):
    with pytest.raises(TypeError, match=r"NumPy and CuPy are mixed") as error:
        array_module(*arrays)
    assert "numpy (2, 3)" in str(error.value) and "cupy (4,)" in str(error.value)


@pytest.mark.parametrize("thing", [1.0, [1.0], "x"])
def test_no_array(thing):
    with pytest.raises(TypeError, match=f"expected NumPy or CuPy arrays, got numpy, {type(thing).__module__}"):
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
    assert choose_device() == choose_device("auto") == Device("cpu", "NumPy", "the driver is on holiday")
    with pytest.raises(UserError, match="--device gpu was asked for, but the driver is on holiday; use --device cpu, or auto"):
        choose_device("gpu")


def test_gpu(monkeypatch):
    runtime = SimpleNamespace(getDevice=lambda: 3, getDeviceProperties=lambda n: {"name": f"H{n}00".encode()})
    cupy = SimpleNamespace(__version__="14.2", cuda=SimpleNamespace(runtime=runtime), asarray=CupyArray)
    monkeypatch.setattr(backend, "_cupy", lambda: (cupy, ""))
    for wish in ("auto", "gpu"):
        device = choose_device(wish)
        assert device == Device("gpu", "CuPy", "H300 found by CuPy 14.2")
        assert device.xp is cupy is array_module(device.asarray(np.ones(2)))
    assert choose_device("cpu") is CPU


def test_unknown_device():
    with pytest.raises(UserError, match="device 'tpu' is not known; choose auto, cpu or gpu"):
        choose_device("tpu")


# Parts of a batch


def test_blas_threads():
    """One, or as many as there were; of NumPy's library, whatever others are loaded."""
    program = (
        "import torch\nfrom threadpoolctl import threadpool_info as info\n"
        "def threads(numpys): return [one['num_threads'] for one in info() if ('numpy' in one['filepath']) is numpys]\n"
        "import numpy\nbefore = threads(True), threads(False)\nfrom rawgan.backend import blas\n"
        "assert threads(True) == [1] and threads(False) == before[1], info()\n"
        "blas.share(True)\nassert (threads(True), threads(False)) == before and blas.most == before[0][0], info()\n"
        "blas.share(False)\nassert threads(True) == [1], info()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"OPENBLAS_NUM_THREADS": "2"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "cores, N, sample_bytes, want",
    [
        (1, 5, 0, [(0, 5)]),
        (2, 5, 0, [(0, 3), (3, 5)]),
        (2, 1, 0, [(0, 1)]),
        (4, 5, 0, [(0, 2), (2, 4), (4, 5)]),
        (8, 3, 0, [(0, 1), (1, 2), (2, 3)]),
        (2, 7, 50, [(0, 2), (2, 4), (4, 6), (6, 7)]),
        (2, 3, 1000, [(0, 1), (1, 2), (2, 3)]),
        (2, 4, 1, [(0, 2), (2, 4)]),
        (2, 5, 50, [(0, 2), (2, 3), (3, 5)]),
        (2, 8, 30, [(0, 2), (2, 4), (4, 6), (6, 8)]),
        (2, 0, 0, []),
    ],
)
def test_parts(monkeypatch, cores, N, sample_bytes, want):
    """Consecutive, one for each core, or as many as it takes for each to fit the cache."""
    monkeypatch.setattr(backend, "CACHE", 100)
    with ThreadPoolExecutor(cores) as pool:
        monkeypatch.setattr(backend, "_threads", lambda: (pool, cores))
        got = over_batch(np, N, lambda n: (n.start, n.stop), sample_bytes)
    assert got == want


def test_order_of_parts(monkeypatch):
    """Is that of the batch, whichever is finished first."""
    monkeypatch.setattr(backend, "CACHE", 1)
    assert over_batch(np, 6, lambda n: time.sleep((6 - n.start) / 100) or n.start, 1) == [0, 1, 2, 3, 4, 5]


def test_error_in_a_part():
    with pytest.raises(ZeroDivisionError):
        over_batch(np, 6, lambda n: 1 // (n.stop - 6))


def test_one_part_on_the_gpu():
    assert over_batch(SimpleNamespace(), 5, lambda n: n, 2**40) == [slice(0, 5)]


@pytest.mark.parametrize("spread, want", [(40, [(0, 5)]), (39, [(0, 3), (3, 5)])])
def test_small_arrays_are_not_shared_out(monkeypatch, spread, want):
    monkeypatch.setattr(backend, "SPREAD", spread)
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(backend, "_threads", lambda: (pool, 2))
        assert backend.shared(np.ones(5), lambda n: (n.start, n.stop)) == want


def test_a_pass_inside_a_pass_is_one_part(monkeypatch):
    """Threads that waited for each other would never come back; so would softplus_dx2 of samples above SPREAD bytes."""
    monkeypatch.setattr(backend, "SPREAD", 0)
    x = np.ones(6)
    parts = backend.shared(x, lambda n: backend.shared(x[n], lambda m: (m.start, m.stop)))
    assert all(len(inner) == 1 for inner in parts)


def test_blas_has_one_thread_where_parts_are_shared_out():
    """And all that it had where a step says so."""

    def threads():
        return {one["num_threads"] for one in backend.blas.library.info()}

    backend.blas.share(True)
    assert max(threads()) == backend.blas.most
    over_batch(np, 2, lambda n: None)
    assert threads() == {1}


def test_parts_inside_a_part():
    """Are one, in the thread that asks and in the others, and the thread that asked shares out again afterwards."""
    sizes = over_batch(np, 6, lambda n: n.stop - n.start)
    for _ in range(2):
        assert over_batch(np, 6, lambda n: over_batch(np, n.stop - n.start, lambda m: m.stop)) == [[size] for size in sizes]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_shares_out():
    """It has none of the threads that there were, and must not wait for them."""
    code = """
import multiprocessing, numpy
from rawgan.backend import over_batch
parts = lambda: print(over_batch(numpy, 1000, lambda n: n.stop)[-1], flush=True)
parts()
child = multiprocessing.get_context("fork").Process(target=parts)
child.start()
child.join(30)
child.kill()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1000\n1000\n", "")


def test_kernels_take_an_array_at_once(monkeypatch):
    """Threads would change Triton's interpreter under each other."""
    monkeypatch.setattr(backend, "PART", 80)
    monkeypatch.setattr(backend, "SPREAD", 0)
    f = elementwise(lambda x: x + len(x))
    assert f(np.zeros((40, 10)))[0, 0] == 1
    with backend.use_kernels():
        assert f(np.zeros((40, 10)))[0, 0] == 40


def test_shared_means_are_the_same(monkeypatch, rng):
    x, y = rng.normal(size=(2, 7, 3, 2, 4))
    want = [norm.mean(axes, x, y) for axes in ((0, 1, 2), (1, 2), (1, 2, 3))]
    monkeypatch.setattr(backend, "SPREAD", 0)
    for axes, value in zip(((0, 1, 2), (1, 2), (1, 2, 3)), want):
        assert_close(norm.mean(axes, x, y), value)


# Elementwise


def arguments():
    """Every elementwise function, with arguments of all shapes that it is given; as many samples as channels, on purpose."""
    full, batch, sample, channel, row = (6, 4, 5, 6), (1, 1, 1, 6), (6, 1, 1, 1), (6, 1, 1, 6), (6,)
    for f in (act.relu, act.tanh, act.sigmoid, act.softplus):
        yield f, [full]
    yield act.leaky_relu, [full, 0.2]
    yield act.leaky_relu_dx, [full, full, 0.2]
    for f in (act.relu_dx, act.tanh_dx, act.sigmoid_dx, act.softplus_dx):
        yield f, [full, full]
    for f in (act.tanh_dx2, act.sigmoid_dx2, act.softplus_dx2):
        yield f, [full, full, full]
    for statistic in (batch, sample, channel, row):
        yield norm.affine, [full, statistic, row]
        yield norm.standardize, [full, statistic, statistic]
        yield norm._minus, [full, full, statistic, statistic, statistic]
    yield norm.affine, [full, full[1:], full[1:]]
    yield norm.affine, [(6, 6), (6,), (6,)]
    yield norm._minus, [(6, 6), (6, 6), (1, 6), (1, 6), (1, 6)]


@pytest.mark.parametrize("f, shapes", list(arguments()), ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_elementwise_is_the_plain_function(monkeypatch, rng, f, shapes, dtype):
    args = [rng.normal(size=s).astype(dtype) if isinstance(s, tuple) else s for s in shapes]
    want = f.__wrapped__(*args)
    monkeypatch.setattr(backend, "PART", 4 * args[0].nbytes // 6)
    assert_same(f(*args), want)
    monkeypatch.setattr(backend, "PART", 1)
    assert_same(f(*args), want)
    monkeypatch.setattr(backend, "SPREAD", 0)
    assert_same(f(*args), want)


def test_every_elementwise_function_is_tested():
    tested = {f for f, _ in arguments()}
    assert tested == {f for module in (act, norm) for f in vars(module).values() if hasattr(f, "__wrapped__")}


def test_elementwise_parts(monkeypatch):
    """PART bytes of the first argument at a time, at least one sample; small arrays whole."""
    monkeypatch.setattr(backend, "PART", 320)
    lengths = []

    @elementwise
    def f(x):
        lengths.append(len(x))
        return x

    for shape in ((4, 10), (9, 10), (2, 100), (0, 5)):
        f(np.ones(shape))
    assert lengths == [4, 4, 4, 1, 1, 1, 0]


# The source


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_import_is_light():
    """Of all that is not made of kernels: neither PyTorch nor CuPy nor Triton comes with it."""
    code = """
import importlib, pkgutil, sys, rawgan
for module in pkgutil.walk_packages(rawgan.__path__, "rawgan.", onerror=lambda name: None):
    if not module.name.startswith(("rawgan.kernels", "rawgan.planned")) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "rawgan.layers.conv" in sys.modules
print(sorted({"torch", "cupy", "triton"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def names_of_xp(path):
    """What a file takes from xp or from array_module(...): einsum, lib.stride_tricks.as_strided ..."""
    for node in ast.walk(ast.parse(path.read_text())):
        chain = []
        while isinstance(node, ast.Attribute):
            chain, node = [node.attr, *chain], node.value
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "array_module"
        if chain and (called or (isinstance(node, ast.Name) and node.id == "xp")):
            yield ".".join(chain)


def test_cupy_has_every_name():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    used = {name for path in sources("rawgan") for name in names_of_xp(path)}
    assert {"einsum", "tanh", "lib.stride_tricks.as_strided"} <= used
    assert [name for name in sorted(used) if not has(cupy, name)] == []


def has(module, name):
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True
