"""What the process that writes does around its steps: rank 0, or the only one."""

import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from rawgan.backend import to_host
from rawgan.training.board import Board
from rawgan.training.checkpoint import checkpoints, save_checkpoint
from rawgan.training.diagnosis import Doctor, first_overflow
from rawgan.training.loop import progress
from rawgan.training.partner import Partner
from rawgan.training.pictures import save_gradients, save_grid, save_norms, save_progress
from rawgan.training.run import RunFolder, write_whole


class Trainer(Partner):
    """What rank 0 does around the steps of a GAN, and writes."""

    def __init__(self, session, run: RunFolder, board: Board | None):
        super().__init__(session)
        self.run, self.board = run, board
        self.doctor = Doctor(session.recipe, session.images.images[: 8 * session.columns])

    def draw(self, done):
        images = self.session.images_drawn()
        save_grid(self.run.path / "samples" / f"step_{done:06}.png", images, self.session.columns)
        if self.board:
            self.board.images(done, images, self.session.columns)
        if done and "penalty_norms" in self.run.tables:
            self.run.log("penalty_norms", *({"step": done, "norm": norm} for norm in to_host(self.session.gan.norms).tolist()))
        self.hear(self.doctor.look(done, images))

    def say(self, row):
        return progress(row)

    def logged(self, done, row):
        norms = self.session.gradient_norms() if done == self.session.done else {}  # a graph has gone past the others
        if norms:
            self.run.log("gradients", {"step": done} | norms)
        if self.board:
            self.board.numbers(done, row, norms)
        self.hear(self.doctor.listen(done, row, norms))

    def hear(self, said: list[str]) -> None:
        """Says it, and keeps it for the report: a line each, once, as a resumed run may say again what it said before."""
        for sentence in said:
            tqdm.write(f"diagnosis: {sentence}", file=sys.stderr)
        path = self.run.path / "diagnosis.txt"
        kept = path.read_text(encoding="utf-8").splitlines() if said and path.exists() else []
        if new := [sentence for sentence in said if sentence not in kept]:
            write_whole(path, "".join(f"{line}\n" for line in kept + new).encode())

    def save(self, done):
        super().save(done)
        self.run.sync()
        save_checkpoint(self.run.path, done, self.session.arrays(), self.session.facts(), self.session.options.keep)
        tqdm.write(f"checkpoint: step {done}", file=sys.stdout)
        sys.stdout.flush()

    def explain(self, done):
        return overflow(self.session, self.run.path, done) if self.session.ranks.size == 1 else super().explain(done)

    def weights(self):
        return self.session.weights()

    def finish(self):
        save_gradients(self.run.path / "gradients.png", self.run.tables["gradients"].rows)
        if "penalty_norms" in self.run.tables and (rows := self.run.tables["penalty_norms"].rows):
            save_norms(self.run.path / "penalty_norms.png", rows)
        save_progress(self.run.path / "progress.gif", sorted((self.run.path / "samples").glob("step_*.png")))


def overflow(session, run: Path, done: int) -> str:
    """Where, up to step `done`, the first number stopped being finite: going again through the steps since the last checkpoint."""
    session.close()
    session.replay = None  # room for that of another session
    found = checkpoints(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = session.anew()
    if found:
        again.restore(list(found.values())[-1])
    kept = f"the last good checkpoint is of step {again.done}" if found else "there was no checkpoint yet"
    try:
        where = first_overflow(again.gan, again.careful, again.done, done)
    finally:
        again.close()
    return f"{where}; {kept}"
