"""TensorBoard event files, for those who have the package tensorboardX."""

from pathlib import Path

import numpy as np

from rawgan.errors import UserError
from rawgan.training.pictures import grid


class Board:
    """Writes what a run measures and draws into RUN/tensorboard, beside its own files."""

    def __init__(self, run: Path, done: int):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1 if done else None)

    def numbers(self, step: int, metrics: dict[str, float], gradients: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        for name, value in gradients.items():
            self.writer.add_scalar(f"gradients/{name}", value, step)

    def images(self, step: int, images: np.ndarray, columns: int) -> None:
        self.writer.add_image("samples", grid(images, columns), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


def open_board(wanted: bool) -> type[Board] | None:
    """The class to write with, or None. Raises UserError where it is wanted and cannot be had: before anything is made."""
    if not wanted:
        return None
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboardX: pip install 'rawgan[tensorboard]', or leave it out"
        ) from None
    return Board
