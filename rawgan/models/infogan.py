"""Networks of InfoGAN, Atienza, Advanced Deep Learning with Keras, ch. 6.1: pixels in [0, 1]."""

import numpy as np

from rawgan.backend import CPU, Device, array_module
from rawgan.init import glorot_uniform
from rawgan.layers import Heads, Layer, Linear, Parameters, Sequential
from rawgan.layers.embed import check_labels, one_hot
from rawgan.models.atienza import atienza_body, atienza_generator
from rawgan.optim import RMSprop
from rawgan.random import Random
from rawgan.systems.infogan import FORMS, InfoGAN

Z, CODES = 62, 2  # numbers of noise, and continuous codes


def generator(size: int = 28, channels: int = 1, width: int = 32, classes: int = 10) -> Sequential:
    """Return G: noise, one-hot label and codes (N, 62 + 10 + 2) to images (N, 28, 28, 1).

    1,138,433 parameters, of which 1,137,729 are trained: the book's DCGAN with 74 inputs.
    """
    return atienza_generator(size, channels, width, Z + classes + CODES)


class CodeInput(Layer):
    """y = [z, one-hot label, codes], the input of G: x is the pair ([z, codes], labels).

    [z, codes] (N, 62 + 2), labels (N,) of integers in [0, K), y (N, 62 + K + 2). To draw samples:
    it has no derivatives.
    """

    def __init__(self, K: int):
        super().__init__()
        self.K = K

    def forward(self, x, train=True):
        """Return y and no cache."""
        x, labels = x
        check_labels(self, labels, self.K)
        hot = one_hot(labels, self.K, x.dtype)
        return array_module(x).concatenate([x[:, :Z], hot, x[:, Z:]], 1), None

    def config(self):
        """Return K."""
        return str(self.K)


def labelled_generator(size: int, channels: int, width: int, classes: int = 10) -> Sequential:
    """Return G as `generator` does, for pairs of [z, codes] (N, 62 + 2) and labels (N,)."""
    G = generator(size, channels, width, classes)
    G.prepend("input", CodeInput(classes))
    return G


def discriminator(
    size: int = 28, channels: int = 1, width: int = 32, classes: int = 10
) -> Sequential:
    """Return D: images (N, 28, 28, 1) to scores (N, 1 + classes + 2); 1,606,541 parameters.

    The body is the book's DCGAN. Its heads are one Linear for real or fake, and a Linear of 128
    outputs, without an activation, before one for the classes and one for each code. The book ends
    in sigmoids and a softmax; here the losses start from the logits.
    """
    body, features = atienza_body(size, channels, width)
    of_codes = [Linear(4 * width, K) for K in (classes, *[1] * CODES)]
    code = Sequential(Linear(features, 4 * width), Heads(*of_codes))
    return Sequential(*body, Heads(Linear(features, 1), code))


def build(
    random: Random,
    form: str = "book",
    size: int = 28,
    channels: int = 1,
    width: int = 32,
    classes: int = 10,
    lr: float = 2e-4,
    device: Device = CPU,
    dtype=np.float32,
) -> InfoGAN:
    """Return an InfoGAN with initial weights (Glorot) and RMSprop.

    form: a name of FORMS. lr: that of D; G has half of it, and half of D's decay, as in the book.
    """
    nets = [make(size, channels, width, classes) for make in (generator, discriminator)]
    for net, name in zip(nets, ("generator", "discriminator")):
        glorot_uniform(net, random.stream(f"{name} weights"))
    G, D = (Parameters(net, device, dtype) for net in nets)
    optimizers = RMSprop(G, lr / 2, decay=3e-8), RMSprop(D, lr, decay=6e-8)
    return InfoGAN(*nets, *optimizers, FORMS[form], classes)
