"""How well a trained CycleGAN translates: distances of pixels, and the labels that it keeps.

    python -m benchmarks.quality.translation runs/cyclegan-noto-emoji-001

All images of both sets are translated there and back. Mean absolute differences are in [0, 1]:

    cycle       of an image from itself, translated there and back
    colour      of a colourised gray image from its original, whose gray version it was
    gray        the same of the gray image itself
    to_gray     of a colour image translated to gray from its gray version

Between two labelled sets of one number of channels, the label of a translated image is that of its
nearest image of the other set, by Euclidean distance:

    kept        the share of images that keep their label
    own         the share of the other set's own images, each without itself, that are found right:
                what a perfect translation would keep
    to          for each label the one that most of its images become: a permutation where the
                translation exchanges labels, the same for several where it merges them
    become_to   the share of images that become it
"""

import argparse
import json
from pathlib import Path

import numpy as np

from rawgan.backend import CPU
from rawgan.cpu import set_up
from rawgan.data import Images
from rawgan.metrics.neighbours import squared_distances
from rawgan.training.checkpoint import checkpoints
from rawgan.training.options import read_config
from rawgan.training.systems.base import drawn, pixels
from rawgan.training.systems.cyclegan import CycleGANOptions, CycleGANTraining

BATCH = 256


def load_run(run: Path) -> CycleGANTraining:
    """Return the training of a run at its last checkpoint."""
    path = run / "config.json"
    options = CycleGANOptions.from_config(read_config(path), path)
    training = CycleGANTraining(options, options.load_images(), CPU)
    training.restore([*checkpoints(run).values()][-1])
    return training


def translated(translate, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 translated, and translated back."""
    batches = [
        translate(pixels(images[start : start + BATCH], CPU))
        for start in range(0, len(images), BATCH)
    ]
    return tuple(drawn(np.concatenate(parts)) for parts in zip(*batches, strict=True))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean absolute difference of uint8 images, in [0, 1]."""
    return round(float(np.abs(a.astype(np.float32) - b).mean()) / 255, 4)


def labels_of(images: np.ndarray, others: Images, leave_out: bool = False) -> np.ndarray:
    """Return the label of the nearest of `others` for each image; leave_out: images are they."""
    flat, labels, row = [a.reshape(len(a), -1) for a in (images, others.images)], [], 0
    for _, distances in squared_distances(*flat):
        if leave_out:
            here = np.arange(len(distances))
            distances[here, row + here] = np.inf
        labels.append(others.labels[distances.argmin(1)])
        row += len(distances)
    return np.concatenate(labels)


def kept_labels(fake: np.ndarray, labels: np.ndarray, others: Images) -> dict:
    """Return the shares of labels kept by translated images, and what each label becomes."""
    table = np.zeros((len(others.classes),) * 2, int)
    np.add.at(table, (labels, labels_of(fake, others)), 1)
    return {
        "kept": round(float(np.trace(table)) / len(fake), 4),
        "own": round(float((labels_of(others.images, others, True) == others.labels).mean()), 4),
        "to": table.argmax(1).tolist(),
        "become_to": round(float(table.max(1).sum()) / len(fake), 4),
    }


def measure(training: CycleGANTraining) -> dict:
    """Return all measures of a training, by direction."""
    model, sets = training.model, training.sets
    ways = {"source": (model.translate, "target"), "target": (model.translate_back, "source")}
    fakes, results = {}, {"steps": training.done}
    for name, (translate, other) in ways.items():
        images = sets[name]
        fakes[name], again = translated(translate, images.images)
        results[name] = {"data": images.name, "cycle": difference(again, images.images)}
        one_shape = images.images.shape[1:] == sets[other].images.shape[1:]
        if images.labels is not None and sets[other].labels is not None and one_shape:
            results[name] |= kept_labels(fakes[name], images.labels, sets[other])
    if not training.options.target:
        gray, colour = sets["source"].images, sets["target"].images
        results["source"]["colour"] = difference(fakes["source"], colour)
        results["source"]["gray"] = difference(gray, colour)
        results["target"]["to_gray"] = difference(fakes["target"], gray)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    set_up()
    print(json.dumps(measure(load_run(parser.parse_args().run)), indent=1))


if __name__ == "__main__":
    main()
