"""State of a training: networks, optimizers, data, random streams; its steps and checkpoints."""

import json
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from rawgan.ada import ADA, AdaptiveGAN
from rawgan.backend import Array, Device, to_host, use_kernels
from rawgan.cpu import set_up
from rawgan.data import Images, load, to_uint8
from rawgan.ema import EMA
from rawgan.errors import UserError, printable
from rawgan.layers import Sequential, state
from rawgan.models.recipe import Setting
from rawgan.parallel import SINGLE_PROCESS, Ranks
from rawgan.penalties import Penalties
from rawgan.random import Random
from rawgan.training.announce import print_recipe
from rawgan.training.checkpoint import fingerprint, former_identity, load_checkpoint
from rawgan.training.graph_runner import GraphRunner
from rawgan.training.limits import check_before_loading, with_batch
from rawgan.training.options import Options, integer_in
from rawgan.training.path import Choice, choose_path, requested_device
from rawgan.training.prefetch import Feed, Prefetcher, fitted_recipe, restore_streams
from rawgan.training.sampling import COLUMNS, latent, sample


class Session:
    """Everything that a run computes with; it follows from options, seed and images alone.

    `arrays()` and `state_dict()` hold all that changes from step to step, and `restore` loads them
    from a checkpoint. The path and precision of the options are resolved: see make_session.

    gan, optimizers, average    the players, and the moving average of G or None
    feed, prefetcher            real batches and latent vectors; prepared in a thread, on first use
    graph_runner                the planned step, None on the other paths
    columns                     of a grid of samples: the classes, or 8
    done                        steps done
    """

    def __init__(
        self, options: Options, images: Images, device: Device, ranks: Ranks = SINGLE_PROCESS
    ):
        set_up()
        self.options, self.images, self.device, self.ranks = options, images, device, ranks
        options.validate()
        self.recipe = fitted_recipe(options.recipe_with_overrides(), images)
        self.random = Random(options.seed)
        _, H, _, C = images.images.shape
        shape = H, C, options.width
        self.gan = self.recipe.build(self.random, *shape, device, steps=options.steps)
        G = self.gan.generator_optimizer.parameters
        self.average = EMA(G, options.ema) if options.ema else None
        self.gan.join(ranks, options.batchnorm == "synchronised")
        self.optimizers = {
            "generator": self.gan.generator_optimizer,
            "discriminator": self.gan.discriminator_optimizer,
        }
        batch = options.batch or self.recipe.batch
        self.feed = Feed(
            self.recipe, images, batch, Random(options.seed), device, options.flip, ranks
        )
        self.columns = min(self.recipe.classes or 8, COLUMNS)
        n = 8 * self.columns
        labels = np.arange(n) % self.recipe.classes if self.recipe.classes else None
        self.fixed_z = latent(self.recipe, self.random.stream("fixed z"), device, n, labels)
        self.done, self.fingerprint = 0, fingerprint(images)
        self.earlier_rates: list[float | None] = []  # that a checkpoint may have in the place of lr
        self.prefetcher: Prefetcher | None = None
        self.graph_runner = self.make_graph_runner() if options.path == "planned" else None

    @property
    def networks(self) -> dict[str, Sequential]:
        """Return the generator, the discriminator and, where there is one, the average of G."""
        nets = {"generator": self.gan.generator, "discriminator": self.gan.discriminator}
        return nets | ({"average": self.average.net} if self.average else {})

    def fresh_copy(self) -> "Session":
        """Return the session as it was before its first step, for one process."""
        return Session(self.options, self.images, self.device)

    def make_graph_runner(self) -> GraphRunner:
        """Return the planned step after `done` steps; its numbers follow from seed and step."""
        seed = int(Random(self.options.seed).stream("plan").integers(2**63))
        return GraphRunner(
            self.gan, self.feed, seed, self.options.precision, self.done, self.average
        )

    def run_steps(self, last: int) -> list[dict[str, Array]]:
        """Train one step or more, not beyond step `last`; return the metrics of each step."""
        if self.graph_runner:
            metrics = self.graph_runner.run(self.done, last)
        else:
            if self.prefetcher is None:
                self.prefetcher = Prefetcher(self.feed, self.done)
            with use_kernels(self.device.kernels):
                metrics = [self.gan.train_step(*self.prefetcher.next())]
        # once after several steps is as good as after each: running statistics, and their moving
        # average, are linear in the statistics of the batches
        self.gan.average_running_stats()
        if self.average and self.graph_runner:
            self.ranks.average_([self.average.parameters.flat_buffers])
        elif self.average:
            self.average.update()
        self.done += len(metrics)
        return metrics

    def checked_step(self) -> None:
        """Train one step with all numbers checked, for diagnostics.first_overflow."""
        if self.graph_runner:
            self.graph_runner.checked_step(self.done)
            self.done += 1
        else:
            self.run_steps(self.done + 1)

    def close(self) -> None:
        """End the prefetch thread."""
        if self.prefetcher:
            self.prefetcher.close()

    def weights(self) -> dict[str, np.ndarray]:
        """Return the parameters and running statistics of all networks by "network.parameter"."""
        return {
            f"{who}.{name}": a
            for who, net in self.networks.items()
            for name, a in state(net).items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights and the optimizers' slots: every array of a checkpoint."""
        slots = {
            f"{who}_optimizer.{name}": to_host(a).copy()
            for who, o in self.optimizers.items()
            for name, a in o.slots.items()
        }
        return self.weights() | slots

    def setting(self) -> Setting:
        """Return the images, width, learning rate and steps of this run."""
        _, H, _, C = self.images.images.shape
        width = self.options.width or self.recipe.width
        return Setting(width, self.options.steps, self.options.lr, self.images.name, H, C)

    def identity(self) -> dict:
        """Return the options and data that a checkpoint must share with this run."""
        _, H, _, C = self.images.images.shape
        options = self.options
        return {
            "recipe": self.recipe.name,
            "classes": self.recipe.classes,
            "size": H,
            "channels": C,
            "width": options.width or self.recipe.width,
            "batch": self.feed.batch,
            "seed": options.seed,
            "ema": options.ema,
            "flip": options.flip,
            "augment": options.augment,
            "ada_images": options.ada_images,
            "lr": options.lr,
            "real_label": options.real_label,
            "planned": options.path == "planned",
            "precision": options.precision,
            "images": self.fingerprint,
        } | (self.recipe.file.entry if self.recipe.file else {})

    def require_same_state(self) -> None:
        """Raise UserError unless identity, step and arrays are the same on all ranks."""
        checksum = zlib.crc32(json.dumps([self.done, self.identity()]).encode())
        for _, a in sorted(self.arrays().items() if self.ranks.size > 1 else ()):
            checksum = zlib.crc32(np.ascontiguousarray(a), checksum)
        self.ranks.require_same("what is trained", checksum)

    def state_dict(self) -> dict:
        """Return everything of a checkpoint that is no array, as JSON-able values."""
        return {
            "step": self.done,
            "identity": self.identity(),
            "t": {player: optimizer.t for player, optimizer in self.optimizers.items()},
            "random": self.random.state(),
            "feed": self.prefetcher.state if self.prefetcher else self.feed.state(),
        } | {name: part.state() for name, part in self.stateful().items()}

    def stateful(self) -> dict[str, Penalties | ADA]:
        """Return the parts of the GAN with numbers of their own, by their names in a checkpoint."""
        gan = self.gan
        parts = {"penalties": gan.penalties} if gan.penalties.lazy else {}
        return parts | ({"ada": gan.ada} if isinstance(gan, AdaptiveGAN) else {})

    def restore(self, path: Path, switched: bool = False) -> None:
        """Load a checkpoint. Raises UserError, naming the file, unless it is one of this run.

        switched: the run goes on by another path or in another precision.
        """
        arrays, saved = load_checkpoint(path)
        self.check_identity(path, former_identity(saved), switched)
        self.check_arrays(path, arrays)
        self.restore_counts(path, saved)
        self.load_weights(arrays)
        for player, optimizer in self.optimizers.items():
            for name, slot in optimizer.slots.items():
                slot[...] = self.device.asarray(arrays[f"{player}_optimizer.{name}"])
        self.renew_graph_runner()

    def load_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """Load parameters and running statistics of all networks by "network.parameter"."""
        parameters = {player: o.parameters for player, o in self.optimizers.items()}
        parameters |= {"average": self.average.parameters} if self.average else {}
        for network, vector in parameters.items():
            prefix = f"{network}."
            vector.load(
                {name.removeprefix(prefix): a for name, a in arrays.items()
                 if name.startswith(prefix)}
            )  # fmt: skip

    def load_imported(self, weights: dict[str, np.ndarray], path: Path) -> None:
        """Load both networks from the weights in `path`; the average begins at G.

        Raises UserError where they are not those of the run.
        """
        try:
            arrays = weights | {
                name.replace("generator.", "average.", 1): a
                for name, a in weights.items()
                if self.average and name.startswith("generator.")
            }
            self.load_weights(arrays)
        except (UserError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} does not fit {self.recipe.name} with {self.images.name}: {error}"
            ) from error
        self.renew_graph_runner()

    def renew_graph_runner(self) -> None:
        """Make the planned step again, after `done` and the parameters have changed."""
        if self.graph_runner:
            self.graph_runner = (
                None  # frees the data set in device memory before it is copied again
            )
            self.graph_runner = self.make_graph_runner()

    def check_identity(self, path: Path, saved: object, switched: bool) -> None:
        """Raise UserError unless the identity in a checkpoint is that of this run."""
        identity = self.identity()
        if not isinstance(saved, dict):
            raise UserError(f"{path} does not name the run it belongs to")
        if saved.get("images") != identity["images"]:
            raise UserError(
                f"{path} was trained on other images: "
                f"those in {self.options.data} have changed since"
            )
        for name, value in identity.items():
            if switched and name in ("planned", "precision"):
                continue
            if name == "lr" and saved.get(name) in self.earlier_rates:
                continue
            if saved.get(name) != value:
                raise UserError(
                    f"{path} is of another run: its {name} is {saved.get(name)!r:.80}, "
                    f"that of config.json {value!r:.80}"
                )

    def check_arrays(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        """Raise UserError unless a checkpoint has the arrays of this run, in shape and dtype."""
        expected = self.arrays()
        for name in sorted(expected.keys() ^ arrays.keys()):
            place = "the run" if name in expected else "the file"
            raise UserError(f"{path} does not fit this run: {name} is only in {place}")
        for name, a in expected.items():
            if (a.shape, a.dtype) != (arrays[name].shape, arrays[name].dtype):
                raise UserError(
                    f"{path} does not fit this run: {name} is {arrays[name].shape}, "
                    f"wanted {a.shape}"
                )

    def restore_counts(self, path: Path, saved: dict) -> None:
        """Load step counts, random streams and the place in the data. Raises UserError."""
        try:
            restore_streams(self.random, saved["random"])
            self.feed.restore(saved["feed"])
            self.done, counts = saved["step"], saved["t"]
            for player, optimizer in self.optimizers.items():
                optimizer.t = counts[player]
            for name, part in self.stateful().items():
                part.restore(saved[name], self.optimizers["generator"].parameters.flat)
            counts = self.done, *(optimizer.t for optimizer in self.optimizers.values())
            if not all(map(integer_in(0, 10**18), counts)):
                raise ValueError("a count out of range")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path} has no usable step and random streams: it is of another version"
            ) from error

    def gradient_norms(self) -> dict[str, float]:
        """Return |d loss / d parameter| of the last step by "player.parameter"."""
        if self.graph_runner:
            return self.graph_runner.gradient_norms()
        norms = {}
        for who, optimizer in self.optimizers.items():
            views = optimizer.parameters.views(self.gan.gradients[who])
            xp = self.device.xp
            values = to_host(xp.stack([xp.sqrt((g * g).sum()) for g in views.values()])).tolist()
            norms |= {f"{who}.{name}": value for name, value in zip(views, values)}
        return norms

    def real_images(self) -> np.ndarray:
        """Return real images as D sees them: uint8 (8 columns, H, W, C), a class in each column.

        They are chosen from all over the data; a class of fewer images has them repeatedly. No
        random stream of the training is used.
        """
        rng, n = np.random.default_rng(0), 8 * self.columns
        order, labels = rng.permutation(len(self.images)), self.images.labels
        if self.recipe.classes:
            by_class = [order[labels[order] == k] for k in range(self.recipe.classes)]
            cells = [divmod(i, self.recipe.classes) for i in range(n)]
            index = np.array([by_class[k][row % len(by_class[k])] for row, k in cells])
        else:
            index = np.resize(order, n)
        x = self.feed.images_for_discriminator(index, rng.random(n) < 0.5)
        return to_uint8(2 * x - 1 if self.recipe.pixels == "unit" else x)

    def sample_images(self) -> np.ndarray:
        """Return images of the fixed z by the average of G, or by G: uint8 (8 columns, H, W, C)."""
        generator = self.average.net if self.average else self.gan.generator
        return sample(self.recipe, generator, self.fixed_z)


def make_session(
    options: Options, images: Images, device: Device, ranks: Ranks, reason: str = "as requested"
) -> tuple[Session, Choice]:
    """Return the session by the path of choose_path, and that choice.

    auto takes the array path where the planned step refuses the run.
    """

    def make(choice: Choice) -> Session:
        resolved = replace(options, path=choice.path, precision=choice.precision)
        return Session(resolved, images, choice.device, ranks)

    recipe = options.recipe_with_overrides()
    requested = (options.path, options.precision, recipe, device, reason)
    choice = choose_path(*requested)
    try:
        return make(choice), choice
    except UserError as error:
        if options.path != "auto" or choice.path != "planned":
            raise
        choice = choose_path(*requested, refusal=str(error))
    return make(choice), choice


def open_session(options: Options, ranks: Ranks, reason: str = "as requested") -> Session:
    """Load the images and return the session; print device, data, recipe, path and warnings.

    Raises UserError.
    """
    options.validate()  # before anything is loaded
    check_before_loading(options)
    device = requested_device(options)
    if options.parallel != "none" and (options.parallel == "nccl") != (device.name == "gpu"):
        raise UserError(
            f"--parallel {options.parallel} does not train on a {device.name}: "
            "mpi is for --device cpu, nccl for gpu"
        )
    print(f"Device: {device.name} ({device.reason}).", flush=True)
    if options.parallel != "none":
        statistics = f"BatchNorm's statistics {options.batchnorm}"
        print(f"Ranks: {ranks.size}, by {ranks.name}; {statistics}.", flush=True)
    skip = {"skip_broken": True} if options.skip_broken else {}
    images = load(options.data, options.natural_size(), options.channels, **skip)
    _, H, _, C = images.images.shape
    print(f"Data: {len(images)} images of {H}x{H}x{C}: {printable(images.source)}.")
    for sentence in images.notes:
        print(f"      The {sentence}.")
    if options.declared.classes and images.labels is not None:
        print(f"Classes: {len(images.classes)}: {printable(', '.join(images.classes), 200)}.")
    options = with_batch(options, len(images), ranks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session, choice = make_session(options, images, device, ranks, reason)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"warning: {message}", file=sys.stderr)
    print_recipe(session.recipe, session.gan, session.setting(), session.feed.batch)
    print(f"Path: {choice}.", flush=True)
    if session.graph_runner:
        print(f"Plan: {session.graph_runner.description()}.", flush=True)
    return session
