"""GANs of a few images with and without augmentation: Frechet distance and copies, on a CPU.

    python -m benchmarks.quality.few_images --data fashion-mnist --count 1000 300 --seed 0 1 2

trains the recipe on the first `count` images of a fixed order of the data set, for each
augmentation of --augment ("none": without). At each tenth of the steps it draws samples and writes

    frechet   distance of their features to those of the whole test split
    copies    share of 2,000 samples nearer to the training images than 99 % of test images are:
              0.01 is what unseen images have
    nearest   median distance to the training images, over that of test images

and p where ADA moves it. The classifier of the features is trained on the whole training split, as
in `rawgan evaluate`. The rows `train` and `test` are of as many images of these splits: what a
generator that copies, and one that is perfect, would get. Stopped, the command goes on after the
last whole run in --out.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rawgan.ada import AdaptiveGAN, Augmentation
from rawgan.backend import CPU
from rawgan.cpu import set_up
from rawgan.data import Images
from rawgan.metrics.classifier import Classifier, load_or_train_classifier
from rawgan.metrics.evaluation import NEIGHBOURS, part, splits
from rawgan.metrics.frechet import frechet
from rawgan.metrics.memorisation import memorisation
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.plots import save_grid
from rawgan.training.prefetch import Feed
from rawgan.training.sampling import latent, sample

NONE, FIXED, ADAPTIVE = "none", "color,translation,cutout", "ada"
MARKS = 10  # in a run


class Scores:
    """The metrics of images by a classifier, against the whole of a test split."""

    def __init__(self, classifier: Classifier, test: Images):
        self.classifier, self.test = classifier, classifier.features(test.images)

    def __call__(self, images: np.ndarray, few: np.ndarray) -> dict[str, float]:
        """Return the metrics of images uint8 (N, H, W, C), trained on those of features `few`."""
        features = self.classifier.features(images)
        nearest, copies = memorisation(features[:NEIGHBOURS], self.test[:NEIGHBOURS], few)
        distance = frechet(features, self.test)
        return {"frechet": round(distance, 3), "copies": round(copies, 4),
                "nearest": round(nearest, 3)}  # fmt: skip


@dataclass
class Run:
    """A training of one count of images, augmentation and seed, and its metrics by step."""

    count: int
    augment: str
    seed: int
    marks: dict[int, dict[str, float]] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def train(self, few: Images, scores: Scores, args: argparse.Namespace) -> None:
        """Train args.steps steps, and compute the metrics at each mark."""
        recipe = RECIPES[args.recipe].with_lr(args.lr)
        if self.augment != NONE:
            speed = args.ada_images if "ada" in self.augment.split(",") else None
            recipe = recipe.with_augmentation(Augmentation.parse(self.augment, speed))
        random = Random(self.seed)
        _, size, _, channels = few.images.shape
        gan = recipe.build(random, size, channels, args.width)
        feed = Feed(recipe, few, min(recipe.batch, len(few)), Random(self.seed), CPU)
        z = latent(recipe, np.random.default_rng(0), CPU, args.samples)
        known = scores.classifier.features(few.images)
        for step in range(1, args.steps + 1):
            start = time.process_time()
            gan.train_step(*feed.step(step - 1))
            self.cpu_seconds += time.process_time() - start
            if step % max(args.steps // MARKS, 1) == 0 or step == args.steps:
                images = sample(recipe, gan.generator, z)
                self.marks[step] = scores(images, known)
                if isinstance(gan, AdaptiveGAN):
                    self.marks[step]["p"] = round(gan.ada.layer.p, 4)
                print(f"{self.count} images, {self.augment}, seed {self.seed}, step {step}: "
                      f"{self.marks[step]}", flush=True)  # fmt: skip
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            name = f"{self.count}-{self.augment.replace(',', '-')}-seed{self.seed}.png"
            save_grid(args.pictures / name, images[:64], 8)


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist", help="as rawgan train takes it")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, help="1 or 3; the data's own unless given")
    parser.add_argument("--count", type=int, nargs="+", default=[1000, 300], help="of images")
    parser.add_argument("--augment", nargs="+", default=[NONE, FIXED, ADAPTIVE])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="dcgan", choices=RECIPES)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=10_000, help="that are judged")
    parser.add_argument("--ada-images", type=int, default=50_000, help="in which p moves by 1")
    parser.add_argument("--pictures", type=Path, help="folder for a grid of each run")
    parser.add_argument("--out", type=Path, help="JSON file, written again after each run")
    return parser.parse_args()


def earlier_runs(result: dict, out: Path | None) -> list[dict]:
    """Return the runs in the file `out`; exit if it differs from result in anything else."""
    if out is None or not out.exists():
        return []
    earlier, now = json.loads(out.read_text()), json.loads(json.dumps(result))
    if differing := [name for name in now if name != "runs" and now[name] != earlier.get(name)]:
        raise SystemExit(f"{out} has other {', '.join(differing)}: name another file.")
    return earlier["runs"]


def main() -> None:
    set_up()
    args = arguments()
    train, test, note = splits(args.data, args.size, args.channels)
    order = np.random.default_rng(0).permutation(len(train))
    classifier = load_or_train_classifier(train)
    scores, known = Scores(classifier, test), {}
    for count in args.count:
        known[count] = classifier.features(train.images[order[:count]])
    paths = ("out", "pictures")
    result = {
        "settings": {name: value for name, value in vars(args).items() if name not in paths},
        "data": f"{train.name}, {train.source}; {note}",
        "images": {"train": len(train), "test": len(test)},
        "classifier_sha256": classifier.sha256,
        "device": "cpu",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "train": {n: scores(train.images[np.resize(order[:n], args.samples)], known[n])
                  for n in args.count},
        "test": {n: scores(test.images[: args.samples], known[n]) for n in args.count},
        "runs": [],
    }  # fmt: skip
    for name in ("train", "test"):
        print(f"{name}: {result[name]}", flush=True)
    result["runs"] = earlier_runs(result, args.out)
    done = {(run["count"], run["augment"], run["seed"]) for run in result["runs"]}
    for seed in args.seed:
        for count in args.count:
            few = part(train, order[:count])
            for augment in args.augment:
                if (count, augment, seed) in done:
                    continue
                run = Run(count, augment, seed)
                run.train(few, scores, args)
                result["runs"].append(asdict(run) | {"cpu_seconds": round(run.cpu_seconds, 1)})
                if args.out:
                    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
