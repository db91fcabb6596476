"""benchmarks/kernels.py without a GPU: every row is what it says, a wrong kernel is not timed, and PyTorch computes the same."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerance import assert_close

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import kernel_report, kernels_torch, timing  # noqa: E402
from benchmarks import kernels as command  # noqa: E402
from benchmarks.kernel_rows import Call, Row, arrays, candidates, describe, select  # noqa: E402
from rawgan.kernels import specs  # noqa: E402
from rawgan.kernels.spec import Spec  # noqa: E402


class FakeClock:
    """A GPU on which all takes as long as it is told, and which writes down what it is asked."""

    xp = np

    def __init__(self, *microseconds):
        self.now, self.durations, self.said = 0.0, microseconds or (10.0,), []

    def event(self):
        self.said.append("event")
        return self.now

    def microseconds(self, start, end):
        return end - start

    def flush(self):
        self.said.append("flush")
        self.now += 1e6

    def synchronize(self):
        self.said.append("synchronize")

    def work(self):
        """What is timed: each run takes the next of the durations."""
        self.now += self.durations[self.said.count("run") % len(self.durations)]
        self.said.append("run")

    def copy(self):
        return self.work, 3e7

    def product(self, dtype):
        if dtype == "tf32":
            raise RuntimeError("no such product")
        return self.work, 8e9


class TestTiming:
    def test_every_launch_has_an_empty_cache(self):
        clock = FakeClock()
        got = timing.measure(clock, clock.work)
        assert got["median_us"] == got["q20_us"] == got["q80_us"] == 10
        runs = [i for i, what in enumerate(clock.said) if what == "run"][timing.WARM_UP :]
        assert len(runs) == got["launches"] + 3
        for i in runs:
            assert clock.said[i - 2 : i + 2] == ["flush", "event", "run", "event"]
        assert not got["host_bound"]

    def test_quantiles(self):
        clock = FakeClock(*range(1, 101))
        got = timing.measure(clock, clock.work, seconds=1e9)
        assert got["launches"] == timing.MOST
        assert (got["median_us"], got["q20_us"], got["q80_us"]) == (50.5, 20.8, 80.2)

    def test_a_slow_function_gets_few_launches(self):
        clock = FakeClock(1e6)
        assert timing.measure(clock, clock.work)["launches"] == timing.LEAST

    def test_ceilings(self):
        got = timing.ceilings(FakeClock())
        assert got["copy"]["per_second"] == pytest.approx(3e12) and got["bfloat16"]["per_second"] == pytest.approx(8e14)
        assert got["tf32"] == {"not_measured": "RuntimeError: no such product"}


SIZES = ({"n": 1000}, {"n": 5})


def scaled(by=1.0, fails=False):
    """The Spec of a kernel that doubles, and of one that is wrong."""

    def wrapper(x):
        if fails:
            raise RuntimeError("an illegal address\nand more")
        y = np.float32(2 * by) * x
        return y

    return Spec(
        name="double",
        wrapper=wrapper,
        reference=lambda x: 2 * x,
        make=lambda array, n: ((array(n),), {}),
        cases=(),
        benchmarks=SIZES,
        traffic=lambda itemsize, n: 2 * itemsize * n,
        flops=lambda n: n,
        compiles=(),
        dtypes=("float32",),
    )


class TestRows:
    def measured(self, monkeypatch, spec, deadline=1e12):
        monkeypatch.setitem(specs(), "double", spec)
        rows = select(["double"], [])
        result = {
            "device": {"name": "GPU"},
            "versions": {"torch": None},
            "commit": None,
            "date": "2000-01-01",
            "ceilings": timing.ceilings(FakeClock()),
            "rows": [describe(row) | {"compiled": [], "torch": command.NOTHING} for row in rows],
        }
        saved = []
        command.measure_rows(rows, result["rows"], FakeClock(), deadline, lambda: saved.append(1))
        assert len(saved) == len(rows) == 2
        kernel_report.derive(result)
        return result

    def test_a_right_kernel_is_timed(self, monkeypatch):
        result = self.measured(monkeypatch, scaled())
        assert [row["bytes"] for row in result["rows"]] == [8000, 40]
        for row in result["rows"]:
            assert "median_us" in row["ours"] and "median_us" in row["reference"]
            assert not command.failed(row)

    @pytest.mark.parametrize(
        "spec, reason",
        [
            (scaled(by=1.001), "ArithmeticError: output 0: "),
            (scaled(by=np.nan), "ArithmeticError: output 0: 1000 of 1000 entries are wrong"),
            (scaled(fails=True), "RuntimeError: an illegal address"),
            (replace(scaled(), reference=lambda x: (x, x)), "ArithmeticError: 1 outputs, the reference has 2"),
            (replace(scaled(), reference=lambda x: x[1:]), "ArithmeticError: output 0 has shape"),
        ],
    )
    def test_what_is_wrong_is_not_timed(self, monkeypatch, spec, reason):
        result = self.measured(monkeypatch, spec)
        assert result["rows"][0]["ours"]["not_measured"].startswith(reason)
        assert all(command.failed(row) and row["of_floor"] is None for row in result["rows"])
        page = kernel_report.table(result)
        assert reason in page and "not measured" in page

    def test_out_of_time(self, monkeypatch):
        result = self.measured(monkeypatch, scaled(), deadline=0.0)
        assert result["rows"][1]["ours"] == {"not_measured": "TimeoutError: no time was left"}

    def test_a_lost_gpu(self, monkeypatch):
        """After an illegal access nothing more is tried, and every row says which kernel it was."""

        def lose(self):
            raise RuntimeError("an illegal address")

        monkeypatch.setattr(FakeClock, "synchronize", lose)
        first, second = self.measured(monkeypatch, scaled(fails=True))["rows"]
        assert first["ours"]["not_measured"] == "RuntimeError: an illegal address"
        assert second["ours"]["not_measured"] == "RuntimeError: double float32 n=1000 had lost the GPU"

    def test_a_changed_argument_is_compared(self, monkeypatch):
        """Of kernels that write in place the arrays are compared, those given by keyword too."""
        spec = replace(
            scaled(),
            make=lambda array, n: ((array(n),), {"low": array(n)}),
            wrapper=lambda x, low: low.fill(3),
            reference=lambda x, low: low.fill(4),
            writes=(0,),
        )
        result = self.measured(monkeypatch, spec)
        assert "output 1: 1000 of 1000 entries are wrong" in result["rows"][0]["ours"]["not_measured"]

    def test_no_two_arrays_are_alike(self):
        array = arrays("bfloat16")
        made = [array(50), array(50), array(50, dtype="float32")]
        assert [a.dtype for a in made] == ["uint16", "uint16", "float32"]
        assert all((a != b).any() for a, b in pairwise(made))


def test_derived_numbers():
    """Floor, rates and ratios of one product, by hand."""
    row = {
        "kernel": "linear", "dtype": "float32", "case": {}, "config": None, "product": True, "flops": 4e9, "bytes": 3e6,
        "ours": {"median_us": 40.0}, "reference": {"median_us": 100.0}, "torch": {"not_measured": "why"},
    }  # fmt: skip
    ceilings = {"copy": {"per_second": 3e12}, "bfloat16": {"per_second": 8e14}, "tf32": {"per_second": 4e14}}
    kernel_report.derive({"ceilings": ceilings, "rows": [row]})
    assert row["floor_us"] == 30  # three TF32 products of 4e9 FLOPs at 400 TFLOP/s; 1 us for the bytes
    assert (row["of_floor"], row["gb_per_s"], row["tflop_per_s"]) == (0.75, 75, 100)
    assert row["reference_times"] == 2.5 and row["torch_times"] is None


EVERY_CHECK = """
from dataclasses import replace
import numpy as np
from benchmarks import kernel_rows
from rawgan.kernels import specs
for name, spec in specs().items():
    specs()[name] = replace(spec, benchmarks=spec.cases[:1])
    for kernel_rows.SMALL in (2**21, 0):  # the reference on the host, and where the kernel runs
        kernel_rows.Call(kernel_rows.Row(name, spec.dtypes[0], 0), np).check()
"""


def test_every_kernel_passes_the_check():
    """In Triton's interpreter, at the first shape of its tests: the benchmark understands every Spec."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", EVERY_CHECK], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


THEIRS = [name for name in specs() if callable(getattr(kernels_torch, name, None))]
WITHOUT = {
    "standardize", "normalize_dx2", "tanh_dx2", "sigmoid_dx2", "softplus_dx2", "acgan_discriminator", "acgan_generator",
    "wgan_gp_value", "r1_value", "head", "step_inputs", "penalty_step", "critic_inputs", "dropout", "step_labels",
    "condition", "condition_dx", "plane", "plane_dw", "batch_moments", "batch_sums", "running_act", "running_dx",
    "add_slices",
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_pytorch_computes_the_same(name, monkeypatch):
    """Each function in kernels_torch.py is its kernel's reference, in float64 at the shapes of the tests."""
    spec, compared = specs()[name], 0

    def array(*shape, dtype=None):
        a = rng.normal(size=shape)
        return rng.integers(0, 100, shape).astype(dtype) if dtype in ("int64", "int32", "uint8") else a

    for case in spec.cases:
        rng = np.random.default_rng(3)
        args, options = spec.make(array, **case)
        values = [kernels_torch.tensor(a.copy() if hasattr(a, "dtype") else a, "cpu") for a in args]
        named = {key: kernels_torch.tensor(a.copy() if hasattr(a, "dtype") else a, "cpu") for key, a in options.items()}
        try:
            got = getattr(kernels_torch, name)(*values, **named)()
        except NotImplementedError:
            continue
        compared += 1
        want = spec.reference(*args, **options)
        if spec.writes and want is None:
            got = [values[i] for i in spec.writes] + [a for a in named.values() if torch.is_tensor(a)]
            want = [args[i] for i in spec.writes] + [a for a in options.values() if hasattr(a, "dtype")]
        got, want = (v if isinstance(v, tuple | list) else [v] for v in (got, want))
        for i, (g, w) in enumerate(zip(got, want)):
            channels_first = g.ndim == 4 and (name.startswith("conv2d") or g.shape != w.shape)
            g = g.detach().movedim(1, -1) if channels_first else g.detach()
            if name in ("normal", "uniform"):
                assert torch.isfinite(g).all()
            else:
                assert_close(g.numpy(), w, f"{name} {case}, output {i}")
    assert compared


def test_the_process_with_pytorch(monkeypatch, capsys):
    """It answers for every row, in order, and says why it has no number for one."""
    rows = [["relu", "bfloat16", 0], ["r1_value", "float32", 0, None], ["adam", "float16", 0]]

    def timed(row, device):
        return clock.work if row.kernel == "relu" else real(row, "cpu") if row.kernel == "r1_value" else 1 / 0

    clock, real = FakeClock(), kernels_torch.timed
    monkeypatch.setattr(kernels_torch, "TorchClock", lambda torch: clock)
    monkeypatch.setattr(kernels_torch, "timed", timed)
    for lines in ([1e9, rows], [0.0, rows[:1]]):
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(lines)))
        kernels_torch.main()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [n for n, _ in answers] == [0, 1, 2, 0]
    assert answers[0][1]["median_us"] == 10
    assert [cell["not_measured"] for _, cell in answers[1:]] == [
        "PyTorch has no such function", "ZeroDivisionError('division by zero')", "no time was left",
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch finds a GPU here")
def test_pytorch_without_a_gpu():
    """Its process ends; the rows say so."""
    cells, saved = [{}], []
    command.measure_torch([Row("relu", "float32", 0)], cells, 1.0, lambda: saved.append(1))
    assert cells == [{"torch": {"not_measured": "the process with PyTorch ended before it"}}] and not saved


def test_tiles_in_the_place_of_the_table():
    rows = candidates(select(["conv2d"], ["bfloat16"])[1:2], [(64, 256, 64), (32, 64, 64)], [8], [])
    assert [(row.config["BLOCK_N"], row.config["num_warps"], row.config["num_stages"], row.form) for row in rows] == [
        (n, 8, stages, form) for n in (256, 64) for stages in (3, 4) for form in ("descriptor", "pointer")
    ]
    assert {row.config["maxnreg"] for row in rows} == {255}


def test_what_pytorch_has_not():
    assert set(specs()) - set(THEIRS) == WITHOUT


def run(*arguments, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment
    )


def test_dry_run(tmp_path):
    """Compiled for real, nothing measured, and all three files there."""
    done = run("--dry-run", "--only", "linear_dx", "relu", "--dtype", "bfloat16", "tf32", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("kernels-*/*.json")
    result = json.loads(path.read_text())
    cases = len(specs()["linear_dx"].benchmarks)
    assert [(row["kernel"], row["dtype"]) for row in result["rows"]] == [
        *[("linear_dx", "tf32"), ("linear_dx", "bfloat16")] * cases, ("relu", "bfloat16"),
    ]  # fmt: skip
    for row in result["rows"]:
        assert row["compiled"][0]["config"]["num_warps"] and row["ours"] == command.NOTHING and row["of_floor"] is None
    page = path.with_suffix(".md").read_text()
    assert page.count("| not measured |") >= 5 and "of the floor" in page
    assert path.with_suffix(".png").stat().st_size > 10_000
    redrawn = run("--redraw", str(path))
    assert redrawn.returncode == 0 and path.with_suffix(".md").read_text() == page


def test_candidates(tmp_path):
    """Every configuration at every shape in both forms; a form that does not serve a shape is left out."""
    done = run("--dry-run", "--candidates", "conv2d_dw", "--dtype", "float32", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    cases, lines = len(specs()["conv2d_dw"].benchmarks), done.stdout.splitlines()
    assert lines.count("_config(64, 64, 32, 4, 2),  # not measured, conv2d_dw_kernel") == cases
    assert lines.count("_config(64, 64, 32, 4, 2),  # not measured, conv2d_dw_box_kernel") == cases - 1
    measured = [describe(row) for row in candidates(select(["linear_dw"], ["float32"])[:1], [], [], [])]
    for row, us in zip(measured, (30.0, 10.0, 20.0)):
        row |= {"ours": {"median_us": us}, "compiled": [{"kernel": "k"}]}
    assert [line.split("# ")[1] for line in kernel_report.paste(measured)[1:]] == ["10.0 us, k", "20.0 us, k", "30.0 us, k"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--only", "relux"], "there is no kernel 'relux'; there are acgan_discriminator,"),
        (["--candidates", "relu"], "relu is no product"),
        (["--candidates", "conv2d", "--tiles", "128x100x64"], "'128x100x64' is no tile: three powers of two"),
        (["--only", "conv2d", "--tiles", "128x64x64"], "--tiles is for --candidates"),
        (["--only", "adam", "--dtype", "tf32", "--dry-run"], "none of these kernels has one of these dtypes"),
    ],
)
def test_bad_arguments(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_call_gives_the_wrapper_its_precision():
    assert Row("linear", "tf32", 0).how == {"precision": "tf32"} and Row("linear", "float32", 0).how == {}
    row = Row("linear", "tf32", 0)
    assert row._replace(config=row.table[1]).how == {"precision": "tf32", "config": row.table[1]}
    assert Call(Row("uniform", "bfloat16", 0), np).written == [0]
