"""NumPy references that Specs share, bfloat16 and TF32 in NumPy, fixes of Triton's interpreter."""

import numpy as np

from rawgan.kernels.gemm_config import TABLES
from rawgan.ops import act as ops


def activated(y, act: str | None, slope: float = 0.2):
    """Return act(y) in NumPy, as the epilogue of a product computes it."""
    if act is None:
        return y
    return ops.leaky_relu(y, slope) if act == "leaky_relu" else getattr(ops, act)(y)


def activated_dx(y, act: str | None, v=None, slope: float = 0.2):
    """Return y act'(v) in NumPy, or without v act(y): the epilogue of a product."""
    if v is None or act is None:
        return activated(y, act, slope)
    return (
        ops.leaky_relu_dx(y, v, slope) if act == "leaky_relu" else getattr(ops, f"{act}_dx")(y, v)
    )


def compiles(
    large: dict, thin: dict | None = None, impls: tuple[str | None, ...] = (None,)
) -> tuple[tuple[str, dict, dict], ...]:
    """Return the `compiles` of a Spec of a product.

    large: a shape for every configuration in every implementation. thin: a shape where much is
    masked, for one configuration of two tables.
    """
    rows = []
    for name, configs in TABLES.items():
        dtype, precision = ("bfloat16", "ieee") if name == "half" else ("float32", name)
        for impl in impls:
            extra = {} if impl is None else {"impl": impl}
            usable = [
                c for c in configs if impl != "tma" or (c["BLOCK_N"] >= 64 and name != "ieee")
            ]
            rows += [
                (dtype, large, {"precision": precision, "config": config, **extra})
                for config in usable
            ]
        if thin and name in ("half", "tf32x3"):
            rows += [(dtype, thin, {"precision": precision, "config": configs[-1]})]
    if thin:
        rows += [("float16", large, {"precision": "ieee", "config": TABLES["half"][0]})]
    return tuple(rows)


def to_bf16(a):
    """Return the values as bfloat16, rounded to nearest even, in an array of uint16."""
    bits = np.asarray(a, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(a):
    """Return the values of bfloat16 in an array of uint16 as float32."""
    return (a.astype(np.uint32) << 16).view(np.float32)


def float64(a):
    """Return the values of an array in float64, on its device; uint16 holds bfloat16."""
    return (from_bf16(a) if a.dtype == np.uint16 else a).astype(np.float64)


def to_tf32(a):
    """Return float32 with the 13 lowest bits cut off, as tensor cores do with their operands."""
    return (np.ascontiguousarray(a).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def split_tf32(x):
    """Return the TF32 number nearest to x, and the rest of x cut off to TF32."""
    bits = np.ascontiguousarray(x).view(np.uint32) + np.uint32(0x1000)
    high = to_tf32(bits.view(np.float32))
    return high, to_tf32(x - high)


def tf32x3(a, b):
    """Return a b from three products of TF32 numbers; that of the two rests is dropped."""
    (a, a_rest), (b, b_rest) = split_tf32(a), split_tf32(b)
    total = np.float32(0)
    for left, right in ((a_rest, b), (a, b_rest), (a, b)):
        total = (total + left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)
    return total


def mend_interpreter():
    """Make Triton's interpreter compute bfloat16 and TF32 as a GPU does, from here on.

    It multiplies bfloat16 as the integers it holds them in, cuts off where it casts to bfloat16,
    and ignores the input precision of tl.dot.
    """
    import triton.language as tl
    from triton._C.libtriton.ir import INPUT_PRECISION
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def operand(a, precision):
        if a.dtype.scalar == tl.bfloat16:
            return TensorHandle(from_bf16(a.data), tl.float32)
        if precision == INPUT_PRECISION.TF32 and a.data.itemsize == 4:
            return TensorHandle(to_tf32(a.data), tl.float32)
        return a

    def create_dot(self, a, b, d, precision, *rest):
        if a.dtype.scalar == tl.float32 and precision == INPUT_PRECISION.TF32x3:
            return TensorHandle((d.data + tf32x3(a.data, b.data)).astype(np.float32), tl.float32)
        return dot(self, operand(a, precision), operand(b, precision), d, precision, *rest)

    def cast_impl(self, a, dtype):
        if a.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
            return TensorHandle(to_bf16(a.data), tl.bfloat16)
        return cast(self, a, dtype)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl
