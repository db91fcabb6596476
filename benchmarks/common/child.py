"""Child processes with a deadline. Each child leads a process session, which is killed as a whole.

process = start(["-m", "benchmarks.steps"], stdout=log)
stop(process, grace=5)                      interrupt, wait, then kill all processes of the session
run(["-m", "benchmarks.steps"], 60, log)    start, wait and stop; returns a record of the outcome
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from benchmarks.common.facts import ROOT

# seconds that an interrupted command has to write its last result and stop its children
GRACE = 5.0
TAIL = 4000  # bytes of a command's output kept in its record


def start(arguments: Sequence[str], under: Sequence[str] = (), **options) -> subprocess.Popen:
    """Start Python with these arguments in the repository root, in a new process session.

    `under` is the command of a tool that wraps Python, such as compute-sanitizer.
    """
    # a shell's background commands ignore interrupts; `stop` needs one that arrives
    accept = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [*under, sys.executable, *arguments]
    options |= {"cwd": ROOT, "start_new_session": True, "preexec_fn": accept}
    return subprocess.Popen(command, **options)


def stop(process: subprocess.Popen, grace: float = 0.0) -> None:
    """Kill a process and its session.

    If grace > 0, interrupt the process first and wait up to `grace` seconds.
    """
    if process.poll() is None and grace > 0:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(arguments: Sequence[str], seconds: float, log: BinaryIO, under: Sequence[str] = ()) -> dict:
    """Run a command for at most `seconds`, writing its output to the log.

    Returns its arguments, exit status (None if the deadline ended it), seconds, and the end of its
    output.
    """
    log.write(f"\n$ python {' '.join(arguments)}\n".encode())
    log.flush()
    started, offset = time.monotonic(), log.seek(0, os.SEEK_END)
    # a killed command leaves its output in the log
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    process = start(arguments, under, env=environment, **streams)
    status = None
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(max(seconds, 0.1))
    finally:
        stop(process, GRACE)
    took = round(time.monotonic() - started, 1)
    log.seek(max(offset, log.seek(0, os.SEEK_END) - TAIL))
    output = log.read().decode(errors="replace")
    return {"command": [*arguments], "status": status, "seconds": took, "output": output}
