"""The flat gradient of a network in a planned step, as split-K partial sums."""

from collections import defaultdict
from math import prod

from rawgan.backend import Array, array_module
from rawgan.kernels.optimizers import partials_table, table_alignment
from rawgan.kernels.runtime.launch import cdiv
from rawgan.layers import Parameters

ALIGNMENT = 64  # numbers: the partial sums of each parameter begin at a multiple of 256 bytes


class Gradient:
    """The partial sums of the gradient of each parameter, in one flat float32 array.

    A parameter may get several contributions before an optimizer step (one for each pass), each of
    several partial sums. A first dry run counts them, with kernels that allocate; after `allocate`
    each contribution has an array in `flat`, and the kernels write there.
    """

    def __init__(self, parameters: Parameters):
        self.parameters, self.flat = parameters, None
        self.table: Array | None = None  # of `flat`, for the optimizers' kernels
        self.alignment = 1  # of the numbers in it
        self.starts: dict[str, int] = {}  # of each parameter's partial sums in `flat`
        self.counts: dict[str, list[int]] = {}  # partial sums of each contribution
        self.used: dict[str, list[int]] = defaultdict(list)  # those since the last optimizer step

    def allocate(self) -> None:
        """Allocate the partial sums that were counted, and their table."""
        rows, theta, start = [], 0, 0
        for name, shape in self.parameters.shapes.items():
            size, count = prod(shape), sum(self.counts[name])
            rows.append((theta, size, start, count))
            self.starts[name] = start
            theta, start = theta + size, cdiv(start + size * count, ALIGNMENT) * ALIGNMENT
        self.flat = array_module(self.parameters.flat).zeros(start, "float32")
        table = partials_table(rows)
        self.table = self.parameters.device.asarray(table)
        self.alignment = table_alignment(table)

    def summed(self) -> dict[str, Array]:
        """Return the gradient of each parameter: the sum of its partial sums."""
        sums = {}
        for name, shape in self.parameters.shapes.items():
            start, count = self.starts[name], sum(self.counts[name])
            partials = self.flat[start : start + count * prod(shape)]
            sums[name] = partials.reshape(count, *shape).sum(0)
        return sums

    def finish_step(self) -> None:
        """Start again with the first contribution of each parameter, after an optimizer step."""
        self.counts, self.used = dict(self.used), defaultdict(list)

    def partials(self, name: str) -> Array | None:
        """Return the array (count, *shape) of the next contribution; None in the counting run."""
        if self.flat is None:
            return None
        i, shape = len(self.used[name]), self.parameters.shapes[name]
        start = self.starts[name] + sum(self.counts[name][:i]) * prod(shape)
        count = self.counts[name][i]
        return self.flat[start : start + count * prod(shape)].reshape(count, *shape)

    def advance(self, name: str, count: int) -> None:
        """Note that the next contribution has been written, as `count` partial sums."""
        self.used[name].append(count)

    def reserve(self, name: str, count: int) -> Array | None:
        """Return the array of the next contribution, of `count` partial sums, and `advance`."""
        partials = self.partials(name)
        self.advance(name, count)
        return partials

    def reserve_vector(self, name: str) -> Array | None:
        """Return the array of the next contribution of one partial sum, without the first axis."""
        partials = self.reserve(name, 1)
        return None if partials is None else partials[0]
