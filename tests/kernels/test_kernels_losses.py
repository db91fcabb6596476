"""Losses and penalties with use_kernels launch kernels and return the same values as NumPy.

Triton's interpreter is enabled for a whole process, so the program below runs in its own process.
"""

import os
import sys
from pathlib import Path
from pickle import loads

import numpy as np
import pytest

from rawgan.penalties import DRAGAN
from tests.support.process import run_process
from tests.support.reference import assert_close

PROGRAM = r"""
import pickle, sys
import numpy as np
from rawgan import layers as L, losses, penalties
from rawgan.backend import use_kernels
from rawgan.kernels.runtime import launch
from rawgan.ops import act


def both(name, f, *arrays):
    lower = [a.astype("float32") if a.dtype == float else a for a in arrays]
    launch.launched.clear()
    with use_kernels():
        got = f(*lower)
    names = dict(launch.launched)
    results[name] = got, f(*arrays), names
    assert dict(launch.launched) == names, "a kernel was launched that nobody asked for"


rng, results = np.random.default_rng(2), {}
far = np.array([-1e4, -120, -30, -1, 0, 1, 30, 120, 1e4])[:, None]
a, c, classes = (
    rng.normal(size=(6, 1, 1, 1)),
    rng.normal(size=(4, 1, 1, 1)),
    rng.normal(size=(5, 11), scale=30),
)
labels, other = rng.integers(10, size=(2, 5))
for objective in (
    losses.BCE(),
    losses.BCE(0.9),
    losses.BCE(minimax=True),
    losses.LeastSquares(),
    losses.Wasserstein(),
    losses.Hinge(),
    losses.RpGAN(),
    losses.RaGAN(),
    losses.RaLSGAN(),
    losses.RaHinge(),
):
    n = 4 if objective == losses.RpGAN() else 6
    for what, real, fake in (("scores", a[:n], c), ("far out", far, far[::-1].copy())):
        both(f"{objective} discriminator, {what}", objective.discriminator, real, fake)
        scores = (fake, real) if objective.takes_real_scores else (fake,)
        both(f"{objective} generator, {what}", objective.generator, *scores)
        both(f"{objective} score, {what}", objective.score, real)
acgan = losses.ACGAN(losses.BCE(0.9))
both("ACGAN discriminator", acgan.discriminator, classes, classes[::-1].copy(), labels, other)
both("ACGAN generator", acgan.generator, classes, labels)
both("ACGAN score", acgan.score, classes)
both("cross-entropy", losses.cross_entropy, classes, other)

x, y, squared = (
    rng.normal(size=(3, 8, 8, 2)),
    rng.normal(size=(3, 8, 8, 2)),
    np.array([0, 1e-30, 0.25, 1, 9]),
)
critic = L.Sequential(L.Flatten(), L.Linear(128, 7), L.LeakyReLU(0.2), L.Linear(7, 1))
weights = {name: rng.normal(size=w.shape) for name, w in critic.params.items()}
for penalty in (penalties.WGANGP(10), penalties.WGANGP(3, one_sided=True), penalties.R1(10),
                penalties.R2(3)):
    both(f"{penalty} value", penalty.value, squared)
    both(f"{penalty} points", lambda x, y: penalty.points(x, y, np.random.default_rng(4)), x, y)

    def whole(x):
        L.Parameters(critic, dtype=x.dtype)
        for name, w in weights.items():
            critic.params[name][...] = w
        value, grads, norms = penalty(critic, x)
        return value, *grads.values(), norms

    both(f"{penalty}", whole, x)
left, near_one = (
    np.array([-80.0, -60, -20, -18, -12, -5, 1]),
    np.array([1 - 2**-24, 1 - 2**-20, 1 - 2**-10, 1e-3]),
)
for name, order, points in (
    ("sigmoid", 0, left),
    ("softplus", 0, left),
    ("softplus_dx", 1, left),
    ("softplus_dx2", 2, np.concatenate([left, -left])),
    ("tanh_dx", 1, near_one),
    ("tanh_dx2", 2, near_one),
    ("sigmoid_dx", 1, near_one),
    ("sigmoid_dx2", 2, near_one),
):
    both(f"tail of {name}", lambda v: getattr(act, name)(*[v * 0 + 1] * order, v), points)
scores = np.concatenate([left, -left])[:, None]
for objective in (losses.BCE(), losses.BCE(minimax=True)):
    both(f"tail of {objective} discriminator", objective.discriminator, scores, scores)
    both(f"tail of {objective} generator", objective.generator, scores)
    both(
        f"tail of {objective}, certain discriminator",
        objective.discriminator,
        -left[:4, None],
        left[:4, None],
    )
logits = np.zeros((3, 5))
logits[[0, 1, 2], [3, 0, 4]] = 5, 20, 60
both("tail of cross-entropy", losses.cross_entropy, logits, np.array([3, 0, 4]))
both("tail of cross-entropy of the last row", losses.cross_entropy, logits[2:], np.array([4]))
bf16 = [(v.astype("float32").view("uint32") >> 16).astype("uint16") for v in (x, y)]
with use_kernels():
    results["bfloat16 points"] = (
        penalties.WGANGP().points(*bf16, np.random.default_rng(4)),
        [(v.astype("uint32") << 16).view("float32") for v in bf16],
        {},
    )
with open(sys.argv[1], "wb") as file:
    pickle.dump(results, file)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("losses") / "results"
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = run_process([sys.executable, "-c", PROGRAM, path], env=environment)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return loads(path.read_bytes())


def methods(results):
    return {
        name: result
        for name, result in results.items()
        if not name.startswith(("bfloat16 points", "tail of"))
    }


def as_list(outputs):
    return [*outputs] if isinstance(outputs, tuple) else [outputs]


def test_tails_keep_their_digits(results):
    """Each loss term is accurate to float32's relative accuracy where its float64 value is near 0.

    For large arguments the bound is the accuracy of exp.
    """
    tails = {name: result for name, result in results.items() if name.startswith("tail of")}
    assert len(tails) == 16
    for name, (got, want, _) in tails.items():
        for i, (g, w) in enumerate(zip(as_list(got), as_list(want), strict=True)):
            assert (abs(g - w) <= 1e-5 * abs(w)).all(), (name, i, g, w)


def test_kernels_say_what_numpy_says(results):
    for name, (got, want, _) in methods(results).items():
        for i, (g, w) in enumerate(zip(as_list(got), as_list(want), strict=True)):
            assert np.asarray(g).dtype == np.float32, name
            assert_close(g, w, f"{name}, output {i}")


def test_the_kernels_that_are_launched(results):
    """Each method launches its kernels once; the points of R1 and R2 are images and launch none."""
    for name, (_, _, launched) in methods(results).items():
        if name.startswith("ACGAN discriminator"):
            assert launched == {"cross_entropy_kernel": 2, "sum_rows_kernel": 1}
        elif name.startswith(("R1", "R2")) and name.endswith("points"):
            assert launched == {}
        elif name.endswith(")"):
            for kernel in ("sum_rows_kernel", "mean_terms_kernel", "blend_kernel"):
                assert launched[kernel] == 1, (name, launched)
        else:
            assert sum(launched.values()) == 1, (name, launched)


def test_points_between_bfloat16_images(results):
    """Points between bfloat16 images use a fractional alpha, not one rounded to an integer."""
    got, (real, fake), _ = results["bfloat16 points"]
    alpha = np.random.default_rng(4).random((3, 1, 1, 1))
    assert_close(
        (got.astype("uint32") << 16).view("float32"),
        alpha * real + (1 - alpha) * fake,
        "points",
        "float16",
        terms=64,
    )


def test_dragan_refuses_bfloat16():
    with pytest.raises(TypeError, match="DRAGAN are computed in float32 or float64, got uint16"):
        DRAGAN().points(np.ones((2, 3), np.uint16), None, np.random.default_rng(0))


def test_zero_gradient_has_a_finite_penalty(results):
    value, factor = results["WGANGP(weight=10, one_sided=False) value"][0]
    assert np.isfinite(value) and np.isfinite(factor).all() and factor[0] == 0
