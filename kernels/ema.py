"""The exponential moving average of a vector, in place. The mathematics is in rawgan/ema.py.

Multiply and add are contracted to one instruction on a GPU, so that a value may differ from NumPy's
by one rounding.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.epilogue import load_f32

CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def ema_update(average, value, WEIGHT: tl.constexpr):
    """Return average + WEIGHT (value - average)."""
    return average + WEIGHT * (value - average)


@triton.jit
def moving_average_kernel(
    average_ptr,
    value_ptr,
    SIZE: tl.constexpr,
    WEIGHT: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """average = average + WEIGHT (value - average), elementwise. Tile: BLOCK values."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    average = ema_update(load_f32(average_ptr, offs, mask), load_f32(value_ptr, offs, mask), WEIGHT)
    tl.store(average_ptr + offs, average, mask=mask)


def moving_average(average: Array, value: Array, decay: float) -> None:
    """Update average (n,) float32 in place from value (n,); nothing is launched where n is 0."""
    launch.require_equal((average.shape, value.shape), (average.dtype, "float32"))
    if average.size:
        grid = (launch.cdiv(average.size, CONFIG["BLOCK"]),)
        constants = {"SIZE": average.size, "WEIGHT": 1 - decay}
        launch.run(moving_average_kernel, grid, average, value, **constants, **CONFIG)
