"""Compilation in worker processes, side by side, into Triton's cache on disk.

    compile_missing(jobs, capability)   for a run: compile what the cache does not hold yet
    compile_all(jobs, capability)       the shared memory of each job, or its error

`unique_jobs` makes jobs of launches. A worker is `python -m rawgan.kernels.runtime.compile`: it
imports Triton and the kernels' files, but no CuPy, no PyTorch and not the program that started it,
and compiles under a driver that has a target and no device. Triton's key of a compiled kernel is a
hash of its source, its signature, its options and the target, so that the process with the GPU
reads from the cache what the workers wrote.
"""

import hashlib
import json
import os
import pickle
import selectors
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import triton

from rawgan.backend import address
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.driver import (
    DTYPES,
    Argument,
    Pointer,
    TmaTile,
    map_arrays,
    triton_arguments,
)
from rawgan.kernels.runtime.launch import Config, HostCall, Launch


class Job(NamedTuple):
    """A launch as a worker receives it: names and numbers, no arrays and no code."""

    module: str
    name: str
    grid: tuple[int, ...]
    arguments: tuple[Argument, ...]  # a Pointer for each array, at address 0 where that is aligned
    constants: Config

    @classmethod
    def of(cls, launch: Launch) -> "Job":
        """Return the job of a launch, with the alignment of each array for its address."""
        arguments = tuple(
            map_arrays(a, lambda a: Pointer(address(a) % 16, DTYPES[a.dtype]))
            for a in launch.arguments
        )
        return cls(
            launch.kernel.fn.__module__, launch.name, launch.grid, arguments, launch.constants
        )

    @property
    def kernel(self):
        """The kernel; its file is imported."""
        return getattr(import_module(self.module), self.name)

    @property
    def is_gemm(self) -> bool:
        """Return whether the kernel is a GEMM: it has a block of the sum."""
        return "BLOCK_K" in self.constants

    @property
    def key(self) -> tuple:
        """All that the compiled kernel depends on: name, dtypes, alignments, tiles, constants."""
        signature = [
            map_arrays(a, lambda pointer: (str(pointer.dtype), pointer.address == 0))
            for a in self.arguments
        ]
        # Shape and strides of a TMA tile are arguments of the kernel, its block is a constant
        signature = [
            replace(entry, shape=(), strides=()) if isinstance(entry, TmaTile) else entry
            for entry in signature
        ]
        return self.module, self.name, *signature, *self.constants.items()

    def compile(self):
        """Return the compiled kernel, inside launch.compile_only."""
        arguments = triton_arguments(self.arguments, lambda pointer: pointer)
        return self.kernel.warmup(*arguments, grid=self.grid, **self.constants)


def unique_jobs(launches: Iterable[Launch | HostCall]) -> list[Job]:
    """Return the jobs of launches, one for each compiled kernel; GEMMs, the slowest, first."""
    kernels = (Job.of(entry) for entry in launches if isinstance(entry, Launch))
    by_key = {job.key: job for job in kernels}
    return sorted(by_key.values(), key=lambda job: not job.is_gemm)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_all(jobs: list[Job], capability: int, workers: int | None = None) -> list[dict]:
    """Compile jobs for sm_<capability> into Triton's cache on disk, with a progress bar.

    workers: the number of processes, by default that of cores. Returns {"shared": bytes of shared
    memory} or {"error": text} for each job. Jobs with the same key are compiled once.
    """
    from tqdm import tqdm  # not at the top: a worker has no bar

    count = len({job.key for job in jobs})
    with (
        tqdm(
            total=count,
            desc=f"Compiling {count} kernels",
            unit="kernel",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10,
        ) as bar,
        Compiler(jobs, capability, workers) as compiler,
    ):
        while len(compiler.results) < count:
            for job in compiler.poll():
                bar.set_postfix_str(job.name, refresh=False)
                bar.update()
    return [compiler.results[job.key] for job in jobs]


class Compiler:
    """Worker processes that compile jobs in order, while the caller does something else.

    A context manager: the workers end when the block is left, by an exception too. The caller has
    to `poll`, which collects results and gives the workers their next jobs. results: {key of a job:
    see compile_all}.
    """

    def __init__(self, jobs: list[Job], capability: int, workers: int | None = None):
        self.waiting = list({job.key: job for job in jobs}.values())[::-1]
        self.results: dict[tuple, dict] = {}
        self.capability, self.workers = capability, workers or cores()
        self._stack = ExitStack()

    def __enter__(self) -> "Compiler":
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        for _ in range(min(self.workers, len(self.waiting))):
            self._send(self._start())
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def poll(self, seconds: float | None = None) -> list[Job]:
        """Return the jobs whose results have come, after `seconds` at most; None: when one has."""
        done = []
        for event, _ in self._selector.select(seconds) if self._selector.get_map() else ():
            worker, job = event.data
            self._selector.unregister(worker.stdout)
            line = worker.stdout.readline()  # empty where the worker has died
            if line:
                self.results[job.key] = json.loads(line)
            else:
                self.results[job.key] = {"error": f"its compiler ended with {worker.wait()}"}
            done.append(job)
            if self.waiting:
                self._send(worker if line else self._start())
        return done

    def _start(self) -> subprocess.Popen:
        return self._stack.enter_context(_worker(self.capability))

    def _send(self, worker: subprocess.Popen) -> None:
        job = self.waiting.pop()
        self._selector.register(worker.stdout, selectors.EVENT_READ, (worker, job))
        with suppress(BrokenPipeError):  # the worker has died: its output ends, see poll
            worker.stdin.write(pickle.dumps(job))


@contextmanager
def _worker(capability: int) -> Iterator[subprocess.Popen]:
    """Start a process that compiles jobs; it ends when the block is left, by an exception too."""
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    environment = os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "rawgan.kernels.runtime.compile", str(capability)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the process that waits, which ends this one
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def worker_main(capability: int) -> None:
    """Compile the jobs on standard input; print a line of JSON for each, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a compiler prints goes to standard error
    with launch.compile_only(capability):
        while True:
            try:
                job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                result = {"shared": job.compile().metadata.shared}
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(result), file=answers, flush=True)


def compile_missing(jobs: list[Job], capability: int, workers: int | None = None) -> None:
    """Compile the kernels of a plan into Triton's cache, unless that was done before.

    A marker file in the cache records that it was done; then no worker is started. Raises
    RuntimeError, naming the kernel, for one that does not compile.
    """
    marker = _marker(jobs, capability)
    if marker.exists():
        return
    for job, result in zip(jobs, compile_all(jobs, capability, workers)):
        if "error" in result:
            raise RuntimeError(
                f"{job.name} does not compile for sm_{capability}: {result['error']}"
            )
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _marker(jobs: list[Job], capability: int) -> Path:
    """Return the path that marks these jobs as compiled, for this source and version of Triton."""
    keys = sorted(f"{job.kernel.cache_key} {job.key}" for job in jobs)
    digest = hashlib.sha256("\n".join([triton.__version__, str(capability), *keys]).encode())
    return Path(triton.knobs.cache.dir) / f"rawgan_{digest.hexdigest()[:32]}"


if __name__ == "__main__":
    worker_main(int(sys.argv[1]))
