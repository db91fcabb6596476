"""The loop that every training shares: steps, metrics, sample grids, checkpoints, weights."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rawgan.backend import Array
from rawgan.errors import UserError, printable, reason
from rawgan.training.callbacks import Callbacks
from rawgan.training.plots import Panels, save_curves
from rawgan.training.run_folder import RunFolder

LOG_EVERY = 10  # steps between two rows of metrics


StepMetrics = dict[str, Array]


class Recorder:
    """Recorder of a training: writes metrics, sample grids, checkpoints, weights and plots.

        with Recorder(run, callbacks, panels, steps=1500, batch=64) as recorder:
            while recorder.done < 1500 and not recorder.interrupted():
                for metrics in run_steps(last):
                    recorder.log(metrics)
                recorder.save_samples()
            recorder.save_weights()

    Entering it draws the samples of step 0, shows a progress bar, and makes Ctrl-C and SIGTERM
    request the end of the loop; leaving it closes the run folder.

    done  the number of steps done
    """

    def __init__(
        self,
        run: RunFolder,
        callbacks: Callbacks,
        panels: Panels,
        *,
        steps: int,
        batch: int,
        first: int = 0,
    ):
        self.run, self.callbacks, self.panels = run, callbacks, panels
        self.steps, self.batch, self.first = steps, batch, first
        self.done = self.drawn = self.saved = first
        self.metrics: StepMetrics = {}
        self.contexts = ExitStack()

    def __enter__(self):
        try:
            self.start = time.perf_counter()
            if not self.done:
                self.callbacks.draw(0)
            self.stop = self.contexts.enter_context(stop_requested())
            self.bar = self.contexts.enter_context(progress_bar(self.steps, self.first))
            self.contexts.enter_context(np.errstate(over="ignore", invalid="ignore"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self.contexts.close()
        self.run.close()

    def interrupted(self) -> bool:
        """Return whether Ctrl-C or SIGTERM has come, to this process or to another rank."""
        return self.callbacks.should_stop(self.stop())

    def log(self, metrics: StepMetrics) -> None:
        """Count a step, and write its metrics every LOG_EVERY steps.

        Raises UserError when a metric is not finite.
        """
        self.done += 1
        self.metrics = metrics
        self.bar.update()
        if self.done % LOG_EVERY and self.done != self.steps:
            return
        row = self.callbacks.to_numbers(metrics)
        self.run.log("metrics", {"step": self.done} | row)
        speed = (self.done - self.first) * self.batch / (time.perf_counter() - self.start)
        text = f"{self.callbacks.progress_text(row)}, {speed:.0f} images/s"
        self.bar.set_postfix_str(text, refresh=False)
        if not all(map(math.isfinite, row.values())):
            draw_curves(self.run, self.panels)
            raise not_finite(self.callbacks, self.done)
        self.callbacks.on_metrics(self.done, row)

    def save_samples(self) -> None:
        """Write a grid of samples, once for a step."""
        if self.drawn != self.done:
            self.callbacks.draw(self.done)
            self.drawn = self.done

    def save_checkpoint(self) -> None:
        """Write a checkpoint, once for a step.

        Raises UserError, keeping the last good one, when a metric or a parameter is not finite.
        """
        if self.saved != self.done:
            save_if_finite(self.callbacks, self.done, self.metrics)
            self.saved = self.done

    def save_weights(self) -> None:
        """End the progress bar; write the weights and, after them, the plots."""
        self.contexts.close()
        self.run.save_weights(self.callbacks.weights())  # first: no plot may cost them
        plots = {"losses.png": partial(draw_curves, self.run, self.panels)}
        for name, draw in (plots | self.callbacks.plots()).items():
            warn_on_failure(self.run.path / name, draw)


def train_loop(
    run_steps: Callable[[int], list[StepMetrics]],
    recorder: Recorder,
    sample_every: int,
    checkpoint_every: int | None = None,
) -> int:
    """Train to the last step of an entered recorder and return the steps done.

    run_steps(last) trains one step or more, never beyond step `last`, and returns the metrics of
    each. The loop stops at each step that gets a grid of samples or a checkpoint. Ctrl-C and
    SIGTERM end it between two steps with a complete run folder. Raises UserError, keeping the last
    good checkpoint, when a metric or a parameter is not finite.
    """
    while recorder.done < recorder.steps and not recorder.interrupted():
        pauses = next_multiples(recorder.done, sample_every, checkpoint_every)
        for metrics in run_steps(min(recorder.steps, *pauses)):
            recorder.log(metrics)
        if recorder.done % sample_every == 0:
            recorder.save_samples()
        if checkpoint_every and recorder.done % checkpoint_every == 0:
            recorder.save_checkpoint()
    recorder.save_samples()
    if checkpoint_every:
        recorder.save_checkpoint()
    recorder.save_weights()
    return recorder.done


def warn_on_failure(path: Path, draw: Callable[[], None]) -> None:
    """Draw a plot of a finished run; one that fails is a warning: the weights are saved."""
    try:
        draw()
    except Exception as error:  # of any library that draws
        print(
            f"warning: {printable(path)} could not be made ({reason(error)}); "
            "the weights are saved",
            file=sys.stderr,
        )


def next_multiples(done: int, *periods: int | None) -> list[int]:
    """Return the first multiple after `done` of each period that is not None."""
    return [done - done % period + period for period in periods if period]


def draw_curves(run: RunFolder, panels: Panels) -> None:
    """Write losses.png where there are metrics."""
    if run.metrics:
        save_curves(run.path / "losses.png", run.metrics, panels)


def save_if_finite(callbacks: Callbacks, done: int, metrics: StepMetrics) -> None:
    """Write a checkpoint. Raises UserError where a metric or a parameter is not finite."""
    finite = all(map(math.isfinite, callbacks.to_numbers(metrics).values()))
    if not (finite and callbacks.all_finite()):
        raise not_finite(callbacks, done)
    callbacks.save(done)


def not_finite(callbacks: Callbacks, done: int) -> UserError:
    """Return the error for numbers that have overflowed."""
    explanation = callbacks.explain_overflow(done)
    return UserError(
        f"the loss is no longer finite at step {done}; {explanation and explanation + '; '}"
        "a smaller learning rate may help"
    )


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C or SIGTERM has come; a second one interrupts."""
    requested = False

    def handler(*_):
        nonlocal requested
        requested = True
        for number in handlers:
            signal.signal(number, signal.default_int_handler)

    handlers = {
        number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: requested
    finally:
        for number, previous in handlers.items():
            signal.signal(number, previous)


def progress_bar(steps: int, first: int = 0) -> tqdm:
    """Return a progress bar, redrawn every 0.1 s in a terminal and every 10 s in a log."""
    return tqdm(
        total=steps,
        initial=first,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,
    )
