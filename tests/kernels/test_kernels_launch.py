"""Launch on CuPy arrays without a GPU, with a CUDA driver in C that records its launches.

Triton's launcher gets CuPy's stream, the addresses of the arrays and the grid; a repeated launch
bypasses the JIT; a recorded launch can be started again. Other tests check the kernels' results.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rawgan.kernels import all_specs
from tests.support.process import run_process

DRIVER = r"""
#include <stdio.h>
typedef struct { unsigned grid[3], block[3], shared; void *stream; } Config;
int cuLaunchKernelEx(const Config *c, void *function, void **params, void **extra) {
  printf("launch grid %u %u %u stream %p pointers %llx %llx\n", c->grid[0], c->grid[1], c->grid[2],
         c->stream, *(unsigned long long *)params[0], *(unsigned long long *)params[1]);
  return fflush(stdout);
}
int cuPointerGetAttribute(unsigned long long *p, int attribute, unsigned long long address) {
  *p = address;
  return 0;
}
int cuDeviceGetAttribute(int *v, int attribute, int device) {
  *v = attribute == 75 ? 9 : attribute == 76 ? 0 : 232448;
  return 0;
}
int cuFuncGetAttribute(int *v, int attribute, void *function) {
  *v = attribute == 0 ? 1024 : 0;
  return 0;
}
int cuCtxGetCurrent(void **p) { *p = (void *)1; return 0; }
int cuModuleLoadData(void **p, const void *image) { *p = (void *)1; return 0; }
int cuModuleGetFunction(void **p, void *module, const char *name) {
  *p = (void *)1;
  return 0;
}
#define NOTHING(name) int name() { return 0; }
NOTHING(cuInit) NOTHING(cuDeviceGet) NOTHING(cuCtxSetCurrent) NOTHING(cuCtxGetDevice)
NOTHING(cuCtxSetLimit) NOTHING(cuCtxGetLimit) NOTHING(cuDevicePrimaryCtxRetain)
NOTHING(cuFuncSetAttribute) NOTHING(cuFuncSetCacheConfig) NOTHING(cuModuleUnload)
NOTHING(cuGetErrorString) NOTHING(cuDriverGetVersion) NOTHING(cuDeviceGetCount)
NOTHING(cuStreamIsCapturing) NOTHING(cuPointerGetAttributes) NOTHING(cuOccupancyMaxActiveClusters)
NOTHING(cuTensorMapEncodeTiled) NOTHING(cuTensorMapEncodeIm2col)
"""

PROGRAM = r"""
import sys
from types import SimpleNamespace as Names
import numpy as np


class NoTorch:  # whoever imports PyTorch here fails
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("the launch imported PyTorch", name="torch")


sys.meta_path.insert(0, NoTorch)

from rawgan import backend
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch

stream = Names(ptr=0x700)
cuda = Names(
    runtime=Names(getDevice=lambda: 0),
    Device=lambda n: Names(
        compute_capability="90", id=n, attributes={"MultiProcessorCount": 114}
    ),
    get_current_stream=lambda: stream,
    UnownedMemory=lambda address, size, owner, device: address,
    MemoryPointer=lambda memory, offset: memory + offset,
)


class Array:  # as much of a cupy.ndarray as a launch looks at
    __module__ = "cupy"

    def __init__(self, shape, dtype, address=0x2000):
        self.itemsize = np.dtype(dtype).itemsize
        self.shape, self.dtype, self.size, self.ndim = (
            shape,
            np.dtype(dtype),
            int(np.prod(shape)),
            len(shape),
        )
        self.data, self.device = Names(ptr=address), cuda.Device(0)
        self.flags = Names(c_contiguous=True)

    def reshape(self, n, _):
        return Array((n, self.size // n), self.dtype, self.data.ptr)

    def __len__(self):
        return self.shape[0]


class Cupy:
    def __init__(self):
        self.cuda, self.empty, self.ndarray = cuda, Array, Array


backend._cupy = lambda cupy=Cupy(): (cupy, "")

kernels.relu(Array((3000,), "uint16", 0x1000))
x, w = Array((128, 16, 16, 128), "uint16"), Array((256, 4, 4, 128), "uint16")
kernels.conv2d(x, w, None, 2, 1)  # its first two arguments are tensor descriptors
jit = launch.run.__globals__["triton"].runtime.jit.JITFunction
jit.run = None  # from here on a launch through the JIT fails
stream.ptr = 0x900
with launch.record() as launches:
    kernels.relu(Array((3000,), "uint16", 0x4000))
    kernels.conv2d(x, w, None, 2, 1)
stream.ptr = 0xA00
for again in launches:
    again()
print(*(again.name for again in launches), launch.launched["act_kernel"], launch.multiprocessors(x))
with launch.record(dry=True) as later:
    kernels.relu(Array((3000,), "uint16", 0x8000))
later[0].load()
print("loaded")
with launch.compile_only(80):
    pass
launches[1]()  # the driver for tensor descriptors is CuPy's again
try:
    kernels.relu(Array((3000,), "uint16", 0x1002))  # not aligned: another kernel
except TypeError:
    print("compiles again")
"""


def with_driver(folder: Path) -> dict[str, str]:
    """Compile the driver; return the environment in which Triton finds it, and an empty cache."""
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", folder / "driver.c"],
        check=True,
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LD_LIBRARY_PATH": str(folder),
        "TRITON_LIBCUDA_PATH": str(folder),
        "TRITON_CACHE_DIR": str(folder / "cache"),
    }
    environment.pop("TRITON_INTERPRET", None)
    return environment


@pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("gcc")), reason="needs Linux and a C compiler"
)
def test_launch_from_cupy_arrays(tmp_path):
    done = run_process([sys.executable, "-c", PROGRAM], env=with_driver(tmp_path))
    assert done.returncode == 0, done.stderr
    output = [
        line if "grid 3" in line else line.split(" pointers")[0]
        for line in done.stdout.splitlines()
    ]
    assert output == [
        "launch grid 3 1 1 stream 0x700 pointers 1000 2000",
        "launch grid 128 1 1 stream 0x700",
        "launch grid 3 1 1 stream 0x900 pointers 4000 2000",
        "launch grid 128 1 1 stream 0x900",
        "launch grid 3 1 1 stream 0xa00 pointers 4000 2000",
        "launch grid 128 1 1 stream 0xa00",
        "act_kernel conv2d_tma_kernel 2 114",
        "loaded",
        "launch grid 128 1 1 stream 0xa00",
        "compiles again",
    ]


@pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("gcc")), reason="needs Linux and a C compiler"
)
@pytest.mark.parametrize("source", ["a row of the benchmark", "launches of a plan"])
def test_what_was_prepared_is_not_compiled_again(source, tmp_path):
    """A launch on CuPy arrays reuses kernels that workers compiled into Triton's cache.

    The workers compile for a benchmark row or for recorded launches.
    """
    environment = with_driver(tmp_path)
    size = np.prod(all_specs()["relu"].benchmarks[0]["shape"])
    launches = f"kernels.relu(Array(({size},), 'uint16'))"
    prepared, names = PREPARED + ROW, {"act_kernel.cubin"}
    if source == "launches of a plan":
        launches += (  # more tiles than any GPU has multiprocessors: one configuration for all
            "; kernels.conv2d(Array((512, 16, 16, 128), 'uint16'), "
            "Array((256, 4, 4, 128), 'uint16'), None, 2, 1)"
        )
        prepared, names = (
            PREPARED + PLANNED.replace("LAUNCHES", launches),
            names | {"conv2d_tma_kernel.cubin"},
        )
    compiled = []
    for program in (prepared, PROGRAM.partition("kernels.relu")[0] + launches):
        done = run_process([sys.executable, "-c", program], env=environment)
        assert done.returncode == 0, done.stderr
        compiled.append({path.name: path.parent for path in (tmp_path / "cache").glob("*/*.cubin")})
    assert (
        done.stdout.startswith("launch grid")
        and compiled[0] == compiled[1]
        and set(compiled[0]) == names
    )


PREPARED = """
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.compile import compile_all, unique_jobs
"""
ROW = """
from benchmarks.kernels.rows import Row, launches
compile_all(unique_jobs(launches(Row('relu', 'bfloat16', 0), 90)), 90)
"""
PLANNED = """
from numpy import zeros as Array
with launch.record(dry=True) as recording:
    LAUNCHES
compile_all(unique_jobs(recording), 90)
"""
