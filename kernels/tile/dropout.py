"""Dropout of values in registers: y = m x, with a mask that is a function of seed and step.

Value i of an array has mask number first + i of a stream of random numbers, so that a mask is never
stored: the gradient, dx = m dy, is the same operation on dy.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from rawgan.kernels.tile.philox import bits_to_uniform, philox_bits


class DropoutMask(NamedTuple):
    """Mask of a kernel's output: arguments of kernels.dropout after the array and the state.

    p: the probability of 0. first: number of the mask of the first value.
    """

    p: float
    stream: int = 0
    first: int = 0


def mask_constants(mask: DropoutMask | None) -> dict[str, float]:
    """Return the constants of a kernel with Dropout; P = 0 without a mask."""
    p, stream, first = mask or DropoutMask(0.0)
    return {"P": p, "STREAM": stream, "FIRST": first}


@triton.jit
def drop(x, state_ptr, offs, P: tl.constexpr, STREAM: tl.constexpr):
    """Return x[i] = 0 where u[offs[i]] < P, else x[i] / (1 - P); u uniform."""
    word, _, _, _ = philox_bits(state_ptr, offs, STREAM)
    return tl.where(bits_to_uniform(word, 0.0, 1.0) < P, 0.0, x * (1.0 / (1.0 - P)))
