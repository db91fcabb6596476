"""The first hour on a GPU: all that there is to measure, in order, within a budget, each result written as soon as it is there.

    python -m benchmarks.first_hour --minutes 25 --out DIR
    python -m benchmarks.first_hour --parts ceilings tests --minutes 9      some of it, a next call the rest
    python -m benchmarks.first_hour --dry-run                               all that needs no GPU; writes no result

    ceilings   a copy, bfloat16 and TF32 products, a node of a CUDA graph                          benchmarks.ceilings
    tests      every kernel against float64, what each precision costs, and the tests marked gpu   .correctness, .precision, pytest
    kernels    every kernel at its benchmark shapes beside the vendor's library                    benchmarks.kernels
    steps      whole steps, ours and PyTorch's                                                     benchmarks.steps
    profile    which of our kernels takes what share of a step, and its floor                      benchmarks.step_profile

Each command runs in a process of its own, so that one that loses the GPU ends alone; one that fails is written down in
first_hour_<device>.json with its last words, the others go on, and the exit status is 1. All that they say is in
first_hour_<device>.log. What a part leaves of its time the next ones have. The same --out is added to: steps that were measured at
this commit are not measured again.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from benchmarks.facts import RESULTS, ROOT, as_program, begun, facts, write
from rawgan.backend import choose_device
from rawgan.errors import UserError

SHARES = {"ceilings": 1.0, "tests": 5.0, "kernels": 6.0, "steps": 10.0, "profile": 3.0}  # of the time, where none is left over
NEEDED = ("numpy", "cupy", "triton", "threadpoolctl", "matplotlib", "torch", "pytest", "hypothesis", "scipy", "safetensors")
GRACE = 15  # seconds in which a command that has a deadline of its own may write its last result
INTERRUPTED = 8  # seconds in which one that was ended may say where it was, and end what it has started
TAIL = 3000  # bytes of what a command said
NO_GPU = "test_docs*.py"  # tests that need no GPU, but what the documentation is built with


def files(pattern: str) -> list[str]:
    """The tests of a name."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob(pattern))


def commands(part: str, minutes: float, out: Path, commit: str | None) -> list[list[str]]:
    """What a part runs, each as arguments of Python."""
    where = ["--out", str(out), *(["--commit", commit] if commit else [])]
    budget = ["--minutes", f"{minutes:.2f}"]
    pytest = ["-m", "pytest", "-v", "--tb=short", "--continue-on-collection-errors", "-m", "gpu", "-p", "no:cacheprovider"]
    own, left_out = files("test_kernels*.py") + files("test_planned*.py"), files(NO_GPU)
    return {
        "ceilings": [["-m", "benchmarks.ceilings", *where]],
        "tests": [
            ["-m", "benchmarks.correctness", *where],
            ["-m", "benchmarks.precision", *where],
            [*pytest, *own],
            [*pytest, *(f"--ignore={path}" for path in own + left_out)],
        ],
        "kernels": [["-m", "benchmarks.kernels", *where, *budget]],
        "steps": [["-m", "benchmarks.steps", *where, *budget]],
        "profile": [["-m", "benchmarks.step_profile", *where, *budget]],
    }[part]


DRY = {
    "ceilings": [],
    "tests": [["-m", "benchmarks.precision", "--case", "dcgan 64x64x3", "wgan_gp 64x64x3"]],
    "kernels": [["-m", "benchmarks.kernels", "--dry-run"]],
    "steps": [["-m", "benchmarks.steps", "--dry-run"]],
    "profile": [],
}


def run(command: list[str], seconds: float, log: BinaryIO) -> dict:
    """What a command came to: its exit status, None where it was ended for the time, and its last words; all of them go to the log.

    One that is ended is interrupted first: pytest then says what failed so far, and workers are ended.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}  # so that what it said is there when it is killed
    log.write(f"\n$ python {' '.join(command)}\n".encode())
    log.flush()
    start, begin = time.monotonic(), log.seek(0, os.SEEK_END)
    how = {"cwd": ROOT, "env": environment, "stdin": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, **how)
    try:
        status = process.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
        status = None
        end(process)
    log.seek(max(begin, log.seek(0, os.SEEK_END) - TAIL))
    words = log.read().decode(errors="replace")
    return {"command": command, "status": status, "seconds": round(time.monotonic() - start, 1), "said": words}


def end(process: subprocess.Popen) -> None:
    """Interrupts a process that leads a session, and then kills all of the session."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(INTERRUPTED)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def all_parts(
    parts: list[str],
    minutes: float,
    asked: Callable[[str, float], list[list[str]]],
    save: Callable[[str, list], None],
    log: BinaryIO,
) -> bool:
    """Runs the commands of the parts; each part has its share of the time that is left, each command as much as those after it."""
    end, wrong = time.monotonic() + 60 * minutes, []
    for i, part in enumerate(parts):
        share = SHARES[part] / sum(SHARES[later] for later in parts[i:])
        until, found = time.monotonic() + share * (end - time.monotonic()), []
        given = asked(part, max(0.0, until - time.monotonic() - GRACE) / 60)
        for n, command in enumerate(given):
            print(f"{part}: {' '.join(command)}", flush=True)
            found.append(run(command, (until - time.monotonic()) / (len(given) - n), log))
            print(found[-1]["said"], f"status {found[-1]['status']} after {found[-1]['seconds']} s", sep="\n", flush=True)
            wrong += [] if found[-1]["status"] == 0 else [f"{part}: {' '.join(command[:3])}"]
            save(part, found)
    print(f"{len(wrong)} failed", *wrong, sep="\n  ")
    return bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), metavar="PART", help=", ".join(SHARES))
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the files")
    parser.add_argument("--commit", help="what to write down as the commit, where there is no git")
    parser.add_argument("--dry-run", action="store_true", help="what needs no GPU; measures and writes nothing")
    args = parser.parse_args()
    if args.minutes <= 0:
        raise UserError("--minutes must be more than 0")
    missing = [name for name in NEEDED if find_spec(name) is None]
    missing += [] if any(map(shutil.which, ("gcc", "clang"))) else ["a C compiler, which Triton starts kernels with"]
    print(f"not installed here: {', '.join(missing) or 'nothing that is needed'}", flush=True)
    if args.dry_run:
        with tempfile.TemporaryFile() as log:
            return all_parts(args.parts, args.minutes, lambda part, _: DRY[part], lambda *_: None, log)
    gpu = choose_device("gpu")
    from benchmarks.timing import gpu as describe

    out = args.out.resolve()
    result, path = begun("first_hour", facts(describe(gpu.xp.cuda), args.commit), out)

    def save(part: str, found: list) -> None:
        result.setdefault("parts", {})[part] = found
        write(result, path)

    result["missing"] = missing
    write(result, path)
    with path.with_suffix(".log").open("ab+") as log:
        return all_parts(args.parts, args.minutes, lambda part, minutes: commands(part, minutes, out, args.commit), save, log)


if __name__ == "__main__":
    as_program(main)
