"""Markdown tables and a plot of the results of benchmarks/steps/__main__.py.

A value that no file contains is shown as "not measured".
"""

from pathlib import Path

from benchmarks.common.facts import NOT
from benchmarks.kernels import roofline
from benchmarks.steps.cases import CASES
from benchmarks.steps.forms import BEST, STEPS_PER_GRAPH, THEIRS
from benchmarks.steps.profile import NAMES
from rawgan.precision import PRECISIONS

NONE = {"device": {"name": None}, "commit": None, "steps": {}}  # result when no GPU was measured


def heading(result: dict) -> str:
    """Return device, versions, commit and date of a result."""
    if result["device"]["name"] is None:
        return "There is no result of a GPU."
    versions = ", ".join(
        f"{name} {version}" for name, version in result["versions"].items() if version
    )
    return (
        f"{result['device']['name']}, driver {result['device'].get('driver') or NOT}; {versions}; "
        f"commit {result['commit'] or 'unknown'}, {result['date']}."
    )


def floor_us(name: str, precision: str, result: dict) -> float | None:
    """Return the least microseconds of a step at the limits of the same result."""
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
    """Return a row per case and precision: times of the three forms, rate, floor, launches, arena.

    Launches and arena are the measured ones, or those of the current plan if there are none.
    """
    head = [
        "launches",
        "arena MB",
        "one by one, us",
        *(f"{form}, us" for form in STEPS_PER_GRAPH if STEPS_PER_GRAPH[form]),
        "img/s",
        "of the floor",
        "all MB",
    ]
    lines = ["| step | precision | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for name in CASES:
        row = result["steps"].get(name, {"ours": {}})
        for precision in PRECISIONS:
            plan = plans["plans"].get(name, {}).get(precision, {})
            if "not_measured" in plan:
                lines.append(
                    f"| {name} | {precision} | "
                    + " | ".join([plan["not_measured"], *[""] * (len(head) - 1)])
                    + " |"
                )
                continue
            forms = {form: row["ours"].get(f"{precision}, {form}", {}) for form in STEPS_PER_GRAPH}
            us, floor = forms[BEST].get("us"), floor_us(name, precision, result)
            best = {
                "kernels": plan.get("launches"),
                "arena_bytes": plan.get("arena_bytes"),
            } | forms[BEST]
            cells = [cell(best["kernels"], "{}"), megabytes(best["arena_bytes"])]
            cells += [cell(forms[form].get("us"), "{:.0f}") for form in STEPS_PER_GRAPH]
            cells += [cell(us and 1e6 * CASES[name].batch * CASES[name].reals / us, "{:.0f}")]
            cells += [
                cell(us and floor and 100 * floor / us, "{:.0f} %"),
                megabytes(forms[BEST].get("memory_bytes")),
            ]
            lines.append(
                f"| {name}, batch {CASES[name].batch} | {precision} | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines) + "\n"


def theirs(result: dict) -> str:
    """Return a row per case and PyTorch form: time, kernels, memory, and ratio to our times."""
    head = [
        "time, us",
        "img/s",
        "kernels",
        "peak MB",
        *(f"ours in {precision}" for precision in PRECISIONS),
    ]
    lines = ["| step | PyTorch | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for name in CASES:
        row = result["steps"].get(name, {"torch": {}, "ratios": {}})
        for form in THEIRS:
            measured = row["torch"].get(form, {})
            us, kernels = measured.get("us"), measured.get("kernels")
            cells = [
                cell(us, "{:.0f}"),
                cell(us and 1e6 * CASES[name].batch * CASES[name].reals / us, "{:.0f}"),
            ]
            cells += [
                cell(kernels if isinstance(kernels, int) else None, "{}"),
                megabytes(measured.get("memory_bytes")),
            ]
            for precision in PRECISIONS:
                ratio = row["ratios"].get(precision, {}).get(form)
                cells.append(
                    cell(
                        ratio
                        and f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
                        "{}",
                    )
                )
            lines.append(f"| {name} | {form} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *reasons(result)]) + "\n"


# Names of fusions in results that were measured before these were renamed
FORMER_FUSIONS = {"unused gradients": "idle gradients", "shared forward pass": "reused forward"}


def without(result: dict, plans: dict) -> str:
    """Return the effect of disabling each fusion: launches and relative time of the step."""
    lines = ["| step in bf16 | without | launches | takes |", "|---|---|---|---|"]
    for name in CASES:
        for saving, planned in plans["plans"].get(name, {}).get("without", {}).items():
            row = result["steps"].get(name, {"ours": {}})
            ratios = row.get("without", {})
            ratio = ratios.get(saving, ratios.get(FORMER_FUSIONS.get(saving), {}))
            launches, whole, took = planned, plans["plans"][name]["bf16"]["launches"], NOT
            if "median" in ratio:
                launches = ratio["launches"]
                whole = row["ours"].get(f"bf16, {BEST}", {}).get("kernels", whole)
                took = f"{ratio['median']:.2f} times as long"
                took += f" ({ratio['min']:.2f} to {ratio['max']:.2f})"
            lines.append(f"| {name} | {saving} | {launches} instead of {whole} | {took} |")
    return "\n".join(lines) + "\n"


def reasons(result: dict) -> list[str]:
    """Return the reasons for failed measurements, each once."""
    cells_of: dict[str, list[str]] = {}
    for name, row in result["steps"].items():
        for side in ("ours", "torch"):
            for form, measured in row[side].items():
                if "not_measured" in measured:
                    cells_of.setdefault(measured["not_measured"], []).append(f"{name}, {form}")
    return (
        ["", *(f"- {why} ({'; '.join(forms)})" for why, forms in cells_of.items())]
        if cells_of
        else []
    )


CHECKED = {
    "steps": "planned steps",
    "benchmarks": "kernels at benchmark shapes",
    "tests": "kernels at the shapes of their tests",
}


def correctness(result: dict) -> str:
    """Return a sentence with the counts of passed checks against float64, and the failures."""
    kinds = result.get("correctness")
    if not kinds:
        return f"Kernels against float64: {NOT}."
    # results up to commit 8fe1806 have a single kind
    kinds = {"tests": kinds} if "of" in kinds else kinds
    counts = ", ".join(
        f"{kinds[kind]['right']} of {kinds[kind]['of']} {words}"
        for kind, words in CHECKED.items()
        if kind in kinds
    )
    wrong = "".join(
        f"\n- {case}: {reason}"
        for checks in kinds.values()
        for case, reason in checks["wrong"].items()
    )
    return f"Right against float64: {counts}{':' if wrong else '.'}\n{wrong}"


def ceilings(result: dict) -> str:
    """Return the limits that floors are computed from, as a sentence."""
    units = {"copy": (1e-12, "TB/s"), "bfloat16": (1e-12, "TFLOP/s"), "tf32": (1e-12, "TFLOP/s")}
    limits = result.get("ceilings", {})
    rates = [
        f"{name} {limits[name]['per_second'] * scale:.3g} {unit}"
        if "per_second" in limits.get(name, {})
        else f"{name} {NOT}"
        for name, (scale, unit) in units.items()
    ]
    node = limits.get("node", {}).get("median_us")
    return f"Limits: {', '.join(rates)}, a node of a graph {f'{node:.2f} us' if node else NOT}."


def plot(result: dict, path: Path) -> bool:
    """Plot a bar for each measured ratio, by case.

    Returns False, and writes no file, if nothing was measured.
    """
    bars = {
        name: {
            (p, form): ratio for p, forms in row["ratios"].items() for form, ratio in forms.items()
        }
        for name, row in result["steps"].items()
    }
    bars = {name: ratios for name, ratios in bars.items() if ratios}
    if not bars:
        return False
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(bars),
        1,
        figsize=(8, 0.6 + 2.6 * len(bars)),
        squeeze=False,
        layout="constrained",
        sharex=True,
    )
    colours = dict(zip(PRECISIONS, ("tab:red", "tab:green", "tab:orange", "tab:blue")))
    timed = {precision for ratios in bars.values() for precision, _ in ratios}
    precisions = [precision for precision in PRECISIONS if precision in timed]
    for axes, (name, ratios) in zip(panels[:, 0], bars.items()):
        shown = [form for form in THEIRS if any(form == theirs for _, theirs in ratios)]
        height = 0.8 / len(precisions)
        for i, precision in enumerate(precisions):
            for place, form in enumerate(shown):
                if (ratio := ratios.get((precision, form))) is None:
                    continue
                y, errors = (
                    place + (i - (len(precisions) - 1) / 2) * height,
                    [[ratio["median"] - ratio["min"]], [ratio["max"] - ratio["median"]]],
                )
                axes.barh(
                    y,
                    ratio["median"],
                    0.9 * height,
                    color=colours[precision],
                    xerr=errors,
                    error_kw={"linewidth": 0.8},
                )
                axes.annotate(f" {ratio['median']:.2f}", (ratio["max"], y), va="center", fontsize=7)
        axes.set_yticks(range(len(shown)), shown, fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set_title(f"{name}, batch {CASES[name].batch}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[precision]) for precision in precisions]
    panels[0, 0].legend(
        handles,
        [f"ours in {precision}" for precision in precisions],
        fontsize=8,
        loc="best",
        frameon=False,
    )
    panels[-1, 0].set_xlabel("PyTorch's time divided by ours; right of 1 ours is faster")
    figure.suptitle(f"A training step on {result['device']['name']}, {result['date']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
