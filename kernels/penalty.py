"""The parts of a gradient penalty between the sweeps. The mathematics is in rawgan/penalties.py.

Squared norms: a program per sample or per slice of one, added in a fixed order. The value and the factors, from the squared norms,
are a mean of terms with its slopes: terms.py. Scaling and interpolating are elementwise, a program per BLOCK of values. In a
planned step all of it is one launch, a program per sample, and the inputs of several critic steps are another.
"""

from math import prod

import triton
import triton.language as tl

from rawgan import penalties
from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.gemm import below, load
from rawgan.kernels.moments import last_of
from rawgan.kernels.random import first_words_reference, uniform_of, words
from rawgan.kernels.spec import Spec
from rawgan.kernels.terms import mean_terms, sum_rows, term

CONFIG = {"BLOCK": 1024, "num_warps": 4}
SLICE = 2**16  # values of a sample that one program adds up


@triton.jit
def blend_kernel(
    x_ptr, y_ptr, factor_ptr, out_ptr, SIZE: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out[n] = factor[n] x[n], and with y + (1 - factor[n]) y[n]; ROW values to a sample."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    factor = tl.load(factor_ptr + offs // ROW, mask=mask, other=0.0).to(tl.float32)
    out = factor * tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if y_ptr is not None:
        out += (1.0 - factor) * tl.load(y_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offs, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def penalty_step_kernel(
    g_ptr, ddx_ptr, values_ptr, counter_ptr, said_ptr, state_ptr, tick_ptr,
    N: tl.constexpr, SIZE: tl.constexpr, ONE_SIDED: tl.constexpr, WEIGHT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, COLUMN: tl.constexpr, SAMPLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SIZE, BLOCK):
        g = load(g_ptr, n * SIZE + first + lane, first + lane < SIZE)
        total += g * g
    squared = tl.sum(total, 0)
    value, factor = term(squared, "norm", ONE_SIDED)
    for first in range(0, SIZE, BLOCK):
        inside = first + lane < SIZE
        ddx = load(g_ptr, n * SIZE + first + lane, inside) * (factor * (WEIGHT / N))
        tl.store(ddx_ptr + n * SIZE + first + lane, ddx.to(ddx_ptr.dtype.element_ty), mask=inside)
    tl.store(values_ptr + n, value * (WEIGHT / N))
    tl.store(values_ptr + N + n, tl.sqrt(squared))
    if last_of(counter_ptr, N):
        samples = tl.arange(0, SAMPLES)
        out_ptr = said_ptr + (tl.load(state_ptr + 1) % ROWS) * COLUMNS + COLUMN
        tl.store(out_ptr, tl.sum(load(values_ptr, samples, samples < N), 0))
        tl.store(out_ptr + 1, tl.sum(load(values_ptr, N + samples, samples < N), 0) * (1.0 / N))
        tl.store(tick_ptr, tl.load(tick_ptr) + 1)


@triton.jit
def critic_inputs_kernel(
    real_ptr, fake_ptr, state_ptr, alpha_ptr, out_ptr, BATCH: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sample j = (i, b) of all goes to (i, 0, b) if it is real, to (i, 1, b) if fake, and what lies between to (i, 2, b)."""
    j = tl.program_id(1)
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    word, _, _, _ = words(state_ptr, tl.zeros((1,), tl.int32) + j, 1)
    alpha = uniform_of(word, 0.0, 1.0)
    real = load(real_ptr, j * SIZE + offs, mask)
    fake = load(fake_ptr, j * SIZE + offs, mask)
    out_ptr += ((j // BATCH * 3) * BATCH + j % BATCH) * SIZE + offs
    tl.store(out_ptr, real.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + BATCH * SIZE, fake.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + 2 * BATCH * SIZE, (alpha * real + (1.0 - alpha) * fake).to(out_ptr.dtype.element_ty), mask=mask)
    if tl.program_id(0) == 0:
        tl.store(alpha_ptr + j + tl.arange(0, 1), alpha)


def squared_norms(g: Array) -> Array:
    """float32 whatever g holds."""
    N = len(g)
    slices = launch.cdiv(g.size // N, SLICE)
    if slices == 1:
        return sum_rows(g, launch.empty(g, (N,), "float32"), square=True)
    partial = sum_rows(g, launch.empty(g, (N, slices), "float32"), square=True, slices=slices)
    return sum_rows(partial, launch.empty(g, (N,), "float32"))


def wgan_gp_value(squared: Array, weight: float, one_sided: bool = False) -> tuple[Array, Array]:
    return mean_terms((squared, "norm", float(one_sided), weight))


def r1_value(squared: Array, weight: float) -> tuple[Array, Array]:
    return mean_terms((squared, "r1", 0.0, weight))


def scale_samples(g: Array, factor: Array) -> Array:
    return _blend(g, None, factor)


def interpolate(real: Array, fake: Array, alpha: Array) -> Array:
    """alpha holds one number per sample, in any floating-point dtype."""
    launch.fit((real.shape, fake.shape), (real.dtype, fake.dtype))
    return _blend(real, fake, alpha)


def _blend(x: Array, y: Array | None, factor: Array) -> Array:
    launch.fit((factor.size, len(x)))
    out = launch.empty(x, x.shape)
    grid = (launch.cdiv(x.size, CONFIG["BLOCK"]),)
    launch.run(blend_kernel, grid, x, y, factor, out, SIZE=x.size, ROW=x.size // len(x), **CONFIG)
    return out


def penalty_step(
    g: Array, ddx: Array, said: Array, state: Array, tick: Array, weight: float, one_sided: bool = False, column: int = 0
) -> None:  # fmt: skip
    """All between the second and the third sweep in one launch: ddx = dP/dg, of the penalty of WGAN-GP; ddx like g (N, ...).

    Row `step mod rows` of said gets P and the mean of |g| at `column`, as in head.py; tick (1,) int32 is raised by 1.
    """
    N, (rows, columns) = len(g), said.shape
    launch.fit((g.shape, ddx.shape))
    values, counter = launch.empty(g, (2, N), "float32"), array_module(g).zeros(1, "int32")
    where = {"ROWS": rows, "COLUMNS": columns, "COLUMN": column, "SAMPLES": triton.next_power_of_2(N)}
    sizes = {"N": N, "SIZE": g.size // N, "ONE_SIDED": float(one_sided), "WEIGHT": weight}
    launch.run(penalty_step_kernel, (N,), g, ddx, values, counter, said, state, tick, **sizes, **where, **CONFIG)


def critic_inputs(real: Array, fake: Array, state: Array, alpha: Array, out: Array) -> None:
    """What n critic steps see, in one launch: real and fake (n B, ...), out (n, 3, B, ...): real, fake, and between them

    alpha real + (1 - alpha) fake,  alpha ~ U(0, 1), one per sample, of stream 1 of the step; alpha (n B,) float32 is filled.
    """
    n, _, B = out.shape[:3]
    launch.fit((real.shape, fake.shape), (out.shape, (n, 3, B, *real.shape[1:])), (alpha.size, len(real)), (len(real), n * B))
    size = real.size // len(real)
    grid = (launch.cdiv(size, CONFIG["BLOCK"]), len(real))
    launch.run(critic_inputs_kernel, grid, real, fake, state, alpha, out, BATCH=B, SIZE=size, **CONFIG)


IMAGES = {"shape": (64, 64, 64, 3)}
CASES = ({"shape": (5, 7, 9, 3)}, {"shape": (1, 1)}, {"shape": (3, 1024)})


def _spec(wrapper, reference, make, passes: int, flops: int, cases=CASES) -> Spec:
    """passes: how often the images go through memory; flops: per value."""
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=(IMAGES,),
        traffic=lambda itemsize, shape: passes * itemsize * prod(shape),
        flops=lambda shape: flops * prod(shape),
        compiles=(("bfloat16", IMAGES, {}), *((("float32", {"shape": (4, 512, 512, 3)}, {}),) if wrapper is squared_norms else ())),
    )


def _value_spec(wrapper, reference, **options) -> Spec:
    """From squared norms of 0 up, among them 0 itself."""

    def make(array, N, weight, **options):
        squared = array(N, dtype="float32") ** 2
        squared[:1] = 0
        return (squared, weight), options

    train = {"N": 64, "weight": 10.0, **options}
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=tuple({"N": N, "weight": 3.0, **options, **side} for N in (1, 5, 1500) for side in _sides(options)),
        benchmarks=(train,),
        traffic=lambda itemsize, N, **_: 8 * N,
        flops=lambda N, **_: 8 * N,
        compiles=(("float32", train, {}),),
        dtypes=("float32",),
    )


def _sides(options):
    return ({"one_sided": False}, {"one_sided": True}) if options else ({},)


def _penalty_step_reference(g, ddx, said, state, tick, weight, one_sided):
    penalty = penalties.WGANGP(weight, one_sided)
    squared = penalties.squared_norms(g)
    value, factor = penalty.value(squared)
    ddx[...] = penalties.scale_samples(g, factor)
    said[int(state[1]) % len(said), :2] = array_module(g).stack([value, (squared**0.5).mean()])
    tick += 1


def _make_penalty_step(array, shape, one_sided):
    state, said, tick = array(2, dtype="int64"), array(4, 3, dtype="float32"), array(1, dtype="int32")
    state[:] = 1, 6
    return (array(*shape), array(*shape), said, state, tick, 10.0), {"one_sided": one_sided}


def _critic_inputs_reference(real, fake, state, alpha, out):
    n, _, B = out.shape[:3]
    alpha[...] = first_words_reference(alpha.size, state, 1)
    a = alpha.reshape(-1, *[1] * (real.ndim - 1))
    for i, part in enumerate((real, fake, a * real + (1 - a) * fake)):
        out[:, i] = part.reshape(n, B, *real.shape[1:])


def _make_critic_inputs(array, n, shape):
    B, *sample = shape
    state = array(2, dtype="int64")
    state[:] = 3, 2**33 + 1
    return (array(n * B, *sample), array(n * B, *sample), state, array(n * B, dtype="float32"), array(n, 3, B, *sample)), {}


SPECS = (
    _spec(
        squared_norms,
        penalties.squared_norms,
        lambda array, shape: ((array(*shape),), {}),
        passes=1,
        flops=2,
        cases=(*CASES, {"shape": (2, 7, 10007)}),
    ),
    _value_spec(
        wgan_gp_value, lambda squared, weight, one_sided: penalties.WGANGP(weight, one_sided).value(squared), one_sided=False
    ),
    _value_spec(r1_value, lambda squared, weight: penalties.R1(weight).value(squared)),
    _spec(
        scale_samples,
        penalties.scale_samples,
        lambda array, shape: ((array(*shape), array(shape[0], dtype="float32")), {}),
        passes=2,
        flops=1,
    ),
    _spec(
        interpolate,
        penalties.interpolate,
        lambda array, shape: ((array(*shape), array(*shape), array(shape[0], *[1] * (len(shape) - 1), dtype="float32")), {}),
        passes=3,
        flops=4,
    ),
    Spec(
        name="penalty_step",
        wrapper=penalty_step,
        reference=_penalty_step_reference,
        make=_make_penalty_step,
        cases=(
            {"shape": (5, 7, 9, 3), "one_sided": False},
            {"shape": (3, 2000), "one_sided": True},
            {"shape": (1, 1), "one_sided": False},
        ),
        benchmarks=({**IMAGES, "one_sided": False},),
        traffic=lambda itemsize, shape, **_: 3 * itemsize * prod(shape),
        flops=lambda shape, **_: 3 * prod(shape),
        compiles=(("bfloat16", {**IMAGES, "one_sided": False}, {}),),
        writes=(1, 2, 4),
    ),
    Spec(
        name="critic_inputs",
        wrapper=critic_inputs,
        reference=_critic_inputs_reference,
        make=_make_critic_inputs,
        cases=({"n": 3, "shape": (2, 5, 7, 3)}, {"n": 1, "shape": (4, 1100)}),
        benchmarks=({"n": 5, **IMAGES},),
        traffic=lambda itemsize, n, shape: 5 * itemsize * n * prod(shape),
        flops=lambda n, shape: 3 * n * prod(shape),
        compiles=(("bfloat16", {"n": 5, **IMAGES}, {}),),
        writes=(3, 4),
    ),
)
