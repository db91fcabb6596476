"""Several processes train one GAN, each on its part of every batch: by NCCL on GPUs, one each, or by MPI on CPUs.

    mpirun -n 2 rawgan train dcgan --parallel mpi

Of R processes (ranks) each sees N samples. A loss is a mean over samples, so the gradient of the whole batch is the mean of theirs:

    g = 1/(R N) sum over r, n of d loss(x[r, n]) / d theta = 1/R sum over r of g[r]

The gradient of a player is one flat vector: one all-reduce of it, and every rank takes the same step from the same place, so that
parameters are never sent. All ranks draw for the whole batch and use their part (`Share`): R ranks compute what one would, to
rounding. Only BatchNorm looks at the other samples: layers/norm.py has both ways.

Rank 0 alone writes and speaks. A rank that has ended ends the others (`Lost`).
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from types import ModuleType

import numpy as np

from rawgan.backend import Array, address, array_module, nccl, use_gpu
from rawgan.errors import UserError

LOOK = 0.05  # seconds between two looks at the other processes, while one waits for them
RESUME = "the run goes on from its last checkpoint with rawgan train --resume RUN"
LIMIT = 1800.0  # seconds that one waits at most: rank 0 draws and saves meanwhile


class Lost(UserError):
    """Another rank has ended, or does not answer."""


class Ranks:
    """The contract, and its form for one process alone, which has nothing to do.

        mean_(a)          a = 1/R sum over r of a[r] in place: a contiguous float array, afterwards the same bits on all ranks
        gather(a)         (R, ...): the arrays of all ranks, of one shape, in their order
        exchange(value)   the values of all ranks, anything that can be pickled, in their order

    All ranks call the same ones in the same order. `rank` counts from 0 to size - 1.
    """

    rank, size, name = 0, 1, "one process"

    def mean_(self, a: Array) -> Array:
        return a

    def gather(self, a: Array) -> Array:
        return a[None]

    def exchange(self, value) -> list:
        return [value]

    def __deepcopy__(self, memo):
        return self

    def part(self, n: int) -> slice:
        """This rank's part of n samples. Raises UserError unless they can be shared out evenly, two or more to each."""
        if n % self.size or (self.size > 1 and n < 2 * self.size):
            raise UserError(
                f"a batch of {n} cannot be split evenly over {self.size} processes, 2 or more to each: "
                "change --batch or their number"
            )
        N = n // self.size
        return slice(self.rank * N, (self.rank + 1) * N)

    def share(self, rng):
        """The stream, of which every rank gets its own part."""
        return rng if self.size == 1 else Share(rng, self)

    def level(self, arrays: list[Array]) -> None:
        """The means over the ranks of several arrays, in place, by one all-reduce."""
        if self.size == 1 or not arrays:
            return
        flat, start = self.mean_(array_module(*arrays).concatenate([a.ravel() for a in arrays])), 0
        for a in arrays:
            a[...] = flat[start : start + a.size].reshape(a.shape)
            start += a.size

    def mean_numbers(self, row: dict[str, float]) -> dict[str, float]:
        """The means over the ranks of numbers by name."""
        columns = zip(*self.exchange(list(row.values())))
        return {name: sum(column) / self.size for name, column in zip(row, columns)}

    def same(self, what: str, value) -> None:
        """Raises UserError unless all ranks have the same value."""
        if any(other != value for other in self.exchange(value)):
            raise UserError(f"{what} differs between the {self.size} processes of this run: they need the same versions and files")

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is between, all ranks do or none: where one of them meets a UserError, all raise it."""
        error = None
        try:
            yield
        except UserError as found:
            error = found
        said = [text for text in self.exchange(error and str(error)) if text]
        if said:
            raise UserError(said[0]) from error


ALONE = Ranks()


class Share:
    """A random stream from which all ranks draw for the whole batch, in step, and use their part each.

    So the stream is in the same state everywhere, as one checkpoint needs it, and what is drawn does not depend on R.
    """

    def __init__(self, rng: np.random.Generator, ranks: Ranks):
        self.rng, self.ranks = rng, ranks

    def random(self, shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
        """U(0, 1) of this shape (N, ...): this rank's part of (R N, ...)."""
        n = shape[0] * self.ranks.size
        return self.rng.random((n, *shape[1:]), dtype=dtype)[self.ranks.part(n)]


class MPIRanks(Ranks):
    """By MPI, on NumPy arrays. It waits in Python, where it can look whether the other processes of this machine are alive."""

    name = "MPI"

    def __init__(self, mpi: ModuleType):
        self.mpi, self.comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size
        self.neighbours: list[tuple[int, int]] = []
        here = (socket.gethostname(), self.rank, os.getpid())
        near = [(rank, pid) for host, rank, pid in self.exchange(here) if host == here[0]]
        self.local = near.index(here[1:])
        self.neighbours = [(rank, pid) for rank, pid in near if os.name == "posix" and rank != self.rank and alive(pid)]

    def open(self) -> None:
        """What can go wrong for a reason to be told. Raises UserError."""

    def mean_(self, a):
        self.wait(self.comm.Iallreduce(self.mpi.IN_PLACE, a))
        a /= self.size
        return a

    def gather(self, a):
        every = np.empty((self.size, *a.shape), a.dtype)
        self.wait(self.comm.Iallgather(np.ascontiguousarray(a), every))
        return every

    def exchange(self, value):
        self.barrier()  # the exchange itself cannot be looked away from
        return self.comm.allgather(value)

    def barrier(self) -> None:
        """Until all ranks are here."""
        self.wait(self.comm.Ibarrier())

    def wait(self, request) -> None:
        """Until MPI has done what was asked for. Raises Lost when another process has ended, or after LIMIT."""
        start = looked = time.monotonic()
        while not request.Test():
            now = time.monotonic()
            if now - looked < LOOK:
                continue
            looked = now
            for rank, pid in self.neighbours:
                if not alive(pid):
                    raise Lost(f"rank {rank} (process {pid}) has ended, and rank {self.rank} with it; {RESUME}")
            if now - start > LIMIT:
                raise Lost(f"rank {self.rank} has waited {LIMIT:.0f} seconds for the others; {RESUME}")


class NCCLRanks(MPIRanks):
    """By NCCL, on CuPy arrays and their current stream: nothing waits on the host, and a CUDA graph can record it.

    MPI starts the processes, hands the unique id from rank 0 to the others, and exchanges what is on the host.
    """

    name = "NCCL"

    def open(self):
        with self.together():
            use_gpu(self.local)
            self.nccl = nccl()
        unique = self.exchange(self.nccl.get_unique_id() if self.rank == 0 else None)[0]
        self.ring = self.nccl.NcclCommunicator(self.size, unique, self.rank)

    def code(self, a: Array) -> int:
        """NCCL's number for a dtype; it knows no bfloat16 under the name of uint16."""
        return {"float32": self.nccl.NCCL_FLOAT32, "float64": self.nccl.NCCL_FLOAT64}[a.dtype.name]

    def mean_(self, a):
        stream = array_module(a).cuda.get_current_stream().ptr
        self.ring.allReduce(address(a), address(a), a.size, self.code(a), self.nccl.NCCL_AVG, stream)
        return a

    def gather(self, a):
        xp = array_module(a)
        a, every = xp.ascontiguousarray(a), xp.empty((self.size, *a.shape), a.dtype)
        self.ring.allGather(address(a), address(every), a.size, self.code(a), xp.cuda.get_current_stream().ptr)
        return every


FORMS = {"mpi": MPIRanks, "nccl": NCCLRanks}


def alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


@contextmanager
def connect(parallel: str) -> Iterator[Ranks]:
    """The ranks of this run, "none" for one process alone; inside, only rank 0 is heard. Raises UserError, which rank 0 says.

    An error leaves MPI open: a process that ends so ends the others, instead of waiting for them.
    """
    if parallel == "none":
        if (n := int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("PMI_SIZE") or 1)) > 1:
            raise UserError(f"{n} processes were started, but to train apart: say --parallel mpi, or nccl on GPUs")
        yield ALONE
        return
    if parallel not in FORMS:
        raise UserError(f"--parallel {parallel} is not known; choose none, {' or '.join(FORMS)}")
    ranks = FORMS[parallel](load_mpi())
    try:
        with quiet(ranks.rank > 0):
            ranks.open()
            yield ranks
            ranks.barrier()
    except UserError as error:
        if ranks.rank == 0 or isinstance(error, Lost):
            raise
        with suppress(Lost):  # until rank 0 has said it and ended
            ranks.barrier()
        raise SystemExit(2) from error
    ranks.mpi.Finalize()


@contextmanager
def quiet(on: bool) -> Iterator[None]:
    """Inside, nothing is printed."""
    if not on:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def load_mpi() -> ModuleType:
    """mpi4py's MPI. Raises UserError where it, or an MPI library, is missing."""
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # connect does, where there was no error
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--parallel needs mpi4py and an MPI library: pip install 'rawgan[parallel]' ({reason})") from error
    if MPI.Is_finalized():
        raise UserError("MPI can be used once in a process: start another one for another parallel training")
    return MPI
