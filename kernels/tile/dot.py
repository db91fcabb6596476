"""Product of two tiles, added to a float32 accumulator: tl.dot, and bf16x3 for float32 tiles."""

import triton
import triton.language as tl

from rawgan.kernels.tile.epilogue import to_f32


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """Return acc + a b: a (M, K), b (K, N), acc (M, N) float32.

    PRECISION of float32 tiles: see gemm_config.py. In bf16x3 a = a_hi + a_lo, where a_hi is a
    rounded to bfloat16 and a_lo the rest, b alike, and

        a b = a_lo b_hi + a_hi b_lo + a_hi b_hi

    without a_lo b_lo: three bfloat16 products on tensor cores, whose error is at most 2^-15 |a| |b|.
    """
    if PRECISION == "bf16x3" and a.dtype == tl.float32:
        a_hi = a.to(tl.bfloat16)
        b_hi = b.to(tl.bfloat16)
        a_lo = (a - to_f32(a_hi)).to(tl.bfloat16)
        b_lo = (b - to_f32(b_hi)).to(tl.bfloat16)
        # The small products first, in a sum of their own: tensor cores truncate every addition to
        # the last place of the sum, so that adding all three to acc would lose more than bf16x3 does
        part = tl.dot(a_lo, b_hi)
        part = tl.dot(a_hi, b_lo, part)
        part = tl.dot(a_hi, b_hi, part)
        return acc + part
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)
