"""Fault injection: kill the process at the n-th file operation, or fill the disk from there on.

in_child runs a training in a forked process, which ends where it writes outside its folder.
"""

import builtins
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rawgan.errors import UserError
from tests.support.figures import Figures, resident, trim

KILLS = ("before", "middle", "after")


class Faults:
    """Count the file operations below a folder and inject a fault at operation `at`.

    mode: one of KILLS, or "full". "middle" of a write kills after its first half; for an atomic
    system call it equals "before". A full disk accepts half of the write `at`, and afterwards only
    operations that free space.
    """

    def __init__(self, folder: Path, at: int, mode: str):
        self.folder, self.at, self.mode, self.count = str(folder), at, mode, 0

    def install(self, patch) -> "Faults":
        """Install the faults with a pytest.MonkeyPatch."""
        opened = builtins.open

        def opening(file, mode="r", *args, **options):
            if not (set(mode) & set("wax") and str(file).startswith(self.folder)):
                return opened(file, mode, *args, **options)
            return Writer(self.operation(lambda: opened(file, mode, *args, **options)), self)

        patch.setattr(builtins, "open", opening)
        for name, takes in (
            ("mkdir", True),
            ("fsync", True),
            ("replace", False),
            ("unlink", False),
            ("rmdir", False),
        ):
            patch.setattr(os, name, self.counted(getattr(os, name), takes))
        return self

    def counted(self, original: Callable, takes: bool) -> Callable:
        return lambda *args, **options: self.operation(
            lambda: original(*args, **options), takes=takes
        )

    def operation(self, do: Callable, half: Callable = lambda: None, takes: bool = True):
        """Perform one operation, or its fault; `takes`: the operation needs disk space."""
        self.count += 1
        if self.mode == "full":
            if takes and self.count >= self.at:
                if self.count == self.at:
                    half()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self.count == self.at:
            {"before": lambda: None, "middle": half, "after": do}[self.mode]()
            os.kill(os.getpid(), signal.SIGKILL)
        return do()


class Writer:
    """File whose writes are counted."""

    def __init__(self, file, faults: Faults):
        self.file, self.faults = file, faults

    def write(self, content) -> int:
        def half():
            self.file.write(content[: len(content) // 2])
            self.file.flush()

        return self.faults.operation(lambda: self.file.write(content), half)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


WRITES = {  # audit events that change files, and the number of their first arguments that are paths
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.remove": 1,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
}
STATUS_OUTSIDE = 3  # exit status of a process that has changed a file outside its folder


def end_at_a_write_outside(folder: Path) -> None:
    """End this process with STATUS_OUTSIDE where it changes a file that is not below `folder`."""
    root = os.path.realpath(folder) + os.sep

    def hook(event, args):
        paths, follow = args[: WRITES.get(event, 0)], False
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            paths, follow = args[:1], not args[2] & (os.O_EXCL | os.O_NOFOLLOW)
        for path in paths:
            if isinstance(path, int) or path == os.devnull:
                continue
            parent, name = os.path.split(os.fsdecode(path))
            real = os.path.join(os.path.realpath(parent), name)
            real = os.path.realpath(real) if follow else real
            there = event == "os.mkdir" and os.path.lexists(real)  # mkdir then changes nothing
            if not real.startswith(root) and not there:
                os.write(2, f"{event} outside the folder: {real}\n".encode())
                os._exit(STATUS_OUTSIDE)

    sys.addaudithook(hook)


def in_child(work: Callable, log: Path, figures: Figures) -> int:
    """Run `work` in a forked process with stdout and stderr in a file; return its exit status.

    The status is 0 on success, 2 for a UserError, -9 if it was killed, 1 for any other error, and
    STATUS_OUTSIDE if it changed a file outside the folder of `log`. The growth of its resident
    memory is recorded in `figures`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    receive, send = os.pipe()
    trim()  # before the fork: the child's maximum includes what it begins with
    pid = os.fork()
    if not pid:
        status = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            end_at_a_write_outside(log.parent)
            os.write(send, str(resident()).encode())
            work()
            status = 0
        except UserError as error:
            print(f"error: {error}", flush=True)
            status = 2
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(send)
    _, wait_status, usage = os.wait4(pid, 0)
    with open(receive) as before:
        figures.grown(1024 * usage.ru_maxrss - int(before.read()))
    return os.waitstatus_to_exitcode(wait_status)


def counts_of_child(work: Callable[[], dict[str, int]], log: Path, figures: Figures) -> dict:
    """Return the counts that `work` returns in a process of in_child; they are added to `figures`.

    Raises AssertionError, with the text of the log, unless the process ends with status 0.
    """
    status = in_child(lambda: print(json.dumps(work()), flush=True), log, figures)
    assert status == 0, log.read_text()
    counts = json.loads(log.read_text().splitlines()[-1])
    figures.update(counts)
    return counts


def replace(path: Path, content: bytes) -> None:
    """Write a file anew. ext4 would wait for the disk where one is truncated and rewritten."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
