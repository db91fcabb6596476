"""examples/train_vae.py as a user calls it: folder, exit status, message, and samples."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rawgan.backend import CPU
from rawgan.cli.main import app
from rawgan.errors import UserError
from rawgan.training.checkpoint import checkpoints
from rawgan.training.load import load_generator
from rawgan.training.systems.autoencoder import CoderOptions
from rawgan.training.systems.base import Training
from rawgan.training.systems.run import resume
from rawgan.training.systems.run import start as start_training
from tests.cli.test_cli import rawgan, refused
from tests.support.example_runs import (
    ENVIRONMENT,
    EXAMPLES,
    PATIENCE,
    assert_one_sentence,
    size_of,
    start,
    write_pictures,
)
from tests.support.reference import assert_same
from tests.support.runs import assert_same_run, killed_at


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def vae(data, tmp_path_factory):
    """Return a run of examples/train_vae.py."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    args = ("--data", data, "--size", 16, "--steps", 12, "--width", 2, "--batch", 8, "--out", out)
    code, output, err = start(out.parent, "train_vae.py", *args)
    assert code == 0, err
    first, *_, last = output.splitlines()
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
            "checkpoints",
            "weights.safetensors",
        }
        samples = [
            f"{kind}_{step:06}.png" for kind in ("reconstruction", "step") for step in (0, 12)
        ]
        assert sorted(path.name for path in (vae / "samples").iterdir()) == samples
        for path in [vae / "losses.png", *(vae / "samples").iterdir()]:
            size_of(path)
        rows = list(csv.DictReader((vae / "metrics.csv").read_text().splitlines()))
        assert [row["step"] for row in rows] == ["10", "12"]
        for row in rows:
            loss, reconstruction, kl = (float(row[key]) for key in ("loss", "reconstruction", "kl"))
            assert loss == pytest.approx(reconstruction + kl) and reconstruction > 0 and kl > 0
        config = json.loads((vae / "config.json").read_text())
        assert (
            config.items()
            >= {
                "recipe": "vae",
                "size": 16,
                "channels": 1,
                "width": 2,
                "steps": 12,
                "batch": 8,
            }.items()
        )

    def test_its_loop_is_that_of_the_library(self, vae, data, tmp_path):
        """The loop in the example leaves the bytes of the library with the same options."""
        sizes = {"width": 2, "steps": 12, "batch": 8, "checkpoint_every": 5}
        told = CoderOptions(source=str(data), size=16, channels=1, **sizes)
        assert start_training(told, CPU, tmp_path / "run") == (12, 12)
        for name in ("metrics.csv", "weights.safetensors", "samples/step_000012.png"):
            assert (tmp_path / "run" / name).read_bytes() == (vae / name).read_bytes(), name

    def test_originals_stand_above_their_reconstructions(self, vae, data):
        originals = np.frombuffer(
            (data / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16
        ).reshape(-1, 16, 16)
        with Image.open(vae / "samples" / "reconstruction_000012.png") as picture:
            sheet = np.asarray(picture)[::4, ::4]
        assert sheet.shape == (8 * 17 + 1, 8 * 17 + 1)
        for n in range(32):
            top, left = 1 + n // 8 * 34, 1 + n % 8 * 17
            assert_same(sheet[top : top + 16, left : left + 16], originals[n])
            assert (sheet[top + 17 : top + 33, left : left + 16] != originals[n]).any()

    def test_ctrl_c_keeps_what_was_made(self, data, tmp_path):
        command = [
            sys.executable,
            str(EXAMPLES / "train_vae.py"),
            "--data",
            str(data),
            "--size",
            "16",
            "--width",
            "2",
        ]
        command += ["--steps", "1000000", "--batch", "8", "--out", "run"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                metrics, ends = tmp_path / "run" / "metrics.csv", time.monotonic() + PATIENCE
                while (
                    not (metrics.exists() and metrics.read_text().count("\n") > 2)
                    and time.monotonic() < ends
                ):
                    time.sleep(0.05)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        assert process.returncode == 130 and "Traceback" not in err
        assert {"losses.png", "weights.safetensors"} <= {
            path.name for path in metrics.parent.iterdir()
        }
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
        assert_one_sentence(
            example("sample.py", tmp_path / "a"), "'autoencoder', which is no recipe to draw from"
        )

    def test_one_can_draw_from_it_and_walk_through_it(self, example, vae, tmp_path):
        assert example("sample.py", vae, "--out", tmp_path / "a.png")[0] == 0
        assert (
            example("interpolate.py", vae, "--pairs", 2, "--frames", 3, "--out", tmp_path)[0] == 0
        )

    @pytest.mark.parametrize("recipe", ["vae", "autoencoder"])
    @pytest.mark.parametrize("at", [5, 7])  # before the first checkpoint, and after it
    def test_killed_and_resumed_is_the_same_run(self, recipe, at, data, tmp_path):
        """A run killed in step `at` and resumed equals one without interruption, bit for bit."""
        periods = {"sample_every": 4, "checkpoint_every": 6}
        told = CoderOptions(recipe, str(data), 16, width=2, steps=13, batch=8, **periods)
        assert start_training(told, CPU, tmp_path / "straight") == (13, 13)
        with killed_at(at, Training):
            start_training(told, CPU, tmp_path / "killed")
        assert list(checkpoints(tmp_path / "killed")) == [6] * (at > 6)
        assert resume(tmp_path / "killed", CPU) == (13, 13)
        assert_same_run(tmp_path / "killed", tmp_path / "straight")

    def test_a_resumed_one_is_sampled(self, example, data, tmp_path):
        """`rawgan train --resume` goes on with a finished run, and `rawgan sample` draws from it.

        It ends as the run that had all the steps from the start, and its samples are the same.
        """
        common = ("--data", data, "--size", 16, "--width", 2, "--batch", 8)
        for out, steps in (("resumed", 4), ("straight", 8)):
            told = (*common, "--steps", steps, "--checkpoint-every", 4, "--out", tmp_path / out)
            assert example("train_vae.py", *told)[0] == 0
        rawgan("train", "--resume", tmp_path / "resumed", "--steps", 8)
        pictures = []
        for out in ("resumed", "straight"):
            rawgan("sample", tmp_path / out, "--count", 5, "--out", tmp_path / f"{out}.npy")
            pictures.append(np.load(tmp_path / f"{out}.npy"))
        assert pictures[0].shape == (5, 16, 16, 1)
        assert_same(*pictures)
        refused(("train", "--resume", tmp_path / "resumed", "--lr", 1), "--lr cannot be given")

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
        answer = example(
            "train_vae.py",
            "--data",
            data,
            "--size",
            16,
            "--width",
            2,
            "--batch",
            8,
            "--steps",
            30,
            *args,
        )
        code, out, err = answer
        assert_one_sentence((code, out, err[err.find("error: ") :]), words)


@pytest.mark.parametrize("recipe", ["vae", "autoencoder"])
class TestResume:
    def options(self, recipe, data, **changes):
        fields = {"steps": 12, "sample_every": 4, "checkpoint_every": 2, "keep": 4} | changes
        return CoderOptions(recipe, str(data), width=2, batch=8, **fields)

    def test_in_parts_it_is_the_same_run(self, recipe, data, tmp_path):
        """So it is where the parts end between two checkpoints, and by the command."""
        start_training(self.options(recipe, data), CPU, tmp_path / "straight")
        start_training(self.options(recipe, data, steps=5), CPU, tmp_path / "run")
        assert resume(tmp_path / "run", CPU, steps=9) == (9, 9)
        told = ["train", "--resume", str(tmp_path / "run"), "--steps", "12", "--device", "cpu"]
        done = CliRunner().invoke(app, told)
        assert done.exit_code == 0 and "after step 9 of 12" in done.output, done.output
        assert_same_run(tmp_path / "run", tmp_path / "straight")
        with pytest.raises(UserError, match="has done its 12 steps"):
            resume(tmp_path / "run", CPU)

    def test_a_killed_one_goes_on_from_its_last_checkpoint(self, recipe, data, tmp_path, capsys):
        start_training(self.options(recipe, data), CPU, tmp_path / "straight")
        shutil.copytree(tmp_path / "straight", tmp_path / "run")
        (tmp_path / "run" / "weights.safetensors").unlink()
        (tmp_path / "run" / "checkpoints" / "step_000012.safetensors").unlink()
        assert list(checkpoints(tmp_path / "run")) == [6, 8, 10]
        for name in ("samples/reconstruction_000012.png", "checkpoints/step_000012.safetensors"):
            (tmp_path / "run" / f"{name}.0123456789abcdef.part").write_bytes(b"half")
        assert resume(tmp_path / "run", CPU) == (12, 12)
        assert "after step 10 of 12" in capsys.readouterr().out
        assert not list((tmp_path / "run").rglob("*.part"))
        assert_same_run(tmp_path / "run", tmp_path / "straight")

    def test_other_pictures_are_refused(self, recipe, data, tmp_path):
        start_training(self.options(recipe, data, steps=2), CPU, tmp_path / "run")
        other = np.random.default_rng(1).integers(256, size=(120, 16, 16), dtype=np.uint8)
        np.save(tmp_path / "other.npy", other)
        with pytest.raises(UserError, match="was trained on other pictures"):
            resume(tmp_path / "run", CPU, steps=4, source=str(tmp_path / "other.npy"))
