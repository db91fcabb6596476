"""Reductions of partial sums and partial statistics in a fixed order.

The same seed gives the same bits. A sum that one program cannot finish (split-K of a GEMM, the rows
of a BatchNorm's channel) is stored as float32 partials, `stride` values apart. There are two ways
to add them, and no atomics on floats:

    sum_partials_sequential    ((p_0 + p_1) + p_2) + ...                a few partials
    sum_partials_parallel      BLOCK_PARTIALS sums of every BLOCK_PARTIALS-th, then a tree: many

and `merge_batch_stats` for count, mean and squared distances. Whether the partials are complete is
asked with `is_last_program`.
"""

import triton
import triton.language as tl

from rawgan.kernels.tile.epilogue import load_f32

DEFAULT_BLOCK: tl.constexpr = tl.constexpr(16)  # partials that are added or merged at a time
IN_FLIGHT: tl.constexpr = tl.constexpr(8)  # loads of a loop that do not wait for each other


@triton.jit
def sum_partials_sequential(
    partials_ptr, offs, mask, count, stride, LOADS: tl.constexpr = IN_FLIGHT
):
    """Return the sum over i < count of the partials at offs + i stride, one after another.

    The partials are float32. LOADS loads do not wait for each other.
    """
    total = tl.load(partials_ptr + offs, mask=mask, other=0.0)
    i = 1
    while i < count:
        for j in tl.static_range(LOADS):
            inside = mask & (tl.full(offs.shape, i + j, tl.int32) < count)
            # x + -0.0 is x, -0.0 too: partials past the last one change no bit
            total += tl.load(partials_ptr + offs + (i + j) * stride, mask=inside, other=-0.0)
        i += LOADS
    return total


@triton.jit
def sum_partials_parallel(
    partials_ptr, offs, mask, count, stride, BLOCK_PARTIALS: tl.constexpr = DEFAULT_BLOCK
):
    """Return the sum over i < count of the partials at offs + i stride, BLOCK_PARTIALS at a time.

    Row l adds the partials l, l + BLOCK_PARTIALS, ...; the rows are added as a tree. The loads of a
    step do not wait for each other. `count` may be a constant or a value read from memory.
    """
    row = tl.arange(0, BLOCK_PARTIALS)
    totals = tl.zeros((BLOCK_PARTIALS, offs.shape[0]), tl.float32)
    i = 0
    while i < count:
        totals += load_f32(
            partials_ptr,
            offs[None, :] + (i + row)[:, None] * stride,
            (i + row < count)[:, None] & mask[None, :],
        )
        i += BLOCK_PARTIALS
    return tl.sum(totals, 0)


@triton.jit
def row_mask(i, count, mask, WHOLE: tl.constexpr):
    """Return the mask of partial i of `count`. WHOLE: their number is a multiple of IN_FLIGHT."""
    if WHOLE:
        return mask
    else:
        return mask & (tl.full(mask.shape, i, tl.int32) < count)


@triton.jit
def merge_batch_stats(
    partials_ptr, offs, mask, count, WIDTH: tl.constexpr, WHOLE: tl.constexpr = False
):
    """Return (n, mean, m2) of each column from `count` partials (3, WIDTH) at offs: n, mean, m2.

    m2 is the sum of squared distances from the mean of n values. IN_FLIGHT partials at a time:

        mean = sum of n_i mean_i / n,   m2 = sum of m2_i + n_i (mean_i - mean)^2
    """
    n = tl.zeros(offs.shape, tl.float32)
    mean = tl.zeros(offs.shape, tl.float32)
    i = 0
    while i < count:
        for j in tl.static_range(IN_FLIGHT):
            partial_ptr = partials_ptr + (i + j) * (3 * WIDTH)
            inside = row_mask(i + j, count, mask, WHOLE)
            partial_n = load_f32(partial_ptr, offs, inside)
            n += partial_n
            mean += partial_n * load_f32(partial_ptr + WIDTH, offs, inside)
        i += IN_FLIGHT
    mean /= tl.maximum(n, 1.0)

    # The distances from the mean of all
    m2 = tl.zeros(offs.shape, tl.float32)
    k = 0
    while k < count:
        for m in tl.static_range(IN_FLIGHT):
            n_ptr = partials_ptr + (k + m) * (3 * WIDTH)
            valid = row_mask(k + m, count, mask, WHOLE)
            distance = load_f32(n_ptr + WIDTH, offs, valid) - mean
            m2 += load_f32(n_ptr + 2 * WIDTH, offs, valid)
            m2 += load_f32(n_ptr, offs, valid) * distance * distance
        k += IN_FLIGHT
    return n, mean, m2


@triton.jit
def is_last_program(counter_ptr, programs):
    """Return whether this is the last of `programs` programs to arrive, and leave the counter at 0.

    The last program sees all that the others stored before they arrived. The counter starts at 0.
    """
    # The barrier completes the stores of all warps before the atomic's release: Triton 3.6 does not
    tl.debug_barrier()
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel") == programs - 1
    if last:  # no other program of this launch counts any more; the next launch finds 0 again
        tl.store(counter_ptr, 0)
    return last
