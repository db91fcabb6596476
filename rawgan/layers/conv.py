"""Convolution and transposed convolution as layers.

Both use the three maps of ops/conv.py; the transposed convolution exchanges x and y.
"""

import numpy as np

from rawgan.geometry import output_size, pads, pair, same_pad
from rawgan.layers.base import Layer
from rawgan.ops.conv import conv2d, conv2d_dw, conv2d_dx
from rawgan.ops.linear import bias_db


class _Conv(Layer):
    """Weight (K, R, S, C), stride, padding and optional bias of both layers.

    kernel and stride are kept as (height, width); `pad` as written, for the name and PyTorch's
    layer, and as ((top, bottom), (left, right)) in `pads`, None for "same".
    """

    def __init__(self, C: int, K: int, kernel, stride, pad, bias_size: int | None):
        super().__init__()
        self.C, self.K, self.kernel, self.stride = C, K, pair(kernel), pair(stride)
        self.pad, self.pads = pad, None if pad == "same" else pads(pad)
        self.params["w"] = np.zeros((K, *self.kernel, C), np.float32)
        if bias_size is not None:
            self.params["b"] = np.zeros(bias_size, np.float32)

    def same_pads(self, H: int, W: int):
        """Return ((top, bottom), (left, right)) for a convolution of an (H, W) image."""
        if self.pads is not None:
            return self.pads
        return tuple(same_pad(size, k, s) for size, k, s in zip((H, W), self.kernel, self.stride))

    def config(self):
        pad = f", pad={self.pad!r}" if self.pad != 0 else ""
        (R, S), (sh, sw) = self.kernel, self.stride
        kernel, stride = (R if R == S else self.kernel), (sh if sh == sw else self.stride)
        return f"{kernel}, stride={stride}{pad}" + ("" if "b" in self.params else ", bias=False")


class Conv2d(_Conv):
    """y = C(x, w) + b: x (N, H, W, C), w (K, R, S, C), b (K,), y (N, P, Q, K).

        P = (H + top + bottom - R) // stride + 1

    `pad` as in ops/conv.py, or "same": P = ceil(H / stride), padded asymmetrically where Keras
    does.
    """

    def __init__(self, C: int, K: int, kernel, stride=1, pad=0, bias: bool = True):
        super().__init__(C, K, kernel, stride, pad, K if bias else None)

    def forward(self, x, train=True):
        self.check(x, None, None, None, self.C)
        _, H, W, _ = x.shape
        pad = self.same_pads(H, W)
        for size, k, s, p in zip((H, W), self.kernel, self.stride, pad):
            if output_size(size, k, s, p) < 1:
                raise ValueError(
                    f"{self.label}: an image of shape {tuple(x.shape)} is too small for a "
                    f"kernel of {self.kernel}"
                )
        return conv2d(x, self.params["w"], self.params.get("b"), self.stride, pad), (x, pad)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        x, pad = cache
        dx = conv2d_dx(dy, self.params["w"], x.shape[1:3], self.stride, pad) if need_dx else None
        grads = {}
        if need_grads:
            grads["w"] = conv2d_dw(x, dy, self.kernel, self.stride, pad)
            if "b" in self.params:
                grads["b"] = bias_db(dy)
        return dx, grads

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        _, pad = cache
        ddy = conv2d(ddx, self.params["w"], None, self.stride, pad) if need_ddy else None
        return ddy, None, {"w": conv2d_dw(ddx, dy, self.kernel, self.stride, pad)}

    def config(self):
        return f"{self.C}, {self.K}, {super().config()}"


class ConvTranspose2d(_Conv):
    """y = Cx(x, w) + b, the adjoint of a convolution.

        H = (P - 1) stride + R - top - bottom + output_padding

    x (N, P, Q, K), w (K, R, S, C), b (C,), y (N, H, W, C). K counts the input channels and C the
    output channels, as in the convolution of which this is the adjoint: w is the same array in
    both. `pad="same"` is the adjoint of the convolution padded "same": H = P stride (Keras); for 5
    taps at stride 2 its size is that of pad=2, output_padding=1, shifted by one pixel.
    output_padding must be below the stride.
    """

    def __init__(
        self, K: int, C: int, kernel, stride=1, pad=0, output_padding=0, bias: bool = True
    ):
        super().__init__(C, K, kernel, stride, pad, C if bias else None)
        self.output_padding = pair(output_padding)
        if any(not 0 <= extra < s for extra, s in zip(self.output_padding, self.stride)):
            raise ValueError(
                f"{self!r}: output_padding must be at least 0 and smaller than the stride"
            )
        if pad == "same" and any(self.output_padding):
            raise ValueError(
                f'{self!r}: "same" says the size of the output, output_padding has no place '
                "beside it"
            )

    def output_size(self, P: int, Q: int) -> tuple[int, int]:
        """Return the size (H, W) of the output for an input of size (P, Q)."""
        if self.pad == "same":
            return P * self.stride[0], Q * self.stride[1]
        axes = zip((P, Q), self.kernel, self.stride, self.pads, self.output_padding)
        return tuple((n - 1) * s + k - sum(p) + extra for n, k, s, p, extra in axes)

    def forward(self, x, train=True):
        self.check(x, None, None, None, self.K)
        size = self.output_size(*x.shape[1:3])
        if min(size) < 1:
            raise ValueError(
                f"{self.label}: an image of shape {tuple(x.shape)} would grow to {size}, "
                "which is no image"
            )
        pad = self.same_pads(*size)
        y = conv2d_dx(x, self.params["w"], size, self.stride, pad)
        if "b" in self.params:
            y += self.params["b"]
        return y, (x, pad)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        x, pad = cache
        dx = conv2d(dy, self.params["w"], None, self.stride, pad) if need_dx else None
        grads = {}
        if need_grads:
            grads["w"] = conv2d_dw(dy, x, self.kernel, self.stride, pad)
            if "b" in self.params:
                grads["b"] = bias_db(dy)
        return dx, grads

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        _, pad = cache
        ddy = (
            conv2d_dx(ddx, self.params["w"], dy.shape[1:3], self.stride, pad) if need_ddy else None
        )
        return ddy, None, {"w": conv2d_dw(dy, ddx, self.kernel, self.stride, pad)}

    def config(self):
        extra = f", output_padding={self.output_padding}" if any(self.output_padding) else ""
        return f"{self.K}, {self.C}, {super().config()}{extra}"
