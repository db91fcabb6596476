"""benchmarks/steps.py and what it measures with, without a GPU: PyTorch's steps are ours, turns are taken, nothing is made up."""

import json
import re
import sys
from argparse import Namespace
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace as Names

import numpy as np
import pytest
from test_kernels_benchmark import FakeClock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import ceilings, facts, roofline, step_profile, step_report, steps, steps_dry, steps_ours  # noqa: E402
from benchmarks.step_cases import CASES  # noqa: E402
from benchmarks.step_worker import Worker  # noqa: E402
from benchmarks.steps_forms import BEST, COMPILED, OURS, PLAIN, THEIRS  # noqa: E402
from docs import make_tables  # noqa: E402
from rawgan.backend import choose_device  # noqa: E402
from rawgan.errors import UserError  # noqa: E402
from rawgan.planned import PRECISIONS  # noqa: E402

STEP = pytest.mark.parametrize("name", CASES)


@STEP
@pytest.mark.parametrize("form", ["eager", "captured"])
def test_pytorch_trains_the_same(name, form):
    """Losses, parameters and running statistics of two steps, in float64, from the same weights, images, z, labels and alphas."""
    assert steps_dry.apart(CASES[name].toy, form) < 1e-12


def test_every_form_of_pytorch_runs():
    """With autocast the loss is that of float32 within bfloat16's rounding, and another."""
    said = steps_dry.forms_run(CASES["dcgan 64x64x3"].toy)
    assert list(said) == THEIRS
    assert 0 < abs(said["AMP"] - said["eager"]) < 2**-8 * said["eager"]
    assert said["captured"] == said["AMP"] == said["compiled"]


def test_a_critic_without_norm_sees_both_at_once():
    """In the captured form alone; a critic with BatchNorm never does."""
    from benchmarks.steps_torch import FORMS, TorchStep

    joint = {
        (name, form): TorchStep(CASES[name].toy, FORMS[form], "cpu").joint
        for name in ("dcgan 64x64x3", "wgan_gp 64x64x3")
        for form in ("eager", "AMP", "captured")
    }
    assert [key for key, value in joint.items() if value] == [("wgan_gp 64x64x3", "captured")]


class FakeWorker:
    """A side whose steps take as long as it is told; "broken" forms fail when they are run, "refused" ones before."""

    said, us, broken, refused = [], {}, {}, {}

    def __init__(self, module, name):
        self.side, self.lost = module.rpartition("_")[2], None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.said.append(f"end {self.side}")

    def ask(self, seconds, **question):
        (what, form), *_ = question.items()
        self.said.append((what, self.side, form))
        if what == "prepare":
            return self.refused.get(form, {"memory_bytes": 3 * 2**20, "kernels": 80})
        if what == "count":
            return {"kernels": 77}
        times = self.us.get(form, [10.0])
        answer = self.lost or self.broken.get(form)
        self.lost = answer if answer and "illegal" in answer["not_measured"] else None
        return answer or {"us": times[self.said.count(("run", self.side, form)) % len(times)], "steps": 3}


def measured(monkeypatch, names=("dcgan 64x64x3",), result=None, left=1e9, **options):
    for name, value in {"said": [], "us": {}, "broken": {}, "refused": {}, **options}.items():
        monkeypatch.setattr(FakeWorker, name, value)
    monkeypatch.setattr(steps, "Worker", FakeWorker)
    result, saved = {} if result is None else result, []
    args = Namespace(rounds=4, seconds=0.1, again=False)
    steps.measure([*names], result, lambda: saved.append(json.dumps(result)), args, lambda: left)
    return result, saved


class TestMeasure:
    def test_turns_and_ratios(self, monkeypatch):
        """A ratio is that of one round; rounds go to and fro; each pass is saved."""
        us = {f"bf16, {BEST}": [5.0, 10.0], "eager": [20.0, 50.0]}
        result, saved = measured(monkeypatch, us=us)
        row = result["steps"]["dcgan 64x64x3"]
        assert row["ratios"]["bf16"]["eager"] == {"median": 4.5, "min": 4.0, "max": 5.0}
        assert row["torch"]["eager"]["us"] == 35 and row["torch"]["eager"]["rounds"] == 4 and row["torch"]["eager"]["kernels"] == 77
        assert row["ours"][f"bf16, {BEST}"]["us"] == 7.5 and len(saved) == 3
        runs = [said[2] for said in FakeWorker.said if said[0] == "run"][: 5 * (len(OURS) + len(PLAIN))]
        rounds = [runs[i : i + len(OURS) + len(PLAIN)] for i in range(0, len(runs), len(OURS) + len(PLAIN))]
        assert rounds[0] == [*OURS, *PLAIN][::-1] and all(a == b[::-1] for a, b in pairwise(rounds))
        assert steps.failures(result) == []

    def test_without_savings(self, monkeypatch):
        """Our step without each of its savings, in turns with itself; one that fails is a failure, and is tried again."""
        slow, failed = f"bf16 without joint pass, {BEST}", {"not_measured": "RuntimeError: no memory", "failed": True}
        options = {"us": {slow: [15.0]}, "broken": {f"bf16 without idle gradients, {BEST}": failed}}
        result, _ = measured(monkeypatch, **options)
        without = result["steps"]["dcgan 64x64x3"]["without"]
        assert without == {
            "joint pass": {"launches": 80, "median": 1.5, "min": 1.5, "max": 1.5},
            "idle gradients": failed,
        }
        assert steps.failures(result) == ["dcgan 64x64x3, without idle gradients"]
        measured(monkeypatch, result=result)
        assert "median" in result["steps"]["dcgan 64x64x3"]["without"]["idle gradients"]
        assert ("prepare", "torch", "eager") not in FakeWorker.said

    def test_what_was_measured_is_not_measured_again(self, monkeypatch):
        result, _ = measured(monkeypatch)
        result["steps"]["dcgan 64x64x3"]["torch"]["compiled"] = {"not_measured": "no answer in 400 s", "failed": True}
        measured(monkeypatch, result=result)
        assert {said[2] for said in FakeWorker.said if said[0] == "run" and said[1] == "torch"} == {"compiled"}
        assert {said[2] for said in FakeWorker.said if said[0] == "run" and said[1] == "ours"} == {
            f"{p}, {BEST}" for p in PRECISIONS
        }

    def test_what_fails(self, monkeypatch):
        """Is written down with its reason; what is refused in words is no failure, and the rest is measured."""
        failed = {"not_measured": "RuntimeError: no memory", "failed": True}
        refused = {form: {"not_measured": "torch.compile has no double backward"} for form in COMPILED}
        result, _ = measured(monkeypatch, broken={"AMP": failed, f"tf32, {BEST}": failed}, refused=refused)
        row = result["steps"]["dcgan 64x64x3"]
        assert row["torch"]["AMP"] == row["ours"][f"tf32, {BEST}"] == failed
        assert set(row["ratios"]) == {"fp32", "bf16"} and set(row["ratios"]["bf16"]) == {"eager", "eager, no TF32", "captured"}
        assert steps.failures(result) == ["dcgan 64x64x3, ours tf32, 20 a graph", "dcgan 64x64x3, torch AMP"]

    def test_a_precision_that_loses_the_gpu(self, monkeypatch):
        """What fails is the rest of that precision; the fastest form is tried again beside the compiled ones."""
        lost = {"not_measured": "CUDADriverError: an illegal address", "failed": True}
        result, _ = measured(monkeypatch, broken={"tf32, launches": lost})
        row = result["steps"]["dcgan 64x64x3"]
        assert [form for form, cell in row["ours"].items() if cell == lost] == ["tf32, launches", "tf32, graph"]
        assert set(row["ratios"]["bf16"]) == set(THEIRS) and set(row["ratios"]["tf32"]) == set(COMPILED)

    def test_no_time(self, monkeypatch):
        result, saved = measured(monkeypatch, left=5)
        assert not saved and len(steps.failures(result)) == len(OURS) + len(THEIRS) + 2


SIDE = """
import sys, time
from benchmarks.step_worker import answer, timed
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
    """Answers come back whatever is printed; refusals and errors in words; one that hangs or dies ends, and says so ever after."""
    (tmp_path / "a_side.py").write_text(SIDE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with Worker("a_side") as worker:
        assert worker.ask(60, prepare="this") == {"memory_bytes": 1.0}
        assert worker.ask(60, prepare="refused") == {"not_measured": "no such step"}
        assert worker.ask(60, prepare="broken") == {"not_measured": "ZeroDivisionError: division by zero", "failed": True}
        said = worker.ask(60, run="this", least=0.05)
        assert said["us"] > 1000 and said["steps"] * said["us"] > 0.8 * 50_000
        assert worker.ask(0.2, prepare="slow") == {"not_measured": "no answer in 0 s", "failed": True}
        assert worker.process.poll() is not None and worker.ask(60, prepare="this")["not_measured"] == "no answer in 0 s"
    with Worker("a_side") as worker:
        assert worker.ask(60, prepare="dies") == {"not_measured": "its process ended with 7", "failed": True}


@pytest.mark.skipif(choose_device().name == "gpu", reason="there is a GPU here")
def test_no_gpu():
    with pytest.raises(UserError, match="--device gpu was asked for"):
        choose_device("gpu")
    with Worker("benchmarks.steps_ours", "dcgan 32x32x1") as worker:
        assert worker.ask(60, prepare=OURS[0]) == {"not_measured": "its process ended with 1", "failed": True}


def test_our_side(monkeypatch):
    """A plan is made once for all the ways to start it, without what its name says; 20 steps in a graph are 20 steps."""
    planned, captured, ran = [], [], []

    def plan(precision, device, without):
        planned.append((precision, without))
        graph = Names(launch=lambda stream: ran.append("graph"))
        launches = [Names(load=lambda: None)] * 3
        capture = lambda steps: captured.append(steps) or graph  # noqa: E731
        return Names(plan=Names(launches=launches, bytes=5, capture=capture), run=lambda: ran.append("launches"))

    stream = SimpleStream()
    pool, cuda = Names(used_bytes=lambda: 7 * len(planned)), Names(Stream=lambda non_blocking: stream)
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
    """benchmarks/results/plans.json, by python -m benchmarks.steps --plans."""
    stored = json.loads((facts.RESULTS / "plans.json").read_text())["plans"]
    assert stored == json.loads(json.dumps(steps_dry.plans(list(CASES))["plans"]))


def test_compiled_as_it_is_launched():
    """For the alignment of its arrays: the fifth of the launches of a toy, for sm_90."""
    case = CASES["dcgan 32x32x1"].toy
    found = steps_dry.distinct(case.plan("bf16", images=1))
    assert 10 < len(found) <= len(case.plan("bf16", images=1).plan.launches)
    names = [name for name, _ in steps_dry.compile_part(case, "bf16", 90, 0, 8)]
    assert names == [one.name for one in found[::8]]


class TestProfile:
    @pytest.mark.parametrize("name", ["dcgan 64x64x3", "dcgan 28x28x1", "wgan_gp 64x64x3", "cgan 32x32x1"])
    def test_flops_are_those_of_the_layers(self, name):
        """What the launches say of themselves is what benchmarks/roofline.py counts, but for the penalty's head."""
        case = CASES[name]
        launches = case.plan("bf16", images=case.reals * case.batch).plan.launches
        kernels = roofline.of_recipe(case.system, case.size, case.channels, case.width, case.batch)
        want = sum(kernel.flops for kernel in kernels)
        assert sum(map(step_profile.flops, launches)) == pytest.approx(want, rel=1e-4 if case.system.penalty else 0)
        assert 1 < sum(map(step_profile.moved, launches)) / sum(kernel.bytes(2) for kernel in kernels) < 1.3  # slices, labels

    def test_summed_by_kernel(self, monkeypatch):
        """Each launch is cold, in the order of the step; shares add up to 1; floors by hand."""
        clock = FakeClock(30.0, 10.0)
        monkeypatch.setattr(step_profile.Launch, "__call__", lambda self: clock.work())
        x = np.zeros(1000, np.float32)

        def launch(name, **constants):
            one = step_profile.Launch(lambda: None, (1,), (x, x), constants)
            one.kernel.__name__ = name
            return one

        launches = [launch("matmul_kernel", M=10, N=100, K=2000), launch("act_kernel")] * 2
        ceilings = {"copy": {"per_second": 1e9}, "bfloat16": {"per_second": 1e12}, "tf32": {}}
        found = step_profile.profile(launches, "bf16", ceilings, clock, rounds=3)
        assert found["us"] == 80
        assert found["kernels"] == [
            {"kernel": "matmul_kernel", "launches": 2, "us": 60.0, "floor_us": 8.0, "share": 0.75, "of_floor": 0.1333},
            {"kernel": "act_kernel", "launches": 2, "us": 20.0, "floor_us": 8.0, "share": 0.25, "of_floor": 0.4},
        ]
        assert clock.said.count("flush") == 5 * 4 and clock.said[-4:] == ["flush", "event", "run", "event"]
        unknown = step_profile.profile(launches, "tf32", ceilings, clock, rounds=1)
        assert unknown["kernels"][0]["floor_us"] is None
        assert "not measured" in step_profile.table({"dcgan 64x64x3": {"tf32": unknown}})


def test_the_cost_of_a_node(monkeypatch):
    """That of a graph of 500 launches, divided by 500."""
    clock, captured = FakeClock(400.0), []
    clock.xp = Names(zeros=np.zeros, cuda=Names(Stream=lambda non_blocking: nullcontext()))

    def capture(plan):
        captured.append(dict(plan.counts()))
        return Names(launch=lambda stream: clock.work())

    monkeypatch.setattr(ceilings.Plan, "capture", capture)
    found = ceilings.node(clock)
    assert captured == [{"act_kernel": 500}] and found["median_us"] == 0.8 and not found["host_bound"]


class TestReport:
    def made_up(self):
        """A result of a GPU that does not exist."""
        cell = {"us": 1000.0, "min": 990.0, "max": 1100.0, "rounds": 4, "memory_bytes": 2**30}
        ratio = {"median": 2.5, "min": 2.4, "max": 2.75}
        row = {"ours": {f"bf16, {BEST}": cell}, "torch": {"eager": cell | {"kernels": 300}}, "ratios": {"bf16": {"eager": ratio}}}
        row["without"] = {"joint pass": {"launches": 81, **ratio}}
        row["torch"]["AMP"] = {"not_measured": "RuntimeError: out of memory", "failed": True}
        limits = {"copy": {"per_second": 3e12}, "bfloat16": {"per_second": 8e14}, "tf32": {"per_second": 4e14}}
        return {
            "device": {"name": "No Such GPU", "driver": "1"}, "versions": {"torch": "0"}, "commit": "c", "date": "2000-01-01",
            "ceilings": limits, "steps": {"dcgan 64x64x3": row},
        }  # fmt: skip

    def test_tables(self):
        result, plans = self.made_up(), json.loads((facts.RESULTS / "plans.json").read_text())
        rows = [line for line in step_report.ours(result, plans).splitlines() if line.startswith("| dcgan 64x64x3")]
        floor = step_report.floor_us("dcgan 64x64x3", "bf16", result)
        assert floor == pytest.approx(633, rel=0.01)
        nothing, measured = "not measured", f"| 1000 | 128000 | {floor / 10:.0f} % |"
        assert f"| bf16 | 61 | 159.4 | {nothing} | {nothing} {measured} 1073.7 |" in rows[2]
        assert f"| tf32 | 61 | 318.8 | {nothing} | {nothing} | {nothing} | {nothing} | {nothing} | {nothing} |" in rows[1]
        said = step_report.theirs(result)
        assert "| eager | 1000 | 128000 | 300 | 1073.7 | not measured | not measured | 2.50 (2.40 to 2.75) |" in said
        rows = step_report.without(result, plans)
        assert "| dcgan 64x64x3 | joint pass | 81 instead of 61 | 2.50 times as long (2.40 to 2.75) |" in rows
        assert "| dcgan 64x64x3 | idle gradients | 67 instead of 61 | not measured |" in rows
        assert said.endswith("- RuntimeError: out of memory (dcgan 64x64x3, AMP)\n")

    def test_a_picture_of_what_was_measured_alone(self, tmp_path):
        assert step_report.plot(self.made_up(), tmp_path / "a.png") and (tmp_path / "a.png").stat().st_size > 5000
        assert not step_report.plot(step_report.NONE, tmp_path / "b.png") and not (tmp_path / "b.png").exists()

    @pytest.mark.parametrize("name", make_tables.PAGES)
    def test_pages_are_what_the_files_say(self, name):
        """python -m docs.make_tables"""
        text = (ROOT / "docs" / name).read_text()
        assert make_tables.filled(text) == text and "<!-- end of table -->" in text

    def test_a_page_of_a_device(self, tmp_path):
        """The page follows the files: with a result its numbers are there, and the picture is named."""
        (tmp_path / "plans.json").write_text((facts.RESULTS / "plans.json").read_text())
        kernels = [
            {"kernel": name, "launches": 2, "us": us, "share": us / 100, "of_floor": 0.5} for name, us in (("a", 98.0), ("b", 2.0))
        ]
        profile = {"dcgan 64x64x3": {"bf16": {"kernels": kernels}, "tf32": {"kernels": kernels}}}
        facts.write(self.made_up() | {"profile": profile}, tmp_path / "steps_no_such_gpu.json")
        text = make_tables.filled((ROOT / "docs/steps.md").read_text(), tmp_path)
        assert [line for line in text.splitlines() if ", bf16 |" in line] == [
            "| dcgan 64x64x3, bf16 | a | 2 | 98.0 | 98 % | 50 % |"
        ]
        assert "## No Such GPU" in text and "2.50 (2.40 to 2.75)" in text and "samples/steps_no_such_gpu.png" in text


class TestFiles:
    OWN = {"device": {"name": "A GPU, 80GB"}, "versions": {"torch": "1"}, "commit": "c", "date": "2000-01-02"}  # noqa: RUF012

    def test_a_result_is_added_to(self, tmp_path):
        result, path = facts.begun("steps", self.OWN, tmp_path)
        assert path.name == "steps_a_gpu_80gb.json"
        facts.write(result | {"ceilings": {"copy": 1}}, path)
        again, _ = facts.begun("steps", self.OWN | {"date": "2000-01-03"}, tmp_path)
        assert again == self.OWN | {"ceilings": {"copy": 1}, "date": "2000-01-03"}

    def test_the_commit(self, monkeypatch):
        """Where there is no git, the sources are told apart by what is in them."""
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|no git, sources [0-9a-f]{16}", facts.checkout())
        monkeypatch.setattr(facts, "output", lambda *_: None)
        first = facts.checkout()
        monkeypatch.setattr(Path, "read_bytes", lambda self: b"else")
        assert first.startswith("no git, sources ") and facts.checkout() not in (first, None)

    def test_figures_of_two_commits_are_not_mixed(self, tmp_path):
        facts.write(self.OWN, facts.begun("steps", self.OWN, tmp_path)[1])
        with pytest.raises(UserError, match="holds figures of another commit"):
            facts.begun("steps", self.OWN | {"commit": "d"}, tmp_path)
