"""Every case of every Spec against its reference in float64: in Triton's interpreter on NumPy, and on a GPU where there is one."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import loads

import numpy as np
import pytest
from tolerance import assert_close, kernel_tolerance

from rawgan.errors import UserError
from rawgan.kernels import kernels, launch, specs

HERE = Path(__file__).parent
SPECS = specs()
CASES = [(name, i, dtype) for name, spec in SPECS.items() for i in range(len(spec.cases)) for dtype in spec.dtypes]


def python(*arguments, **environment):
    """A Python process that sees the repository's root but not this process' modules; gives what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session", params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def results(request, tmp_path_factory):
    """{(name, case, dtype): result} of the kernels that tests were selected of, from two processes; on the GPU from one."""
    chosen = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    folder, workers = tmp_path_factory.mktemp("kernels"), 2 if request.param == "cpu" else 1
    environment = {"TRITON_INTERPRET": "1"} if request.param == "cpu" else {}

    def work(part):
        path = folder / f"{part}.pickle"
        names = [name for name in SPECS if name in chosen][part::workers]
        python(HERE / "test_kernels_worker.py", request.param, path, *names, **environment)
        return loads(path.read_bytes())

    with ThreadPoolExecutor(workers) as pool:
        return {key: result for part in pool.map(work, range(workers)) for key, result in part.items()}


@pytest.mark.parametrize("name, case, dtype", CASES)
def test_kernel_equals_its_reference(results, name, case, dtype):
    check(results[name, case, dtype], f"{name} {SPECS[name].cases[case]} {dtype}")


def check(result, name):
    """Every output within the tolerance of its dtype, and nothing else written."""
    assert not isinstance(result, str), result
    for i, (got, want) in enumerate(zip(result["got"], result["want"], strict=True)):
        bound = (result["bound"][i], result["terms"][i]) if result["bound"] else ()
        allowed = kernel_tolerance(result["dtypes"][i], np.asarray(want, np.float64), *bound)
        assert_close(got, want, f"{name}, output {i}", allowed=allowed)
    assert not result["stray_stores"], "a store outside an array"
    assert not result["changed"], f"arguments {result['changed']} were changed"


def test_readme_example(tmp_path):
    """The kernel in kernels/README.md is right, in every dtype."""
    [code] = re.findall(r"```python\n(.*?)```", (HERE.parent / "kernels/README.md").read_text(), re.DOTALL)
    (tmp_path / "clip.py").write_text(code)
    python(HERE / "test_kernels_worker.py", "cpu", tmp_path / "results", tmp_path / "clip.py", TRITON_INTERPRET="1")
    results = loads((tmp_path / "results").read_bytes())
    assert len(results) == 6
    for key, result in results.items():
        check(result, key)


def test_import_has_no_side_effects():
    code = "import sys; from rawgan import kernels; print(sorted({'torch', 'cupy', 'triton'} & set(sys.modules)))"
    assert python("-c", code).strip() == "[]"
    code = "import sys; from rawgan import kernels; kernels.specs(); print(sorted({'torch', 'cupy'} & set(sys.modules)))"
    assert python("-c", code).strip() == "[]"


def test_record_and_repeat():
    """What was recorded computes again from what the arrays hold by then."""
    code = """
import numpy as np
from rawgan.kernels import kernels, launch
x = np.arange(-3, 3, dtype="float32")
with launch.record() as launches:
    y = kernels.relu(kernels.leaky_relu(x, 0.5))
x[:] = x[::-1].copy()
for again in launches:
    again()
print(y.tolist(), [again.name for again in launches], launch.launched["act_kernel"])
"""
    want = "[2.0, 1.0, 0.0, 0.0, 0.0, 0.0] ['act_kernel', 'act_kernel'] 2\n"
    assert python("-c", code, TRITON_INTERPRET="1") == want


def test_no_silent_fallback():
    """NumPy arrays without the interpreter, a mixture, and arrays that no kernel takes."""
    x = np.ones((4, 4), np.float32)
    with pytest.raises(UserError, match="they need CuPy arrays on an NVIDIA GPU, or TRITON_INTERPRET=1"):
        kernels.relu(x)
    for bad in (x.T[:3], x.astype(np.float64)):
        with pytest.raises(ValueError, match="contiguous arrays of float32"):
            kernels.relu(bad)
    with pytest.raises(ValueError, match="do not fit: 4 is not 3"):
        kernels.linear(x, np.ones((2, 3), np.float32))
    with pytest.raises(AttributeError):
        kernels.no_such_kernel  # noqa: B018


def test_without_triton():
    code = "import sys; sys.modules['triton'] = None; from rawgan.kernels import kernels; kernels.relu"
    with pytest.raises(AssertionError, match="UserError: the kernels need Triton, which is not installed here"):
        python("-c", code)


TABLE = tuple({"BLOCK_M": m, "BLOCK_N": n} for m, n in ((128, 128), (128, 64), (64, 64), (128, 16), (32, 32)))


@pytest.mark.parametrize(
    "shape, capability, want",
    [((2**16, 512), 90, (128, 128)), ((128 * 100, 128), 90, (128, 64)), ((128 * 100, 100), 80, (128, 64)),
     ((2**16, 3), 90, (128, 16)), ((64, 64), 90, (32, 32)), ((5, 3), 100, (32, 32))],
)  # fmt: skip
def test_pick(shape, capability, want):
    """The largest tile that gives every multiprocessor one; the same answer each time, the table left as it was."""
    before = [dict(c) for c in TABLE]
    got = [launch.pick(TABLE, shape, capability) for _ in range(2)]
    assert got[0] == got[1] == dict(zip(("BLOCK_M", "BLOCK_N"), want))
    assert [dict(c) for c in TABLE] == before
