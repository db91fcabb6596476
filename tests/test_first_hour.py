"""benchmarks/first_hour.py: parts in their order and time, each result kept, one that fails no end; and the precision report."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_kernels_benchmark import scaled

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import correctness, first_hour, precision  # noqa: E402
from benchmarks.kernel_rows import select  # noqa: E402
from rawgan.backend import choose_device  # noqa: E402
from rawgan.kernels import specs  # noqa: E402

HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("begun", child.pid)
try:
    time.sleep(60)
except KeyboardInterrupt:
    child.kill()
    child.wait()
    print("ended in order")
"""


def test_parts_in_order(capsys, tmp_path):
    """A command that fails or hangs is written down with its last words, and the next ones run; each is saved at once. One that
    hangs may end what it has started; the log has all that was said, whatever bytes it is."""
    asked, saved = [], {}
    scripts = {
        "ceilings": ["import sys; sys.stdout.buffer.write(b'x' * 9999 + bytes([0xC3, 10])); print('fine')"],
        "steps": ["import sys; print('wrong'); sys.exit(3)", "print('after it')"],
        "profile": [HANGS],
    }

    def commands(part, minutes):
        asked.append((part, minutes))
        return [["-c", script] for script in scripts[part]]

    start = time.monotonic()
    with (tmp_path / "log").open("ab+") as log:
        assert first_hour.all_parts(list(scripts), 0.1, commands, saved.__setitem__, log)
    assert time.monotonic() - start < 30
    assert [part for part, _ in asked] == list(saved) == list(scripts)
    [ceilings], [failed, after], [hung] = saved.values()
    assert ceilings["status"] == 0 and ceilings["said"].endswith("x\N{REPLACEMENT CHARACTER}\nfine\n")
    assert len(ceilings["said"]) == first_hour.TAIL and (failed["status"], failed["said"]) == (3, "wrong\n")
    assert after["said"] == "after it\n" and hung["status"] is None
    pid = re.fullmatch(r"begun (\d+)\nended in order\n", hung["said"])[1]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    said = (tmp_path / "log").read_bytes()
    assert b"x" * 9999 in said and said.endswith(b"ended in order\n") and said.count(b"\n$ python -c ") == 4
    assert "2 failed" in capsys.readouterr().out


def test_time_is_shared_out(monkeypatch):
    """A part has its share of what is left; what a quick one leaves the next ones have; all of it the last."""
    now, given = [0.0], []
    monkeypatch.setattr(first_hour.time, "monotonic", lambda: now[0])

    def commands(part, minutes):
        given.append(round(minutes + first_hour.GRACE / 60, 6))
        now[0] += 60 if part == "kernels" else 0  # the others take none
        return []

    assert not first_hour.all_parts(["kernels", "steps", "profile"], 19, commands, lambda *_: None, None)
    assert given == [6.0, round(18 * 10 / 13, 6), 18.0]


def test_every_command_is_one():
    """What it calls understands the options it is given, and every file that it hands to pytest is there."""
    for part in first_hour.SHARES:
        for command in first_hour.commands(part, 1.0, Path("out"), "abc"):
            if command[1] == "pytest":
                files = [word.removeprefix("--ignore=") for word in command if word.endswith(".py")]
                assert len(files) > 8 and all((ROOT / file).is_file() for file in files)
                continue
            done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
            options = [word for word in command if word.startswith("--")]
            assert done.returncode == 0 and all(option in done.stdout for option in options), done.stderr


COLLECT = """
import sys
import pytest
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("latex2mathml", "marimo", "playwright", "pooch", "sphinx", "tensorboardX"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.exit(pytest.main([*sys.argv[1:], "--collect-only", "-qq"]))
"""


def test_the_tests_for_a_gpu_need_little():
    """They are found where nothing is installed but what first_hour.NEEDED names, and onnx."""
    for command in first_hour.commands("tests", 1.0, Path("out"), None)[2:]:
        done = subprocess.run([sys.executable, "-c", COLLECT, *command[2:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.skipif(choose_device().name == "gpu", reason="there is a GPU here")
def test_without_a_gpu(tmp_path):
    """One sentence, status 2, no file; a dry run of parts that have nothing to try ends with 0."""
    command = [sys.executable, "-m", "benchmarks.first_hour", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --device gpu was asked for")
    done = subprocess.run([*command, "--dry-run", "--parts", "ceilings", "profile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not [*tmp_path.iterdir()]


def test_numbers_of_the_report():
    """Relative error and angle by hand; the angle of nearly equal vectors keeps its digits."""
    a, b = np.array([3.0, 4.0]), np.array([3.0, 0.0])
    assert precision.error(a, b) == 1.33
    assert precision.angle(a, b) == 0.4  # 1 - 3 / 5
    tilted = np.array([1.0, 1e-9])
    assert precision.angle(tilted, np.array([1.0, 0.0])) == 5e-19
    want = ({"d_loss": 2.0}, {"D": {"0.w": b, "1.b": np.zeros(2)}, "G": {"0.w": b}})
    got = ({"d_loss": 2.1}, {"D": {"0.w": a, "1.b": np.zeros(2)}, "G": {"0.w": b}})
    row = precision.compare(got, want)
    assert row["said"] == {"d_loss": 0.05} and row["D"]["layers"] == {"0.w": 1.33} and row["G"]["error"] == 0


@pytest.mark.parametrize("where", ["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_precision_report(where, tmp_path):
    """fp32 is as near as NumPy's float32, TF32 and bfloat16 are further by what their digits say; the penalty is compared, too."""
    command = [sys.executable, "-m", "benchmarks.precision", "--case", "wgan_gp 64x64x3", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert (result["device"]["name"] == "interpreter") == (where == "interpreter") == ("emulated" in result["device"])
    rows = {row["precision"]: row for row in result["rows"]}
    plain = rows.pop(precision.PLAIN)
    assert list(rows) == ["fp32", "tf32", "bf16"] and {"penalty", "gradient_norm"} <= plain["said"].keys()
    for player in ("D", "G"):
        exact, tf32, bf16 = (row[player]["error"] for row in rows.values())
        assert exact <= 4 * plain[player]["error"] < 2**-16
        assert 2**-14 < tf32 < 0.1 and 2**-10 < bf16 < 0.3
        assert rows["bf16"][player]["angle"] <= 0.6 * bf16**2  # 1 - cos is half the square of a small angle
        assert rows["fp32"][player]["layers"].keys() == plain[player]["layers"].keys()
    page = precision.table(result)
    assert page.count("wgan_gp") == 4 and "not measured" not in page


class InProcess:
    """A worker in this process; once it has lost the GPU it answers nothing right."""

    over = None

    def __init__(self, rows):
        self.side = correctness.Side(np, rows)
        started.append(self)

    def ask(self, seconds, prepare):
        return self.side.prepare(prepare)

    def end(self):
        ended.append(self)


started, ended = [], []


def test_correctness(monkeypatch):
    """Counts the cases that are right, and says of each wrong one which it is and why; each is saved."""
    saved = []
    for spec, right in ((scaled(), 2), (scaled(by=1.001), 0)):
        monkeypatch.setitem(specs(), "double", spec)
        rows = select(["double"], [])
        found = correctness.check(rows, lambda rows=rows: InProcess(rows), lambda found: saved.append(json.dumps(found)))
        assert (found["of"], found["right"]) == (2, right) and json.loads(saved[-1]) == found
    assert len(saved) == 4 and len(started) == len(ended) == 2
    assert "output 0: 997 of 1000 entries are wrong" in found["wrong"]["double float32 n=1000"]


def test_a_lost_gpu_is_lost_to_one_case(monkeypatch):
    """The next one has a process of its own."""
    monkeypatch.setitem(specs(), "double", scaled(fails=True))
    monkeypatch.setattr(correctness.Side, "alive", lambda self: False)
    rows, before = select(["double"], []), len(started)
    found = correctness.check(rows, lambda: InProcess(rows), lambda _: None)
    assert [*found["wrong"].values()] == ["RuntimeError: an illegal address"] * 2
    assert len(started) - before == 3 and started == ended
