"""Specs of step_inputs.py: step_inputs and dropout; Philox and Box-Muller in NumPy."""

from math import prod

import numpy as np

from rawgan.backend import Array, array_module
from rawgan.kernels.runtime.launch import cdiv
from rawgan.kernels.specs.spec import Spec
from rawgan.kernels.step_inputs import dropout, step_inputs


def _philox(seed: int, words: list[Array]) -> list[Array]:
    """Return the four words after ten rounds, on 32-bit words held in uint64."""
    mask, key = np.uint64(0xFFFFFFFF), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (b >> np.uint64(32)) ^ words[1] ^ np.uint64(key[0]), b & mask,
            (a >> np.uint64(32)) ^ words[3] ^ np.uint64(key[1]), a & mask,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return words


def _words_reference(size, state, stream) -> Array:
    """Return (4, ceil(size / 4)) words, four of each counter, on the device of the state."""
    seed, step, xp = int(state[0]), int(state[1]), array_module(state)
    count = xp.arange(cdiv(size, 4), dtype=np.uint64)
    words = (xp.full_like(count, word) for word in (step & 0xFFFFFFFF, step >> 32, stream))
    return xp.stack(_philox(seed, [count, *words]))


def first_words_reference(size, state, stream) -> Array:
    """Return a uniform variable in (0, 1) of each counter, from the first of its four words."""
    return _unit(_words_reference(4 * size, state, stream)[0])


def _unit(words):
    return ((words >> np.uint64(9)).astype(np.float64) + 0.5) * 2**-23


def _normal_reference(out, state):
    """Fill out with N(0, 1) of stream 0, by Box-Muller."""
    words = _words_reference(out.size, state, 0)
    u, angle = _unit(words[::2]), _unit(words[1::2])
    pairs = np.sqrt(-2 * np.log(u)) * np.stack(
        [np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)]
    )
    out[...] = pairs.swapaxes(0, 1).reshape(-1)[: out.size].reshape(out.shape)


def _uniform_reference(out, state):
    """Fill out with U(-1, 1) of stream 0."""
    u = _unit(_words_reference(out.size, state, 0))
    out[...] = (2 * u - 1).reshape(-1)[: out.size].reshape(out.shape)


def dropout_reference(x, state, p, stream, first):
    """Multiply x by a mask, in place, and return it."""
    u = first_words_reference(first + x.size, state, stream)[first:].reshape(x.shape)
    x[...] = np.where(u < p, 0, x / (1 - p))
    return x


def _step_inputs_reference(z, real, data, index, state, g_step, d_step, draw, pixels):
    (_normal_reference if draw == "normal" else _uniform_reference)(z, state)
    batch = data[index[int(state[1]) % len(index)].astype(np.int64)]
    real[...] = batch / 255 if pixels == "unit" else batch * (2 / 255) - 1
    g_step += 1
    d_step += 1


def _make_step_inputs(array, N, z, images, row, batches, step, seed=77, **options):
    state, index = array(2, dtype="int64"), array(batches, N, dtype="int32")
    state[:], index[...] = (seed, step), index % images
    counters = array(1, dtype="int32"), array(1, dtype="int32")
    data = array(images, row, dtype="uint8")
    return (array(N, z), array(N, row), data, index, state, *counters), options


def _make_dropout(array, shape, step, stream, p, first):
    state = array(2, dtype="int64")
    state[:] = 2**40 + 5, step
    return (array(*shape), state), {"p": p, "stream": stream, "first": first}


DROPOUT = {"shape": (128, 7, 7, 256), "step": 1, "stream": 2, "p": 0.3, "first": 0}
INPUTS = {"N": 128, "z": 100, "row": 64 * 64 * 3, "batches": 50, "step": 1}
INPUTS |= {"draw": "normal", "pixels": "tanh"}

GRID_AXES = {
    "step_inputs_kernel": lambda launch: {  # four numbers of z for each counter
        "z": (cdiv(launch.constants["Z"], 4), launch.constants["BLOCK"]),
        "pixels": (launch.constants["REAL"], launch.constants["BLOCK"]),
    },
}

SPECS = (
    Spec(
        name="step_inputs",
        wrapper=step_inputs,
        reference=_step_inputs_reference,
        make=_make_step_inputs,
        cases=(
            {
                "N": 7,
                "z": 330,
                "images": 50,
                "row": 211,
                "batches": 3,
                "step": 5,
                "draw": "normal",
                "pixels": "tanh",
            },
            {
                "N": 2,
                "z": 20,
                "images": 9,
                "row": 64,
                "batches": 1,
                "step": 2**33,
                "draw": "uniform",
                "pixels": "unit",
            },
            # both words of the step and of the seed, and two programs of uniform numbers with a
            # tail of their last quarter
            {
                "N": 23,
                "z": 103,
                "images": 9,
                "row": 3,
                "batches": 2,
                "step": 2**33 + 1,
                "seed": 2**40 + 5,
                "draw": "uniform",
                "pixels": "tanh",
            },
            # one number
            {
                "N": 1,
                "z": 1,
                "images": 2,
                "row": 1,
                "batches": 1,
                "step": 2**33 + 1,
                "seed": 2**40 + 5,
                "draw": "normal",
                "pixels": "unit",
            },
        ),
        benchmarks=({"images": 6000, **INPUTS},),
        traffic=lambda itemsize, N, z, row, **_: itemsize * N * z + (1 + itemsize) * N * row,
        flops=lambda N, z, row, **_: N * (40 * z + 2 * row),
        compiles=(("bfloat16", {"images": 9, **INPUTS}, {}),),
        writes=(0, 1, 5, 6),
    ),
    Spec(
        name="dropout",
        wrapper=dropout,
        reference=dropout_reference,
        make=_make_dropout,
        cases=(
            {"shape": (13, 103), "step": 3, "stream": 2, "p": 0.5, "first": 0},
            {"shape": (2, 3, 5), "step": 2**33 + 1, "stream": 2**31 + 7, "p": 0.3, "first": 1000},
        ),
        benchmarks=(DROPOUT,),
        traffic=lambda itemsize, shape, **_: 2 * itemsize * prod(shape),
        flops=lambda shape, **_: 24 * prod(shape),
        compiles=(("bfloat16", DROPOUT, {}),),
        writes=(0,),
    ),
)
