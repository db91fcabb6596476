"""Tolerance of statistics of a matrix product, against tensor cores simulated in NumPy.

On an H200 the variance of conv2d_batchnorm_act in float16 (4x16x16x64, 4x4 filters: 1024 products)
was outside the tolerance in 11 of 640 entries, 1081.03 for 1081.04. Tensor cores truncate where
float32 arithmetic rounds, so every value of z is too small, and so is its variance. The tolerance
had allowed for rounding only.
"""

import numpy as np
import pytest

from rawgan.kernels import all_specs
from rawgan.kernels.gemm_config import TABLES
from rawgan.kernels.specs.testing import from_bf16, to_bf16
from rawgan.kernels.specs.tolerance import (
    CHUNK,
    kernel_tolerance,
    loss_of_sum,
    spec_tolerance,
    statistics_tolerance,
)

SPEC = all_specs()["conv2d_batchnorm_act"]
CASE = SPEC.cases[0]


def cut(x: np.ndarray, bits: int, exponent: np.ndarray | None = None) -> np.ndarray:
    """Return x truncated to `bits` bits from the leading bit of 2^exponent (default: that of x)."""
    exponent = np.frexp(x)[1] - 1 if exponent is None else exponent
    unit = np.exp2(exponent - bits + 1.0)
    return np.trunc(x / unit) * unit


def tensor_core(
    a: np.ndarray, b: np.ndarray, step: int = 16, extra: int = 2, start: np.ndarray | float = 0.0
) -> np.ndarray:
    """Return start plus a (M, K) times b (N, K)' as tensor cores sum it (Fasi et al. 2021).

    `step` exact products and the partial sum are aligned to the largest with 24 + extra bits,
    added, and truncated to 24 bits.
    """
    acc = np.zeros((len(a), len(b))) + start
    for k in range(0, a.shape[1], step):
        products = a[:, None, k : k + step] * b[None, :, k : k + step]
        terms = np.concatenate([products, acc[..., None]], -1)
        exponent = np.frexp(abs(terms).max(-1))[1] - 1
        acc = cut(cut(terms, 24 + extra, exponent[..., None]).sum(-1), 24)
    return acc


def factors(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the unfolded image and the filters of CASE, in float64."""
    rng = np.random.default_rng(11)
    x, w = rng.normal(size=(4, 18, 18, 64)), rng.normal(size=(64, 4, 4, 64))
    x[:, [0, -1]] = x[:, :, [0, -1]] = 0  # zero padding
    x, w = (from_bf16(to_bf16(a)) if dtype == "bfloat16" else a.astype(np.float16) for a in (x, w))
    taps = [x[:, r : r + 16 : 2, s : s + 16 : 2] for r in range(4) for s in range(4)]
    return np.stack(taps, 3).reshape(256, -1).astype(np.float64), w.reshape(64, -1).astype(
        np.float64
    )


def statistics(z: np.ndarray) -> np.ndarray:
    """Return the statistics (5, 2, 64) in float64, with gamma = 1.5 and beta = -0.5."""
    parts = z.reshape(2, 128, 64)
    mean, var = parts.mean(1), parts.var(1)
    rstd = (var + 1e-5) ** -0.5
    return np.stack([mean, var, rstd, 1.5 * rstd, -0.5 - mean * 1.5 * rstd])


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def simulated(request):
    """Return (dtype, z as tensor cores compute it, exact z)."""
    a, b = factors(request.param)
    return request.param, tensor_core(a, b), a @ b.T


def wrong(got, want, dtype) -> np.ndarray:
    """Return the number of entries of each statistic that are outside the tolerance."""
    allowed = spec_tolerance(SPEC, CASE, dtype, SPEC.stats, "float32", want)
    return (abs(got - want) > allowed).sum((1, 2))


def test_what_tensor_cores_cut_off_is_allowed(simulated):
    dtype, got, want = simulated
    loss = (abs(want) - abs(got)).sum() / abs(
        want
    ).sum()  # relative loss of |z|, in the mean: truncation has one direction
    assert 2**-22 < loss < loss_of_sum(dtype, 1024) == 64 * 2**-24
    assert not wrong(statistics(got), statistics(want), dtype).any()


def test_the_measured_failure(simulated):
    """A tolerance for rounding alone rejects only the variance in float16, as on the H200."""
    dtype, got, want = (simulated[0], *map(statistics, simulated[1:]))
    outside = (abs(got - want) > kernel_tolerance("float32", want)).sum((1, 2))
    assert outside[[0, 2, 3, 4]].sum() == 0 and (outside[1] > 0) == (dtype == "float16")


def test_wrong_statistics_show(simulated):
    """Missing rows or products, another variance or eps, and no gamma or beta are rejected."""
    dtype, _, z = simulated
    want = statistics(z)
    short = z.reshape(2, 128, 64)[:, :127]
    a, b = factors(dtype)
    mistakes = {
        "a row": statistics(np.concatenate([short, short[:, :1]], 1).reshape(256, 64)),
        "a product": statistics(z - a[:, -1:] * b[:, -1]),
        "unbiased": want * np.array([1, 128 / 127, 1, 1, 1])[:, None, None],
        "eps": np.concatenate([want[:2], (want[1:2] + 1e-2) ** -0.5, want[3:]]),
        "gamma": np.concatenate([want[:3], want[2:3], want[4:]]),
        "the mean in the shift": np.concatenate([want[:4], want[4:] * 0 - 0.5]),
    }
    for name, got in mistakes.items():
        assert wrong(got, want, dtype).any(), name


def test_each_statistic_has_its_own_scale():
    """The tolerances of rstd and scale follow their own magnitudes, not that of the variance."""
    want = statistics(np.random.default_rng(0).normal(size=(256, 64)) * 30)
    allowed = statistics_tolerance(want, loss_of_sum("float16", 1024))
    assert (allowed[1] / want[1]).max() < 2e-5 and (allowed[2] / want[2]).max() < 2e-5
    assert (
        (allowed[3] / want[3]).max() < 2e-5 and allowed[0].max() < 1e-3 and allowed[4].max() < 1e-4
    )


def test_loss_of_a_sum():
    """The loss of a sum equals values computed by hand.

    They are for steps of 16 products of float16, and of 8 of TF32, whose products lose digits as
    well.
    """
    assert loss_of_sum("float16", 1024) == loss_of_sum("bfloat16", 1009) == 2**-18
    assert (
        loss_of_sum("tf32", 16) == 2**-10 + 2**-23
        and loss_of_sum("float32", 8) == 3 * 2**-22 + 3 * 2**-24
    )
    assert loss_of_sum("float32", 32) == loss_of_sum("float32", 10**6) == 24 * 2**-24
    assert {config["BLOCK_K"] for config in TABLES["tf32x3"]} == {CHUNK}
    assert loss_of_sum("float32", 0) == 0


def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two bfloat16 numbers of each float32 value of bf16x3, in float64."""
    high = from_bf16(to_bf16(x))
    return high.astype(np.float64), from_bf16(to_bf16(x - high)).astype(np.float64)


@pytest.fixture(scope="module")
def long_sums():
    """Return two matrices of normal numbers in float32, and their product of 4096 terms."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(20, 4096)).astype(np.float32) for _ in range(2))
    return a, b, a.astype(np.float64) @ b.T.astype(np.float64)


def test_the_sums_of_bf16x3(long_sums):
    """Sums of CHUNK terms lose nothing next to the products; one accumulator loses far more."""
    a, b, want = long_sums
    (a_hi, a_lo), (b_hi, b_lo) = parts(a), parts(b)
    products = (a_lo, b_hi), (a_hi, b_lo), (a_hi, b_hi)

    def error(got):
        return np.linalg.norm(got - want) / np.linalg.norm(want)

    chunks, chain = np.zeros(want.shape), np.zeros(want.shape)
    for k in range(0, a.shape[1], CHUNK):
        part = np.zeros(want.shape)
        for x, y in products:
            x_step, y_step = x[:, k : k + CHUNK], y[:, k : k + CHUNK]
            part = tensor_core(x_step, y_step, start=part)
            chain = tensor_core(x_step, y_step, start=chain)
        chunks = (chunks + part).astype(np.float32).astype(np.float64)
    exact_sums = sum(x @ y.T for x, y in products)
    assert error(chunks) < 1.02 * error(exact_sums) < loss_of_sum("bf16x3", 4096)
    assert error(chain) > 2 * error(chunks)
    lost = [(abs(want) - abs(got)).sum() / abs(want).sum() for got in (chunks, chain)]
    assert abs(lost[0]) < 2**-20 and lost[1] > 2**-17  # toward 0


def test_a_wrong_product_of_bf16x3_shows(long_sums):
    """The right sum is within the tolerance; one that lacks a product is not."""
    a, b, want = long_sums
    (a_hi, a_lo), (b_hi, b_lo) = parts(a), parts(b)
    small, other, large = a_lo @ b_hi.T, a_hi @ b_lo.T, a_hi @ b_hi.T
    bound, terms = abs(a).astype(np.float64) @ abs(b).T, np.full(want.shape, a.shape[1])
    allowed = kernel_tolerance("bf16x3", want, bound, terms)
    assert (abs(small + other + large - want) <= allowed / 4).all()
    for got in (large, small + large, other + large, 2 * small + large, a_lo @ b_lo.T + large):
        assert (abs(got - want) > allowed).any()
