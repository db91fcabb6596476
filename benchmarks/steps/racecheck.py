"""Check a small planned step for shared-memory hazards with compute-sanitizer --tool racecheck.

    python -m benchmarks.steps.racecheck

One step of DCGAN at 16x16, width 8, in bf16 and in fp32, launch by launch; the result is
racecheck_<device>.json. If the tool is not installed, or refuses the device, the result says that
nothing was checked. A dry run does the step in Triton's interpreter, without the tool.
"""

import re
import shutil
import tempfile

from benchmarks.common import child
from benchmarks.common.command import begin, parser, toy_device
from benchmarks.common.facts import as_program
from benchmarks.steps.cases import CASES
from rawgan.backend import choose_device

TOOL = "compute-sanitizer"
DEVICE_REFUSED = re.compile(r"Device not supported|No attachable process found", re.IGNORECASE)
SUMMARY = re.compile(
    r"RACECHECK SUMMARY: (\d+) hazards? displayed \((\d+) errors?, (\d+) warnings?\)"
)
STEPPED = "the step ended"  # last line printed by the process under the tool


def parse(output: str, status: int | None) -> dict:
    """Return the counts of hazards in the tool's output, or why there are none."""
    if summary := SUMMARY.search(output):
        counts = dict(zip(("hazards", "errors", "warnings"), map(int, summary.groups())))
        if STEPPED not in output:
            return counts | {"not_measured": "the step did not end under the tool", "failed": True}
        return counts
    if DEVICE_REFUSED.search(output):
        return {"not_measured": f"{TOOL} refuses this device"}
    if status is None:
        return {"not_measured": "no time was left", "failed": True}
    return {"not_measured": f"{TOOL} ended with {status} and without a summary", "failed": True}


def step(precision: str, dry: bool, device) -> None:
    """Run one small planned step."""
    case = CASES["dcgan 64x64x3"]
    case = case.tiny if dry else case.toy
    case.plan(precision, device, images=case.batch).run()
    if device.name == "gpu":
        device.xp.cuda.Device().synchronize()
    print(STEPPED, flush=True)


def check(precision: str, seconds: float, dry: bool) -> dict:
    """Run the step in a child process, on a GPU under the tool, and return the tool's counts."""
    arguments = [
        "-m",
        "benchmarks.steps.racecheck",
        "--step",
        precision,
        *(["--dry-run"] if dry else []),
    ]
    with tempfile.TemporaryFile() as log:
        tool = () if dry else (shutil.which(TOOL), "--tool", "racecheck", "--print-limit", "20")
        record = child.run(arguments, seconds, log, under=tool)
        log.seek(0)
        output = log.read().decode(errors="replace")
    print(record["output"], flush=True)
    if dry:
        done = record["status"] == 0 and STEPPED in output
        return {"not_measured": f"a dry run has no {TOOL}"} | ({} if done else {"failed": True})
    return parse(output, record["status"])


def main() -> int:
    """Check both precisions; return 1 for a hazard of severity error, or a failed step."""
    options = parser(__doc__, minutes=1)
    options.add_argument("--step", help="the process under the tool: one step in this precision")
    args = options.parse_args()
    if args.step:
        step(args.step, args.dry_run, toy_device() if args.dry_run else choose_device("gpu"))
        return 0
    command = begin("racecheck", args)
    cells = command.result["racecheck"] = {}
    for n, precision in enumerate(("bf16", "fp32")):
        if not args.dry_run and shutil.which(TOOL) is None:
            cells[precision] = {"not_measured": f"{TOOL} is not installed here"}
        else:
            cells[precision] = check(precision, command.left() / (2 - n), args.dry_run)
        command.save()
        print(f"{precision}: {cells[precision]}", flush=True)
    return any(cell.get("errors") or "failed" in cell for cell in cells.values())


if __name__ == "__main__":
    as_program(main)
