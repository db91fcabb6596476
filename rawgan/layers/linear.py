"""The fully connected layer."""

import numpy as np

from rawgan.layers.base import Layer
from rawgan.ops.linear import bias_db, linear, linear_dw, linear_dx


class Linear(Layer):
    """y = x w' + b: x (N, C), w (K, C), b (K,), y (N, K).

    Linear in x and in w, so the second derivatives are the same three maps with ddx in place of x.
    """

    def __init__(self, C: int, K: int, bias: bool = True):
        super().__init__()
        self.C, self.K = C, K
        self.params["w"] = np.zeros((K, C), np.float32)
        if bias:
            self.params["b"] = np.zeros(K, np.float32)

    def forward(self, x, train=True):
        self.check(x, None, self.C)
        return linear(x, self.params["w"], self.params.get("b")), x

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        x = cache
        dx = linear_dx(dy, self.params["w"]) if need_dx else None
        grads = {}
        if need_grads:
            grads["w"] = linear_dw(x, dy)
            if "b" in self.params:
                grads["b"] = bias_db(dy)
        return dx, grads

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        ddy = linear(ddx, self.params["w"]) if need_ddy else None
        return ddy, None, {"w": linear_dw(ddx, dy)}

    def config(self):
        return f"{self.C}, {self.K}" + ("" if "b" in self.params else ", bias=False")
