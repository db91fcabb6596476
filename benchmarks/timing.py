"""How long a function takes on a GPU: events on its stream, with an empty cache before every launch.

A cache is emptied by writing more than it holds, and then reading as much: what was written would else go to memory while f runs.

`measure` is all of the method. What it needs of a GPU is a clock: CupyClock for the project's own process, TorchClock for the one
that measures PyTorch, and a clock without a GPU in the tests.
"""

import math
import time
from collections.abc import Callable
from importlib import import_module
from statistics import median

import numpy as np

from rawgan.backend import choose_device

SCRATCH = 2**27  # float32 numbers written between two launches: far more than any L2 holds, so that the host runs ahead meanwhile
ROWS = (2**16, 2**9)  # of them are read again
WARM_UP, LEAST, MOST = 3, 20, 100  # launches


def measure(clock, f: Callable[[], object], seconds: float = 0.04) -> dict:
    """Median and 20 % and 80 % quantiles of the microseconds that f takes on the GPU, over as many launches as fit in `seconds`.

    host_us is what the host needs to launch it. The GPU starts an interval when it has emptied its cache; a host that needs longer
    than flush_us to launch f is measured along with it, and `host_bound` says so.
    """
    for _ in range(WARM_UP):
        f()
    clock.synchronize()
    flush = clock.microseconds(*interval(clock, clock.flush))
    start = time.perf_counter()
    pairs = [launch(clock, f)[0] for _ in range(3)]
    once = max((time.perf_counter() - start) / 3, 1e-6 * (flush + max(clock.microseconds(*pair) for pair in pairs)))
    launches = min(max(int(seconds / once), LEAST), MOST)
    timed = [launch(clock, f) for _ in range(launches)]
    times = sorted(clock.microseconds(*pair) for pair, _ in timed)
    host = 1e6 * median(seconds for _, seconds in timed)
    return {
        **{name: round(quantile(times, q), 3) for name, q in (("median_us", 0.5), ("q20_us", 0.2), ("q80_us", 0.8))},
        "launches": launches,
        "host_us": round(host, 1),
        "host_bound": bool(host > flush),
    }


def launch(clock, f):
    """((event before, event after), seconds of the host) of one run with an empty cache."""
    clock.flush()
    start = clock.event()
    before = time.perf_counter()
    f()
    return (start, clock.event()), time.perf_counter() - before


def interval(clock, f):
    start = clock.event()
    f()
    return start, clock.event()


def quantile(ordered: list[float], q: float) -> float:
    """Between the two nearest of an ordered list, linearly."""
    at = q * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def gpu(cuda) -> dict:
    """What is known of the current GPU, from cupy.cuda."""
    properties = cuda.runtime.getDeviceProperties(cuda.runtime.getDevice())
    driver = cuda.runtime.driverGetVersion()
    return {
        "name": properties["name"].decode(),
        "capability": int(cuda.Device().compute_capability),
        "multiprocessors": properties["multiProcessorCount"],
        "l2_bytes": properties["l2CacheSize"],
        "memory_bytes": properties["totalGlobalMem"],
        "cuda_driver": f"{driver // 1000}.{driver % 1000 // 10}",
        "cuda_runtime": cuda.runtime.runtimeGetVersion(),
    }


class CupyClock:
    """Events on CuPy's current stream, the cache, and the GPU's limits, measured: copies and the vendor's matrix product."""

    def __init__(self):
        self.xp = choose_device("gpu").xp
        self.cuda = self.xp.cuda
        self.scratch, self.sums = self.xp.empty(SCRATCH, np.float32), self.xp.empty(ROWS[0], np.float32)
        self.flush()  # compiles what it launches

    def event(self):
        event = self.cuda.Event()
        event.record()
        return event

    def microseconds(self, start, end) -> float:
        end.synchronize()
        return 1e3 * self.cuda.get_elapsed_time(start, end)

    def flush(self) -> None:
        self.scratch.fill(0)
        self.xp.sum(self.scratch[: ROWS[0] * ROWS[1]].reshape(ROWS), axis=1, out=self.sums)

    def synchronize(self) -> None:
        self.cuda.get_current_stream().synchronize()

    def release(self) -> None:
        """Gives cached memory back, to the process that measures PyTorch too."""
        self.xp.get_default_memory_pool().free_all_blocks()

    def device(self) -> dict:
        return gpu(self.cuda)

    def copy(self) -> tuple[Callable[[], object], float]:
        """A copy of 1 GiB, and the bytes it moves."""
        source, target = (self.xp.zeros(2**30, np.uint8) for _ in range(2))
        return lambda: self.xp.copyto(target, source), 2.0 * source.nbytes

    def product(self, dtype: str, n: int = 8192) -> tuple[Callable[[], object], float]:
        """An n x n matrix product by cuBLAS with float32 sums, on "bfloat16" or "tf32", and its FLOPs."""
        cublas = import_module("cupy_backends.cuda.libs.cublas")
        kind, compute = {"bfloat16": (14, 68), "tf32": (0, 77)}[dtype]  # CUDA_R_*, CUBLAS_COMPUTE_32F and its FAST_TF32
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        a, b = (self.xp.random.standard_normal((n, n), dtype=np.float32) for _ in range(2))
        if dtype == "bfloat16":
            a, b = ((m.view(np.uint32) >> 16).astype(np.uint16) for m in (a, b))
        c = self.xp.empty_like(a)

        def run():
            handle = self.cuda.device.get_cublas_handle()
            pointers = (a.data.ptr, kind, n, b.data.ptr, kind, n, zero.ctypes.data, c.data.ptr, kind, n)
            cublas.gemmEx(handle, 0, 0, n, n, n, one.ctypes.data, *pointers, compute, -1)

        return run, 2.0 * n**3


class TorchClock:
    """The same of PyTorch's current stream."""

    def __init__(self, torch):
        self.torch = torch
        self.scratch, self.sums = (torch.empty(n, device="cuda") for n in (SCRATCH, ROWS[0]))
        self.flush()

    def event(self):
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def microseconds(self, start, end) -> float:
        end.synchronize()
        return 1e3 * start.elapsed_time(end)

    def flush(self) -> None:
        self.scratch.zero_()
        self.torch.sum(self.scratch[: ROWS[0] * ROWS[1]].view(ROWS), 1, out=self.sums)

    def synchronize(self) -> None:
        self.torch.cuda.synchronize()


def ceilings(clock) -> dict:
    """The limits that floors are computed from, or why one could not be measured."""
    found = {}
    for name, make in (
        ("copy", clock.copy),
        ("bfloat16", lambda: clock.product("bfloat16")),
        ("tf32", lambda: clock.product("tf32")),
    ):
        try:
            f, work = make()
            time_us = measure(clock, f, 0.1)
            found[name] = {**time_us, "per_second": work / (1e-6 * time_us["median_us"])}
        except Exception as error:
            found[name] = {"not_measured": f"{type(error).__name__}: {error}"}
    return found
