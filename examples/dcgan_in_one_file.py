"""A complete DCGAN in one file: layers, backward passes, Adam and training loop, in NumPy or CuPy.

    python examples/dcgan_in_one_file.py                    16x16 digits drawn by this file, about
                                                            a minute
    python examples/dcgan_in_one_file.py images.npy 3000    your images, uint8 (n, 16, 16) or
                                                            (n, 16, 16, 3), and the number of steps

The file reads from top to bottom. Images are (N, H, W, C), filters (K, R, S, C), the outputs of a
convolution (N, P, Q, K); dx is the gradient of the loss with respect to x.
Source: Radford et al. 2016 (arXiv:1511.06434).
tests/math/test_one_file.py compares its training trajectory with the library's.
"""

import struct
import sys
import time
import zlib
from pathlib import Path

try:
    import cupy as xp

    xp.ones(1).sum()  # raises where there is no GPU
except Exception as error:
    print(f"Computing with NumPy, because CuPy cannot compute here: {str(error).splitlines()[0]}")
    import numpy as xp

# 1. Convolution as a trilinear form, linear in each of its three arguments:
#
#     T(x, w, y) = sum over n,p,q,k,r,s,c of
#                  x[n, p*stride + r - pad, q*stride + s - pad, c] w[k,r,s,c] y[n,p,q,k]
#
# Its derivatives with respect to y, x and w are the convolution, the transposed convolution and
# the weight gradient.


def zero_pad(x, pad):
    return xp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def taps(x, w, P, Q, stride):
    """Yield the weights (K, C) of each filter tap and the pixels of the padded x it multiplies.

    The pixels are a view (N, P, Q, C).
    """
    for r in range(w.shape[1]):
        for s in range(w.shape[2]):
            yield w[:, r, s], x[:, r : r + P * stride : stride, s : s + Q * stride : stride]


def conv2d(x, w, stride, pad):
    """Convolution, dT/dy.

    y[n,p,q,k] = sum over r,s,c of x[n, p*stride + r - pad, q*stride + s - pad, c] w[k,r,s,c].
    """
    P, Q = (
        (size + 2 * pad - kernel) // stride + 1 for size, kernel in zip(x.shape[1:3], w.shape[1:3])
    )
    y = xp.zeros((len(x), P, Q, len(w)), x.dtype)
    for weights, pixels in taps(zero_pad(x, pad), w, P, Q, stride):
        y += pixels @ weights.T
    return y


def conv2d_dx(y, w, H, W, stride, pad):
    """Input gradient, dT/dx.

    Each output pixel, times its filters, is added to the input pixels it was computed from.
    """
    x = xp.zeros((len(y), H + 2 * pad, W + 2 * pad, w.shape[3]), y.dtype)
    for weights, pixels in taps(x, w, *y.shape[1:3], stride):
        pixels += y @ weights
    return x[:, pad : pad + H, pad : pad + W]


def conv2d_dw(x, y, w, stride, pad):
    """Weight gradient, dT/dw.

    dw[k,r,s,c] = sum over n,p,q of y[n,p,q,k] x[n, p*stride + r - pad, q*stride + s - pad, c].
    """
    dw = xp.zeros_like(w)
    for gradient, pixels in taps(zero_pad(x, pad), dw, *y.shape[1:3], stride):
        gradient += y.reshape(-1, len(w)).T @ pixels.reshape(-1, w.shape[3])
    return dw


# 2. Layers. forward caches what backward needs; backward accumulates the gradients of the
# parameters and returns dx.


class Layer:
    params: tuple = ()  # names of the arrays that Adam updates; the gradient of w is dw

    def zero_grad(self):
        for name in self.params:
            setattr(self, "d" + name, xp.zeros_like(getattr(self, name)))


class Conv2d(Layer):
    params = ("w",)

    def __init__(self, C, K, kernel, stride, pad):
        self.w, self.stride, self.pad = normal((K, kernel, kernel, C), 0), stride, pad

    def forward(self, x, train=True):
        self.x = x
        return conv2d(x, self.w, self.stride, self.pad)

    def backward(self, dy):
        self.dw += conv2d_dw(self.x, dy, self.w, self.stride, self.pad)
        return conv2d_dx(dy, self.w, *self.x.shape[1:3], self.stride, self.pad)


class ConvTranspose2d(Conv2d):
    """Transposed convolution from K to C channels: the input gradient of a convolution from C to K.

    Each side grows by the factor `stride`.
    """

    def forward(self, y, train=True):
        self.y = y
        H, W = ((size - 1) * self.stride + self.w.shape[1] - 2 * self.pad for size in y.shape[1:3])
        return conv2d_dx(y, self.w, H, W, self.stride, self.pad)

    def backward(self, dx):
        self.dw += conv2d_dw(dx, self.y, self.w, self.stride, self.pad)
        return conv2d(dx, self.w, self.stride, self.pad)


class BatchNorm(Layer):
    """Batch normalisation: y = gamma xhat + beta, xhat = (x - mean) rstd.

    Training uses the statistics of the batch, inference the running ones.
    """

    params = ("gamma", "beta")

    def __init__(self, C):
        self.gamma, self.beta = normal(C, 1), xp.zeros(C, DTYPE)
        self.mean, self.var = xp.zeros(C, DTYPE), xp.ones(C, DTYPE)

    def forward(self, x, train=True):
        mean, var = self.mean, self.var
        if train:
            M = x.size // x.shape[3]
            mean = x.mean((0, 1, 2))
            var = ((x - mean) ** 2).mean((0, 1, 2))
            self.mean += 0.1 * (mean - self.mean)
            self.var += 0.1 * (var * M / (M - 1) - self.var)  # the unbiased variance
        self.rstd = 1 / xp.sqrt(var + 1e-5)
        self.xhat = (x - mean) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        self.dgamma += (dy * self.xhat).sum((0, 1, 2))
        self.dbeta += dy.sum((0, 1, 2))
        # mean and variance depend on x: dx has no component along the constants or along xhat
        constant, slope = dy.mean((0, 1, 2)), (dy * self.xhat).mean((0, 1, 2))
        return self.gamma * self.rstd * (dy - constant - self.xhat * slope)


class LeakyReLU(Layer):
    def __init__(self, slope=0.0):  # 0 is ReLU
        self.slope = slope

    def forward(self, x, train=True):
        self.derivative = xp.where(x > 0, 1, self.slope).astype(x.dtype)
        return x * self.derivative

    def backward(self, dy):
        return dy * self.derivative


class Tanh(Layer):
    def forward(self, x, train=True):
        self.y = xp.tanh(x)
        return self.y

    def backward(self, dy):
        return (1 - self.y**2) * dy


class Network:
    """Sequence of layers; backward runs from the last to the first (the chain rule)."""

    def __init__(self, *layers):
        self.layers = layers

    def forward(self, x, train=True):
        for layer in self.layers:
            x = layer.forward(x, train)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def zero_grad(self):
        for layer in self.layers:
            layer.zero_grad()


class Adam:
    """Algorithm 1 of Kingma & Ba 2015 (arXiv:1412.6980)."""

    def __init__(self, net, lr, beta1=0.5, beta2=0.999, eps=1e-8):
        self.lr, self.beta1, self.beta2, self.eps, self.t = lr, beta1, beta2, eps, 0
        self.params = [(layer, name) for layer in net.layers for name in layer.params]
        self.m, self.v = (
            [xp.zeros_like(getattr(*param)) for param in self.params] for _ in range(2)
        )

    def step(self):
        self.t += 1
        for (layer, name), m, v in zip(self.params, self.m, self.v):
            theta, g = getattr(layer, name), getattr(layer, "d" + name)
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            mhat, vhat = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
            theta -= self.lr * mhat / (xp.sqrt(vhat) + self.eps)


# 3. Generator and discriminator for 16x16 images, and their losses.

DTYPE, WIDTH, Z = xp.float32, 32, 100
rng = xp.random.RandomState(0)


def normal(shape, mean):
    """Draw initial values of parameters from N(mean, 0.02^2)."""
    return rng.normal(mean, 0.02, shape).astype(DTYPE)


def generator(channels):
    """Return the generator: z (N, 1, 1, Z) to images (N, 16, 16, channels) in [-1, 1]."""
    return Network(
        *(ConvTranspose2d(2 * WIDTH, Z, 4, 1, 0), BatchNorm(2 * WIDTH), LeakyReLU()),  # 1x1 to 4x4
        *(ConvTranspose2d(WIDTH, 2 * WIDTH, 4, 2, 1), BatchNorm(WIDTH), LeakyReLU()),  # to 8x8
        *(ConvTranspose2d(channels, WIDTH, 4, 2, 1), Tanh()),  # to 16x16
    )


def discriminator(channels):
    """Return the discriminator: images to scores (N, 1, 1, 1).

    sigmoid(score) is the probability that the image is real.
    """
    return Network(
        *(Conv2d(channels, WIDTH, 4, 2, 1), LeakyReLU(0.2)),  # 16x16 to 8x8
        *(Conv2d(WIDTH, 2 * WIDTH, 4, 2, 1), BatchNorm(2 * WIDTH), LeakyReLU(0.2)),  # to 4x4
        Conv2d(2 * WIDTH, 1, 4, 1, 0),
    )


def bce(score, real):
    """Return the mean of -log p and its gradient with respect to the score.

    p = sigmoid(score) if `real`, else 1 - sigmoid(score).
    """
    sign = 1 if real else -1
    # -log p, without overflow
    softplus = xp.maximum(-sign * score, 0) + xp.log1p(xp.exp(-abs(score)))
    return softplus.mean(), sign * (xp.exp(-softplus) - 1) / score.size


def train_step(G, D, G_adam, D_adam, real, z):
    """Train D to distinguish real from generated images, then G to be classified as real.

    G's gradient passes through the updated D.
    """
    fake = G.forward(z)

    D.zero_grad()
    loss_real, dscore = bce(D.forward(real), real=True)
    D.backward(dscore)
    loss_fake, dscore = bce(D.forward(fake), real=False)
    D.backward(dscore)  # accumulates the gradients of both losses
    D_adam.step()

    G.zero_grad()
    loss_G, dscore = bce(D.forward(fake), real=True)
    # through D into G; D's gradients are set to zero before its next step
    G.backward(D.backward(dscore))
    G_adam.step()
    return float(loss_real + loss_fake), float(loss_G)


# 4. Data: the ten digits of a 5x7 dot-matrix font, one byte per row, scaled, sheared and shifted at
# random.

FONT = bytes.fromhex(
    "0e11131519110e 040c040404040e 0e11010204081f 1f02040201110e 02060a121f0202"
    "1f101e0101110e 0608101e11110e 1f010204080808 0e11110e11110e 0e11110f01020c"
)


def draw_digits(n):
    """Return n images of digits, uint8 (n, 16, 16, 1).

    Each pixel samples the font at its position under the inverse affine map, bilinearly.
    """
    dots = xp.array(list(FONT)).reshape(10, 7, 1) >> xp.arange(4, -1, -1) & 1
    font = xp.pad(dots * 255.0, ((0, 0), (8, 8), (8, 8)))
    scale, shear, down, right = (
        rng.uniform(a, b, (n, 1, 1)) for a, b in ((0.58, 0.72), (-0.3, 0.3), (-1, 1), (-1, 1))
    )
    y, x = xp.arange(16)[:, None] - 7.5, xp.arange(16) - 7.5
    v = (y + down) * scale
    u, v = (x + right) * scale + shear * v + 10, v + 11
    v0, u0, images = xp.floor(v).astype(int), xp.floor(u).astype(int), 0
    for dv in (0, 1):
        for du in (0, 1):
            weight = (1 - abs(v - v0 - dv)) * (1 - abs(u - u0 - du))
            images = images + weight * font[xp.arange(n)[:, None, None] % 10, v0 + dv, u0 + du]
    return images.astype(xp.uint8)[..., None]


def save_png(path, images):
    """Write 64 images (64, H, W, C) in [-1, 1] as an 8 x 8 grid, enlarged four times."""
    _, H, W, C = images.shape
    grid = images.reshape(8, 8, H, W, C).transpose(0, 2, 1, 3, 4).reshape(8 * H, 8 * W, C)
    grid = (127.5 * (grid + 1)).astype(xp.uint8).repeat(4, 0).repeat(4, 1)
    header = struct.pack(">IIBBBBB", 32 * W, 32 * H, 8, 0 if C == 1 else 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in grid))
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        png += (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )
    Path(path).write_bytes(png)


def main(data=None, steps=1000, batch=64):
    images = draw_digits(4000) if data is None else xp.load(data)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != xp.uint8 or images.shape[1:] not in ((16, 16, 1), (16, 16, 3)):
        raise SystemExit(
            f"images must be uint8 (n, 16, 16) or (n, 16, 16, 3), not {images.dtype} {images.shape}"
        )
    G, D = generator(images.shape[3]), discriminator(images.shape[3])
    G_adam, D_adam = Adam(G, 5e-4), Adam(D, 5e-4)
    fixed_z = rng.normal(0, 1, (64, 1, 1, Z)).astype(DTYPE)
    folder, start = Path("runs/one-file"), time.time()
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(1, steps + 1):
        real = images[rng.randint(0, len(images), batch)].astype(DTYPE) / 127.5 - 1
        z = rng.normal(0, 1, (batch, 1, 1, Z)).astype(DTYPE)
        loss_D, loss_G = train_step(G, D, G_adam, D_adam, real, z)
        if step % 100 == 0 or step == steps:
            path, speed = folder / f"{step:06}.png", step / (time.time() - start)
            save_png(path, G.forward(fixed_z, train=False))
            print(f"step {step}: loss D {loss_D:.3f}, G {loss_G:.3f}, {speed:.1f} steps/s, {path}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
