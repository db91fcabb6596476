"""One self-contained HTML page about a run: pictures, curves and numbers inlined, nothing fetched from anywhere."""

from pathlib import Path

from jinja2 import Environment, PackageLoader

from rawgan.errors import UserError
from rawgan.metrics.evaluation import MEANING, NAMES, said
from rawgan.report import charts
from rawgan.report.read import Reader, evenly

FRAMES = 12  # sample grids shown
CHARTS = {  # what metrics.csv may hold: title, the columns under it and their labels, and what it says
    "Losses": (
        {"d_loss": "discriminator", "g_loss": "generator"},
        "Neither goes to zero in a healthy game: they chase each other.",
    ),
    "Mean score of D": (
        {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"},
        "The wider apart, the surer D is; of a critic's scores only the difference counts.",
    ),
    "Penalty": ({"penalty": "penalty in D's loss"}, "What the gradient penalty adds to D's loss."),
    "Gradient norm of D": ({"gradient_norm": "mean |dD/dx|"}, "Where it is penalised, it should come to rest near 1."),
    "Reconstruction": (
        {"loss": "loss", "reconstruction": "reconstruction", "kl": "KL to the prior"},
        "What the autoencoder minimises.",
    ),
}


def page(run: Path) -> str:
    """The page as HTML. What is missing in the run folder, or cannot be read, is said on it.

    Raises UserError where there is no such folder.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"there is no run folder {run}; give one that a training left")
    files = Reader(run)
    config, evaluation = files.json("config.json"), files.json("evaluation.json")
    metrics, gradients = files.table("metrics.csv"), files.table("gradients.csv")
    norms = files.table("penalty_norms.csv", ("step", "norm"))
    grids = files.samples()
    environment = Environment(loader=PackageLoader("rawgan.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        name=run.resolve().name,
        config=config,
        versions=config["versions"] if config and isinstance(config.get("versions"), dict) else {},
        done=int(metrics["step"][-1]) if metrics else max(grids, default=None),
        last={name: values[-1] for name, values in (metrics or {}).items()},
        grids=[(step, files.png(grids[step])) for step in evenly(sorted(grids), FRAMES)],
        all_grids=len(grids),
        curves=curves(metrics),
        gradients=charts.gradients(gradients) if gradients else [],
        norms=charts.norms(norms) if norms else None,
        evaluation=evaluation,
        scores=scores(evaluation),
        diagnosis=files.lines("diagnosis.txt"),
        missing=files.missing,
        broken=files.broken,
    )


def curves(metrics: dict | None) -> list[tuple[str, str, str]]:
    """(title, what it says, SVG) of each chart that the columns of metrics.csv suffice for."""
    found = []
    for title, (columns, says) in CHARTS.items():
        here = {label: metrics[name] for name, label in columns.items() if name in metrics} if metrics else {}
        if here:
            found.append((title, says, charts.lines(metrics["step"], here, title)))
    return found


def scores(evaluation: dict | None) -> list[tuple[str, str, list[str]]]:
    """(name, meaning, its three numbers) of every score in an evaluation.json that is as rawgan evaluate writes it."""
    table = (evaluation or {}).get("scores")
    columns = [table.get(name) for name in ("samples", "train", "noise")] if isinstance(table, dict) else []
    if not columns or not all(isinstance(column, dict) for column in columns):
        return []
    return [
        (about, MEANING[name], [said(column, name) for column in columns]) for name, about in NAMES.items() if name in columns[0]
    ]
