"""examples/sample.py, interpolate.py and train_vae.py from a user's side: files, exit statuses, sentences; and loading a run."""

import csv
import json
import os
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import assert_same
from safetensors.numpy import load_file, save_file

from rawgan.errors import UserError
from rawgan.layers import state
from rawgan.models.recipes import RECIPES
from rawgan.training.load import choose_labels, load_generator
from rawgan.training.options import Options
from rawgan.training.session import start as start_training

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
PATIENCE = 120  # seconds that any process may take on a busy machine


def start(cwd, script, *args):
    """An example in a process of its own: (exit status, stdout, stderr)."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def call(monkeypatch, capsys):
    """An example in this process: (exit status, stdout, stderr)."""

    def call(script, *args):
        monkeypatch.setattr(sys, "argv", [script, *map(str, args), "--device", "cpu"])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return leaving.value.code or 0, *capsys.readouterr()

    return call


def assert_one_sentence(answer, *words):
    """Exit status 2, and one line on stderr that holds all the words."""
    code, _, err = answer
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err


def size_of(path):
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """120 labelled pictures of 16x16 as IDX files."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    pictures, labels = rng.integers(256, size=(120, 16, 16), dtype=np.uint8), (np.arange(120) % 10).astype(np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, *pictures.shape) + pictures.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 120) + labels.tobytes())
    return folder


def train(name, data, out, **changes):
    """A tiny run of a recipe, in this process."""
    options = {"recipe": name, "data": str(data), "size": 16, "width": 4, "steps": 2, "batch": 8, "device": "cpu"}
    start_training(Options(**(options | changes)), out)
    return out


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """A run of examples/train_dcgan.py."""
    out = tmp_path_factory.mktemp("runs") / "dcgan"
    args = ("--data", data, "--size", 16, "--steps", 2, "--width", 4, "--batch", 8, "--out", out)
    code, _, err = start(out.parent, "train_dcgan.py", *args)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def conditional(data, tmp_path_factory):
    return train("cgan", data, tmp_path_factory.mktemp("runs") / "cgan")


@pytest.fixture(scope="module")
def vae(data, tmp_path_factory):
    """A run of examples/train_vae.py."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    args = ("--data", data, "--size", 16, "--steps", 12, "--width", 2, "--batch", 8, "--out", out)
    code, said, err = start(out.parent, "train_vae.py", *args)
    assert code == 0, err
    first, *_, last = said.splitlines()
    assert first.startswith("Device: cpu, computing with NumPy (")
    assert last == f"12 steps done; pictures, curves, metrics and weights are in {out}/"
    return out


@pytest.fixture
def broken(plain, tmp_path):
    """A copy of a run that may be damaged."""
    return Path(shutil.copytree(plain, tmp_path / "broken"))


class TestSample:
    def test_in_a_process(self, plain, tmp_path):
        code, out, err = start(tmp_path, "sample.py", plain, "--count", 5, "--seed", 3, "--out", "five.png")
        assert code == 0, err
        first, last = out.splitlines()
        assert first.startswith("Device: cpu, computing with NumPy (") and last == "5 pictures of dcgan are in five.png"
        assert size_of(tmp_path / "five.png") == (4 * (3 * 17 + 1), 4 * (2 * 17 + 1))
        assert_one_sentence(start(tmp_path, "sample.py", "nowhere"), "there is no run folder nowhere")

    def test_the_seed_decides(self, call, broken):
        pictures = []
        for seed in (1, 1, 2):
            assert call("sample.py", broken, "--count", 4, "--seed", seed)[0] == 0
            pictures.append((broken / "sample.png").read_bytes())
        assert pictures[0] == pictures[1] != pictures[2]

    def test_a_column_per_class(self, call, conditional, tmp_path):
        assert call("sample.py", conditional, "--count", 20, "--out", tmp_path / "a.png")[0] == 0
        assert size_of(tmp_path / "a.png") == (4 * (10 * 17 + 1), 4 * (2 * 17 + 1))

    def test_a_single_digit_on_request(self, call, conditional, tmp_path):
        for label in (0, 7, 9):
            assert call("sample.py", conditional, "--count", 4, "--label", label, "--out", tmp_path / f"{label}.png")[0] == 0
            assert size_of(tmp_path / f"{label}.png") == (4 * (2 * 17 + 1),) * 2
        assert (tmp_path / "0.png").read_bytes() != (tmp_path / "7.png").read_bytes()

    @pytest.mark.parametrize("label", [-1, 10])
    def test_labels_out_of_range(self, call, conditional, label, tmp_path):
        out = tmp_path / "a.png"
        assert_one_sentence(call("sample.py", conditional, "--label", label, "--out", out), "labels 0 to 9", f"not {label}")
        assert not out.exists()

    def test_a_label_for_an_unconditional_recipe(self, call, plain):
        assert_one_sentence(call("sample.py", plain, "--label", 7), "dcgan is trained without labels")

    def test_places_that_cannot_be_written(self, call, plain, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder.png").mkdir()
        assert_one_sentence(call("sample.py", plain, "--out", tmp_path / "a.jpg"), ".png", "a.jpg")
        assert_one_sentence(call("sample.py", plain, "--out", tmp_path / "nowhere" / "a.png"), "cannot be written")
        assert_one_sentence(call("sample.py", plain, "--out", tmp_path / "file" / "a.png"), "cannot be written")
        assert_one_sentence(call("sample.py", plain, "--out", tmp_path / "folder.png"), "cannot be written")

    @pytest.mark.parametrize("args", [(), ("run", "--count", 0), ("run", "--seed", -1), ("run", "--label", "seven")])
    def test_arguments_that_make_no_sense(self, call, args):
        code, _, err = call("sample.py", *args)
        assert code == 2 and "Traceback" not in err


WALKS = {f"interpolation-{way}.{kind}" for way in ("linear", "spherical") for kind in ("png", "gif")}


class TestInterpolate:
    def test_in_a_process(self, plain, tmp_path):
        code, out, err = start(tmp_path, "interpolate.py", plain, "--pairs", 2, "--frames", 5, "--out", "walks")
        assert code == 0, err
        assert out.startswith("Device: cpu, computing with NumPy (")
        assert {path.name for path in (tmp_path / "walks").iterdir()} == WALKS
        for way in ("linear", "spherical"):
            assert size_of(tmp_path / "walks" / f"interpolation-{way}.png") == (4 * (5 * 17 + 1), 4 * (2 * 17 + 1))
            with Image.open(tmp_path / "walks" / f"interpolation-{way}.gif") as gif:
                lasts = 0
                for n in range(gif.n_frames):
                    gif.seek(n)
                    lasts += gif.info["duration"]
            assert lasts == 8 * 60
        assert_one_sentence(start(tmp_path, "interpolate.py", "nowhere"), "there is no run folder nowhere")

    def test_into_the_run_unless_told(self, call, broken):
        assert call("interpolate.py", broken, "--pairs", 1, "--frames", 2)[0] == 0
        assert all((broken / name).exists() for name in WALKS)

    def test_labels(self, call, conditional, tmp_path):
        assert call("interpolate.py", conditional, "--pairs", 1, "--frames", 2, "--label", 7, "--out", tmp_path)[0] == 0
        assert_one_sentence(call("interpolate.py", conditional, "--label", 10), "labels 0 to 9", "not 10")

    def test_bad_input(self, call, plain, tmp_path):
        (tmp_path / "file").write_text("")
        assert_one_sentence(call("interpolate.py", plain, "--label", 1), "without labels")
        assert_one_sentence(call("interpolate.py", plain, "--out", tmp_path / "file"), "cannot be written")
        assert_one_sentence(call("interpolate.py", tmp_path / "file"), "there is no run folder")
        assert call("interpolate.py", plain, "--frames", 1)[0] == 2


class TestTrainVAE:
    def test_leaves_everything(self, vae):
        assert {path.name for path in vae.iterdir()} == {
            "config.json",
            "metrics.csv",
            "losses.png",
            "samples",
            "weights.safetensors",
        }
        samples = [f"{kind}_{step:06}.png" for kind in ("reconstruction", "step") for step in (0, 12)]
        assert sorted(path.name for path in (vae / "samples").iterdir()) == samples
        for path in [vae / "losses.png", *(vae / "samples").iterdir()]:
            size_of(path)
        rows = list(csv.DictReader((vae / "metrics.csv").read_text().splitlines()))
        assert [row["step"] for row in rows] == ["10", "12"]
        for row in rows:
            loss, reconstruction, kl = (float(row[key]) for key in ("loss", "reconstruction", "kl"))
            assert loss == pytest.approx(reconstruction + kl) and reconstruction > 0 and kl > 0
        config = json.loads((vae / "config.json").read_text())
        assert config.items() >= {"recipe": "vae", "size": 16, "channels": 1, "width": 2, "steps": 12, "batch": 8}.items()

    def test_originals_stand_above_their_reconstructions(self, vae, data):
        originals = np.frombuffer((data / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 16, 16)
        with Image.open(vae / "samples" / "reconstruction_000012.png") as picture:
            sheet = np.asarray(picture)[::4, ::4]
        assert sheet.shape == (8 * 17 + 1, 8 * 17 + 1)
        for n in range(32):
            top, left = 1 + n // 8 * 34, 1 + n % 8 * 17
            assert_same(sheet[top : top + 16, left : left + 16], originals[n])
            assert (sheet[top + 17 : top + 33, left : left + 16] != originals[n]).any()

    def test_ctrl_c_keeps_what_was_made(self, data, tmp_path):
        command = [sys.executable, str(EXAMPLES / "train_vae.py"), "--data", str(data), "--size", "16", "--width", "2"]
        command += ["--steps", "1000000", "--batch", "8", "--out", "run"]
        with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
            try:
                metrics, ends = tmp_path / "run" / "metrics.csv", time.monotonic() + PATIENCE
                while not (metrics.exists() and metrics.read_text().count("\n") > 2) and time.monotonic() < ends:
                    time.sleep(0.05)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        assert process.returncode == 130 and "Traceback" not in err
        assert {"losses.png", "weights.safetensors"} <= {path.name for path in metrics.parent.iterdir()}
        assert len(list((tmp_path / "run" / "samples").iterdir())) >= 4
        load_generator(tmp_path / "run")

    def test_the_plain_one_and_the_same_bits(self, call, data, tmp_path):
        for out in ("a", "b"):
            args = (
                "--autoencoder",
                "--data",
                data,
                "--size",
                16,
                "--steps",
                2,
                "--width",
                2,
                "--batch",
                8,
                "--out",
                tmp_path / out,
            )
            assert call("train_vae.py", *args)[0] == 0
        for name in ("metrics.csv", "weights.safetensors", "samples/reconstruction_000002.png"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / "metrics.csv").read_text().splitlines()[0] == "step,loss"
        assert_one_sentence(call("sample.py", tmp_path / "a"), "'autoencoder', which is no recipe to draw from")

    def test_one_can_draw_from_it_and_walk_through_it(self, call, vae, tmp_path):
        assert call("sample.py", vae, "--out", tmp_path / "a.png")[0] == 0
        assert call("interpolate.py", vae, "--pairs", 2, "--frames", 3, "--out", tmp_path)[0] == 0

    @pytest.mark.parametrize(
        "args, words",
        [
            (("--lr", "nan"), "learning rate"),
            (("--lr", 0), "learning rate"),
            (("--size", 18), "no multiple of 4"),
            (("--batch", 89), "too few for a batch of 89"),
            (("--data", "nowhere"), "nowhere"),
            (("--out", EXAMPLES), "already holds something"),
            (("--lr", 1e6), "no longer finite"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_bad_input(self, call, data, args, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        answer = call("train_vae.py", "--data", data, "--size", 16, "--width", 2, "--batch", 8, "--steps", 30, *args)
        code, out, err = answer
        assert_one_sentence((code, out, err[err.find("error: ") :]), words)


class TestLoad:
    def test_the_generator_of_the_run(self, plain):
        recipe, net, config = load_generator(plain)
        assert recipe is RECIPES["dcgan"] and config["width"] == 4
        weights = load_file(plain / "weights.safetensors")
        for name, a in state(net).items():
            assert_same(a, weights[f"generator.{name}"])

    def test_the_average_where_there_is_one(self, data, tmp_path):
        run = train("raschka_mlp_gan", data, tmp_path / "run", ema=0.5)
        _, net, _ = load_generator(run)
        weights = load_file(run / "weights.safetensors")
        for name, a in state(net).items():
            assert_same(a, weights[f"average.{name}"])
            assert (a != weights[f"generator.{name}"]).any()

    @pytest.mark.parametrize("name", ["atienza_dcgan", "wgan_gp_mnist"])
    def test_other_recipes(self, name, data, tmp_path):
        recipe, net, _ = load_generator(train(name, data, tmp_path / "run", width=2, steps=1))
        y, _ = net.forward(recipe.draw_z(np.random.default_rng(0), 2), train=False)
        assert y.shape == (2, 16, 16, 1)

    def test_labels(self):
        assert choose_labels(RECIPES["dcgan"], 4) is None
        assert_same(choose_labels(RECIPES["cgan"], 12), np.arange(12) % 10)
        assert_same(choose_labels(RECIPES["cgan"], 3, 0), np.zeros(3, int))

    def fails(self, run, *words):
        with pytest.raises(UserError) as error:
            load_generator(run)
        for word in words:
            assert word in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, None])
    def test_configs_that_cannot_be_read(self, broken, content):
        config = broken / "config.json"
        config.unlink() if content is None else config.write_bytes(content)
        self.fails(broken, "config.json is no readable config")

    @pytest.mark.parametrize("content", ["[]", "7", "null", "{}", '{"recipe": ["dcgan"]}', '"dcgan"'])
    def test_configs_of_something_else(self, broken, content):
        (broken / "config.json").write_text(content)
        self.fails(broken, "names no recipe")

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"recipe": "nosuchgan"}, "'nosuchgan', which is no recipe"),
            ({"size": None}, "no usable size"),
            ({"size": "16"}, "no usable size"),
            ({"size": 16.0}, "no usable size"),
            ({"width": 0}, "no usable width"),
            ({"width": True}, "no usable width"),
            ({"channels": -1}, "no usable channels"),
            ({"width": 10**12}, "no usable width"),
            ({"size": 33}, "size 33 cannot be reached"),
            ({"size": 32}, "the number of weights is another"),
            ({"size": 4096, "width": 4096}, "does not fit the generator"),  # no memory could hold it
            ({"width": 5}, "the number of weights is another"),
            ({"channels": 3}, "the number of weights is another"),
            ({"recipe": "atienza_dcgan"}, "does not fit the generator that config.json names, atienza_dcgan"),
            ({"recipe": "vae"}, "does not fit the generator that config.json names, vae"),
        ],
        ids=str,
    )
    def test_configs_that_do_not_fit(self, broken, change, words):
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps(config | change))
        self.fails(broken, words)

    @pytest.mark.parametrize("keep", [None, 0, 4, 100, -1])
    def test_weights_that_cannot_be_read(self, broken, keep):
        weights = broken / "weights.safetensors"
        content = weights.read_bytes()
        weights.unlink() if keep is None else weights.write_bytes(content[:keep])
        shutil.rmtree(broken / "checkpoints")
        self.fails(broken, "weights.safetensors is no readable weights file")

    def test_a_run_that_was_killed_has_its_last_checkpoint(self, plain, broken):
        (broken / "weights.safetensors").unlink()
        for name, a in state(load_generator(broken)[1]).items():
            assert_same(a, state(load_generator(plain)[1])[name])

    def change_weights(self, run, change):
        arrays = load_file(run / "weights.safetensors")
        save_file(change(arrays), run / "weights.safetensors")

    def test_weights_without_a_generator(self, broken):
        self.change_weights(broken, lambda arrays: {n: a for n, a in arrays.items() if n.startswith("discriminator.")})
        self.fails(broken, "the number of weights is another")

    def test_weights_under_other_names(self, broken):
        self.change_weights(broken, lambda arrays: {n.replace("gamma", "delta"): a for n, a in arrays.items()})
        self.fails(broken, "does not fit the generator")

    def test_weights_that_are_not_finite(self, broken):
        self.change_weights(broken, lambda arrays: arrays | {"generator.1.w": np.full_like(arrays["generator.1.w"], np.nan)})
        self.fails(broken, "not finite")

    def test_a_file_is_no_folder(self, plain):
        self.fails(plain / "config.json", "there is no run folder")
