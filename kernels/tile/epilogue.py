"""Device functions that begin and end a tile: masks, masked loads in float32, bias and activation.

A GEMM kernel holds its BLOCK_M x BLOCK_N output tile in a float32 accumulator. `epilogue` is
applied to it in registers, so that the output is written once. batch_stats.py adds the statistics
of a BatchNorm to it (`store_epilogue`).
"""

import triton
import triton.language as tl

from rawgan.kernels.tile.activation import activate, activate_dx


@triton.jit
def in_bounds(offs, SIZE: tl.constexpr, COVERED: tl.constexpr):
    """Return the mask offs < SIZE.

    COVERED is the number of offsets that all programs of an axis cover in steps: where SIZE is a
    multiple of it no offset lies outside, the mask is constant and the compiler removes it.
    """
    if SIZE % COVERED == 0:
        return tl.full(offs.shape, True, tl.int1)
    else:
        return offs < SIZE


@triton.jit
def load_f32(ptr, offs, mask):
    """Return the values at ptr + offs as float32, 0 where the mask is false."""
    return tl.load(ptr + offs, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def to_f32(x):
    """Return x in float32. A bfloat16 is the upper half of it, which a shift of integers shows."""
    if x.dtype == tl.bfloat16:
        bits = x.to(tl.uint16, bitcast=True).to(tl.uint32)
        return (bits << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def epilogue(acc, bias_ptr, saved, offs_n, mask_n, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """Return act(acc + bias), or with `saved` the gradient (acc + bias) act'(saved).

    acc (BLOCK_M, BLOCK_N) float32, saved alike, in any dtype; bias (N,) is read at offs_n. bias_ptr
    and saved may be None.
    """
    if bias_ptr is not None:
        acc += load_f32(bias_ptr, offs_n, mask_n)[None, :]
    if saved is not None:
        acc = activate_dx(acc, saved.to(tl.float32), ACT, SLOPE)
    else:
        acc = activate(acc, ACT, SLOPE)
    return acc
