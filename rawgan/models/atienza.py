"""Networks of Atienza, Advanced Deep Learning with Keras, ch. 4 and 5: DCGAN, CGAN and ACGAN.

On MNIST, pixels in [0, 1].
"""

from rawgan.layers import (
    BatchNorm,
    Condition,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Heads,
    Layer,
    LeakyReLU,
    Linear,
    OneHot,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
)
from rawgan.models.limits import quarter


def atienza_generator(
    size: int = 28, channels: int = 1, width: int = 32, z: int = 100, classes: int = 0
) -> Sequential:
    """Return the generator: z (N, 100), uniform in (-1, 1), to images (N, 28, 28, 1) in [0, 1].

    1,301,505 parameters, running statistics included. With classes, the input is the pair
    (z, labels), and the one-hot labels are concatenated to z. BatchNorm and ReLU come before each
    5x5 "same" transposed convolution, with the eps and momentum of Keras.
    """
    base, K = quarter(size), 4 * width
    layers = [Condition(OneHot(classes))] if classes else []
    layers += [Linear(z + classes, base * base * K), Reshape(base, base, K)]
    for K_out, stride in ((4 * width, 2), (2 * width, 2), (width, 1), (channels, 1)):
        layers += [
            BatchNorm(K, eps=1e-3, momentum=0.01),
            ReLU(),
            ConvTranspose2d(K, K_out, 5, stride, "same"),
        ]
        K = K_out
    return Sequential(*layers, Sigmoid())


def atienza_discriminator(
    size: int = 28, channels: int = 1, width: int = 32, classes: int = 0, scores: int = 1
) -> Sequential:
    """Return the discriminator: images (N, 28, 28, 1) in [0, 1] to logits (N, scores).

    1,080,577 parameters. With classes, the input is the pair (images, labels), and a Linear maps
    the one-hot labels to one plane, a second channel of the image. The body is `atienza_body`. The
    book ends in a sigmoid; here the loss starts from the logit.
    """
    condition = []
    if classes:
        plane = Sequential(OneHot(classes), Linear(classes, size * size), Reshape(size, size, 1))
        condition, channels = [Condition(plane)], channels + 1
    body, features = atienza_body(size, channels, width)
    return Sequential(*condition, *body, Linear(features, scores))


def atienza_body(size: int, channels: int, width: int) -> tuple[list[Layer], int]:
    """Return D without its last layer, images to flat features, and the number of them, 4096.

    LeakyReLU comes before each 5x5 "same" convolution, so the first one acts on the image. No
    BatchNorm.
    """
    layers, C = [], channels
    for K, stride in ((width, 2), (2 * width, 2), (4 * width, 2), (8 * width, 1)):
        layers += [LeakyReLU(0.2), Conv2d(C, K, 5, stride, "same")]
        C, size = K, -(-size // stride)
    return [*layers, Flatten()], size * size * C


def atienza_acgan_discriminator(
    size: int = 28, channels: int = 1, width: int = 32, classes: int = 10
) -> Sequential:
    """Return D of the ACGAN: images (N, 28, 28, 1) to logits (N, 1 + classes), "real" first.

    1,606,283 parameters. Two heads on the features of `atienza_body`: one Linear for real or fake,
    and for the classes a Linear of 128 outputs without an activation and a Linear after it.
    """
    body, features = atienza_body(size, channels, width)
    of_class = Sequential(Linear(features, 4 * width), Linear(4 * width, classes))
    return Sequential(*body, Heads(Linear(features, 1), of_class))
