"""A training from its options to its run folder: begun, stopped, resumed."""

import json
import sys
import warnings
import zlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from rawgan.backend import Array, Device, choose_device, to_host, use_kernels
from rawgan.data import Images, load
from rawgan.data.idx import KNOWN
from rawgan.ema import EMA
from rawgan.errors import UserError
from rawgan.layers import Sequential, parameter_count, state
from rawgan.parallel import ALONE, Ranks, connect
from rawgan.random import Random
from rawgan.training.board import Board, open_board
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.feed import Ahead, Feed, restore_streams
from rawgan.training.loop import LOG_EVERY, columns, curves, follow, latent, sample
from rawgan.training.options import Options, from_config, read_config, to_config, whole
from rawgan.training.partner import Partner
from rawgan.training.replay import Replay
from rawgan.training.run import Nowhere, RunFolder, free_folder, locked, write_config
from rawgan.training.trainer import Trainer


class Session:
    """Everything that a run computes with, made from its options and pictures: the same options and seed, the same session.

    `arrays()` and `facts()` are all that changes from step to step; `restore` goes back to them.
    """

    def __init__(self, options: Options, images: Images, device: Device, ranks: Ranks = ALONE):
        self.options, self.images, self.device, self.ranks = options, images, device, ranks
        self.recipe, self.random = options.changed_recipe(), Random(options.seed)
        _, H, _, C = images.images.shape
        self.gan = self.recipe.build(self.random, H, C, options.width, device)
        self.average = EMA(self.gan.generator_optimizer.parameters, options.ema) if options.ema else None
        self.gan.join(ranks, options.batchnorm == "synchronised")
        self.optimizers = {"generator": self.gan.generator_optimizer, "discriminator": self.gan.discriminator_optimizer}
        batch = options.batch or self.recipe.batch
        self.feed = Feed(self.recipe, images, batch, Random(options.seed), device, options.flip, ranks)
        self.columns = self.recipe.classes or 8  # of a sample grid
        self.labels = np.arange(8 * self.columns) % self.columns if self.recipe.classes else None
        self.fixed_z = latent(self.recipe, self.random.stream("fixed z"), device, 8 * self.columns, self.labels)
        self.done, self.ahead, self.fingerprint = 0, None, fingerprint(images)
        self.replay = self.plan() if options.planned else None

    @property
    def players(self) -> dict[str, Sequential]:
        nets = {"generator": self.gan.generator, "discriminator": self.gan.discriminator}
        return nets | ({"average": self.average.net} if self.average else {})

    @property
    def drawn(self) -> Sequential:
        """The network that pictures are drawn with."""
        return self.average.net if self.average else self.gan.generator

    def anew(self) -> "Session":
        """The same session before its first step, of one process."""
        return Session(self.options, self.images, self.device)

    def plan(self) -> Replay:
        """The planned step, from where the session is; its random numbers follow from the seed and the step."""
        seed = int(Random(self.options.seed).stream("plan").integers(2**63))
        after = self.average.update if self.average else None
        return Replay(self.gan, self.feed, seed, self.options.precision, self.done, after)

    def stretch(self, last: int) -> list[dict[str, Array]]:
        """Trains at least once, and not beyond step `last`; returns the metrics of each step."""
        if self.replay is None:
            return [self.step()]
        said = self.replay.run(self.done, last)
        self.gan.level()  # once is as good as after each step: running statistics are linear in those of the batches
        self.done += len(said)
        return said

    def careful(self) -> None:
        """One step of training, in which first_overflow sees every number."""
        if self.replay is None:
            self.step()
        else:
            self.replay.careful(self.done)
            self.done += 1

    def step(self) -> dict[str, Array]:
        """One step of training, without a plan."""
        if self.ahead is None:
            self.ahead = Ahead(self.feed, self.done)
        with use_kernels(self.device.kernels):
            metrics = self.gan.train_step(*self.ahead.take())
        self.gan.level()
        if self.average:
            self.average.update()
        self.done += 1
        return metrics

    def close(self) -> None:
        """Ends the thread that prepares the next step."""
        if self.ahead:
            self.ahead.close()

    def weights(self) -> dict[str, np.ndarray]:
        """All parameters and running statistics of all players, by name."""
        return {f"{who}.{name}": a for who, net in self.players.items() for name, a in state(net).items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights, and what the optimizers keep from step to step."""
        slots = {f"{who}_optimizer.{name}": to_host(a).copy() for who, o in self.optimizers.items() for name, a in o.slots.items()}
        return self.weights() | slots

    def identity(self) -> dict:
        """What a checkpoint must be of, to be one of this run."""
        _, H, _, C = self.images.images.shape
        found = {"recipe": self.recipe.name, "classes": self.recipe.classes, "size": H, "channels": C}
        found |= {"width": self.options.width or self.recipe.width, "batch": self.feed.batch, "seed": self.options.seed}
        found |= {"ema": self.options.ema, "flip": self.options.flip, "lr": self.options.lr, "real_label": self.options.real_label}
        found |= {"planned": self.options.planned, "precision": self.options.precision}
        return found | {"pictures": self.fingerprint}

    def agree(self) -> None:
        """Raises UserError unless all ranks train the same: pictures, options, parameters, running statistics, optimizers."""
        found = zlib.crc32(json.dumps([self.done, self.identity()]).encode())
        for _, a in sorted(self.arrays().items() if self.ranks.size > 1 else ()):
            found = zlib.crc32(np.ascontiguousarray(a), found)
        self.ranks.same("what is trained", found)

    def facts(self) -> dict:
        """All that changes and is no array."""
        counts = {who: optimizer.t for who, optimizer in self.optimizers.items()}
        feed = self.ahead.state if self.ahead else self.feed.state()
        return {"step": self.done, "of": self.identity(), "t": counts, "random": self.random.state(), "feed": feed}

    def restore(self, path: Path) -> None:
        """Goes to where a checkpoint was made. Raises UserError, naming the file, unless it is one of this run."""
        arrays, facts = load_checkpoint(path)
        said, here = facts.get("of"), self.identity()
        if not isinstance(said, dict):
            raise UserError(f"{path} does not say of which run it is")
        if said.get("pictures") != here["pictures"]:
            raise UserError(f"{path} was trained on other pictures: those in {self.options.data} have changed since")
        for name, value in here.items():
            if said.get(name) != value:
                raise UserError(
                    f"{path} is of another run: its {name} is {said.get(name)!r:.80}, that of config.json {value!r:.80}"
                )
        want = self.arrays()
        for name in sorted(want.keys() ^ arrays.keys()):
            raise UserError(f"{path} does not fit this run: {name} is only in {'the run' if name in want else 'the file'}")
        for name, a in want.items():
            if (a.shape, a.dtype) != (arrays[name].shape, arrays[name].dtype):
                raise UserError(f"{path} does not fit this run: {name} is {arrays[name].shape}, wanted {a.shape}")
        try:
            restore_streams(self.random, facts["random"])
            self.feed.restore(facts["feed"])
            self.done, counts = facts["step"], facts["t"]
            for who, optimizer in self.optimizers.items():
                optimizer.t = counts[who]
            if not all(map(whole(0, 10**18), (self.done, *(optimizer.t for optimizer in self.optimizers.values())))):
                raise ValueError("a count that is none")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"{path} says nothing usable of its step and random streams: it is of another version") from error
        parameters = {who: o.parameters for who, o in self.optimizers.items()}
        parameters |= {"average": self.average.parameters} if self.average else {}
        for who, vector in parameters.items():
            vector.load({name.removeprefix(f"{who}."): a for name, a in arrays.items() if name.startswith(f"{who}.")})
        for who, optimizer in self.optimizers.items():
            for name, slot in optimizer.slots.items():
                slot[...] = self.device.asarray(arrays[f"{who}_optimizer.{name}"])
        if self.replay:
            self.replay = None  # or the data set would lie in device memory twice
            self.replay = self.plan()

    def gradient_norms(self) -> dict[str, float]:
        """|d loss / d parameter| of the last step, by player and parameter."""
        if self.replay:
            return self.replay.gradient_norms()
        norms = {}
        for who, optimizer in self.optimizers.items():
            views = optimizer.parameters.views(self.gan.gradients[who])
            xp = self.device.xp
            values = to_host(xp.stack([xp.sqrt((g * g).sum()) for g in views.values()])).tolist()
            norms |= {f"{who}.{name}": value for name, value in zip(views, values)}
        return norms

    def images_drawn(self) -> np.ndarray:
        """The pictures of the fixed z."""
        return sample(self.recipe, self.drawn, self.fixed_z)


def fingerprint(images: Images) -> list[int]:
    """How many pictures, and a checksum of them and their labels: enough to see that the data have changed."""
    found = zlib.crc32(images.images)
    return [len(images), found if images.labels is None else zlib.crc32(np.ascontiguousarray(images.labels), found)]


def open_session(options: Options, ranks: Ranks) -> Session:
    """Says where it computes, loads the pictures and makes the session, saying what it warns of."""
    options.changed_recipe()  # what makes no sense is said before anything is done
    device = choose_device(options.device, options.kernels or options.planned)
    if options.parallel != "none" and (options.parallel == "nccl") != (device.name == "gpu"):
        raise UserError(f"--parallel {options.parallel} does not train on a {device.name}: mpi is for --device cpu, nccl for gpu")
    more = "" if device.kernels else "; no Triton kernels in this path"
    print(f"Device: {device.name}, computing with {device.path} ({device.why}){more}.", flush=True)
    if options.parallel != "none":
        print(f"Ranks: {ranks.size}, by {ranks.name}; BatchNorm's statistics {options.batchnorm}.", flush=True)
    if options.precision != "fp32" and device.name == "cpu":
        raise UserError(f"Triton's interpreter does not round as {options.precision} does: --precision needs a GPU")
    images = load(options.data, options.natural_size(), options.channels)
    _, H, _, C = images.images.shape
    print(f"Data: {len(images)} images of {H}x{H}x{C}: {images.source}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = Session(options, images, device, ranks)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    G, D = (parameter_count(net) for net in (session.gan.generator, session.gan.discriminator))
    print(f"Recipe: {session.recipe.name}, {session.recipe.source}. G has {G:,} parameters, D {D:,}.", flush=True)
    if session.replay:
        print(f"Plan: {options.precision}, {session.replay.about()}.", flush=True)
    return session


def tables(session: Session) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """The columns of each table of a run, and at which steps it gets a line, or the run a sample grid."""
    names = tuple(f"{who}.{name}" for who, o in session.optimizers.items() for name in o.parameters.shapes)
    found = {"metrics": columns(curves(session.recipe)), "gradients": ("step", *names)}
    every = {"metrics": LOG_EVERY, "gradients": LOG_EVERY, "penalty_norms": session.options.sample_every}
    every["samples"] = session.options.sample_every
    norms = session.recipe.penalty and not session.replay  # a plan keeps their mean alone
    return found | ({"penalty_norms": ("step", "norm")} if norms else {}), every


def start(options: Options, out: Path | None = None) -> tuple[int, int]:
    """Trains from the first step, in a new run folder; returns the steps done and those asked for. Raises UserError."""
    with connect(options.parallel) as ranks, ExitStack() as held:
        with ranks.together():
            session = open_session(options, ranks)
            _, H, _, C = session.images.images.shape
            source = options.data if options.data in ("digits", *KNOWN) else str(Path(options.data).expanduser().resolve())
            width, batch = options.width or session.recipe.width, session.feed.batch
            options = replace(options, data=source, size=H, channels=C, width=width, batch=batch, device=session.device.name)
            session.options = options
            board, run = open_board(options.tensorboard), Nowhere()
            if ranks.rank == 0:
                folder = out or free_folder(Path("runs") / f"{session.recipe.name}-{session.images.name}")
                config = {"recipe": options.recipe, "data": session.images.name} | to_config(options) | where(session)
                run = RunFolder.new(folder, config, tables(session)[0])
                held.enter_context(locked(run.path))
        return go_on(session, run, board), options.steps


def resume(folder: Path, **changes) -> tuple[int, int]:
    """Goes on with a run from its last checkpoint, some options changed; returns as `start`. Raises UserError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; give one that a training left")
    config = read_config(folder / "config.json")
    options = replace(from_config(config, folder / "config.json"), **changes)
    with connect(options.parallel) as ranks, ExitStack() as held:
        with ranks.together():
            session = open_session(options, ranks)
            board, run = open_board(options.tensorboard), Nowhere()
            if ranks.rank == 0:
                held.enter_context(locked(folder))
            found = checkpoints(folder)
            if found:
                session.restore(list(found.values())[-1])
            over = session.done >= options.steps
            if over and (folder / "weights.safetensors").exists():
                raise UserError(f"{folder} has done its {session.done} steps: ask for more, --steps N, to go on")
            if ranks.rank == 0:
                columns, every = tables(session)
                every = dict.fromkeys(every, 1) if over else every  # it was killed at its very end, and what the end wrote stays
                run = RunFolder.again(folder, columns, session.done, every)
                write_config(folder, config | to_config(options) | where(session))
        print(f"Resuming {folder} after step {session.done} of {options.steps}.", flush=True)
        return go_on(session, run, board), options.steps


def where(session: Session) -> dict:
    """What config.json says of how a run was computed last."""
    return {"path": session.device.path, "ranks": session.ranks.size}


def go_on(session: Session, run: RunFolder | Nowhere, board: type[Board] | None) -> int:
    """Trains to the last step of the options, from wherever the session is; returns the steps done."""
    options, first = session.options, session.done
    session.agree()
    if session.ranks.rank == 0:
        trainer = Trainer(session, run, board(run.path, session.done) if board else None)
    else:
        trainer = Partner(session)
    try:
        done = follow(
            run, trainer, curves(session.recipe), first=first, steps=options.steps, batch=session.feed.batch,
            sample_every=options.sample_every, checkpoint_every=options.checkpoint_every,
        )  # fmt: skip
    finally:
        session.close()
        if trainer.board:
            trainer.board.close()
    if session.device.kernels:
        print(f"Triton kernels launched: {launches(session.replay, done - first)}.")
    print(f"{done} steps done; samples, curves, metrics and weights are in {run.path}/")
    if done < options.steps:
        print(f"To go on with it: rawgan train --resume {run.path}")
    return done


def launches(replay: Replay | None, steps: int) -> str:
    """How often each Triton kernel was started, the most frequent first; and in how many starts from here, if it is a plan."""
    if replay:
        counts = [(name, steps * count) for name, count in replay.step.plan.counts().most_common()]
    else:
        from rawgan.kernels.launch import launched

        counts = launched.most_common()
    starts = f"; {steps} steps in {replay.starts} starts of the plan" if replay else ""
    return (", ".join(f"{name} {count}" for name, count in counts) or "none") + starts
