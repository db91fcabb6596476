"""Writes the tables of measurements into docs/precision.md and docs/steps.md: python -m docs.make_tables

Each stands between two lines, `<!-- table: NAME -->` and `<!-- end of table -->`, and is made of the files in benchmarks/results/.
What no file holds is "not measured". The picture docs/samples/steps_<device>.png is drawn where a device was measured.
"""

import json
import re
import sys
from pathlib import Path

from benchmarks import precision, step_profile, step_report
from benchmarks.facts import RESULTS, load, slug

DOCS = Path(__file__).parent
PAGES = ("precision.md", "steps.md")


def precision_tables(folder: Path) -> str:
    """The interpreter's table, and each GPU's, or an empty one."""
    results, parts = load("precision", folder), []
    for result in sorted(results, key=lambda result: result["device"]["name"] != "interpreter"):
        if result["device"]["name"] == "interpreter":
            parts.append(f"**Emulated, no GPU**: {result['device']['emulated']}; commit {result['commit']}, {result['date']}.")
        else:
            parts.append(f"**On a GPU**: {step_report.heading(result)}")
        parts.append(precision.table(result))
    if all(result["device"]["name"] == "interpreter" for result in results):
        parts += ["**On a GPU**: not measured.", precision.nothing()]
    return "\n\n".join(part.strip() for part in parts)


def steps_tables(folder: Path) -> str:
    """For each device its steps, PyTorch's beside them, and the profile; an empty set without one."""
    plans, parts = json.loads((folder / "plans.json").read_text()), []
    for result in load("steps", folder) or [step_report.NONE]:
        name, result = result["device"]["name"], {"steps": {}} | result
        parts += [f"## {name or 'Before the first GPU'}", step_report.heading(result), step_report.ceilings(result)]
        parts += ["### Ours", step_report.ours(result, plans), "### PyTorch's", step_report.theirs(result)]
        parts += ["### What each saving is worth", step_report.without(result, plans)]
        drawn = bool(name) and any(row["ratios"] for row in result["steps"].values())
        parts.append(
            f"![PyTorch's times divided by ours](samples/steps_{slug(name)}.png)" if drawn else "No picture: no ratio was measured."
        )
        if found := {name: {"bf16": said["bf16"]} for name, said in result.get("profile", {}).items() if "bf16" in said}:
            words = "Kernels with 3 % of a step in bf16 or more, each launch timed by itself with an empty cache; the file has all."
            parts += ["### What is left", words, step_profile.table(found, 0.03)]
        else:
            parts += ["### What is left", "The profile of the steps, kernel by kernel: not measured."]
    return "\n\n".join(part.strip() for part in parts)


TABLES = {"precision": precision_tables, "steps": steps_tables}


def filled(text: str, folder: Path = RESULTS) -> str:
    """The text of a page with its tables made anew."""

    def table(match) -> str:
        return f"{match[1]}\n\n{TABLES[match[2]](folder)}\n\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end of table -->)", table, text, flags=re.DOTALL)


def main() -> int:
    for name in PAGES:
        page = DOCS / name
        page.write_text(filled(page.read_text()))
        print(page)
    for result in load("steps"):
        path = DOCS / "samples" / f"steps_{slug(result['device']['name'])}.png"
        if step_report.plot({"steps": {}} | result, path):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
