"""Two processes train as one: equal bits on both, one process' values to rounding, no hang.

A rank that dies ends the other.
"""

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
from typer.testing import CliRunner

from rawgan import parallel
from rawgan.backend import CPU
from rawgan.cli.main import app
from rawgan.data import load
from rawgan.errors import UserError
from rawgan.layers import BatchNorm
from rawgan.models.recipes import RECIPES
from rawgan.parallel import (
    SINGLE_PROCESS,
    MPIRanks,
    RankLost,
    Ranks,
    ShardedRng,
    connect,
    load_mpi,
)
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.session import Session
from rawgan.training.train import resume, start
from tests.support.mpi import ENVIRONMENT, PATIENCE, PROGRAM, TOOLS, TWO, tiny, two, with_mpi
from tests.support.process import run_process
from tests.support.ranks import EQUAL, WRONG, alone
from tests.support.runs import assert_same_run, options
from tests.support.tolerance import assert_close

PLAYERS = ("generator", "discriminator")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder with the results of two processes for every case of ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [*TWO, str(Path(__file__).parents[1] / "support/ranks.py"), str(folder)]
    done = run_process(command, env=ENVIRONMENT, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@with_mpi
class TestSteps:
    def both(self, folder, name) -> tuple[dict, dict]:
        return tuple(dict(np.load(folder / f"{name}.{rank}.npz")) for rank in (0, 1))

    def compare(self, got, want):
        """Compare all parameters of a network on their common scale.

        The gradient of a bias before a BatchNorm consists of rounding only.
        """
        scale = {
            who: max(abs(a).max() for name, a in want.items() if name.startswith(f"{who}."))
            for who in PLAYERS
        }
        for name, a in want.items():
            assert_close(got[name], a, name, scale=scale.get(name.partition(".")[0]))

    @pytest.mark.parametrize("recipe", EQUAL)
    @pytest.mark.filterwarnings("ignore:.*couples the samples")
    def test_two_are_one(self, recipe, folder):
        first, second = self.both(folder, recipe)
        assert first.keys() == second.keys() and all(
            a.tobytes() == second[name].tobytes() for name, a in first.items()
        )
        self.compare(first, alone(recipe, EQUAL[recipe], load("digits", 16)))

    @pytest.mark.parametrize("mistake", WRONG)
    def test_mistake_is_found(self, mistake, folder):
        """With a mistake both ranks agree with each other, but not with one process."""
        recipe, batchnorm, _ = WRONG[mistake]
        first, second = self.both(folder, mistake)
        assert all(a.tobytes() == second[name].tobytes() for name, a in first.items())
        with pytest.raises(AssertionError, match="entries differ"):
            self.compare(first, alone(recipe, batchnorm, load("digits", 16)))

    def test_contract(self, folder):
        for results in self.both(folder, "contract"):
            np.testing.assert_array_equal(results["mean"], np.arange(5, 11, dtype=np.float32))
            np.testing.assert_array_equal(results["all_gather"], [[0] * 3, [1] * 3])
            np.testing.assert_array_equal(results["level"], [0.5] * 6 + [1.0] * 4)
            np.testing.assert_array_equal(results["all_gather_object"], [5, 6])
            assert "it differs between the 2 processes" in str(results["same"])
            assert str(results["together"]) == "rank 1 finds no file"
        for rank in (0, 1):
            assert (
                (folder / f"again.{rank}")
                .read_text()
                .startswith("MPI can be used once in a process")
            )


@with_mpi
@pytest.mark.usefixtures("nothing_plotted")
class TestRuns:
    def test_a_run_of_two(self, tmp_path):
        """A run of two writes one folder and one log, and equals one process to rounding."""
        told = ("--steps", 20, "--checkpoint-every", 10, "--ema", 0.9, "--flip")
        process = two(
            *tiny(*told, "--parallel", "mpi", "--batchnorm", "synchronised", "--out", "run"),
            folder=tmp_path,
        )
        assert process.stdout.count("Ranks: 2, by MPI; BatchNorm's statistics synchronised.") == 1
        assert (
            process.stdout.count("checkpoint: step 20")
            == process.stdout.count("20 steps done")
            == 1
        )
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]
        alone = {"steps": 20, "checkpoint_every": 10, "ema": 0.9, "flip": True}
        start(options("dcgan", lr=RECIPES["dcgan"].default.lr, **alone), tmp_path / "alone")
        (got, facts), (want, facts_want) = (
            load_checkpoint(checkpoints(tmp_path / run)[20]) for run in ("run", "alone")
        )
        assert facts == facts_want and got.keys() == want.keys()
        got, want = (
            np.genfromtxt(tmp_path / run / "metrics.csv", delimiter=",", skip_header=1)
            for run in ("run", "alone")
        )
        np.testing.assert_allclose(got, want, rtol=1e-4)

    @pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
    def test_kernels(self, tmp_path, monkeypatch):
        """Triton kernels give the batch statistics over two ranks, in the interpreter."""
        monkeypatch.setitem(ENVIRONMENT, "TRITON_INTERPRET", "1")
        told = [
            "train",
            "dcgan",
            "--width",
            4,
            "--batch",
            4,
            "--size",
            8,
            "--steps",
            1,
            "--device",
            "cpu",
        ]
        two(
            *told,
            "--path",
            "kernels",
            "--parallel",
            "mpi",
            "--batchnorm",
            "synchronised",
            "--out",
            "run",
            folder=tmp_path,
        )
        start(options("dcgan", batch=4, size=8, steps=1), tmp_path / "alone")
        got, want = (
            np.genfromtxt(tmp_path / run / "metrics.csv", delimiter=",", skip_header=1)
            for run in ("run", "alone")
        )
        np.testing.assert_allclose(got, want, rtol=1e-4)

    @pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
    def test_killed_ranks(self, tmp_path):
        """If one rank is killed the other ends soon; the resumed run equals one without kills."""
        told = ["--steps", 10**6, "--checkpoint-every", 5, "--parallel", "mpi"]
        last = self.kill(1, tiny(*told, "--out", "run"), tmp_path)
        last = max(last, self.kill(0, ["train", "--resume", "run"], tmp_path)) + 15
        two("train", "--resume", "run", "--steps", last, folder=tmp_path)
        two(
            *tiny(
                "--steps", last, "--checkpoint-every", 5, "--parallel", "mpi", "--out", "straight"
            ),
            folder=tmp_path,
        )
        assert_same_run(tmp_path / "run", tmp_path / "straight")
        assert (
            resume(tmp_path / "run", steps=last + 5, parallel="none") == (last + 5,) * 2
        )  # and as one process

    def kill(self, rank: int, told: list, folder: Path) -> int:
        """Kill a rank after two checkpoints; return the last announced step."""
        command = list(map(str, [*TWO, "-c", PROGRAM, *told]))
        with subprocess.Popen(
            command,
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            lines = []
            while sum(line.startswith("checkpoint") for line in lines) < 2:
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr.read()
            os.kill(int((folder / f"pid.{rank}").read_text()), signal.SIGKILL)
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGKILL and "Traceback" not in err, err
        assert re.search(
            rf"process rank {rank} with PID \d+ on node \S+ exited on signal 9",
            " ".join((out + err).split()),
        )
        for announced_step in re.findall(
            "^error: .*", err, re.MULTILINE
        ):  # the other rank ended before mpirun killed it
            assert re.match(
                rf"error: rank {rank} \(process \d+\) has ended, and rank {1 - rank} with it; the "
                rf"run goes on",
                announced_step,
            )
        announced = [
            int(n)
            for n in re.findall(r"^checkpoint: step (\d+)\n", "".join(lines) + out, re.MULTILINE)
        ]
        checkpoint_files = checkpoints(folder / "run")
        assert max(checkpoint_files) >= max(announced)
        for path in checkpoint_files.values():
            load_checkpoint(path)
        return max(checkpoint_files)

    def test_what_is_refused_is_said_once(self, tmp_path):
        done = two(
            *tiny("--batch", 9, "--parallel", "mpi", "--out", "run"), folder=tmp_path, status=2
        )
        errors = re.findall("^error: .*", done.stderr, re.MULTILINE)
        assert errors == [
            "error: a batch of 9 cannot be split evenly over 2 processes, 2 or more to each: "
            "change --batch or their number"
        ]
        assert not (tmp_path / "run").exists()

    def test_an_overflow_is_said_once(self, tmp_path):
        done = two(
            *tiny("--steps", 30, "--lr", 1e20, "--parallel", "mpi", "--out", "run"),
            folder=tmp_path,
            status=2,
        )
        errors = re.findall("^error: .*", done.stderr, re.MULTILINE)
        assert (
            len(errors) == 1
            and "no longer finite at step 10; rawgan train --resume RUN --parallel none reports"
            in errors[0]
        )


class TestAlone:
    def test_one_process_does_nothing(self):
        a = np.arange(6.0)
        assert (
            SINGLE_PROCESS.all_reduce_mean_(a) is a
            and SINGLE_PROCESS.shard(7) == slice(0, 7)
            and SINGLE_PROCESS.all_gather_object(3) == [3]
        )
        assert SINGLE_PROCESS.all_gather(a).shape == (1, 6)
        rng = np.random.default_rng(0)
        assert SINGLE_PROCESS.shard_rng(rng) is rng
        with pytest.raises(UserError, match=r"^nothing here$"), SINGLE_PROCESS.all_or_raise():
            raise UserError("nothing here")

    def test_ranks_that_have_drifted_apart(self, nothing_plotted):
        session = Session(options("dcgan"), load("digits", 16), CPU)
        session.require_same_state()
        session.ranks = ranks_of(0, 2)
        session.ranks.all_gather_object = lambda value: [value, value]
        session.require_same_state()
        before, seen = [], lambda value: before.append(value) or [value, before[0]]
        session.ranks.all_gather_object = seen
        session.require_same_state()
        session.gan.generator_optimizer.parameters.flat[7] += 1e-6
        with pytest.raises(UserError, match="what is trained differs between the 2 processes"):
            session.require_same_state()

    @pytest.mark.parametrize("batchnorm", ["local", "synchronised"])
    def test_running_statistics_of_shards_are_averaged(self, batchnorm):
        """Once after each step, unless BatchNorm has computed those of the whole batch."""
        ranks, averaged = ranks_of(0, 2), []
        ranks.all_reduce_mean_, ranks.average_ = lambda a: a, averaged.append
        ranks.all_gather = lambda a: np.stack([a, a])
        session = Session(
            options("dcgan", batchnorm=batchnorm), load("digits", 16), CPU, ranks=ranks
        )
        session.run_steps(1)
        norms = [layer for layer in session.gan.layers() if isinstance(layer, BatchNorm)]
        buffers = [a for norm in norms for a in norm.buffers.values()]
        assert len(averaged) == (batchnorm == "local") and len(buffers) >= 4
        for arrays in averaged:
            assert all(a is buffer for a, buffer in zip(arrays, buffers, strict=True))
        session.close()

    def test_parts_are_the_whole(self, rng):
        whole, again = rng.bit_generator.state, []
        for rank in range(3):
            rng.bit_generator.state = whole
            again.append(ShardedRng(rng, ranks_of(rank, 3)).random((4, 2), dtype="float32"))
        rng.bit_generator.state = whole
        np.testing.assert_array_equal(np.concatenate(again), rng.random((12, 2), dtype="float32"))

    @pytest.mark.parametrize("n, size", [(64, 3), (2, 2), (7, 2), (0, 2)])
    def test_batches_that_cannot_be_split(self, n, size):
        with pytest.raises(UserError, match=f"a batch of {n} cannot be split evenly over {size}"):
            ranks_of(0, size).shard(n)

    def test_processes_that_know_nothing_of_each_other(self, monkeypatch):
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
        with (
            pytest.raises(
                UserError,
                match="2 processes were started, but with --parallel none: give --parallel mpi",
            ),
            connect("none"),
        ):
            pass

    def test_words(self, monkeypatch):
        for told, message in (
            ("--parallel tcp", "--parallel tcp is not known"),
            ("--batchnorm all", "--batchnorm all is not known"),
        ):
            result = CliRunner().invoke(app, ["train", "dcgan", "--steps", "1", *told.split()])
            assert (
                result.exit_code == 2
                and message in result.stderr
                and result.stderr.count("\n") == 1
            )
        monkeypatch.setitem(sys.modules, "mpi4py", None)
        with (
            pytest.raises(
                UserError,
                match=r"needs mpi4py and an MPI library: pip install 'rawgan\[parallel\]'",
            ),
            connect("mpi"),
        ):
            pass

    def test_an_mpi_library_that_is_missing_is_told_in_a_line(self, monkeypatch):
        def missing(name):
            raise RuntimeError(
                "cannot load MPI library\nlibmpi.so: not here\nlibmpi.so.40: not here"
            )

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
    """A process that waits for a dead rank ends, however it was started."""

    @pytest.fixture
    def ranks(self):
        ranks = MPIRanks.__new__(MPIRanks)
        ranks.rank, ranks.size, ranks.local_processes = 0, 2, []
        return ranks

    never = SimpleNamespace(Test=lambda: False)

    @pytest.mark.skipif(os.name != "posix", reason="looks at processes as POSIX systems do")
    def test_for_a_process_that_has_ended(self, ranks):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            assert parallel.alive(process.pid)
            process.kill()
        ranks.local_processes = [(1, process.pid)]
        began = time.monotonic()
        with pytest.raises(
            RankLost,
            match=rf"^rank 1 \(process {process.pid}\) has ended, and rank 0 with it; the run "
            rf"goes on from",
        ):
            ranks.wait(self.never)
        assert time.monotonic() - began < PATIENCE

    def test_for_ever(self, ranks, monkeypatch):
        monkeypatch.setattr(parallel, "TIMEOUT", 0.1)
        with pytest.raises(RankLost, match="rank 0 has waited 0 seconds for the others"):
            ranks.wait(self.never)

    def test_not_at_all(self, ranks):
        ranks.wait(SimpleNamespace(Test=lambda: True))


def test_a_missing_library_is_one_line(monkeypatch):
    """mpi4py without an MPI library raises a one-line error, without the list of searched paths."""

    def missing(name):
        raise (
            RuntimeError("cannot load MPI library\nlibmpi.so: no such file")
            if name == "MPI"
            else AttributeError(name)
        )

    without = ModuleType("mpi4py")
    without.rc, without.__getattr__ = SimpleNamespace(), missing
    monkeypatch.setitem(sys.modules, "mpi4py", without)
    with pytest.raises(
        UserError, match=r"pip install 'rawgan\[parallel\]' \(cannot load MPI library\)$"
    ):
        load_mpi()


def test_mpirun_is_that_of_the_wheel():
    """mpirun is the one of the wheel, with which the documented commands begin."""
    if sys.platform == "linux":
        assert shutil.which("mpirun", path=TOOLS)
