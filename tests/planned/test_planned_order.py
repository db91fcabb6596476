"""Planned steps give the same bits with programs in order, reversed and shuffled.

The widths give BatchNorm several columns of tiles, so that the order of programs that share a
counter can have an effect.
"""

import pytest

from rawgan.backend import CPU
from rawgan.kernels.runtime import launch
from tests.kernels.test_kernels_coverage import axes_of, cdiv
from tests.planned.test_planned import LOW, ROUNDING
from tests.support.planned_cases import RUNS
from tests.support.planned_runs import check, planned, results
from tests.support.program_order import ORDERS

SLOW = pytest.mark.slow
CASES = [
    ("dcgan, width 64, size 16", "bf16"),
    *(
        pytest.param(name, precision, marks=SLOW)
        for name in (
            "dcgan, width 64, size 16",
            "dcgan, width 32, size 32",
            "dcgan, width 64, size 32",
            "wgan_gp, width 64",
        )
        for precision in ("fp32", "bf16x3", "bf16")
        if (name, precision) != ("dcgan, width 64, size 16", "bf16")
    ),
]


@pytest.mark.parametrize("name, precision", CASES)
def test_the_order_of_programs_changes_no_bit(name, precision):
    result = results("orders", "cpu", precision, [name])[name]
    bits = result["orders"]
    assert set(bits) == set(ORDERS) and len(set(bits.values())) == 1, bits
    if precision == "fp32":
        check(result)
    else:  # as in test_planned.test_lower_precision
        metrics, G, D, *_ = result["planned"]
        assert (
            metrics <= 16 * ROUNDING[precision]
            and max(G, D) <= 2 * result["steps"] * 1.06 * LOW["dcgan"]
        )


def statistics(name: str, precision: str) -> list[tuple[str, str, int, int]]:
    """Return (kernel, statistics, row tiles, column tiles) of each launch that takes statistics."""
    _, step = planned(RUNS[name], CPU, precision)
    tiles = []
    for one in step.plan.launches:
        if isinstance(one, launch.Launch) and one.constants.get("NORM"):
            axes = {axis: cdiv(*size) for axis, size in axes_of(one).items()}
            tiles.append(
                (
                    one.name,
                    one.constants["NORM"],
                    axes["groups"] * axes["tiles of a group"],
                    axes["columns"],
                )
            )
    return tiles


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name, kernel, kind",
    [
        ("dcgan, width 64, size 16", "conv2d_tma_kernel", "batch_stats"),
        ("dcgan, width 64, size 32", "conv2d_tma_kernel", "batch_stats"),
        ("dcgan, width 64, size 32", "conv2d_dx_tma_kernel", "batch_stats"),
        ("dcgan, width 64, size 32", "conv2d_dx_tma_kernel", "batch_grad_stats"),
        ("wgan_gp, width 64", "conv2d_tma_kernel", "batch_grad_stats"),
    ],
)
def test_statistics_in_several_tiles(name, kernel, kind, precision):
    """Each run computes batch statistics of TMA tiles in several rows and columns."""
    tiles = [
        (rows, columns)
        for one, statistic, rows, columns in statistics(name, precision)
        if (one, statistic) == (kernel, kind)
    ]
    assert any(rows > 1 and columns > 1 for rows, columns in tiles), tiles
