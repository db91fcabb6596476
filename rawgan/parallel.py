"""Data-parallel training of one GAN: several processes, each with its part of every batch.

NCCL connects GPUs, one per process; MPI connects CPUs.

    mpirun -n 2 rawgan train dcgan --parallel mpi

Each of R processes (ranks) has N samples. A loss is a mean over samples, so the gradient of the
whole batch is the mean of the ranks' gradients:

    g = 1/(R N) sum over r, n of d loss(x[r, n]) / d theta = 1/R sum over r of g[r]

The gradient of a player is one flat vector. After one all-reduce every rank takes the same
optimizer step, so parameters are never sent. All ranks draw random numbers for the whole batch and
use their part (`ShardedRng`): R ranks compute the same as one, to rounding. BatchNorm and
MinibatchStd alone depend on the other samples: layers/norm.py has local and synchronised
statistics, and the groups of layers/minibatch_std.py are of the samples of one process.

Rank 0 alone writes and prints. When a rank ends, the others end too (`RankLost`).
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from types import ModuleType

import numpy as np

from rawgan.backend import Array, address, array_module, nccl, use_gpu
from rawgan.errors import UserError, first_line

POLL = 0.05  # seconds between two checks that the other processes are alive
RESUME = "the run goes on from its last checkpoint with rawgan train --resume RUN"
TIMEOUT = 1800.0  # seconds that a rank waits at most, as while rank 0 draws samples and saves


class RankLost(UserError):
    """Another rank has ended, or does not answer."""


class Ranks:
    """Collective operations; this class is the trivial one of a single process.

        all_reduce_mean_(a)         a = 1/R sum over r of a[r], in place, for a contiguous float
                                    array; the same bits on all ranks
        all_gather(a)               (R, ...): the arrays of all ranks, of one shape, in their order
        all_gather_object(value)    the values of all ranks, which can be pickled, in their order

    All ranks call the same operations in the same order. `rank` counts from 0 to size - 1.
    """

    rank, size, name = 0, 1, "one process"

    def all_reduce_mean_(self, a: Array) -> Array:
        return a

    def all_gather(self, a: Array) -> Array:
        return a[None]

    def all_gather_object(self, value) -> list:
        return [value]

    def __deepcopy__(self, memo):
        return self

    def shard(self, n: int) -> slice:
        """Return this rank's part of n samples.

        Raises UserError unless all ranks get the same number, two or more.
        """
        if n % self.size or (self.size > 1 and n < 2 * self.size):
            raise UserError(
                f"a batch of {n} cannot be split evenly over {self.size} processes, "
                "2 or more to each: change --batch or their number"
            )
        N = n // self.size
        return slice(self.rank * N, (self.rank + 1) * N)

    def shard_rng(self, rng):
        """Return a stream whose samples are this rank's part of those of `rng`."""
        return rng if self.size == 1 else ShardedRng(rng, self)

    def average_(self, arrays: list[Array]) -> None:
        """Replace arrays by their means over the ranks, by one all-reduce."""
        if self.size == 1 or not any(a.size for a in arrays):
            return
        xp, start = array_module(*arrays), 0
        flat = self.all_reduce_mean_(xp.concatenate([a.ravel() for a in arrays]))
        for a in arrays:
            a[...] = flat[start : start + a.size].reshape(a.shape)
            start += a.size

    def mean_numbers(self, row: dict[str, float]) -> dict[str, float]:
        """Return the means over the ranks of numbers by name."""
        columns = zip(*self.all_gather_object(list(row.values())))
        return {name: sum(column) / self.size for name, column in zip(row, columns)}

    def require_same(self, name: str, value) -> None:
        """Raise UserError unless all ranks have the same value; `name` stands in the message."""
        if any(other != value for other in self.all_gather_object(value)):
            raise UserError(
                f"{name} differs between the {self.size} processes of this run: "
                "they need the same versions and files"
            )

    @contextmanager
    def all_or_raise(self) -> Iterator[None]:
        """Inside, a UserError of one rank is raised by all ranks at the end."""
        error = None
        try:
            yield
        except UserError as caught:
            error = caught
        messages = [text for text in self.all_gather_object(error and str(error)) if text]
        if messages:
            raise UserError(messages[0]) from error


SINGLE_PROCESS = Ranks()


class ShardedRng:
    """Random stream from which every rank draws the whole batch and returns its part.

    The stream has the same state on all ranks, as a checkpoint needs; samples do not depend on R.
    """

    def __init__(self, rng: np.random.Generator, ranks: Ranks):
        self.rng, self.ranks = rng, ranks

    def random(self, shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
        """Return samples of U(0, 1) of this shape (N, ...): this rank's part of (R N, ...)."""
        n = shape[0] * self.ranks.size
        return self.rng.random((n, *shape[1:]), dtype=dtype)[self.ranks.shard(n)]


class MPIRanks(Ranks):
    """Collectives by MPI on NumPy arrays.

    It polls requests in Python, to notice when another process of this machine has ended.
    """

    name = "MPI"

    def __init__(self, mpi: ModuleType):
        self.mpi, self.comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size
        self.local_processes: list[tuple[int, int]] = []
        here = (socket.gethostname(), self.rank, os.getpid())
        on_host = [
            (rank, pid) for host, rank, pid in self.all_gather_object(here) if host == here[0]
        ]
        self.local_rank = on_host.index(here[1:])
        self.local_processes = [
            (rank, pid)
            for rank, pid in on_host
            if os.name == "posix" and rank != self.rank and alive(pid)
        ]

    def open(self) -> None:
        """Set up a device and its library, with errors shared by all ranks. Raises UserError."""

    def all_reduce_mean_(self, a):
        self.wait(self.comm.Iallreduce(self.mpi.IN_PLACE, a))
        a /= self.size
        return a

    def all_gather(self, a):
        every = np.empty((self.size, *a.shape), a.dtype)
        self.wait(self.comm.Iallgather(np.ascontiguousarray(a), every))
        return every

    def all_gather_object(self, value):
        self.barrier()  # allgather cannot be polled
        return self.comm.allgather(value)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.wait(self.comm.Ibarrier())

    def wait(self, request) -> None:
        """Wait for a request. Raises RankLost when another process has ended, or after TIMEOUT."""
        start = polled = time.monotonic()
        while not request.Test():
            now = time.monotonic()
            if now - polled < POLL:
                continue
            polled = now
            for rank, pid in self.local_processes:
                if not alive(pid):
                    raise RankLost(
                        f"rank {rank} (process {pid}) has ended, and rank {self.rank} with it; "
                        f"{RESUME}"
                    )
            if now - start > TIMEOUT:
                raise RankLost(
                    f"rank {self.rank} has waited {TIMEOUT:.0f} seconds for the others; {RESUME}"
                )


class NCCLRanks(MPIRanks):
    """Collectives by NCCL on CuPy arrays, in the current stream; a CUDA graph can capture them.

    MPI starts the processes, sends NCCL's unique id from rank 0 to the others, and exchanges values
    on the host.
    """

    name = "NCCL"

    def open(self):
        with self.all_or_raise():
            use_gpu(self.local_rank)
            self.nccl = nccl()
        unique = self.all_gather_object(self.nccl.get_unique_id() if self.rank == 0 else None)[0]
        self.communicator = self.nccl.NcclCommunicator(self.size, unique, self.rank)

    def nccl_dtype(self, a: Array) -> int:
        """Return NCCL's number for a dtype, float32 or float64."""
        return {"float32": self.nccl.NCCL_FLOAT32, "float64": self.nccl.NCCL_FLOAT64}[a.dtype.name]

    def all_reduce_mean_(self, a):
        stream = array_module(a).cuda.get_current_stream().ptr
        self.communicator.allReduce(
            address(a), address(a), a.size, self.nccl_dtype(a), self.nccl.NCCL_AVG, stream
        )
        return a

    def all_gather(self, a):
        xp = array_module(a)
        a, every = xp.ascontiguousarray(a), xp.empty((self.size, *a.shape), a.dtype)
        self.communicator.allGather(
            address(a), address(every), a.size, self.nccl_dtype(a), xp.cuda.get_current_stream().ptr
        )
        return every


BACKENDS = {"mpi": MPIRanks, "nccl": NCCLRanks}


def alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


@contextmanager
def connect(parallel: str) -> Iterator[Ranks]:
    """Yield the ranks of this run, for "none" those of one process; inside, only rank 0 prints.

    Raises UserError, on rank 0 alone for an error of all ranks. On an error MPI is not
    finalized, so that mpirun ends the other ranks, instead of waiting for them.
    """
    if parallel == "none":
        n = int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("PMI_SIZE") or 1)
        if n > 1:
            raise UserError(
                f"{n} processes were started, but with --parallel none: "
                "give --parallel mpi, or nccl on GPUs"
            )
        yield SINGLE_PROCESS
        return
    if parallel not in BACKENDS:
        raise UserError(f"--parallel {parallel} is not known; choose none, {' or '.join(BACKENDS)}")
    ranks = BACKENDS[parallel](load_mpi())
    try:
        with quiet(ranks.rank > 0):
            ranks.open()
            yield ranks
            ranks.barrier()
    except UserError as error:
        if ranks.rank == 0 or isinstance(error, RankLost):
            raise
        with suppress(RankLost):  # until rank 0 has printed the error and ended
            ranks.barrier()
        raise SystemExit(2) from error
    ranks.mpi.Finalize()


@contextmanager
def quiet(on: bool) -> Iterator[None]:
    """Inside, nothing is printed."""
    if not on:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as devnull,
        redirect_stdout(devnull),
        redirect_stderr(devnull),
    ):
        yield


def load_mpi() -> ModuleType:
    """Return mpi4py's MPI module. Raises UserError where it, or an MPI library, is missing."""
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # connect finalizes, after a run without error
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "--parallel needs mpi4py and an MPI library: pip install 'rawgan[parallel]' "
            f"({first_line(error)})"
        ) from error
    if MPI.Is_finalized():
        raise UserError(
            "MPI can be used once in a process: start another one for another parallel training"
        )
    return MPI
