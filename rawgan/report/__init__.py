"""Report of a run as one self-contained HTML page: pictures, curves and metrics are inlined."""

from pathlib import Path

from jinja2 import Environment, PackageLoader

from rawgan.errors import UserError, printable
from rawgan.files import kind
from rawgan.layers import leaves
from rawgan.metrics.evaluation import BETTER, MEANING, NAMES, as_float, score_text
from rawgan.models.recipes import RECIPES
from rawgan.report import charts
from rawgan.report.read import Reader, evenly

FRAMES = 12  # sample grids shown
NORMS = 200_000  # rows of penalty_norms.csv, one per sample, that are used
SIDE = 256  # largest size and width of a network whose layers are named
INTERPOLATION = tuple(
    f"interpolation-{kind}.{suffix}"
    for kind in ("linear", "spherical")
    for suffix in ("png", "gif")
)
CHARTS = {  # charts from metrics.csv: title: ({column: label}, explanation)
    "Losses": (
        {"d_loss": "discriminator", "g_loss": "generator"},
        "Neither goes to zero in a healthy game: they chase each other.",
    ),
    "Mean score of D": (
        {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"},
        "The wider apart, the surer D is; of a critic's scores only the difference counts.",
    ),
    "Penalty": ({"penalty": "penalty in D's loss"}, "What the gradient penalty adds to D's loss."),
    "Gradient norm of D": (
        {"gradient_norm": "mean |dD/dx|"},
        "Where it is penalised, it should come to rest near 1.",
    ),
    "Adaptive augmentation": (
        {"augment_p": "probability p", "real_sign": "mean sign of D(x), real"},
        "p rises while the mean sign is above 0.6: D then takes most real pictures for real.",
    ),
    "Reconstruction": (
        {"loss": "loss", "reconstruction": "reconstruction", "kl": "KL to the prior"},
        "What the autoencoder minimises.",
    ),
    "Losses of a classifier": (
        {"labelled": "labelled images", "unlabelled": "images without labels, and fakes"},
        "The cross-entropy of the classes, and that of real and fake.",
    ),
    "Feature matching": ({"matching": "squared distance of mean features"}, "What G minimises."),
    "Test error": (
        {"test_error": "share classified wrong"},
        "Of images that no training sees, by D with averaged weights.",
    ),
    "Discriminators of a CycleGAN": (
        {"d_target_loss": "of the target", "d_source_loss": "of the source"},
        "At 0.25 a discriminator cannot tell translated pictures from real ones.",
    ),
    "There and back": (
        {"cycle_source": "of the source", "cycle_target": "of the target"},
        "Mean distance of a picture from itself, translated there and back; pixels are in [0, 1].",
    ),
}


def page(run: Path) -> str:
    """Return the report of a run folder as HTML.

    Files that are missing or cannot be read are listed on the page. Raises UserError if the folder
    does not exist.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"there is no run folder {run}; give one that a training left")
    files = Reader(run)
    config, evaluation = files.json("config.json"), files.json("evaluation.json")
    metrics, gradients = files.table("metrics.csv"), files.table("gradients.csv")
    norms = files.table("penalty_norms.csv", ("step", "norm"), NORMS)
    grids, versions = files.samples(), (config or {}).get("versions")
    environment = Environment(
        loader=PackageLoader("rawgan.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        name=printable(run.resolve().name),
        config=config and {key: shown(value) for key, value in config.items() if key != "versions"},
        versions={key: shown(value) for key, value in versions.items()}
        if isinstance(versions, dict)
        else {},
        done=int(metrics["step"][-1]) if metrics else max(grids, default=None),
        last={name: values[-1] for name, values in (metrics or {}).items()},
        grids=[(step, files.picture(grids[step])) for step in evenly(sorted(grids), FRAMES)],
        real=files.picture("real.png") if kind(run / "real.png") else None,  # older runs have none
        all_grids=len(grids),
        curves=curves(metrics),
        gradients=charts.gradients(gradients, layer_kinds(config)) if gradients else [],
        progress=files.optional("progress.gif"),
        interpolation=files.optional(*INTERPOLATION),
        norms=charts.norms(norms) if norms else None,
        evaluation=evaluation
        and {
            name: shown(value)
            for name, value in evaluation.items()
            if name not in ("scores", "warnings", *CLASSIFIER_KEYS)
        },
        classifier=classifier_entry(evaluation),
        scores=scores(evaluation),
        diagnosis=files.lines("diagnosis.txt"),
        missing=files.missing,
        broken=files.broken,
    )


def layer_kinds(config: dict | None) -> dict[str, str]:
    """Return the class of every layer of both networks, as "discriminator.0": "Conv2d".

    Empty for a recipe that is not in the library, or for sizes that it does not have.
    """
    config = config or {}
    sizes = [config.get(name) for name in ("size", "channels", "width")]
    recipe = RECIPES.get(str(config.get("recipe")))
    if recipe is None or not all(type(size) is int and 1 <= size <= SIDE for size in sizes):
        return {}
    try:
        nets = {who: getattr(recipe, who)(*sizes) for who in ("generator", "discriminator")}
    except (UserError, ValueError, MemoryError):
        return {}
    return {
        f"{who}.{path}": type(leaf).__name__
        for who, net in nets.items()
        for path, leaf in leaves(net)
    }


def shown(value: object) -> str | None:
    """Return a JSON value as text of limited length; None for None."""
    return None if value is None else printable(value, 400)


# Entry of an evaluation.json about the classifier; the second is its name in earlier versions
CLASSIFIER_KEYS = ("classifier", "judge")


def classifier_entry(evaluation: dict | None) -> dict[str, str] | None:
    """Return the classifier's task, accuracy and digest in an evaluation.json, None without one."""
    keys = (key for key in CLASSIFIER_KEYS if key in (evaluation or {}))
    entry = (evaluation or {}).get(next(keys, None))
    if not isinstance(entry, dict):
        return None
    share = as_float(entry.get("accuracy"))
    accuracy = "–" if share is None else f"{100 * share:.2f}"
    sha256 = entry.get("sha256")
    digest = printable(sha256[:12]) if isinstance(sha256, str) else ""
    return {"task": shown(entry.get("task")), "accuracy": accuracy, "sha256": digest}


def curves(metrics: dict | None) -> list[tuple[str, str, str]]:
    """Return (title, explanation, SVG) of each chart for which metrics.csv has a column."""
    rows = []
    for title, (columns, says) in CHARTS.items():
        here = (
            {label: metrics[name] for name, label in columns.items() if name in metrics}
            if metrics
            else {}
        )
        if here:
            rows.append((title, says, charts.lines(metrics["step"], here, title)))
    return rows


def scores(evaluation: dict | None) -> list[tuple[str, str, list[str]]]:
    """Return (name, meaning, values) of every score in an evaluation.json.

    The values are those of samples, training pictures and noise. Empty unless the file has the
    structure that `rawgan evaluate` writes.
    """
    table = (evaluation or {}).get("scores")
    columns = (
        [table.get(name) for name in ("samples", "train", "noise")]
        if isinstance(table, dict)
        else []
    )
    if not columns or not all(isinstance(column, dict) for column in columns):
        return []
    return [
        (
            about,
            f"better: {BETTER[name]}; {MEANING[name]}",
            [score_text(column, name) for column in columns],
        )
        for name, about in NAMES.items()
        if name in columns[0]
    ]
