"""Tables, figures and files of benchmarks/steps: made of results that are made up."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.common import facts
from benchmarks.steps import report as step_report
from benchmarks.steps.forms import BEST
from docs import make_tables
from rawgan.errors import UserError

ROOT = Path(__file__).parents[2]


class TestReport:
    def made_up(self):
        """Return a result of a fictitious GPU."""
        cell = {"us": 1000.0, "min": 990.0, "max": 1100.0, "rounds": 4, "memory_bytes": 2**30}
        ratio = {"median": 2.5, "min": 2.4, "max": 2.75}
        row = {
            "ours": {f"bf16, {BEST}": cell},
            "torch": {"eager": cell | {"kernels": 300}},
            "ratios": {"bf16": {"eager": ratio}},
        }
        row["without"] = {"joint pass": {"launches": 79, **ratio}}
        row["torch"]["AMP"] = {"not_measured": "RuntimeError: out of memory", "failed": True}
        limits = {
            "copy": {"per_second": 3e12},
            "bfloat16": {"per_second": 8e14},
            "tf32": {"per_second": 4e14},
        }
        return {
            "device": {"name": "No Such GPU", "driver": "1"}, "versions": {"torch": "0"},
            "commit": "c", "date": "2000-01-01",
            "ceilings": limits, "steps": {"dcgan 64x64x3": row},
        }  # fmt: skip

    def test_tables(self):
        result, plans = self.made_up(), json.loads((facts.RESULTS / "plans.json").read_text())
        rows = [
            line
            for line in step_report.ours(result, plans).splitlines()
            if line.startswith("| dcgan 64x64x3")
        ]
        floor = step_report.floor_us("dcgan 64x64x3", "bf16", result)
        assert floor == pytest.approx(633, rel=0.01)
        nothing, measured = "not measured", f"| 1000 | 128000 | {floor / 10:.0f} % |"
        assert f"| bf16 | 60 | 159.7 | {nothing} | {nothing} {measured} 1073.7 |" in rows[3]
        assert (
            f"| tf32 | 60 | 319.1 | {nothing} | {nothing} | {nothing} | {nothing} | {nothing} | "
            f"{nothing} |" in rows[2]
        )
        table = step_report.theirs(result)
        assert (
            "| eager | 1000 | 128000 | 300 | 1073.7 | not measured | not measured | not measured | "
            "2.50 (2.40 to 2.75) |" in table
        )
        rows = step_report.without(result, plans)
        assert (
            "| dcgan 64x64x3 | joint pass | 79 instead of 60 | 2.50 times as long (2.40 to 2.75) |"
            in rows
        )
        assert "| dcgan 64x64x3 | unused gradients | 65 instead of 60 | not measured |" in rows
        assert table.endswith("- RuntimeError: out of memory (dcgan 64x64x3, AMP)\n")

    def test_a_picture_of_what_was_measured_alone(self, tmp_path):
        assert (
            step_report.plot(self.made_up(), tmp_path / "a.png")
            and (tmp_path / "a.png").stat().st_size > 5000
        )
        assert (
            not step_report.plot(step_report.NONE, tmp_path / "b.png")
            and not (tmp_path / "b.png").exists()
        )

    def test_launches_of_a_measured_step_are_its_own(self):
        """A measured step keeps the launches it was measured with, whatever a later plan has."""
        result, plans = self.made_up(), json.loads((facts.RESULTS / "plans.json").read_text())
        row = result["steps"]["dcgan 64x64x3"]
        row["ours"][f"bf16, {BEST}"] |= {"kernels": 7, "arena_bytes": 5_000_000}
        row["without"]["joint pass"]["launches"] = 9
        assert "| dcgan 64x64x3, batch 128 | bf16 | 7 | 5.0 |" in step_report.ours(result, plans)
        assert "| dcgan 64x64x3 | joint pass | 9 instead of 7 | 2.50 times" in step_report.without(
            result, plans
        )

    def test_former_names_of_fusions(self):
        """A result that names a fusion as it was called when it was measured is still reported."""
        result, plans = self.made_up(), json.loads((facts.RESULTS / "plans.json").read_text())
        ratios = result["steps"]["dcgan 64x64x3"]["without"]
        ratios["idle gradients"] = {"launches": 67, "median": 1.1, "min": 1.1, "max": 1.2}
        rows = step_report.without(result, plans)
        assert (
            "| dcgan 64x64x3 | unused gradients | 67 instead of 60 |"
            " 1.10 times as long (1.10 to 1.20) |" in rows
        )

    def test_kernels_that_were_wrong_are_named(self):
        counts = {"of": 3, "right": 2, "wrong": {"conv2d N=4": "ArithmeticError: output 2"}}
        text = step_report.correctness({"correctness": counts})
        assert (
            "2 of 3 kernels at the shapes of their tests:\n\n- conv2d N=4: "
            "ArithmeticError: output 2" in text
        )
        counts = {"steps": {"of": 6, "right": 6, "wrong": {}}, "benchmarks": counts}
        text = step_report.correctness({"correctness": counts})
        assert "6 of 6 planned steps, 2 of 3 kernels at benchmark shapes:\n\n- conv2d" in text
        assert step_report.correctness({}) == "Kernels against float64: not measured."

    def test_the_figures_of_the_readme(self):
        """The README's table equals the committed result to the last digit."""
        result = json.loads((facts.RESULTS / "steps_nvidia_h200_8fe1806.json").read_text())
        text = (ROOT / "README.md").read_text()
        for name in ("dcgan 64x64x3", "wgan_gp 64x64x3", "raschka_mlp_gan 28x28x1"):
            row = result["steps"][name]
            us, torch = row["ours"][f"bf16, {BEST}"]["us"], row["torch"]["captured"]["us"]
            assert (
                f"| {us:.0f} | {torch:.0f} | {row['ratios']['bf16']['captured']['median']:.1f} |"
                in text
            )
        assert (
            f"{result['correctness']['right']} of {result['correctness']['of']} kernel cases"
            in text
        )
        assert f"{result['device']['name']} at commit {result['commit']}" in text

    @pytest.mark.parametrize("name", make_tables.PAGES)
    def test_pages_are_what_the_files_say(self, name):
        """The pages equal the output of python -m docs.make_tables."""
        text = (ROOT / "docs" / name).read_text()
        assert make_tables.filled(text) == text and "<!-- end of table -->" in text

    def test_a_page_of_a_device(self, tmp_path):
        """A device's page follows the result files: it shows the numbers and links the picture."""
        (tmp_path / "plans.json").write_text((facts.RESULTS / "plans.json").read_text())
        kernels = [
            {"kernel": name, "launches": 2, "us": us, "share": us / 100, "of_floor": 0.5}
            for name, us in (("a", 98.0), ("b", 2.0))
        ]
        profile = {"dcgan 64x64x3": {"bf16": {"kernels": kernels}, "tf32": {"kernels": kernels}}}
        facts.write(self.made_up() | {"profile": profile}, tmp_path / "steps_no_such_gpu.json")
        text = make_tables.filled((ROOT / "docs/steps.md").read_text(), tmp_path)
        assert [line for line in text.splitlines() if ", bf16 |" in line] == [
            "| dcgan 64x64x3, bf16 | a | 2 | 98.0 | 98 % | 50 % |"
        ]
        assert (
            "## No Such GPU, commit c" in text
            and "2.50 (2.40 to 2.75)" in text
            and "samples/steps_no_such_gpu_c.png" in text
        )


class TestFiles:
    OWN = {  # noqa: RUF012
        "device": {"name": "A GPU, 80GB"},
        "versions": {"torch": "1"},
        "commit": "c",
        "date": "2000-01-02",
    }

    def test_a_result_is_added_to(self, tmp_path):
        result, path = facts.begun("steps", self.OWN, tmp_path)
        assert path.name == "steps_a_gpu_80gb.json"
        facts.write(result | {"ceilings": {"copy": 1}}, path)
        again, _ = facts.begun("steps", self.OWN | {"date": "2000-01-03"}, tmp_path)
        assert again == self.OWN | {"ceilings": {"copy": 1}, "date": "2000-01-03"}

    def test_the_commit(self, monkeypatch):
        """Without git, sources are identified by a digest of their contents."""
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|no git, sources [0-9a-f]{16}", facts.checkout())
        monkeypatch.setattr(facts, "output", lambda *_: None)
        first = facts.checkout()
        monkeypatch.setattr(Path, "read_bytes", lambda self: b"else")
        assert first.startswith("no git, sources ") and facts.checkout() not in (first, None)

    def test_figures_of_two_commits_are_not_mixed(self, tmp_path):
        facts.write(self.OWN, facts.begun("steps", self.OWN, tmp_path)[1])
        with pytest.raises(UserError, match="holds figures of another commit"):
            facts.begun("steps", self.OWN | {"commit": "d"}, tmp_path)
