"""Callbacks of the training loop: logging, samples, checkpoints, diagnostics.

    Callbacks          interface, with defaults
    WorkerCallbacks    a rank of a parallel training that writes nothing
    MainCallbacks      rank 0, or the only process: writes the run folder

Recorder in loop.py calls them. `done` is always the number of steps done.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rawgan.backend import Array, array_module, to_host
from rawgan.errors import UserError
from rawgan.files import TEXT, Unreadable, kind, read_file, write_whole
from rawgan.training.checkpoint import checkpoints, save_checkpoint
from rawgan.training.diagnostics import LOOK_EVERY, Diagnostics, first_overflow
from rawgan.training.plots import save_gradients, save_grid, save_norms, save_progress
from rawgan.training.run_folder import RunFolder, numbered_samples
from rawgan.training.tensorboard import Board

DIVERGED = 1e5  # |w| from which a training has diverged: far above any weight of a healthy network


class Callbacks:
    """Interface of Recorder to a kind of training. A subclass defines `draw` and `weights`."""

    def draw(self, done: int) -> None:
        """Write a grid of samples."""
        raise NotImplementedError

    def weights(self) -> dict[str, np.ndarray]:
        """Return the arrays that are saved when the training ends well."""
        raise NotImplementedError

    def should_stop(self, requested: bool) -> bool:
        """Return whether to stop; requested: this process received a signal."""
        return requested

    def to_numbers(self, metrics: dict[str, Array]) -> dict[str, float]:
        """Return metrics, arrays of no dimension, as numbers."""
        return {name: float(value) for name, value in metrics.items()}

    def progress_text(self, row: dict[str, float]) -> str:
        """Return the metrics for the progress bar."""
        return ", ".join(f"{name} {value:.4g}" for name, value in row.items())

    def on_metrics(self, done: int, row: dict[str, float]) -> None:
        """Run after a row of metrics was written."""

    def all_finite(self) -> bool:
        """Return whether all parameters, running statistics and optimizer slots are finite."""
        return True

    def save(self, done: int) -> None:
        """Write a checkpoint."""

    def explain_overflow(self, done: int) -> str:
        """Return where the first number overflowed, or ''."""
        return ""

    def plots(self) -> dict[str, Callable[[], None]]:
        """Return functions that draw a plot each, by file, for after the weights were written."""
        return {}


class WorkerCallbacks(Callbacks):
    """Callbacks of a rank that writes nothing, and takes part in every exchange of the ranks."""

    board = None

    def __init__(self, session):
        self.session = session

    def draw(self, done):
        """Write nothing: rank 0 does."""

    def weights(self):
        return {}

    def should_stop(self, requested):
        return any(self.session.ranks.all_gather_object(requested))

    def to_numbers(self, metrics):
        return self.session.ranks.mean_numbers(super().to_numbers(metrics))

    def on_metrics(self, done, row):
        if sentence := self.divergence(done):
            self.report([sentence])
            raise UserError(sentence)

    def divergence(self, done: int) -> str:
        """Return a sentence where a weight exceeds DIVERGED: the rate is far too large; else ''."""
        for player, optimizer in self.session.optimizers.items():
            theta = optimizer.parameters.flat
            largest = float(array_module(theta).abs(theta).max())
            if largest > DIVERGED:
                return (
                    f"step {done}: the training has diverged: a weight of the {player} "
                    f"is {largest:.3g}; try a far smaller --lr"
                )
        return ""

    def report(self, sentences: list[str]) -> None:
        """Report nothing: rank 0 does."""

    def all_finite(self):
        return all(np.isfinite(a).all() for a in self.session.arrays().values())

    def save(self, done):
        self.session.require_same_state()

    def explain_overflow(self, done):
        return (
            "rawgan train --resume RUN --parallel none reports the layer where the overflow begins"
        )


class MainCallbacks(WorkerCallbacks):
    """Callbacks of rank 0, or of the only process: everything that is printed and written."""

    def __init__(self, session, run: RunFolder, board: Board | None):
        super().__init__(session)
        self.run, self.board = run, board
        self.diagnostics = Diagnostics(session.recipe, some(session.images.images))

    def draw(self, done):
        session, images = self.session, self.session.sample_images()
        if not done:
            save_grid(self.run.path / "real.png", session.real_images(), session.columns)
        save_grid(self.run.path / "samples" / f"step_{done:06}.png", images, session.columns)
        if self.board:
            self.board.add_images(done, images, session.columns)
        if done and "penalty_norms" in self.run.tables:
            norms = to_host(session.gan.norms).tolist()
            self.run.log("penalty_norms", *({"step": done, "norm": norm} for norm in norms))
        self.report(self.diagnostics.on_samples(done, images))

    def progress_text(self, row):
        return (
            f"loss D {row['d_loss']:.3f}, G {row['g_loss']:.3f}, "
            f"D(x) {row['d_real']:.2f}, D(G(z)) {row['d_fake']:.2f}"
        )

    def on_metrics(self, done, row):
        # a CUDA graph of many steps keeps the gradients of its last step alone
        norms = self.session.gradient_norms() if done == self.session.done else {}
        if norms:
            self.run.log("gradients", {"step": done} | norms)
        if self.board:
            self.board.add_scalars(done, row, norms)
        self.report(self.diagnostics.on_metrics(done, row, norms))
        if done % LOOK_EVERY == 0 and done == self.session.done:
            self.report(self.diagnostics.on_samples(done, self.session.sample_images()))
        super().on_metrics(done, row)

    def report(self, sentences: list[str]) -> None:
        """Print diagnoses, and add them to diagnosis.txt: a line each, and each once.

        A resumed run repeats diagnoses of the steps after its checkpoint.
        """
        for sentence in sentences:
            tqdm.write(f"diagnosis: {sentence}", file=sys.stderr)
        path, lines = self.run.path / "diagnosis.txt", []
        if sentences and kind(path) is not None:
            try:
                lines = read_file(path, TEXT).decode("utf-8", "replace").splitlines()
            except Unreadable as error:
                raise UserError(f"{path} cannot be added to ({error}): move it away") from error
        if new := [sentence for sentence in sentences if sentence not in lines]:
            write_whole(path, "".join(f"{line}\n" for line in lines + new).encode())

    def save(self, done):
        super().save(done)
        self.run.sync()
        session = self.session
        save_checkpoint(
            self.run.path, done, session.arrays(), session.state_dict(), session.options.keep
        )
        tqdm.write(f"checkpoint: step {done}", file=sys.stdout)
        sys.stdout.flush()

    def explain_overflow(self, done):
        if self.session.ranks.size > 1:
            return super().explain_overflow(done)
        return locate_overflow(self.session, self.run.path, done)

    def weights(self):
        return self.session.weights()

    def plots(self):
        path, tables = self.run.path, self.run.tables
        gradients = tables["gradients"].rows
        plots = {"gradients.png": lambda: save_gradients(path / "gradients.png", gradients)}
        if "penalty_norms" in tables and (rows := tables["penalty_norms"].rows):
            plots["penalty_norms.png"] = lambda: save_norms(path / "penalty_norms.png", rows)
        grids = [*numbered_samples(path).values()]
        return plots | {"progress.gif": lambda: save_progress(path / "progress.gif", grids)}


def some(images: np.ndarray, n: int = 64) -> np.ndarray:
    """Return n images from all over a data set, in any order of its files; always the same."""
    return images[np.random.default_rng(0).permutation(len(images))[:n]]


def locate_overflow(session, run: Path, done: int) -> str:
    """Return in words where the first number up to step `done` overflowed.

    The steps since the last checkpoint are computed again with every layer checked.
    """
    session.close()
    session.graph_runner = None  # frees its device memory for that of the fresh copy
    saved = checkpoints(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = session.fresh_copy()
    if saved:
        fresh.restore(list(saved.values())[-1])
    last_good = (
        f"the last good checkpoint is of step {fresh.done}"
        if saved
        else "there was no checkpoint yet"
    )
    try:
        location = first_overflow(fresh.gan, fresh.checked_step, fresh.done, done)
    finally:
        fresh.close()
    return f"{location}; {last_good}"
