"""Run folder of a training whose loop stands in a script: metrics, samples, weights."""

from dataclasses import replace
from pathlib import Path

from rawgan.backend import Array
from rawgan.parallel import SINGLE_PROCESS
from rawgan.training.options import Options
from rawgan.training.plots import columns, curves, save_grid
from rawgan.training.run_folder import RunFolder, free_folder
from rawgan.training.sampling import sample
from rawgan.training.session import open_session

LOG_EVERY = 10


class ShortRun:
    """A session on arrays, and its folder runs/RECIPE-DATA-NNN, without checkpoints and plots.

    The steps and their inputs are those of `rawgan train` with these options, and `rawgan sample`
    and `rawgan report` read the folder. Raises UserError.
    """

    def __init__(self, options: Options):
        options.validate()
        session = open_session(replace(options, path="arrays"), SINGLE_PROCESS)
        recipe, images, self.session = session.recipe, session.images, session
        _, H, _, C = images.images.shape
        config = {"recipe": recipe.name, "data": images.name, "source": session.options.data}
        config |= {"size": H, "channels": C, "width": session.options.width}
        config |= {"classes": list(images.classes)} if recipe.classes else {}
        self.folder = RunFolder.new(
            free_folder(Path("runs") / f"{recipe.name}-{images.name}"),
            config,
            {"metrics": columns(curves(recipe))},
            recipe_file=recipe.file,
        )

    def log(self, step: int, metrics: dict[str, Array]) -> None:
        """Write the metrics of each tenth step to metrics.csv."""
        if step % LOG_EVERY == 0:
            row = {name: float(value) for name, value in metrics.items()}
            self.folder.log("metrics", {"step": step} | row)

    def save_samples(self, step: int, metrics: dict[str, Array]) -> None:
        """Write the sample grid of a step; print its path and the losses."""
        session, path = self.session, self.folder.path / "samples" / f"step_{step:06}.png"
        images = sample(session.recipe, session.gan.generator, session.fixed_z)
        save_grid(path, images, session.recipe.classes or None)
        losses = f"loss D {metrics['d_loss']:.3f}, G {metrics['g_loss']:.3f}"
        print(f"step {step}: {losses}, {path}", flush=True)

    def save_weights(self) -> None:
        """Write the weights of both networks and close the folder."""
        self.folder.save_weights(self.session.weights())
        self.folder.close()
