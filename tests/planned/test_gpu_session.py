"""Tests of benchmarks/gpu_session.py and of the precision report.

Steps run in order and within their time, each result is saved, and a failed step does not end the
session.
"""

import json
import os
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_session
from benchmarks.common import (
    child,
    facts,
)
from benchmarks.steps import precision
from rawgan.backend import choose_device
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]

HANGS = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleep, start_new_session=True)
print("begun", child.pid)
try:
    time.sleep(60)
except KeyboardInterrupt:
    child.kill()
    child.wait()
    print("ended in order")
"""


STEP = gpu_session.Step("a", 1, 60, "benchmarks.kernels.ceilings")


def run_scripts(
    scripts: dict[str, tuple[float, str]], path: Path
) -> tuple[list[dict], list[list[dict]]]:
    """Run steps {name: (limit, program)}; return their records and the saved file."""
    steps, saved = (
        [STEP._replace(name=name, seconds=seconds) for name, (seconds, _) in scripts.items()],
        [],
    )
    with path.open("ab+") as log:
        records = gpu_session.run_steps(
            steps,
            lambda step, _: ["-c", scripts[step.name][1]],
            lambda records: saved.append([*records]),
            log,
        )
    return records, saved


def test_steps_in_order(tmp_path):
    """A step that fails or hangs is recorded with its last output, and the next steps run.

    Each record is saved at once. A step that hangs is ended with its child processes. The log holds
    all output, whatever its bytes.
    """
    scripts = {
        "long": (
            60,
            "import sys; sys.stdout.buffer.write(b'x' * 9999 + bytes([0xC3, 10])); print('fine')",
        ),
        "fails": (60, "import sys; print('wrong'); sys.exit(3)"),
        "hangs": (10, HANGS),
        "after it": (60, "print('reached')"),
    }
    start = time.monotonic()
    scripts["hangs"] = (-118 + 10, HANGS)  # of the two minutes that the first two leave
    records, saved = run_scripts(scripts, tmp_path / "log")
    assert time.monotonic() - start < 60
    assert [record["step"] for record in records] == [*scripts] and [len(now) for now in saved] == [
        1,
        2,
        3,
        4,
    ]
    long, failed, hung, after = records
    assert long["status"] == 0 and long["output"].endswith("x\N{REPLACEMENT CHARACTER}\nfine\n")
    assert len(long["output"]) == child.TAIL and (failed["status"], failed["output"]) == (
        3,
        "wrong\n",
    )
    assert after["output"] == "reached\n" and hung["status"] is None
    pid = re.fullmatch(r"begun (\d+)\nended in order\n", hung["output"])[1]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    output = (tmp_path / "log").read_bytes()
    assert (
        b"x" * 9999 in output
        and output.endswith(b"reached\n")
        and output.count(b"\n$ python -c ") == 4
    )
    page = gpu_session.summary(
        [STEP._replace(name=name) for name in [*scripts, "gone"]],
        {"gone": "not installed: torch"},
        records,
    )
    assert (
        "2 failed: fails, hangs" in page
        and "| failed: status 3 |" in page
        and "| failed: its time was up |" in page
    )
    assert "skipped, not installed: torch" in page


def test_time_is_handed_on(monkeypatch):
    """Time that a step leaves unused goes to the next one; an overrun takes none from it."""
    now, times_left, took = [0.0], [], {"quick": 5.0, "slow": 200.0, "last": 0.0}
    monkeypatch.setattr(gpu_session.time, "monotonic", lambda: now[0])

    def run(arguments, seconds, log):
        times_left.append((arguments, seconds))
        now[0] += min(took[arguments], seconds)
        return {"status": 0, "output": ""}

    monkeypatch.setattr(gpu_session.child, "run", run)
    steps = [
        STEP._replace(name=name, seconds=seconds)
        for name, seconds in (("quick", 20), ("slow", 30), ("last", 40))
    ]
    gpu_session.run_steps(steps, lambda step, _: step.name, lambda _: None, None)
    assert times_left == [("quick", 20.0), ("slow", 45.0), ("last", 40.0)]


def test_parts_of_six_minutes():
    """Parts 1 and 2 of the session have 330 to 366 s, of which `steps` has at most 240 s.

    Part 3 has at most 240 s. The names of steps are unique, and the steps are ordered by part.
    """
    for part, (least, most) in {1: (330, 366), 2: (330, 366), 3: (0, 240)}.items():
        seconds = sum(step.seconds for step in gpu_session.STEPS if step.part == part)
        assert least <= seconds <= most
    limits = {step.name: step.seconds for step in gpu_session.STEPS}
    assert len(limits) == len(gpu_session.STEPS) and limits["steps"] <= 240
    assert [step.part for step in gpu_session.STEPS] == sorted(
        step.part for step in gpu_session.STEPS
    )


def test_the_sweep_is_between_correctness_and_the_comparison():
    """What is timed is right, and the comparison uses the configurations that were measured."""
    names = [step.name for step in gpu_session.STEPS]
    order = ["correctness", "tuning bf16", "tuning float32", "steps", "compiled steps", "profile"]
    assert all(names.index("correctness") < names.index(name) for name in order[1:])
    assert all(names.index(name) > names.index("tuning float32") for name in order[3:])


def there() -> list:
    return [step for step in gpu_session.STEPS if find_spec(step.module)]


@pytest.mark.parametrize("step", there(), ids=lambda step: step.name)
def test_every_command_is_one(step):
    """Every command accepts its options and cases, with a GPU and in a dry run."""
    for dry in (False, True):
        command = gpu_session.command(step, 60.0, Path("out"), "abc", dry)
        assert ("--dry-run" in command) == dry and command[
            command.index("--minutes") + 1
        ] == "0.850"
        code = f"""
import argparse, runpy, sys
parse = argparse.ArgumentParser.parse_args
def stop(self, *args):
    parse(self, *args)
    sys.exit(17)
argparse.ArgumentParser.parse_args = stop
sys.argv = {command[1:]!r}
runpy.run_module({step.module!r}, run_name="__main__", alter_sys=False)
"""
        done = run_process([sys.executable, "-c", code], cwd=ROOT)
        assert done.returncode == 17, done.stderr


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
"""
PACKAGES = {
    *gpu_session.OTHERS,
    "scipy",
    "pytest",
    "hypothesis",
    "onnx",
    "marimo",
    "sphinx",
    "tensorboardX",
    "mpi4py",
}


@pytest.mark.parametrize("step", there(), ids=lambda step: step.name)
def test_a_step_needs_what_it_names(step):
    """A step's module imports with only the common packages and those that the step lists."""
    code = WITHOUT.format(missing=PACKAGES - {*step.needs}) + f"import {step.module}"
    done = run_process([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_told_first(monkeypatch, capsys):
    """A missing package is reported before the first step; only steps that need it are skipped."""
    monkeypatch.setattr(
        gpu_session,
        "find_spec",
        lambda name: None if name in ("PIL", "benchmarks.tune") else "there",
    )
    skips = gpu_session.preflight(gpu_session.STEPS, dry=False)
    assert skips == dict.fromkeys(
        ("training", "array path", "distances"), "not installed: PIL"
    ) | dict.fromkeys(("tuning bf16", "tuning float32"), "not there yet: benchmarks.tune")
    assert "not installed here: PIL\n" in capsys.readouterr().out
    monkeypatch.setattr(gpu_session, "find_spec", lambda name: None if name == "cupy" else "there")
    assert not gpu_session.preflight(gpu_session.STEPS, dry=True)
    assert len(gpu_session.preflight(gpu_session.STEPS, dry=False)) == len(gpu_session.STEPS)


def test_the_tests_for_a_gpu_need_little():
    """The GPU tests can be collected with only the packages that the GPU machine has."""
    missing = ("latex2mathml", "marimo", "playwright", "pooch", "sphinx", "tensorboardX")
    code = (
        WITHOUT.format(missing=missing)
        + "import pytest\nsys.exit(pytest.main([*sys.argv[1:], '--collect-only', '-qq']))"
    )
    options = ["-m", "gpu", "-p", "no:cacheprovider", "--ignore=tests/docs"]
    done = run_process([sys.executable, "-c", code, *options], cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.skipif(choose_device().name == "gpu", reason="there is a GPU here")
def test_without_a_gpu(tmp_path):
    """Without a GPU: one sentence, status 2, no file.

    A dry run of a step writes its result and the session's, and nothing into results.
    """
    before = sorted(facts.RESULTS.rglob("*"))
    command = [sys.executable, "-m", "benchmarks.gpu_session", "--out", str(tmp_path)]
    done = run_process(command, cwd=ROOT)
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: --device gpu was asked for")
        and not [*tmp_path.iterdir()]
    )
    steps = ["--steps", "ceilings", "array path", "tuning bf16", "--dry-run"]
    done = run_process([*command, *steps], cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "| ceilings | 2 |" in done.stdout and "0 failed" in done.stdout
    names = [
        f"{kind}_dry_run_no_gpu.{end}"
        for kind, end in (
            ("session", "json"),
            ("session", "log"),
            ("steps", "json"),
            ("tune", "json"),
        )
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    record = json.loads((tmp_path / names[0]).read_text())
    assert [r["step"] for r in record["records"]] == ["tuning bf16", "ceilings", "array path"]
    assert not record["skipped"]
    done = run_process([*command[:-1], facts.RESULTS / "x", *steps], cwd=ROOT)
    assert done.returncode == 2 and "outside benchmarks/results" in done.stderr
    assert sorted(facts.RESULTS.rglob("*")) == before


def test_numbers_of_the_report():
    """Relative error and angle equal values computed by hand, and small angles are accurate."""
    a, b = np.array([3.0, 4.0]), np.array([3.0, 0.0])
    assert precision.error(a, b) == 1.33
    assert precision.angle(a, b) == 0.4  # 1 - 3 / 5
    tilted = np.array([1.0, 1e-9])
    assert precision.angle(tilted, np.array([1.0, 0.0])) == 5e-19
    want = ({"d_loss": 2.0}, {"D": {"0.w": b, "1.b": np.zeros(2)}, "G": {"0.w": b}})
    got = ({"d_loss": 2.1}, {"D": {"0.w": a, "1.b": np.zeros(2)}, "G": {"0.w": b}})
    row = precision.compare(got, want)
    assert (
        row["metrics"] == {"d_loss": 0.05}
        and row["D"]["layers"] == {"0.w": 1.33}
        and row["G"]["error"] == 0
    )


@pytest.mark.parametrize("where", ["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_precision_report(where, tmp_path):
    """fp32 is as accurate as NumPy's float32, the others as their mantissas allow.

    The products of bf16x3 are 2^-15 wrong at most, 7 times less in the root mean square. G's
    gradient passes through the updated D, whose parameters move by the sign of their gradients, so
    that it has 1/32 of TF32's bound, as its products have. The penalty is compared as well.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.steps.precision",
        "--case",
        "wgan_gp 64x64x3",
        "--out",
        str(tmp_path),
    ]
    done = run_process(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert (
        (result["device"]["name"] == "interpreter")
        == (where == "interpreter")
        == ("emulated" in result["device"])
    )
    rows = {row["precision"]: row for row in result["rows"]}
    plain = rows.pop(precision.PLAIN)
    assert (
        list(rows) == ["fp32", "bf16x3", "tf32", "bf16"]
        and {"penalty", "gradient_norm"} <= plain["metrics"].keys()
    )
    for player in ("D", "G"):
        exact, bf16x3, tf32, bf16 = (row[player]["error"] for row in rows.values())
        if where == "interpreter":
            assert exact <= 4 * plain[player]["error"] < 2**-16
        # an H200 measured 4.9e-5: a few of 10^7 pre-activations change sign in float32, see
        # precision.kinks
        else:
            assert exact <= max(4 * plain[player]["error"], rows["fp32"]["kinks"][player]) < 2**-5
        bound = rows["bf16x3"].get("kinks", {"D": 2**-15, "G": 0.1 / 32})[player]
        assert exact < bf16x3 < bound < 2**-5
        assert 2**-14 < tf32 < 0.1 and 2**-10 < bf16 < 0.3
        assert (
            rows["bf16"][player]["angle"] <= 0.6 * bf16**2
        )  # 1 - cos is half the squared angle for small angles
        assert rows["fp32"][player]["layers"].keys() == plain[player]["layers"].keys()
    page = precision.table(result)
    assert page.count("wgan_gp") == 5 and "not measured" not in page
