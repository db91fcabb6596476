"""Random numbers and batches made on the GPU, so that a captured CUDA graph needs nothing from the host.

Philox4x32-10 (Salmon et al. 2011) turns a key and a counter of four 32-bit words into four words. The key is the seed; word 0
counts within the array, words 1 and 2 are the step, word 3 says which array of the step it is: one seed gives 2^64 steps of 2^32
arrays that never overlap.
"""

from math import prod
from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.spec import Spec

CONFIG = {"BLOCK": 512, "num_warps": 4}


class Ticks(NamedTuple):
    """The step counters of the two optimizers, int32 (1,) each."""

    generator: Array
    discriminator: Array


@triton.jit
def _box_muller(u, v):
    """Two normal variables from two uniform 32-bit words, of which 23 bits are used: exact in float32, and never 0 or 1."""
    radius = tl.sqrt(-2.0 * tl.log(((u >> 9).to(tl.float32) + 0.5) * 2**-23))
    turn = ((v >> 9).to(tl.float32) + 0.5) * 2**-21  # in quarters; tl.cos and tl.sin would need local memory
    quarter = tl.floor(turn + 0.5)
    x = (turn - quarter) * 1.5707963267948966
    z = x * x
    sin = x * (1.0 + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880)))))
    cos = 1.0 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320))))
    quarter = quarter.to(tl.int32) % 4
    odd = quarter % 2 == 1
    across = tl.where(odd, sin, cos)
    up = tl.where(odd, cos, sin)
    return radius * tl.where((quarter == 1) | (quarter == 2), -across, across), radius * tl.where(quarter >= 2, -up, up)


@triton.jit
def words(state_ptr, offs, STREAM: tl.constexpr):
    """Four random 32-bit words for each offset."""
    zero = offs * 0
    step = tl.load(state_ptr + 1).to(tl.uint64)
    low = (step & 0xFFFFFFFF).to(tl.uint32) + zero.to(tl.uint32)
    high = (step >> 32).to(tl.uint32) + zero.to(tl.uint32)
    stream = zero.to(tl.uint32) + STREAM
    return tl.philox(tl.load(state_ptr).to(tl.uint64), offs.to(tl.uint32), low, high, stream)


@triton.jit
def _store_quarters(out_ptr, offs, z0, z1, z2, z3, SIZE: tl.constexpr):
    """Four values of each offset go to the four quarters of the array, so that neighbours are stored together."""
    QUARTER: tl.constexpr = (SIZE + 3) // 4
    inside = offs < QUARTER
    tl.store(out_ptr + offs, z0.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + QUARTER + offs, z1.to(out_ptr.dtype.element_ty), mask=inside & (QUARTER + offs < SIZE))
    tl.store(out_ptr + 2 * QUARTER + offs, z2.to(out_ptr.dtype.element_ty), mask=inside & (2 * QUARTER + offs < SIZE))
    tl.store(out_ptr + 3 * QUARTER + offs, z3.to(out_ptr.dtype.element_ty), mask=inside & (3 * QUARTER + offs < SIZE))


@triton.jit
def normal_kernel(out_ptr, state_ptr, SIZE: tl.constexpr, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b, c, d = words(state_ptr, offs, STREAM)
    z0, z1 = _box_muller(a, b)
    z2, z3 = _box_muller(c, d)
    _store_quarters(out_ptr, offs, z0, z1, z2, z3, SIZE)


@triton.jit
def uniform_of(word, LOW: tl.constexpr, HIGH: tl.constexpr):
    """A uniform variable from 23 bits of a word: exact on (0, 1), where neither end is reached."""
    return LOW + (HIGH - LOW) * (((word >> 9).to(tl.float32) + 0.5) * 2**-23)


@triton.jit
def uniform_kernel(
    out_ptr, state_ptr, LOW: tl.constexpr, HIGH: tl.constexpr, SIZE: tl.constexpr, STREAM: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b, c, d = words(state_ptr, offs, STREAM)
    z0, z1, z2, z3 = uniform_of(a, LOW, HIGH), uniform_of(b, LOW, HIGH), uniform_of(c, LOW, HIGH), uniform_of(d, LOW, HIGH)
    _store_quarters(out_ptr, offs, z0, z1, z2, z3, SIZE)


@triton.jit
def _pixels(data_ptr, index_ptr, offs, mask, ROW: tl.constexpr, UNIT: tl.constexpr):
    """The pixels of a batch as values in [-1, 1], or with UNIT in [0, 1]."""
    row = tl.load(index_ptr + offs // ROW, mask=mask, other=0).to(tl.int64)
    x = tl.load(data_ptr + row * ROW + offs % ROW, mask=mask, other=0).to(tl.float32)
    if UNIT:
        x = x * (1.0 / 255.0)
    else:
        x = x * (2.0 / 255.0) - 1.0
    return x


@triton.jit
def step_inputs_kernel(
    z_ptr, real_ptr, data_ptr, index_ptr, state_ptr, ticks, Z: tl.constexpr, REAL: tl.constexpr, ROW: tl.constexpr,
    BATCHES: tl.constexpr, NORMAL: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first programs draw z, the others gather pixels."""
    PROGRAMS: tl.constexpr = ((Z + 3) // 4 + BLOCK - 1) // BLOCK
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) < PROGRAMS:
        a, b, c, d = words(state_ptr, offs, 0)
        if NORMAL:
            z0, z1 = _box_muller(a, b)
            z2, z3 = _box_muller(c, d)
        else:
            z0, z1, z2, z3 = uniform_of(a, -1.0, 1.0), uniform_of(b, -1.0, 1.0), uniform_of(c, -1.0, 1.0), uniform_of(d, -1.0, 1.0)
        _store_quarters(z_ptr, offs, z0, z1, z2, z3, Z)
    else:
        offs -= PROGRAMS * BLOCK
        mask = offs < REAL
        batch = (tl.load(state_ptr + 1) % BATCHES).to(tl.int32)
        x = _pixels(data_ptr, index_ptr + batch * (REAL // ROW), offs, mask, ROW, UNIT)
        tl.store(real_ptr + offs, x.to(real_ptr.dtype.element_ty), mask=mask)
    if tl.program_id(0) == 0:
        tl.store(ticks.generator, tl.load(ticks.generator) + 1)
        tl.store(ticks.discriminator, tl.load(ticks.discriminator) + 1)


@triton.jit
def dropout_kernel(
    x_ptr, state_ptr, FIRST: tl.constexpr, SIZE: tl.constexpr, P: tl.constexpr, STREAM: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    word, _, _, _ = words(state_ptr, FIRST + offs, STREAM)
    x = tl.load(x_ptr + offs, mask=offs < SIZE, other=0.0).to(tl.float32)
    x = tl.where(uniform_of(word, 0.0, 1.0) < P, 0.0, x * (1.0 / (1.0 - P)))
    tl.store(x_ptr + offs, x.to(x_ptr.dtype.element_ty), mask=offs < SIZE)


@triton.jit
def gather_kernel(data_ptr, index_ptr, out_ptr, SIZE: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    x = _pixels(data_ptr, index_ptr, offs, mask, ROW, False)
    tl.store(out_ptr + offs, x.to(out_ptr.dtype.element_ty), mask=mask)


def normal(out: Array, state: Array, stream: int = 0) -> None:
    """Fills `out` with normal variables; state (2,) int64, in device memory: the seed and the step.

    stream: another number for each array that is drawn in one step, of either distribution.
    """
    launch.run(normal_kernel, _grid(out), out, state, SIZE=out.size, STREAM=stream, **CONFIG)


def uniform(out: Array, state: Array, ends: tuple[float, float] = (0.0, 1.0), stream: int = 0) -> None:
    """Fills `out` with uniform variables between the two ends; state and stream as for normal."""
    constants = {"LOW": float(ends[0]), "HIGH": float(ends[1]), "SIZE": out.size, "STREAM": stream}
    launch.run(uniform_kernel, _grid(out), out, state, **constants, **CONFIG)


def dropout(x: Array, state: Array, p: float, stream: int = 0, first: int = 0) -> Array:
    """x m, in its place: each number 0 with probability p, the others by 1 / (1 - p); state and stream as for normal.

    The number of x at i has the mask at first + i of the stream, which is kept nowhere: a gradient is masked by the same call.
    """
    constants = {"FIRST": first, "SIZE": x.size, "P": p, "STREAM": stream}
    launch.run(dropout_kernel, (launch.cdiv(x.size, CONFIG["BLOCK"]),), x, state, **constants, **CONFIG)
    return x


def _grid(out: Array) -> tuple[int]:
    return (launch.cdiv(launch.cdiv(out.size, 4), CONFIG["BLOCK"]),)


def gather(data: Array, index: Array, out: Array) -> None:
    """out[n] = data[index[n]] 2 / 255 - 1: a batch of uint8 images as values in [-1, 1]; index (N,) int32, within data."""
    row = out.size // len(out)
    launch.fit((len(index), len(out)), (data.size // len(data), row))
    grid = (launch.cdiv(out.size, CONFIG["BLOCK"]),)
    launch.run(gather_kernel, grid, data, index, out, SIZE=out.size, ROW=row, **CONFIG)


def step_inputs(
    z: Array, real: Array, data: Array, index: Array, state: Array, g_step: Array, d_step: Array,
    draw: str = "normal", pixels: str = "tanh",
) -> None:  # fmt: skip
    """What a training step needs, in one launch: fills z and `real`, and adds 1 to both optimizers' steps, (1,) int32.

    z from N(0, 1) ("normal") or U(-1, 1) ("uniform"), of stream 0; real (N, ...) from data (images, ...) of uint8, as "tanh" in
    [-1, 1] or "unit" in [0, 1]; index (batches, N) int32: the images of batch `step mod batches`. state as for normal.
    """
    row = real.size // len(real)
    launch.fit((index.shape[1], len(real)), (data.size // len(data), row))
    grid = (*_grid(z), launch.cdiv(real.size, CONFIG["BLOCK"]))
    sizes = {"Z": z.size, "REAL": real.size, "ROW": row, "BATCHES": len(index)}
    how = {"NORMAL": draw == "normal", "UNIT": pixels == "unit"}
    launch.run(step_inputs_kernel, (sum(grid),), z, real, data, index, state, Ticks(g_step, d_step), **sizes, **how, **CONFIG)


def _philox(seed: int, words: list[Array]) -> list[Array]:
    """The ten rounds, on 32-bit words held in uint64."""
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
    """(4, a quarter of the size): the four words of each counter, by Philox, where the state is."""
    seed, step, xp = int(state[0]), int(state[1]), array_module(state)
    count = xp.arange(launch.cdiv(size, 4), dtype=np.uint64)
    return xp.stack(_philox(seed, [count, *(xp.full_like(count, word) for word in (step & 0xFFFFFFFF, step >> 32, stream))]))


def first_words_reference(size, state, stream) -> Array:
    """A uniform variable in (0, 1) for each counter, from the first of its four words."""
    return _unit(_words_reference(4 * size, state, stream)[0])


def _unit(words):
    return ((words >> np.uint64(9)).astype(np.float64) + 0.5) * 2**-23


def _normal_reference(out, state, stream):
    words = _words_reference(out.size, state, stream)
    u, angle = _unit(words[::2]), _unit(words[1::2])
    pairs = np.sqrt(-2 * np.log(u)) * np.stack([np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)])
    out[...] = pairs.swapaxes(0, 1).reshape(-1)[: out.size].reshape(out.shape)


def _uniform_reference(out, state, ends, stream):
    u = _unit(_words_reference(out.size, state, stream))
    out[...] = (ends[0] + (ends[1] - ends[0]) * u).reshape(-1)[: out.size].reshape(out.shape)


def _dropout_reference(x, state, p, stream, first):
    u = first_words_reference(first + x.size, state, stream)[first:].reshape(x.shape)
    x[...] = np.where(u < p, 0, x / (1 - p))
    return x


def _gather_reference(data, index, out):
    out[...] = data[index.astype(np.int64)] * (2 / 255) - 1


def _step_inputs_reference(z, real, data, index, state, g_step, d_step, draw, pixels):
    if draw == "normal":
        _normal_reference(z, state, 0)
    else:
        _uniform_reference(z, state, (-1.0, 1.0), 0)
    _gather_reference(data, index[int(state[1]) % len(index)], real)
    if pixels == "unit":
        real[...] = (real + 1) / 2
    g_step += 1
    d_step += 1


def _make_inputs(array, N, z, images, row, batches, step, **how):
    state, index = array(2, dtype="int64"), array(batches, N, dtype="int32")
    state[:], index[...] = (77, step), index % images
    ticks = array(1, dtype="int32"), array(1, dtype="int32")
    return (array(N, z), array(N, row), array(images, row, dtype="uint8"), index, state, *ticks), how


def _make(array, shape, step, stream, **options):
    state = array(2, dtype="int64")
    state[:] = 2**40 + 5, step
    return (array(*shape), state), {**options, "stream": stream}


def _spec(wrapper, reference, flops, **options) -> Spec:
    z, points = ({"shape": shape, "step": 1, "stream": 0, **options} for shape in ((128, 100), (128, 64, 64, 3)))
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=_make,
        cases=(
            {"shape": (13, 103), "step": 3, "stream": 0, **options},
            {"shape": (1, 1), "step": 2**33 + 1, "stream": 2**31 + 7, **options},
        ),
        benchmarks=(z, points),
        traffic=lambda itemsize, shape, **_: itemsize * prod(shape),
        flops=lambda shape, **_: flops * prod(shape),
        compiles=(("bfloat16", z, {}),),
        writes=(0,),
    )


SPECS = (
    _spec(normal, _normal_reference, 40),
    _spec(uniform, _uniform_reference, 24, ends=(-1.0, 3.0)),
    Spec(
        name="dropout",
        wrapper=dropout,
        reference=_dropout_reference,
        make=_make,
        cases=(
            {"shape": (13, 103), "step": 3, "stream": 2, "p": 0.5, "first": 0},
            {"shape": (2, 3, 5), "step": 2**33 + 1, "stream": 3, "p": 0.3, "first": 1000},
        ),
        benchmarks=({"shape": (128, 7, 7, 256), "step": 1, "stream": 2, "p": 0.3, "first": 0},),
        traffic=lambda itemsize, shape, **_: 2 * itemsize * prod(shape),
        flops=lambda shape, **_: 24 * prod(shape),
        compiles=(("bfloat16", {"shape": (128, 7, 7, 256), "step": 1, "stream": 2, "p": 0.3, "first": 0}, {}),),
        writes=(0,),
    ),
    Spec(
        name="gather",
        wrapper=gather,
        reference=_gather_reference,
        make=lambda array, images, N, row: ((array(images, row, dtype="uint8"), array(N, dtype="int32"), array(N, row)), {}),
        cases=({"images": 100, "N": 7, "row": 211},),
        benchmarks=({"images": 6000, "N": 128, "row": 64 * 64 * 3},),
        traffic=lambda itemsize, images, N, row: (1 + itemsize) * N * row,
        flops=lambda images, N, row: 2 * N * row,
        compiles=(("bfloat16", {"images": 100, "N": 128, "row": 64 * 64 * 3}, {}),),
        writes=(2,),
    ),
    Spec(
        name="step_inputs",
        wrapper=step_inputs,
        reference=_step_inputs_reference,
        make=_make_inputs,
        cases=(
            {"N": 7, "z": 103, "images": 50, "row": 211, "batches": 3, "step": 5, "draw": "normal", "pixels": "tanh"},
            {"N": 2, "z": 20, "images": 9, "row": 64, "batches": 1, "step": 2**33, "draw": "uniform", "pixels": "unit"},
        ),
        benchmarks=(
            {"N": 128, "z": 100, "images": 6000, "row": 64 * 64 * 3, "batches": 50, "step": 1, "draw": "normal", "pixels": "tanh"},
        ),
        traffic=lambda itemsize, N, z, row, **_: itemsize * N * z + (1 + itemsize) * N * row,
        flops=lambda N, z, row, **_: N * (40 * z + 2 * row),
        compiles=(
            (
                "bfloat16",
                {"N": 128, "z": 100, "images": 9, "row": 64 * 64 * 3, "batches": 50, "step": 1, "draw": "normal", "pixels": "tanh"},
                {},
            ),
        ),
        writes=(0, 1, 5, 6),
    ),
)
