"""examples/train_vae.py from a user's side: a folder, an exit status, a sentence; and drawing from what it leaves."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from example_runs import ENVIRONMENT, EXAMPLES, PATIENCE, assert_one_sentence, size_of, start, write_pictures
from PIL import Image
from reference import assert_same

from rawgan.training.load import load_generator


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def vae(data, tmp_path_factory):
    """A run of examples/train_vae.py."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    args = ("--data", data, "--size", 16, "--steps", 12, "--width", 2, "--batch", 8, "--out", out)
    code, said, err = start(out.parent, "train_vae.py", *args)
    assert code == 0, err
    first, *_, last = said.splitlines()
    assert (
        first.startswith("Device: cpu, computing with NumPy (")
        and last == f"12 steps done; pictures, curves, metrics and weights are in {out}/"
    )
    return out


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

    def test_the_plain_one_and_the_same_bits(self, example, data, tmp_path):
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
            assert example("train_vae.py", *args)[0] == 0
        for name in ("metrics.csv", "weights.safetensors", "samples/reconstruction_000002.png"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / "metrics.csv").read_text().splitlines()[0] == "step,loss"
        assert_one_sentence(example("sample.py", tmp_path / "a"), "'autoencoder', which is no recipe to draw from")

    def test_one_can_draw_from_it_and_walk_through_it(self, example, vae, tmp_path):
        assert example("sample.py", vae, "--out", tmp_path / "a.png")[0] == 0
        assert example("interpolate.py", vae, "--pairs", 2, "--frames", 3, "--out", tmp_path)[0] == 0

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
    def test_bad_input(self, example, data, args, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        answer = example("train_vae.py", "--data", data, "--size", 16, "--width", 2, "--batch", 8, "--steps", 30, *args)
        code, out, err = answer
        assert_one_sentence((code, out, err[err.find("error: ") :]), words)
