"""Report of benchmarks/kernels/__main__.py: rates, fractions of the floor, table, roofline plot.

The floor of a row is the larger of two times: its bytes at the measured copy bandwidth and, for
matrix products, its FLOPs at the measured rate of cuBLAS. A float32 product takes three TF32
products, one in bf16x3 three of bfloat16. A cell that was not measured says so, with the reason.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.kernels.rows import configuration

NOT = "not measured"
# dtype: (name of its ceiling, tensor-core products per product)
RATES = {
    "bfloat16": ("bfloat16", 1),
    "float16": ("bfloat16", 1),
    "tf32": ("tf32", 1),
    "bf16x3": ("bfloat16", 3),
    "float32": ("tf32", 3),
}
COLOURS = {
    "bfloat16": "tab:blue",
    "float16": "tab:cyan",
    "tf32": "tab:orange",
    "bf16x3": "tab:green",
    "float32": "tab:red",
}
MARKERS = "o^vsDPX*<>hp"


def derive(result: dict) -> None:
    """Add floor_us, gb_per_s, tflop_per_s, of_floor, reference_times and torch_times to every row.

    reference_times and torch_times are the times of the NumPy formula
    and of PyTorch divided by ours.
    """
    ceilings = {name: cell.get("per_second") for name, cell in result["ceilings"].items()}
    for row in result["rows"]:
        ceiling, products = RATES[row["dtype"]]
        times = [1e6 * row["bytes"] / ceilings["copy"] if ceilings["copy"] else None]
        if row["product"]:
            times.append(
                1e6 * products * row["flops"] / ceilings[ceiling] if ceilings[ceiling] else None
            )
        row["floor_us"] = None if None in times else digits(max(times))
        us = row["ours"].get("median_us")
        row["gb_per_s"] = us and digits(1e-3 * row["bytes"] / us)
        row["tflop_per_s"] = us and digits(1e-6 * row["flops"] / us)
        row["of_floor"] = us and row["floor_us"] and digits(row["floor_us"] / us)
        for other in ("reference", "torch"):
            row[f"{other}_times"] = (
                us
                and other in row
                and row[other].get("median_us")
                and round(row[other]["median_us"] / us, 2)
            )


def digits(x: float) -> float:
    """Round to four significant digits."""
    return float(f"{x:.4g}")


def table(result: dict) -> str:
    """Return the Markdown page of a result.

    It has device and versions, limits, a line per row, and the reasons for missing values.
    """
    device, ceilings = result["device"], result["ceilings"]
    versions = ", ".join(
        f"{name} {version}" for name, version in result["versions"].items() if version
    )
    lines = [
        f"# Kernels on {device['name']}",
        "",
        f"Commit {result['commit'] or 'unknown'}, {result['date']}; "
        f"driver {device.get('driver') or NOT}; {versions}.",
        f"Copy {rate(ceilings['copy'], 1e12, 'TB/s')}, "
        f"bfloat16 products {rate(ceilings['bfloat16'], 1e12, 'TFLOP/s')}, "
        f"TF32 products {rate(ceilings['tf32'], 1e12, 'TFLOP/s')}.",
        "",
        "Times are medians with 20 % and 80 % quantiles, in microseconds, with an empty L2 cache.",
        '"Of the floor" is the time that the bytes or the FLOPs take at the rates above, '
        "divided by the time measured.",
        '"Reference" is the NumPy formula on CuPy arrays, "PyTorch" its own function: '
        "how many times as long they take.",
        "* : the host took longer to launch than the GPU had to wait.",
        "",
        "| kernel | dtype | case | time | GB/s | TFLOP/s | of the floor | reference | PyTorch |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [row["kernel"], row["dtype"], sizes(row), time(row["ours"])]
        cells += [number_text(row[name]) for name in ("gb_per_s", "tflop_per_s")]
        cells += [f"{100 * row['of_floor']:.0f} %" if row["of_floor"] else NOT]
        cells += [
            f"{row[name]:g}x" if row[name] else NOT for name in ("reference_times", "torch_times")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *reasons(result["rows"])]) + "\n"


def number_text(number) -> str:
    return NOT if number is None else f"{number:g}"


def rate(cell: dict, unit: float, name: str) -> str:
    return f"{cell['per_second'] / unit:.3g} {name}" if "per_second" in cell else NOT


def time(cell: dict) -> str:
    if "median_us" not in cell:
        return NOT
    return f"{cell['median_us']:.1f} ({cell['q20_us']:.1f} to {cell['q80_us']:.1f})" + (
        " *" if cell["host_bound"] else ""
    )


def sizes(row: dict) -> str:
    """Return the case as text, with the configuration if the row has one."""
    words = [f"{name}={value}".replace(" ", "") for name, value in row["case"].items()]
    if row["config"]:
        words.append(configuration(row["config"]))
    return " ".join(words)


def reasons(rows: list[dict]) -> list[str]:
    """Return the reasons for missing values as a list, each reason once."""
    rows_of: dict[str, list[str]] = {}
    for row in rows:
        for cell in ("compiled", "ours", "reference", "torch"):
            reason = row[cell].get("not_measured") if isinstance(row.get(cell), dict) else None
            if reason:
                rows_of.setdefault(f"{cell}: {reason}", []).append(
                    f"{row['kernel']} {row['dtype']}"
                )
    lines = []
    for reason, names in rows_of.items():
        lines.append(
            f"- {reason} ("
            f"{'all rows' if len(names) == len(rows) else ', '.join(sorted(set(names)))})"
        )
    return ["", *lines] if lines else []


def plot(result: dict, path: Path) -> None:
    """Plot TFLOP/s against FLOPs per byte under the measured roofs.

    Rows that were not measured are ticks at the bottom.
    """
    figure, axes = plt.subplots(figsize=(11, 7))
    rows = [row for row in result["rows"] if row["flops"] and row["bytes"]]
    files = list(dict.fromkeys(row["file"] for row in rows))
    roofs(axes, result["ceilings"])
    for row in rows:
        x = row["flops"] / row["bytes"]
        if row["tflop_per_s"]:
            n = files.index(row["file"]) % len(MARKERS)
            axes.plot(
                x,
                row["tflop_per_s"],
                MARKERS[n],
                color=COLOURS[row["dtype"]],
                alpha=0.7,
                markersize=6,
            )
        else:
            axes.plot(
                [x, x],
                [0, 0.03],
                color=COLOURS[row["dtype"]],
                alpha=0.6,
                linewidth=1,
                transform=axes.get_xaxis_transform(),
            )
    for dtype, colour in COLOURS.items():
        axes.plot([], [], "s", color=colour, label=dtype)
    for n, file in enumerate(files):
        if any(row["tflop_per_s"] for row in rows if row["file"] == file):
            axes.plot(
                [],
                [],
                MARKERS[n % len(MARKERS)],
                color="grey",
                linestyle="",
                label=f"kernels/{file}.py",
            )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="TFLOP/s")
    if not any(row["tflop_per_s"] for row in rows):
        axes.set(xlim=(0.1, 1e4), ylim=(1e-2, 1e3))
        axes.text(
            0.5,
            0.5,
            f"{NOT}\nticks: FLOPs per byte of the rows",
            ha="center",
            transform=axes.transAxes,
            fontsize=16,
            color="grey",
        )
    axes.set_title(f"Kernels on {result['device']['name']}, {result['date']}")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def roofs(axes, ceilings: dict) -> None:
    copy = ceilings["copy"].get("per_second")
    for name, colour in (("bfloat16", "tab:blue"), ("tf32", "tab:orange")):
        top = ceilings[name].get("per_second")
        if copy and top:
            x = [0.1, top / copy, 1e4]
            axes.plot(x, [1e-12 * min(v * copy, top) for v in x], color=colour, linewidth=1)
            axes.annotate(
                f"{name} {1e-12 * top:.0f}",
                (1e4, 1e-12 * top),
                ha="right",
                va="bottom",
                color=colour,
                fontsize=8,
            )
    if copy:
        axes.annotate(
            f"copy {1e-12 * copy:.2f} TB/s", (0.1, 0.5e-12 * copy), color="grey", fontsize=8
        )


def paste(rows: list[dict]) -> list[str]:
    """Return the configurations of measured candidates as lines of gemm_config.py's table.

    They are grouped by case and dtype, fastest first.
    """
    lines, cases = [], {}
    for row in rows:
        cases.setdefault((row["kernel"], row["dtype"], str(row["case"])), []).append(row)
    for (kernel, dtype, _), measured in cases.items():
        lines.append(f"# {kernel} {dtype} " + sizes({**measured[0], "config": None}))
        for row in sorted(measured, key=lambda row: row["ours"].get("median_us", float("inf"))):
            us = row["ours"].get("median_us")
            text = f"{us:.1f} us" if us else NOT
            lines.append(
                f"{configuration(row['config'])},  # {text}, {row['compiled'][0]['kernel']}"
            )
    return lines
