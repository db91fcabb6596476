"""Tests of benchmarks/kernels/correctness.py: its cases, their order, and detection of errors."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.kernels import correctness
from benchmarks.kernels.rows import select
from benchmarks.steps import precision
from rawgan.backend import CPU
from rawgan.kernels import all_specs
from tests.support.fake_benchmark import scaled
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]


class InProcess:
    """Worker in this process; after a simulated loss of the GPU each of its calls fails."""

    over = None

    def __init__(self, rows):
        self.side = correctness.Side(CPU, rows)
        started.append(self)

    def ask(self, seconds, prepare):
        return self.side.prepare(prepare)

    def end(self):
        ended.append(self)


started, ended = [], []


def test_correctness(monkeypatch):
    """Right cases are counted, wrong cases are reported with a reason, and each result is saved."""
    saved = []
    for spec, right in ((scaled(), 2), (scaled(by=1.001), 0)):
        monkeypatch.setitem(all_specs(), "double", spec)
        rows = select(["double"], [])
        kinds = {"tests": rows[:1], "benchmarks": rows[1:]}
        counts = correctness.check(
            kinds,
            lambda rows=rows: InProcess(rows),
            lambda counts: saved.append(json.dumps(counts)),
        )
        assert [(counts[kind]["of"], 2 * counts[kind]["right"]) for kind in kinds] == [
            (1, right)
        ] * 2
        assert json.loads(saved[-1]) == counts
    assert len(saved) == 4 and len(started) == len(ended) == 2
    wrong = counts["tests"]["wrong"] | counts["benchmarks"]["wrong"]
    assert "output 0: 997 of 1000 entries are wrong" in wrong["double float32 n=1000"]


def test_a_lost_gpu_is_lost_to_one_case(monkeypatch):
    """When one case loses the GPU, the next case runs in a new process."""
    monkeypatch.setitem(all_specs(), "double", scaled(fails=True))
    monkeypatch.setattr(correctness.Side, "alive", lambda self: False)
    rows, before = select(["double"], []), len(started)
    counts = correctness.check({"tests": rows}, lambda: InProcess(rows), lambda _: None)
    assert [*counts["tests"]["wrong"].values()] == ["RuntimeError: an illegal address"] * 2
    assert len(started) - before == 3 and started == ended


def gradients(error: float) -> dict:
    return {
        player: {"error": error, "layers": {"0.w": error, "2.w": error / 2}}
        for player in ("D", "G")
    }


def test_a_step_that_is_wrong_shows():
    """A step fails if a gradient is NaN or over four times as far from float64 as the array path's.

    NaN stands for batch statistics that were never written.
    """
    none, few = ({"D": error, "G": error} for error in (1e-6, 1e-4))
    correctness.compare_steps(gradients(4e-6), gradients(1e-6), none, "fp32")
    correctness.compare_steps(gradients(4e-5), gradients(1e-6), few, "fp32")
    correctness.compare_steps(gradients(4e-5), gradients(1e-6), few, "bf16x3")
    correctness.compare_steps(gradients(0.2), gradients(1e-6), few, "bf16")
    for error, name in (
        (4.1e-6, "fp32"),
        (4.1e-6, "bf16x3"),
        (0.2, "tf32"),
        (0.31, "bf16"),
        (float("nan"), "bf16"),
    ):
        with pytest.raises(
            ArithmeticError,
            match=r"the gradient of D is .* from float64, .* allowed; the worst parameter: 0\.w",
        ):
            correctness.compare_steps(gradients(error), gradients(1e-6), none, name)


def test_a_gradient_jumps_at_a_kink():
    """Small changes of pre-activations change the gradients of WGAN-GP far more at a kink.

    Where no pre-activation changes sign, the gradients change as little as the pre-activations.
    """
    case = precision.CASES["wgan_gp 64x64x3"]._replace(size=16, width=8, batch=4, critic_steps=1)
    rng = np.random.default_rng(0)
    real, z = (
        rng.uniform(-1, 1, (4, 16, 16, 3)),
        [rng.normal(size=(4, 1, 1, 100)) for _ in range(2)],
    )
    drawn = precision.Given(
        [real], z, rng.random(4), SimpleNamespace(batch=4, D=SimpleNamespace(blocks=[])), None
    )
    want = precision.plain(case, drawn, np.float64)
    assert precision.compare(precision.plain(case, drawn, np.float64), want)["D"]["error"] == 0
    jumps = precision.kinks(case, drawn, want, "fp32")
    assert 2**-22 < jumps["D"] < 2**-5 and 2**-22 < jumps["G"] < 2**-5
    assert (
        precision.compare(precision.plain(case, drawn, np.float64), want)["G"]["error"] == 0
    )  # the same as before the change


def test_what_is_checked(monkeypatch):
    """Every case of every Spec is checked at test and benchmark shapes, and steps at real sizes."""
    before = dict(all_specs())
    for name, spec in before.items():
        monkeypatch.setitem(all_specs(), name, spec)
    correctness.all_shapes()
    kinds = correctness.checks([])
    for kind, shapes in (("tests", "cases"), ("benchmarks", "benchmarks")):
        want = [
            (name, dtype)
            for name, spec in before.items()
            for dtype in spec.dtypes
            for _ in getattr(spec, shapes)
        ]
        assert sorted((row.kernel, row.dtype) for row in kinds[kind]) == sorted(want)
    assert {(step.sizes.width, step.sizes.size) for step in kinds["steps"]} == {(64, 64)} and len(
        kinds["steps"]
    ) == 8


def test_correctness_without_a_gpu(tmp_path):
    """The dry run checks one step and the kernels in Triton's interpreter."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.kernels.correctness",
        "--dry-run",
        "--out",
        str(tmp_path),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    done = run_process(command, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "steps: 1 of 1 right",
        "benchmarks: 3 of 3 right",
        "tests: 3 of 3 right",
    ]
    [path] = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["correctness"]["steps"] == {
        "of": 1,
        "right": 1,
        "wrong": {},
    }


def test_no_check_begins_without_time(monkeypatch):
    monkeypatch.setitem(all_specs(), "double", scaled())
    rows, times = select(["double"], []), [1.0, 0.0, 0.0]
    kinds = {"benchmarks": rows, "tests": rows[:1]}
    counts = correctness.check(kinds, lambda: InProcess(rows), lambda _: None, lambda: times.pop(0))
    assert [(counts[kind]["right"], counts[kind]["of"]) for kind in kinds] == [(1, 2), (0, 1)]
