"""Kernels compiled in worker processes: cache hits in the launching process, errors, clean exit."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace as Names

import numpy as np
import pytest
import triton
from triton.backends.compiler import GPUTarget

from benchmarks.steps.cases import CASES
from rawgan.kernels.runtime import compile as pool
from rawgan.kernels.runtime import driver, launch
from rawgan.kernels.runtime.compile import Job, compile_all, compile_missing, unique_jobs
from rawgan.training.graph_runner import GraphRunner

HERE = Path(__file__).parent
BROKEN = """
import triton
import triton.language as tl

@triton.jit
def fine_kernel(x_ptr, SIZE: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, SIZE), 1.0)

@triton.jit
def broken_kernel(x_ptr, SIZE: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, SIZE), no_such_name)
"""


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """Use a separate folder as Triton's cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """Write a file of kernels that workers can import; return a function that makes their jobs."""

    def write(source: str, *names: str) -> list[Job]:
        (tmp_path / "some_kernels.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        constants = {"SIZE": 16, "enable_fp_fusion": True}
        return [
            Job("some_kernels", name, (1,), (launch.Pointer(0, "float32"),), constants)
            for name in names
        ]

    yield write
    sys.modules.pop("some_kernels", None)


def plan(precision="bf16"):
    return CASES["dcgan 32x32x1"].toy.plan(precision, images=1).plan


class StandIn(launch.CompileOnly):
    """GPU driver stand-in: device 7 with a given compute capability."""

    def get_current_device(self):
        return 7

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)


def found_in_cache(needed: list[Job], capability: int) -> list[bool]:
    """Return, for each job, whether a process with such a GPU has a hit in Triton's cache."""
    hits = []
    before = triton.knobs.compilation.listener
    triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
    triton.runtime.driver.set_active(StandIn(capability))
    try:
        for job in needed:
            job.kernel.device_caches.clear()
            job.compile()
    finally:
        triton.knobs.compilation.listener = before
        driver.current_driver = None
    return hits


def some() -> list[Job]:
    """Return three jobs: TMA tiles, a named tuple of arrays, and a small kernel."""
    needed = unique_jobs(CASES["dcgan 64x64x3"].plan("bf16", images=1).plan.launches)
    box = next(job for job in needed if any(isinstance(a, launch.TmaTile) for a in job.arguments))
    inputs, small = (
        next(job for job in needed if job.name == name)
        for name in ("step_inputs_kernel", "batchnorm_apply_act_kernel")
    )
    return [box, inputs, small]


def test_found_by_the_process_that_launches(monkeypatch):
    """Kernels that two workers compiled are in the cache for this target only, and stay there.

    The second time no worker is started.
    """
    needed = some()
    compile_missing(needed, 90, workers=2)
    assert found_in_cache(needed, 90) == [True] * 3
    assert found_in_cache(needed[2:], 80) == [False]
    monkeypatch.setattr(pool, "_worker", None)
    compile_missing(needed[::-1], 90)
    with pytest.raises(TypeError):  # not recorded for another target
        compile_missing(needed, 80)


def test_jobs_are_the_launches_of_a_plan():
    """A plan's jobs are its distinct kernels, matrix products first, in at most 4 kB.

    Their shared memory equals that of a compilation in this process.
    """
    launches = plan().launches
    needed = unique_jobs(launches)
    assert len(needed) == len({job.key for job in needed}) < len(launches)
    assert {job.key for job in needed} == {job.key for job in map(Job.of, launches)}
    products = ["BLOCK_K" in job.constants for job in needed]
    assert products == sorted(products, reverse=True) and 0 < sum(products) < len(products)
    assert max(len(pickle.dumps(job)) for job in needed) < 4096
    one = needed[-1]
    with launch.compile_only(90):
        launched = next(start for start in launches if Job.of(start).key == one.key).compile()
        assert pickle.loads(pickle.dumps(one)).compile().hash == launched.hash


def test_an_error_names_its_kernel(modules):
    needed = modules(BROKEN, "broken_kernel", "fine_kernel")
    with pytest.raises(
        RuntimeError,
        match=r"(?s)broken_kernel does not compile for sm_90: .*no_such_name is not defined",
    ):
        compile_missing(needed, 90, workers=1)
    with pytest.raises(RuntimeError):  # nothing was recorded
        compile_missing(needed, 90, workers=1)
    broken, fine = compile_all(needed, 90)
    assert list(broken) == ["error"] and fine == {"shared": 0}


def test_a_worker_that_dies(modules):
    """If a worker dies, the error names its kernel and another worker compiles the rest."""
    killer, fine = (
        modules("import os\nos._exit(3)", "some_kernel")[0],
        unique_jobs(plan().launches)[-1],
    )
    results = compile_all([killer, fine], 90, workers=1)
    assert results[0] == {"error": "its compiler ended with 3"} and "shared" in results[1]


def test_a_worker_imports_little():
    """A worker imports Triton and NumPy, but no slow module and none that uses the GPU."""
    program = "import sys, rawgan.kernels.runtime.compile, rawgan.kernels.conv; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    imported = set(done.stdout.split())
    assert "triton" in imported and not imported & {
        "torch",
        "cupy",
        "matplotlib",
        "tqdm",
        "typer",
        "rawgan.planned",
    }


SLOW = """
import os, time
from pathlib import Path
Path("worker").write_text(str(os.getpid()))
time.sleep(600)
"""
WAITS = """
from rawgan.kernels.runtime.compile import Job, compile_all
compile_all([Job("slow", "kernel", (1,), (), {})], 90)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_the_workers(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{tmp_path}"}
    started = [sys.executable, "-c", WAITS]
    with subprocess.Popen(
        started, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and process.returncode != 0
    assert not Path("/proc", (tmp_path / "worker").read_text()).exists()


def test_each_rank_compiles_its_share(monkeypatch):
    """Before the first step on a GPU each rank compiles its share of the kernels, together all."""
    taken = []
    monkeypatch.setattr(
        pool,
        "compile_missing",
        lambda share, capability, workers: taken.append((share, capability, workers)),
    )
    monkeypatch.setattr(pool, "cores", lambda: 5)
    step = Names(plan=plan("fp32"), images=np.zeros(1, np.uint8))
    for rank in range(2):
        GraphRunner.compile(Names(step=step), Names(rank=rank, size=2))
    assert [(capability, workers) for _, capability, workers in taken] == [(90, 2)] * 2
    keys = [{job.key for job in share} for share, *_ in taken]
    assert not keys[0] & keys[1] and keys[0] | keys[1] == {
        job.key for job in unique_jobs(step.plan.launches)
    }
