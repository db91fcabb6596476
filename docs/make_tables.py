"""Write the tables of docs/precision.md, docs/results.md and docs/steps.md.

    python -m docs.make_tables

Each table stands between the lines `<!-- table: NAME -->` and `<!-- end of table -->`, and is made
from the files in benchmarks/results/. A value that no file contains is "not measured". Each
steps_*.json has a section, and a plot docs/samples/steps_<device>_<commit>.png.
"""

import json
import re
import sys
from pathlib import Path

from benchmarks.common.facts import RESULTS, load, slug
from benchmarks.steps import precision
from benchmarks.steps import profile as step_profile
from benchmarks.steps import report as step_report

DOCS = Path(__file__).parent
PAGES = ("precision.md", "results.md", "steps.md")


def precision_tables(folder: Path) -> str:
    """Return the interpreter's table and that of each GPU, or an empty table for a GPU."""
    results, parts = load("precision", folder), []
    for result in sorted(results, key=lambda result: result["device"]["name"] != "interpreter"):
        if result["device"]["name"] == "interpreter":
            parts.append(
                f"**Emulated, no GPU**: {result['device']['emulated']}; "
                f"commit {result['commit']}, {result['date']}."
            )
        else:
            parts.append(f"**On a GPU**: {step_report.heading(result)}")
        parts.append(precision.table(result))
    if all(result["device"]["name"] == "interpreter" for result in results):
        parts += ["**On a GPU**: not measured.", precision.nothing()]
    return "\n\n".join(part.strip() for part in parts)


def steps_tables(folder: Path) -> str:
    """Return, for each device and commit, our steps, PyTorch's, and the profile.

    Without results the tables are empty.
    """
    plans, parts = json.loads((folder / "plans.json").read_text()), []
    for loaded in load("steps", folder) or [step_report.NONE]:
        name, result = loaded["device"]["name"], {"steps": {}} | loaded
        title = f"{name}, commit {short(result['commit'])}" if name else "No GPU"
        parts += [
            f"## {title}",
            step_report.heading(result),
            step_report.correctness(result),
            step_report.ceilings(result),
        ]
        parts += [
            "### Ours",
            step_report.ours(result, plans),
            "### PyTorch's",
            step_report.theirs(result),
        ]
        parts += ["### What each saving is worth", step_report.without(result, plans)]
        drawn = bool(name) and any(row["ratios"] for row in result["steps"].values())
        parts.append(
            f"![PyTorch's times divided by ours](samples/{picture(result)})"
            if drawn
            else "No picture: no ratio was measured."
        )
        if profiles := {
            name: {"bf16": cells["bf16"]}
            for name, cells in result.get("profile", {}).items()
            if "bf16" in cells
        }:
            words = (
                "Kernels with 3 % of a step in bf16 or more, each launch timed by itself "
                "with an empty cache; the file has all."
            )
            parts += ["### What is left", words, step_profile.table(profiles, 0.03)]
        else:
            parts += [
                "### What is left",
                "The profile of the steps, kernel by kernel: not measured.",
            ]
    return "\n\n".join(part.strip() for part in parts)


def short(commit: str | None) -> str:
    """Return the first seven digits of a commit, or of the sources' digest if there was no git."""
    return commit.split()[-1][:7] if commit else "unknown"


def picture(result: dict) -> str:
    """Return the file name of the plot of a result."""
    return f"steps_{slug(result['device']['name'])}_{short(result['commit'])}.png"


def cpu_table(folder: Path) -> str:
    """Return the table of training steps on a CPU, rawgan's and PyTorch's."""
    result = json.loads((folder / "cpu_step.json").read_text())
    device, versions = result["device"], result["versions"]
    where = (
        f"{device['name']}, {device['threads']} threads each; "
        f"NumPy {versions['numpy']} with {result['cases'][0]['blas']}"
    )
    lines = [
        f"{where}, PyTorch {versions['torch']}; "
        f"commit {result['commit']}, {result['date']}. Medians of {result['rounds']} rounds.",
        "",
        "| step | rawgan | PyTorch | ratio | min to max | wanted |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["cases"]:
        times = f"{row['rawgan_ms']:.3g} ms | {row['torch_ms']:.3g} ms | {row['ratio']:.2f}"
        wanted = "" if row["target"] is None else f"at most {row['target']}"
        lines.append(
            f"| {row['case']} | {times} "
            f"| {row['ratio_min']:.2f} to {row['ratio_max']:.2f} | {wanted} |"
        )
    return "\n".join(lines)


TABLES = {"precision": precision_tables, "cpu": cpu_table, "steps": steps_tables}


def filled(text: str, folder: Path = RESULTS) -> str:
    """Return the text of a page with its tables replaced by current ones."""

    def table(match) -> str:
        return f"{match[1]}\n\n{TABLES[match[2]](folder)}\n\n{match[3]}"

    return re.sub(
        r"(<!-- table: (\w+) -->)\n.*?(<!-- end of table -->)", table, text, flags=re.DOTALL
    )


def main() -> int:
    for name in PAGES:
        page = DOCS / name
        page.write_text(filled(page.read_text()))
        print(page)
    for result in load("steps"):
        path = DOCS / "samples" / picture(result)
        if step_report.plot({"steps": {}} | result, path):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
