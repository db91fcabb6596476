"""GPU time of a function, measured with events on its stream and an empty cache before each launch.

The cache is flushed by writing more bytes than it holds and then reading as many; without the
read, dirty lines would be written back to memory while the measured function runs.

`measure` is the whole method. It takes a clock: CupyClock in the project's process, TorchClock in
the process that measures PyTorch, HostClock in a dry run, and a simulated one in the tests.
"""

import math
import time
from collections.abc import Callable
from importlib import import_module
from statistics import median

import numpy as np

from rawgan.backend import choose_device

# float32 values written between two launches: far more than any L2 cache holds, so that the host
# can launch ahead meanwhile
SCRATCH = 2**27
ROWS = (2**16, 2**9)  # shape of the part that is read again
WARM_UP, LEAST, MOST = 3, 20, 100  # launches


def measure(clock, f: Callable[[], object], seconds: float = 0.04) -> dict:
    """Return the median and the 20 % and 80 % quantiles of the microseconds of f on the GPU.

    The number of launches is what fits in `seconds`, within [LEAST, MOST]. host_us is the
    host time of one launch. The timed interval begins when the GPU has flushed its cache; if
    the host needs longer than that (flush_us) to launch f, the launch is part of the time and
    `host_bound` is True.
    """
    for _ in range(WARM_UP):
        f()
    clock.synchronize()
    flush = clock.microseconds(*interval(clock, clock.flush))
    start = time.perf_counter()
    pairs = [launch(clock, f)[0] for _ in range(3)]
    once = max(
        (time.perf_counter() - start) / 3,
        1e-6 * (flush + max(clock.microseconds(*pair) for pair in pairs)),
    )
    launches = min(max(int(seconds / once), LEAST), MOST)
    timed = [launch(clock, f) for _ in range(launches)]
    times = sorted(clock.microseconds(*pair) for pair, _ in timed)
    host = 1e6 * median(seconds for _, seconds in timed)
    return {
        **{
            name: round(quantile(times, q), 3)
            for name, q in (("median_us", 0.5), ("q20_us", 0.2), ("q80_us", 0.8))
        },
        "launches": launches,
        "host_us": round(host, 1),
        "host_bound": bool(host > flush),
    }


def launch(clock, f):
    """Return ((start event, end event), host seconds) of one run of f with an empty cache."""
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
    """Return the quantile q of a sorted list, with linear interpolation."""
    at = q * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def gpu(cuda) -> dict:
    """Return the properties of the current GPU, read from cupy.cuda."""
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
    """Events on CuPy's current stream, the cache flush, and the workloads of `ceilings`."""

    def __init__(self):
        self.xp = choose_device("gpu").xp
        self.cuda = self.xp.cuda
        self.scratch, self.sums = (
            self.xp.empty(SCRATCH, np.float32),
            self.xp.empty(ROWS[0], np.float32),
        )
        self.flush()  # compile the kernels of the flush

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
        """Free CuPy's cached memory, so that the process that measures PyTorch can use it."""
        self.xp.get_default_memory_pool().free_all_blocks()

    def device(self) -> dict:
        return gpu(self.cuda)

    def copy(self) -> tuple[Callable[[], object], float]:
        """Return a copy of 1 GiB, and the bytes it moves."""
        source, target = (self.xp.zeros(2**30, np.uint8) for _ in range(2))
        return lambda: self.xp.copyto(target, source), 2.0 * source.nbytes

    def product(self, dtype: str, n: int = 8192) -> tuple[Callable[[], object], float]:
        """Return an n x n cuBLAS matrix product with float32 accumulation, and its FLOPs.

        dtype: "bfloat16" or "tf32".
        """
        cublas = import_module("cupy_backends.cuda.libs.cublas")
        # CUDA_R_*, CUBLAS_COMPUTE_32F and its FAST_TF32
        kind, compute = {"bfloat16": (14, 68), "tf32": (0, 77)}[dtype]
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        a, b = (self.xp.random.standard_normal((n, n), dtype=np.float32) for _ in range(2))
        if dtype == "bfloat16":
            a, b = ((m.view(np.uint32) >> 16).astype(np.uint16) for m in (a, b))
        c = self.xp.empty_like(a)

        def run():
            handle = self.cuda.device.get_cublas_handle()
            pointers = (
                a.data.ptr,
                kind,
                n,
                b.data.ptr,
                kind,
                n,
                zero.ctypes.data,
                c.data.ptr,
                kind,
                n,
            )
            cublas.gemmEx(handle, 0, 0, n, n, n, one.ctypes.data, *pointers, compute, -1)

        return run, 2.0 * n**3


class TorchClock:
    """CupyClock's timing methods for PyTorch's current stream."""

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


class HostClock:
    """CupyClock's methods on the host, for a dry run; its NumPy times are not results."""

    xp = np

    def event(self) -> float:
        return time.perf_counter()

    def microseconds(self, start: float, end: float) -> float:
        return 1e6 * (end - start)

    def flush(self) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing: the host computes synchronously."""

    def copy(self) -> tuple[Callable[[], object], float]:
        source, target = (np.zeros(2**16, np.uint8) for _ in range(2))
        return lambda: np.copyto(target, source), 2.0 * source.nbytes

    def product(self, dtype: str, n: int = 64) -> tuple[Callable[[], object], float]:
        a = np.ones((n, n), np.float32)
        return lambda: a @ a, 2.0 * n**3


def ceilings(clock) -> dict:
    """Return the measured limits that floors are computed from.

    A limit that could not be measured has its reason.
    """
    rates = {}
    for name, make in (
        ("copy", clock.copy),
        ("bfloat16", lambda: clock.product("bfloat16")),
        ("tf32", lambda: clock.product("tf32")),
    ):
        try:
            f, work = make()
            time_us = measure(clock, f, 0.1)
            rates[name] = {**time_us, "per_second": work / (1e-6 * time_us["median_us"])}
        except Exception as error:
            rates[name] = {"not_measured": f"{type(error).__name__}: {error}"}
    return rates
