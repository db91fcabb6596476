"""Classes of the user's own data: any names, any number, counted 0, 1, 2, ... in their order."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rawgan.backend import CPU
from rawgan.data import NoTestSplit, load, summary, with_classes
from rawgan.errors import UserError
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training.prefetch import Feed, fitted_recipe
from tests.support.data_files import one_sentence, pictures, write_set

CONDITIONAL = [name for name, recipe in RECIPES.items() if recipe.classes]


def write_folders(root, names, each=3, suffix=".png", size=8):
    """Write `each` pictures per class folder; the n-th of class k is of the gray 10 k + n."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for n in range(each):
            gray = Image.new("L", (size, size), 10 * k + n)
            gray.save(root / name / f"{n}{suffix}", **({"lossless": True} if "w" in suffix else {}))
    return root


class TestFolders:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".webp", ".bmp"])
    @pytest.mark.parametrize("K", [2, 3, 37])
    def test_a_folder_per_class(self, tmp_path, K, suffix):
        names = [f"class {chr(65 + k % 26)}{k}" for k in range(K)]
        got = load(str(write_folders(tmp_path / "mine", names, suffix=suffix)), 8)
        assert got.classes == tuple(sorted(names)) and len(got) == 3 * K
        order = {name: k for k, name in enumerate(names)}
        for image, label in zip(got.images, got.labels):
            assert image[0, 0, 0] // 10 == order[got.classes[label]] % 26 or K > 25
        assert np.bincount(got.labels).tolist() == [3] * K
        assert summary(str(tmp_path / "mine")) == (3 * K, None, True, K)

    def test_subfolders_of_a_class_belong_to_it(self, tmp_path):
        write_folders(tmp_path / "mine" / "cat", ["a", "b"])
        write_folders(tmp_path / "mine", ["dog"])
        got = load(str(tmp_path / "mine"), 8)
        assert got.classes == ("cat", "dog") and np.bincount(got.labels).tolist() == [6, 3]

    def test_pictures_outside_or_a_single_folder_are_no_classes(self, tmp_path):
        write_folders(tmp_path / "one", ["cat"])
        write_folders(tmp_path / "mixed", ["cat", "dog"])
        Image.new("L", (8, 8)).save(tmp_path / "mixed" / "x.png")
        for name in ("one", "mixed"):
            got = load(str(tmp_path / name), 8)
            assert got.labels is None and got.classes == ()

    @pytest.mark.parametrize("second", ["test", "val", "validation"])
    def test_splits_by_name(self, tmp_path, second):
        write_folders(tmp_path / "train", ["cat", "dog", "fish"])
        write_folders(tmp_path / second, ["cat", "fish"], each=2)
        train, test = load(str(tmp_path), 8), load(str(tmp_path), 8, split="test")
        assert (len(train), len(test)) == (9, 4) and train.classes == ("cat", "dog", "fish")
        assert with_classes(test, train.classes).labels.tolist() == [0, 0, 2, 2]
        with pytest.raises(UserError, match="has the class dog, which the training pictures"):
            with_classes(train, test.classes)

    def test_no_test_split(self, tmp_path):
        with pytest.raises(NoTestSplit):
            load(str(write_folders(tmp_path, ["cat", "dog"])), 8, split="test")


class TestArchives:
    @pytest.mark.parametrize("top", ["", "pets/"])
    def test_a_zip_is_its_folder(self, tmp_path, top):
        root = write_folders(tmp_path / "mine", ["cat", "dog"])
        with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
            for path in sorted(root.rglob("*.png")):
                archive.write(path, top + path.relative_to(root).as_posix())
            archive.writestr("__MACOSX/cat/._0.png", b"no picture")
            archive.writestr(f"{top}notes.txt", b"no picture")
        got, want = load(str(tmp_path / "pets.zip"), 8), load(str(root), 8)
        np.testing.assert_array_equal(got.images, want.images)
        np.testing.assert_array_equal(got.labels, want.labels)
        assert got.classes == want.classes and got.name == "pets"
        assert "without 1 files" in got.source
        assert not (tmp_path / "cat").exists()

    def test_a_broken_archive_is_named(self, tmp_path):
        for name, content in (("a.zip", b"PK\3\4" + bytes(60)), ("b.zip", b"")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError) as error:
                load(str(tmp_path / name), 8)
            assert one_sentence(error, name, "no readable zip")

    def test_a_broken_member_is_named(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("cat/0.png", b"no picture")
            archive.writestr("dog/1.png", b"no picture")
            archive.writestr("../../outside.png", b"hidden, as every name with a dot in front")
        with pytest.raises(UserError) as error:
            load(str(tmp_path / "a.zip"), 8)
        assert one_sentence(error, "cat/0.png", "dog/1.png", "2 of the 2", "--skip-broken")

    def test_a_member_larger_than_a_picture_is_refused_unread(self, tmp_path, monkeypatch):
        monkeypatch.setattr("rawgan.data.folder.MEMBER", 10)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("0.png", bytes(11))
        with pytest.raises(UserError, match="larger than"):
            load(str(tmp_path / "a.zip"), 8)


class TestArrays:
    @pytest.mark.parametrize("keys", [("images", "labels"), ("x_train", "y_train"), ("x", "y")])
    @pytest.mark.parametrize(
        "values",
        [np.array([5, -3, 7]), np.array(["dog", "cat", "eel"]), np.array([[1], [2], [26]])],
    )
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_npz_with_labels(self, tmp_path, rng, keys, values, save):
        images, chosen = pictures(rng), rng.permutation(np.arange(12) % 3)
        save(tmp_path / "mine.npz", **dict(zip(keys, (images, values[chosen]))))
        got = load(str(tmp_path / "mine.npz"))
        np.testing.assert_array_equal(got.images[..., 0], images)
        assert got.classes == tuple(map(str, np.unique(values).tolist()))
        assert [got.classes[k] for k in got.labels] == list(
            map(str, values[chosen].ravel().tolist())
        )
        assert summary(str(tmp_path / "mine.npz")) == (12, 28, True, None)

    def test_npz_with_both_splits(self, tmp_path, rng):
        images = pictures(rng)
        np.savez(tmp_path / "x.npz", x_train=images, y_train=np.arange(12) % 4, x_test=images[:5])
        assert load(str(tmp_path / "x.npz"), split="test").labels is None
        np.savez(tmp_path / "x.npz", images=images)
        assert load(str(tmp_path / "x.npz")).labels is None
        with pytest.raises(NoTestSplit):
            load(str(tmp_path / "x.npz"), split="test")

    @pytest.mark.parametrize(
        "arrays, words",
        [
            ({"faces": np.zeros((2, 4, 4), np.uint8)}, ["holds faces", "images"]),
            ({"images": np.zeros((2, 4, 4))}, ["float64"]),
            ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, ["2 integers"]),
            ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)}, ["float64"]),
            (
                {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([None, 1])},
                ["object"],
            ),
        ],
    )
    def test_another_npz_is_refused(self, tmp_path, arrays, words):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(UserError) as error:
            load(str(tmp_path / "x.npz"))
        assert one_sentence(error, "x.npz", *words)

    @pytest.mark.parametrize(
        "spoil", [lambda b: b[:-30], lambda b: b"", lambda b: b[:99] + b[130:]]
    )
    def test_a_broken_npz_is_named(self, tmp_path, rng, spoil):
        np.savez_compressed(tmp_path / "x.npz", images=pictures(rng), labels=np.arange(12))
        path = tmp_path / "x.npz"
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(UserError) as error:
            load(str(path))
        assert one_sentence(error, "x.npz")

    @pytest.mark.parametrize("values", [[1, 2, 26], [0, 200, 255], [4, 5, 6]])
    def test_idx_labels_of_any_start(self, tmp_path, rng, values):
        write_set(tmp_path, pictures(rng), np.array(values)[np.arange(12) % 3])
        got = load(str(tmp_path))
        assert got.classes == tuple(map(str, values)) and got.labels.tolist() == [0, 1, 2] * 4

    def test_idx_files_that_begin_with_the_name_of_their_set(self, tmp_path, rng):
        images, labels = pictures(rng), 1 + np.arange(12)
        write_set(tmp_path, images, labels, spelling=lambda stem: f"emnist-letters-{stem}")
        assert load(str(tmp_path)).classes == tuple(map(str, range(1, 13)))
        write_set(tmp_path, images, labels, spelling=lambda stem: f"emnist-digits-{stem}")
        with pytest.raises(UserError, match=r"emnist-digits-.* and emnist-letters-"):
            load(str(tmp_path))


class TestConditionalRecipes:
    def data(self, values, rng, N=60):
        images = load("digits", 16)
        chosen = np.isin(images.labels, values)
        return replace(images, images=images.images[chosen][:N], labels=images.labels[chosen][:N])

    @pytest.mark.parametrize("name", CONDITIONAL)
    def test_a_label_without_a_picture_is_refused(self, name, rng):
        with pytest.raises(UserError, match=r"labels from 0 to 9 .* digits has 0, 1, 2"):
            Feed(RECIPES[name], self.data([0, 1, 2], rng), 8, Random(0), CPU)

    @pytest.mark.parametrize("name", CONDITIONAL)
    @pytest.mark.parametrize("values", [[0, 1, 2], [3, 8], [1, 5, 6, 9]])
    def test_labels_are_drawn_of_classes_with_pictures_alone(self, name, values, rng, tmp_path):
        raw = self.data(values, rng)
        np.savez(tmp_path / "x.npz", images=raw.images, labels=raw.labels)
        data = load(str(tmp_path / "x.npz"))
        recipe = fitted_recipe(RECIPES[name], data)
        feed = Feed(recipe, data, 8, Random(0), CPU)
        drawn = np.concatenate([feed.z()[1] for _ in range(40)])
        assert recipe.classes == len(values) and set(drawn) == set(data.labels)
        gan = recipe.build(Random(0), 16, 1, 2)
        metrics = gan.train_step(feed.real(), feed.z())
        assert all(map(np.isfinite, metrics.values()))

    def test_one_class_and_none_are_refused(self, rng, tmp_path):
        np.savez(tmp_path / "x.npz", images=pictures(rng), labels=np.full(12, 8))
        with pytest.raises(UserError, match="two classes or more"):
            fitted_recipe(RECIPES["cgan"], load(str(tmp_path / "x.npz")))
        with pytest.raises(UserError, match="needs labels, which"):
            data = replace(self.data([0, 1], rng), labels=None)
            Feed(RECIPES["cgan"], data, 8, Random(0), CPU)

    def test_unconditional_recipes_take_any_labels(self, rng):
        assert fitted_recipe(RECIPES["dcgan"], self.data([3], rng)) is RECIPES["dcgan"]
