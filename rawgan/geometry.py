"""Sizes and paddings of convolutions, in numbers alone.

Along one axis, a kernel of R taps, moved by `stride`, has P positions on an image of H pixels with
`before` and `after` zeros at its ends:

    P = floor((H + before + after - R) / stride) + 1
"""

Pair = int | tuple[int, int]
Pad = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]


def pair(v: Pair) -> tuple[int, int]:
    """Return (height, width) of a number, which stands for both, or of a pair."""
    return (v, v) if isinstance(v, int) else tuple(v)


def pads(pad: Pad) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return ((top, bottom), (left, right)) of any of the three ways to write a padding."""
    if type(pad) is tuple and type(pad[0]) is type(pad[1]) is tuple:
        return pad  # normalised already, as the layers pass it
    vertical, horizontal = pair(pad)
    return pair(vertical), pair(horizontal)


def output_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Return P, the number of positions of the kernel along one axis; pad (before, after)."""
    return (size + sum(pad) - kernel) // stride + 1


def same_pad(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding (before, after) along one axis for which P = ceil(H / stride).

        total = max((P - 1) stride + R - H, 0),  before = floor(total / 2),  after = total - before

    It is Keras' "same", asymmetric when the total is odd: 5 taps at stride 2 on 28 pixels pad 1
    before and 2 after. Source: the TensorFlow guide's notes on padding.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
