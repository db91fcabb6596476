"""Fault injection at every file operation of a run: announced checkpoints survive.

The resumed run equals an uninterrupted one, nothing outside its folder is changed, and memory is
bounded. The fast form tries a few operations of every recipe; `pytest -m slow
tests/training/test_faults.py` tries the number in docs/reliability.md and prints what it counted.
"""

import json
import os
import random
import re
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from rawgan.models.recipes import RECIPES
from rawgan.training import session
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.train import resume, start
from tests.support.figures import Figures
from tests.support.file_faults import KILLS, STATUS_OUTSIDE, Faults, in_child
from tests.support.runs import assert_same_run, options

pytestmark = [
    pytest.mark.usefixtures("nothing_plotted"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
]
GROWTH = 64 << 20  # growth of resident memory in bytes that a training may cause
FEW = {"steps": 4, "checkpoint_every": 2, "sample_every": 2}
OPTIONS = {name: FEW | {"width": 8 if name.startswith("raschka") else 4} for name in RECIPES} | {
    "dcgan": {"steps": 12, "checkpoint_every": 4, "sample_every": 3, "ema": 0.9},
    "wgan": {"steps": 2, "checkpoint_every": 1, "sample_every": 1},
}


def faulty(folder: Path, at: int, mode: str, work):
    """Run `work` with a fault at one of its file operations.

    Their count is written to a file in the parent folder.
    """

    def run():
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(folder, at, mode).install(patch)
            work()
        (folder.parent / "operations").write_text(str(faults.count))

    return run


def begin_or_go_on(recipe: str, run: Path):
    """Do what a user does after a kill: resume a run that exists, else start it again."""
    if (run / "config.json").exists():
        return lambda: resume(run)
    return lambda: start(options(recipe, **OPTIONS[recipe]), run)


def announced(log: Path) -> int:
    """Return the last checkpoint that a process has announced."""
    return max(
        [
            0,
            *(
                int(n)
                for n in re.findall(r"^checkpoint: step (\d+)\n", log.read_text(), re.MULTILINE)
            ),
        ]
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory, nothing_plotted):
    """Return an uninterrupted run of a recipe and the number of its file operations."""
    made = {}
    session.load("digits", 16, None)  # loaded once, not in every child process

    def run(recipe: str) -> tuple[Path, int]:
        if recipe not in made:
            folder = tmp_path_factory.mktemp(recipe) / "run"
            log = folder.parent / "log"
            work = faulty(folder, 0, "before", begin_or_go_on(recipe, folder))
            assert in_child(work, log, Figures()) == 0, log.read_text()
            made[recipe] = folder, int((folder.parent / "operations").read_text())
        return made[recipe]

    return run


def complete(recipe: str, run: Path, want: Path, log: Path, figures: Figures) -> None:
    """Complete an interrupted run, and assert that it equals the wanted one."""
    if not (run / "weights.safetensors").exists():
        figures["completions"] += 1
        assert in_child(begin_or_go_on(recipe, run), log, figures) == 0, log.read_text()
    assert_same_run(run, want)
    assert not list(log.parent.rglob("*.part"))
    assert {path.name for path in log.parent.iterdir()} <= {"run", "log", "operations"}
    assert figures.growth < GROWTH


def assert_checkpoints(run: Path, step: int, figures: Figures) -> None:
    """Assert that a run has the checkpoint of `step` or a later one, and that all are whole."""
    paths = checkpoints(run) if run.exists() else {}
    assert max(paths, default=0) >= step, f"the checkpoint of step {step} is lost"
    for path in paths.values():
        load_checkpoint(path)  # raises unless the file is complete
        figures["checkpoints read"] += 1


def interrupted(
    recipe: str,
    want: Path,
    folder: Path,
    faults: list[tuple[int, str]],
    expected: int,
    figures: Figures,
) -> None:
    """Interrupt a run at each of the faults, complete it, and assert that nothing is lost."""
    folder.mkdir()
    run, log, last = folder / "run", folder / "log", 0
    figures["runs"] += 1
    for at, mode in faults:
        if (run / "weights.safetensors").exists():  # the last fault came after the last operation
            break
        status = in_child(faulty(run, at, mode, begin_or_go_on(recipe, run)), log, figures)
        last = max(last, announced(log))
        if status == 0:  # it has fewer operations than that
            break
        assert status == expected, log.read_text()
        figures["kills" if expected == -9 else "full disks"] += 1
        assert_checkpoints(run, last, figures)
        if expected == 2:
            assert not list(folder.rglob("*.part"))
            assert run.exists() == (run / "config.json").exists(), (
                "a start that failed left its folder"
            )
    complete(recipe, run, want, log, figures)


def kills(recipe, straight, tmp_path, n, figures):
    """Run n runs that are killed once, every third also while it is resumed."""
    want, operations = straight(recipe)
    dice = random.Random(recipe)
    for i in range(n):
        at = 1 + (2 * i + 1) * operations // (2 * n) % operations
        faults = [(at, KILLS[(i + len(recipe)) % 3])]
        if (i + len(recipe)) % 3 == 2:
            faults.append((1 + dice.randrange(operations), dice.choice(KILLS)))
        interrupted(recipe, want, tmp_path / str(i), faults, -9, figures)


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_a_file_operation(recipe, straight, tmp_path, figures):
    kills(recipe, straight, tmp_path, 2, figures)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_many_file_operations(recipe, straight, tmp_path, figures):
    kills(recipe, straight, tmp_path, 24, figures)
    assert figures["kills"] >= 24


def full(straight, tmp_path, n, figures):
    """Run n runs on disks that are full from one operation on."""
    want, operations = straight("dcgan")
    for i in range(n):
        faults = [(1 + i * operations // n, "full")]
        interrupted("dcgan", want, tmp_path / str(i), faults, 2, figures)


def test_a_disk_that_is_full_at_a_file_operation(straight, tmp_path, figures):
    full(straight, tmp_path, 6, figures)


@pytest.mark.slow
def test_a_disk_that_is_full_at_many_file_operations(straight, tmp_path, figures):
    full(straight, tmp_path, 60, figures)


def small_disks(straight, tmp_path, n, figures):
    """Run on n tmpfs file systems, from one page up to the size that a run needs.

    Each run is then completed with enough space.
    """
    want, _ = straight("dcgan")
    needed = sum(-(-path.stat().st_size // 4096) for path in want.rglob("*") if path.is_file())
    for i in range(n):
        disk = tmp_path / str(i)
        disk.mkdir()
        pages = 1 + i * needed // n
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", disk],
            check=False,
            capture_output=True,
        )
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
        with ExitStack() as after:
            after.callback(subprocess.run, ["umount", disk], check=True)
            run, log = disk / "run", tmp_path / "log"
            status = in_child(begin_or_go_on("dcgan", run), log, figures)
            assert status in (0, 2), log.read_text()
            assert not list(disk.rglob("*.part"))
            figures["disks"] += 1
            figures["full disks"] += status == 2
            assert_checkpoints(run, announced(log), figures)
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            complete("dcgan", run, want, disk / "log", figures)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs as Linux does")
def test_small_disks(straight, tmp_path, figures):
    small_disks(straight, tmp_path, 4, figures)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs as Linux does")
def test_many_small_disks(straight, tmp_path, figures):
    small_disks(straight, tmp_path, 50, figures)


def double_starts(tmp_path, monkeypatch, n, figures):
    """Start two trainings at the same time, n times: with the same --out, or both without it."""
    told = [options("dcgan", **(FEW | {"seed": seed})) for seed in (1, 2)]
    for i in range(n):
        folder = tmp_path / str(i)
        folder.mkdir()
        monkeypatch.chdir(folder)
        out = folder / "run" if i % 2 else None
        children = []
        for job in told:
            pid = os.fork()
            if not pid:
                os._exit(in_child(partial(start, job, out), folder / f"log{job.seed}", Figures()))
            children.append(pid)
        status = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        logs = [Path(f"log{job.seed}").read_text() for job in told]
        runs = [out] if out else [Path("runs/dcgan-digits-001"), Path("runs/dcgan-digits-002")]
        seeds = [json.loads((run / "config.json").read_text())["seed"] for run in runs]
        figures["double starts with one --out" if out else "double starts without --out"] += 1
        if out:
            assert sorted(status) == [0, 2], logs
            assert seeds == [1 + status.index(0)], "the options are not those of the run that began"
            refused = logs[status.index(2)]
            assert (
                "another process is training in" in refused or "already holds something" in refused
            )
        else:
            assert status == [0, 0] and sorted(seeds) == [1, 2], logs
        for run, seed in zip(runs, seeds):
            assert list(checkpoints(run))[-1] == 4
            assert (
                load_checkpoint(list(checkpoints(run).values())[-1])[1]["identity"]["seed"] == seed
            )
        assert {path.name for path in folder.iterdir()} == {
            "log1",
            "log2",
            "run" if out else "runs",
        }


def test_two_starts_at_once(straight, tmp_path, monkeypatch, figures):
    double_starts(tmp_path, monkeypatch, 4, figures)


@pytest.mark.slow
def test_many_starts_at_once(straight, tmp_path, monkeypatch, figures):
    double_starts(tmp_path, monkeypatch, 50, figures)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("x"),
        lambda path: path.mkdir(),
        lambda path: (path.parent / "inside" / "a").rename(path),
        lambda path: (path.parent / "inside" / "folder" / path.name).write_text("x"),
        lambda path: (path.parent / "inside" / "file").write_text("x"),
    ],
    ids=["write", "mkdir", "rename", "write through a linked folder", "write through a link"],
)
def test_a_write_outside_is_found(change, tmp_path):
    """The harness ends a process that changes something outside its folder."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    (inside / "folder").symlink_to(tmp_path)
    (inside / "file").symlink_to(outside)

    def work():
        (inside / "a").write_text("a")
        change(outside)

    assert in_child(work, inside / "log", Figures()) == STATUS_OUTSIDE
    assert not outside.exists()
