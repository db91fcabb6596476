"""Programs run by mpirun as two processes."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.process import run_process

PATIENCE = 300  # timeout of a process in seconds, for a busy machine
TOOLS = Path(sys.executable).parent
ENVIRONMENT = os.environ | {
    "CUDA_VISIBLE_DEVICES": "-1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[2]),
}
TWO = [str(TOOLS / "mpirun"), "-n", "2", sys.executable]
with_mpi = pytest.mark.skipif(
    not (TOOLS / "mpirun").exists(), reason="MPI has no wheel for this system"
)
PROGRAM = """
import os
open("pid." + os.environ["OMPI_COMM_WORLD_RANK"], "w").write(str(os.getpid()))
from rawgan.cli.main import main
from rawgan.training import loop
from rawgan.training import callbacks as trainer
for name in ("save_curves", "save_gradients", "save_progress"):
    setattr(loop if name == "save_curves" else trainer, name, lambda *_: None)
main()
"""  # command line that writes its process id and plots nothing, as plots take longer than the runs


def two(*told, folder: Path, status: int | None = 0):
    """Run the command line as two processes; return its output."""
    command = list(map(str, [*TWO, "-c", PROGRAM, *told]))
    done = run_process(command, cwd=folder, env=ENVIRONMENT, timeout=PATIENCE)
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done


def tiny(*extra) -> list:
    """Return the command line of a training with runs.options."""
    return [
        "train",
        "dcgan",
        "--width",
        4,
        "--batch",
        8,
        "--device",
        "cpu",
        "--sample-every",
        10,
        *extra,
    ]
