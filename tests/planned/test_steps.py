"""Tests of benchmarks/steps/__main__.py and its workers without a GPU.

PyTorch's steps equal rawgan's, the sides take turns, and no number is invented.
"""

import json
from contextlib import nullcontext
from types import SimpleNamespace as Names

import numpy as np
import pytest

from benchmarks.common import facts
from benchmarks.kernels import (
    ceilings,
    roofline,
)
from benchmarks.steps import dry_run as steps_dry
from benchmarks.steps import ours as steps_ours
from benchmarks.steps import profile as step_profile
from benchmarks.steps.cases import CASES
from benchmarks.steps.forms import BEST, THEIRS
from rawgan.kernels.runtime.compile import Job
from tests.support.fake_benchmark import FakeClock

STEP = pytest.mark.parametrize("name", CASES)


@STEP
@pytest.mark.parametrize("form", ["eager", "captured"])
def test_pytorch_trains_the_same(name, form):
    """Two steps of both libraries agree in float64 on losses, parameters and running statistics.

    They start from the same weights, images, z, labels and alphas.
    """
    assert steps_dry.apart(CASES[name].toy, form) < 1e-12


def test_every_form_of_pytorch_runs():
    """Every PyTorch form runs; with autocast the loss differs from float32 by bfloat16 rounding."""
    losses = steps_dry.forms_run(CASES["dcgan 64x64x3"].toy)
    assert list(losses) == THEIRS
    assert 0 < abs(losses["AMP"] - losses["eager"]) < 2**-8 * losses["eager"]
    assert losses["captured"] == losses["AMP"] == losses["compiled"]


def test_a_critic_without_norm_sees_both_at_once():
    """Only the captured form passes real and fake jointly, for a critic without BatchNorm."""
    from benchmarks.steps.torch_steps import FORMS, TorchStep

    joint = {
        (name, form): TorchStep(CASES[name].toy, FORMS[form], "cpu").joint
        for name in ("dcgan 64x64x3", "wgan_gp 64x64x3")
        for form in ("eager", "AMP", "captured")
    }
    assert [key for key, value in joint.items() if value] == [("wgan_gp 64x64x3", "captured")]


def test_our_side(monkeypatch):
    """A plan is made once for all ways to start it, without the fusion that its name excludes.

    20 steps in a graph count as 20 steps.
    """
    planned, captured, ran = [], [], []

    def plan(precision, device, disable):
        planned.append((precision, disable))
        graph = Names(launch=lambda stream: ran.append("graph"))
        launches = [Names(load=lambda: None)] * 3
        capture = lambda steps: captured.append(steps) or graph  # noqa: E731
        return Names(
            plan=Names(launches=launches, bytes=5, capture=capture),
            run=lambda: ran.append("launches"),
        )

    stream = SimpleStream()
    pool, cuda = (
        Names(used_bytes=lambda: 7 * len(planned)),
        Names(Stream=lambda non_blocking: stream),
    )
    gpu = Names(xp=Names(cuda=cuda, get_default_memory_pool=lambda: pool))
    monkeypatch.setattr(steps_ours, "choose_device", lambda wish: gpu)
    side = steps_ours.Side(Names(plan=plan))
    for form in ("bf16, launches", f"bf16, {BEST}", f"bf16 without joint pass, {BEST}"):
        assert side.prepare(form) == {"memory_bytes": 7, "arena_bytes": 5, "kernels": 3}
    assert planned == [("bf16", []), ("bf16", ["joint pass"])] and captured == [20, 20] and not ran
    _, steps_run = side.run(f"bf16, {BEST}", 0.0)
    assert set(ran) == {"graph"} and steps_run == 20 * len(ran)
    _, steps_run = side.run("bf16, launches", 0.0)
    assert steps_run == ran.count("launches")


class SimpleStream(nullcontext):
    def synchronize(self):
        pass


def test_plans_are_those_of_today():
    """benchmarks/results/plans.json equals the output of python -m benchmarks.steps --plans."""
    stored = json.loads((facts.RESULTS / "plans.json").read_text())["plans"]
    assert stored == json.loads(json.dumps(steps_dry.plans(list(CASES))["plans"]))


def test_compiled_as_it_is_launched(monkeypatch):
    """The kernels of a plan are compiled once each, for the alignment of its arrays.

    A kernel that does not compile is named.
    """
    asked = []

    def compile_all(jobs, capability):
        asked.extend(jobs)
        return [{"shared": 1024}, {"error": "out of registers"}, *[{"shared": 8}] * (len(jobs) - 2)]

    monkeypatch.setattr(steps_dry, "compile_all", compile_all)
    toy = CASES["dcgan 32x32x1"].toy
    assert steps_dry.compile_plans({"toy": toy}, precisions=["bf16"]) == ["toy bf16"]
    plan = toy.plan("bf16", images=1).plan
    assert 10 < len(asked) == len({job.key for job in asked}) <= len(plan.launches)
    assert {job.key for job in asked} == {job.key for job in map(Job.of, plan.launches)}


class TestProfile:
    @pytest.mark.parametrize(
        "name", ["dcgan 64x64x3", "dcgan 28x28x1", "wgan_gp 64x64x3", "cgan 32x32x1"]
    )
    def test_flops_are_those_of_the_layers(self, name):
        """The FLOPs of the launches equal roofline.py's count, except for the penalty's head."""
        case = CASES[name]
        launches = case.plan("bf16", images=case.reals * case.batch).plan.launches
        kernels = roofline.of_recipe(case.system, case.size, case.channels, case.width, case.batch)
        want = sum(kernel.flops for kernel in kernels)
        assert sum(map(step_profile.flops, launches)) == pytest.approx(
            want, rel=1e-4 if case.system.penalty else 0
        )
        assert (
            1
            < sum(map(step_profile.moved, launches)) / sum(kernel.bytes(2) for kernel in kernels)
            < 1.3
        )  # split-K partial sums, labels

    def test_summed_by_kernel(self, monkeypatch):
        """Launches are timed with a cold cache in step order; shares add up to 1."""
        clock = FakeClock(30.0, 10.0)
        monkeypatch.setattr(step_profile.Launch, "__call__", lambda self: clock.work())
        x = np.zeros(1000, np.float32)

        def launch(name, **constants):
            one = step_profile.Launch(lambda: None, (1,), (x, x), constants)
            one.kernel.__name__ = name
            return one

        launches = [launch("matmul_kernel", M=10, N=100, K=2000), launch("act_kernel")] * 2
        ceilings = {"copy": {"per_second": 1e9}, "bfloat16": {"per_second": 1e12}, "tf32": {}}
        profile = step_profile.profile(launches, "bf16", ceilings, clock, rounds=3)
        assert profile["us"] == 80
        assert profile["kernels"] == [
            {
                "kernel": "matmul_kernel",
                "launches": 2,
                "us": 60.0,
                "floor_us": 8.0,
                "share": 0.75,
                "of_floor": 0.1333,
            },
            {
                "kernel": "act_kernel",
                "launches": 2,
                "us": 20.0,
                "floor_us": 8.0,
                "share": 0.25,
                "of_floor": 0.4,
            },
        ]
        assert clock.calls.count("flush") == 5 * 4 and clock.calls[-4:] == [
            "flush",
            "event",
            "run",
            "event",
        ]
        unknown = step_profile.profile(launches, "tf32", ceilings, clock, rounds=1)
        assert unknown["kernels"][0]["floor_us"] is None
        assert "not measured" in step_profile.table({"dcgan 64x64x3": {"tf32": unknown}})


def test_the_cost_of_a_node(monkeypatch):
    """The cost of a graph node is the time of a graph of 500 launches divided by 500."""
    clock, captured = FakeClock(400.0), []
    clock.xp = Names(zeros=np.zeros, cuda=Names(Stream=lambda non_blocking: nullcontext()))

    def capture(plan):
        captured.append(dict(plan.counts()))
        return Names(launch=lambda stream: clock.work())

    monkeypatch.setattr(ceilings.Plan, "capture", capture)
    cost = ceilings.node(clock)
    assert captured == [{"act_kernel": 500}] and cost["median_us"] == 0.8 and not cost["host_bound"]
