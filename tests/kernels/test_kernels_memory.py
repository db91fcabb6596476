"""The memory use of a planned step equals the printed figure; data sets may exceed 2^31 bytes.

The worker prints [bytes used, bytes printed] of a planned step at 64x64:

    python tests/kernels/test_kernels_memory.py dcgan 128 cpu
"""

import ctypes
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from rawgan.backend import CPU, choose_device
from rawgan.data import Images
from rawgan.kernels import kernels
from rawgan.models.recipes import RECIPES
from rawgan.planned import plan_step
from rawgan.random import Random
from rawgan.training import graph_runner as replay
from rawgan.training.prefetch import Feed
from tests.cli.test_cli import rawgan
from tests.support.process import run_process

HERE = Path(__file__).parent
IMAGES = 1000
CASES = [("dcgan", 128), ("wgan_gp", 64)]


def plan(name, batch, device, size=64, width=None, images=IMAGES):
    """Return a planned step, built as a training run builds it, and its GAN."""
    recipe = RECIPES[name]
    gan = recipe.build(Random(0), size, 3, width, device)
    data = device.asarray(np.zeros((images, size, size, 3), np.uint8))
    return gan, plan_step(gan, data, batch, precision="bf16", batches=replay.INDEX_ROWS)


def resident() -> int:
    """Return the resident memory of this process in bytes, after malloc has freed unused blocks."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held(pool) -> int:
    """Return the GPU memory of CuPy's pool in bytes, after it has freed its unused blocks."""
    pool.free_all_blocks()
    return pool.total_bytes()


def taken(name: str, batch: int, where: str) -> tuple[int, int]:
    """Return the memory that a planned step with written arrays uses, and the printed value."""
    device = choose_device(where)
    plan(name, 4, device, size=16, width=4)  # load what is imported once and kept
    pool = device.xp.get_default_memory_pool() if where == "gpu" else None
    before = held(pool) if pool else resident()
    gan, step = plan(name, batch, device)
    arrays = [a for start in step.plan.launches for a in start.arrays]
    for a in arrays if pool is None else ():
        a.reshape(-1).view(np.uint8)[::4096] |= 0  # touch each page without changing a value
    now = held(pool) if pool else resident()
    assert gan.generator and arrays
    return now - before, replay.total_bytes(step)


def measured(name, batch, where):
    command = [sys.executable, __file__, name, str(batch), where]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    done = run_process(command, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("where", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name, batch", CASES)
def test_a_run_takes_what_it_prints(name, batch, where):
    """A run's memory use is within 10 % of the printed figure at the recipe's width.

    It covers GAN, optimizers, arena, inputs and data set.
    """
    if where == "cpu" and sys.platform != "linux":
        pytest.skip("reads /proc")
    real, printed = measured(name, batch, where)
    assert 0.9 * printed < real < 1.1 * printed, (
        f"{real / 1e6:.1f} MB taken, {printed / 1e6:.1f} MB printed"
    )


def test_info_prints_the_same():
    """`rawgan info` prints the same figure, except for the data set, which has one image here."""
    _, step = plan("dcgan", 128, CPU, images=1)
    size = replay.in_bytes(replay.total_bytes(step) - 64 * 64 * 3)
    output = rawgan("info", "dcgan", "--source", "--batch", 128, "--precision", "bf16").stdout
    assert f"memory           {size} without the data set: an arena of 159.7 MB" in output


class TestLargeDataSets:
    """Data sets of 2^31 bytes and more, in a sparse file: only written pages use disk space."""

    @pytest.fixture
    def images(self, tmp_path):
        """Return a little more than 2^31 bytes of images, zero except for the last four."""
        data = np.memmap(
            tmp_path / "images", np.uint8, "w+", shape=(2**31 // (64 * 64 * 3) + 8, 64, 64, 3)
        )
        data[-4:] = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
        assert 2**31 < data[:-4].nbytes
        return data

    def test_rows_beyond_2_31_are_read(self, images, tmp_path):
        """Rows at offsets beyond 2^31 are read, in Triton's interpreter in another process."""
        index = [len(images) - n for n in (1, 4, 2, 3)]
        program = ROWS.format(path=str(tmp_path / "images"), shape=images.shape, index=index)
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "TRITON_INTERPRET": "1"}
        done = run_process([sys.executable, "-c", program], env=environment)
        assert done.returncode == 0, done.stderr
        got, want = np.array(json.loads(done.stdout)), images[index].astype(np.float64)
        assert np.abs(got - (want[:, ::8, ::8] * 2 / 255 - 1).reshape(4, -1)).max() < 1e-6

    def test_a_run_is_planned_on_them(self, images):
        """A run plans its step on a large data set without copying it."""
        recipe = RECIPES["dcgan"]
        feed = Feed(recipe, Images(images, None, "faces", "", ""), 2, Random(0), CPU)
        planned = replay.GraphRunner(recipe.build(Random(0), width=4), feed, 0, "fp32")
        data = next(
            start for start in planned.step.plan.launches if start.name == "step_inputs_kernel"
        ).arguments[2]
        assert data.ctypes.data == images.ctypes.data and data.size > 2**31
        assert planned.description().endswith(" with the data set of 2,147.6 MB")

    def test_other_kernels_refuse_them(self, images):
        """Kernels with int32 offsets refuse arrays of this size."""
        with pytest.raises(ValueError, match=r"with less than 2\^31 values, got uint8"):
            kernels.relu(images.reshape(-1))


ROWS = """
import json
import numpy as np
from rawgan.kernels import kernels
data = np.memmap({path!r}, np.uint8, "r", shape={shape})
index, state, ticks = np.array([{index}], np.int32), np.array([1, 0]), np.zeros((2, 1), np.int32)
z, real = np.zeros((4, 4), np.float32), np.zeros((4, *data.shape[1:]), np.float32)
kernels.step_inputs(z, real, data, index, state, *ticks)
print(json.dumps(real[:, ::8, ::8].reshape(4, -1).tolist()))
"""


if __name__ == "__main__":
    print(json.dumps(taken(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
