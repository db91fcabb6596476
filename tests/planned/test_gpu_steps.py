"""Steps implemented in benchmarks/gpu_session.py, without a GPU: verdicts, parsers and tables."""

import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace as Names

import numpy as np
import pytest

from benchmarks.quality import distances
from benchmarks.steps import (
    array_profile,
    racecheck,
    train_check,
)
from benchmarks.steps.cases import CASES
from rawgan.layers import leaves
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]


def runs(
    planned: dict | None = None, weights=("a", "a"), seeds=(0.80, 0.82, 0.84)
) -> dict[str, dict]:
    """Return synthetic runs with the given D(x): two planned in bf16, three on arrays."""
    half = {"d_real": 0.82, "d_fake": 0.2, "d_loss": 0.5, "g_loss": 2.0}
    results = {
        train_check.key(train_check.ARRAYS, seed, 1): {
            "finite": True,
            "second_half": half | {"d_real": value},
            "weights": "w",
        }
        for seed, value in zip(train_check.SEEDS, seeds)
    }
    for n, digest in zip((1, 2), weights):
        run = {"finite": True, "second_half": half | (planned or {}), "weights": digest}
        results[train_check.key("bf16", 0, n)] = run
    return results


class TestTraining:
    def test_the_verdict(self):
        """The fault in gpu.md, D(x) = 1 with a loss of 700, fails, as do NaN and infinity."""
        assert train_check.verdict("bf16", runs()) == []
        assert train_check.verdict("bf16", runs({"d_real": 0.91, "g_loss": 2.9})) == []
        wrong = train_check.verdict("bf16", runs({"d_real": 1.0, "g_loss": 700.0}))
        assert [line.partition(" ")[0] for line in wrong] == ["d_real", "g_loss"]
        assert len(train_check.verdict("bf16", runs({"d_loss": float("nan")}))) == 1
        results = runs()
        results[train_check.key("bf16", 0, 2)]["finite"] = False
        assert train_check.verdict("bf16", results) == ["a metric is not finite"]
        assert "different weights" in train_check.verdict("bf16", runs(weights=("a", "b")))[0]

    def test_the_spread_of_the_seeds_counts(self):
        """The verdict allows three standard deviations over the seeds: 0.3 for one of 0.1."""
        wide = {"seeds": (0.72, 0.82, 0.92)}
        assert train_check.verdict("bf16", runs({"d_real": 0.53}, **wide)) == []
        assert len(train_check.verdict("bf16", runs({"d_real": 0.51}, **wide))) == 1

    def test_no_verdict_of_what_did_not_run(self):
        results = runs()
        results[train_check.key(train_check.ARRAYS, 1, 1)] = {"not_measured": "no time was left"}
        assert train_check.verdict("bf16", results) == ["no verdict: no time was left"]
        assert train_check.verdict("fp32", results) == ["no verdict: not run"]

    def test_intervals(self):
        rows = [dict.fromkeys(train_check.SLACK, float(n)) for n in range(5)]
        summary = train_check.summary(rows, 2)
        assert [part["d_real"] for part in summary["intervals"]] == [0.5, 2.5, 4.0]
        assert summary["second_half"]["g_loss"] == 3.0 and summary["finite"]
        rows[0]["d_loss"] = float("inf")
        assert not train_check.summary(rows, 2)["finite"]

    def test_the_checksum_sees_every_bit(self):
        """The digest changes with any bit of a parameter or running statistic, and only then."""
        gan, other = CASES["dcgan 64x64x3"].tiny.build(), CASES["dcgan 64x64x3"].tiny.build()
        before = train_check.checksum(gan)
        assert before == train_check.checksum(other)
        other.discriminator_optimizer.parameters.flat.view(np.uint32)[-1] ^= 1
        assert train_check.checksum(other) != before
        next(iter(gan.generator.buffers.values()))[0] += np.float32(1e-7)
        assert train_check.checksum(gan) != before


def test_racecheck_is_parsed():
    """The error counts of racecheck's summary are parsed, or the reason for their absence reported.

    Hazards in a step that did not finish are an additional failure.
    """
    done = (
        f"{racecheck.STEPPED}\n"
        "========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)\n"
    )
    assert racecheck.parse(done, 0) == {"hazards": 3, "errors": 2, "warnings": 1}
    clean = done.replace(
        "3 hazards displayed (2 errors, 1 warning)", "0 hazards displayed (0 errors, 0 warnings)"
    )
    assert racecheck.parse(clean, 0) == {"hazards": 0, "errors": 0, "warnings": 0}
    assert racecheck.parse(clean.replace(racecheck.STEPPED, ""), 1)["failed"]
    refused = racecheck.parse("========= Error: Device not supported. Please refer to ...\n", 1)
    assert refused == {"not_measured": "compute-sanitizer refuses this device"}
    assert racecheck.parse("", 9) == {
        "not_measured": "compute-sanitizer ended with 9 and without a summary",
        "failed": True,
    }
    assert racecheck.parse(racecheck.STEPPED, None) == {
        "not_measured": "no time was left",
        "failed": True,
    }


class TestArrays:
    def test_layers_are_timed(self):
        """Each pass of each layer is timed as often as GAN.train_step calls it, on host and GPU.

        All patches are undone afterwards.
        """
        gan = CASES[
            "dcgan 64x64x3"
        ].toy.build()  # its D has BatchNorm, so real and fake pass separately
        images, z = np.zeros((2, 16, 16, 3), np.float32), np.zeros((2, 100), np.float32)
        before = {
            id(leaf): leaf.__dict__.copy()
            for net in (gan.generator, gan.discriminator)
            for _, leaf in leaves(net)
        }
        with array_profile.timed_layers(gan, lambda: time.sleep(0.001)) as calls:
            gan.train_step(images, z)
        convolutions = sum(type(leaf).__name__ == "Conv2d" for _, leaf in leaves(gan.discriminator))
        assert (
            len(calls["Conv2d, forward"]) == 3 * convolutions == len(calls["Conv2d, backward"])
        )  # real, fake, fake again
        assert len(calls["Adam, step"]) == 2 and all(gpu >= 1000 for _, gpu in calls["Adam, step"])
        after = {
            id(leaf): leaf.__dict__
            for net in (gan.generator, gan.discriminator)
            for _, leaf in leaves(net)
        }
        assert {key: {*names} for key, names in after.items()} == {
            key: {*names} for key, names in before.items()
        }

    def test_sums(self):
        calls = {
            "A, forward": [(10.0, 1.0), (20.0, 2.0)],
            "B, forward": [(100.0, 5.0), (50.0, 5.0)],
        }
        assert array_profile.summed(calls, 2) == [
            {"layer": "B, forward", "calls": 1.0, "host_us": 75.0, "gpu_us": 5.0},
            {"layer": "A, forward", "calls": 1.0, "host_us": 15.0, "gpu_us": 1.5},
        ]

    def test_launches_are_counted(self):
        counts = array_profile.counted([("gemm", 5.0), ("add", 1.0), ("gemm", 7.0)])
        assert counts["launches"] == 3 and counts["gpu_us"] == 13.0
        assert counts["kernels"][0] == {"kernel": "gemm", "launches": 2, "us": 12.0}
        with pytest.raises(ValueError, match="saw nothing"):
            array_profile.counted([])

    def test_host_and_gpu_are_told_apart(self):
        """Host and GPU times are separate: launched in 1 ms, then 4 ms of GPU computation."""
        done = [0.0]

        def step():
            time.sleep(0.001)
            done[0] = time.perf_counter() + 0.004

        times = array_profile.times(
            step, lambda: time.sleep(max(0.0, done[0] - time.perf_counter())), 5
        )
        assert 1000 <= times["host_us"] and times["host_us"] + 3000 < times["step_us"]

    def test_table(self):
        layers = [{"layer": "Conv2d, forward", "calls": 12.0, "host_us": 9.0, "gpu_us": 3.0}]
        seen = {
            "launches": 600,
            "gpu_us": 5.0,
            "kernels": [{"kernel": "gemm", "launches": 2, "us": 4.0}],
        }
        whole = {
            "step_us": 43.0,
            "host_us": 42.0,
            "host_us_of_a_launch": 0.07,
            "layers": layers,
            "activities": seen,
        }
        page = array_profile.table(
            {"dcgan 64x64x3": whole, "cgan 32x32x1": {"not_measured": "no time was left"}}
        )
        assert (
            "600 launches, 5.0 us on the GPU" in page
            and "| Conv2d, forward | 12 | 9.0 | 3.0 |" in page
        )
        assert "cgan 32x32x1: no time was left" in page


ROW = {
    "recipe": "dcgan",
    "precision": "bf16",
    "distances": {250: 30.0, 500: 14.0},
    "seconds": {250: 1.0, 500: 2.0},
}


class TestDistances:
    def test_table(self):
        """The table has the mean time and number of runs at the target, or why there are none."""
        rows = [ROW | {"seconds_to_target": 2.0}, ROW | {"distances": {2000: 16.5}}]
        rows.append({"recipe": "wgan_gp", "precision": "fp32", "not_measured": "no time was left"})
        record = {"target": 15.0, "precisions": ["bf16", "fp32"], "runs": rows}
        lines = distances.table({"distances": record}).splitlines()
        assert lines[2] == "| dcgan | bf16 | 2 | 14.0, 16.5 | 2.0 | 2.0 s, 1 of 2 |"
        assert "| wgan_gp | fp32 | 0 | no time was left |" in lines[5] and "not run" in lines[3]
        assert "none on this data" in distances.table({"distances": record | {"target": None}})

    def test_a_run_ends_at_the_target(self, monkeypatch):
        """Only training seconds count, with the first step reported separately.

        A run that is out of time reports the value it reached.
        """
        trained, values = [], iter([20.0, 15.0, 3.0])
        monkeypatch.setattr(
            distances, "TrainingRun", lambda *_: Names(train=trained.append, done=7)
        )
        command = Names(left=lambda: 1.0, device=None)

        class Judged:
            def __call__(self, run):
                time.sleep(0.2)
                return next(values)

        judged = Judged()
        judged.command = command
        result = distances.study("dcgan", "bf16", 0, None, judged, 15.0)
        assert trained == [1, 250, 500] and result["distances"] == {250: 20.0, 500: 15.0}
        assert result["seconds_to_target"] == result["seconds"][500] < 0.2
        command.left = lambda: -1.0
        with pytest.raises(TimeoutError, match="step 7"):
            distances.study("dcgan", "bf16", 0, None, judged, 15.0)


def test_every_command_is_listed():
    """benchmarks/README.md lists each file with a command line once, and no other file.

    It is listed in the table or as a worker.
    """
    page = (ROOT / "benchmarks/README.md").read_text()
    named = re.findall(r"^\| `python -m (benchmarks[\w.]*)`", page, re.MULTILINE)
    workers = re.findall(r"^- `(benchmarks[\w.]+)`", page, re.MULTILINE)
    commands = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "benchmarks").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    ]
    assert sorted([*named, *workers]) == sorted(commands)


def test_a_command_alone_asks_for_the_interpreter():
    """A dry run started outside the session names in one sentence the environment that it needs."""
    command = [sys.executable, "-m", "benchmarks.steps.profile", "--dry-run"]
    done = run_process(command, cwd=ROOT)
    assert (
        done.returncode == 2
        and "TRITON_INTERPRET=1" in done.stderr
        and done.stderr.count("\n") == 1
    )
