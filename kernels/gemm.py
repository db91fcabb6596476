"""What all products share: their configurations, and what can be asked of them.

Every product takes out=, an array to write to, precision= and config=. For float32 arrays `precision` is

    tf32x3   three TF32 products on the tensor cores, as accurate as float32 (the default)
    tf32     one, with 11 bits of each factor
    ieee     float32 arithmetic without tensor cores

Sums are in float32 in any case. `config` overrides the configuration that is picked from the table, to measure another.

The tables begin with the largest tile. They were compiled for every capability, but not yet measured on a GPU. Without maxnreg
ptxas spills a register or two of some kernels to fit one block more on a multiprocessor.
"""

import numpy as np
import triton
import triton.language as tl

from rawgan.kernels.act import activate, activate_dx
from rawgan.kernels.launch import MULTIPROCESSORS, Config, cdiv
from rawgan.ops import act as ops


def _config(m: int, n: int, k: int, warps: int, stages: int) -> Config:
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "num_warps": warps, "num_stages": stages, "maxnreg": 255}


TABLES = {
    "half": (
        _config(128, 128, 64, 8, 3),
        _config(128, 64, 64, 4, 3),
        _config(64, 64, 64, 4, 4),
        _config(128, 16, 64, 4, 4),
        _config(32, 32, 64, 4, 4),
    ),
    "tf32": (
        _config(128, 128, 32, 8, 3),
        _config(64, 64, 32, 4, 4),
        _config(128, 16, 32, 4, 4),
        _config(32, 32, 32, 4, 4),
    ),
    "tf32x3": (_config(128, 64, 32, 8, 2), _config(64, 64, 32, 4, 2), _config(32, 32, 32, 4, 2)),
    "ieee": (_config(64, 64, 16, 4, 2), _config(32, 32, 16, 4, 2)),
}


def table(dtype, precision: str) -> tuple[Config, ...]:
    """The configurations for arrays of a dtype: bfloat16 (held as uint16) and float16 have one table."""
    return TABLES["half" if np.dtype(dtype).itemsize == 2 else precision]


def thin_config(dtype, precision: str) -> Config:
    """The configuration for an output of 16 columns."""
    return _config(128, 16, 64 if np.dtype(dtype).itemsize == 2 else 32, 4, 3)


@triton.jit
def below(offs, SIZE: tl.constexpr, DIVISOR: tl.constexpr):
    """offs < SIZE; a constant, which the compiler drops, where SIZE is a multiple of how far the offsets reach together."""
    if SIZE % DIVISOR == 0:
        return tl.full(offs.shape, True, tl.int1)
    else:
        return offs < SIZE


@triton.jit
def load(ptr, offs, mask):
    """float32 values, 0 where the mask says no."""
    return tl.load(ptr + offs, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def finish(acc, bias_ptr, v_ptr, offs_n, mask_n, offs, mask, ACT: tl.constexpr, SLOPE: tl.constexpr):
    """What is done to a product before it is stored: act(acc + bias), or with v_ptr (acc + bias) act'(v)."""
    if bias_ptr is not None:
        acc += load(bias_ptr, offs_n, mask_n)[None, :]
    if v_ptr is not None:
        acc = activate_dx(acc, load(v_ptr, offs, mask), ACT, SLOPE)
    else:
        acc = activate(acc, ACT, SLOPE)
    return acc


@triton.jit
def sum_slices(slices_ptr, offs, mask, SIZE: tl.constexpr, SLICES: tl.constexpr):
    """The sum over slices of SIZE values each, in their order."""
    total = tl.load(slices_ptr + offs, mask=mask, other=0.0)
    for i in range(1, SLICES):
        total += tl.load(slices_ptr + i * SIZE + offs, mask=mask, other=0.0)
    return total


def split(steps: int, tiles: int, capability: int) -> tuple[int, int]:
    """(steps of a slice, slices) for a sum of so many steps: two programs per multiprocessor, 4 steps or more in each."""
    slices = min(max(1, 2 * MULTIPROCESSORS.get(capability, 132) // tiles), cdiv(steps, 4))
    return cdiv(steps, slices), cdiv(steps, cdiv(steps, slices))


def activated(y, act: str | None, slope: float = 0.2):
    """The activation of `finish`, in NumPy: for references."""
    if act is None:
        return y
    return ops.leaky_relu(y, slope) if act == "leaky_relu" else getattr(ops, act)(y)


def activated_dx(y, act: str | None, v=None, slope: float = 0.2):
    """What `finish` makes of a product: y act'(v) where there is a v, else act(y)."""
    if v is None:
        return activated(y, act, slope)
    return ops.leaky_relu_dx(y, v, slope) if act == "leaky_relu" else getattr(ops, f"{act}_dx")(y, v)


def compiles(large: dict, thin: dict | None = None, forms: tuple[str | None, ...] = (None,)) -> tuple[tuple[str, dict, dict], ...]:
    """What to compile of a product: every configuration in every form at a large shape, and some at a thin one, where much is
    masked."""
    rows = []
    for name, configs in TABLES.items():
        dtype, precision = ("bfloat16", "ieee") if name == "half" else ("float32", name)
        for form in forms:
            extra = {} if form is None else {"form": form}
            usable = [c for c in configs if form != "descriptor" or (c["BLOCK_N"] >= 64 and name != "ieee")]
            rows += [(dtype, large, {"precision": precision, "config": config, **extra}) for config in usable]
        if thin and name in ("half", "tf32x3"):
            rows += [(dtype, thin, {"precision": precision, "config": configs[-1]})]
    if thin:
        rows += [("float16", large, {"precision": "ieee", "config": TABLES["half"][0]})]
    return tuple(rows)
