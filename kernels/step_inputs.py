"""Latent vectors, real images and Dropout masks made on the GPU.

    step_inputs   z ~ N(0, 1) or U(-1, 1), a batch of the data set, the optimizers' step counters
    dropout       x m, in place

Random numbers come from tile/philox.py: they are a function of the seed and the step, which lie in
device memory, so that a captured CUDA graph needs nothing from the host.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.dropout import DropoutMask, drop, mask_constants
from rawgan.kernels.tile.epilogue import load_f32
from rawgan.kernels.tile.philox import bits_to_uniform, box_muller, philox_bits

CONFIG = {"BLOCK": 512, "num_warps": 4}


class StepCounters(NamedTuple):
    """Step counters of the two optimizers, int32 (1,) each."""

    generator: Array
    discriminator: Array


@triton.jit
def _store_quarters(out_ptr, offs, z0, z1, z2, z3, SIZE: tl.constexpr):
    """out[offs + i QUARTER] = zi: neighbouring lanes store neighbouring values."""
    QUARTER: tl.constexpr = (SIZE + 3) // 4
    inside = offs < QUARTER
    dtype = out_ptr.dtype.element_ty
    mask_1 = inside & (QUARTER + offs < SIZE)
    mask_2 = inside & (2 * QUARTER + offs < SIZE)
    mask_3 = inside & (3 * QUARTER + offs < SIZE)
    tl.store(out_ptr + offs, z0.to(dtype), mask=inside)
    tl.store(out_ptr + QUARTER + offs, z1.to(dtype), mask=mask_1)
    tl.store(out_ptr + 2 * QUARTER + offs, z2.to(dtype), mask=mask_2)
    tl.store(out_ptr + 3 * QUARTER + offs, z3.to(dtype), mask=mask_3)


@triton.jit
def _pixels(data_ptr, index_ptr, offs, mask, ROW: tl.constexpr, PIXELS: tl.constexpr):
    """Return pixels of the images that index names, in [-1, 1] ("tanh") or [0, 1] ("unit").

    ROW: pixels of an image. Offsets into the data set are int64: it may have 2^31 bytes and more.
    """
    row = tl.load(index_ptr + offs // ROW, mask=mask, other=0).to(tl.int64)
    x = tl.load(data_ptr + row * ROW + offs % ROW, mask=mask, other=0).to(tl.float32)
    if PIXELS == "unit":
        x = x * (1.0 / 255.0)
    else:
        tl.static_assert(PIXELS == "tanh", "PIXELS must be tanh or unit")
        x = x * (2.0 / 255.0) - 1.0
    return x


@triton.jit
def step_inputs_kernel(
    z_ptr, real_ptr, data_ptr, index_ptr, state_ptr, step_counters,
    Z: tl.constexpr, REAL: tl.constexpr, ROW: tl.constexpr, BATCHES: tl.constexpr,
    DRAW: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Draw z, gather a batch of pixels, and count the step of both optimizers.

    Tile: the first programs draw four numbers of z for each of BLOCK counters; the others gather
    BLOCK pixels each. Z, REAL: values of z and of the batch.
    """
    wait_for_previous_kernel(PDL)
    Z_PROGRAMS: tl.constexpr = ((Z + 3) // 4 + BLOCK - 1) // BLOCK
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) < Z_PROGRAMS:
        # z, of stream 0
        a, b, c, d = philox_bits(state_ptr, offs, 0)
        if DRAW == "normal":
            z0, z1 = box_muller(a, b)
            z2, z3 = box_muller(c, d)
        else:
            tl.static_assert(DRAW == "uniform", "DRAW must be normal or uniform")
            z0 = bits_to_uniform(a, -1.0, 1.0)
            z1 = bits_to_uniform(b, -1.0, 1.0)
            z2 = bits_to_uniform(c, -1.0, 1.0)
            z3 = bits_to_uniform(d, -1.0, 1.0)
        _store_quarters(z_ptr, offs, z0, z1, z2, z3, Z)
    else:
        # Real images: batch `step mod BATCHES` of the index
        pixel = offs - Z_PROGRAMS * BLOCK
        mask = pixel < REAL
        batch = (tl.load(state_ptr + 1) % BATCHES).to(tl.int32)
        x = _pixels(data_ptr, index_ptr + batch * (REAL // ROW), pixel, mask, ROW, PIXELS)
        tl.store(real_ptr + pixel, x.to(real_ptr.dtype.element_ty), mask=mask)
    # Step counters
    if tl.program_id(0) == 0:
        tl.store(step_counters.generator, tl.load(step_counters.generator) + 1)
        tl.store(step_counters.discriminator, tl.load(step_counters.discriminator) + 1)


@triton.jit
def dropout_kernel(
    x_ptr, state_ptr, FIRST: tl.constexpr, SIZE: tl.constexpr, P: tl.constexpr,
    STREAM: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """x[i] = 0 where u[FIRST + i] < P, else x[i] / (1 - P); u uniform. Tile: BLOCK values."""
    wait_for_previous_kernel(PDL)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = load_f32(x_ptr, offs, offs < SIZE)
    x = drop(x, state_ptr, FIRST + offs, P, STREAM)
    tl.store(x_ptr + offs, x.to(x_ptr.dtype.element_ty), mask=offs < SIZE)


def step_inputs(
    z: Array, real: Array, data: Array, index: Array, state: Array, g_step: Array, d_step: Array,
    draw: str = "normal", pixels: str = "tanh",
) -> None:  # fmt: skip
    """Fill z and `real` for a training step, and add 1 to both optimizers' step counters.

    z               any shape: N(0, 1) for draw="normal", U(-1, 1) for "uniform", of stream 0
    real            (N, ...): images in [-1, 1] for pixels="tanh", in [0, 1] for "unit"
    data            (images, ...) uint8, the data set
    index           (batches, N) int32: the images of batch `step mod batches`
    state           (2,) int64: the seed and the step
    g_step, d_step  (1,) int32
    """
    row = real.size // len(real)
    launch.require_shapes((len(index), len(real)), index)
    launch.require_equal((data.size // len(data), row))
    launch.require_shapes((2,), state)
    launch.require_shapes((1,), g_step, d_step)
    z_programs = launch.cdiv(launch.cdiv(z.size, 4), CONFIG["BLOCK"])
    grid = (z_programs + launch.cdiv(real.size, CONFIG["BLOCK"]),)
    constants = {"Z": z.size, "REAL": real.size, "ROW": row, "BATCHES": len(index)}
    constants |= {"DRAW": draw, "PIXELS": pixels}
    pointers = z, real, data, index, state, StepCounters(g_step, d_step)
    launch.run(step_inputs_kernel, grid, *pointers, int64_array=data, **constants, **CONFIG)


def dropout(x: Array, state: Array, p: float, stream: int = 0, first: int = 0) -> Array:
    """Return x m, in place: m is 0 with probability p, else 1 / (1 - p).

    x[i] (flat) has mask number first + i of the stream, a function of the seed and the step in
    `state` (2,) int64. The mask is not stored: the gradient, dx = m dy, is the same call on dy.
    """
    launch.require_shapes((2,), state)
    constants = {"SIZE": x.size, **mask_constants(DropoutMask(p, stream, first))}
    grid = (launch.cdiv(x.size, CONFIG["BLOCK"]),)
    launch.run(dropout_kernel, grid, x, state, **constants, **CONFIG)
    return x
