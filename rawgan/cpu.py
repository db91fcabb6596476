"""NumPy on several cores: batches cut into chunks, one thread per core, one BLAS thread.

    y = np.empty(...)
    over_batch(np, N, lambda n: compute(x[n], out=y[n]), sample_bytes)

The chunks of a batch, and so the bits of a sum over them, follow from shapes alone, never from the
number of cores. A program calls `set_up()` once where it starts; importing this module changes
nothing in the process.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from contextvars import copy_context
from functools import cache, wraps
from queue import SimpleQueue
from threading import Lock, Thread, local
from types import ModuleType

import numpy as np
from threadpoolctl import ThreadpoolController

from rawgan.backend import Array, array_module, fuse, kernels_on, use_fast_cpu

SCRATCH_BYTES = 2 * 2**20  # scratch memory of one chunk of a batch: about a core's level-2 cache
CHUNK_BYTES = 2**20  # size of an array that `elementwise` works on at a time
PARALLEL_BYTES = 2**20  # size of an array from which one pass over it is spread over the cores

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # options of glibc's mallopt


# Set-up of the process


def set_up() -> None:
    """Prepare this process to compute with NumPy; calls after the first one do nothing.

    One BLAS thread, and freed memory is kept. `over_batch` sets the BLAS threads itself, so that
    results do not depend on this call.
    """
    limit_blas_threads()
    keep_freed_memory()


@cache
def numpy_blas() -> ThreadpoolController:
    """Return the BLAS library that NumPy is linked to; other packages, as PyTorch, have theirs."""
    libraries = ThreadpoolController().select(user_api="blas")
    of_numpy = [info["filepath"] for info in libraries.info() if "numpy" in info["filepath"]]
    return libraries.select(filepath=of_numpy) if of_numpy else libraries


@cache
def blas_name() -> str:
    """Return name, version and processor of NumPy's BLAS, on which the bits of products depend."""
    return ", ".join(
        f"{info['internal_api']} {info['version']} {info.get('architecture', '')}".strip()
        for info in numpy_blas().info()
    )


@cache
def limit_blas_threads() -> None:
    """Hold NumPy's BLAS to one thread.

    The bits of a product depend on the number of threads that BLAS cuts it for, and its threads
    spin after a product on the cores that `over_batch` computes on.
    """
    numpy_blas().limit(limits=1)


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed memory, in one arena.

    It returns large arrays to the system, and the page faults of the next ones cost as much as the
    arithmetic on them.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_ARENA_MAX, 1)


# Threads

_thread = local()  # .computes_chunk is set in a thread while it computes a chunk


@cache
def _threads() -> tuple[SimpleQueue, int]:
    """Return the queue of threads for all cores but the caller's, and the number of cores."""
    limit_blas_threads()
    if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
        os.register_at_fork(after_in_child=_threads.cache_clear)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return _start_threads(cores - 1), cores


def _start_threads(n: int) -> SimpleQueue:
    """Start n threads that call f(*arguments) for each (f, *arguments) put into the queue."""
    queue = SimpleQueue()

    def run():
        while True:
            f, *arguments = queue.get()
            f(*arguments)
            del f, arguments  # keep no array alive while waiting

    for _ in range(n):
        Thread(target=run, name="rawgan-chunk", daemon=True).start()
    return queue


class _Task:
    """A computation that runs once, in the first thread that comes to it."""

    def __init__(self, work: Callable, *arguments):
        self.work, self.arguments, self.result, self.error = work, arguments, None, None
        self.begun, self.done = Lock(), Lock()  # acquired: by one thread, until it is done
        self.done.acquire()

    def run(self) -> None:
        if self.begun.acquire(blocking=False):
            try:
                self.result = self.work(*self.arguments)
            except BaseException as error:  # raised by _run_all
                self.error = error
            finally:
                self.done.release()


def _run_from(tasks: list[_Task], first: int) -> None:
    """Run the tasks that no other thread has begun, from number `first` on, round the list."""
    for task in tasks[first:] + tasks[:first]:
        task.run()


def _run_all(tasks: list[_Task]) -> list:
    """Run the tasks on all cores, and return their results in order.

    Each thread begins with its share and goes on with what others have not begun, so that no core
    waits for one that is busy with something else. The tasks have NumPy's error state of the
    caller. Raises, when all have ended, the error of the first that failed.
    """
    queue, cores = _threads()
    *others, last = range(0, len(tasks), -(-len(tasks) // cores))  # the first task of each share
    for first in others:
        queue.put((copy_context().run, _run_from, tasks, first))
    _run_from(tasks, last)
    for task in tasks:
        task.done.acquire()
    done = tasks.copy()
    tasks.clear()  # a thread that wakes up later finds nothing, and keeps no array alive
    for task in done:
        if task.error:
            raise task.error
    return [task.result for task in done]


# Batches in chunks


def over_batch(
    xp: ModuleType, N: int, work: Callable[[slice], Array], sample_bytes: int = 0
) -> list[Array]:
    """Return [work(slice), ...] for consecutive chunks of a batch of N.

    On the CPU the chunks are spread over the cores, a thread each, the calling one among them;
    their number follows from N and sample_bytes, the scratch memory of a sample (see chunk_size).
    On a GPU, and inside a chunk, there is one chunk.
    """
    if xp is not np or hasattr(_thread, "computes_chunk"):
        return [work(slice(0, N))]
    step = chunk_size(N, sample_bytes)
    chunks = [slice(n, min(n + step, N)) for n in range(0, N, step)]
    return _run_all([_Task(_compute_chunk, work, samples) for samples in chunks])


def _compute_chunk(work: Callable[[slice], Array], samples: slice) -> Array:
    """Return work(samples); an over_batch in it is one chunk."""
    _thread.computes_chunk = True
    try:
        return work(samples)
    finally:
        del _thread.computes_chunk


def chunk_size(N: int, sample_bytes: int) -> int:
    """Return the samples in a chunk of a batch of N: N / chunks rounded up.

    chunks is the least power of two, from 2, for which the scratch memory of a chunk fits in
    SCRATCH_BYTES.
    """
    chunks = 2
    while chunks < N and -(-N // chunks) * sample_bytes > SCRATCH_BYTES:
        chunks *= 2
    return max(1, -(-N // chunks))


def parallel_for(x: Array, work: Callable[[slice], Array], sample_bytes: int = 0) -> list[Array]:
    """Return over_batch(work) for a pass over the batch x; one chunk where x is small.

    Waking another core takes longer than a pass over an array of at most PARALLEL_BYTES.
    """
    if array_module(x) is np and x.nbytes > PARALLEL_BYTES:
        return over_batch(np, len(x), work, sample_bytes)
    return [work(slice(0, len(x)))]


def elementwise(
    f: Callable[..., Array], fast_form: Callable[..., None] | None = None
) -> Callable[..., Array]:
    """Return f, a function that computes each sample from that sample alone, to run chunk by chunk.

    On the CPU its intermediate arrays then stay in the cache and the cores share the samples; the
    values are the same. Arguments with the first one's number of axes and length are cut along the
    batch, all others (numbers, statistics, gamma) are passed whole. `fast_form` is one of
    f for the CPU, whose last argument is the output. With kernels on, f runs once on whole arrays
    (Triton's interpreter has one thread); on a GPU without kernels it is fused, see backend.fuse.
    """
    fused = fuse(f)

    @wraps(f)
    def run(x: Array, *rest):
        arrays = [a for a in rest if getattr(a, "shape", ())]
        if kernels_on(x, *arrays):
            return f(x, *rest)
        if array_module(x, *arrays) is not np:
            return fused(x, *rest)
        fast = fast_form is not None and x.nbytes > CHUNK_BYTES // 16 and use_fast_cpu()
        if x.ndim == 0 or (x.nbytes <= CHUNK_BYTES and not fast):
            return f(x, *rest)
        return _elementwise_chunks(fast_form if fast else None, f, x, rest)

    return run


def _elementwise_chunks(fast_form: Callable | None, f: Callable, x: Array, rest: tuple) -> Array:
    """Return f(x, *rest), CHUNK_BYTES of x at a time, by fast_form(..., out) unless None."""
    step = max(1, CHUNK_BYTES * len(x) // x.nbytes)
    cut = [getattr(a, "shape", ())[:1] == x.shape[:1] and a.ndim == x.ndim for a in rest]
    y = np.empty(x.shape, x.dtype)

    def chunk(samples: slice) -> None:
        for start in range(samples.start, samples.stop, step):
            n = slice(start, min(start + step, samples.stop))
            args = [x[n], *(a[n] if is_cut else a for a, is_cut in zip(rest, cut))]
            if fast_form:
                fast_form(*args, y[n])
            else:
                y[n] = f(*args)

    parallel_for(x, chunk)
    return y
