"""A folder of images as a data set."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rawgan.data import folder, load
from rawgan.errors import UserError
from tests.support.data_files import one_sentence


@pytest.fixture
def image_files(tmp_path, rng):
    """Write five 40 x 30 images in nested folders, one per format; return their content."""
    array = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for name in ("b.png", "a/c.bmp", "a/A.PNG", "z/d.jpg", "z/e.webp"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return tmp_path / "pictures", array


class TestPictures:
    def test_all_formats_in_the_order_of_their_paths(self, image_files):
        path, array = image_files
        got = load(str(path), size=30)
        assert got.images.shape == (5, 30, 30, 3)
        assert got.images.dtype == np.uint8 and got.images.flags.c_contiguous and got.labels is None
        order = ["a/A.PNG", "a/c.bmp", "b.png", "z/d.jpg", "z/e.webp"]
        assert folder.find(path)[0] == [path / name for name in order]
        for image, name in zip(got.images, order):
            want = np.asarray(Image.open(path / name).convert("RGB"))[:, 5:35]
            np.testing.assert_array_equal(image, want)
        np.testing.assert_array_equal(got.images[0], array[:, 5:35])
        assert (got.name, got.source) == ("pictures", str(path))

    def test_the_shorter_side_is_resized_and_the_centre_kept(self, tmp_path):
        ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (60, 1))
        Image.fromarray(ramp).save(tmp_path / "x.png")
        got = load(str(tmp_path), size=15).images[0, ..., 0]
        columns = np.arange(15) * 4 + 31.5
        np.testing.assert_allclose(got[:, 1:-1], np.tile(2 * columns, (15, 1))[:, 1:-1], atol=1)

    def test_channels(self, image_files, tmp_path, rng):
        path, array = image_files
        want = ImageOps.grayscale(Image.fromarray(array)).crop((5, 0, 35, 30))
        np.testing.assert_array_equal(load(str(path), 30, channels=1).images[0, ..., 0], want)
        gray = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        (tmp_path / "gray").mkdir()
        Image.fromarray(gray).save(tmp_path / "gray" / "x.png")
        np.testing.assert_array_equal(load(str(tmp_path / "gray"), 8).images[0, ..., 0], gray)
        np.testing.assert_array_equal(
            load(str(tmp_path / "gray"), 8, 3).images[0], np.stack([gray] * 3, -1)
        )

    def test_exif_orientation(self, tmp_path, rng):
        array = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: rotate clockwise by 90 degrees
        Image.fromarray(array).save(tmp_path / "x.png", exif=exif)
        np.testing.assert_array_equal(load(str(tmp_path), 8).images[0], np.rot90(array, -1))

    def test_transparency_lies_on_white(self, tmp_path):
        Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
        Image.new("RGBA", (4, 4), (10, 20, 30, 255)).save(tmp_path / "opaque.png")
        got = load(str(tmp_path), 4).images
        assert (got[0] == 255).all() and (got[1] == (10, 20, 30)).all()

    def test_sixteen_bits_are_scaled(self, tmp_path):
        Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)).save(
            tmp_path / "x.png"
        )
        np.testing.assert_array_equal(
            load(str(tmp_path), 16).images[0, ..., 0].ravel(), np.arange(256)
        )

    def test_the_first_frame_of_a_gif(self, tmp_path):
        frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
        frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
        assert (load(str(tmp_path), 4).images[0] == (255, 0, 0)).all()

    def test_hidden_files_are_ignored_and_others_counted(self, image_files):
        path, _ = image_files
        for name in (".hidden.png", ".git/x.png", "notes.txt", "a/labels.csv"):
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text("no picture")
        got = load(str(path), 8)
        assert len(got) == 5
        assert got.source.startswith(f"{path} without 2 files")

    def test_links_are_followed_but_not_in_circles(self, image_files, tmp_path):
        path, _ = image_files
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "there").symlink_to(path)
        (path / "z" / "back").symlink_to(tmp_path / "linked")
        assert len(load(str(tmp_path / "linked"), 8)) == 5

    @pytest.mark.parametrize("name", ["b.png", "a/c.bmp", "z/d.jpg", "z/e.webp"])
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda b: b[: len(b) // 2],
            lambda b: b"",
            lambda b: b"GIF89a" + b[6:40],
            lambda b: b[:20],
        ],
    )
    @pytest.mark.parametrize("channels", [None, 3])
    def test_a_broken_picture_is_named(self, image_files, name, spoil, channels):
        path = image_files[0] / name
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(UserError) as error:
            load(str(image_files[0]), 8, channels)
        assert one_sentence(error, path)

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data())
    def test_a_mutated_picture_is_read_or_refused(self, tmp_path_factory, data):
        path = (
            tmp_path_factory.mktemp("mutated") / f"x{data.draw(st.sampled_from(folder.SUFFIXES))}"
        )
        Image.new("RGB", (9, 7), (1, 2, 3)).save(path)
        body = bytearray(path.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=5)):
            body[at] = data.draw(st.integers(0, 255))
        path.write_bytes(body)
        try:
            assert load(str(path.parent), 4, 3).images.shape == (1, 4, 4, 3)
        except UserError as error:
            assert path.name in str(error)

    @pytest.mark.parametrize("limit", [150, 50], ids=["Pillow warns", "Pillow refuses"])
    def test_a_decompression_bomb_is_named(self, tmp_path, monkeypatch, limit):
        Image.new("L", (16, 16)).save(tmp_path / "bomb.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError) as error:
            load(str(tmp_path), 8)
        assert one_sentence(error, tmp_path / "bomb.png", f"more than {limit} pixels")

    def test_what_only_looks_like_a_picture_is_named(self, tmp_path, monkeypatch):
        Image.new("RGB", (4, 4)).save(tmp_path / "x.png", format="PPM")
        with pytest.raises(UserError) as error:
            load(str(tmp_path), 8)
        assert one_sentence(error, tmp_path / "x.png")
        (tmp_path / "x.png").unlink()
        (tmp_path / "x.png").symlink_to(tmp_path / "nowhere")
        with pytest.raises(UserError) as error:
            load(str(tmp_path), 8)
        assert one_sentence(error, tmp_path / "x.png", "not a file")

    def test_a_size_has_to_be_given(self, image_files):
        with pytest.raises(UserError) as error:
            load(str(image_files[0]))
        assert one_sentence(error, image_files[0], "size 64")

    def test_there_is_no_test_split(self, image_files):
        with pytest.raises(UserError) as error:
            load(str(image_files[0]), 8, split="test")
        assert one_sentence(error, image_files[0], "test")

    def test_folders_without_pictures(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no picture")
        for name, word in (
            (".", "no pictures"),
            ("notes.txt", "Not a directory"),
            ("nothing", "No such"),
        ):
            with pytest.raises(UserError) as error:
                folder.read_folder(tmp_path / name, 8)
            assert one_sentence(error, tmp_path / name, word)
