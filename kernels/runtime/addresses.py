"""Arrays with an address, a shape and a dtype, but no memory, for a dry recording.

The addresses lie above all that a process can map, each is used once, and all are multiples of
ALIGNMENT, as in an arena. Shapes, views and slices of such an array work as of any other; writing
to it raises ValueError on NumPy, and reading it is a memory fault.
"""

from math import prod
from types import SimpleNamespace

import numpy as np

from rawgan.backend import Array, array_module

ALIGNMENT = 256  # bytes; TMA descriptors ask for 16, whole cache lines of 128 keep buffers apart
FIRST = 2**62  # x86-64 and ARM map addresses below 2^57


class AddressSpace:
    """Arrays at increasing addresses, from FIRST on."""

    def __init__(self):
        self.next = FIRST

    def empty(self, like: Array, shape: tuple[int, ...], dtype) -> Array:
        """Return an array without memory, of the module and on the device of `like`."""
        xp, dtype, start = array_module(like), np.dtype(dtype), self.next
        nbytes = prod(shape) * dtype.itemsize
        self.next += max(1, -(-nbytes // ALIGNMENT)) * ALIGNMENT
        if xp is np:
            interface = {
                "version": 3,
                "data": (start, True),
                "shape": tuple(shape),
                "typestr": dtype.str,
            }
            return np.asarray(SimpleNamespace(__array_interface__=interface))
        memory = xp.cuda.UnownedMemory(start, nbytes, None, like.device.id)
        return xp.ndarray(shape, dtype, xp.cuda.MemoryPointer(memory, 0))


address_space = AddressSpace()
