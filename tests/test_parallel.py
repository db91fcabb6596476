"""Two processes train as one: the same bits on both, one process' numbers to rounding, and no hang when one of them dies."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from ranks import EQUAL, WRONG, alone
from runs import assert_same_run, options
from safetensors.numpy import load_file
from tolerance import assert_close
from typer.testing import CliRunner

from rawgan import backend, parallel
from rawgan.backend import CPU
from rawgan.cli.main import app
from rawgan.data import load
from rawgan.errors import UserError
from rawgan.parallel import ALONE, Lost, MPIRanks, NCCLRanks, Ranks, Share, connect, load_mpi
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.session import Session, resume, start

PATIENCE = 300  # seconds that any process may take on a busy machine
TOOLS = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
TWO = [str(TOOLS / "mpirun"), "-n", "2", sys.executable]
PLAYERS = ("generator", "discriminator")
with_mpi = pytest.mark.skipif(not (TOOLS / "mpirun").exists(), reason="MPI has no wheel for this system")
PROGRAM = """
import os
open("pid." + os.environ["OMPI_COMM_WORLD_RANK"], "w").write(str(os.getpid()))
from rawgan.cli.main import main
from rawgan.training import loop, trainer
for name in ("save_curves", "save_gradients", "save_progress"):
    setattr(loop if name == "save_curves" else trainer, name, lambda *_: None)
main()
"""  # the command line, whose processes say which they are; nothing is plotted, which would take longer than the runs


def two(*told, folder: Path, status: int | None = 0):
    """The command line as two processes, and what it said."""
    command = list(map(str, [*TWO, "-c", PROGRAM, *told]))
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done


def tiny(*more) -> list:
    """A training of runs.options on the command line."""
    return ["train", "dcgan", "--width", 4, "--batch", 8, "--device", "cpu", "--sample-every", 10, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes came to in every case of ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [*TWO, str(Path(__file__).with_name("ranks.py")), str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@with_mpi
class TestSteps:
    def both(self, folder, name) -> tuple[dict, dict]:
        return tuple(dict(np.load(folder / f"{name}.{rank}.npz")) for rank in (0, 1))

    def compare(self, got, want):
        """Biases before a BatchNorm have a gradient of rounding alone: the scale is that of all parameters of a player."""
        scale = {who: max(abs(a).max() for name, a in want.items() if name.startswith(f"{who}.")) for who in PLAYERS}
        for name, a in want.items():
            assert_close(got[name], a, name, scale=scale.get(name.partition(".")[0]))

    @pytest.mark.parametrize("recipe", EQUAL)
    @pytest.mark.filterwarnings("ignore:.*couples the samples")
    def test_two_are_one(self, recipe, folder):
        first, second = self.both(folder, recipe)
        assert first.keys() == second.keys() and all(a.tobytes() == second[name].tobytes() for name, a in first.items())
        self.compare(first, alone(recipe, EQUAL[recipe], load("digits", 16)))

    @pytest.mark.parametrize("mistake", WRONG)
    def test_mistake_is_found(self, mistake, folder):
        """Both ranks agree, and on something else than one process."""
        recipe, batchnorm, _ = WRONG[mistake]
        first, second = self.both(folder, mistake)
        assert all(a.tobytes() == second[name].tobytes() for name, a in first.items())
        with pytest.raises(AssertionError, match="entries differ"):
            self.compare(first, alone(recipe, batchnorm, load("digits", 16)))

    def test_contract(self, folder):
        for found in self.both(folder, "contract"):
            np.testing.assert_array_equal(found["mean"], np.arange(5, 11, dtype=np.float32))
            np.testing.assert_array_equal(found["gather"], [[0] * 3, [1] * 3])
            np.testing.assert_array_equal(found["level"], [0.5] * 6 + [1.0] * 4)
            np.testing.assert_array_equal(found["exchange"], [5, 6])
            assert "it differs between the 2 processes" in str(found["same"])
            assert str(found["together"]) == "rank 1 finds no file"
        for rank in (0, 1):
            assert (folder / f"again.{rank}").read_text().startswith("MPI can be used once in a process")


@with_mpi
@pytest.mark.usefixtures("nothing_plotted")
class TestRuns:
    def test_a_run_of_two(self, tmp_path):
        """One folder, one voice; the facts of a run alone, and its numbers to rounding."""
        told = ("--steps", 20, "--checkpoint-every", 10, "--ema", 0.9, "--flip")
        said = two(*tiny(*told, "--parallel", "mpi", "--batchnorm", "synchronised", "--out", "run"), folder=tmp_path)
        assert said.stdout.count("Ranks: 2, by MPI; BatchNorm's statistics synchronised.") == 1
        assert said.stdout.count("checkpoint: step 20") == said.stdout.count("20 steps done") == 1
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]
        start(options("dcgan", steps=20, checkpoint_every=10, ema=0.9, flip=True), tmp_path / "alone")
        (got, facts), (want, facts_want) = (load_checkpoint(checkpoints(tmp_path / run)[20]) for run in ("run", "alone"))
        assert facts == facts_want and got.keys() == want.keys()
        got, want = (np.genfromtxt(tmp_path / run / "metrics.csv", delimiter=",", skip_header=1) for run in ("run", "alone"))
        np.testing.assert_allclose(got, want, rtol=1e-4)

    @pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
    def test_kernels(self, tmp_path, monkeypatch):
        """The statistics of two ranks out of Triton kernels, in the interpreter."""
        monkeypatch.setitem(ENVIRONMENT, "TRITON_INTERPRET", "1")
        told = ["train", "dcgan", "--width", 4, "--batch", 4, "--size", 8, "--steps", 1, "--device", "cpu"]
        two(*told, "--kernels", "--parallel", "mpi", "--batchnorm", "synchronised", "--out", "run", folder=tmp_path)
        start(options("dcgan", batch=4, size=8, steps=1), tmp_path / "alone")
        got, want = (np.genfromtxt(tmp_path / run / "metrics.csv", delimiter=",", skip_header=1) for run in ("run", "alone"))
        np.testing.assert_allclose(got, want, rtol=1e-4)

    @pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
    def test_killed_ranks(self, tmp_path):
        """Either of the two dies: the other ends soon, the run goes on, and is at its end what it is without kills."""
        told = ["--steps", 10**6, "--checkpoint-every", 5, "--parallel", "mpi"]
        last = self.kill(1, tiny(*told, "--out", "run"), tmp_path)
        last = max(last, self.kill(0, ["train", "--resume", "run"], tmp_path)) + 15
        two("train", "--resume", "run", "--steps", last, folder=tmp_path)
        two(*tiny("--steps", last, "--checkpoint-every", 5, "--parallel", "mpi", "--out", "straight"), folder=tmp_path)
        assert_same_run(tmp_path / "run", tmp_path / "straight")
        assert resume(tmp_path / "run", steps=last + 5, parallel="none") == (last + 5,) * 2  # and as one process

    def kill(self, rank: int, told: list, folder: Path) -> int:
        """Kills a rank after two checkpoints; the last step announced, which is there and whole."""
        command = list(map(str, [*TWO, "-c", PROGRAM, *told]))
        with subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            lines = []
            while sum(line.startswith("checkpoint") for line in lines) < 2:
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr.read()
            os.kill(int((folder / f"pid.{rank}").read_text()), signal.SIGKILL)
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGKILL and "Traceback" not in err, err
        assert re.search(rf"process rank {rank} with PID \d+ on node \S+ exited on signal 9", " ".join((out + err).split()))
        for said in re.findall("^error: .*", err, re.MULTILINE):  # where the other was quicker than mpirun, which kills it too
            assert re.match(rf"error: rank {rank} \(process \d+\) has ended, and rank {1 - rank} with it; the run goes on", said)
        announced = [int(n) for n in re.findall(r"^checkpoint: step (\d+)\n", "".join(lines) + out, re.MULTILINE)]
        found = checkpoints(folder / "run")
        assert max(found) >= max(announced)
        for path in found.values():
            load_checkpoint(path)
        return max(found)

    def test_what_is_refused_is_said_once(self, tmp_path):
        done = two(*tiny("--batch", 9, "--parallel", "mpi", "--out", "run"), folder=tmp_path, status=2)
        said = re.findall("^error: .*", done.stderr, re.MULTILINE)
        assert said == [
            "error: a batch of 9 cannot be split evenly over 2 processes, 2 or more to each: change --batch or their number"
        ]
        assert not (tmp_path / "run").exists()

    def test_an_overflow_is_said_once(self, tmp_path):
        done = two(*tiny("--steps", 30, "--lr", 1e20, "--parallel", "mpi", "--out", "run"), folder=tmp_path, status=2)
        said = re.findall("^error: .*", done.stderr, re.MULTILINE)
        assert len(said) == 1 and "no longer finite at step 10; rawgan train --resume RUN --parallel none says" in said[0]


class TestAlone:
    def test_one_process_does_nothing(self):
        a = np.arange(6.0)
        assert ALONE.mean_(a) is a and ALONE.part(7) == slice(0, 7) and ALONE.exchange(3) == [3]
        assert ALONE.gather(a).shape == (1, 6)
        rng = np.random.default_rng(0)
        assert ALONE.share(rng) is rng
        with pytest.raises(UserError, match=r"^nothing here$"), ALONE.together():
            raise UserError("nothing here")

    def test_ranks_that_have_drifted_apart(self, nothing_plotted):
        session = Session(options("dcgan"), load("digits", 16), CPU)
        session.agree()
        session.ranks = ranks_of(0, 2)
        session.ranks.exchange = lambda value: [value, value]
        session.agree()
        before, seen = [], lambda value: before.append(value) or [value, before[0]]
        session.ranks.exchange = seen
        session.agree()
        session.gan.generator_optimizer.parameters.flat[7] += 1e-6
        with pytest.raises(UserError, match="what is trained differs between the 2 processes"):
            session.agree()

    def test_parts_are_the_whole(self, rng):
        whole, again = rng.bit_generator.state, []
        for rank in range(3):
            rng.bit_generator.state = whole
            again.append(Share(rng, ranks_of(rank, 3)).random((4, 2), dtype="float32"))
        rng.bit_generator.state = whole
        np.testing.assert_array_equal(np.concatenate(again), rng.random((12, 2), dtype="float32"))

    @pytest.mark.parametrize("n, size", [(64, 3), (2, 2), (7, 2), (0, 2)])
    def test_batches_that_cannot_be_split(self, n, size):
        with pytest.raises(UserError, match=f"a batch of {n} cannot be split evenly over {size}"):
            ranks_of(0, size).part(n)

    def test_processes_that_know_nothing_of_each_other(self, monkeypatch):
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
        with pytest.raises(UserError, match="2 processes were started, but to train apart: say --parallel mpi"), connect("none"):
            pass

    def test_words(self, monkeypatch):
        for told, said in (("--parallel tcp", "--parallel tcp is not known"), ("--batchnorm all", "--batchnorm all is not known")):
            result = CliRunner().invoke(app, ["train", "dcgan", "--steps", "1", *told.split()])
            assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
        monkeypatch.setitem(sys.modules, "mpi4py", None)
        with pytest.raises(UserError, match=r"needs mpi4py and an MPI library: pip install 'rawgan\[parallel\]'"), connect("mpi"):
            pass

    def test_an_mpi_library_that_is_missing_is_told_in_a_line(self, monkeypatch):
        def missing(name):
            raise RuntimeError("cannot load MPI library\nlibmpi.so: not here\nlibmpi.so.40: not here")

        mpi4py = ModuleType("mpi4py")
        mpi4py.rc, mpi4py.__getattr__ = SimpleNamespace(), missing
        monkeypatch.setitem(sys.modules, "mpi4py", mpi4py)
        with pytest.raises(UserError, match=r"\(cannot load MPI library\)$"), connect("mpi"):
            pass


def ranks_of(rank: int, size: int) -> Ranks:
    ranks = Ranks()
    ranks.rank, ranks.size = rank, size
    return ranks


class TestWaiting:
    """That a process which waits in vain ends, whoever started it."""

    @pytest.fixture
    def ranks(self):
        ranks = MPIRanks.__new__(MPIRanks)
        ranks.rank, ranks.size, ranks.neighbours = 0, 2, []
        return ranks

    never = SimpleNamespace(Test=lambda: False)

    @pytest.mark.skipif(os.name != "posix", reason="looks at processes as POSIX systems do")
    def test_for_a_process_that_has_ended(self, ranks):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            assert parallel.alive(process.pid)
            process.kill()
        ranks.neighbours = [(1, process.pid)]
        began = time.monotonic()
        with pytest.raises(Lost, match=rf"^rank 1 \(process {process.pid}\) has ended, and rank 0 with it; the run goes on from"):
            ranks.wait(self.never)
        assert time.monotonic() - began < PATIENCE

    def test_for_ever(self, ranks, monkeypatch):
        monkeypatch.setattr(parallel, "LIMIT", 0.1)
        with pytest.raises(Lost, match="rank 0 has waited 0 seconds for the others"):
            ranks.wait(self.never)

    def test_not_at_all(self, ranks):
        ranks.wait(SimpleNamespace(Test=lambda: True))


class FakeNCCL:
    """NCCL with two ranks that hold the same, on NumPy arrays: it notes the calls, and what they read and write."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_AVG = 7, 8, 4

    def __init__(self):
        self.calls = []

    def get_unique_id(self):
        return tuple(range(128))

    def NcclCommunicator(self, *given):
        self.calls.append(given)
        return SimpleNamespace(
            allReduce=lambda *given: self.calls.append(("allReduce", *given)),
            allGather=lambda *given: self.calls.append(("allGather", *given)),
        )


class TestNCCL:
    @pytest.fixture
    def nccl(self, monkeypatch):
        fake, self.used = FakeNCCL(), []
        stream = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=1234))
        xp = SimpleNamespace(cuda=stream, empty=np.empty, ascontiguousarray=np.ascontiguousarray)
        monkeypatch.setattr(parallel, "array_module", lambda *_: xp)
        monkeypatch.setattr(parallel, "nccl", lambda: fake)
        monkeypatch.setattr(parallel, "use_gpu", self.used.append)
        return fake

    @pytest.fixture
    def ranks(self, nccl):
        """Rank 1 of 2, the third process of its machine."""
        ranks = NCCLRanks.__new__(NCCLRanks)
        ranks.rank, ranks.size, ranks.local = 1, 2, 2
        ranks.exchange = lambda value: [value if value is not None else nccl.get_unique_id()] * 2
        ranks.together = ALONE.together
        ranks.open()
        return ranks

    def test_one_gpu_each_and_the_id_of_rank_0(self, nccl, ranks):
        assert self.used == [2] and nccl.calls == [(2, tuple(range(128)), 1)]

    @pytest.mark.parametrize("dtype, code", [(np.float32, 7), (np.float64, 8)])
    def test_calls(self, nccl, ranks, dtype, code):
        """In place, of all numbers, their mean, on the current stream."""
        a = np.zeros((3, 5), dtype)
        assert ranks.mean_(a) is a
        at = a.ctypes.data
        assert nccl.calls[-1] == ("allReduce", at, at, 15, code, 4, 1234)
        every = ranks.gather(a)
        assert every.shape == (2, 3, 5) and every.dtype == dtype
        assert nccl.calls[-1] == ("allGather", at, every.ctypes.data, 15, code, 1234)

    def test_half_precision_is_no_gradient(self, ranks):
        with pytest.raises(KeyError):
            ranks.mean_(np.zeros(3, np.uint16))

    def test_constants_are_those_of_cupy(self):
        nccl = pytest.importorskip("cupy.cuda.nccl", reason="CuPy is not installed")
        if not nccl.available:
            pytest.skip("there is no NCCL library here")
        for name in ("NCCL_FLOAT32", "NCCL_FLOAT64", "NCCL_AVG"):
            assert getattr(nccl, name) == getattr(FakeNCCL, name)

    def test_without_a_gpu(self, monkeypatch):
        monkeypatch.setattr(backend, "_cupy", lambda: (None, "there is none"))
        with pytest.raises(UserError, match="--parallel nccl needs a GPU, but there is none"):
            backend.nccl()

    def test_more_processes_than_gpus(self, monkeypatch):
        runtime = SimpleNamespace(getDeviceCount=lambda: 2)
        used = []
        cuda = SimpleNamespace(runtime=runtime, Device=lambda n: SimpleNamespace(use=lambda: used.append(n)))
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
        backend.use_gpu(1)
        assert used == [1]
        with pytest.raises(UserError, match="a GPU for each process, but this machine has 2"):
            backend.use_gpu(2)

    @pytest.mark.gpu
    @with_mpi
    def test_two_gpus_are_one(self, tmp_path):
        import cupy

        if (count := cupy.cuda.runtime.getDeviceCount()) < 2 or not cupy.cuda.nccl.available:
            pytest.skip(f"needs two GPUs and NCCL; GPUs: {count}, NCCL: {cupy.cuda.nccl.available}")
        environment = {k: v for k, v in ENVIRONMENT.items() if k != "CUDA_VISIBLE_DEVICES"}
        told = [*tiny("--steps", 5, "--parallel", "nccl", "--batchnorm", "synchronised", "--out", "run", "--device", "gpu")]
        subprocess.run(list(map(str, [*TWO, "-c", PROGRAM, *told])), cwd=tmp_path, env=environment, check=True, timeout=PATIENCE)
        start(options("dcgan", steps=5, device="gpu"), tmp_path / "alone")
        got, want = (load_file(tmp_path / run / "weights.safetensors") for run in ("run", "alone"))
        for name, a in want.items():
            np.testing.assert_allclose(got[name], a, atol=1e-4, err_msg=name)


def test_a_missing_library_is_one_line(monkeypatch):
    """mpi4py without an MPI library names every place where it has looked, in a line each."""

    def missing(name):
        raise RuntimeError("cannot load MPI library\nlibmpi.so: no such file") if name == "MPI" else AttributeError(name)

    without = ModuleType("mpi4py")
    without.rc, without.__getattr__ = SimpleNamespace(), missing
    monkeypatch.setitem(sys.modules, "mpi4py", without)
    with pytest.raises(UserError, match=r"pip install 'rawgan\[parallel\]' \(cannot load MPI library\)$"):
        load_mpi()


def test_mpirun_is_that_of_the_wheel():
    """What the commands of the documentation begin with."""
    if sys.platform == "linux":
        assert shutil.which("mpirun", path=TOOLS)
