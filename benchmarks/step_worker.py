"""A process that prepares and runs training steps when it is told to, and the one that tells it: see benchmarks/steps.py.

Asked {"prepare": form}, {"run": form, "least": seconds} or {"count": form} in a line of JSON, a worker answers in one: what it has
found, the microseconds of a step, how many kernels there are in it; or {"not_measured": why}. An answer that does not come in time
is none, and the worker is ended.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.facts import ROOT, reason
from rawgan.errors import UserError

Count = int


def timed(step: Callable[[], object], synchronize: Callable[[], object], least: float, of: int = 1) -> tuple[float, Count]:
    """(microseconds, steps) of a step that does `of`, by the clock on the wall, over at least `least` seconds and three runs."""
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
    """A cell that was not measured: in words what is refused, or with "failed" what went wrong."""
    return {"not_measured": str(error)} if isinstance(error, UserError) else reason(error) | {"failed": True}


def answer(side) -> None:
    """Answers until the input ends. What else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "prepare" in asked:
                said = side.prepare(asked["prepare"])
            elif "count" in asked:
                said = side.count(asked["count"])
            else:
                us, count = side.run(asked["run"], asked["least"])
                said = {"us": us, "steps": count}
        except Exception as error:
            said = why(error)
        print(json.dumps(said), file=answers, flush=True)


class Worker:
    """The other end; a context manager, which ends the process with all that it started."""

    def __init__(self, module: str, *arguments: str):
        command = [sys.executable, "-m", module, *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes)
        self.over: str | None = None

    def ask(self, seconds: float, **question) -> dict:
        """The answer, waited for `seconds` at most; after one that failed to come there is none."""
        if self.over is None:
            try:
                print(json.dumps(question), file=self.process.stdin, flush=True)
                if select.select([self.process.stdout], [], [], max(seconds, 0))[0]:
                    if line := self.process.stdout.readline():
                        return json.loads(line)
                    self.over = f"its process ended with {self.process.wait()}"
                else:
                    self.over = f"no answer in {seconds:.0f} s"
            except BrokenPipeError:
                self.over = f"its process ended with {self.process.wait()}"
            self.end()
        return {"not_measured": self.over, "failed": True}

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
