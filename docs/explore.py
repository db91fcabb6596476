"""Notebook for a CPU: a small generator's latent space, gradient flow, D's surface in training.

marimo run docs/explore.py        or, to see and change the code,   marimo edit docs/explore.py

The networks of a run instead of the small ones:   marimo run docs/explore.py -- --run RUN
"""

import marimo

app = marimo.App(app_title="rawgan: explore")

with app.setup:
    import sys
    from pathlib import Path
    from types import SimpleNamespace

    import marimo as mo
    import numpy as np
    from matplotlib.figure import Figure

    # a plain checkout works without installing
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    from docs.figures.toy import digits_gan, digits_steps, real_and_z, ring_gan
    from rawgan.losses import BCE, Wasserstein
    from rawgan.penalties import WGANGP
    from rawgan.random import Random
    from rawgan.toys import ring
    from rawgan.training.load import load_player

    Z = 8  # latent dimensions, one slider each


@app.cell
def _():
    mo.md(
        """
    # Explore

    Everything below is computed by rawgan's layers on this machine's CPU. """
        """The networks are trained when the notebook starts,
    in seconds.
    """
    )
    return


@app.cell
def _():
    # for both trainings; for fewer: marimo export html docs/explore.py -- --steps 50
    steps = int(mo.cli_args().get("steps") or 600)
    return (steps,)


@app.cell
def _():
    # the networks of one's own run: marimo run docs/explore.py -- --run runs/dcgan-digits-001
    run = mo.cli_args().get("run")
    return (run,)


@app.cell
def _(run, steps):
    if run:
        recipe, generator, _ = load_player(Path(str(run)))
        gan = SimpleNamespace(
            generator=generator, discriminator=load_player(Path(str(run)), "discriminator")[1]
        )
        for net in (gan.generator, gan.discriminator):
            net.bind(np.random.default_rng(0))
        latent_size, lowest = recipe.z, -1 if recipe.pixels == "tanh" else 0
        mo.stop(
            recipe.classes > 0,
            mo.md(f"{recipe.name} takes labels: this notebook draws runs without classes."),
        )
        message = (
            f"{recipe.name} of {run}; the sliders move the first {Z} of its {recipe.z} numbers."
        )
    else:
        random = Random(0)
        gan = digits_gan(random, Z)
        latent_size, lowest = Z, -1
        with mo.status.spinner("training a DCGAN of 16x16 digits"):
            history = list(digits_steps(gan, random, steps, Z))
        d_loss, g_loss = (float(history[-1][name]) for name in ("d_loss", "g_loss"))
        message = f"The last step of {steps}: loss of D {d_loss:.2f}, of G {g_loss:.2f}."
    # the numbers that no slider moves
    fixed = np.random.default_rng(8).standard_normal(latent_size).astype(np.float32)
    mo.md(message)
    return fixed, gan, lowest


@app.cell
def _():
    first = np.random.default_rng(8).uniform(-2, 2, Z).round(1)
    sliders = mo.ui.array(
        [
            mo.ui.slider(-2.5, 2.5, 0.1, value=float(v), label=f"z[{i}]", show_value=True)
            for i, v in enumerate(first)
        ]
    )
    about = """
    ## The latent space

    One picture for these eight numbers, and what each number does to it from -2.5 to 2.5.
    """
    mo.vstack(
        [
            mo.md(about),
            *(mo.hstack(sliders[i : i + 2], justify="start", gap=3) for i in range(0, Z, 2)),
        ]
    )
    return (sliders,)


@app.cell
def _(fixed, gan, lowest, sliders):
    def latent_picture(z: np.ndarray, along: int = 9) -> Figure:
        """Return a figure of G(z), with a row per latent dimension that varies only this one."""
        figure = Figure(figsize=(8, 6.4), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
        z = np.concatenate([z, fixed[Z:]]).astype(np.float32)
        walks = np.tile(z, (Z, along, 1))
        for i in range(Z):
            walks[i, :, i] = np.linspace(-2.5, 2.5, along)
        images = gan.generator.forward(
            np.concatenate([z[None], walks.reshape(-1, len(z))]), train=False
        )[0]
        images = (images - lowest) / (1 - lowest)
        images = images[..., 0] if images.shape[-1] == 1 else images
        for axes, image in zip((left.subplots(), *right.subplots(Z, along).flat), images):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.axis("off")
        return figure

    digit = latent_picture(np.array(sliders.value))
    digit  # noqa: B018
    return (digit,)


@app.cell
def _():
    loss = mo.ui.dropdown(
        ["non-saturating", "minimax", "Wasserstein"], value="non-saturating", label="G's loss"
    )
    certain = mo.ui.slider(
        -2, 12, 1, value=0, label="how sure D is: taken off the fakes' scores", show_value=True
    )
    text = (
        """
    ## The flow of gradients

    G's gradient starts at the scores of the fakes, passes down through D and on through G. """
        """Each bar is the root mean square of the
    cotangent below one layer. Make D surer of itself, and compare the losses.
    """
    )
    mo.vstack([mo.md(text), mo.hstack([loss, certain])])
    return certain, loss


@app.cell
def _(certain, fixed, gan, loss):
    def cotangents() -> dict[str, float]:
        """Return the size of the cotangent layer by layer, from the last of D to the first of G."""
        objective = {
            "non-saturating": BCE(),
            "minimax": BCE(minimax=True),
            "Wasserstein": Wasserstein(),
        }[loss.value]
        z = np.random.default_rng(0).standard_normal((64, len(fixed)), dtype=np.float32)
        fake, g_cache = gan.generator.forward(z)
        c, d_cache = gan.discriminator.forward(fake)
        _, dc = objective.generator(c - np.float32(certain.value))
        through_d = gan.discriminator.upstream(dc, d_cache)
        through_g = gan.generator.upstream(through_d[0], g_cache)
        rows = {}
        for who, net, dys in (("D", gan.discriminator, through_d), ("G", gan.generator, through_g)):
            for i in reversed(range(len(net.layers))):
                rows[f"{who} {i} {type(net.layers[i]).__name__}"] = float(
                    np.sqrt((dys[i] ** 2).mean())
                )
        return rows

    def flow_picture() -> Figure:
        rows = cotangents()
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.barh(
            list(rows),
            list(rows.values()),
            color=["#3b82c4" if name[0] == "D" else "#e8590c" for name in rows],
        )
        axes.set(xscale="log", xlim=(1e-9, 1), xlabel="root mean square of dx")
        axes.invert_yaxis()
        return figure

    flow = flow_picture()
    flow  # noqa: B018
    return cotangents, flow


@app.cell
def _():
    kind = mo.ui.dropdown(["WGAN-GP", "GAN"], value="WGAN-GP", label="game")
    mo.vstack(
        [
            mo.md(
                "## D's surface while it trains\n\n"
                "Eight Gaussians on a ring; light is where D says real, orange are the fakes."
            ),
            kind,
        ]
    )
    return (kind,)


@app.cell
def _(kind, steps):
    def watch(every: int = 25) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return (step, D's scores on a grid, fakes) every few steps of a training."""
        source = Random(0)
        game = ring_gan(
            source,
            *((BCE(), None) if kind.value == "GAN" else (Wasserstein(), WGANGP(1))),
            rate=2e-3,
        )
        along = np.linspace(-2.2, 2.2, 70, dtype=np.float32)
        plane = np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)
        z, frames = np.random.default_rng(0).standard_normal((400, 2), dtype=np.float32), []
        for step in range(2 * steps + 1):
            if step % every == 0:
                scores = game.discriminator.forward(plane, train=False)[0].reshape(70, 70)
                frames.append((step, scores, game.generate(z, "inference")[0]))
            game.train_step(*real_and_z(source))
        return frames

    frames = watch()
    moment = mo.ui.slider(
        0, len(frames) - 1, 1, value=len(frames) - 1, label="frame", full_width=True
    )
    moment  # noqa: B018
    return frames, moment


@app.cell
def _(frames, moment):
    def surface_picture() -> Figure:
        step, scores, fakes = frames[moment.value]
        figure = Figure(figsize=(5.4, 5.4), layout="constrained")
        axes = figure.subplots()
        axes.contourf(*2 * [np.linspace(-2.2, 2.2, 70)], scores, levels=24, cmap="Blues_r")
        axes.scatter(*(ring.centres / ring.spread).T, s=90, facecolors="none", edgecolors="white")
        axes.scatter(*fakes.T, s=5, color="#f76707")
        axes.set(title=f"step {step}", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
        return figure

    surface = surface_picture()
    surface  # noqa: B018
    return (surface,)


if __name__ == "__main__":
    app.run()
