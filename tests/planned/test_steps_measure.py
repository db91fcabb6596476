"""Measuring in turns: workers, their failures and time limits, without a GPU."""

import json
import time
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.common.worker import Worker
from benchmarks.steps import __main__ as steps
from benchmarks.steps.forms import BEST, COMPILED, OURS, PLAIN, THEIRS
from rawgan.backend import choose_device
from rawgan.errors import UserError
from rawgan.precision import PRECISIONS

ROOT = Path(__file__).parents[2]


class FakeWorker:
    """Worker stand-in with prescribed times; "broken" forms fail in a run, "refused" earlier."""

    messages, us, broken, refused = [], {}, {}, {}

    def __init__(self, module, name):
        self.side, self.lost, self.asked = module.rpartition("_")[2], None, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.messages.append(f"end {self.side}")

    def send(self, **question):
        self.messages.append(("send", self.side, question["prepare"]))
        self.asked.append(question)

    def receive(self, seconds):
        return self.ask(seconds, **self.asked.pop(0))

    def ask(self, seconds, **question):
        (kind, form), *_ = question.items()
        self.messages.append((kind, self.side, form))
        if kind == "prepare":
            return self.refused.get(form, {"memory_bytes": 3 * 2**20, "kernels": 80})
        if kind == "count":
            return {"kernels": 77}
        times = self.us.get(form, [10.0])
        answer = self.lost or self.broken.get(form)
        self.lost = answer if answer and "illegal" in answer["not_measured"] else None
        return answer or {
            "us": times[self.messages.count(("run", self.side, form)) % len(times)],
            "steps": 3,
        }


ARGS = Namespace(
    rounds=4,
    seconds=0.1,
    again=False,
    dry_run=False,
    passes=steps.PASSES,
    compiled=COMPILED,
    case=["dcgan 64x64x3"],
)


def measured(monkeypatch, names=("dcgan 64x64x3",), result=None, left=1e9, **options):
    for name, value in {"messages": [], "us": {}, "broken": {}, "refused": {}, **options}.items():
        monkeypatch.setattr(FakeWorker, name, value)
    monkeypatch.setattr(steps, "Worker", FakeWorker)
    result, saved = {} if result is None else result, []
    steps.measure([*names], result, lambda: saved.append(json.dumps(result)), ARGS, lambda: left)
    return result, saved


class TestMeasure:
    def test_turns_and_ratios(self, monkeypatch):
        """Ratios are taken within a round, rounds alternate in order, and each pass is saved."""
        us = {f"bf16, {BEST}": [5.0, 10.0], "eager": [20.0, 50.0]}
        result, saved = measured(monkeypatch, us=us)
        row = result["steps"]["dcgan 64x64x3"]
        assert row["ratios"]["bf16"]["eager"] == {"median": 4.5, "min": 4.0, "max": 5.0}
        assert (
            row["torch"]["eager"]["us"] == 35
            and row["torch"]["eager"]["rounds"] == 4
            and row["torch"]["eager"]["kernels"] == 77
        )
        assert row["ours"][f"bf16, {BEST}"]["us"] == 7.5 and len(saved) == 4
        runs = [message[2] for message in FakeWorker.messages if message[0] == "run"][
            : 5 * (len(OURS) + len(PLAIN))
        ]
        rounds = [
            runs[i : i + len(OURS) + len(PLAIN)]
            for i in range(0, len(runs), len(OURS) + len(PLAIN))
        ]
        assert rounds[0] == [*OURS, *PLAIN][::-1] and all(a == b[::-1] for a, b in pairwise(rounds))
        assert steps.failures(result, ARGS) == []

    def test_without_savings(self, monkeypatch):
        """The step without each fusion is timed in turns with the full step.

        A form that fails is reported as a failure, and is tried again.
        """
        slow, failed = (
            f"bf16 without joint pass, {BEST}",
            {"not_measured": "RuntimeError: no memory", "failed": True},
        )
        broken = {f"bf16 without unused gradients, {BEST}": failed}
        options = {"us": {slow: [15.0]}, "broken": broken}
        result, _ = measured(monkeypatch, **options)
        without = result["steps"]["dcgan 64x64x3"]["without"]
        assert without == {
            "joint pass": {"launches": 80, "median": 1.5, "min": 1.5, "max": 1.5},
            "unused gradients": failed,
        }
        assert steps.failures(result, ARGS) == ["dcgan 64x64x3, without unused gradients"]
        measured(monkeypatch, result=result)
        assert "median" in result["steps"]["dcgan 64x64x3"]["without"]["unused gradients"]
        assert ("prepare", "torch", "eager") not in FakeWorker.messages

    def test_what_was_measured_is_not_measured_again(self, monkeypatch):
        result, _ = measured(monkeypatch)
        result["steps"]["dcgan 64x64x3"]["torch"]["compiled"] = {
            "not_measured": "no answer in 400 s",
            "failed": True,
        }
        measured(monkeypatch, result=result)
        assert {
            message[2]
            for message in FakeWorker.messages
            if message[0] == "run" and message[1] == "torch"
        } == {"compiled"}
        assert {
            message[2]
            for message in FakeWorker.messages
            if message[0] == "run" and message[1] == "ours"
        } == {f"{p}, {BEST}" for p in PRECISIONS}

    def test_what_fails(self, monkeypatch):
        """A failure is recorded with its reason, a refusal is no failure, the rest is measured."""
        failed = {"not_measured": "RuntimeError: no memory", "failed": True}
        refused = {
            form: {"not_measured": "torch.compile has no double backward"} for form in COMPILED
        }
        result, _ = measured(
            monkeypatch, broken={"AMP": failed, f"tf32, {BEST}": failed}, refused=refused
        )
        row = result["steps"]["dcgan 64x64x3"]
        assert row["torch"]["AMP"] == row["ours"][f"tf32, {BEST}"] == failed
        assert set(row["ratios"]) == {"fp32", "bf16x3", "bf16"} and set(row["ratios"]["bf16"]) == {
            "eager",
            "eager, no TF32",
            "captured",
        }
        assert steps.failures(result, ARGS) == [
            "dcgan 64x64x3, ours tf32, 20 a graph",
            "dcgan 64x64x3, torch AMP",
        ]

    def test_a_precision_that_loses_the_gpu(self, monkeypatch):
        """After a GPU loss the rest of that precision fails; its fastest form is retried last.

        The retry runs with the compiled forms.
        """
        lost = {"not_measured": "CUDADriverError: an illegal address", "failed": True}
        result, _ = measured(monkeypatch, broken={"tf32, launches": lost})
        row = result["steps"]["dcgan 64x64x3"]
        assert [form for form, cell in row["ours"].items() if cell == lost] == [
            "tf32, launches",
            "tf32, graph",
        ]
        assert set(row["ratios"]["bf16"]) == set(THEIRS) and set(row["ratios"]["tf32"]) == set(
            COMPILED
        )

    def test_a_slow_compilation_costs_the_others_nothing(self, monkeypatch):
        """All compilations start, each in its own process, before the first answer is awaited.

        Forms that are ready in time are measured.
        """
        slow = {"not_measured": "no answer in 9 s", "failed": True}
        names = ("dcgan 64x64x3", "dcgan 32x32x1")
        monkeypatch.setattr(ARGS, "passes", ("compiled",))
        result, _ = measured(monkeypatch, names, refused={"compiled": slow})
        messages = [
            event
            for event in FakeWorker.messages
            if event[1:] in [("torch", form) for form in COMPILED]
        ]
        assert messages[:8] == [("send", "torch", form) for _ in names for form in COMPILED] + [
            ("prepare", "torch", form) for _ in names for form in COMPILED
        ]
        for name in names:
            row = result["steps"][name]
            assert (
                row["torch"]["compiled"] == slow and row["torch"]["compiled, captured"]["us"] == 10
            )
            assert [*row["ratios"]["bf16"]] == ["compiled, captured"]

    def test_a_slow_case_leaves_the_others_their_time(self):
        """A case may take 1.5 times the share that it leaves to each other one, the last all."""
        now, limits = [120.0], []

        def take(name, row, args, left):
            limits.append(round(left(), 9))
            now[0] -= max(left(), 0.0) if name != "b" else 0.0

        names = ["a", "b", "c", "d"]
        steps.in_shares(names, take, dict.fromkeys(names), lambda: None, ARGS, lambda: now[0])
        assert limits == [40.0, round(80 * 1.5 / 3.5, 9), 48.0, 32.0]

    def test_what_was_prepared_alone_is_not_known(self):
        for cell, known in (
            ({"memory_bytes": 3}, False),
            ({"memory_bytes": 3, "us": 1.0}, True),
            ({"not_measured": "refused"}, True),
            ({"not_measured": "lost", "failed": True}, False),
            (None, False),
        ):
            assert steps.known(cell) is known

    def test_no_time(self, monkeypatch):
        result, saved = measured(monkeypatch, left=4)
        assert not saved and len(steps.failures(result, ARGS)) == len(OURS) + len(THEIRS) + 2


SIDE = """
import sys, time
from benchmarks.common.worker import answer, timed
from rawgan.errors import UserError
class Side:
    def prepare(self, form):
        print("noise from a library")
        if form == "refused": raise UserError("no such step")
        if form == "slow": time.sleep(60)
        if form == "dies": sys.exit(7)
        return {"memory_bytes": 1 / (form != "broken")}
    def run(self, form, least):
        return timed(lambda: time.sleep(0.002), lambda: None, least, of=2)
answer(Side())
"""


def test_worker(monkeypatch, tmp_path):
    """A worker answers whatever is printed, and reports refusals and errors as text.

    A worker that hangs or dies is ended, and every later answer says so.
    """
    (tmp_path / "a_side.py").write_text(SIDE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with Worker("a_side") as worker:
        assert worker.ask(60, prepare="this") == {"memory_bytes": 1.0}
        assert worker.ask(60, prepare="refused") == {"not_measured": "no such step"}
        assert worker.ask(60, prepare="broken") == {
            "not_measured": "ZeroDivisionError: division by zero",
            "failed": True,
        }
        reply = worker.ask(60, run="this", least=0.05)
        for form in ("this", "refused", "this"):
            worker.send(prepare=form)
        time.sleep(0.5)  # all three are in the pipe
        answers = [worker.receive(60) for _ in range(3)]
        assert answers == [
            {"memory_bytes": 1.0},
            {"not_measured": "no such step"},
            {"memory_bytes": 1.0},
        ]
        assert reply["us"] > 1000 and reply["steps"] * reply["us"] > 0.8 * 50_000
        assert worker.ask(0.2, prepare="slow") == {
            "not_measured": "no answer in 0 s",
            "failed": True,
        }
        assert (
            worker.process.poll() is not None
            and worker.ask(60, prepare="this")["not_measured"] == "no answer in 0 s"
        )
    with Worker("a_side") as worker:
        assert worker.ask(60, prepare="dies") == {
            "not_measured": "its process ended with 7",
            "failed": True,
        }


@pytest.mark.skipif(choose_device().name == "gpu", reason="there is a GPU here")
def test_no_gpu():
    with pytest.raises(UserError, match="--device gpu was asked for"):
        choose_device("gpu")
    with Worker("benchmarks.steps.ours", "dcgan 32x32x1") as worker:
        assert worker.ask(60, prepare=OURS[0]) == {
            "not_measured": "its process ended with 1",
            "failed": True,
        }
