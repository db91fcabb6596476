"""Optimizers over the flat parameter vector of a network: `step(grads)` moves the parameters in place.

    optimizer = Adam(parameters, lr=2e-4, betas=(0.5, 0.999))
    optimizer.step(parameters.gather(grads))

theta is the parameter vector, g its gradient, t the number of the step, from 1; all vectors have theta's shape and dtype.
"""

from rawgan.backend import Array, array_module, kernels_on, shared
from rawgan.kernels import kernels
from rawgan.layers.parameters import Parameters

SCRATCH = 4  # numbers for each parameter that are in the cache while a part is moved


class Optimizer:
    """The parameters it moves, the step count `t`, and `slots`: the vectors it keeps from step to step."""

    def __init__(self, parameters: Parameters, slots: tuple[str, ...] = ()):
        self.parameters, self.t = parameters, 0
        self.slots = {name: parameters.flat * 0 for name in slots}

    def step(self, grads: Array) -> None:
        """One update from the flat gradient. Raises ValueError unless it has the parameters' shape and dtype."""
        theta = self.parameters.flat
        array_module(theta, grads)
        if grads.shape != theta.shape or grads.dtype != theta.dtype:
            raise ValueError(f"the gradient is {grads.dtype} {grads.shape}, the parameters are {theta.dtype} {theta.shape}")
        self.t += 1
        self.update(theta, grads, **self.slots)

    def update(self, theta: Array, g: Array, **slots: Array) -> None:
        raise NotImplementedError

    def clock(self) -> tuple[Array, Array]:
        """t and lr as arrays of one number where the parameters live: the kernels read them there."""
        xp = array_module(self.parameters.flat)
        return xp.full(1, self.t, xp.int32), xp.full(1, self.lr, xp.float32)


class SGD(Optimizer):
    """theta = theta - lr g."""

    def __init__(self, parameters: Parameters, lr: float = 1e-2):
        super().__init__(parameters)
        self.lr = lr

    def update(self, theta, g):
        theta -= self.lr * g


class Adam(Optimizer):
    """Adam, numbered as Algorithm 1 of the paper:

        1   t     = t + 1
        2   g     = gradient at theta
        3   m     = beta1 m + (1 - beta1) g
        4   v     = beta2 v + (1 - beta2) g^2
        5   mhat  = m / (1 - beta1^t)
        6   vhat  = v / (1 - beta2^t)
        7   theta = theta - lr mhat / (sqrt(vhat) + eps)

    The corrections of lines 5 and 6 are numbers, so they are taken out of the vectors, as the paper's section 2 says:

        theta = theta - lr c / (1 - beta1^t) m / (sqrt(v) + eps c),  c = sqrt(1 - beta2^t)

    Source: Kingma & Ba 2015 (arXiv:1412.6980).
    """

    def __init__(self, parameters: Parameters, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(parameters, ("m", "v"))
        self.lr, self.betas, self.eps = lr, betas, eps

    def update(self, theta, g, m, v):
        if kernels_on(theta, g):
            return kernels.adam(theta, g, m, v, *self.clock(), self.betas, self.eps)
        beta1, beta2 = self.betas
        c = (1 - beta2**self.t) ** 0.5
        xp = array_module(theta)

        def part(i: slice) -> None:
            change = (1 - beta1) * g[i]
            m[i] *= beta1  # 3
            m[i] += change
            xp.multiply(g[i], g[i], out=change)
            change *= 1 - beta2
            v[i] *= beta2  # 4
            v[i] += change
            xp.sqrt(v[i], out=change)  # 5, 6, 7
            change += self.eps * c
            xp.divide(m[i], change, out=change)
            change *= self.lr * c / (1 - beta1**self.t)
            theta[i] -= change

        shared(theta, part, SCRATCH * theta.itemsize)


class RMSprop(Optimizer):
    """Divides by a running root mean square of the gradient:

        v     = rho v + (1 - rho) g^2
        theta = theta - lr / (1 + decay (t - 1)) g / (sqrt(v) + eps)

    The defaults are Keras'; PyTorch's are rho=0.99, eps=1e-8, no decay. Source: Hinton 2012, lecture 6e; the decay is Keras'.
    """

    def __init__(self, parameters: Parameters, lr: float = 1e-3, rho: float = 0.9, eps: float = 1e-7, decay: float = 0.0):
        super().__init__(parameters, ("v",))
        self.lr, self.rho, self.eps, self.decay = lr, rho, eps, decay

    def update(self, theta, g, v):
        if kernels_on(theta, g):
            return kernels.rmsprop(theta, g, v, *self.clock(), self.rho, self.eps, self.decay)
        xp = array_module(theta)
        lr = self.lr / (1 + self.decay * (self.t - 1))

        def part(i: slice) -> None:
            change = g[i] * g[i]
            change *= 1 - self.rho
            v[i] *= self.rho
            v[i] += change
            xp.sqrt(v[i], out=change)
            change += self.eps
            xp.divide(g[i], change, out=change)
            change *= lr
            theta[i] -= change

        shared(theta, part, SCRATCH * theta.itemsize)
