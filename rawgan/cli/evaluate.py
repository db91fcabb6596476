"""rawgan evaluate: how good the pictures of a run are."""

import json
from pathlib import Path
from typing import Annotated

import typer

import rawgan
from rawgan.cli.common import DeviceOption, RunArgument, SeedOption, device_for
from rawgan.errors import UserError
from rawgan.metrics.classifier import judge_for
from rawgan.metrics.evaluation import NAMES, evaluate, said, splits
from rawgan.random import Random
from rawgan.training.load import choose_labels, load_generator
from rawgan.training.loop import latent, sample
from rawgan.training.run import write_whole


def command(
    run: RunArgument,
    data: Annotated[str | None, typer.Option(help="the pictures to compare with; those of the training unless given")] = None,
    count: Annotated[int, typer.Option(min=8, max=100_000, help="how many pictures are drawn and judged")] = 10_000,
    seed: SeedOption = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the numbers; RUN/evaluation.json unless given")] = None,
    device: DeviceOption = "auto",
):
    """Judges the pictures of a run, drawn in inference mode, by a small classifier that is trained on the data (once: it is kept).

    Every number stands between that of as many training pictures, which nobody betters, and that of noise.

    rawgan evaluate runs/dcgan-digits-001

    rawgan evaluate runs/dcgan-pictures-001 --data path/to/pictures --count 2000
    """
    where = device_for(device)
    recipe, generator, config = load_generator(run, where)
    source = data or config.get("source") or config.get("data")
    if not isinstance(source, str):
        raise UserError(f"{run} does not say which pictures it was trained on: give --data")
    train, test, told_apart = splits(source, config["size"], config["channels"])
    print(f"Data: {train.source}, {len(train)} training and {len(test)} test pictures ({told_apart}).", flush=True)
    judge = judge_for(train, device=where)
    accuracy = judge.accuracy(test)
    print(f"Judge: {accuracy:.2%} of the test pictures' {judge.task} found; {judge.sha256[:12]}.", flush=True)
    labels = choose_labels(recipe, count)
    images = sample(recipe, generator, latent(recipe, Random(seed).stream("z"), where, count, labels))
    scores = evaluate(images, labels, train, test, judge, seed)
    found = {"data": train.name, "source": train.source, "test": told_apart, "count": count, "seed": seed, "device": where.name}
    found |= {"judge": {"task": judge.task, "classes": judge.classes, "accuracy": accuracy, "sha256": judge.sha256}}
    found |= {"scores": scores, "versions": {"rawgan": rawgan.__version__}}
    path = json_file or run / "evaluation.json"
    write_whole(path, json.dumps(found, indent=2).encode() + b"\n")
    print(f"\n{'':34}{'samples':>16}{'training':>16}{'noise':>16}")
    for name, about in NAMES.items():
        if name in scores["samples"]:
            print(f"{about:34}" + "".join(f"{said(column, name):>16}" for column in scores.values()))
    print(f"\nThe numbers are in {path}; compare only those of one judge and one count.")
