"""Specs of optimizers.py: adam, rmsprop and sum_partials."""

from types import SimpleNamespace

import numpy as np

from rawgan import optim
from rawgan.ema import moving_average
from rawgan.kernels.optimizers import (
    adam,
    partials_table,
    rmsprop,
    sum_partials,
    table_alignment,
)
from rawgan.kernels.runtime.launch import cdiv
from rawgan.kernels.specs.spec import EXACT, Axes, Spec


def _sum_partials_reference(theta, g, table, alignment=1):
    """Return the gradient (n,) from its partials."""
    if table is None:
        return g.reshape(-1, theta.size).sum(0)
    total, g = theta * 0, g.reshape(-1)
    for start, count, first, split_k, size in table.astype(np.int64).tolist():
        total[start : start + count] = sum(
            g[first + i * size : first + i * size + count] for i in range(split_k)
        )
    return total


def _adam_reference(
    theta, g, m, v, step, lr, betas, eps, table=None, alignment=1, epsilon_hat=False, **after
):
    this = SimpleNamespace(
        t=int(step[0]), lr=float(lr[0]), betas=betas, eps=eps, epsilon_hat=epsilon_hat
    )
    optim.Adam.update(this, theta, _sum_partials_reference(theta, g, table), m, v)
    _after_reference(theta, **after)


def _rmsprop_reference(theta, g, v, step, lr, rho, eps, decay, table=None, alignment=1, **after):
    this = SimpleNamespace(t=int(step[0]), lr=float(lr[0]), rho=rho, eps=eps, decay=decay)
    optim.RMSprop.update(this, theta, _sum_partials_reference(theta, g, table), v)
    _after_reference(theta, **after)


def _after_reference(theta, theta_lowp=None, clip=None, average=None, average_decay=0.0):
    """Clip theta, copy it to theta_lowp and update the moving average, in place."""
    if clip is not None:
        theta.clip(-clip, clip, out=theta)
    if theta_lowp is not None:
        theta_lowp[...] = theta
    if average is not None:
        moving_average(average, theta, average_decay)


def _make(
    array,
    n,
    split_k=1,
    t=1,
    lr=2e-4,
    theta_lowp=False,
    average=False,
    moments=2,
    parts=None,
    **options,
):
    f32 = "float32"
    shape = (split_k, n) if split_k > 1 else (n,)
    if parts:
        shape = (max(start + size * count for _, size, start, count in parts),)
        rows = partials_table(parts)
        table = array(*rows.shape, dtype="int32")
        table[...] = rows
        options |= {"table": table, "alignment": table_alignment(rows)}
    state = [array(n, dtype=f32) for _ in range(moments - 1)] + [array(n, dtype=f32) ** 2]
    step, rate = array(1, dtype="int32"), array(1, dtype=f32)
    step[0], rate[0] = t, lr
    options |= {"theta_lowp": array(n)} if theta_lowp else {}
    options |= {"average": array(n, dtype=f32), "average_decay": 0.9} if average else {}
    return (array(n, dtype=f32), array(*shape, dtype=f32), *state, step, rate), options


def _make_sum_partials(array, **case):
    (theta, g, *_), options = _make(array, **case)
    return (theta, g, options["table"]), {"alignment": options["alignment"]}


def _traffic(state):
    def traffic(itemsize, n, split_k=1, theta_lowp=False, average=False, **_):
        return n * (4 * (split_k + 2 * (state + average)) + itemsize * theta_lowp)

    return traffic


ADAM = {"betas": (0.5, 0.999), "eps": 1e-8}
PARTS = {
    "parts": [(0, 1100, 900, 3), (1100, 400, 0, 2), (1500, 50, 800, 1), (1550, 50, 4200, 70)]
}  # start in theta, size, start in g, split_k
# the same with all numbers multiples of 4: accesses of 16 bytes
ALIGNED_PARTS = {
    "parts": [(0, 1100, 900, 3), (1100, 400, 0, 2), (1500, 48, 800, 1), (1548, 52, 4200, 70)]
}
RMSPROP = {"rho": 0.9, "eps": 1e-7, "moments": 1}


def _adam_axes(launch) -> Axes:
    c, (programs,) = launch.constants, launch.grid
    if programs == cdiv(c["SIZE"], c["BLOCK"]):
        return {"values": (c["SIZE"], c["BLOCK"])}
    return _table_axes(launch)


def _table_axes(launch) -> Axes:
    """Axes of a kernel whose programs read their range of values from a table."""
    return {"values": (launch.grid[0], EXACT)}


GRID_AXES = {"adam_kernel": _adam_axes, "sum_partials_kernel": _table_axes}

SPECS = (
    Spec(
        name="adam",
        wrapper=adam,
        reference=_adam_reference,
        make=_make,
        cases=(
            {"n": 1500, "split_k": 3, "t": 1, "lr": 1.0, "theta_lowp": True, **ADAM},
            {"n": 1024, "t": 30000, "betas": (0.0, 0.9), "eps": 1e-8},
            {"n": 1600, "t": 2, "theta_lowp": True, "average": True, **PARTS, **ADAM},
            {"n": 1600, "t": 2, "theta_lowp": True, "average": True, **ALIGNED_PARTS, **ADAM},
            {"n": 1500, "clip": 0.5, "theta_lowp": True, "average": True, **ADAM},
            {"n": 1024, "t": 3, "betas": (0.5, 0.999), "eps": 0.1, "epsilon_hat": True},
        ),
        benchmarks=(
            {"n": 3_574_656, "split_k": 1, "theta_lowp": True, **ADAM},
            {"n": 3_574_656, "split_k": 8, "theta_lowp": True, **ADAM},
        ),
        traffic=_traffic(3),
        flops=lambda n, split_k=1, **_: n * (split_k + 14),
        compiles=(
            ("bfloat16", {"n": 2**20, "split_k": 8, "theta_lowp": True, **ADAM}, {}),
            ("float32", {"n": 1001, "betas": (0.0, 0.9), "eps": 1e-8}, {}),
            ("bfloat16", {"n": 1600, "theta_lowp": True, **PARTS, **ADAM}, {}),
            ("bfloat16", {"n": 1600, "theta_lowp": True, "average": True, **PARTS, **ADAM}, {}),
            ("bfloat16", {"n": 1600, "theta_lowp": True, **ALIGNED_PARTS, **ADAM}, {}),
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
            {"n": 1500, "split_k": 3, "t": 7, "decay": 1e-2, "theta_lowp": True, **RMSPROP},
            {"n": 1024, "decay": 0.0, **RMSPROP},
            {"n": 1600, "t": 2, "decay": 0.0, "clip": 0.5, "theta_lowp": True, **PARTS, **RMSPROP},
            {"n": 1500, "decay": 0.0, "average": True, **RMSPROP},
        ),
        benchmarks=({"n": 3_574_656, "split_k": 1, "theta_lowp": True, "decay": 0.0, **RMSPROP},),
        traffic=_traffic(2),
        flops=lambda n, split_k=1, **_: n * (split_k + 8),
        compiles=(
            (
                "bfloat16",
                {"n": 2**20, "split_k": 8, "theta_lowp": True, "decay": 1e-2, **RMSPROP},
                {},
            ),
            (
                "bfloat16",
                {"n": 1600, "theta_lowp": True, "decay": 0.0, "clip": 0.01, **PARTS, **RMSPROP},
                {},
            ),
        ),
        dtypes=("float16", "bfloat16"),
        writes=(0, 2),
    ),
    Spec(
        name="sum_partials",
        wrapper=sum_partials,
        reference=_sum_partials_reference,
        make=_make_sum_partials,
        cases=({"n": 1600, **PARTS}, {"n": 1600, **ALIGNED_PARTS}),
        benchmarks=({"n": 3_574_656, "parts": [(0, 3_574_656, 0, 8)]},),
        traffic=lambda itemsize, n, parts: (
            4 * (n + sum(size * split_k for _, size, _, split_k in parts))
        ),
        flops=lambda n, parts: sum(size * (split_k - 1) for _, size, _, split_k in parts),
        compiles=(("float32", {"n": 1600, **PARTS}, {}),),
        float32=(0,),
        dtypes=("float32",),
    ),
)
