"""Start or resume a training: options or a run folder -> a session and a run folder."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rawgan.data import NAMES
from rawgan.errors import UserError, counted, printable
from rawgan.files import kind, locked
from rawgan.parallel import Ranks, connect
from rawgan.training.callbacks import MainCallbacks, WorkerCallbacks
from rawgan.training.checkpoint import checkpoints, save_checkpoint
from rawgan.training.graph_runner import GraphRunner
from rawgan.training.load import recipe_of_run
from rawgan.training.loop import LOG_EVERY, Recorder, train_loop
from rawgan.training.options import (
    Options,
    absolute,
    from_config,
    integer_in,
    library_recipe,
    read_config,
    to_config,
)
from rawgan.training.path import requested_device
from rawgan.training.plots import columns, curves
from rawgan.training.run_folder import (
    NullRunFolder,
    RunFolder,
    check_folder,
    check_free,
    free_folder,
    keep_recipe,
    load_weights,
    write_config,
)
from rawgan.training.session import Session, open_session
from rawgan.training.software import software, warn_of_other_libraries
from rawgan.training.tensorboard import Board, require_tensorboard

WEIGHTS = "weights.safetensors"
TRAIN_USAGE = "rawgan train {run}/{file} --resume {run}"
RESOLVED = ("device", "path", "precision")  # in config.json twice: as requested, and as resolved


# A run from its options, or from its folder


def start(options: Options, out: Path | None = None) -> tuple[int, int]:
    """Train from the first step in a new run folder; return the steps done and those requested.

    Raises UserError.
    """
    with new_run(options, out) as (session, recorder):
        return train_session(session, recorder), options.steps


@contextmanager
def new_run(options: Options, out: Path | None = None) -> Iterator[tuple[Session, Recorder]]:
    """Yield the session and the recorder of a new run folder; print the outcome at the end.

    out: the folder, new or empty; the next free runs/RECIPE-DATA-NNN by default. It is removed
    where the training fails before its first step. Raises UserError.
    """
    with connect(options.parallel) as ranks:
        with ranks.all_or_raise():
            if out is not None and ranks.rank == 0:
                check_free(out)
            board, run = require_tensorboard(options.tensorboard), NullRunFolder()
            session, of_options = open_resolved(options, ranks)
            if ranks.rank == 0:
                stem = Path("runs") / f"{session.recipe.name}-{session.images.name}"
                folder = out or free_folder(stem)
                config = {"recipe": options.recipe} | of_options
                config |= last_computed(session) | of_images(session)
                columns, file = tables(session).columns, session.recipe.file
                run = RunFolder.new(folder, config, columns, out is None, file)
        try:
            with recorded(session, run, board) as recorder:
                yield session, recorder
        except (UserError, OSError, MemoryError):
            if not session.done:
                run.discard()
            raise


def open_resolved(options: Options, ranks: Ranks) -> tuple[Session, dict]:
    """Open a session with resolved options; return it and their entries of config.json.

    Raises UserError, also where the run could not be resumed.
    """
    session = open_session(options, ranks)
    requested = {f"requested_{name}": getattr(options, name) for name in RESOLVED}
    session.options = resolved(options, session)
    config = to_config(session.options)
    from_config(config, Path("config.json"))
    return session, {"data": session.images.name} | config | requested


def of_images(session: Session) -> dict:
    """Return the entries of config.json about the images: their checksum, the names of classes."""
    classes = {"classes": list(session.images.classes)} if session.recipe.classes else {}
    return {"pictures": session.fingerprint} | classes


def resolved(options: Options, session: Session) -> Options:
    """Return options in which nothing is left to the recipe, the data or the machine."""
    _, H, _, C = session.images.images.shape
    return replace(
        session.options,
        data=absolute(options.data),
        device=session.device.name,
        size=H,
        channels=C,
        width=options.width or session.recipe.width,
        batch=session.feed.batch,
    )


def resume(folder: Path, recipe_file: Path | None = None, **changes) -> tuple[int, int]:
    """Train on from the last checkpoint of a run, with some options changed; return as `start`.

    recipe_file: as in recipe_of_run. Raises UserError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; give one that a training left")
    check_folder(folder)
    config = read_config(folder / "config.json")
    recipe = recipe_of_run(config, folder / "config.json", recipe_file, TRAIN_USAGE)
    before = replace(from_config(config, folder / "config.json"), of_file=recipe)
    options = changed(before, changes)
    if options.data not in NAMES and not os.path.exists(options.data):
        raise UserError(
            f"{options.data}, where the pictures of {folder} are according to its config.json "
            '(as "source"), is not there: give their new place with --data'
        )
    switched = bool({"path", "precision"} & changes.keys())
    with connect(options.parallel) as ranks, ExitStack() as locks:
        with ranks.all_or_raise():
            if not switched:
                check_runs_here(options, folder)
            reason = "as requested" if switched else "as this run began"
            session = open_session(options, ranks, reason)
            options = session.options = replace(session.options, device=session.device.name)
            if config.get("pictures", session.fingerprint) != session.fingerprint:
                raise UserError(
                    f"{folder} was trained on other pictures: those in {options.data} have changed "
                    "since, or are others"
                )
            session.earlier_rates = earlier(config, "earlier_lr") + [before.lr] * ("lr" in changes)
            board, run = require_tensorboard(options.tensorboard), NullRunFolder()
            if ranks.rank == 0:
                locks.enter_context(locked(folder))
            saved = checkpoints(folder)
            if saved:
                session.restore(list(saved.values())[-1], switched)
            complete = session.done >= options.steps
            if complete and kind(folder / "weights.safetensors") is not None:
                raise UserError(
                    f"{folder} has done its {session.done} steps: ask for more, --steps N, to go on"
                )
            if ranks.rank == 0:
                table_columns, periods = tables(session)
                if complete:  # killed while it ended: the rows and samples of its last step stay
                    periods = dict.fromkeys(periods, 1)
                periods = {name: (period,) for name, period in periods.items()}
                kept = [*earlier(config, "earlier_sample_every"), before.sample_every]
                for name in ("samples", "penalty_norms"):  # those of other periods are kept
                    periods[name] += tuple(p for p in kept if integer_in(1, 10**15)(p))
                weights = session.weights()
                run = RunFolder.reopen(
                    folder, table_columns, session.done, periods, config, weights
                )
                requested = {
                    f"requested_{name}": changes[name] for name in RESOLVED if name in changes
                }
                config_now = config | to_config(options) | requested | last_computed(session)
                config_now |= remembered(before, options, config)
                write_config(folder, config_now)
                keep_recipe(folder, session.recipe.file)
        for sentence in differences(before, options, session):
            print(sentence, flush=True)
        warn_of_other_libraries(config)
        print(f"Resuming {folder} after step {session.done} of {options.steps}.", flush=True)
        with recorded(session, run, board) as recorder:
            return train_session(session, recorder), options.steps


def is_imported(folder: Path) -> bool:
    """Return whether a run folder holds imported networks that have not been trained here yet."""
    try:
        config = read_config(Path(folder) / "config.json")
    except UserError:
        return False
    return "imported" in config and "steps" not in config


def train_imported(
    folder: Path, recipe_file: Path | None = None, **options_of_run
) -> tuple[int, int]:
    """Train imported networks in their run folder, with the given options; return as `start`.

    A checkpoint of step 0 keeps them as they were imported. recipe_file: as in recipe_of_run.
    Raises UserError, also where one of the two players was not imported.
    """
    folder = Path(folder)
    check_folder(folder)
    config = read_config(folder / "config.json")
    recipe = recipe_of_run(config, folder / "config.json", recipe_file, TRAIN_USAGE)
    weights = load_weights(folder / WEIGHTS)
    players = {name.partition(".")[0] for name in weights}
    if missing := {"generator", "discriminator"} - players:
        raise UserError(
            f"{folder} has no {missing.pop()}, and cannot be trained on: import both, "
            "rawgan import FILE --discriminator FILE"
        )
    shape = {name: config.get(name) for name in ("size", "channels", "width")}
    recipe = recipe or library_recipe(config["recipe"])  # no path, whatever the config names
    options = Options.with_defaults(recipe, **shape, **options_of_run)
    with connect(options.parallel) as ranks, ExitStack() as locks:
        with ranks.all_or_raise():
            board, run = require_tensorboard(options.tensorboard), NullRunFolder()
            session, of_options = open_resolved(options, ranks)
            options = session.options
            session.load_imported(weights, folder / WEIGHTS)
            if ranks.rank == 0:
                locks.enter_context(locked(folder))
                columns_of_tables, steps_between = tables(session)
                periods = {name: (n,) for name, n in steps_between.items()}
                config |= of_options | last_computed(session) | of_images(session)
                save_checkpoint(folder, 0, session.arrays(), session.state_dict(), options.keep)
                run = RunFolder.reopen(folder, columns_of_tables, 0, periods, config, weights)
                write_config(folder, config | software())
                keep_recipe(folder, session.recipe.file)
        print(f"Training the imported networks in {folder} on.", flush=True)
        with recorded(session, run, board) as recorder:
            return train_session(session, recorder), options.steps


def earlier(config: dict, key: str) -> list:
    """Return the list of earlier values of an option in a config.json; [] where there is none."""
    values = config.get(key)
    return values if isinstance(values, list) else []


def remembered(before: Options, options: Options, config: dict) -> dict:
    """Return entries of config.json with the earlier values of the rate and the sample period.

    A checkpoint may be of an earlier rate, and samples of an earlier period belong to the run.
    """
    entries = {}
    for name in ("lr", "sample_every"):
        old, new = getattr(before, name), getattr(options, name)
        values = earlier(config, f"earlier_{name}")
        if old != new and old not in values:
            entries[f"earlier_{name}"] = [*values, old]
    return entries


def differences(before: Options, options: Options, session: Session) -> list[str]:
    """Return sentences on how a resumed run goes on otherwise than it began."""
    sentences = []
    if options.lr != before.lr:
        old, new = ("the source's" if lr is None else f"{lr:g}" for lr in (before.lr, options.lr))
        sentences.append(
            f"Learning rate: {new} from step {session.done} on, in the place of {old}: the run is "
            "no longer that of its seed alone."
        )
    if options.steps != before.steps and session.recipe.lr_decay:
        sentences.append(
            f"Learning rate: falls to 0 at step {options.steps}, in the place of {before.steps}: "
            "the run is no longer that of its seed alone."
        )
    if options.data != before.data:
        sentences.append(f"Data: the same pictures as in {printable(before.data)}.")
    return sentences


def changed(options: Options, changes: dict) -> Options:
    """Return the options with changes; a new path alone sets the precision to auto."""
    if "data" in changes:
        changes = changes | {"data": absolute(changes["data"])}
    if changes.get("path", options.path) != options.path:
        changes = {"precision": "auto"} | changes
    return replace(options, **changes)


def check_runs_here(options: Options, folder: Path) -> None:
    """Raise UserError where this machine cannot compute the path or precision of a run."""
    try:
        requested_device(options)
    except UserError as error:
        raise UserError(
            f"{folder} was trained by --path {options.path} in {options.precision}, "
            f"which cannot go on here: {error}; add --device auto --path auto to go on with "
            "what this machine has, with other random numbers or rounding"
        ) from error


def last_computed(session: Session) -> dict:
    """Return the entries of config.json about the machine that computed the run last."""
    return {"backend": session.device.library, "ranks": session.ranks.size}


class Tables(NamedTuple):
    """The columns of each table of a run, and the period of its rows and of "samples" in steps."""

    columns: dict[str, tuple[str, ...]]
    periods: dict[str, int]


def tables(session: Session) -> Tables:
    """Return the tables that a session writes."""
    sample_every = session.options.sample_every
    gradients = (f"{who}.{name}" for who, o in session.optimizers.items()
                 for name in o.parameters.shapes)  # fmt: skip
    table_columns = {
        "metrics": columns(curves(session.recipe)),
        "gradients": ("step", *gradients),
    }
    of_gradient = any(penalty.of_gradient for penalty in session.gan.penalties)
    if of_gradient and not session.graph_runner:  # a plan keeps the mean norm alone
        table_columns["penalty_norms"] = ("step", "norm")
    periods = {"metrics": LOG_EVERY, "gradients": LOG_EVERY}
    periods |= {"penalty_norms": sample_every, "samples": sample_every}
    return Tables(table_columns, periods)


def train_session(session: Session, recorder: Recorder) -> int:
    """Train a session to the last step of its options; return the steps done."""
    options = session.options
    return train_loop(session.run_steps, recorder, options.sample_every, options.checkpoint_every)


@contextmanager
def recorded(
    session: Session, run: RunFolder | NullRunFolder, board: type[Board] | None
) -> Iterator[Recorder]:
    """Yield the recorder of a session's training; print the outcome at the end."""
    options, first = session.options, session.done
    session.require_same_state()
    if session.ranks.rank == 0:
        writer = board(run.path, session.done) if board else None
        callbacks = MainCallbacks(session, run, writer)
    else:
        callbacks = WorkerCallbacks(session)
    sizes = {"steps": options.steps, "batch": session.feed.batch, "first": first}
    try:
        with Recorder(run, callbacks, curves(session.recipe), **sizes) as recorder:
            yield recorder
    finally:
        session.close()
        if callbacks.board:
            callbacks.board.close()
    done = recorder.done
    if session.device.kernels:
        print(f"Triton kernels launched: {launches_text(session.graph_runner, first, done)}.")
    print(f"{counted(done, 'step')} done; samples, curves, metrics and weights are in {run.path}/")
    if done < options.steps:
        file = f"{session.recipe.command_name} " if session.recipe.file else ""
        print(f"To go on with it: rawgan train {file}--resume {run.path}")


def launches_text(runner: GraphRunner | None, first: int, done: int) -> str:
    """Return the launches of each Triton kernel in words, the most frequent first.

    With a plan, also the launches of it by the host: a CUDA graph holds many steps.
    """
    if runner:
        counts = runner.launch_counts(first, done)
    else:
        from rawgan.kernels.runtime.launch import launched as counts

    by_host = ""
    if runner:
        by_host = f"; {done - first} steps in {runner.host_launches} launches of the plan"
    kernels = ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"
    return kernels + by_host
