"""Recording of launches: a step that runs once is a list of launches that can be repeated.

    with record() as recording:
        step()
    for launch in recording:
        launch()

A dry recording is one without execution: its arrays have addresses, shapes and dtypes, but no
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rawgan.backend import Array

if TYPE_CHECKING:
    from rawgan.kernels.runtime.launch import Launch

_recording: Recording | None = None  # the one under way; None outside `record`


class HostCall:
    """A host function call in a recording: f(*arrays), which works on the current stream.

    Such as an all-reduce. f changes nothing but these arrays and allocates nothing, so that it may
    be captured in a CUDA graph.
    """

    def __init__(self, f: Callable[..., object], arrays: tuple[Array, ...]):
        self.f, self.arrays = f, list(arrays)

    def __call__(self) -> None:
        """Call f on the arrays."""
        self.f(*self.arrays)

    def load(self) -> None:
        """Do nothing: there is no kernel to load."""

    @property
    def name(self) -> str:
        """Return the name of the function."""
        return self.f.__name__

    def map_arrays(self, f: Callable[[Array], Array]) -> HostCall:
        """Return the same call with f(array) for each array."""
        return HostCall(self.f, tuple(map(f, self.arrays)))


class Recording(list["Launch | HostCall"]):
    """The launches in order; called in that order they do the same again.

    dry: nothing was started. workspace: the arrays that launch.empty made meanwhile.
    """

    def __init__(self, dry: bool):
        super().__init__()
        self.dry = dry
        self.workspace: list[Array] = []


def current() -> Recording | None:
    """Return the recording under way, if any."""
    return _recording


@contextmanager
def record(dry: bool = False) -> Iterator[Recording]:
    """Record every launch and every launch.empty inside the block; dry: without starting anything.

    Raises ValueError inside another recording.
    """
    global _recording
    if _recording is not None:
        raise ValueError("a recording is under way already")
    _recording = Recording(dry)
    try:
        yield _recording
    finally:
        _recording = None


def call(f: Callable[..., object], *arrays: Array) -> None:
    """Call f(*arrays), and record the call where launches are recorded."""
    if _recording is not None:
        _recording.append(HostCall(f, arrays))
    if _recording is None or not _recording.dry:
        f(*arrays)
