"""Time PyTorch's functions for the rows of benchmarks/kernels/__main__.py, in a separate process.

Reads [seconds, [row, ...]] from standard input and writes one line [index, cell] per row. Images
and filters are channels_last and cuDNN selects its fastest algorithm; "float32" rows run with TF32
off, "tf32" rows with TF32 on.

Each function takes the arguments of its kernel as tensors and returns the function to time.
FUNCTIONS lists them; kernels without a PyTorch equivalent have none. Each is compared with the
kernel's reference by tests/kernels/test_kernels_torch_references.py.
"""

import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common.timing import TorchClock, measure
from benchmarks.kernels.rows import Row, arrays
from rawgan.geometry import pads, pair

aten = torch.ops.aten


def nchw(x):
    """Return a view in NCHW axis order, channels_last in memory."""
    return x.permute(0, 3, 1, 2)


def symmetric(pad) -> tuple[int, int]:
    """Return PyTorch's padding. Raises NotImplementedError if the two sides of an axis differ."""
    (top, bottom), (left, right) = pads(pad)
    if top != bottom or left != right:
        raise NotImplementedError("PyTorch pads both sides alike")
    return top, left


def plain(act, v=None, mask=None) -> None:
    if act is not None or v is not None or mask is not None:
        raise NotImplementedError("PyTorch has no such epilogue")


def conv2d(x, w, b, stride, pad, act=None, v=None, impl=None, config=None):
    plain(act, v)
    x, w, geometry = nchw(x), nchw(w), (pair(stride), symmetric(pad))
    return lambda: F.conv2d(x, w, b, *geometry)


def conv2d_dx(dy, w, size, stride, pad, act=None, v=None, b=None, impl=None, config=None):
    plain(act, v)
    stride, pad = pair(stride), symmetric(pad)
    rest = [
        n - ((p - 1) * s - 2 * q + r)
        for n, p, s, q, r in zip(size, dy.shape[1:3], stride, pad, w.shape[1:3])
    ]
    if any(n >= s for n, s in zip(rest, stride)):
        raise NotImplementedError("PyTorch's output_padding has to be below the stride")
    dy, w = nchw(dy), nchw(w)
    return lambda: F.conv_transpose2d(dy, w, b, stride, pad, rest)


def conv2d_dw(x, dy, kernel, stride, pad, impl=None, config=None):
    w = nchw(x.new_empty(dy.shape[3], *pair(kernel), x.shape[3]))
    x, dy, geometry = (
        nchw(x),
        nchw(dy),
        (None, pair(stride), symmetric(pad), (1, 1), False, (0, 0), 1, (False, True, False)),
    )
    return lambda: aten.convolution_backward(dy, x, w, *geometry)[1]


def linear(x, w, b=None, act=None, v=None, mask=None, state=None):
    plain(act, v, mask)
    return lambda: F.linear(x, w, b)


def linear_dx(dy, w, act=None, v=None, mask=None, state=None):
    plain(act, v, mask)
    return lambda: dy @ w


def linear_dw(x, dy, bias_rows=None):
    if bias_rows is None:
        return lambda: dy.T @ x
    return lambda: (dy.T @ x, dy[:bias_rows].sum(0))


def bias_db(dy):
    dy = dy.reshape(-1, dy.shape[-1])
    return lambda: dy.sum(0)


def mean(axes, x, y):
    return lambda: (x * y).mean(axes, keepdim=True)


def affine(x, scale, shift):
    return lambda: torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


def normalize(x, axes, eps):
    if 0 in axes:
        x, gamma = nchw(x), x.new_ones(x.shape[-1], dtype=wide(x))
        return lambda: F.batch_norm(x, None, None, gamma, torch.zeros_like(gamma), True, 0.0, eps)
    if axes == (1, 2):
        x = nchw(x)
        return lambda: F.instance_norm(x, eps=eps)
    return lambda: F.layer_norm(x, x.shape[1:], eps=eps)


def normalize_dx(dxhat, xhat, rstd, axes):
    if 0 in axes:
        dy, x, rstd = nchw(dxhat), nchw(xhat), rstd.reshape(-1)
        mu, one = torch.zeros_like(rstd), torch.ones_like(rstd)
        return lambda: aten.native_batch_norm_backward(
            dy, x, rstd, None, None, mu, one, True, 0.0, (True, False, False)
        )[0]
    if axes == (1, 2):
        raise NotImplementedError("PyTorch has no backward of instance_norm by itself")
    x, mu = xhat / rstd.to(xhat.dtype), torch.zeros_like(rstd)
    constants = (list(x.shape[1:]), mu, rstd, None, None, (True, False, False))
    return lambda: aten.native_layer_norm_backward(dxhat, x, *constants)[0]


ACTS = {
    None: lambda z: z,
    "relu": F.relu,
    "tanh": torch.tanh,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
}
ACTS_DX = {
    None: lambda dy, z: dy,
    "relu": lambda dy, z: aten.threshold_backward(dy, z, 0),
    "tanh": lambda dy, z: aten.tanh_backward(dy, z.tanh()),
    "leaky_relu": lambda dy, z: aten.leaky_relu_backward(dy, z, 0.2, False),
}


def conv2d_batchnorm_act(
    x, w, gamma, beta, mean, var, stride, pad, act, groups, impl=None, config=None
):
    return with_norm_act(conv2d(x, w, None, stride, pad), gamma, beta, mean, var, act, groups)


def conv2d_dx_batchnorm_act(
    x, w, gamma, beta, mean, var, size, stride, pad, act, groups, impl=None, config=None
):
    return with_norm_act(conv2d_dx(x, w, size, stride, pad), gamma, beta, mean, var, act, groups)


def with_norm_act(product, gamma, beta, mean, var, act, groups):
    """Product, then BatchNorm + activation per group, as in D's separate passes."""

    def run():
        z = product()
        return z, torch.cat(
            [
                ACTS[act](F.batch_norm(part, mean, var, gamma, beta, True))
                for part in z.chunk(groups)
            ]
        )

    return run


def conv2d_dx_batchnorm_dx(dy, w, z, stats, stride, pad, act, impl=None, config=None):
    return with_norm_dx(conv2d_dx(dy, w, z.shape[1:3], stride, pad), z, stats, act)


def conv2d_batchnorm_dx(dy, w, z, stats, stride, pad, act, impl=None, config=None):
    return with_norm_dx(conv2d(dy, w, None, stride, pad), z, stats, act)


def with_norm_dx(product, z, stats, act):
    """Product, then BatchNorm backward from the values that PyTorch saves in the forward pass."""
    mean, _, rstd, scale, shift = stats
    parts = nchw(z).chunk(len(mean))
    pre = [
        part * a[:, None, None].to(z.dtype) + b[:, None, None].to(z.dtype)
        for part, a, b in zip(parts, scale, shift)
    ]
    kept = [*zip(parts, pre, scale / rstd, mean, rstd)]
    constants = (True, 0.0, (True, True, True))

    def run():
        chunks = zip(product().chunk(len(mean)), kept)
        dz = [
            (ACTS_DX[act](dy, p), part, gamma, None, None, mu, r)
            for dy, (part, p, gamma, mu, r) in chunks
        ]
        dx, dgamma, dbeta = zip(
            *(aten.native_batch_norm_backward(*arrays, *constants) for arrays in dz)
        )
        return torch.cat(dx), sum(dgamma), sum(dbeta)

    return run


def wide(x):
    """Return the dtype of statistics."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def relu(x):
    return lambda: F.relu(x)


def relu_dx(dy, x):
    return lambda: aten.threshold_backward(dy, x, 0)


def leaky_relu(x, slope):
    return lambda: F.leaky_relu(x, slope)


def leaky_relu_dx(dy, x, slope):
    return lambda: aten.leaky_relu_backward(dy, x, slope, False)


def tanh(x):
    return lambda: torch.tanh(x)


def tanh_dx(dy, y):
    return lambda: aten.tanh_backward(dy, y)


def sigmoid(x):
    return lambda: torch.sigmoid(x)


def sigmoid_dx(dy, y):
    return lambda: aten.sigmoid_backward(dy, y)


def softplus(x):
    return lambda: F.softplus(x)


def softplus_dx(dy, x):
    return lambda: aten.softplus_backward(dy, x, 1, 20)


def adam(theta, g, m, v, step, lr, betas, eps, theta_lowp=None, **fused):
    not_fused(fused)
    optimizer = torch.optim.Adam([theta], float(lr[0]), tuple(betas), eps, fused=True)
    return optimizer_step(
        optimizer, theta, g, theta_lowp, step=step[0].float() - 1, exp_avg=m, exp_avg_sq=v
    )


def rmsprop(theta, g, v, step, lr, rho, eps, decay, theta_lowp=None, **fused):
    not_fused(fused)
    optimizer = torch.optim.RMSprop(
        [theta], float(lr[0]) / (1 + decay * (int(step[0]) - 1)), rho, eps, foreach=True
    )
    return optimizer_step(optimizer, theta, g, theta_lowp, step=step[0].float() - 1, square_avg=v)


def not_fused(options: dict) -> None:
    """Raise NotImplementedError for options that PyTorch's optimizers do not have."""
    if options:
        raise NotImplementedError(f"PyTorch's optimizers have no {', '.join(options)}")


def optimizer_step(optimizer, theta, g, theta_lowp, **state):
    optimizer.state[theta] = state

    def run():
        theta.grad = g.sum(0) if g.ndim == 2 else g
        optimizer.step()
        if theta_lowp is not None:
            theta_lowp.copy_(theta)

    return run


def with_gradients(loss, *scores):
    """Return the loss and its gradients by autograd."""
    scores = [a.detach().requires_grad_() for a in scores]

    def run():
        value = loss(*scores)
        return value.detach(), *torch.autograd.grad(value, scores)

    return run


def bce(scores, label: float):
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


def bce_discriminator(a, c, real_label):
    return with_gradients(lambda a, c: bce(a, real_label) + bce(c, 0.0), a, c)


def bce_generator(c, minimax):
    return with_gradients(lambda c: -bce(c, 0.0) if minimax else bce(c, 1.0), c)


def least_squares_discriminator(a, c):
    return with_gradients(lambda a, c: F.mse_loss(a, torch.ones_like(a)) + (c * c).mean(), a, c)


def least_squares_generator(c):
    return with_gradients(lambda c: F.mse_loss(c, torch.ones_like(c)), c)


def wasserstein_discriminator(a, c):
    return with_gradients(lambda a, c: c.mean() - a.mean(), a, c)


def wasserstein_generator(c):
    return with_gradients(lambda c: -c.mean(), c)


def hinge_discriminator(a, c):
    return with_gradients(lambda a, c: F.relu(1 - a).mean() + F.relu(1 + c).mean(), a, c)


def relativistic_pairs(a, c):
    return with_gradients(lambda a, c: F.softplus(c - a).mean(), a, c)


RELATIVISTIC_TERMS = {
    "bce_real": lambda x: F.softplus(-x),
    "square": lambda x: (x - 1).square(),
    "hinge": lambda x: F.relu(1 - x),
}


def relativistic_average(a, c, term, param):
    f = RELATIVISTIC_TERMS[term]
    return with_gradients(lambda a, c: (f(a - c.mean()).mean() + f(a.mean() - c).mean()) / 2, a, c)


def mean_score(a):
    return lambda: a.mean()


def mean_probability(a, stride):
    return lambda: torch.sigmoid(a.reshape(-1)[::stride]).mean()


def cross_entropy(logits, labels):
    labels = labels.long()
    return with_gradients(lambda x: F.cross_entropy(x, labels), logits)


def squared_norms(g):
    g = g.reshape(len(g), -1)
    return lambda: torch.linalg.vector_norm(g, dim=1, dtype=wide(g)).square()


def scale_samples(g, factor):
    factor = factor.to(g.dtype).reshape(-1, *[1] * (g.ndim - 1))
    return lambda: g * factor


def interpolate(real, fake, alpha):
    alpha = alpha.to(real.dtype)
    return lambda: torch.lerp(fake, real, alpha)


def tensor(a, device):
    """Convert an array to a tensor (uint16 as bfloat16); return anything else unchanged."""
    if not hasattr(a, "dtype"):
        return a
    t = torch.from_numpy(a.view(np.int16) if a.dtype == np.uint16 else a).to(device)
    return t.view(torch.bfloat16) if a.dtype == np.uint16 else t


FUNCTIONS = {
    f.__name__: f
    for f in (
        conv2d, conv2d_dx, conv2d_dw, linear, linear_dx, linear_dw, bias_db, mean, affine,
        normalize, normalize_dx, conv2d_batchnorm_act, conv2d_dx_batchnorm_act,
        conv2d_dx_batchnorm_dx, conv2d_batchnorm_dx, relu, relu_dx, leaky_relu, leaky_relu_dx, tanh,
        tanh_dx, sigmoid, sigmoid_dx, softplus, softplus_dx, adam, rmsprop, bce_discriminator,
        bce_generator, least_squares_discriminator, least_squares_generator,
        wasserstein_discriminator, wasserstein_generator, hinge_discriminator,
        relativistic_pairs, relativistic_average, mean_score, mean_probability, cross_entropy,
        squared_norms, scale_samples, interpolate,
    )
}  # fmt: skip


def timed(row: Row, device: str):
    """Return the function to time for a row.

    Raises NotImplementedError, with the reason, if PyTorch has no equivalent.
    """
    f = FUNCTIONS.get(row.kernel)
    if f is None:
        raise NotImplementedError("PyTorch has no such function")
    args, options = row.spec.make(arrays(row.dtype), **row.sizes)
    return f(
        *(tensor(a, device) for a in args),
        **{name: tensor(a, device) for name, a in options.items()},
    )


def main() -> None:
    seconds, rows = json.load(sys.stdin)
    deadline = time.monotonic() + seconds
    clock = TorchClock(torch)
    torch.backends.cudnn.benchmark = True
    for i, row in enumerate(Row(*row) for row in rows):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
            row.dtype == "tf32"
        )
        try:
            if time.monotonic() > deadline:
                raise TimeoutError("no time was left")
            cell = measure(clock, timed(row, "cuda"))
        except Exception as error:
            cell = {
                "not_measured": str(error)
                if isinstance(error, NotImplementedError | TimeoutError)
                else f"{error!r}"
            }
        print(json.dumps([i, cell]), flush=True)


if __name__ == "__main__":
    main()
