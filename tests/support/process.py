"""Run a command in a new process."""

import subprocess
from collections.abc import Sequence


def run_process(command: Sequence, **options) -> subprocess.CompletedProcess:
    """Return the exit status of a command, with its stdout and stderr as text.

    options: cwd, env, input and timeout of subprocess.run.
    """
    return subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, **options
    )
