"""The gallery of mistakes: each figure is drawn, and its curves show what the text states."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from docs.figures import load


def lines(name: str, panel: int = 0) -> dict[str, np.ndarray]:
    """Return {label up to its colon: values} of one panel of a figure."""
    figure = Figure()
    load()[name](figure)
    drawn = figure.axes[panel].lines
    return {
        line.get_label().partition(":")[0]: np.asarray(line.get_ydata(), float)
        for line in drawn
        if line.get_label()[0] != "_"
    }


def test_norms():
    norms = {name: values[-50:].mean() for name, values in lines("mistake_norms").items()}
    assert abs(norms["as it should be"] - 1) < 0.2 and abs(norms["one-sided"] - 1) < 0.2
    assert norms["value without its gradient"] > 1.25 and norms["without the square"] < 0.3


def test_norm_per_pixel_leaves_the_critic_many_times_too_steep():
    norms = {name: values[-50:].mean() for name, values in lines("mistake_channels").items()}
    assert norms["norm over the image"] < 1.5 and norms["norm over the channels"] > 8


def test_a_sigmoid_leaves_the_fakes_little_slope():
    """A saturated sigmoid gives the fakes a small slope.

    Scores are taken on 161 points from -4 to 4, with real at -2 and fake at 2.
    """
    slope = {
        name: np.diff(values[114:127]).mean() / 0.05
        for name, values in lines("mistake_sigmoid").items()
    }
    assert -1.5 < slope["linear score"] < -0.8
    assert slope["sigmoid on the score"] > 0.5 * slope["linear score"]


def test_generators():
    distance = lines("mistake_generator")
    assert distance["as it should be"][-20:].mean() < 0.5 * distance["as it should be"][0]
    assert np.ptp(distance["not connected through D"]) == 0
    assert distance["sign flipped"][-1] > 10 * distance["sign flipped"][0]


def test_leftovers_hold_d_back():
    gap = {name: values[-100:].mean() for name, values in lines("mistake_leftover").items()}
    assert 0 < gap["left over from G's step"] < 0.7 * gap["as it should be"]


def test_a_resumed_run_is_the_same_until_it_is_resumed():
    for name in ("without the optimizer", "without the random streams"):
        distance = lines("mistake_resumed")[name]
        assert (distance[:100] == 0).all() and distance[-1] > 0.01


def test_one_over_n():
    right, wrong = (lines("mistake_mean", panel) for panel in (0, 1))
    assert all(
        values[-10:].mean() < values[0] for name, values in right.items() if name != "batch of 4"
    )
    assert wrong["batch of 256"][-10:].mean() > 5 * right["batch of 256"][-10:].mean()


def test_momentum():
    wrong, right = (values[60:].std() for values in lines("mistake_momentum").values())
    assert wrong > 3 * right


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_log_of_a_sigmoid():
    right, wrong = lines("mistake_log").values()
    assert (
        np.isfinite(right).all()
        and np.isinf(wrong[0])
        and np.isclose(right[-1], wrong[-1], rtol=1e-5)
    )
