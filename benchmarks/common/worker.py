"""Worker process that prepares and runs training steps on request, and the client that controls it.

Protocol, one JSON object per line: {"prepare": form}, {"run": form, "least": seconds} or
{"count": form}. The answer is what preparing returned, the microseconds of a step, or the number
of kernels in a step; or {"not_measured": reason}. If no answer arrives in time, the client kills
the worker. The worker's side is described in benchmarks/steps/__main__.py.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.common.child import start, stop
from benchmarks.common.facts import reason
from rawgan.errors import UserError

Count = int


def timed(
    step: Callable[[], object], synchronize: Callable[[], object], least: float, of: int = 1
) -> tuple[float, Count]:
    """Return (microseconds per step, number of steps) by wall clock.

    `step` performs `of` steps per call; it runs for at least `least` seconds and three calls.
    """
    count, step_s = 3, 0.0
    while True:
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            step()
        synchronize()
        step_s = (time.perf_counter() - start) / count
        if step_s * count >= 0.8 * least:
            return 1e6 * step_s / of, count * of
        count = max(2 * count, int(least / max(step_s, 1e-7)))


def why(error: Exception) -> dict:
    """Return the cell of a form that was not measured.

    It has the reason that a UserError states or, for any other error, its text and "failed": True.
    """
    return (
        {"not_measured": str(error)}
        if isinstance(error, UserError)
        else reason(error) | {"failed": True}
    )


def answer(side) -> None:
    """Answer requests from standard input until it ends.

    All other output of the process is redirected to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "prepare" in asked:
                reply = side.prepare(asked["prepare"])
            elif "count" in asked:
                reply = side.count(asked["count"])
            else:
                us, count = side.run(asked["run"], asked["least"])
                reply = {"us": us, "steps": count}
        except Exception as error:
            reply = why(error)
        print(json.dumps(reply), file=answers, flush=True)


class Worker:
    """Client of a worker process; a context manager that kills the process and all its children."""

    def __init__(self, module: str, *arguments: str):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process, self.unread = start(["-m", module, *arguments], **pipes), b""
        self.over: str | None = None

    def ask(self, seconds: float, **question) -> dict:
        """Send a request and return the answer; see `receive`."""
        self.send(**question)
        return self.receive(seconds)

    def send(self, **question) -> None:
        """Send a request without waiting for the answer, so that several workers run concurrently.

        Answers arrive in the order of the requests.
        """
        if self.over is None:
            try:
                self.process.stdin.write(json.dumps(question).encode() + b"\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                self.fail(f"its process ended with {self.process.wait()}")

    def receive(self, seconds: float) -> dict:
        """Return the next answer; kill the worker if none arrives within `seconds`."""
        until = time.monotonic() + seconds
        while self.over is None:
            line, newline, rest = self.unread.partition(b"\n")
            if newline:
                self.unread = rest
                return json.loads(line)
            if not select.select([self.process.stdout], [], [], max(until - time.monotonic(), 0))[
                0
            ]:
                self.fail(f"no answer in {max(seconds, 0):.0f} s")
            elif data := os.read(self.process.stdout.fileno(), 2**16):
                self.unread += data
            else:
                self.fail(f"its process ended with {self.process.wait()}")
        return {"not_measured": self.over, "failed": True}

    def fail(self, reason: str) -> None:
        """Kill the worker, and answer every later request with this reason."""
        self.over = reason
        self.end()

    def end(self) -> None:
        """Kill the process and all its children."""
        stop(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
