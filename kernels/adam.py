"""Adam and RMSprop over a flat parameter vector: one pass, a program per BLOCK of it. The mathematics is in rawgan/optim.py.

Each program sums the slices of the gradient that split reductions left behind, in their order, updates the state, and writes the
parameters again in lower precision where a copy is kept. Step and rate are read from device memory, so that a captured CUDA
graph can be replayed.
"""

from math import log2
from types import SimpleNamespace

import numpy as np
import triton
import triton.language as tl

from rawgan import optim
from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.gemm import load
from rawgan.kernels.spec import Spec

CONFIG = {"BLOCK": 1024, "FEW": 8, "LANES": 32, "num_warps": 4}  # more slices than FEW are added LANES at a time


@triton.jit
def _row(table_ptr):
    """(first parameter, how many, where their gradient begins, slices, from one slice to the next)."""
    row = table_ptr + tl.program_id(0) * 5
    return tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)


@triton.jit
def _few(g_ptr, at, mask, slices, size):
    """The sum of a few slices, one after another."""
    g = load(g_ptr, at, mask)
    i = 1
    while i < slices:
        g += load(g_ptr, at + i * size, mask)
        i += 1
    return g


@triton.jit
def _many(g_ptr, at, mask, slices, size, LANES: tl.constexpr):
    """The sum of many, LANES of them side by side."""
    lane = tl.arange(0, LANES)
    total = tl.zeros((LANES, at.shape[0]), tl.float32)
    i = 0
    while i < slices:
        total += load(g_ptr, at[None, :] + (i + lane)[:, None] * size, (i + lane < slices)[:, None] & mask[None, :])
        i += LANES
    return tl.sum(total, 0)


@triton.jit
def _whole(g_ptr, offs, mask, SIZE: tl.constexpr, SLICES: tl.constexpr):
    """The sum of slices of all parameters."""
    g = load(g_ptr, offs, mask)
    for i in range(1, SLICES):
        g += load(g_ptr, i * SIZE + offs, mask)
    return g


@triton.jit
def _move(
    g, offs, mask, theta_ptr, m_ptr, v_ptr, step_ptr, lr_ptr, low_ptr, tick_ptr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG2_BETA1: tl.constexpr, LOG2_BETA2: tl.constexpr,
    EPS: tl.constexpr, DECAY: tl.constexpr,
):  # fmt: skip
    """Adam; or without m RMSprop, whose rho is BETA2."""
    lr = tl.load(lr_ptr)
    v = BETA2 * load(v_ptr, offs, mask) + (1 - BETA2) * (g * g)
    tl.store(v_ptr + offs, v, mask=mask)
    if m_ptr is not None:
        m = BETA1 * load(m_ptr, offs, mask) + (1 - BETA1) * g
        tl.store(m_ptr + offs, m, mask=mask)
        t = tl.load(step_ptr).to(tl.float64)  # 1 - beta^t loses half its digits in float32 while t is small
        g = m / (1 - tl.exp2(t * LOG2_BETA1)).to(tl.float32)
        v = v / (1 - tl.exp2(t * LOG2_BETA2)).to(tl.float32)
    else:
        lr = lr / (1 + DECAY * (tl.load(step_ptr).to(tl.float32) - 1))
    theta = load(theta_ptr, offs, mask) - lr * g / (tl.sqrt(v) + EPS)
    tl.store(theta_ptr + offs, theta, mask=mask)
    if low_ptr is not None:
        tl.store(low_ptr + offs, theta.to(low_ptr.dtype.element_ty), mask=mask)
    if tick_ptr is not None:
        if tl.program_id(0) == 0:
            tl.store(tick_ptr, tl.load(tick_ptr) + 1)


@triton.jit
def move_kernel(
    theta_ptr, g_ptr, m_ptr, v_ptr, step_ptr, lr_ptr, low_ptr, table_ptr, tick_ptr,
    SIZE: tl.constexpr, SLICES: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr,
    LOG2_BETA1: tl.constexpr, LOG2_BETA2: tl.constexpr, EPS: tl.constexpr, DECAY: tl.constexpr,
    FEW: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, BLOCK)
    if table_ptr is None:
        offs = tl.program_id(0) * BLOCK + lane
        g = _whole(g_ptr, offs, offs < SIZE, SIZE, SLICES)
        _move(
            g, offs, offs < SIZE, theta_ptr, m_ptr, v_ptr, step_ptr, lr_ptr, low_ptr, tick_ptr,
            BETA1, BETA2, LOG2_BETA1, LOG2_BETA2, EPS, DECAY,
        )  # fmt: skip
    else:
        start, count, first, slices, size = _row(table_ptr)
        if slices <= FEW:
            g = _few(g_ptr, first + lane, lane < count, slices, size)
            _move(
                g, start + lane, lane < count, theta_ptr, m_ptr, v_ptr, step_ptr, lr_ptr, low_ptr, tick_ptr,
                BETA1, BETA2, LOG2_BETA1, LOG2_BETA2, EPS, DECAY,
            )  # fmt: skip
        else:
            narrow = tl.arange(0, BLOCK // LANES)
            sums = _many(g_ptr, first + narrow, narrow < count, slices, size, LANES)
            _move(
                sums, start + narrow, narrow < count, theta_ptr, m_ptr, v_ptr, step_ptr, lr_ptr, low_ptr, tick_ptr,
                BETA1, BETA2, LOG2_BETA1, LOG2_BETA2, EPS, DECAY,
            )  # fmt: skip


@triton.jit
def add_slices_kernel(g_ptr, table_ptr, out_ptr, FEW: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    start, count, first, slices, size = _row(table_ptr)
    if slices <= FEW:
        tl.store(out_ptr + start + lane, _few(g_ptr, first + lane, lane < count, slices, size), mask=lane < count)
    else:
        narrow = tl.arange(0, BLOCK // LANES)
        sums = _many(g_ptr, first + narrow, narrow < count, slices, size, LANES)
        tl.store(out_ptr + start + narrow, sums, mask=narrow < count)


def adam(
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
    step: Array,
    lr: Array,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    low: Array | None = None,
    table: Array | None = None,
    tick: Array | None = None,
) -> None:
    """Moves theta, m, v (n,) float32 in place, and writes theta to `low` in that array's dtype.

    g (n,) or (slices, n), summed over the slices, or in any order that a table says: see slice_table. step (1,) int32, the number t
    of this step, from 1; lr (1,) float32. tick (1,) int64, a counter that is raised by 1: the number of the training step.
    """
    grid, slices = _parts(theta, g, table, m, v, low)
    numbers = {"BETA1": betas[0], "BETA2": betas[1], "LOG2_BETA1": _log2(betas[0]), "LOG2_BETA2": _log2(betas[1])}
    numbers |= {"SIZE": theta.size, "SLICES": slices, "EPS": eps, "DECAY": 0.0}
    launch.run(move_kernel, grid, theta, g, m, v, step, lr, low, table, tick, **numbers, **CONFIG)


def rmsprop(
    theta: Array,
    g: Array,
    v: Array,
    step: Array,
    lr: Array,
    rho: float = 0.9,
    eps: float = 1e-7,
    decay: float = 0.0,
    low: Array | None = None,
    table: Array | None = None,
    tick: Array | None = None,
) -> None:
    """Moves theta and v (n,) in place: arguments as for adam, rho, eps and decay those of optim.RMSprop."""
    grid, slices = _parts(theta, g, table, v, low)
    numbers = {"BETA1": 0.0, "BETA2": rho, "LOG2_BETA1": 0.0, "LOG2_BETA2": 0.0}
    numbers |= {"SIZE": theta.size, "SLICES": slices, "EPS": eps, "DECAY": decay}
    launch.run(move_kernel, grid, theta, g, None, v, step, lr, low, table, tick, **numbers, **CONFIG)


def add_slices(theta: Array, g: Array, table: Array) -> Array:
    """The gradient of theta (n,), added up from its slices as adam would, for processes that have to average it before."""
    grid, _ = _parts(theta, g, table)
    out = launch.empty(theta, theta.shape, "float32")
    launch.run(add_slices_kernel, grid, g, table, out, **CONFIG)
    return out


def slice_table(parts: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Where the gradient of each BLOCK of parameters lies, (blocks, 5) int32, as adam and rmsprop take it.

    parts: for each parameter where it begins in theta, its size, where its gradient begins in g, and in how many slices, one after
    another, it lies there. They have to cover theta.
    """
    rows = []
    for theta, size, g, slices in parts:
        block = CONFIG["BLOCK"] // (1 if slices <= CONFIG["FEW"] else CONFIG["LANES"])
        rows += [(theta + start, min(size - start, block), g + start, slices, size) for start in range(0, size, block)]
    return np.array(rows, np.int32)


def _parts(theta: Array, g: Array, table: Array | None, *others: Array | None) -> tuple[tuple[int], int]:
    """The grid, and how many slices of the gradient there are where no table says it. Raises ValueError for a g not in float32."""
    if g.dtype != "float32":
        raise ValueError(f"the optimizers take gradients in float32, got {g.dtype}")
    launch.fit(*((theta.size, a.size) for a in others if a is not None))
    if table is not None:
        return (len(table),), 1
    launch.fit((g.size % theta.size, 0))
    return (launch.cdiv(theta.size, CONFIG["BLOCK"]),), g.size // theta.size


def _log2(beta: float) -> float:
    return log2(beta) if beta else -1e4  # beta1 = 0, as in WGAN-GP: beta^t is 0


def _summed(theta, g, table):
    """The gradient, one number for each parameter."""
    if table is None:
        return g.reshape(-1, theta.size).sum(0)
    total, g = theta * 0, g.reshape(-1)
    for start, count, first, slices, size in table.astype(np.int64).tolist():
        total[start : start + count] = sum(g[first + i * size : first + i * size + count] for i in range(slices))
    return total


def _adam_reference(theta, g, m, v, step, lr, betas, eps, low=None, table=None, tick=None):
    this = SimpleNamespace(t=int(step[0]), lr=float(lr[0]), betas=betas, eps=eps)
    optim.Adam.update(this, theta, _summed(theta, g, table), m, v)
    if low is not None:
        low[...] = theta


def _rmsprop_reference(theta, g, v, step, lr, rho, eps, decay, low=None, table=None, tick=None):
    this = SimpleNamespace(t=int(step[0]), lr=float(lr[0]), rho=rho, eps=eps, decay=decay)
    optim.RMSprop.update(this, theta, _summed(theta, g, table), v)
    if low is not None:
        low[...] = theta


def _make(array, n, slices=1, t=1, lr=2e-4, low=False, moments=2, parts=None, **options):
    f32 = "float32"
    shape = (slices, n) if slices > 1 else (n,)
    if parts:
        shape = (max(start + size * count for _, size, start, count in parts),)
        rows = slice_table(parts)
        table = array(*rows.shape, dtype="int32")
        table[...] = rows
        options |= {"table": table}
    state = [array(n, dtype=f32) for _ in range(moments - 1)] + [array(n, dtype=f32) ** 2]
    step, rate = array(1, dtype="int32"), array(1, dtype=f32)
    step[0], rate[0] = t, lr
    return (array(n, dtype=f32), array(*shape, dtype=f32), *state, step, rate), options | ({"low": array(n)} if low else {})


def _make_slices(array, **case):
    (theta, g, *_), options = _make(array, **case)
    return (theta, g, options["table"]), {}


def _traffic(state):
    def traffic(itemsize, n, slices=1, low=False, **_):
        return n * (4 * (slices + 2 * state) + itemsize * low)

    return traffic


ADAM = {"betas": (0.5, 0.999), "eps": 1e-8}
PARTS = {
    "parts": [(0, 1100, 900, 3), (1100, 400, 0, 2), (1500, 50, 800, 1), (1550, 50, 4200, 70)]
}  # theta, size, g, slices of each parameter
RMSPROP = {"rho": 0.9, "eps": 1e-7, "moments": 1}

SPECS = (
    Spec(
        name="adam",
        wrapper=adam,
        reference=_adam_reference,
        make=_make,
        cases=(
            {"n": 1500, "slices": 3, "t": 1, "lr": 1.0, "low": True, **ADAM},
            {"n": 1024, "t": 30000, "betas": (0.0, 0.9), "eps": 1e-8},
            {"n": 1600, "t": 2, "low": True, **PARTS, **ADAM},
        ),
        benchmarks=({"n": 3_574_656, "slices": 1, "low": True, **ADAM}, {"n": 3_574_656, "slices": 8, "low": True, **ADAM}),
        traffic=_traffic(3),
        flops=lambda n, slices=1, **_: n * (slices + 14),
        compiles=(
            ("bfloat16", {"n": 2**20, "slices": 8, "low": True, **ADAM}, {}),
            ("float32", {"n": 1001, "betas": (0.0, 0.9), "eps": 1e-8}, {}),
            ("bfloat16", {"n": 1600, "low": True, **PARTS, **ADAM}, {}),
        ),
        dtypes=("float16", "bfloat16"),
        writes=(0, 2, 3),
    ),
    Spec(
        name="rmsprop",
        wrapper=rmsprop,
        reference=_rmsprop_reference,
        make=_make,
        cases=(
            {"n": 1500, "slices": 3, "t": 7, "decay": 1e-2, "low": True, **RMSPROP},
            {"n": 1024, "decay": 0.0, **RMSPROP},
            {"n": 1600, "t": 2, "decay": 0.0, **PARTS, **RMSPROP},
        ),
        benchmarks=({"n": 3_574_656, "slices": 1, "low": True, "decay": 0.0, **RMSPROP},),
        traffic=_traffic(2),
        flops=lambda n, slices=1, **_: n * (slices + 8),
        compiles=(("bfloat16", {"n": 2**20, "slices": 8, "low": True, "decay": 1e-2, **RMSPROP}, {}),),
        dtypes=("float16", "bfloat16"),
        writes=(0, 2),
    ),
    Spec(
        name="add_slices",
        wrapper=add_slices,
        reference=_summed,
        make=_make_slices,
        cases=({"n": 1600, **PARTS},),
        benchmarks=({"n": 3_574_656, "parts": [(0, 3_574_656, 0, 8)]},),
        traffic=lambda itemsize, n, parts: 4 * (n + sum(size * slices for _, size, _, slices in parts)),
        flops=lambda n, parts: sum(size * (slices - 1) for _, size, _, slices in parts),
        compiles=(("float32", {"n": 1600, **PARTS}, {}),),
        dtypes=("float32",),
    ),
)
