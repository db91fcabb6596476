"""Training on the user's own pictures: classes, early checks, small sets, resume."""

import gzip
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from rawgan.data import Images, folder, load, summary
from rawgan.models.recipes import RECIPES
from rawgan.training import session
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.options import natural_size
from rawgan.training.session import Session
from tests.support.data_files import pictures, write_set
from tests.training.test_outputs import rawgan

pytestmark = pytest.mark.usefixtures("nothing_plotted")
TINY = ("--width", 2, "--device", "cpu")


def write_classes(root, K, each, size=16):
    """Write `each` pictures of K classes; the shade tells the class."""
    for k in range(K):
        (root / f"kind {k:02}").mkdir(parents=True)
        for n in range(each):
            shade = np.full((size, size), 250 * k // K, np.uint8)
            shade[n % size] = 255
            Image.fromarray(shade).save(root / f"kind {k:02}" / f"{n}.png")
    return root


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("data") / "three", 3, 30)


@pytest.fixture
def no_decoding(monkeypatch):
    """Fail where a picture is decoded or a data set is loaded."""

    def decode(*_):
        raise AssertionError("loaded before everything was checked")

    monkeypatch.setattr(folder, "decode_all", decode)
    monkeypatch.setattr(session, "load", decode)


class TestClasses:
    @pytest.mark.parametrize("recipe", ["cgan", "atienza_cgan", "acgan"])
    @pytest.mark.parametrize("K", [3, 37])
    def test_train_and_sample_by_name(self, recipe, K, three, tmp_path, capsys):
        data = three if K == 3 else write_classes(tmp_path / "data", K, 2)
        run = tmp_path / "run"
        args = ("--data", data, "--size", 16, *TINY, "--batch", 8, "--steps", 2, "--out", run)
        output = rawgan("train", recipe, *args).stdout
        assert f"Classes: {K}: kind 00, kind 01" in output
        config = json.loads((run / "config.json").read_text())
        assert config["classes"] == [f"kind {k:02}" for k in range(K)]
        grids = {}
        for label in ("kind 00", f"kind {K - 1:02}"):
            path = tmp_path / f"{label}.npy"
            rawgan("sample", run, "--label", label, "--count", 3, "--out", path)
            grids[label] = np.load(path)
        rawgan("sample", run, "--count", 2 * K, "--out", tmp_path / "all.npy")
        every = np.load(tmp_path / "all.npy")
        assert (every[0] != every[K - 1]).any() and every.shape == (2 * K, 16, 16, 1)
        output = rawgan(
            "sample", run, "--label", "cow", "--out", tmp_path / "x.png", status=2
        ).stderr
        assert "knows the labels kind 00, kind 01" in output and "not cow" in output
        rawgan("interpolate", run, "--label", "kind 01", "--pairs", 2, "--frames", 2)
        assert rawgan("train", "--resume", run, "--steps", 4).exit_code == 0

    def test_a_label_chooses_the_column_of_its_class(self, three, tmp_path):
        run = tmp_path / "run"
        args = ("--data", three, "--size", 16, *TINY, "--batch", 8, "--steps", 2, "--out", run)
        rawgan("train", "cgan", *args)
        for seed in (0, 1):
            rawgan("sample", run, "--count", 3, "--seed", seed, "--out", tmp_path / f"{seed}.npy")
            for k in range(3):
                path = tmp_path / f"{seed}-{k}.npy"
                told = ("--count", 3, "--seed", seed, "--label", f"kind {k:02}", "--out", path)
                rawgan("sample", run, *told)
                every = np.load(tmp_path / f"{seed}.npy")
                np.testing.assert_allclose(np.load(path)[k], every[k], atol=1)

    def test_export_and_import_keep_the_classes(self, three, tmp_path):
        run, out = tmp_path / "run", tmp_path / "imported"
        args = ("--data", three, "--size", 16, *TINY, "--batch", 8, "--steps", 2, "--out", run)
        rawgan("train", "cgan", *args)
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        rawgan("import", tmp_path / "g.safetensors", "--recipe", "cgan", "--out", out)
        for folder_ in (run, out):
            told = ("--label", "kind 02", "--count", 4, "--out", tmp_path / f"{folder_.name}.npy")
            rawgan("sample", folder_, *told)
        np.testing.assert_array_equal(
            *(np.load(tmp_path / f"{n}.npy") for n in ("run", "imported"))
        )

    @pytest.mark.parametrize("classes", [[], ["a"], ["a", "a", "b"], "abc", [1, 2, 3], ["a", ""]])
    def test_a_config_of_other_classes_is_refused(self, classes, three, tmp_path):
        run = tmp_path / "run"
        args = ("--data", three, "--size", 16, *TINY, "--batch", 8, "--steps", 1, "--out", run)
        rawgan("train", "cgan", *args)
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"classes": classes}))
        assert "no usable classes" in rawgan("sample", run, status=2).stderr


@pytest.mark.usefixtures("no_decoding")
class TestChecksBeforeLoading:
    def test_labels(self, tmp_path):
        for n in range(4):
            Image.new("L", (16, 16), n).save(tmp_path / f"{n}.png")
        output = rawgan("train", "cgan", "--data", tmp_path, "--size", 16, status=2).stderr
        assert "cgan needs labels" in output and "a folder for each class" in output

    def test_size_width_and_batch(self, three, tmp_path):
        for args, words in (
            (("dcgan", "--size", 33), "size 33 cannot be reached"),
            (("raschka_dcgan", "--size", 30), "multiple of 4"),
            (("dcgan", "--size", 16, "--batch", 91), "choose 2 to 90"),
        ):
            assert words in rawgan("train", *args, "--data", three, status=2).stderr

    def test_out(self, three, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "x").write_text("x")
        for out, words in (("mine", "already holds something"), ("mine/x", "already is a file")):
            args = ("--data", three, "--size", 16, "--out", tmp_path / out)
            assert words in rawgan("train", "dcgan", *args, status=2).stderr
        out = tmp_path / "mine" / "x" / "y"
        output = rawgan(
            "train", "dcgan", "--data", three, "--size", 16, "--out", out, status=2
        ).stderr
        assert "cannot be made" in output

    def test_one_picture(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((1, 16, 16), np.uint8))
        output = rawgan("train", "dcgan", "--data", tmp_path / "x.npy", status=2).stderr
        assert "1 picture" in output and "at least 2" in output

    def test_a_size_of_the_data_that_the_networks_cannot_have(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((9, 30, 30), np.uint8))
        output = rawgan("train", "raschka_dcgan", "--data", tmp_path / "x.npy", status=2).stderr
        assert "30x30" in output and "--size" in output


class TestSizes:
    @pytest.mark.parametrize("shape", [(9, 64, 64), (9, 32, 32, 3), (9, 24, 32)])
    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    def test_arrays_train_at_their_own_size(self, shape, suffix, tmp_path):
        images = np.zeros(shape, np.uint8)
        path = tmp_path / f"x.{suffix}"
        np.save(path, images) if suffix == "npy" else np.savez(path, images=images)
        side = max(shape[1:3])
        assert natural_size(str(path)) == side
        args = ("--data", path, *TINY, "--batch", 4, "--steps", 1, "--out", tmp_path / "run")
        assert f"9 images of {side}x{side}x" in rawgan("train", "dcgan", *args).stdout

    def test_pictures_of_a_folder_have_the_size_of_the_recipe(self, three):
        for recipe in ("dcgan", "cgan", "atienza_dcgan"):
            assert natural_size(str(three), RECIPES[recipe].size) == RECIPES[recipe].size

    def test_resizing_is_said_once(self, three, tmp_path):
        args = ("--data", three, "--size", 8, *TINY, "--batch", 4, "--steps", 1)
        output = rawgan("train", "dcgan", *args, "--out", tmp_path / "run").stdout
        assert output.count("pictures of 16x16 are resized until the shorter side is 8") == 1


class TestSmallSets:
    @pytest.mark.parametrize("N", [2, 9, 63])
    def test_the_batch_of_a_recipe_is_lowered_and_said(self, N, tmp_path):
        np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (N, 8, 8), np.uint8))
        told = ("--data", tmp_path / "x.npy", *TINY, "--steps", 2, "--out", tmp_path / "run")
        output = rawgan("train", "dcgan", *told).stdout
        assert f"Batch: {N} in the place of 64" in output
        assert json.loads((tmp_path / "run" / "config.json").read_text())["batch"] == N
        rawgan("train", "--resume", tmp_path / "run", "--steps", 3)

    def test_one_that_fits_is_left(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((64, 8, 8), np.uint8))
        told = ("--data", tmp_path / "x.npy", *TINY, "--steps", 1, "--out", tmp_path / "run")
        assert "Batch:" not in rawgan("train", "dcgan", *told).stdout


class TestRealGrid:
    def images(self, N=60):
        x = np.zeros((N, 8, 8, 1), np.uint8)
        x[:, :, 0, 0] = 2 * np.arange(N)[:, None] + 1  # the left column tells the picture
        return Images(x, np.arange(N) % 10, "mine", "", "")

    def session(self, recipe, **changes):
        options = session.Options(recipe, width=2, steps=1, batch=8, device="cpu", **changes)
        options = session.replace(options, path="arrays", precision="fp32")
        return Session(options, self.images(), session.requested_device(options))

    def test_a_column_for_each_class(self):
        grid = self.session("cgan").real_images()
        for i, image in enumerate(grid):
            assert (int(image[0, 0, 0]) - 1) // 2 % 10 == i % 10

    @pytest.mark.parametrize("recipe", ["dcgan", "atienza_dcgan"])
    def test_mirrored_as_in_training(self, recipe):
        plain, flipped = (self.session(recipe, flip=flip).real_images() for flip in (False, True))
        assert (plain[:, 0, 0, 0] > 0).all()
        mirrored = flipped[:, 0, 0, 0] == 0
        assert 0 < mirrored.sum() < len(flipped)
        np.testing.assert_array_equal(flipped[mirrored], plain[mirrored][:, :, ::-1])
        np.testing.assert_array_equal(flipped[~mirrored], plain[~mirrored])

    def test_it_takes_no_random_number_of_the_training(self):
        one, other = self.session("cgan", flip=True), self.session("cgan", flip=True)
        one.real_images()
        assert one.state_dict() == other.state_dict()

    def test_it_is_saved_and_stands_in_the_report(self, three, tmp_path):
        run = tmp_path / "run"
        args = ("--data", three, "--size", 16, *TINY, "--batch", 8, "--steps", 1, "--out", run)
        rawgan("train", "dcgan", *args)
        with Image.open(run / "real.png") as grid:
            assert grid.size == (4 * (8 * 17 + 1),) * 2
        rawgan("report", run)
        assert "Real images as D sees them" in (run / "report.html").read_text()


class TestResume:
    @pytest.fixture
    def run(self, tmp_path, rng):
        np.save(tmp_path / "old.npy", rng.integers(0, 256, (40, 16, 16), np.uint8))
        told = ("--data", tmp_path / "old.npy", *TINY, "--batch", 4, "--steps", 6)
        told += ("--sample-every", 3, "--checkpoint-every", 2, "--out", tmp_path / "run")
        told += ("--source", "--size", 16, "--channels", 1)  # the rate is that of the source
        rawgan("train", "dcgan", *told)
        return tmp_path / "run"

    def resume(self, run, *args, status=0):
        return rawgan("train", "--resume", run, *args, status=status)

    def test_where_the_data_moved(self, run, tmp_path):
        (tmp_path / "old.npy").rename(tmp_path / "new.npy")
        output = self.resume(run, "--steps", 8, status=2).stderr
        assert "config.json" in output and "--data" in output and "old.npy" in output
        self.resume(run, "--steps", 8, "--data", tmp_path / "new.npy")
        config = json.loads((run / "config.json").read_text())
        assert config["source"] == str(tmp_path / "new.npy")
        self.resume(run, "--steps", 9)

    @pytest.mark.parametrize("checkpoint", [True, False])
    def test_other_pictures_are_refused(self, run, tmp_path, checkpoint, rng):
        np.save(tmp_path / "other.npy", rng.integers(0, 256, (40, 16, 16), np.uint8))
        if not checkpoint:
            shutil.rmtree(run / "checkpoints")
            (run / "weights.safetensors").unlink()
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        output = self.resume(run, "--steps", 8, "--data", tmp_path / "other.npy", status=2).stderr
        assert "other pictures" in output
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before

    def test_another_rate_is_said_and_remembered(self, run):
        output = self.resume(run, "--steps", 8, "--lr", 5e-4).stdout
        assert "Learning rate: 0.0005 from step 6 on, in the place of the source's" in output
        assert "Learning rate" not in self.resume(run, "--steps", 10).stdout
        output = self.resume(run, "--steps", 12, "--lr", 1e-4).stdout
        assert "Learning rate: 0.0001 from step 10 on, in the place of 0.0005" in output
        assert load_checkpoint([*checkpoints(run).values()][-1])[1]["identity"]["lr"] == 1e-4

    def test_the_rate_is_used(self, run, tmp_path):
        other = shutil.copytree(run, tmp_path / "other")
        before = load_file(run / "weights.safetensors")
        self.resume(run, "--steps", 8, "--lr", 1e-9)
        self.resume(other, "--steps", 8)
        slow, usual = (load_file(r / "weights.safetensors") for r in (run, other))
        name = "generator.1.w"
        assert np.abs(slow[name] - before[name]).max() < 1e-6
        assert np.abs(usual[name] - before[name]).max() > 1e-5

    def test_a_kill_after_a_change_of_the_rate_can_go_on(self, run):
        """config.json has the new rate, the last checkpoint the old one."""
        config = json.loads((run / "config.json").read_text())
        changed = config | {"lr": 5e-4, "earlier_lr": [config["lr"]], "steps": 8}
        (run / "config.json").write_text(json.dumps(changed))
        self.resume(run)

    def test_samples_of_another_period_are_kept(self, run):
        def steps():
            return sorted(int(path.stem[5:]) for path in (run / "samples").glob("step_*"))

        assert steps() == [0, 3, 6]
        self.resume(run, "--steps", 10, "--sample-every", 5, "--checkpoint-every", 5)
        assert steps() == [0, 3, 6, 10]
        self.resume(run, "--steps", 14, "--sample-every", 4)
        assert {0, 3, 6, 10, 12, 14} <= set(steps())
        self.resume(run, "--steps", 15)
        assert {0, 3, 6, 10, 12} <= set(steps())

    def test_imported_networks_train_on(self, run, tmp_path):
        for player in ("generator", "discriminator"):
            out = tmp_path / f"{player}.safetensors"
            rawgan("export", run, "--player", player, "--out", out)
        told = (tmp_path / "generator.safetensors", "--recipe", "dcgan")
        rawgan("import", *told, "--out", tmp_path / "half")
        data = ("--data", tmp_path / "old.npy", "--batch", 4)
        output = self.resume(tmp_path / "half", "--steps", 2, *data, status=2).stderr
        assert "has no discriminator" in output
        both = ("--discriminator", tmp_path / "discriminator.safetensors")
        rawgan("import", *told, *both, "--out", tmp_path / "whole")
        before = load_file(tmp_path / "whole" / "weights.safetensors")
        output = self.resume(tmp_path / "whole", "--steps", 2, *data, "--width", 4, status=2).stderr
        assert "--width cannot be given" in output
        self.resume(tmp_path / "whole", "--steps", 2, *data, "--ema", 0.9, "--keep", 5)
        first, *_ = checkpoints(tmp_path / "whole").values()
        arrays, _ = load_checkpoint(first)
        for name, a in before.items():
            np.testing.assert_array_equal(arrays[name], a)
        after = load_file(tmp_path / "whole" / "weights.safetensors")
        assert any((after[name] != a).any() for name, a in before.items())
        assert any(name.startswith("average.") for name in after)
        self.resume(tmp_path / "whole", "--steps", 4)

    def test_skipped_pictures_are_skipped_again(self, three, tmp_path):
        data = shutil.copytree(three, tmp_path / "data")
        (data / "kind 00" / "0.png").write_bytes(b"no picture")
        args = ("--data", data, "--size", 16, *TINY, "--batch", 8, "--steps", 1)
        assert "0.png" in rawgan("train", "dcgan", *args, status=2).stderr
        rawgan("train", "dcgan", *args, "--skip-broken", "--out", tmp_path / "run")
        self.resume(tmp_path / "run", "--steps", 2)


def test_all_facts_of_the_data_are_those_of_loading(three, tmp_path, rng):
    """summary, from headers alone, agrees with what load returns, for every kind of data."""
    images, labels = pictures(rng, 12, 20, 20), np.arange(12) % 3
    write_set(tmp_path / "idx", images, labels)
    write_set(tmp_path / "zipped idx", images, labels, pack=gzip.compress, suffix=".gz")
    np.save(tmp_path / "grey.npy", images)
    np.save(tmp_path / "colour.npy", np.stack([images] * 3, -1))
    np.savez(tmp_path / "plain.npz", images=images)
    np.savez_compressed(tmp_path / "labelled.npz", images=images, labels=labels)
    for source in ("digits", str(three), *map(str, tmp_path.iterdir())):
        about = summary(source)
        images = load(source, None if about.side else 16)
        assert about.count == len(images) and about.labelled == (images.labels is not None)
        assert about.classes in (len(images.classes), None) and about.side in (
            images.images.shape[1],
            None,
        )
    assert summary(str(three)).classes == 3
