"""What losses and penalties share: the mean of a term over many values, and its slope at each of them.

A term is a function f(x) with a number P in it; see `term`. A program goes through a slice of the values; its lanes add what falls
to them in order, and are added as a tree. Where there are several programs, one more launch adds their sums in the same way. So the
order of every sum depends on the sizes alone.
"""

import triton
import triton.language as tl

from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.act import activate

CONFIG = {"BLOCK": 1024, "num_warps": 4}
STEPS = 4  # blocks that one program goes through before a second one is worth another launch
PROGRAMS = 128

Side = tuple[Array, str, float, float]  # values, term, P, weight of the mean


@triton.jit
def term(x, TERM: tl.constexpr, P: tl.constexpr):
    """(f(x), slope); the slope is f'(x), but for the penalties that of g where x = |g|^2: df/dg = slope g."""
    if TERM == "real":  # softplus(x) - t x with P = 1 - t, without the difference of two large numbers
        return activate(-x, "softplus", 0.0) + P * x, P - activate(-x, "sigmoid", 0.0)
    elif TERM == "fake":  # P softplus(x)
        return P * activate(x, "softplus", 0.0), P * activate(x, "sigmoid", 0.0)
    elif TERM == "sigmoid":
        s = activate(x, "sigmoid", 0.0)
        return s, s * (1.0 - s)
    elif TERM == "square":
        return (x - P) * (x - P), 2.0 * (x - P)
    elif TERM == "linear":
        return P * x, tl.zeros_like(x) + P
    elif TERM == "hinge":  # max(1 + P x, 0); NaN stays NaN
        y = 1.0 + P * x
        return tl.where(y <= 0, 0.0, y), tl.where(y > 0, P, 0.0)
    elif TERM == "r1":
        return 0.5 * x, tl.zeros_like(x) + 1.0
    else:  # (|g| - 1)^2, one-sided where P is 1; at g = 0 the slope is 0
        norm = tl.sqrt(x)
        excess = norm - 1.0
        if P == 1:
            excess = tl.where(excess <= 0, 0.0, excess)
        slope = tl.where(norm > 0, 2.0 * excess / tl.where(norm > 0, norm, 1.0), 0.0)
        return excess * excess, tl.where(norm != norm, norm, slope)


@triton.jit
def _sum(
    x_ptr, dx_ptr, TERM: tl.constexpr, P: tl.constexpr, WEIGHT: tl.constexpr,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """WEIGHT / SIZE times the sum of f over this program's values; writes WEIGHT / SIZE times the slope of each."""
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        offs = (tl.program_id(0) * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        mask = offs < SIZE
        value, slope = term(tl.load(x_ptr + offs * STRIDE, mask=mask, other=0.0).to(tl.float32), TERM, P)
        total += tl.where(mask, value, 0.0)
        if dx_ptr is not None:
            tl.store(dx_ptr + offs, (slope * (WEIGHT / SIZE)).to(dx_ptr.dtype.element_ty), mask=mask)
    return tl.sum(total, 0) * (WEIGHT / SIZE)


@triton.jit
def mean_terms_kernel(
    a_ptr, c_ptr, out_ptr, da_ptr, dc_ptr,
    A_TERM: tl.constexpr, A_P: tl.constexpr, A_WEIGHT: tl.constexpr, A: tl.constexpr, A_STEPS: tl.constexpr,
    C_TERM: tl.constexpr, C_P: tl.constexpr, C_WEIGHT: tl.constexpr, C: tl.constexpr, C_STEPS: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    total = _sum(a_ptr, da_ptr, A_TERM, A_P, A_WEIGHT, A, STRIDE, A_STEPS, BLOCK)
    if c_ptr is not None:
        total += _sum(c_ptr, dc_ptr, C_TERM, C_P, C_WEIGHT, C, STRIDE, C_STEPS, BLOCK)
    tl.store(out_ptr + tl.program_id(0), total)


@triton.jit
def sum_rows_kernel(
    x_ptr, out_ptr, ROW: tl.constexpr, SLICES: tl.constexpr, STEPS: tl.constexpr, SQUARE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out[n, i] = the sum over slice i of row n of the values, or of their squares."""
    n = tl.program_id(0) // SLICES
    i = tl.program_id(0) % SLICES
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        offs = (i * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + n * ROW + offs, mask=offs < ROW, other=0.0).to(tl.float32)
        total += x * x if SQUARE else x
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0))


def sum_rows(x: Array, out: Array, square: bool = False, slices: int = 1) -> Array:
    """Fills out with the sums over the rows of x, or over so many slices of each: x is seen as (rows, ROW), out has rows slices."""
    row = x.size * slices // out.size
    block = min(4096, max(32, triton.next_power_of_2(row)))
    steps = launch.cdiv(launch.cdiv(row, block), slices)
    sizes = {"ROW": row, "SLICES": slices, "STEPS": steps, "BLOCK": block}
    launch.run(sum_rows_kernel, (out.size,), x, out, SQUARE=square, num_warps=8 if block > 1024 else 4, **sizes)
    return out


def mean_terms(*sides: Side, slopes: bool = True, stride: int = 1) -> tuple[Array, ...]:
    """The sum over one or two sides of weight mean( f(x) ), float32, of no dimension; and weight / N times the slope of each side.

    With a stride, x is every so many-th of the values, from the first.
    """
    sizes = [launch.cdiv(x.size, stride) for x, *_ in sides]
    blocks = [launch.cdiv(size, CONFIG["BLOCK"]) for size in sizes]
    programs = 1 if max(blocks) <= STEPS else min(max(blocks), PROGRAMS)
    first = sides[0][0]
    partial = launch.empty(first, () if programs == 1 else (programs,), "float32")
    dxs = [launch.empty(x, x.shape) if slopes else None for x, *_ in sides]
    constants = {}
    for name, (_, term, p, weight), size, n in zip("AC", sides, sizes, blocks):
        constants |= {f"{name}_TERM": term, f"{name}_P": p, f"{name}_WEIGHT": weight, name: size}
        constants[f"{name}_STEPS"] = launch.cdiv(n, programs)
    if len(sides) == 1:
        constants |= {"C_TERM": None, "C_P": 0.0, "C_WEIGHT": 0.0, "C": 0, "C_STEPS": 0}
    pointers = [x for x, *_ in sides] + [None] * (2 - len(sides)) + [partial] + dxs + [None] * (2 - len(sides))
    launch.run(mean_terms_kernel, (programs,), *pointers, **constants, STRIDE=stride, **CONFIG)
    out = partial if programs == 1 else sum_rows(partial, launch.empty(first, (), "float32"))
    return (out, *dxs) if slopes else (out,)
