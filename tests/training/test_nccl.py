"""The calls to NCCL, against its interface; one GPU for each process."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from rawgan import backend, parallel
from rawgan.errors import UserError
from rawgan.parallel import (
    SINGLE_PROCESS,
    NCCLRanks,
)
from rawgan.training.train import start
from tests.support.mpi import ENVIRONMENT, PATIENCE, PROGRAM, TWO, tiny, with_mpi
from tests.support.runs import options


class FakeNCCL:
    """NCCL stand-in for two ranks with equal arrays, in NumPy; records the calls and buffers."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_AVG = 7, 8, 4

    def __init__(self):
        self.calls = []

    def get_unique_id(self):
        return tuple(range(128))

    def NcclCommunicator(self, *arguments):
        self.calls.append(arguments)
        return SimpleNamespace(
            allReduce=lambda *arguments: self.calls.append(("allReduce", *arguments)),
            allGather=lambda *arguments: self.calls.append(("allGather", *arguments)),
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
        """Return rank 1 of 2, the third process of its machine."""
        ranks = NCCLRanks.__new__(NCCLRanks)
        ranks.rank, ranks.size, ranks.local_rank = 1, 2, 2
        ranks.all_gather_object = lambda value: (
            [value if value is not None else nccl.get_unique_id()] * 2
        )
        ranks.all_or_raise = SINGLE_PROCESS.all_or_raise
        ranks.open()
        return ranks

    def test_one_gpu_each_and_the_id_of_rank_0(self, nccl, ranks):
        assert self.used == [2] and nccl.calls == [(2, tuple(range(128)), 1)]

    @pytest.mark.parametrize("dtype, code", [(np.float32, 7), (np.float64, 8)])
    def test_calls(self, nccl, ranks, dtype, code):
        """NCCL averages in place over all elements, on the current stream."""
        a = np.zeros((3, 5), dtype)
        assert ranks.all_reduce_mean_(a) is a
        at = a.ctypes.data
        assert nccl.calls[-1] == ("allReduce", at, at, 15, code, 4, 1234)
        every = ranks.all_gather(a)
        assert every.shape == (2, 3, 5) and every.dtype == dtype
        assert nccl.calls[-1] == ("allGather", at, every.ctypes.data, 15, code, 1234)

    def test_half_precision_is_no_gradient(self, ranks):
        with pytest.raises(KeyError):
            ranks.all_reduce_mean_(np.zeros(3, np.uint16))

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
        cuda = SimpleNamespace(
            runtime=runtime, Device=lambda n: SimpleNamespace(use=lambda: used.append(n))
        )
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
        told = (
            "--steps",
            5,
            "--parallel",
            "nccl",
            "--batchnorm",
            "synchronised",
            "--out",
            "run",
            "--device",
            "gpu",
        )
        told = tiny(*told, "--path", "arrays")
        subprocess.run(
            list(map(str, [*TWO, "-c", PROGRAM, *told])),
            cwd=tmp_path,
            env=environment,
            check=True,
            timeout=PATIENCE,
        )
        start(options("dcgan", steps=5, device="gpu", path="arrays"), tmp_path / "alone")
        got, want = (load_file(tmp_path / run / "weights.safetensors") for run in ("run", "alone"))
        for name, a in want.items():
            np.testing.assert_allclose(got[name], a, atol=1e-4, err_msg=name)
