"""The partition of batches over CPU cores, and BLAS' threads."""

import os
import sys
import threading
import time
import weakref
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rawgan import backend, cpu
from rawgan.cpu import elementwise, over_batch
from rawgan.ops import act, norm
from tests.support.cores import set_cores
from tests.support.process import run_process
from tests.support.reference import assert_close, assert_same

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "start",
    [
        "from rawgan.cpu import set_up; set_up(); set_up()",
        "from rawgan.cpu import over_batch; over_batch(numpy, 4, lambda n: n)",
        "from rawgan.layers import Linear, Parameters; Parameters(Linear(2, 3))",
    ],
)
def test_blas_has_one_thread(start):
    """NumPy's BLAS has one thread after set_up, or after the first use of over_batch or a network.

    Other libraries and a mere import are unaffected.
    """
    program = (
        "import torch\nfrom threadpoolctl import threadpool_info as info\n"
        "def threads(numpys): return [one['num_threads'] for one in info() "
        "if ('numpy' in one['filepath']) is numpys]\n"
        "import numpy\nbefore = threads(True), threads(False)\nassert before[0] == [2]\n"
        "import rawgan.backend, rawgan.cpu\n"
        f"assert (threads(True), threads(False)) == before\n{start}\n"
        "assert threads(True) == [1] and threads(False) == before[1], info()\n"
    )
    done = run_process(
        [sys.executable, "-c", program], env=os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 16])
@pytest.mark.parametrize(
    "N, sample_bytes, want",
    [
        (1, 0, [1]),
        (1, 1000, [1]),
        (5, 0, [3, 2]),
        (8, 25, [4, 4]),  # each exactly fits the cache
        (8, 26, [2, 2, 2, 2]),
        (7, 1000, [1] * 7),
        (9, 26, [3, 3, 3]),
        (64, 10, [8] * 8),
    ],
)
def test_parts(monkeypatch, cores, N, sample_bytes, want):
    """Parts are consecutive, two or more, fit the cache, and do not depend on the core count."""
    monkeypatch.setattr(cpu, "SCRATCH_BYTES", 100)
    set_cores(monkeypatch, cores)
    got = over_batch(np, N, lambda n: (n.start, n.stop), sample_bytes)
    stops = np.cumsum(want).tolist()
    assert got == list(zip([0, *stops], stops))


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_every_core_has_a_share(monkeypatch, cores):
    """Every core processes a part, as long as there are enough parts."""
    seen = set()

    def work(n):
        seen.add(threading.get_ident())
        time.sleep(0.01)

    set_cores(monkeypatch, cores)
    over_batch(np, 64, work, cpu.SCRATCH_BYTES // 8)  # eight parts
    assert len(seen) <= min(cores, 8) and (len(seen) > 1 or cores == 1)


@pytest.mark.parametrize("cores", [2, 3, 16])
def test_a_core_that_is_busy_is_not_waited_for(monkeypatch, cores):
    """The caller computes the parts that no other thread begins: here there is no other."""
    set_cores(monkeypatch, cores, started=0)
    got = over_batch(np, 64, lambda n: n.start, cpu.SCRATCH_BYTES // 8)
    assert got == list(range(0, 64, 8))


def test_a_late_thread_keeps_nothing_alive(monkeypatch):
    """What a thread finds that wakes up after the end has no reference to the work."""
    set_cores(monkeypatch, 2, started=0)

    class Work:
        def __call__(self, n):
            return n.stop

    work = Work()
    alive = weakref.ref(work)
    over_batch(np, 6, work)
    del work
    queue, _ = cpu._threads()
    assert queue.qsize() == 1 and alive() is None
    f, *arguments = queue.get_nowait()
    f(*arguments)  # does nothing


def test_an_error_ends_no_part_early(monkeypatch):
    """All parts have ended when the error of one is raised: none writes into an array later."""
    set_cores(monkeypatch, 2)
    ended = []

    def work(n):
        if n.start == 0:
            raise ValueError("part")
        time.sleep(0.05)
        ended.append(n.start)

    with pytest.raises(ValueError, match="part"):
        over_batch(np, 6, work, cpu.SCRATCH_BYTES)
    assert sorted(ended) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("cores", [1, 2])
def test_parts_have_the_error_state_of_the_caller(monkeypatch, cores):
    set_cores(monkeypatch, cores)

    def overflow(n):
        time.sleep(0.01)
        return np.full(1, 1e38, np.float32) * np.float32(10)

    with np.errstate(over="ignore"):
        assert all(np.isinf(over_batch(np, 8, overflow, cpu.SCRATCH_BYTES)))
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        over_batch(np, 8, overflow, cpu.SCRATCH_BYTES)


def test_order_of_parts(monkeypatch):
    """Results are in the order of the batch, whichever part finishes first."""
    monkeypatch.setattr(cpu, "SCRATCH_BYTES", 1)
    assert over_batch(np, 6, lambda n: time.sleep((6 - n.start) / 100) or n.start, 1) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]


def test_error_in_a_part():
    with pytest.raises(ZeroDivisionError):
        over_batch(np, 6, lambda n: 1 // (n.stop - 6))


def test_one_part_on_the_gpu():
    assert over_batch(SimpleNamespace(), 5, lambda n: n, 2**40) == [slice(0, 5)]


@pytest.mark.parametrize("spread, want", [(40, [(0, 5)]), (39, [(0, 3), (3, 5)])])
def test_small_arrays_are_not_shared_out(monkeypatch, spread, want):
    monkeypatch.setattr(cpu, "PARALLEL_BYTES", spread)
    set_cores(monkeypatch, 2)
    assert cpu.parallel_for(np.ones(5), lambda n: (n.start, n.stop)) == want


def test_a_pass_inside_a_pass_is_one_part(monkeypatch):
    """A nested over_batch is one part, as threads that wait for each other would deadlock.

    softplus_dx2 of samples above PARALLEL_BYTES is such a case.
    """
    monkeypatch.setattr(cpu, "PARALLEL_BYTES", 0)
    x = np.ones(6)
    parts = cpu.parallel_for(x, lambda n: cpu.parallel_for(x[n], lambda m: (m.start, m.stop)))
    assert all(len(inner) == 1 for inner in parts)


def test_parts_inside_a_part():
    """over_batch within a part is one part in every thread; afterwards the caller splits again."""
    sizes = over_batch(np, 6, lambda n: n.stop - n.start)
    for _ in range(2):
        assert over_batch(np, 6, lambda n: over_batch(np, n.stop - n.start, lambda m: m.stop)) == [
            [size] for size in sizes
        ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_shares_out():
    """A forked process starts new threads instead of waiting for those of its parent."""
    code = """
import multiprocessing, numpy, threading
from rawgan.cpu import over_batch
def parts():
    last = over_batch(numpy, 1000, lambda n: n.stop)[-1]
    names = [thread.name for thread in threading.enumerate()]
    print(last, names.count("rawgan-chunk"), flush=True)
parts()
child = multiprocessing.get_context("fork").Process(target=parts)
child.start()
child.join(30)
child.kill()
"""
    done = run_process([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    parent, child = done.stdout.splitlines()
    assert parent == child and parent.startswith("1000 ") and done.stderr == ""


def test_kernels_take_an_array_at_once(monkeypatch):
    """Kernel launches are not split, as threads would interfere in Triton's interpreter."""
    monkeypatch.setattr(cpu, "CHUNK_BYTES", 80)
    monkeypatch.setattr(cpu, "PARALLEL_BYTES", 0)
    f = elementwise(lambda x: x + len(x))
    assert f(np.zeros((40, 10)))[0, 0] == 1
    with backend.use_kernels():
        assert f(np.zeros((40, 10)))[0, 0] == 40


def test_shared_means_are_the_same(monkeypatch, rng):
    x, y = rng.normal(size=(2, 7, 3, 2, 4))
    want = [norm.mean(axes, x, y) for axes in ((0, 1, 2), (1, 2), (1, 2, 3))]
    monkeypatch.setattr(cpu, "PARALLEL_BYTES", 0)
    for axes, value in zip(((0, 1, 2), (1, 2), (1, 2, 3)), want):
        assert_close(norm.mean(axes, x, y), value)


def arguments():
    """Yield every elementwise function with arguments of all shapes that it accepts.

    The number of samples equals that of channels on purpose.
    """
    full, batch, sample, channel, row = (6, 4, 5, 6), (1, 1, 1, 6), (6, 1, 1, 1), (6, 1, 1, 6), (6,)
    for f in vars(act).values():
        if hasattr(f, "__wrapped__"):  # its annotations: arrays of one shape, and numbers
            kinds = [p.annotation for p in signature(f).parameters.values()]
            yield f, [0.2 if kind is float else full for kind in kinds]
    for statistic in (batch, sample, channel, row):
        yield norm.affine, [full, statistic, row]
        yield norm.standardize, [full, statistic, statistic]
        yield norm._minus, [full, full, statistic, statistic, statistic]
    yield norm.affine, [full, full[1:], full[1:]]
    yield norm.affine, [(6, 6), (6,), (6,)]
    yield norm._minus, [(6, 6), (6, 6), (1, 6), (1, 6), (1, 6)]


@pytest.mark.parametrize(
    "f, shapes", list(arguments()), ids=lambda value: getattr(value, "__name__", None)
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_elementwise_is_the_plain_function(monkeypatch, rng, f, shapes, dtype):
    args = [rng.normal(size=s).astype(dtype) if isinstance(s, tuple) else s for s in shapes]
    want = f.__wrapped__(*args)
    monkeypatch.setattr(cpu, "CHUNK_BYTES", 4 * args[0].nbytes // 6)
    assert_same(f(*args), want)
    monkeypatch.setattr(cpu, "CHUNK_BYTES", 1)
    assert_same(f(*args), want)
    monkeypatch.setattr(cpu, "PARALLEL_BYTES", 0)
    assert_same(f(*args), want)


def test_every_elementwise_function_is_tested():
    tested = {f for f, _ in arguments()} | {
        norm.inverse_root,
        norm.moved,
    }  # fused only: they take statistics, which are not split
    assert tested == {
        f for module in (act, norm) for f in vars(module).values() if hasattr(f, "__wrapped__")
    }


def test_elementwise_parts(monkeypatch):
    """A chunk is CHUNK_BYTES of the first argument, at least one sample; small arrays are whole."""
    monkeypatch.setattr(cpu, "CHUNK_BYTES", 320)
    lengths = []

    @elementwise
    def f(x):
        lengths.append(len(x))
        return x

    for shape in ((4, 10), (9, 10), (2, 100), (0, 5)):
        f(np.ones(shape))
    assert lengths == [4, 4, 4, 1, 1, 1, 0]
