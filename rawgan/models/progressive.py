"""Networks of the progressive GAN, which grow from 4x4 to the size of the images.

Karras et al. 2018 (arXiv:1710.10196), appendix A. All blocks exist from the start, with a
convolution to and from RGB for every resolution; `at` returns the layers of one stage of growth. A
block at the resolution r has min(2 base / r, width) channels.
"""

import numpy as np

from rawgan.backend import CPU, Device
from rawgan.errors import UserError
from rawgan.init import normal_init
from rawgan.layers import (
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    EqualizedLR,
    Flatten,
    Layer,
    LeakyReLU,
    Lerp,
    Linear,
    MinibatchStd,
    Parameters,
    PixelNorm,
    Reshape,
    Sequential,
    Upsample2d,
    leaves,
)
from rawgan.layers.base import Composite, Grads
from rawgan.optim import Adam
from rawgan.random import Random
from rawgan.systems.progressive import GrowthSchedule, ProgressiveGAN, Stage


class Part(Sequential):
    """Layers of another network in sequence; their gradients have the names of that network."""

    def __init__(self, whole: Layer, *layers: Layer):
        super().__init__(*layers)
        paths = {id(layer): path for path, layer in leaves(whole)}
        self.whole_names = {
            f"{path}.{name}": f"{paths[id(layer)]}.{name}"
            for path, layer in leaves(self)
            for name in layer.params
        }

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """Return dx and the gradients, as Sequential does."""
        dx, grads = super().backward(dy, cache, need_dx, need_grads)
        return dx, self.renamed(grads)

    def double_backward(self, ddx, dy, cache, need_ddy=True, need_dx=True, dys=None):
        """Return ddy, dx and the gradients, as Sequential does."""
        ddy, dx, grads = super().double_backward(ddx, dy, cache, need_ddy, need_dx, dys)
        return ddy, dx, self.renamed(grads)

    def renamed(self, grads: Grads) -> Grads:
        """Return the gradients under the names of the whole network."""
        return {self.whole_names[name]: g for name, g in grads.items()}


class Growing(Composite):
    """Base class: a block and a convolution to or from RGB per resolution 4, 8, ..., size.

    Raises UserError unless size is a power of 2 from 4 on, and where a block would have no
    channels.
    """

    def __init__(self, size: int, channels: int, width: int, base: int):
        super().__init__()
        if size < 4 or size & (size - 1):
            raise UserError(
                f"a progressive GAN doubles an image from 4x4 on: its size must be a power of 2, "
                f"not {size}"
            )
        if width < 1 or base < size // 2:
            raise UserError(
                f"networks of {size}x{size} need a width of at least 1 and a base of at least "
                f"{size // 2}, not {width} and {base}"
            )
        self.channels, self.width, self.base = channels, width, base
        self.resolutions = [4 << i for i in range(size.bit_length() - 2)]
        self.blocks = {r: self.block(r) for r in self.resolutions}
        self.rgb = {r: self.convert(r) for r in self.resolutions}

    def features(self, resolution: int) -> int:
        """Return min(2 base / resolution, width), the channels of a block."""
        return min(self.base * 2 // resolution, self.width)

    def block(self, resolution: int) -> Sequential:
        """Return the block between a resolution and half of it."""
        raise NotImplementedError

    def convert(self, resolution: int) -> Layer:
        """Return the layer between the image and the block of a resolution."""
        raise NotImplementedError

    def at(self, stage: Stage) -> Part:
        """Return the layers of a stage: of its resolution and those below, a Lerp in a fade."""
        raise NotImplementedError

    def full_size(self, stage: Stage) -> Sequential:
        """Return the layers of a stage for images of the full size.

        Those of G are enlarged by nearest upsampling, those for D are means over squares.
        """
        raise NotImplementedError

    def children(self):
        """Return the blocks and the layers to or from RGB, by name."""
        blocks = {f"block{r}": layer for r, layer in self.blocks.items()}
        return blocks | {f"rgb{r}": layer for r, layer in self.rgb.items()}


class Generator(Growing):
    """Generator: z (N, width) to images (N, r, r, channels), at every resolution r up to size.

        4x4     PixelNorm of z, transposed convolution 4x4, convolution 3x3
        r > 4   nearest upsampling, two convolutions 3x3
        rgb     convolution 1x1, no activation

    LeakyReLU 0.2 and PixelNorm after each convolution of a block. In a fade at r the image is
    (1 - alpha) up(rgb[r/2](h)) + alpha rgb[r](block[r](h)), h the block at r/2.

    Parameters by (base, width, size, channels): (8192, 512, 1024, 3): 23,079,115; (8192, 512, 128,
    3): 22,933,394; (2048, 256, 128, 3): 4,583,282; (2048, 512, 128, 3): 13,629,810; (4096, 128, 32,
    3): 1,296,908; (1024, 128, 32, 1): 1,111,364; (512, 64, 32, 1): 278,180, with 3 channels
    278,636.
    """

    def block(self, resolution):
        """Return two convolutions 3x3; of 4x4, the first is that of z."""
        K = self.features(resolution)
        if resolution == 4:
            first = [PixelNorm(), Reshape(1, 1, self.width), ConvTranspose2d(self.width, K, 4)]
        else:
            first = [Upsample2d(), Conv2d(self.features(resolution // 2), K, 3, pad=1)]
        *before, linear = first
        return Sequential(
            *(*before, EqualizedLR(linear), LeakyReLU(0.2), PixelNorm()),
            *(EqualizedLR(Conv2d(K, K, 3, pad=1)), LeakyReLU(0.2), PixelNorm()),
        )

    def convert(self, resolution):
        """Return the convolution to RGB."""
        return EqualizedLR(Conv2d(self.features(resolution), self.channels, 1), gain=1)

    def at(self, stage):
        """Return the blocks up to a resolution, and its layer to RGB."""
        r = stage.resolution
        blocks = [self.blocks[i] for i in self.resolutions if i <= r]
        if stage.alpha == 1:
            return Part(self, *blocks, self.rgb[r])
        old = Sequential(self.rgb[r // 2], Upsample2d())
        new = Sequential(blocks[-1], self.rgb[r])
        return Part(self, *blocks[:-1], Lerp(old, new, stage.alpha))

    def full_size(self, stage):
        """Return the layers of a stage, and nearest upsampling to the full size."""
        k = self.resolutions[-1] // stage.resolution
        return Sequential(*self.at(stage).layers, *[Upsample2d(k)] * (k > 1))


class Discriminator(Growing):
    """Discriminator: images (N, r, r, channels) to scores (N, 1), at every r up to size.

        rgb     convolution 1x1
        r > 4   two convolutions 3x3, average pooling 2x2
        4x4     MinibatchStd, convolution 3x3, linear layer; linear layer to the score

    LeakyReLU 0.2 after each, but for the score. In a fade at r, the block at r/2 takes
    (1 - alpha) rgb[r/2](pool(x)) + alpha block[r](rgb[r](x)).

    Parameters by (base, width, size, channels): (8192, 512, 1024, 3): 23,087,249; (8192, 512, 128,
    3): 22,941,313; (2048, 256, 128, 3): 4,587,041; (2048, 512, 128, 3): 13,636,897; (4096, 128, 32,
    3): 1,298,689; (1024, 128, 32, 1): 1,113,153; (512, 64, 32, 1): 279,073, with 3 channels
    279,521.
    """

    def __init__(self, size: int, channels: int, width: int, base: int, group: int | None = 4):
        self.group = group
        super().__init__(size, channels, width, base)

    def block(self, resolution):
        """Return two convolutions 3x3 and the pooling; of 4x4, the layers to the score."""
        C = self.features(resolution)
        if resolution == 4:
            top = self.features(2)
            return Sequential(
                *(MinibatchStd(self.group), EqualizedLR(Conv2d(C + 1, C, 3, pad=1))),
                *(LeakyReLU(0.2), Flatten(), EqualizedLR(Linear(16 * C, top)), LeakyReLU(0.2)),
                EqualizedLR(Linear(top, 1), gain=1),
            )
        return Sequential(
            *(EqualizedLR(Conv2d(C, C, 3, pad=1)), LeakyReLU(0.2)),
            *(EqualizedLR(Conv2d(C, self.features(resolution // 2), 3, pad=1)), LeakyReLU(0.2)),
            AvgPool2d(),
        )

    def convert(self, resolution):
        """Return the convolution from RGB, and its activation."""
        conv = EqualizedLR(Conv2d(self.channels, self.features(resolution), 1))
        return Sequential(conv, LeakyReLU(0.2))

    def at(self, stage):
        """Return the layer from RGB of a resolution, and the blocks down to the score."""
        r = stage.resolution
        blocks = [self.blocks[i] for i in reversed(self.resolutions) if i <= r]
        if stage.alpha == 1:
            return Part(self, self.rgb[r], *blocks)
        old = Sequential(AvgPool2d(), self.rgb[r // 2])
        new = Sequential(self.rgb[r], blocks[0])
        return Part(self, Lerp(old, new, stage.alpha), *blocks[1:])

    def full_size(self, stage):
        """Return the means over squares that reduce an image, and the layers of a stage."""
        k = self.resolutions[-1] // stage.resolution
        return Sequential(*[AvgPool2d(k)] * (k > 1), *self.at(stage).layers)


def build(
    random: Random,
    size: int = 32,
    channels: int = 1,
    width: int = 64,
    base: int = 512,
    schedule: GrowthSchedule | None = None,
    group: int | None = 4,
    lr: float = 1e-3,
    device: Device = CPU,
    dtype=np.float32,
) -> ProgressiveGAN:
    """Return a progressive GAN with initial weights N(0, 1), and one Adam for each network.

    schedule: by default 20,000 images per stable phase and per fade. group: of MinibatchStd. Adam
    has betas (0, 0.99), eps 1e-8, and adds eps where TensorFlow does (`epsilon_hat`).
    """
    schedule = schedule or GrowthSchedule(size)
    G = Generator(size, channels, width, base)
    D = Discriminator(size, channels, width, base, group)
    for net, name in ((G, "generator"), (D, "discriminator")):
        normal_init(net, random.stream(f"{name} weights"))
    g_optimizer, d_optimizer = (
        Adam(Parameters(net, device, dtype), lr, (0.0, 0.99), 1e-8, epsilon_hat=True)
        for net in (G, D)
    )
    return ProgressiveGAN(G, D, g_optimizer, d_optimizer, schedule, random.stream("penalty"))
