"""A recorded step on one block of memory: what was launched once is launched again, and nothing is allocated.

    with launch.record() as recording:
        loss = step()
    plan = Plan(recording, keep=[loss])
    plan.run()                            again, from what the arrays that came from outside hold by then
    plan.array(loss)                      where the plan writes it

Arrays that came from outside, parameters or batches, stay where they are. Those made meanwhile move into the arena: each lives from
the first launch that has it to the last, and two that never live together may share memory. So between its launches a step may do
nothing else to its arrays: what is no launch is not seen, and not done again.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from rawgan.backend import Array, address, array_module
from rawgan.kernels.launch import Call, Launch, Recording, cdiv

ALIGNMENT = 256  # bytes; tensor maps ask for 16, and whole cache lines of 128 keep two buffers apart


def pack(sizes: list[int], lives: list[tuple[int, int]]) -> tuple[list[int], int]:
    """(offsets, bytes in all) for buffers that live from launch `first` to `last`, both included; the largest are placed first.

    Each takes the lowest gap that none of the buffers alive with it reaches into.
    """
    offsets: list[int] = [0] * len(sizes)
    placed: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        first, last = lives[i]
        taken = sorted((offsets[j], sizes[j]) for j in placed if lives[j][0] <= last and first <= lives[j][1])
        offset = 0
        for start, size in taken:
            if offset + sizes[i] <= start:
                break
            offset = max(offset, cdiv(start + size, ALIGNMENT) * ALIGNMENT)
        offsets[i] = offset
        placed.append(i)
    return offsets, max((offset + size for offset, size in zip(offsets, sizes)), default=0)


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """How many addresses lie in one of the spans (from, to) or more."""
    total = end = 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def least(sizes: list[int], lives: list[tuple[int, int]]) -> int:
    """The bytes alive at once at the fullest moment: no arena can be smaller."""
    moments = {first for first, _ in lives}
    return max((sum(size for size, (a, b) in zip(sizes, lives) if a <= t <= b) for t in moments), default=0)


class Plan:
    """See the head of the file. `bytes` is the size of the arena, `least` what any arena would need, `separate` what the arrays
    took before, `outside` the bytes of those that came from outside; `launches` are on the arena."""

    def __init__(self, recording: Recording, keep: Iterable[Array] = ()):
        owners = sorted(recording.workspace, key=address)
        self._starts = [address(a) for a in owners]
        self._owners = owners
        lives: dict[int, tuple[int, int]] = {}
        for t, launch in enumerate(recording):
            for i in {self._owner(a) for a in launch.arrays} - {None}:
                lives[i] = (lives.get(i, (t, t))[0], t)
        for i in map(self._owner, keep):
            if i in lives:
                lives[i] = (lives[i][0], len(recording))
        self._used = sorted(lives)
        sizes, spans = [owners[i].nbytes for i in self._used], [lives[i] for i in self._used]
        offsets, self.bytes = pack(sizes, spans)
        self.least, self.separate = least(sizes, spans), sum(sizes)
        outside = [a for launch in recording for a in launch.arrays if self._owner(a) is None]
        self.outside = covered((address(a), address(a) + a.nbytes) for a in outside)
        self._offsets = dict(zip(self._used, offsets))
        if self._used:
            xp = array_module(owners[0])
            block = xp.empty(self.bytes + ALIGNMENT, xp.uint8)
            self._arena = block[-address(block) % ALIGNMENT :]
        self.launches: list[Launch | Call] = [launch.moved(self.array) for launch in recording]

    def _owner(self, a: Array) -> int | None:
        """Which array of the workspace `a` lies in, if any."""
        i = bisect_right(self._starts, address(a)) - 1
        return i if i >= 0 and address(a) < self._starts[i] + max(self._owners[i].nbytes, 1) else None

    def array(self, a: Array) -> Array:
        """Where in the arena what was recorded as `a` is; `a` itself where it came from outside."""
        i = self._owner(a)
        if i not in self._offsets:
            return a
        offset = self._offsets[i] + address(a) - self._starts[i]
        return self._arena[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape)

    def run(self) -> None:
        """Launches everything once, on the current stream."""
        for launch in self.launches:
            launch()

    def counts(self) -> Counter[str]:
        """How often each kernel is launched."""
        return Counter(launch.name for launch in self.launches)

    def capture(self, steps: int = 1) -> "Graph":
        """The launches as one CUDA graph that does `steps` runs, on CuPy arrays. Nothing is run: what the arrays hold stays.

        The stream is one of its own: CuPy's is the default one, which cannot be captured, and work on that would break the capture
        of a stream that waits for it. The mode is CuPy's, relaxed: other threads may allocate and copy meanwhile.
        """
        for launch in self.launches:
            launch.load()  # to compile or load during a capture may fail
        cupy = array_module(*self.launches[0].arrays)
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:  # launches go to the current stream
            stream.begin_capture()
            try:
                for _ in range(steps):
                    self.run()
            finally:
                graph = stream.end_capture()  # after an error, too: else the stream would go on capturing
        graph.upload(stream)
        stream.synchronize()
        return Graph(graph, self, steps)


class Graph:
    """Runs of a plan as a CUDA graph, and the plan: the graph holds addresses alone, and does not keep its arrays alive."""

    def __init__(self, graph, plan: Plan, steps: int):
        self.graph, self.plan, self.steps = graph, plan, steps

    def launch(self, stream=None) -> None:
        """Does all its runs, on a stream of CuPy; on the current one without."""
        self.graph.launch(stream)
