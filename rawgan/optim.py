"""Optimizers over the flat parameter vector of a network: `step(grads)` updates it in place.

    optimizer = Adam(parameters, lr=2e-4, betas=(0.5, 0.999))
    optimizer.step(parameters.flatten_gradients(grads))

`LinearDecay` changes the learning rates of optimizers during a run.

theta is the parameter vector, g its gradient, t the number of the step, from 1; all vectors have
theta's shape and dtype.
"""

import numpy as np

from rawgan.backend import Array, array_module, fuse, kernels_on, use_fast_cpu
from rawgan.cpu import parallel_for
from rawgan.kernels import kernels
from rawgan.layers.parameters import Parameters

SCRATCH = 4  # numbers per parameter that a part of the update keeps in the cache


class Optimizer:
    """Base class: the parameters, the step count `t`, and the state vectors `slots`."""

    def __init__(self, parameters: Parameters, slots: tuple[str, ...] = ()):
        self.parameters, self.t = parameters, 0
        self.slots = {name: parameters.flat * 0 for name in slots}

    def step(self, grads: Array) -> None:
        """One update from the flat gradient.

        Raises ValueError unless it has the parameters' shape and dtype.
        """
        theta = self.parameters.flat
        array_module(theta, grads)
        if grads.shape != theta.shape or grads.dtype != theta.dtype:
            raise ValueError(
                f"the gradient is {grads.dtype} {grads.shape}, the parameters are "
                f"{theta.dtype} {theta.shape}"
            )
        self.t += 1
        self.update(theta, grads, **self.slots)

    def update(self, theta: Array, g: Array, **slots: Array) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        """Set t and all slots to 0, as before the first step."""
        self.t = 0
        for slot in self.slots.values():
            slot[...] = 0

    def clock(self) -> tuple[Array, Array]:
        """Return t and lr as arrays of one number on the parameters' device, for the kernels."""
        xp = array_module(self.parameters.flat)
        return xp.full(1, self.t, xp.int32), xp.full(1, self.lr, xp.float32)


class LinearDecay:
    """Learning rates that fall linearly to 0.

        rate of training step i = 0, 1, ...: lr min(1, parts (1 - i / steps))

    lr is the rate that an optimizer has when the decay is made. It falls over all steps, or with
    `parts` over the last of so many equal parts, constant before. Both players of a GAN have the
    rate of the training step, however many updates of D it has. 0 from step `steps` on. Source: the
    code of Miyato et al. 2018 (arXiv:1802.05957), and for the last third that of Salimans et al.
    2016 (arXiv:1606.03498).
    """

    def __init__(self, steps: int, *optimizers: Optimizer, parts: int = 1):
        self.steps, self.parts = steps, parts
        self.rates = [(optimizer, optimizer.lr) for optimizer in optimizers]

    def set_rates(self, step: int) -> None:
        """Set the rates of training step `step`."""
        for optimizer, lr in self.rates:
            optimizer.lr = lr * min(1.0, self.parts * max(0.0, 1 - step / self.steps))


class SGD(Optimizer):
    """theta = theta - lr g."""

    def __init__(self, parameters: Parameters, lr: float = 1e-2):
        super().__init__(parameters)
        self.lr = lr

    def update(self, theta, g):
        theta -= self.lr * g


class Adam(Optimizer):
    """Adam, numbered as Algorithm 1 of the paper.

        1   t     = t + 1
        2   g     = gradient at theta
        3   m     = beta1 m + (1 - beta1) g
        4   v     = beta2 v + (1 - beta2) g^2
        5   mhat  = m / (1 - beta1^t)
        6   vhat  = v / (1 - beta2^t)
        7   theta = theta - lr mhat / (sqrt(vhat) + eps)

    The corrections of lines 5 and 6 are scalars, so they are moved out of the vectors, as in
    section 2 of the paper:

        theta = theta - lr c / (1 - beta1^t) m / (sqrt(v) + eps c),  c = sqrt(1 - beta2^t)

    epsilon_hat: use eps in place of eps c, the "epsilon hat" of that section, as in Keras and
    TensorFlow; PyTorch has line 7.

    Source: Kingma & Ba 2015 (arXiv:1412.6980).
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        epsilon_hat: bool = False,
    ):
        super().__init__(parameters, ("m", "v"))
        self.lr, self.betas, self.eps, self.epsilon_hat = lr, betas, eps, epsilon_hat

    def update(self, theta, g, m, v):
        if kernels_on(theta, g):
            return kernels.adam(
                theta, g, m, v, *self.clock(), self.betas, self.eps, epsilon_hat=self.epsilon_hat
            )
        beta1, beta2 = self.betas
        c = (1 - beta2**self.t) ** 0.5
        eps = self.eps if self.epsilon_hat else self.eps * c
        rate = self.lr * c / (1 - beta1**self.t)
        if not use_fast_cpu(theta):
            theta[...], m[...], v[...] = adam_step(
                theta, g, m, v, beta1, 1 - beta1, beta2, 1 - beta2, rate, eps
            )
            return

        def part(i: slice) -> None:  # the same, in place
            change = (1 - beta1) * g[i]
            m[i] *= beta1
            m[i] += change
            np.multiply(g[i], g[i], out=change)
            change *= 1 - beta2
            v[i] *= beta2
            v[i] += change
            np.sqrt(v[i], out=change)
            change += eps
            np.divide(m[i], change, out=change)
            change *= rate
            theta[i] -= change

        parallel_for(theta, part, SCRATCH * theta.itemsize)


@fuse
def adam_step(theta, g, m, v, beta1, rest1, beta2, rest2, rate, eps):
    """Lines 3 to 7 of Adam: theta, m and v after a step.

    rest = 1 - beta; rate and eps include the corrections of lines 5 and 6.
    """
    m = beta1 * m + rest1 * g  # 3
    v = beta2 * v + rest2 * (g * g)  # 4
    return theta - rate * (m / (array_module(v).sqrt(v) + eps)), m, v  # 5, 6, 7


@fuse
def rmsprop_step(theta, g, v, rho, rest, rate, eps):
    """theta and v after a step; rest = 1 - rho."""
    v = rho * v + rest * (g * g)
    return theta - rate * (g / (array_module(v).sqrt(v) + eps)), v


class RMSprop(Optimizer):
    """RMSprop: the gradient divided by a running root mean square of it.

        v     = rho v + (1 - rho) g^2
        theta = theta - lr / (1 + decay (t - 1)) g / (sqrt(v) + eps)

    The defaults are Keras'; PyTorch's are rho=0.99, eps=1e-8, no decay. Source: Hinton 2012,
    lecture 6e; the decay is Keras'.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        rho: float = 0.9,
        eps: float = 1e-7,
        decay: float = 0.0,
    ):
        super().__init__(parameters, ("v",))
        self.lr, self.rho, self.eps, self.decay = lr, rho, eps, decay

    def update(self, theta, g, v):
        if kernels_on(theta, g):
            return kernels.rmsprop(theta, g, v, *self.clock(), self.rho, self.eps, self.decay)
        lr = self.lr / (1 + self.decay * (self.t - 1))
        if not use_fast_cpu(theta):
            theta[...], v[...] = rmsprop_step(theta, g, v, self.rho, 1 - self.rho, lr, self.eps)
            return

        def part(i: slice) -> None:  # the same, in place
            change = g[i] * g[i]
            change *= 1 - self.rho
            v[i] *= self.rho
            v[i] += change
            np.sqrt(v[i], out=change)
            change += self.eps
            np.divide(g[i], change, out=change)
            change *= lr
            theta[i] -= change

        parallel_for(theta, part, SCRATCH * theta.itemsize)
