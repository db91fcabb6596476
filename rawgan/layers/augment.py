"""Differentiable augmentation: the first layer of a discriminator that has few images."""

from rawgan.backend import array_module
from rawgan.layers.dropout import _Random
from rawgan.ops.augment import TRANSFORMS, UNIFORMS, augment, augment_ddy, augment_dx, draw

RANGES = {"tanh": (-1.0, 1.0), "unit": (0.0, 1.0)}  # darkest and brightest value of a pixel


class Augment(_Random):
    """Change the colours of each image, shift it and cut a hole into it, at random, in training.

        y = A x + constant, of fresh draws in each forward pass;  in inference y = x

    x (N, H, W, C), or the pair of x and labels (N,), which pass unchanged. `transforms` are some of
    "color", "translation" and "cutout"; each acts on a sample with probability `p`, which can be
    set between two passes. pixels: "tanh" for images in [-1, 1], "unit" for [0, 1]: brightness
    changes by up to a quarter of that range, and what is missing of an image is gray, its middle.

    The cache of a pass holds its draws, so that backward and double_backward use the same map:
    dx = augment_dx(dy), ddy = augment_ddy(ddx), no curvature. A sample takes twelve numbers of the
    stream set by `bind`, whatever the transforms; training without one raises ValueError. So do an
    unknown transform and a p outside [0, 1]. Sources: Zhao et al. 2020 (DiffAugment,
    arXiv:2006.10738); Karras et al. 2020 (ADA, arXiv:2006.06676) for p.
    """

    def __init__(
        self, transforms: tuple[str, ...] = TRANSFORMS, p: float = 1.0, pixels: str = "tanh"
    ):
        super().__init__()
        for name in transforms:
            if name not in TRANSFORMS:
                raise ValueError(f"Augment has {', '.join(TRANSFORMS)}, not {name!r}")
        if not 0 <= p <= 1:
            raise ValueError(f"the probability of Augment lies in [0, 1], got {p}")
        self.transforms, self.p, self.pixels = tuple(transforms), p, pixels
        low, high = RANGES[pixels]
        self.brightness, self.fill = (high - low) / 4, (low + high) / 2

    def forward(self, x, train=True):
        images, *labels = x if isinstance(x, tuple) else (x,)
        draws = None
        if train:
            self.check(images, None, None, None, None)
            self.require_stream()
            uniforms = self.rng.random((len(images), UNIFORMS))
            draws = draw(uniforms, images.shape[1:3], self.transforms, self.p, self.brightness)
            draws = array_module(images).asarray(draws.astype(images.dtype))
            images = augment(images, draws, self.fill)
        return (images, *labels) if labels else images, draws

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        if not need_dx:
            return None, {}
        return (dy if cache is None else augment_dx(dy, cache)), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return (ddx if cache is None else augment_ddy(ddx, cache)), None, {}

    def config(self):
        return f"{self.transforms}, p={self.p}, pixels={self.pixels!r}"
