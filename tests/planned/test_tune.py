"""Tests of benchmarks/tune without a GPU: launches, candidates, checks, the table that it writes.

The interpreter runs the kernels; times are those of a stand-in.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.steps.cases import CASES
from benchmarks.tune.candidates import RULE, candidates
from benchmarks.tune.launches import collect, modelled_us
from benchmarks.tune.problem import reduced
from rawgan.backend import choose_device
from rawgan.kernels.gemm_table import entry_of, problem_of, read_table
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]


def test_every_gemm_of_a_step_has_a_key():
    """Launches of all GEMM kernels of a plan have a key, with the repeated ones counted."""
    toys = {name: case.toy for name, case in CASES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.tune.launches.CASES", toys)
        wanted, counts = collect(["dcgan 32x32x1", "wgan_gp 64x64x3"], ["bf16"], 90, 132)
    for name in ("dcgan 32x32x1", "wgan_gp 64x64x3"):
        plan = toys[name].plan("bf16", images=1).plan
        steps = plan.sequence(toys[name].reals if plan.repeated else 1)
        gemms = [one for one in steps if "BLOCK_K" in one.constants]
        assert all(one.key is not None for one in gemms)
        assert counts[name, "bf16", "all"] == len(steps)
        assert counts[name, "bf16", "GEMMs"] == len(gemms)
        assert len(gemms) == sum(one.uses.get((name, "bf16"), 0) for one in wanted)
    assert [one.us for one in wanted] == sorted((one.us for one in wanted), reverse=True)
    assert len({str(one.key) for one in wanted}) == len(wanted)


def keys():
    case = CASES["dcgan 64x64x3"].toy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.tune.launches.CASES", {"toy": case})
        wanted, _ = collect(["toy"], ["bf16", "tf32", "bf16x3", "fp32"], 90, 132)
    return [one.key for one in wanted]


def test_candidates_are_entries():
    """Every candidate can stand in the table; the rule comes first, and none comes twice."""
    for key in keys():
        rule, *others = candidates(key, 4, 90)
        assert rule == RULE and 2 <= len(others) <= 30
        assert len({str(one) for one in others}) == len(others)
        for impl, config in others:
            assert problem_of(str(key), entry_of(impl, config), 90) is None


def test_reduced_launches_keep_their_geometry():
    for key in keys():
        small = reduced(key)
        assert modelled_us(small) <= modelled_us(key) and reduced(small) == small
        same = ("R", "S", "STRIDE_H", "STRIDE_W", "TOP", "LEFT")
        a, b = dict(key.sizes), dict(small.sizes)
        assert [a.get(name) for name in same] == [b.get(name) for name in same]
        assert key[2:] == small[2:]


SWEEP = """
import sys
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from benchmarks.common.command import Command, toy_device
from benchmarks.tune import sweep
from benchmarks.tune.launches import Wanted
from rawgan.kernels.gemm_table import gemm_key
from rawgan.kernels.runtime.compile import Compiler

SIZES = {"N": 4, "H": 8, "W": 8, "C": 64, "K": 64, "R": 4, "S": 4, "P": 4, "Q": 4,
         "STRIDE_H": 2, "STRIDE_W": 2, "TOP": 1, "LEFT": 1}
x = np.empty(0, "float32")
KEYS = [
    gemm_key("conv2d", SIZES, x, "tf32", "batch_stats"),
    gemm_key("conv2d_dw", SIZES, x, "tf32", "partials"),
    gemm_key("linear", {"N": 20, "C": 30, "K": 40}, x, "tf32", "bias+tanh"),
]


class Times:
    stream = nullcontext()
    clock = Namespace(xp=np, synchronize=lambda: None)
    calls = 0

    def time(self, launches):
        self.calls += 1
        assert launches and not launches.dry
        if self.calls == interrupt:
            raise KeyboardInterrupt
        return {"us": 10.0 - self.calls if self.calls < 4 else 99.0, "cold_us": 20.0}


class Compiled(Compiler):  # compilation has its own tests
    def __enter__(self):
        self.results = {job.key: {"shared": 1} for job in self.waiting}
        return self

    def poll(self, seconds=None):
        return []


interrupt, out, wrong = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "wrong"
toy_device()
sweep.Timer, sweep.Compiler = Times, Compiled
sweep.collect = lambda *_: ([Wanted(key, {("step", "tf32"): 2}) for key in KEYS], {})
sweep.time_steps = lambda *_: {"rule_us": 2.0, "table_us": 1.0}
if wrong:
    check = sweep.Problem.check
    sweep.Problem.check = lambda self, outputs, expected: check(
        self, [np.float32(2) * a for a in outputs], expected
    )
device = {"name": "stand-in", "capability": 90, "multiprocessors": 132}
facts = {"device": device, "versions": {"triton": "0"}, "commit": "abc", "date": "2000-01-01"}
command = Command(None, facts, out / "tune.json", 1e12)
steps = {"case": ["dcgan 64x64x3"], "precision": ["tf32"]}
args = Namespace(dry_run=False, candidates=2, table=out / "sm_90.toml", **steps)
sys.exit(sweep.Sweep(command, args).run())
"""


def sweep(out: Path, interrupt: int = 0, wrong: str = ""):
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SWEEP, interrupt, out, wrong]
    return run_process(command, env=environment)


def test_the_fastest_right_candidate_is_written(tmp_path):
    """The table has the fastest of each launch, the JSON file has all; the table can be read."""
    done = sweep(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = read_table(tmp_path / "sm_90.toml", 90)
    result = json.loads((tmp_path / "tune.json").read_text())
    assert list(table) == sorted(table) and set(table) == set(result["tune"]) and len(table) == 3
    conv = next(entry for key, entry in table.items() if key.startswith("conv2d x="))
    rows = next(row["rows"] for key, row in result["tune"].items() if key.startswith("conv2d x="))
    assert (conv["us"], conv["rule_us"], conv["cold_us"]) == (7.0, 9.0, 20.0)
    assert rows[0]["impl"] is None and rows[2]["entry"]["tile"] == conv["tile"]
    assert result["tuned_steps"] == {"dcgan 64x64x3 tf32": {"rule_us": 2.0, "table_us": 1.0}}
    page = (tmp_path / "sm_90.toml").read_text()
    assert 'device = "stand-in"' in page and page.count('\n"') == 3


def test_an_interrupted_sweep_leaves_what_it_has(tmp_path):
    done = sweep(tmp_path, interrupt=6)
    assert done.returncode == 1 and "interrupted: what was measured is written" in done.stdout
    assert (tmp_path / "sm_90.toml").read_text().count("tile = ") == 1


def test_a_wrong_candidate_is_not_timed(tmp_path):
    done = sweep(tmp_path, wrong="wrong")
    assert done.returncode == 1 and "entries are wrong" in done.stdout, done.stderr
    assert not (tmp_path / "sm_90.toml").exists()


def test_dry_run(tmp_path):
    """A dry run lists, compiles and checks the launches, and writes no table."""
    command = [sys.executable, "-m", "benchmarks.tune", "--dry-run", "--out", tmp_path]
    choice = ["--case", "raschka_mlp_gan 28x28x1", "--precision", "bf16"]
    done = run_process([*command, *choice], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 launches, 9 GEMMs of 9 keys; the other 5 have one configuration" in done.stdout
    assert "9 of 9 launches in" in done.stdout and "0 failed" in done.stdout
    (path,) = tmp_path.iterdir()
    rows = [row for one in json.loads(path.read_text())["tune"].values() for row in one["rows"]]
    assert len(rows) == 18 and not any("not_measured" in row for row in rows)


@pytest.mark.skipif(choose_device().name == "gpu", reason="there is a GPU here")
def test_without_a_gpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.tune", "--out", tmp_path]
    done = run_process(command, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: --device gpu was asked for")
    assert done.stderr.count("\n") == 1 and not [*tmp_path.iterdir()]
