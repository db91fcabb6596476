"""Data set of digits drawn from fonts, available without a download."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rawgan.data.images import Images, allocate
from rawgan.errors import UserError

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold")
LICENCE = (
    "generated, free to use; drawn with the DejaVu fonts "
    "(Bitstream Vera licence, changes in the public domain)"
)
COUNT, SIZE = 8192, 16  # of a split
OVER = 4  # supersampling: digits are drawn this much larger, then averaged down
SHARES = 32  # parts of the work, distributed over the threads
STROKES = 2  # stroke widths per glyph: regular and bold


def digits(n: int = COUNT, size: int = SIZE, seed: int = 0) -> Images:
    """Draw n white digits on black: images uint8 (n, size, size, 1), labels 0 to 9, shuffled.

    The classes are as equal in number as n allows. Five fonts, two strokes, and at random: rotation
    within 8 degrees, shear within 0.1, scale 0.9 to 1.05 in height and 0.9 to 1.15 in width,
    translation within 4 % of the side. Every picture reaches 255. The same seed gives the same
    bytes (with the same Pillow and matplotlib).

    Raises UserError for n below 1, a size outside 8 to 128 (illegible, slow), and if matplotlib's
    fonts are missing. Source: the fonts that matplotlib ships, used only to draw; see LICENCE.
    """
    if n < 1 or not 8 <= size <= 128:
        raise UserError(
            f"{n} digits of size {size} cannot be drawn: ask for at least 1, of size 8 to 128."
        )
    images = allocate((n, size, size, 1), "digits")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10)
    font = rng.integers(len(FONTS), size=n)
    stroke = rng.integers(STROKES, size=n)
    angle = np.radians(rng.uniform(-8, 8, n))
    shear = rng.uniform(-0.1, 0.1, n)
    high = rng.uniform(0.9, 1.05, n)
    wide = rng.uniform(0.9, 1.15, n)
    shift = rng.uniform(-0.04, 0.04, (2, n)) * size * OVER

    coefficients = affine(angle, shear, wide, high, shift, centre=size * OVER / 2).tolist()
    glyphs = draw_glyphs(size)
    side = (size * OVER, size * OVER)

    def draw(share: range) -> None:
        for i in share:
            glyph = glyphs[font[i], labels[i], stroke[i]]
            drawn = glyph.transform(
                side, Image.Transform.AFFINE, coefficients[i], Image.Resampling.BILINEAR
            )
            small = np.asarray(drawn.reduce(OVER), np.float32)
            images[i, :, :, 0] = np.rint(small * (255 / small.max()))

    # threads help because Pillow releases the GIL: on one core 8192 digits of 64x64 take 7 s
    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, (range(first, n, SHARES) for first in range(SHARES))))
    return Images(
        images,
        labels,
        "digits",
        LICENCE,
        f"generated from {len(FONTS)} DejaVu fonts with seed {seed}",
    )


def read_digits(size: int | None = None, split: str = "train") -> Images:
    """Return the digits of a split, the same in every call."""
    return digits(size=size or SIZE, seed=0 if split == "train" else 1)


def affine(angle, shear, wide, high, shift, centre: float) -> np.ndarray:
    """Return Pillow's coefficients of the affine map from picture to glyph, float64 (n, 6).

    A row (a, ..., f) maps the point (x, y) of the picture to the point of the glyph

        (a x + b y + c, d x + e y + f) = centre + inverse(M) (x - centre - shift[0],
                                                              y - centre - shift[1])
        M = [[cos, -sin], [sin, cos]] [[1, shear], [0, 1]] [[wide, 0], [0, high]]
    """
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = (cos + shear * sin) / wide, (sin - shear * cos) / wide
    d, e = -sin / high, cos / high
    x0, y0 = centre + shift
    return np.stack([a, b, centre - a * x0 - b * y0, d, e, centre - d * x0 - e * y0], axis=1)


def draw_glyphs(size: int) -> dict[tuple[int, int, int], Image.Image]:
    """Return the glyph of each (font, digit, stroke), centred, enlarged OVER times.

    A glyph is about 3/4 as high as the picture.
    """
    import matplotlib  # imported here because it is slow to import

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    side = size * OVER
    glyphs = {}
    for f, name in enumerate(FONTS):
        try:
            font = ImageFont.truetype(folder / f"{name}.ttf", side)
        except OSError:
            raise UserError(
                f"{folder / name}.ttf cannot be read: reinstall matplotlib, which ships it."
            ) from None
        for digit in range(10):
            for stroke in range(STROKES):
                image = Image.new("L", (side, side))
                draw, text, width = ImageDraw.Draw(image), str(digit), round(stroke * side / 64)
                left, top, right, bottom = draw.textbbox((0, 0), text, font, stroke_width=width)
                corner = ((side - left - right) / 2, (side - top - bottom) / 2)
                draw.text(corner, text, 255, font, stroke_width=width)
                glyphs[f, digit, stroke] = image
    return glyphs
