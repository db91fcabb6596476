"""The cases of every Spec have two tiles along every grid axis at once, and ragged last tiles.

The launches of all cases are recorded without being started. GRID_AXES, in the files of
kernels/specs, states for each kernel the extent of each axis of its grid and the size of a
program's tile along it. A Spec is checked for every kernel that it may launch, in every dtype: the
pointer, TMA, small-channel and linear implementations of a convolution each need their own cases.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from rawgan.kernels import all_specs
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.launch import cdiv
from rawgan.kernels.specs.spec import EXACT, Axes, array_dtype, precision_option

GRID_AXES: dict[str, Callable[[launch.Launch], Axes]] = {
    name: axes
    for path in sorted((Path(__file__).parents[2] / "kernels/specs").glob("*.py"))
    for name, axes in vars(import_module(f"rawgan.kernels.specs.{path.stem}"))
    .get("GRID_AXES", {})
    .items()
}


def axes_of(one: launch.Launch) -> Axes:
    """Return the axes of a launch's grid: those that GRID_AXES declares, or BLOCK of SIZE values.

    Raises KeyError for a kernel that is not declared and has another grid.
    """
    if one.name in GRID_AXES:
        return GRID_AXES[one.name](one)
    c = one.constants
    if "SIZE" in c and "BLOCK" in c and one.grid == (cdiv(c["SIZE"], c["BLOCK"]),):
        return {"values": (c["SIZE"], c["BLOCK"])}
    raise KeyError(
        f"the grid of {one.name} is not one program for each BLOCK of SIZE values: declare its "
        "axes in GRID_AXES, in its file of kernels/specs"
    )


def recorded(spec, case: dict, dtype: str) -> list[launch.Launch]:
    """Return the launches of one case without starting them."""

    def array(*shape, dtype=dtype):
        return np.zeros(shape, array_dtype(dtype))

    args, options = spec.make(array, **case)
    with launch.record(dry=True) as launches:
        spec.wrapper(*args, **options, **precision_option(dtype))
    return launches


def missing(spec, cases=None) -> list[str]:
    """Return one sentence for each gap in a Spec's cases: Spec, dtype, kernel and axis."""
    gaps = []
    for dtype in spec.dtypes:
        launched: dict[str, list[Axes]] = {name: [] for name in spec.implementations}
        for one in (one for case in cases or spec.cases for one in recorded(spec, case, dtype)):
            launched.setdefault(one.name, []).append(axes_of(one))
        for kernel, launches in launched.items():
            gaps += [f"{spec.name} {dtype}, {kernel}: {gap}" for gap in gaps_of(launches)]
    return gaps


def gaps_of(launches: list[Axes]) -> list[str]:
    """Return the axes along which no launch has two tiles, or none has a ragged last tile."""
    names = dict.fromkeys(name for axes in launches for name in axes)
    several = {
        name for name in names if any(name in axes and cdiv(*axes[name]) > 1 for axes in launches)
    }
    gaps = [f"no case has two tiles along {name}" for name in names if name not in several]
    whole = [axes for axes in launches if all(cdiv(*axis) > 1 for axis in axes.values())]
    if not launches:
        return ["no case launches it"]
    if not gaps and not any(axes.keys() == names.keys() for axes in whole):
        gaps = [f"no case has two tiles along {', '.join(names)} at once"]
    for name in names:
        sizes = [axes[name] for axes in launches if name in axes and axes[name][1] != EXACT]
        if sizes and not any(extent > tile and extent % tile for extent, tile in sizes):
            gaps.append(f"no case has a ragged last tile along {name}")
    return gaps


@pytest.mark.parametrize("name", all_specs())
def test_cases_reach_every_axis(name):
    assert missing(all_specs()[name]) == []


def test_what_is_missing_is_named():
    """Known gaps are reported by name.

    They are the cases of conv2d_batchnorm_act at commit 8fe1806, whose TMA tiles had one column,
    and elementwise cases with one program.
    """
    spec = all_specs()["conv2d_batchnorm_act"]
    gaps = missing(spec, spec.cases[:4])
    for dtype in spec.dtypes:
        assert (
            f"conv2d_batchnorm_act {dtype}, conv2d_tma_kernel: no case has two tiles along columns"
            in gaps
        )
        assert (
            f"conv2d_batchnorm_act {dtype}, conv2d_kernel: no case has a ragged last tile "
            "along columns" in gaps
        )
    assert "relu float32, act_kernel: no case has two tiles along values" in missing(
        all_specs()["relu"], ({"shape": (1, 1)},)
    )
    assert missing(all_specs()["relu"], ({"shape": (2, 1024)},))[0].endswith(
        "no case has a ragged last tile along values"
    )
    gaps = missing(all_specs()["conv2d_dx"], all_specs()["conv2d_dx"].cases[:1])
    assert "conv2d_dx float32, conv2d_dx_small_c_kernel: no case launches it" in gaps


def test_two_tiles_along_each_axis_in_different_cases_are_not_enough():
    rows, columns = {"rows": (9, 4), "columns": (4, 4)}, {"rows": (4, 4), "columns": (9, 4)}
    assert gaps_of([rows, columns]) == ["no case has two tiles along rows, columns at once"]
    assert gaps_of([rows, columns, {"rows": (8, 4), "columns": (8, 4)}]) == []


def test_a_kernel_without_axes_is_refused(monkeypatch):
    monkeypatch.delitem(GRID_AXES, "mean_terms_kernel")
    with pytest.raises(KeyError, match="the grid of mean_terms_kernel is not one program for"):
        missing(all_specs()["mean_score"])


def test_declared_axes_are_those_of_a_kernel():
    """GRID_AXES has no name of a kernel that is gone."""
    names = {
        one.name
        for spec in all_specs().values()
        for case in spec.cases
        for one in recorded(spec, case, spec.dtypes[0])
    }
    assert GRID_AXES.keys() <= names
