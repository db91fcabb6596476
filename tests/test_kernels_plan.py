"""Plans: how buffers are packed into an arena, and that a planned step computes what was recorded, in memory it shares."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rawgan.kernels.plan import ALIGNMENT, least, pack

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
print(len(plan.launches), dict(plan.counts()), plan.least <= plan.bytes < plan.separate, plan.array(loss).base is not None)
"""


def test_plan():
    """The same bits as the step itself, from other inputs, in less memory than its arrays took."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    same, sizes = done.stdout.splitlines()
    assert same == "True True True"
    assert sizes == "6 {'matmul_kernel': 5, 'act_kernel': 1} True True"
