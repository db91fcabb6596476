"""Precisions of a planned step, and bfloat16 in arrays that have no such dtype."""

from typing import NamedTuple

from rawgan.backend import Array


class Precision(NamedTuple):
    """The dtype of activations and weights in memory, and how a matrix product is computed.

    dtype      "float32", or "uint16": the bits of bfloat16
    products   of float32 arrays as three TF32 products (close to float32), three bfloat16 products
               or one TF32 product: "tf32x3", "bf16x3" or "tf32"; of bfloat16 arrays "ieee"
    """

    dtype: str
    products: str


PRECISIONS = {
    "fp32": Precision("float32", "tf32x3"),
    "bf16x3": Precision("float32", "bf16x3"),
    "tf32": Precision("float32", "tf32"),
    "bf16": Precision("uint16", "ieee"),
}


def to_bfloat16(a: Array) -> Array:
    """Return float32 values as bfloat16, rounded to nearest even, in an array of uint16."""
    bits = a.view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")
