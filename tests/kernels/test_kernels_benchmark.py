"""Tests of benchmarks/kernels/__main__.py without a GPU.

Each row measures what its name states, and a wrong kernel is not timed.
"""

import json
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import timing
from benchmarks.kernels import __main__ as command
from benchmarks.kernels import report as kernel_report
from benchmarks.kernels.rows import Call, Row, arrays, candidates, describe, select
from rawgan.kernels import all_specs
from tests.support.fake_benchmark import FakeClock, scaled
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]


class TestTiming:
    def test_every_launch_has_an_empty_cache(self):
        clock = FakeClock()
        got = timing.measure(clock, clock.work)
        assert got["median_us"] == got["q20_us"] == got["q80_us"] == 10
        runs = [i for i, call in enumerate(clock.calls) if call == "run"][timing.WARM_UP :]
        assert len(runs) == got["launches"] + 3
        for i in runs:
            assert clock.calls[i - 2 : i + 2] == ["flush", "event", "run", "event"]
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
        assert got["copy"]["per_second"] == pytest.approx(3e12) and got["bfloat16"][
            "per_second"
        ] == pytest.approx(8e14)
        assert got["tf32"] == {"not_measured": "RuntimeError: no such product"}


class TestRows:
    def measured(self, monkeypatch, spec, deadline=1e12):
        monkeypatch.setitem(all_specs(), "double", spec)
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
            (
                replace(scaled(), reference=lambda x: (x, x)),
                "ArithmeticError: 1 outputs, the reference has 2",
            ),
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
        """After an illegal access no further kernel runs; every row names the kernel at fault."""

        def lose(self):
            raise RuntimeError("an illegal address")

        monkeypatch.setattr(FakeClock, "synchronize", lose)
        first, second = self.measured(monkeypatch, scaled(fails=True))["rows"]
        assert first["ours"]["not_measured"] == "RuntimeError: an illegal address"
        assert (
            second["ours"]["not_measured"] == "RuntimeError: double float32 n=1000 had lost the GPU"
        )

    def test_a_changed_argument_is_compared(self, monkeypatch):
        """In-place kernels are checked by the arrays that they change, also keyword arguments."""
        spec = replace(
            scaled(),
            make=lambda array, n: ((array(n),), {"low": array(n)}),
            wrapper=lambda x, low: low.fill(3),
            reference=lambda x, low: low.fill(4),
            writes=(0,),
        )
        result = self.measured(monkeypatch, spec)
        assert (
            "output 1: 1000 of 1000 entries are wrong" in result["rows"][0]["ours"]["not_measured"]
        )

    def test_no_two_arrays_are_alike(self):
        array = arrays("bfloat16")
        made = [array(50), array(50), array(50, dtype="float32")]
        assert [a.dtype for a in made] == ["uint16", "uint16", "float32"]
        assert all((a != b).any() for a, b in pairwise(made))


def test_derived_numbers():
    """Floor, rates and ratios of one matrix product equal values computed by hand."""
    row = {
        "kernel": "linear", "dtype": "float32", "case": {}, "config": None, "product": True,
        "flops": 4e9, "bytes": 3e6,
        "ours": {"median_us": 40.0}, "reference": {"median_us": 100.0},
        "torch": {"not_measured": "why"},
    }  # fmt: skip
    ceilings = {
        "copy": {"per_second": 3e12},
        "bfloat16": {"per_second": 8e14},
        "tf32": {"per_second": 4e14},
    }
    kernel_report.derive({"ceilings": ceilings, "rows": [row]})
    assert (
        row["floor_us"] == 30
    )  # three TF32 products of 4e9 FLOPs at 400 TFLOP/s; 1 us for the bytes
    assert (row["of_floor"], row["gb_per_s"], row["tflop_per_s"]) == (0.75, 75, 100)
    assert row["reference_times"] == 2.5 and row["torch_times"] is None


EVERY_CHECK = """
from dataclasses import replace
import numpy as np
from benchmarks.kernels import rows as kernel_rows
from rawgan.kernels import all_specs
for name, spec in all_specs().items():
    all_specs()[name] = replace(spec, benchmarks=spec.cases[:1])
    for kernel_rows.SMALL in (2**21, 0):  # the reference on the host, and where the kernel runs
        kernel_rows.Call(kernel_rows.Row(name, spec.dtypes[0], 0), np).check()
"""


def test_every_kernel_passes_the_check():
    """The benchmark's check passes for every Spec at its first test shape, in the interpreter."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = run_process([sys.executable, "-c", EVERY_CHECK], env=environment)
    assert done.returncode == 0, done.stderr


def test_tiles_in_the_place_of_the_table():
    rows = candidates(select(["conv2d"], ["bfloat16"])[1:2], [(64, 256, 64), (32, 64, 64)], [8], [])
    assert [
        (row.config["BLOCK_N"], row.config["num_warps"], row.config["num_stages"], row.impl)
        for row in rows
    ] == [
        (n, 8, stages, impl) for n in (256, 64) for stages in (3, 4) for impl in ("pointer", "tma")
    ]
    assert {row.config["maxnreg"] for row in rows} == {255}


def run(*arguments, **environment):
    environment = {**os.environ, **environment}
    return run_process(
        [sys.executable, "-m", "benchmarks.kernels", *arguments], cwd=ROOT, env=environment
    )


def test_dry_run(tmp_path):
    """A dry run compiles the kernels, measures nothing and writes all three files."""
    done = run(
        "--dry-run",
        "--only",
        "linear_dx",
        "relu",
        "--dtype",
        "bfloat16",
        "tf32",
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("kernels-*/*.json")
    result = json.loads(path.read_text())
    cases = len(all_specs()["linear_dx"].benchmarks)
    assert [(row["kernel"], row["dtype"]) for row in result["rows"]] == [
        *[("linear_dx", "tf32"), ("linear_dx", "bfloat16")] * cases, ("relu", "bfloat16"),
    ]  # fmt: skip
    for row in result["rows"]:
        assert (
            row["compiled"][0]["config"]["num_warps"]
            and row["ours"] == command.NOTHING
            and row["of_floor"] is None
        )
    page = path.with_suffix(".md").read_text()
    assert page.count("| not measured |") >= 5 and "of the floor" in page
    assert path.with_suffix(".png").stat().st_size > 10_000
    redrawn = run("--redraw", str(path))
    assert redrawn.returncode == 0 and path.with_suffix(".md").read_text() == page


def test_candidates(tmp_path):
    """Every configuration is a candidate at every shape that its implementation supports."""
    done = run("--dry-run", "--candidates", "conv2d_dw", "--dtype", "float32", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    cases, lines = len(all_specs()["conv2d_dw"].benchmarks), done.stdout.splitlines()
    assert lines.count("_config(64, 64, 32, 4, 2),  # not measured, conv2d_dw_kernel") == cases
    assert (
        lines.count("_config(64, 64, 32, 4, 2),  # not measured, conv2d_dw_tma_kernel") == cases - 1
    )
    measured = [
        describe(row) for row in candidates(select(["linear_dw"], ["float32"])[:1], [], [], [])
    ]
    for row, us in zip(measured, (30.0, 10.0, 20.0)):
        row |= {"ours": {"median_us": us}, "compiled": [{"kernel": "k"}]}
    assert [line.split("# ")[1] for line in kernel_report.paste(measured)[1:]] == [
        "10.0 us, k",
        "20.0 us, k",
        "30.0 us, k",
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "relux"], "there is no kernel 'relux'; there are acgan_discriminator,"),
        (["--candidates", "relu"], "relu is no product"),
        (
            ["--candidates", "conv2d", "--tiles", "128x100x64"],
            "'128x100x64' is no tile: three powers of two",
        ),
        (["--only", "conv2d", "--tiles", "128x64x64"], "--tiles is for --candidates"),
        (
            ["--only", "adam", "--dtype", "tf32", "--dry-run"],
            "none of these kernels has one of these dtypes",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_call_gives_the_wrapper_its_precision():
    assert (
        Row("linear", "tf32", 0).keywords == {"precision": "tf32"}
        and Row("linear", "float32", 0).keywords == {}
    )
    row = Row("linear", "tf32", 0)
    assert row._replace(config=row.table[1]).keywords == {
        "precision": "tf32",
        "config": row.table[1],
    }
    assert Call(Row("dropout", "bfloat16", 0), np).written == [0]
