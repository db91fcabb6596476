"""What benchmarks/steps.py measured, as Markdown tables and a plot. A cell that no file holds says so."""

from pathlib import Path

from benchmarks import roofline
from benchmarks.facts import NOT
from benchmarks.step_cases import CASES
from benchmarks.step_profile import NAMES
from benchmarks.steps_forms import BEST, HOW, THEIRS
from rawgan.planned import PRECISIONS

NONE = {"device": {"name": None}, "steps": {}}  # before there was a GPU


def heading(result: dict) -> str:
    """What the figures of a result belong to."""
    if result["device"]["name"] is None:
        return "No GPU has run a step yet."
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    return (
        f"{result['device']['name']}, driver {result['device'].get('driver') or NOT}; {versions}; "
        f"commit {result['commit'] or 'unknown'}, {result['date']}."
    )


def floor_us(name: str, precision: str, result: dict) -> float | None:
    """The least that a step takes at the limits of the same result."""
    case, ceilings = CASES[name], result.get("ceilings", {})
    if not all(ceilings.get(limit, {}).get("per_second") for limit in ("copy", "bfloat16", "tf32")):
        return None
    kernels = roofline.of_recipe(case.system, case.size, case.channels, case.width, case.batch)
    return roofline.floor_us(kernels, NAMES[precision], ceilings)


def cell(value, words: str) -> str:
    return NOT if value is None else words.format(value)


def megabytes(value) -> str:
    return NOT if value is None else f"{1e-6 * value:.1f}"


def ours(result: dict, plans: dict) -> str:
    """A row for each case and precision: times of the three ways to start it, images a second, floor, what it takes."""
    head = ["launches", "arena MB", "one by one, us", *(f"{how}, us" for how in HOW if HOW[how]), "img/s", "of the floor", "all MB"]
    lines = ["| step | precision | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for name in CASES:
        row = result["steps"].get(name, {"ours": {}})
        for precision in PRECISIONS:
            plan = plans["plans"].get(name, {}).get(precision, {})
            if "not_measured" in plan:
                lines.append(f"| {name} | {precision} | " + " | ".join([plan["not_measured"], *[""] * (len(head) - 1)]) + " |")
                continue
            forms = {how: row["ours"].get(f"{precision}, {how}", {}) for how in HOW}
            us, floor = forms[BEST].get("us"), floor_us(name, precision, result)
            cells = [cell(plan.get("launches"), "{}"), megabytes(plan.get("arena_bytes"))]
            cells += [cell(forms[how].get("us"), "{:.0f}") for how in HOW]
            cells += [cell(us and 1e6 * CASES[name].batch * CASES[name].reals / us, "{:.0f}")]
            cells += [cell(us and floor and 100 * floor / us, "{:.0f} %"), megabytes(forms[BEST].get("memory_bytes"))]
            lines.append(f"| {name}, batch {CASES[name].batch} | {precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def theirs(result: dict) -> str:
    """A row for each case and form of PyTorch: time, kernels, memory, and how many times as long it takes as each of ours."""
    head = ["time, us", "img/s", "kernels", "peak MB", *(f"ours in {precision}" for precision in PRECISIONS)]
    lines = ["| step | PyTorch | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for name in CASES:
        row = result["steps"].get(name, {"torch": {}, "ratios": {}})
        for form in THEIRS:
            found = row["torch"].get(form, {})
            us, kernels = found.get("us"), found.get("kernels")
            cells = [cell(us, "{:.0f}"), cell(us and 1e6 * CASES[name].batch * CASES[name].reals / us, "{:.0f}")]
            cells += [cell(kernels if isinstance(kernels, int) else None, "{}"), megabytes(found.get("memory_bytes"))]
            for precision in PRECISIONS:
                ratio = row["ratios"].get(precision, {}).get(form)
                cells.append(cell(ratio and f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})", "{}"))
            lines.append(f"| {name} | {form} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *reasons(result)]) + "\n"


def without(result: dict, plans: dict) -> str:
    """What each saving is worth: how much a step launches without it, and how many times as long it takes then."""
    lines = ["| step in bf16 | without | launches | takes |", "|---|---|---|---|"]
    for name in CASES:
        for saving, launches in plans["plans"].get(name, {}).get("without", {}).items():
            ratio = result["steps"].get(name, {}).get("without", {}).get(saving, {})
            took = f"{ratio['median']:.2f} times as long ({ratio['min']:.2f} to {ratio['max']:.2f})" if "median" in ratio else NOT
            lines.append(f"| {name} | {saving} | {launches} instead of {plans['plans'][name]['bf16']['launches']} | {took} |")
    return "\n".join(lines) + "\n"


def reasons(result: dict) -> list[str]:
    """Why what was tried was not measured, each reason once."""
    found: dict[str, list[str]] = {}
    for name, row in result["steps"].items():
        for side in ("ours", "torch"):
            for form, measured in row[side].items():
                if "not_measured" in measured:
                    found.setdefault(measured["not_measured"], []).append(f"{name}, {form}")
    return ["", *(f"- {why} ({'; '.join(forms)})" for why, forms in found.items())] if found else []


def ceilings(result: dict) -> str:
    """The limits that floors are computed from, as a sentence."""
    units = {"copy": (1e-12, "TB/s"), "bfloat16": (1e-12, "TFLOP/s"), "tf32": (1e-12, "TFLOP/s")}
    found = result.get("ceilings", {})
    said = [
        f"{name} {found[name]['per_second'] * scale:.3g} {unit}" if "per_second" in found.get(name, {}) else f"{name} {NOT}"
        for name, (scale, unit) in units.items()
    ]
    node = found.get("node", {}).get("median_us")
    return f"Limits: {', '.join(said)}, a node of a graph {f'{node:.2f} us' if node else NOT}."


def plot(result: dict, path: Path) -> bool:
    """A bar for each ratio that was measured, case by case; False, and no picture, where there is none."""
    bars = {
        name: {(p, form): ratio for p, forms in row["ratios"].items() for form, ratio in forms.items()}
        for name, row in result["steps"].items()
    }
    bars = {name: ratios for name, ratios in bars.items() if ratios}
    if not bars:
        return False
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(bars), 1, figsize=(8, 0.6 + 2.6 * len(bars)), squeeze=False, layout="constrained", sharex=True
    )
    colours = dict(zip(PRECISIONS, ("tab:red", "tab:orange", "tab:blue")))
    for axes, (name, ratios) in zip(panels[:, 0], bars.items()):
        shown = [form for form in THEIRS if any(form == theirs for _, theirs in ratios)]
        height = 0.8 / len(PRECISIONS)
        for i, precision in enumerate(PRECISIONS):
            for place, form in enumerate(shown):
                if (ratio := ratios.get((precision, form))) is None:
                    continue
                y, errors = place + (i - 1) * height, [[ratio["median"] - ratio["min"]], [ratio["max"] - ratio["median"]]]
                axes.barh(y, ratio["median"], 0.9 * height, color=colours[precision], xerr=errors, error_kw={"linewidth": 0.8})
                axes.annotate(f" {ratio['median']:.2f}", (ratio["max"], y), va="center", fontsize=7)
        axes.set_yticks(range(len(shown)), shown, fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set_title(f"{name}, batch {CASES[name].batch}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[precision]) for precision in PRECISIONS]
    panels[0, 0].legend(handles, [f"ours in {precision}" for precision in PRECISIONS], fontsize=8, loc="best", frameon=False)
    panels[-1, 0].set_xlabel("PyTorch's time divided by ours; right of 1 ours is faster")
    figure.suptitle(f"A training step on {result['device']['name']}, {result['date']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
