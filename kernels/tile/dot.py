"""Product of two tiles, added to a float32 accumulator: tl.dot, and bf16x3 for float32 tiles."""

import triton
import triton.language as tl

from rawgan.kernels.tile.epilogue import to_f32


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """Return acc + a b: a (M, K), b (K, N), acc (M, N) float32.

    PRECISION: of the products of float32 tiles, see gemm_config.py. In bf16x3 a is the sum of two
    bfloat16 numbers, a_hi and a_lo, and an error of at most 2^-17 |a|; b alike. Of a b the tensor
    cores compute a_lo b_hi + a_hi b_lo + a_hi b_hi, at most 2^-15 |a| |b| wrong
    (docs/precision.md).
    """
    if a.dtype != tl.float32:
        return tl.dot(a, b, acc)
    elif PRECISION == "bf16x3":
        a_hi = a.to(tl.bfloat16)
        b_hi = b.to(tl.bfloat16)
        a_lo = (a - to_f32(a_hi)).to(tl.bfloat16)
        b_lo = (b - to_f32(b_hi)).to(tl.bfloat16)
        # A sum of its own for each step, the small products first: tensor cores truncate the sum
        # with every addition, and three of them to acc would lose more than bf16x3 does
        part = tl.dot(a_lo, b_hi)
        part = tl.dot(a_hi, b_lo, part)
        part = tl.dot(a_hi, b_hi, part)
        return acc + part
    else:
        tl.static_assert(
            PRECISION == "tf32x3" or PRECISION == "tf32" or PRECISION == "ieee",
            "PRECISION must be tf32x3, bf16x3, tf32 or ieee",
        )
        return tl.dot(a, b, acc, input_precision=PRECISION)
