"""Layers that launch kernels of normalisation over other axes compute what float64 arrays do.

Triton's interpreter is enabled for a whole
process, so this file runs as a program in its own process:

    TRITON_INTERPRET=1 python tests/kernels/test_kernels_blocks.py RESULTS
"""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from rawgan import layers as L
from rawgan.backend import use_kernels
from tests.support.process import run_process
from tests.support.reference import assert_close, randomize

LABELS = np.array([2, 0, 2, 3])
IMAGE, ROW = (4, 3, 2, 2), (4, 5)
CASES = {  # a layer and its batch shape
    "Augment": (lambda: L.Augment(pixels="unit"), (4, 9, 6, 3)),
    "PixelNorm": (lambda: L.PixelNorm(0.1), IMAGE),
    "PixelNorm of rows": (lambda: L.PixelNorm(0.1), ROW),
    "MinibatchStd": (lambda: L.MinibatchStd(2, 0.1), IMAGE),
    "GlobalMeanPool": (L.GlobalMeanPool, IMAGE),
    "ConditionalBatchNorm": (lambda: L.ConditionalBatchNorm(2, 4), IMAGE),
    "ConditionalBatchNorm of rows": (lambda: L.ConditionalBatchNorm(5, 4), ROW),
}


def passes(name: str, dtype) -> dict[str, np.ndarray]:
    """Return all results of a layer of CASES in training, with the same numbers for each dtype."""
    make, shape = CASES[name]
    layer, rng = make(), np.random.default_rng(0)
    labelled = name.startswith("Conditional")
    net = L.ConditionalSequential(layer) if labelled else L.Sequential(layer)
    randomize(net, rng, dtype=dtype)
    net.bind(np.random.default_rng(1))
    x, ddx = (rng.normal(size=shape).astype(np.float32).astype(dtype) for _ in range(2))
    y, cache = net.forward((x, LABELS) if labelled else x)
    dy = rng.normal(size=y.shape).astype(np.float32).astype(dtype)
    dx, grads = net.backward(dy, cache)
    ddy, dx2, grads2 = net.double_backward(ddx, dy, cache)
    results = {"y": y, "dx": dx, "ddy": ddy} | ({} if dx2 is None else {"dx2": dx2})
    results |= {f"d{key}": g for key, g in grads.items()}
    return results | {f"d{key}2": g for key, g in grads2.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "results"
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = run_process([sys.executable, __file__, path], env=environment)
    assert done.returncode == 0, done.stderr
    return pickle.loads(path.read_bytes())


@pytest.mark.parametrize("name", CASES)
def test_same_results(results, name):
    want = passes(name, np.float64)
    assert results[name].keys() == want.keys()
    for key, got in results[name].items():
        scale = max(abs(a).max() for a in want.values())
        terms = int(np.prod(CASES[name][1]))
        assert_close(got, want[key], key, np.float32, scale=scale, terms=terms, order=2)


if __name__ == "__main__":
    with use_kernels():
        computed = {name: passes(name, np.float32) for name in CASES}
    Path(sys.argv[1]).write_bytes(pickle.dumps(computed))
