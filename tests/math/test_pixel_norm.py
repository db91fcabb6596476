"""PixelNorm against autograd, to second order."""

import numpy as np
import pytest

from rawgan import backend, cpu
from rawgan.layers import Linear, PixelNorm, Sequential, Tanh
from rawgan.layers import pixel_norm as layer_file
from tests.support.reference import assert_close, check_layer

SHAPES = [(1, 3), (5, 7), (1, 1, 1, 3), (3, 4, 5, 2)]
# with one channel and a small eps, y is the sign of x, and its derivatives are rounding errors
CASES = [
    *((shape, eps) for shape in SHAPES for eps in (1e-8, 0.3)),
    *(((1, 1), 0.3), ((2, 3, 7, 1), 0.3)),
]


@pytest.fixture(scope="module", autouse=True, params=["plain", "fast", "fast in parts"])
def form(request):
    """Run each test with the plain means, and the fast CPU means in one part and in several."""
    with pytest.MonkeyPatch.context() as patch, backend.reference_cpu(request.param == "plain"):
        if request.param == "fast in parts":
            patch.setattr(cpu, "PARALLEL_BYTES", 0)
        yield


def twin(eps):
    return lambda x, p: x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("shape, eps", CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_pixel_norm(device, rng, shape, eps, dtype, gaps):
    x = rng.normal(0.5, 2, shape).astype(dtype)
    check_layer(PixelNorm(eps), x, twin(eps), device=device, gaps=gaps)


def test_between_layers(device, rng):
    net = Sequential(Linear(4, 6), PixelNorm(), Tanh(), Linear(6, 3), PixelNorm(0.1))

    def f(x, p):
        x = twin(1e-8)(x @ p["0.w"].T + p["0.b"], p).tanh()
        return twin(0.1)(x @ p["3.w"].T + p["3.b"], p)

    check_layer(net, rng.normal(size=(5, 4)), f, device=device)


def test_length_is_one_and_zero_stays_zero(rng):
    x = rng.normal(size=(3, 4, 4, 8))
    x[0, 0, 0] = 0
    y, _ = PixelNorm().forward(x)
    want = np.ones((3, 4, 4))
    want[0, 0, 0] = 0
    assert_close((y * y).mean(-1), want, allowed=1e-7)


def one_minus_too_few(ddx, dy, y, r):
    m1, m2, m3 = ((a * b).mean(-1, keepdims=True) for a, b in ((y, ddx), (y, dy), (ddx, dy)))
    return -r * r * (y * (m3 - 2 * m1 * m2) + m2 * ddx + m1 * dy)


def without_the_projection(dy, y, r):
    return r * dy


@pytest.mark.parametrize(
    "name, wrong, derivative",
    [
        ("pixel_norm_dx2", one_minus_too_few, "dx2"),
        ("pixel_norm_dx", without_the_projection, "dx"),
    ],
)
def test_mistake_is_found(monkeypatch, rng, name, wrong, derivative):
    monkeypatch.setattr(layer_file, name, wrong)
    with pytest.raises(AssertionError, match=f": {derivative}:"):
        check_layer(PixelNorm(0.3), rng.normal(size=(5, 7)), twin(0.3))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"PixelNorm: expected x of shape \(N, any\), got \(4,"):
        PixelNorm().forward(np.zeros((4, 3, 2)))
