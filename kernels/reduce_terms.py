"""Means of a loss term over many values with its derivatives, and sums over rows.

Sums have a fixed order, which depends on the sizes alone, so that the same inputs give the same
bits: the lanes of a program add its blocks in order and are summed as a tree; where there are
several programs, a second launch sums their partial sums the same way.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.dependent_launch import wait_for_previous_kernel
from rawgan.kernels.tile.loss_terms import loss_term

CONFIG = {"BLOCK": 1024, "num_warps": 4}
STEPS = 4  # blocks per program below which a second program is not worth the second launch
PROGRAMS = 128  # the most programs of a mean

Side = tuple[Array, str, float, float]  # values, loss term, its parameter, weight of the mean


@triton.jit
def _sum_terms(
    x_ptr, dx_ptr, LOSS_TERM: tl.constexpr, LOSS_PARAM: tl.constexpr, WEIGHT: tl.constexpr,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return WEIGHT / SIZE sum f(x) over the values of this program; dx = WEIGHT / SIZE f'(x)."""
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        offs = (tl.program_id(0) * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        mask = offs < SIZE
        x = tl.load(x_ptr + offs * STRIDE, mask=mask, other=0.0).to(tl.float32)
        value, derivative = loss_term(x, LOSS_TERM, LOSS_PARAM)
        total += tl.where(mask, value, 0.0)
        if dx_ptr is not None:
            dx = derivative * (WEIGHT / SIZE)
            tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    return tl.sum(total, 0) * (WEIGHT / SIZE)


@triton.jit
def mean_terms_kernel(
    a_ptr, c_ptr, out_ptr, da_ptr, dc_ptr,
    A_LOSS_TERM: tl.constexpr, A_LOSS_PARAM: tl.constexpr, A_WEIGHT: tl.constexpr,
    A: tl.constexpr, A_STEPS: tl.constexpr,
    C_LOSS_TERM: tl.constexpr, C_LOSS_PARAM: tl.constexpr, C_WEIGHT: tl.constexpr,
    C: tl.constexpr, C_STEPS: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[program] = partial sum of A_WEIGHT mean(f(a)) + C_WEIGHT mean(h(c)), and the derivatives.

    Tile: A_STEPS blocks of the A values of a and C_STEPS blocks of the C values of c.
    """
    wait_for_previous_kernel(PDL)
    total = _sum_terms(
        a_ptr, da_ptr, A_LOSS_TERM, A_LOSS_PARAM, A_WEIGHT, A, STRIDE, A_STEPS, BLOCK
    )
    if c_ptr is not None:
        total += _sum_terms(
            c_ptr, dc_ptr, C_LOSS_TERM, C_LOSS_PARAM, C_WEIGHT, C, STRIDE, C_STEPS, BLOCK
        )
    tl.store(out_ptr + tl.program_id(0), total)


@triton.jit
def sum_rows_kernel(
    x_ptr, out_ptr, ROW: tl.constexpr, PARTIALS: tl.constexpr, STEPS: tl.constexpr,
    SQUARE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[n, i] = sum of part i of row n of x (rows, ROW), or of its squares.

    Tile: one of the PARTIALS parts of a row, STEPS blocks.
    """
    wait_for_previous_kernel(PDL)
    n = tl.program_id(0) // PARTIALS
    i = tl.program_id(0) % PARTIALS
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        offs = (i * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + n * ROW + offs, mask=offs < ROW, other=0.0).to(tl.float32)
        total += x * x if SQUARE else x
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0))


def sum_rows(x: Array, out: Array, square: bool = False, partials: int = 1) -> Array:
    """Return out, filled with the sums over the rows of x, or of their squares.

    partials: into how many partial sums a row is split. out has rows * partials values, and x is
    seen as (rows, ROW).
    """
    row = x.size * partials // out.size
    block = min(4096, max(32, triton.next_power_of_2(row)))
    steps = launch.cdiv(launch.cdiv(row, block), partials)
    constants = {"ROW": row, "PARTIALS": partials, "STEPS": steps, "SQUARE": square}
    constants |= {"BLOCK": block, "num_warps": 8 if block > 1024 else 4}
    launch.run(sum_rows_kernel, (out.size,), x, out, **constants)
    return out


def mean_terms(*sides: Side, gradients: bool = True, stride: int = 1) -> tuple[Array, ...]:
    """Return (sum over the sides of weight mean f(x), dx of each side); gradients=False: (sum,).

    One or two sides. The sum is a 0-d array in float32; dx = weight / N f'(x).
    stride: only every stride-th value of x is taken, from the first.
    """
    sizes = [launch.cdiv(x.size, stride) for x, *_ in sides]
    blocks = [launch.cdiv(size, CONFIG["BLOCK"]) for size in sizes]
    programs = 1 if max(blocks) <= STEPS else min(max(blocks), PROGRAMS)
    first = sides[0][0]
    partials = launch.empty(first, () if programs == 1 else (programs,), "float32")
    dxs = [launch.empty(x, x.shape) if gradients else None for x, *_ in sides]
    constants = {"STRIDE": stride}
    for name, (_, term, param, weight), size, n in zip("AC", sides, sizes, blocks):
        constants |= {f"{name}_LOSS_TERM": term, f"{name}_LOSS_PARAM": param}
        constants |= {f"{name}_WEIGHT": weight, name: size}
        constants |= {f"{name}_STEPS": launch.cdiv(n, programs)}
    absent = [None] * (2 - len(sides))
    if absent:
        constants |= {"C_LOSS_TERM": None, "C_LOSS_PARAM": 0.0, "C_WEIGHT": 0.0}
        constants |= {"C": 0, "C_STEPS": 0}
    pointers = *(x for x, *_ in sides), *absent, partials, *dxs, *absent
    launch.run(mean_terms_kernel, (programs,), *pointers, **constants, **CONFIG)
    out = partials if programs == 1 else sum_rows(partials, launch.empty(first, (), "float32"))
    return (out, *dxs) if gradients else (out,)
