"""Plans: how buffers are packed into an arena, and that a planned step computes what was recorded, in memory it shares."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace as Names

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawgan import backend
from rawgan.backend import choose_device
from rawgan.kernels import kernels, launch
from rawgan.kernels.plan import ALIGNMENT, Plan, covered, least, pack

HERE = Path(__file__).parent
BUFFERS = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 6)), max_size=30)


@given(BUFFERS)
def test_pack(buffers):
    """What lives together lies apart, aligned, in no more than all would take side by side."""
    sizes = [size for size, _, _ in buffers]
    lives = [(first, first + length) for _, first, length in buffers]
    offsets, total = pack(sizes, lives)
    for i, (start, size) in enumerate(zip(offsets, sizes)):
        assert start % ALIGNMENT == 0 and start + size <= total
        for j in range(i):
            together = lives[i][0] <= lives[j][1] and lives[j][0] <= lives[i][1]
            assert not together or start + size <= offsets[j] or offsets[j] + sizes[j] <= start
    assert least(sizes, lives) <= total <= sum(size + ALIGNMENT for size in sizes)


def test_pack_reuses():
    """A chain in which each buffer lives with its neighbour alone takes two places, however long it is."""
    offsets, total = pack([1024] * 9, [(t, t + 1) for t in range(9)])
    assert total == least([1024] * 9, [(t, t + 1) for t in range(9)]) == 2048
    assert set(offsets) == {0, 1024}


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_covered(spans):
    assert covered((start, start + length) for start, length in spans) == len({a for s, n in spans for a in range(s, s + n)})


PROGRAM = """
import numpy as np
from rawgan.kernels import kernels, launch
from rawgan.kernels.plan import Plan

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
print(np.array_equal(plan.array(loss), want_loss), np.array_equal(plan.array(dw), want_dw), plan.array(x) is x)
print(len(plan.launches), dict(plan.counts()), plan.least <= plan.bytes < plan.separate, plan.array(loss).base is not None,
      plan.outside == x.nbytes + w.nbytes + b.nbytes)
"""


def test_plan():
    """The same bits as the step itself, from other inputs, in less memory than its arrays took."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    same, sizes = done.stdout.splitlines()
    assert same == "True True True"
    assert sizes == "6 {'matmul_kernel': 5, 'act_kernel': 1} True True True"


class FakeStream:
    """A stream that writes down what is done to it, and which stream is current."""

    current, said = "default", []

    def __init__(self, non_blocking):
        assert non_blocking

    def __enter__(self):
        FakeStream.current = "own"

    def __exit__(self, *_):
        FakeStream.current = "default"

    def begin_capture(self, mode=None):
        assert mode is None  # CuPy's default is the relaxed one
        self.said.append("begin")

    def end_capture(self):
        self.said.append("end")
        return Names(upload=lambda stream: self.said.append("upload"), launch=lambda stream: self.said.append(f"graph on {stream}"))

    def synchronize(self):
        self.said.append("synchronize")


class FakeArray:
    __module__ = "cupy"


class FakeLaunch:
    arrays = (FakeArray(),)

    def __init__(self, name, fails=False):
        self.name, self.fails = name, fails

    def load(self):
        FakeStream.said.append(f"load {self.name}")

    def __call__(self):
        FakeStream.said.append(f"{self.name} on {FakeStream.current}")
        if self.fails:
            raise RuntimeError("no such kernel")


def planned(monkeypatch, *launches):
    monkeypatch.setattr(backend, "_cupy", lambda: (Names(cuda=Names(Stream=FakeStream)), ""))
    monkeypatch.setattr(FakeStream, "said", [])
    plan = Plan(launch.Recording(dry=True))
    plan.launches = [*launches]
    return plan


def test_capture_runs_nothing(monkeypatch):
    """All is loaded before; what is launched goes to the stream that is captured, twice for two steps; nothing runs."""
    graph = planned(monkeypatch, FakeLaunch("a"), FakeLaunch("b")).capture(steps=2)
    runs = ["a on own", "b on own"] * 2
    assert FakeStream.said == ["load a", "load b", "begin", *runs, "end", "upload", "synchronize"]
    graph.launch()
    assert FakeStream.said[-1] == "graph on None" and graph.steps == 2 and len(graph.plan.launches) == 2


def test_a_launch_that_fails_ends_the_capture(monkeypatch):
    with pytest.raises(RuntimeError, match="no such kernel"):
        planned(monkeypatch, FakeLaunch("a", fails=True)).capture()
    assert FakeStream.said == ["load a", "begin", "a on own", "end"] and FakeStream.current == "default"


@pytest.mark.gpu
def test_graph_on_a_gpu():
    """Captured, nothing has changed; a graph of three steps then does what three runs do, to the bit."""
    xp = choose_device("gpu").xp
    w, x = (xp.asarray(np.random.default_rng(0).normal(size=(64, 64)).astype("float32")) for _ in range(2))
    m, v, t, lr = xp.zeros_like(w), xp.zeros_like(w), xp.ones(1, "int32"), xp.full(1, 0.1, "float32")
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
