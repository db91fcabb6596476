"""rawgan evaluate: metrics of the images of a run."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer
from tqdm import tqdm

import rawgan
from rawgan.cli.common import (
    DeviceOption,
    RecipeFileOption,
    RunArgument,
    SeedOption,
    StepOption,
    device_for,
)
from rawgan.cli.outputs import ForceOption, record_outputs, require_outputs
from rawgan.errors import UserError, printable, reason
from rawgan.files import kind, write_whole
from rawgan.metrics.classifier import load_or_train_classifier
from rawgan.metrics.evaluation import (
    BETTER,
    NAMES,
    check_counts,
    evaluate,
    judged_count,
    score_text,
    splits,
    too_few,
)
from rawgan.random import Random
from rawgan.training.load import choose_labels, load_generator, trained_step
from rawgan.training.sampling import latent, sample


def command(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(help="the pictures to compare with; those of the training unless given"),
    ] = None,
    count: Annotated[
        int, typer.Option(min=8, max=100_000, help="how many pictures are drawn and judged")
    ] = 10_000,
    seed: SeedOption = 0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="file for the numbers, new; in RUN unless given"),
    ] = None,
    step: StepOption = None,
    recipe_file: RecipeFileOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
):
    """Evaluate images of a run, drawn in inference mode, by a classifier trained on the data.

    The classifier is trained once and kept. Each metric is printed with the direction that is
    better, next to that of as many training pictures, the best that can be reached, and that of
    noise. RUN/evaluation-STEP.json has the numbers, RUN/evaluation.json those of the last one; the
    first is never replaced, the second is as long as it is as rawgan wrote it, and every other file
    with --force only.

    rawgan evaluate runs/dcgan-digits-001

    rawgan evaluate runs/dcgan-pictures-001 --data path/to/pictures --count 2000
    """
    named = json_file is not None
    require_outputs(run, [json_file or run / "evaluation.json"], named, force, "--json")
    require_writable(json_file.parent if json_file else run)
    computed_on = device_for(device)
    recipe, generator, config = load_generator(run, computed_on, step, recipe_file)
    at = trained_step(run, step)
    source = data or config.get("source") or config.get("data")
    if not isinstance(source, str):
        raise UserError(f"{run} does not name the pictures it was trained on: give --data")
    # the categories of InfoGAN's gaussian form are its own, no classes of the data
    labelled = recipe.classes > 0 and config.get("form") != "gaussian"
    classes = tuple(config.get("classes") or map(str, range(recipe.classes))) if labelled else ()
    train, test, test_source = splits(
        source, config["size"], config["channels"], classes, config.get("skip_broken") is True
    )
    print(
        f"Data: {printable(train.source)}, {len(train)} training and {len(test)} test pictures "
        f"({test_source}).",
        flush=True,
    )
    check_counts(count, train, test)
    classifier = load_or_train_classifier(train, device=computed_on)
    accuracy = classifier.require_better_than_chance(test)
    print(
        f"Classifier: {accuracy:.2%} of the test pictures' {classifier.task} correct; "
        f"{classifier.sha256[:12]}.",
        flush=True,
    )
    warnings = too_few(count, train, test, classifier)
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    labels = choose_labels(recipe, count)
    z = latent(recipe, Random(seed).stream("z"), computed_on, count, labels)
    with tqdm(
        total=count + judged_count(count, train, test),
        desc="evaluation",
        unit=" pictures",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,
    ) as bar:
        images = sample(recipe, generator, z, on_batch=bar.update)
        scores = evaluate(
            images, labels if labelled else None, train, test, classifier, seed, bar.update
        )
    print(f"\nStep {'unknown' if at is None else at}, {count} samples, seed {seed}:")
    print(f"{'':34}{'better':>12}{'samples':>22}{'training':>22}{'noise':>22}")
    for name, label in NAMES.items():
        if name in scores["samples"]:
            columns = (f" {score_text(column, name):>21}" for column in scores.values())
            print(f"{label:34}{BETTER[name]:>12}" + "".join(columns), flush=True)
    result = {
        "step": at,
        "data": train.name,
        "source": train.source,
        "test": test_source,
        "count": count,
        "seed": seed,
        "device": computed_on.name,
    }
    result |= {
        "classifier": {
            "task": classifier.task,
            "classes": classifier.classes,
            "accuracy": accuracy,
            "sha256": classifier.sha256,
        }
    }
    result |= {"scores": scores, "warnings": warnings, "versions": {"rawgan": rawgan.__version__}}
    text = json.dumps(result, indent=2).encode() + b"\n"
    path = json_file or free_evaluation(run, "unknown" if at is None else f"{at:06}")
    write_whole(path, text)
    if not named:
        write_whole(run / "evaluation.json", text)
        record_outputs(run, [path.name, "evaluation.json"])
    print(f"\nThe numbers are in {path}; compare only those of one classifier and one count.")


def require_writable(folder: Path) -> None:
    """Raise UserError, before hours of work, where no file can be made in a folder."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({reason(error)}): give --json a file elsewhere"
        ) from error


def free_evaluation(run: Path, name: str) -> Path:
    """Return the first of RUN/evaluation-NAME.json, evaluation-NAME-2.json, ... that is free."""
    path, n = run / f"evaluation-{name}.json", 1
    while kind(path):
        path, n = run / f"evaluation-{name}-{n + 1}.json", n + 1
    return path
