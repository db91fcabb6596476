"""Mode collapse in the plane: a plain GAN and a WGAN-GP learn the same mixture of Gaussians.

python examples/toy_modes.py
python examples/toy_modes.py --distribution grid --seed 1
"""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import typer
from matplotlib.figure import Figure

from rawgan.cli.common import run_command
from rawgan.errors import UserError
from rawgan.files import write_whole
from rawgan.gan import GAN
from rawgan.init import he_uniform
from rawgan.layers import Parameters
from rawgan.losses import BCE, Wasserstein
from rawgan.optim import Adam
from rawgan.penalties import WGANGP
from rawgan.random import Random
from rawgan.toys import TOYS, Mixture, count_modes, critic, generator
from rawgan.training.loop import progress_bar
from rawgan.training.run_folder import free_folder, prepare_picture

# Common to both. The learning rate decays to 0, so that the points settle; betas: Gulrajani et al.
BATCH, RATE, BETAS = 128, 2e-3, (0.0, 0.9)
# Objective, penalty, critic steps per generator step. In the plane a penalty weight of 1 instead of
# 10 suffices.
PLAYERS = {"GAN": (BCE(), None, 1), "WGAN-GP": (Wasserstein(), WGANGP(1), 3)}
LAST = 100  # the reported gradient norm is the mean over this many last critic steps
SAMPLES = 2500  # samples from which modes are counted


class Player:
    """One of PLAYERS, trained on a toy distribution.

    `norms` has one value per critic step:

        norms[t] = mean over n of |d D(x[n]) / d x[n]|

    The points x[n] lie between real and fake points. All inputs of the networks are in units of the
    toy's spread.
    """

    def __init__(self, name: str, toy: Mixture, seed: int):
        self.name, self.toy, self.random, self.norms = name, toy, Random(seed), []
        objective, penalty, self.critic_steps = PLAYERS[name]
        nets = {"generator": generator(), "critic": critic()}
        for who, net in nets.items():
            he_uniform(net, self.random.stream(f"{who} weights"))
        optimizers = [Adam(Parameters(net), RATE, BETAS) for net in nets.values()]
        self.gan = GAN(
            *nets.values(), objective, *optimizers, penalty, rng=self.random.stream("penalty")
        )

    def train(self, steps: int) -> None:
        """Train the generator for `steps` steps, the critic critic_steps times before each."""
        gan, measure = self.gan, WGANGP()
        with progress_bar(steps) as bar:
            bar.set_description(f"{self.name:7}")
            for step in range(steps):
                gan.generator_optimizer.lr = gan.discriminator_optimizer.lr = RATE * (
                    1 - step / steps
                )
                for _ in range(self.critic_steps):
                    real = self.toy(self.random.stream("real"), BATCH) / self.toy.spread
                    fake, cache = gan.generate(self.z(BATCH))
                    # the norm is measured as for a penalty, but not trained on
                    if gan.penalty is None:
                        _, _, norms = measure(
                            gan.discriminator, measure.points(real, fake, gan.rng)
                        )
                        metrics = {"gradient_norm": norms.mean()} | gan.discriminator_step(
                            real, fake
                        )
                    else:
                        metrics = gan.discriminator_step(real, fake)
                    self.norms.append(float(metrics["gradient_norm"]))
                gan.generator_step(fake, cache)
                bar.update()

    def z(self, n: int, stream: str = "z") -> np.ndarray:
        return self.random.stream(stream).standard_normal((n, 2), dtype=np.float32)

    def sample(self, n: int = SAMPLES) -> np.ndarray:
        """Return n generated points (n, 2) in the toy's units."""
        return self.gan.generate(self.z(n, "samples"), "inference")[0] * self.toy.spread

    def surface(self, x: np.ndarray) -> np.ndarray:
        """Return D's scores at points x (..., 2) in the toy's units."""
        flat = (x.reshape(-1, 2) / self.toy.spread).astype(np.float32)
        return self.gan.discriminator.forward(flat, train=False)[0].reshape(x.shape[:-1])

    def last_norm(self) -> float:
        """Return the mean gradient norm over the last LAST critic steps."""
        return float(np.mean(self.norms[-LAST:]))


def draw_samples(axes, player: Player) -> str:
    """Plot samples over the contours of D's score, with a red ring around every missed mode.

    Returns the title, which has the number of modes covered.
    """
    toy, x = player.toy, player.sample()
    modes, good = count_modes(x, toy.centres, toy.std)
    missed = [c for c in toy.centres if not count_modes(x, c[None], toy.std)[0]]
    edge = 1.4 * toy.centres.max()
    plane = np.stack(np.meshgrid(*2 * [np.linspace(-edge, edge, 200)]), -1)
    axes.contourf(
        plane[..., 0], plane[..., 1], player.surface(plane), levels=24, cmap="Blues_r", alpha=0.75
    )
    axes.scatter(*x.T, s=4, color="#f76707", linewidths=0)
    axes.scatter(
        *np.reshape(missed, (-1, 2)).T,
        s=160,
        facecolors="none",
        edgecolors="crimson",
        linewidths=1.8,
    )
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
    axes.set_xlabel("orange: generated; light: D says real; ring: missed mode")
    title = f"{player.name}: {modes} of {len(toy.centres)} modes, {good:.0%} of points within 3 std"
    axes.set_title(title, fontsize=12)
    return title


def draw_norms(axes, players: list[Player]) -> None:
    """Plot the gradient norms during training, averaged over 100 critic steps, log scale."""
    axes.axhspan(0.9, 1.1, color="0.88", label="0.9 to 1.1")
    for player, color in zip(players, ("crimson", "tab:blue")):
        window = min(LAST, len(player.norms))
        mean = np.convolve(player.norms, np.full(window, 1 / window), "valid")
        axes.plot(np.linspace(0, 100, len(mean)), mean, color=color, label=player.name)
    axes.set(
        yscale="log",
        ylim=(0.5, 200),
        yticks=(1, 10, 100),
        yticklabels=(1, 10, 100),
        xlabel="% of training done",
    )
    axes.set_title("|gradient of D| between real and fake", fontsize=12)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")


def command(
    distribution: Annotated[str, typer.Option(help=" or ".join(TOYS))] = "ring",
    steps: Annotated[int, typer.Option(min=1, help="training steps of each generator")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same picture")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="the PNG to write; runs/toy-DISTRIBUTION-NNN/modes.png unless given"),
    ] = None,
):
    """Draws what a GAN and a WGAN-GP learn of a Gaussian mixture, and counts the modes they cover.

    The mixture is 8 Gaussians in a ring, or 25 in a grid.
    """
    if distribution not in TOYS:
        raise UserError(f"there is no distribution {distribution!r}: choose {' or '.join(TOYS)}")
    out = out or free_folder(Path("runs") / f"toy-{distribution}") / "modes.png"
    prepare_picture(out)
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"nothing can be written into {out.parent}; give --out another folder")

    players = [Player(name, TOYS[distribution], seed) for name in PLAYERS]
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    *samples, norms = figure.subplots(1, 3)
    for player, axes in zip(players, samples):
        player.train(steps)
        title = draw_samples(axes, player)
        print(
            f"{title}; mean gradient norm of the last {LAST} critic steps {player.last_norm():.3f}",
            flush=True,
        )
    draw_norms(norms, players)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_whole(out, png.getvalue())
    print(f"The picture is {out}")


if __name__ == "__main__":
    run_command(command)
