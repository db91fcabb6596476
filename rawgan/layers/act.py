"""Activations as layers: y = f(x), dx = f'(x) dy.

The second derivative of the smooth ones is the curvature f''(x) dy ddx.
"""

from rawgan.layers.base import Layer
from rawgan.ops import act


class ReLU(Layer):
    """y = max(x, 0); any shape. Piecewise linear: no curvature."""

    def forward(self, x, train=True):
        return act.relu(x), x

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return act.relu_dx(dy, cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return act.relu_dx(ddx, cache), None, {}


class LeakyReLU(Layer):
    """y = x where x > 0, slope x elsewhere; any shape. Piecewise linear: no curvature."""

    def __init__(self, slope: float = 0.2):
        super().__init__()
        if not 0 <= slope < 1:
            raise ValueError(f"the slope of a LeakyReLU lies in [0, 1), got {slope}")
        self.slope = slope

    def forward(self, x, train=True):
        return act.leaky_relu(x, self.slope), x

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return act.leaky_relu_dx(dy, cache, self.slope), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return act.leaky_relu_dx(ddx, cache, self.slope), None, {}

    def config(self):
        return str(self.slope)


class Tanh(Layer):
    """y = tanh x; any shape."""

    def forward(self, x, train=True):
        y = act.tanh(x)
        return y, y

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return act.tanh_dx(dy, cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return act.tanh_dx(ddx, cache), act.tanh_dx2(ddx, dy, cache), {}


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)); any shape.

    A critic ends in a logit instead: the losses start from logits.
    """

    def forward(self, x, train=True):
        y = act.sigmoid(x)
        return y, y

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return act.sigmoid_dx(dy, cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return act.sigmoid_dx(ddx, cache), act.sigmoid_dx2(ddx, dy, cache), {}


class Softplus(Layer):
    """y = log(1 + exp x); any shape."""

    def forward(self, x, train=True):
        return act.softplus(x), x

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return act.softplus_dx(dy, cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return act.softplus_dx(ddx, cache), act.softplus_dx2(ddx, dy, cache), {}
