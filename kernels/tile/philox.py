"""Philox4x32-10 random bits, and uniform and normal variables from them (Salmon et al. 2011).

The key is the seed. Of the four 32-bit counter words, word 0 counts within an array, words 1 and 2
are the training step, word 3 is the stream, a number per array of a step: one seed gives 2^64 steps
of 2^32 arrays whose numbers never overlap.
"""

import triton
import triton.language as tl


@triton.jit
def philox_bits(state_ptr, offs, STREAM: tl.constexpr):
    """Return four random 32-bit words for each offset; state_ptr: the seed and the step, int64."""
    # The counter words are blocks of one shape: scalars are broadcast to that of offs
    zero = (offs * 0).to(tl.uint32)
    step = tl.load(state_ptr + 1).to(tl.uint64)
    step_low = (step & 0xFFFFFFFF).to(tl.uint32) + zero
    step_high = (step >> 32).to(tl.uint32) + zero
    stream = zero + STREAM

    # Ten rounds, with the seed as the key
    seed = tl.load(state_ptr).to(tl.uint64)
    return tl.philox(seed, offs.to(tl.uint32), step_low, step_high, stream)


@triton.jit
def bits_to_uniform(word, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Return LOW + (HIGH - LOW) u from 23 bits of a word, u in (0, 1), exact: never 0 or 1."""
    return LOW + (HIGH - LOW) * (((word >> 9).to(tl.float32) + 0.5) * 2**-23)


@triton.jit
def box_muller(word_r, word_a):
    """Return two independent N(0, 1) variables from two words: r cos(a) and r sin(a).

        r = sqrt(-2 log u),  a = 2 pi v;  u, v: of each word 23 bits, exact in float32, never 0 or 1

    cos and sin are polynomials on [-pi/4, pi/4]: tl.cos and tl.sin would need local memory.
    """
    # Radius
    radius = tl.sqrt(-2.0 * tl.log(((word_r >> 9).to(tl.float32) + 0.5) * 2**-23))

    # Angle 2 pi v in quarter turns: the nearest quarter, and the rest x in radians
    quarter_turns = ((word_a >> 9).to(tl.float32) + 0.5) * 2**-21
    quarter = tl.floor(quarter_turns + 0.5)
    x = (quarter_turns - quarter) * 1.5707963267948966

    # Taylor series of sin x and cos x
    z = x * x
    sin = x * (1.0 + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880)))))
    cos = 1.0 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320))))

    # Rotation by the quarters: odd ones exchange sin and cos, the sign is that of the quadrant
    quadrant = quarter.to(tl.int32) % 4
    odd = quadrant % 2 == 1
    cos_q = tl.where(odd, sin, cos)
    sin_q = tl.where(odd, cos, sin)
    cos_angle = tl.where((quadrant == 1) | (quadrant == 2), -cos_q, cos_q)
    sin_angle = tl.where(quadrant >= 2, -sin_q, sin_q)
    return radius * cos_angle, radius * sin_angle
