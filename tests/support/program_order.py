"""Run the programs of every launch in another order, in Triton's interpreter (no tests).

    with program_order("shuffled"):
        kernels.conv2d(x, w)

A GPU runs programs in any order. The output bits of a kernel must not depend on it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

ORDERS = ("plain", "reversed", "shuffled")


@contextmanager
def program_order(order: str, seed: int = 1) -> Iterator[None]:
    """Context in which program i of a launch does the work of program permutation[i].

    Every launch draws a new permutation.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    if order not in ORDERS:
        raise ValueError(f"order {order!r} is not known; choose {', '.join(ORDERS)}")
    original, rng, permutation = InterpreterBuilder.set_grid_idx, random.Random(seed), []

    def set_grid_idx(self, x, y, z):
        nx, ny, nz = self.grid_dim
        if (x, y, z) == (0, 0, 0):  # the first program of a launch
            permutation[:] = range(nx * ny * nz)
            if order == "reversed":
                permutation.reverse()
            elif order == "shuffled":
                rng.shuffle(permutation)
        x, rest = divmod(permutation[(x * ny + y) * nz + z], ny * nz)
        original(self, x, *divmod(rest, nz))

    InterpreterBuilder.set_grid_idx = set_grid_idx
    try:
        yield
    finally:
        InterpreterBuilder.set_grid_idx = original
