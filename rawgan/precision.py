"""Precisions of a planned step, and bfloat16 in arrays that have no such dtype."""

from typing import NamedTuple

from rawgan.backend import Array


class Precision(NamedTuple):
    """The dtype of activations and weights in memory, and how a matrix product is computed.

    dtype      "float32", or "uint16": the bits of bfloat16
    products   input precision of tl.dot: "tf32x3" (three TF32 products, close to float32), "tf32"
               or "ieee" (bfloat16 factors, float32 sums)
    """

    dtype: str
    products: str


PRECISIONS = {
    "fp32": Precision("float32", "tf32x3"),
    "tf32": Precision("float32", "tf32"),
    "bf16": Precision("uint16", "ieee"),
}


def to_bfloat16(a: Array) -> Array:
    """Return float32 values as bfloat16, rounded to nearest even, in an array of uint16."""
    bits = a.view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")
