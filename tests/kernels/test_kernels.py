"""Every case of every Spec against its float64 reference, in Triton's interpreter and on a GPU.

The interpreter runs on NumPy arrays; the GPU tests are skipped where there is no GPU.
"""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import loads
from runpy import run_path

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.kernels import Kernels, LazyImport, all_specs, kernels, specs
from rawgan.kernels.gemm_config import pick
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.driver import Dtype
from rawgan.kernels.tile.batch_stats import BatchGradStats, BatchStats
from tests.kernels.test_kernels_coverage import missing
from tests.kernels.test_kernels_names import rebindings, undocumented
from tests.kernels.test_kernels_strings import unchecked
from tests.support.process import run_process
from tests.support.tolerance import assert_close

HERE = Path(__file__).parent
SPECS = all_specs()
CASES = [
    (name, i, dtype)
    for name, spec in SPECS.items()
    for i in range(len(spec.cases))
    for dtype in spec.dtypes
]


def python(*arguments, **environment):
    """Return what a new Python process prints; its import path is the root of the repository."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    done = run_process([sys.executable, *arguments], env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session", params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def results(request, tmp_path_factory):
    """Return {(name, case, dtype): result} for the kernels whose tests were selected.

    Two worker processes run the cases, or one on the GPU.
    """
    chosen = {
        item.callspec.params.get("name")
        for item in request.session.items
        if hasattr(item, "callspec")
    }
    folder, workers = tmp_path_factory.mktemp("kernels"), 2 if request.param == "cpu" else 1
    environment = {"TRITON_INTERPRET": "1"} if request.param == "cpu" else {}

    def work(part):
        path = folder / f"{part}.pickle"
        names = [name for name in SPECS if name in chosen][part::workers]
        python(HERE.parent / "support/kernel_worker.py", request.param, path, *names, **environment)
        return loads(path.read_bytes())

    with ThreadPoolExecutor(workers) as pool:
        return {
            key: result for part in pool.map(work, range(workers)) for key, result in part.items()
        }


@pytest.mark.parametrize("name, case, dtype", CASES)
def test_kernel_equals_its_reference(results, name, case, dtype):
    check(results[name, case, dtype], f"{name} {SPECS[name].cases[case]} {dtype}")


def check(result, name):
    """Assert that every output has its dtype and is within its tolerance, and nothing else changed.

    The dtype is the one that the Spec declares, not that of the output.
    """
    assert not isinstance(result, str), result
    for i, (got, want) in enumerate(result["dtypes"]):
        assert got == want, f"{name}, output {i}: {got}, the Spec says {want}"
    for i, (got, want, allowed) in enumerate(
        zip(result["got"], result["want"], result["allowed"], strict=True)
    ):
        assert_close(got, want, f"{name}, output {i}", allowed=allowed)
    assert not result["stray_stores"], "a store outside an array"
    assert not result["changed"], f"arguments {result['changed']} were changed"


def test_readme_example(tmp_path, monkeypatch):
    """The kernel and the Spec in kernels/README.md are right in every dtype."""
    readme = (HERE.parents[1] / "kernels/README.md").read_text()
    kernel, spec = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert "from rawgan.kernels.clip import clip\n" in spec
    (tmp_path / "clip.py").write_text(kernel)
    (tmp_path / "spec.py").write_text(spec.replace("rawgan.kernels.clip", "clip"))
    python(
        HERE.parent / "support/kernel_worker.py",
        "cpu",
        tmp_path / "results",
        tmp_path / "spec.py",
        TRITON_INTERPRET="1",
        PYTHONPATH=os.pathsep.join((str(HERE.parents[1]), str(tmp_path))),
    )
    results = loads((tmp_path / "results").read_bytes())
    assert len(results) == 6
    for key, result in results.items():
        check(result, key)
    # What the other tests of a kernel ask of it
    monkeypatch.syspath_prepend(tmp_path)
    assert missing(run_path(str(tmp_path / "spec.py"))["SPECS"][0]) == []
    assert rebindings(kernel) == undocumented(kernel) == unchecked(kernel) == []


def test_kernels_are_in_the_tables_of_the_pages():
    """docs/kernel_table.md has every Spec, kernels/README.md every file."""
    table = (HERE.parents[1] / "docs/kernel_table.md").read_text()
    assert [name for name in SPECS if f"\n| {name} | " not in table] == []
    folder = HERE.parents[1] / "kernels"
    readme = (folder / "README.md").read_text()
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    assert [path.name for path in files if f"[{path.name}]" not in readme] == []


def test_import_has_no_side_effects():
    code = (
        "import sys; from rawgan import kernels; "
        "print(sorted({'torch', 'cupy', 'triton'} & set(sys.modules)))"
    )
    assert python("-c", code).strip() == "[]"
    code = (
        "import sys; from rawgan import kernels; kernels.all_specs(); "
        "print(sorted({'torch', 'cupy'} & set(sys.modules)))"
    )
    assert python("-c", code).strip() == "[]"


def test_record_and_repeat():
    """A recorded launch computes from the values that its arrays hold when it is repeated."""
    code = """
import numpy as np
from rawgan.kernels import kernels
from rawgan.kernels.gemm_config import pick
from rawgan.kernels.runtime import launch
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


def test_moments_of_a_large_mean():
    """The variance is accurate where E(x^2) - mean^2 cancels, alone and in a convolution."""
    code = """
import numpy as np
from rawgan.kernels import kernels
from rawgan.kernels.tile.batch_stats import BatchStats
x = 3000 + np.random.default_rng(0).normal(size=(50, 6, 6, 4)).astype("float32")
want = x.astype("float64").var((0, 1, 2))
print(abs(kernels.normalize(x, (0, 1, 2), 1e-5)[3].reshape(-1) / want - 1).max() < 1e-4)
one = np.ones(4, "float32")
norm = BatchStats(one, one, one.copy(), one.copy())
kernels.conv2d(x, np.eye(4, dtype="float32").reshape(4, 1, 1, 4), norm=norm, precision="ieee")
print(abs(norm.stats[1].reshape(-1) / want - 1).max() < 1e-4)
"""
    assert python("-c", code, TRITON_INTERPRET="1").split() == ["True", "True"]


def test_no_silent_fallback():
    """A launch raises for NumPy arrays without the interpreter, mixed or unsupported arrays."""
    x = np.ones((4, 4), np.float32)
    with pytest.raises(
        UserError, match="they need CuPy arrays on an NVIDIA GPU, or TRITON_INTERPRET=1"
    ):
        kernels.relu(x)
    for bad in (x.T[:3], x.astype(np.float64)):
        with pytest.raises(ValueError, match="contiguous arrays of float32"):
            kernels.relu(bad)
    with pytest.raises(ValueError, match="do not fit: \\(4, 4\\) is not \\(4, 3\\)"):
        kernels.linear(x, np.ones((2, 3), np.float32))
    with pytest.raises(AttributeError):
        kernels.no_such_kernel  # noqa: B018
    with launch.record(dry=True):
        with pytest.raises(ValueError, match="a recording is under way already"), launch.record():
            pass
        theta, half = np.zeros(4, np.float32), np.zeros(4, np.float16)
        with pytest.raises(
            ValueError, match="the optimizers take gradients in float32, got float16"
        ):
            kernels.adam(theta, half, theta, theta, np.zeros(1, np.int32), np.zeros(1, np.float32))


def test_arguments_that_are_no_arrays():
    """A number, a list and a plain tuple are refused with a reason, not read as addresses."""
    x = np.ones(4, np.float32)
    with launch.record(dry=True):
        for wrong in (3, [x]):
            with pytest.raises(TypeError, match="expected NumPy or CuPy arrays, got builtins"):
                launch.run(None, (1,), wrong)
        with pytest.raises(TypeError, match="as a named tuple, got a plain tuple"):
            launch.run(None, (1,), (x, x))


def test_a_dtype_without_itemsize_is_refused():
    assert [Dtype(name).itemsize for name in ("bfloat16", "float32", "uint8")] == [2, 4, 1]
    with pytest.raises(KeyError, match="float8"):
        Dtype("float8").itemsize  # noqa: B018


def test_multiprocessors():
    """Their number is given to compile_only, or known for its capability; nothing is assumed."""
    x = np.ones(4, np.float32)
    assert launch.multiprocessors(x) == 132
    with launch.compile_only(80):
        assert launch.multiprocessors(x) == 108
    with launch.compile_only(86, multiprocessors=82):
        assert launch.multiprocessors(x) == 82
    with launch.compile_only(86), pytest.raises(ValueError, match=r"compile_only\(86\) needs the"):
        launch.multiprocessors(x)


def test_statistics_that_cannot_be():
    """BatchNorm of one value, groups that fit no tile and a bias in a gradient raise an error."""
    x, w, one = (
        np.ones((1, 4, 4, 3), np.float32),
        np.ones((5, 4, 4, 3), np.float32),
        np.ones(5, np.float32),
    )
    with launch.record(dry=True):
        with pytest.raises(ValueError, match="one value per channel has no variance"):
            kernels.conv2d(x, w, norm=BatchStats(one, one, one, one))
        with pytest.raises(ValueError, match="no tile is whole in each of 2 groups of 1 rows"):
            kernels.conv2d(
                np.ones((2, 4, 4, 3), np.float32), w, norm=BatchStats(one, one, one, one, groups=2)
            )
        sums = BatchGradStats(np.ones((1, 1, 1, 5), np.float32), np.ones((5, 1, 5), np.float32))
        with pytest.raises(ValueError, match="neither a bias nor v"):
            kernels.conv2d(x, w, one, norm=sums)


def test_unknown_activation():
    """An unknown activation raises an error before any kernel is compiled or interpreted."""
    code = """
import numpy as np
from rawgan.kernels import kernels
x = np.ones((4, 4), "float32")
for how in ({"act": "leakyrelu"}, {"act": "swish", "v": x}):
    try:
        kernels.linear(x, x, **how)
    except Exception as error:
        print("ACT must be None, relu," in str(error))
print(np.array_equal(kernels.linear(x, x, v=x), kernels.linear(x, x)))
"""
    assert python("-c", code, TRITON_INTERPRET="1").split() == ["True", "True", "True"]


def test_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None; from rawgan.kernels import kernels; kernels.relu"
    )
    with pytest.raises(
        AssertionError, match="UserError: the kernels need Triton, which is not installed here"
    ):
        python("-c", code)


TABLE = tuple(
    {"BLOCK_M": m, "BLOCK_N": n} for m, n in ((128, 128), (128, 64), (64, 64), (128, 16), (32, 32))
)


@pytest.mark.parametrize(
    "shape, multiprocessors, want",
    [((2**16, 512), 132, (128, 128)), ((128 * 100, 128), 132, (128, 64)),
     ((128 * 100, 100), 108, (128, 128)), ((128 * 128, 128), 132, (128, 128)),
     ((2**16, 3), 132, (128, 16)), ((64, 64), 132, (32, 32)), ((5, 3), 148, (32, 32)),
     ((128, 128), 1, (128, 128))],
)  # fmt: skip
def test_pick(shape, multiprocessors, want):
    """pick returns the largest tile with a program for nine in ten multiprocessors.

    The result is the same each time, and the table of tiles is not modified.
    """
    before = [dict(c) for c in TABLE]
    got = [pick(TABLE, shape, multiprocessors) for _ in range(2)]
    assert got[0] == got[1] == dict(zip(("BLOCK_M", "BLOCK_N"), want))
    assert [dict(c) for c in TABLE] == before


def test_pick_counts_the_classes():
    """Four residue classes of 32 tiles are 128 programs: the largest tile of conv2d_dx fills."""
    shape = 16 * 128, 2 * 128
    assert pick(TABLE, shape, 132) == {"BLOCK_M": 64, "BLOCK_N": 64}
    assert pick(TABLE, shape, 132, classes=4) == {"BLOCK_M": 128, "BLOCK_N": 128}


def test_two_specs_of_one_name_are_refused(monkeypatch):
    """Two Specs with the same name raise an error: the second would replace the first, untested."""
    monkeypatch.setattr(specs.ema, "SPECS", 2 * specs.ema.SPECS)
    with pytest.raises(ValueError, match="several Specs have the name moving_average"):
        all_specs.__wrapped__()


def test_the_table_lists_every_wrapper():
    """Kernels has one entry for the wrapper of each Spec, naming the file that defines it.

    Wrappers defined in kernels/specs are several kernels in sequence, which only tests start, or
    give a wrapper of the same name its arguments as plain arrays.
    """
    listed = {
        name: f"rawgan.kernels.{entry.module}"
        for name, entry in vars(Kernels).items()
        if isinstance(entry, LazyImport)
    }
    defined = {
        name: spec.wrapper.__module__
        for name, spec in SPECS.items()
        if not spec.wrapper.__module__.startswith("rawgan.kernels.specs.")
    }
    of_arrays = {"head_gradient"}
    assert listed.keys() - defined.keys() == of_arrays <= SPECS.keys()
    assert {name: module for name, module in listed.items() if name not in of_arrays} == defined
    assert all(getattr(kernels, name) is SPECS[name].wrapper for name in defined)
