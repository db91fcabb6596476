"""Write TensorBoard event files with the optional package tensorboardX."""

from pathlib import Path

import numpy as np

from rawgan.errors import UserError
from rawgan.training.plots import grid


class Board:
    """Writer of metrics, gradient norms and samples into RUN/tensorboard.

    Events after step `done` of an earlier process are dropped. The name of an event file has the
    second at which it was made, and `done`: a run resumed within that second has a file of its own.
    """

    def __init__(self, run: Path, done: int):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(
            str(run / "tensorboard"),
            purge_step=done + 1 if done else None,
            filename_suffix=f".{done:06}",
        )

    def add_scalars(
        self, step: int, metrics: dict[str, float], gradients: dict[str, float]
    ) -> None:
        """Add metrics and the gradient norms of a step."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        for name, value in gradients.items():
            self.writer.add_scalar(f"gradients/{name}", value, step)

    def add_images(self, step: int, images: np.ndarray, columns: int) -> None:
        """Add images uint8 (N, H, W, C) as a grid."""
        self.writer.add_image("samples", grid(images, columns), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self.writer.close()


def require_tensorboard(wanted: bool) -> type[Board] | None:
    """Return Board, or None if not wanted. Raises UserError where tensorboardX is missing."""
    if not wanted:
        return None
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboardX: pip install 'rawgan[tensorboard]', "
            "or leave it out"
        ) from None
    return Board
