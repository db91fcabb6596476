"""Plans: packing of buffers into an arena, and execution of recorded steps in shared memory."""

import os
import sys
import tracemalloc
import weakref
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace as Names

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawgan import backend
from rawgan.backend import choose_device
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.memory_plan import ALIGNMENT, Plan, pack, peak_live_bytes, union_length
from tests.support.process import run_process

HERE = Path(__file__).parent
BUFFERS = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 6)), max_size=30
)


@given(BUFFERS)
def test_pack(buffers):
    """Buffers with overlapping lifetimes get disjoint, aligned memory, at most their total size."""
    sizes = [size for size, _, _ in buffers]
    lives = [(first, first + length) for _, first, length in buffers]
    offsets, total = pack(sizes, lives)
    for i, (start, size) in enumerate(zip(offsets, sizes)):
        assert start % ALIGNMENT == 0 and start + size <= total
        for j in range(i):
            together = lives[i][0] <= lives[j][1] and lives[j][0] <= lives[i][1]
            assert not together or start + size <= offsets[j] or offsets[j] + sizes[j] <= start
    assert peak_live_bytes(sizes, lives) <= total <= sum(size + ALIGNMENT for size in sizes)


def test_pack_reuses():
    """A chain of buffers in which only neighbours overlap in time is packed into two slots."""
    offsets, total = pack([1024] * 9, [(t, t + 1) for t in range(9)])
    assert total == peak_live_bytes([1024] * 9, [(t, t + 1) for t in range(9)]) == 2048
    assert set(offsets) == {0, 1024}


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_union_length(spans):
    assert union_length((start, start + length) for start, length in spans) == len(
        {a for s, n in spans for a in range(s, s + n)}
    )


PROGRAM = """
import numpy as np
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.memory_plan import Plan

rng = np.random.default_rng(0)
x, w, b = (rng.normal(size=shape).astype("float32") for shape in ((7, 60), (60, 60), (60,)))


def step():
    y = x
    for _ in range(4):
        y = kernels.linear(y, w, b, act="leaky_relu")
    loss = kernels.tanh(y[:3])
    return loss, kernels.linear_dw(x, y)


with launch.record() as recording:
    loss, dw = step()
plan = Plan(recording, keep=[loss, dw])
x[:] = rng.normal(size=x.shape)
plan._arena[:] = 0xFF  # NaN
plan.run()
want_loss, want_dw = step()
launch.empty = None  # a plan makes no arrays
plan.run()
print(
    np.array_equal(plan.array(loss), want_loss),
    np.array_equal(plan.array(dw), want_dw),
    plan.array(x) is x,
)
print(
    len(plan.launches),
    dict(plan.counts()),
    plan.peak_live_bytes <= plan.bytes < plan.unshared_bytes,
    plan.array(loss).base is not None,
    plan.external_bytes == x.nbytes + w.nbytes + b.nbytes,
)
"""


def test_plan():
    """A plan computes the same bits as the step for new inputs, in less memory than its arrays."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "TRITON_INTERPRET": "1"}
    done = run_process([sys.executable, "-c", PROGRAM], env=environment)
    assert done.returncode == 0, done.stderr
    same, sizes = done.stdout.splitlines()
    assert same == "True True True"
    assert sizes == "6 {'matmul_kernel': 5, 'act_kernel': 1} True True True"


class TestDryRecording:
    def test_takes_no_memory(self):
        """Recording, slicing and viewing arrays of 8 TB allocates nothing but the arena."""
        x = np.zeros((4, 2**20), np.float32)
        tracemalloc.start()
        try:
            for _ in range(2):
                with launch.record(dry=True) as recording:
                    huge = launch.empty(x, (2**20, 2**20), "float64")
                    y = kernels.tanh(launch.empty(x, x.shape))
                    z = kernels.tanh(y[1:3].reshape(2**21).view("float32"))
            assert huge[-1, -1:].ctypes.data == huge.ctypes.data + huge.nbytes - 8
            assert tracemalloc.get_traced_memory()[1] < 2**20
            plan = Plan(recording, keep=[z])
            assert plan.bytes <= tracemalloc.get_traced_memory()[0] < plan.bytes + 2**20
        finally:
            tracemalloc.stop()

    def test_addresses_are_used_once(self):
        """Every recorded array has a unique, aligned address, also after a free or with size 0."""
        like, spans = np.zeros(1, np.float32), []
        for n in (1, 0, 1000, 64, 65, 0):
            with launch.record(dry=True):
                a = launch.empty(like, (n,), "uint16")
            spans.append((a.ctypes.data, a.ctypes.data + max(a.nbytes, 1)))
            assert a.shape == (n,) and a.dtype == np.uint16 and a.ctypes.data % ALIGNMENT == 0
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))

    def test_is_not_written_to(self):
        """Writing to a recorded array outside a launch raises, as a plan could not repeat it."""
        with launch.record(dry=True), pytest.raises(ValueError, match="read-only"):
            launch.empty(np.zeros(1), (3,))[...] = 0

    def test_of_cupy(self, monkeypatch):
        """CuPy arrays are recorded on the device of the given array, without a GPU."""
        cupy = pytest.importorskip("cupy")
        monkeypatch.setattr(backend, "_cupy", lambda: (cupy, ""))
        memory = cupy.cuda.UnownedMemory(2**20, 64, None, 3)
        like = cupy.ndarray((16,), np.float32, cupy.cuda.MemoryPointer(memory, 0))
        with launch.record(dry=True) as recording:
            a, b = launch.empty(like, (2**20, 2**20)), launch.empty(like, (3, 5), "uint16")
        assert [type(a), a.dtype, b.dtype, b.shape] == [cupy.ndarray, np.float32, np.uint16, (3, 5)]
        assert a.device.id == b.device.id == 3 and [*map(id, recording.workspace)] == [id(a), id(b)]
        assert a[1:].data.ptr == a.data.ptr + 2**22 < b.data.ptr and b.reshape(-1).view(
            "uint8"
        ).shape == (30,)

    def test_of_another_recording(self):
        """A plan refuses an array that an earlier recording made, as it has no memory."""
        x = np.zeros(8, np.float32)
        with launch.record(dry=True):
            y = kernels.tanh(x)
        with launch.record(dry=True) as recording:
            kernels.tanh(y)
        with pytest.raises(ValueError, match="an array of another dry recording"):
            Plan(recording)


def test_recorded_arrays_are_not_kept_alive():
    """Recorded arrays are freed with their recording, also a non-dry one; addresses stay valid."""
    x = np.zeros(8, np.float32)
    recording = launch.Recording(dry=False)
    y = np.empty(8, np.float32)
    recording.workspace.append(y)
    recording.append(launch.HostCall(np.copyto, (y, x)))
    plan, gone = Plan(recording), weakref.ref(y)
    assert plan.array(y).ctypes.data == plan.launches[0].arrays[0].ctypes.data
    del recording, y
    assert gone() is None


class FakeStream:
    """Stream that records the calls it receives and which stream is current."""

    current, events = "default", []

    def __init__(self, non_blocking):
        assert non_blocking

    def __enter__(self):
        FakeStream.current = "own"

    def __exit__(self, *_):
        FakeStream.current = "default"

    def begin_capture(self, mode=None):
        assert mode is None  # CuPy's default capture mode is "relaxed"
        self.events.append("begin")

    def end_capture(self):
        self.events.append("end")
        return Names(
            upload=lambda stream: self.events.append("upload"),
            launch=lambda stream: self.events.append(f"graph on {stream}"),
        )

    def synchronize(self):
        self.events.append("synchronize")


class FakeArray:
    __module__ = "cupy"


class FakeLaunch:
    arrays = (FakeArray(),)

    def __init__(self, name, fails=False):
        self.name, self.fails = name, fails

    def load(self):
        FakeStream.events.append(f"load {self.name}")

    def __call__(self):
        FakeStream.events.append(f"{self.name} on {FakeStream.current}")
        if self.fails:
            raise RuntimeError("no such kernel")


def planned(monkeypatch, *launches):
    monkeypatch.setattr(backend, "_cupy", lambda: (Names(cuda=Names(Stream=FakeStream)), ""))
    monkeypatch.setattr(FakeStream, "events", [])
    plan = Plan(launch.Recording(dry=True))
    plan.launches = [*launches]
    return plan


def test_capture_runs_nothing(monkeypatch):
    """Capture loads all kernels first, then records the launches of both steps and runs nothing."""
    graph = planned(monkeypatch, FakeLaunch("a"), FakeLaunch("b")).capture(steps=2)
    runs = ["a on own", "b on own"] * 2
    assert FakeStream.events == ["load a", "load b", "begin", *runs, "end", "upload", "synchronize"]
    graph.launch()
    assert (
        FakeStream.events[-1] == "graph on None"
        and graph.steps == 2
        and len(graph.plan.launches) == 2
    )


def test_launches_that_are_repeated(monkeypatch):
    """The first launches run the given number of times, then the others; in graphs, too."""
    plan = planned(monkeypatch, FakeLaunch("a"), FakeLaunch("b"), FakeLaunch("c"))
    plan.repeated = 2
    plan.run(2)
    assert [entry[0] for entry in FakeStream.events] == ["a", "b", "a", "b", "c"]
    assert plan.counts(3) == {"a": 3, "b": 3, "c": 1}
    FakeStream.events.clear()
    plan.capture(steps=2, repeats=2)
    assert FakeStream.events[4:-3] == [f"{name} on own" for name in "ababc" * 2]


def test_a_launch_that_fails_ends_the_capture(monkeypatch):
    with pytest.raises(RuntimeError, match="no such kernel"):
        planned(monkeypatch, FakeLaunch("a", fails=True)).capture()
    assert (
        FakeStream.events == ["load a", "begin", "a on own", "end"]
        and FakeStream.current == "default"
    )


@pytest.mark.gpu
def test_graph_on_a_gpu():
    """Capture changes no value, and a graph of three steps gives the same bits as three runs."""
    xp = choose_device("gpu").xp
    w, x = (
        xp.asarray(np.random.default_rng(0).normal(size=(64, 64)).astype("float32"))
        for _ in range(2)
    )
    m, v, t, lr = (
        xp.zeros_like(w),
        xp.zeros_like(w),
        xp.ones(1, "int32"),
        xp.full(1, 0.1, "float32"),
    )
    with launch.record(dry=True) as recording:
        kernels.adam(w, kernels.linear(x, w, None, act="tanh"), m, v, t, lr, (0.9, 0.99), 1e-8)
    plan, moved = Plan(recording), [w, m, v]
    before = [a.copy() for a in moved]
    graph = plan.capture(steps=3)
    assert all(bool((a == b).all()) for a, b in zip(moved, before))
    for _ in range(3):
        plan.run()
    want = [a.copy() for a in moved]
    for a, b in zip(moved, before):
        a[...] = b
    graph.launch()
    assert all(bool((a == b).all()) for a, b in zip(moved, want))
