"""The parts of a gradient penalty between the sweeps. The mathematics is in rawgan/penalties.py.

Squared norms: a program per sample or per slice of one, added in a fixed order. The value and the factors, from the squared norms,
are a mean of terms with its slopes: terms.py. Scaling and interpolating are elementwise, a program per BLOCK of values.
"""

from math import prod

import triton
import triton.language as tl

from rawgan import penalties
from rawgan.backend import Array
from rawgan.kernels import launch
from rawgan.kernels.gemm import below
from rawgan.kernels.spec import Spec
from rawgan.kernels.terms import mean_terms, sum_rows

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
)
