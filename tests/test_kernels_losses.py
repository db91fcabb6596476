"""The losses and the penalties as a training step calls them: with use_kernels they launch kernels, and say what NumPy says.

Triton's interpreter is switched on for a whole process, so the program below runs in one of its own.
"""

import os
import subprocess
import sys
from pathlib import Path
from pickle import loads

import numpy as np
import pytest
from reference import assert_close

from rawgan.penalties import DRAGAN

PROGRAM = r"""
import pickle, sys
import numpy as np
from rawgan import layers as L, losses, penalties
from rawgan.backend import use_kernels
from rawgan.kernels import launch

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
a, c, classes = rng.normal(size=(6, 1, 1, 1)), rng.normal(size=(4, 1, 1, 1)), rng.normal(size=(5, 11), scale=30)
labels, other = rng.integers(10, size=(2, 5))
for objective in (
    losses.BCE(), losses.BCE(0.9), losses.BCE(minimax=True), losses.LeastSquares(), losses.Wasserstein(), losses.Hinge()
):
    for what, real, fake in (("scores", a, c), ("far out", far, far[::-1].copy())):
        both(f"{objective} discriminator, {what}", objective.discriminator, real, fake)
        both(f"{objective} generator, {what}", objective.generator, fake)
        both(f"{objective} score, {what}", objective.score, real)
acgan = losses.ACGAN(losses.BCE(0.9))
both("ACGAN discriminator", acgan.discriminator, classes, classes[::-1].copy(), labels, other)
both("ACGAN generator", acgan.generator, classes, labels)
both("ACGAN score", acgan.score, classes)
both("cross-entropy", losses.cross_entropy, classes, other)

x, y, squared = rng.normal(size=(3, 8, 8, 2)), rng.normal(size=(3, 8, 8, 2)), np.array([0, 1e-30, 0.25, 1, 9])
critic = L.Sequential(L.Flatten(), L.Linear(128, 7), L.LeakyReLU(0.2), L.Linear(7, 1))
weights = {name: rng.normal(size=w.shape) for name, w in critic.params.items()}
for penalty in (penalties.WGANGP(10), penalties.WGANGP(3, one_sided=True), penalties.R1(10)):
    both(f"{penalty} value", penalty.value, squared)
    both(f"{penalty} points", lambda x, y: penalty.points(x, y, np.random.default_rng(4)), x, y)
    def whole(x):
        L.Parameters(critic, dtype=x.dtype)
        for name, w in weights.items():
            critic.params[name][...] = w
        value, grads, norms = penalty(critic, x)
        return value, *grads.values(), norms
    both(f"{penalty}", whole, x)
bf16 = [(v.astype("float32").view("uint32") >> 16).astype("uint16") for v in (x, y)]
with use_kernels():
    results["bfloat16 points"] = penalties.WGANGP().points(*bf16, np.random.default_rng(4)), [
        (v.astype("uint32") << 16).view("float32") for v in bf16
    ], {}
with open(sys.argv[1], "wb") as file:
    pickle.dump(results, file)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("losses") / "results"
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return loads(path.read_bytes())


def methods(results):
    return {name: result for name, result in results.items() if name != "bfloat16 points"}


def test_kernels_say_what_numpy_says(results):
    for name, (got, want, _) in methods(results).items():
        got, want = ([*v] if isinstance(v, tuple) else [v] for v in (got, want))
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            assert np.asarray(g).dtype == np.float32, name
            assert_close(g, w, f"{name}, output {i}")


def test_the_kernels_that_are_launched(results):
    """One launch per method; R1 looks at the real images, where there is nothing to compute."""
    for name, (_, _, launched) in methods(results).items():
        if name.startswith("ACGAN discriminator"):
            assert launched == {"cross_entropy_kernel": 2, "sum_rows_kernel": 1}
        elif name.startswith("R1") and name.endswith("points"):
            assert launched == {}
        elif name.endswith(")"):
            for kernel in ("sum_rows_kernel", "mean_terms_kernel", "blend_kernel"):
                assert launched[kernel] == 1, (name, launched)
        else:
            assert sum(launched.values()) == 1, (name, launched)


def test_points_between_bfloat16_images(results):
    """alpha is a fraction there too, not one that was rounded to an integer."""
    got, (real, fake), _ = results["bfloat16 points"]
    alpha = np.random.default_rng(4).random((3, 1, 1, 1))
    assert_close((got.astype("uint32") << 16).view("float32"), alpha * real + (1 - alpha) * fake, "points", "float16", terms=64)


def test_dragan_refuses_bfloat16():
    with pytest.raises(TypeError, match="DRAGAN are computed in float32 or float64, got uint16"):
        DRAGAN().points(np.ones((2, 3), np.uint16), None, np.random.default_rng(0))


def test_zero_gradient_has_a_finite_penalty(results):
    value, factor = results["WGANGP(weight=10, one_sided=False) value"][0]
    assert np.isfinite(value) and np.isfinite(factor).all() and factor[0] == 0
