"""A recorded step with its arrays packed into one arena: repeated without allocating.

    with launch.record() as recording:
        loss = step()
    plan = Plan(recording, keep=[loss])
    plan.run()                            the step again, from the present values of its inputs
    plan.array(loss)                      the loss's place in the arena

Arrays that existed before the recording, such as parameters and batches, stay where they are. Those
made by launch.empty during it move into the arena: each is alive from the first launch that uses it
to the last, and two that are never alive together may share memory. So nothing but launches may
read or write the arrays of a step: anything else is not recorded and not repeated.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from rawgan.backend import Array, address, array_module
from rawgan.kernels.runtime.addresses import ALIGNMENT, FIRST
from rawgan.kernels.runtime.cuda_graph import Graph
from rawgan.kernels.runtime.launch import HostCall, Launch, Recording, cdiv


def pack(sizes: list[int], lifetimes: list[tuple[int, int]]) -> tuple[list[int], int]:
    """Return (offsets, bytes in all) of buffers that are alive from launch `first` to `last`.

    lifetimes: (first, last), both included. Greedy by size: the largest buffer is placed first,
    each at the smallest offset where it overlaps no placed buffer that is alive with it.
    """
    offsets: list[int] = [0] * len(sizes)
    placed: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        first, last = lifetimes[i]
        taken = sorted(
            (offsets[j], sizes[j])
            for j in placed
            if lifetimes[j][0] <= last and first <= lifetimes[j][1]
        )
        offset = 0
        for start, size in taken:
            if offset + sizes[i] <= start:
                break
            offset = max(offset, cdiv(start + size, ALIGNMENT) * ALIGNMENT)
        offsets[i] = offset
        placed.append(i)
    return offsets, max((offset + size for offset, size in zip(offsets, sizes)), default=0)


def union_length(spans: Iterable[tuple[int, int]]) -> int:
    """Return the number of addresses in the union of spans (from, to)."""
    total = end = 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def peak_live_bytes(sizes: list[int], lifetimes: list[tuple[int, int]]) -> int:
    """Return the most bytes that are alive at once: the lower bound of any arena."""
    times = {first for first, _ in lifetimes}
    return max(
        (sum(size for size, (a, b) in zip(sizes, lifetimes) if a <= t <= b) for t in times),
        default=0,
    )


class Plan:
    """The launches of a recording on an arena; the recorded arrays themselves are released.

    keep: arrays whose values are read after a run. repeated: the number of launches at the head of
    the recording that a run may do several times, such as the critic steps of WGAN.

        bytes            the arena's size
        peak_live_bytes  the lower bound of bytes: the most that is alive at once
        unshared_bytes   the size of all its arrays side by side
        external_bytes   that of the arrays outside the arena
        launches         the recording on the arena

    Raises ValueError for an array of another dry recording, which has no memory.
    """

    def __init__(self, recording: Recording, keep: Iterable[Array] = (), repeated: int = 0):
        self.repeated = repeated
        spans = sorted((address(a), a.nbytes) for a in recording.workspace)
        self._starts, self._sizes = [start for start, _ in spans], [size for _, size in spans]

        # Lifetimes: (first, last) launch of each array that is used
        lifetimes: dict[int, tuple[int, int]] = {}
        for t, launch in enumerate(recording):
            for i in {self._owner(a) for a in launch.arrays} - {None}:
                lifetimes[i] = (lifetimes.get(i, (t, t))[0], t)
        for i in map(self._owner, keep):
            if i in lifetimes:
                lifetimes[i] = (lifetimes[i][0], len(recording))

        # Offsets in the arena
        used = sorted(lifetimes)
        sizes, spans = [self._sizes[i] for i in used], [lifetimes[i] for i in used]
        offsets, self.bytes = pack(sizes, spans)
        self.peak_live_bytes = peak_live_bytes(sizes, spans)
        self.unshared_bytes = sum(sizes)
        self._offsets = dict(zip(used, offsets))

        outside = [a for launch in recording for a in launch.arrays if self._owner(a) is None]
        if any(address(a) >= FIRST for a in outside):
            raise ValueError("a plan got an array of another dry recording, which has no memory")
        self.external_bytes = union_length((address(a), address(a) + a.nbytes) for a in outside)

        # The arena, and the launches on it
        if used:
            xp = array_module(recording.workspace[0])
            block = xp.empty(self.bytes + ALIGNMENT, xp.uint8)
            self._arena = block[-address(block) % ALIGNMENT :]
        self.launches: list[Launch | HostCall] = [
            launch.map_arrays(self.array) for launch in recording
        ]

    def _owner(self, a: Array) -> int | None:
        """Return the index of the workspace array that `a` lies in, or None."""
        i = bisect_right(self._starts, address(a)) - 1
        return i if i >= 0 and address(a) < self._starts[i] + max(self._sizes[i], 1) else None

    def array(self, a: Array) -> Array:
        """Return the place in the arena of a recorded array; `a` itself where it lies outside."""
        i = self._owner(a)
        if i not in self._offsets:
            return a
        offset = self._offsets[i] + address(a) - self._starts[i]
        return self._arena[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape)

    def sequence(self, repeats: int = 1) -> list[Launch | HostCall]:
        """Return the launches of a run, the repeated ones `repeats` times."""
        return self.launches[: self.repeated] * repeats + self.launches[self.repeated :]

    def run(self, repeats: int = 1) -> None:
        """Launch the sequence on the current stream."""
        for launch in self.sequence(repeats):
            launch()

    def counts(self, repeats: int = 1) -> Counter[str]:
        """Return the number of launches of each kernel in a run."""
        return Counter(launch.name for launch in self.sequence(repeats))

    def capture(self, steps: int = 1, repeats: int = 1) -> Graph:
        """Return `steps` runs as one CUDA graph, on CuPy arrays. Nothing is run."""
        return Graph(self, steps, repeats)
