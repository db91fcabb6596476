"""Specs of penalty.py."""

from math import prod

from rawgan import penalties
from rawgan.backend import array_module
from rawgan.kernels.penalty import (
    critic_inputs,
    critic_pairs,
    interpolate,
    penalty_step,
    r1_value,
    scale_samples,
    squared_norms,
    wgan_gp_value,
)
from rawgan.kernels.specs.spec import EXACT, Spec
from rawgan.kernels.specs.step_inputs import first_words_reference

IMAGES = {"shape": (64, 64, 64, 3)}
CASES = ({"shape": (5, 7, 9, 3)}, {"shape": (1, 1)}, {"shape": (3, 1024)}, {"shape": (3, 1000)})


def _spec(wrapper, reference, make, passes: int, flops: int, cases=CASES, float32=()) -> Spec:
    """Return the Spec of a wrapper.

    passes: how often the images go through memory; flops: per value.
    """
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=(IMAGES,),
        traffic=lambda itemsize, shape: passes * itemsize * prod(shape),
        flops=lambda shape: flops * prod(shape),
        compiles=(
            ("bfloat16", IMAGES, {}),
            *((("float32", {"shape": (4, 512, 512, 3)}, {}),) if wrapper is squared_norms else ()),
        ),
        float32=float32,
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
        cases=tuple(
            {"N": N, "weight": 3.0, **options, **side}
            for N in (1, 5, 5000)
            for side in _sides(options)
        ),
        benchmarks=(train,),
        traffic=lambda itemsize, N, **_: 8 * N,
        flops=lambda N, **_: 8 * N,
        compiles=(("float32", train, {}),),
        dtypes=("float32",),
    )


def _sides(options):
    return ({"one_sided": False}, {"one_sided": True}) if options else ({},)


def _penalty_step_reference(g, ddx, metrics, state, step_counter, weight, one_sided):
    penalty = penalties.WGANGP(weight, one_sided)
    squared = penalties.squared_norms(g)
    value, factor = penalty.value(squared)
    ddx[...] = penalties.scale_samples(g, factor)
    metrics[int(state[1]) % len(metrics), :2] = array_module(g).stack(
        [value, (squared**0.5).mean()]
    )
    step_counter += 1


def _make_penalty_step(array, shape, one_sided):
    state, metrics, step_counter = (
        array(2, dtype="int64"),
        array(4, 3, dtype="float32"),
        array(1, dtype="int32"),
    )
    state[:] = 1, 6
    return (array(*shape), array(*shape), metrics, state, step_counter, 10.0), {
        "one_sided": one_sided
    }


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
    return (
        array(n * B, *sample),
        array(n * B, *sample),
        state,
        array(n * B, dtype="float32"),
        array(n, 3, B, *sample),
    ), {}


def _critic_pairs_reference(real, fake, out):
    n, _, B = out.shape[:3]
    for i, part in enumerate((real, fake)):
        out[:, i] = part.reshape(n, B, *real.shape[1:])


def _make_critic_pairs(array, n, shape):
    B, *sample = shape
    return (array(n * B, *sample), array(n * B, *sample), array(n, 2, B, *sample)), {}


GRID_AXES = {
    "penalty_step_kernel": lambda launch: {
        "samples": (launch.constants["N"], EXACT),
        "values": (launch.constants["SIZE"], launch.constants["BLOCK"]),
    },
    "critic_inputs_kernel": lambda launch: {
        "values": (launch.constants["SIZE"], launch.constants["BLOCK"]),
        "samples": (launch.grid[1], EXACT),
    },
}

SPECS = (
    _spec(
        squared_norms,
        penalties.squared_norms,
        lambda array, shape: ((array(*shape),), {}),
        passes=1,
        flops=2,
        cases=(*CASES, {"shape": (2, 7, 10007)}),
        float32=(0,),
    ),
    _value_spec(
        wgan_gp_value,
        lambda squared, weight, one_sided: penalties.WGANGP(weight, one_sided).value(squared),
        one_sided=False,
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
        lambda array, shape: (
            (
                array(*shape),
                array(*shape),
                array(shape[0], *[1] * (len(shape) - 1), dtype="float32"),
            ),
            {},
        ),
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
    Spec(
        name="critic_pairs",
        wrapper=critic_pairs,
        reference=_critic_pairs_reference,
        make=_make_critic_pairs,
        cases=({"n": 3, "shape": (2, 5, 7, 3)}, {"n": 2, "shape": (3, 1100)}),
        benchmarks=({"n": 5, **IMAGES},),
        traffic=lambda itemsize, n, shape: 4 * itemsize * n * prod(shape),
        flops=lambda n, shape: 0,
        compiles=(("bfloat16", {"n": 5, **IMAGES}, {}),),
        writes=(2,),
    ),
)
