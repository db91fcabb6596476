"""examples/train_dcgan.py as a user calls it: process, folder, exit status, message."""

import csv
import json
import os
import re
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

from rawgan.data import idx
from rawgan.layers import Parameters, state
from rawgan.models.dcgan import dcgan_discriminator, dcgan_generator
from rawgan.training.run_folder import load_weights

ROOT = Path(__file__).parents[2]
SCRIPT = Path("examples", "train_dcgan.py")
TINY = ("--steps", 12, "--batch", 8, "--width", 4)
PATIENCE = 120  # timeout of a run in seconds, for a busy machine


def start(cwd, *args, root=ROOT, python=()):
    """Start the example in a new process on the CPU, with working folder `cwd`."""
    command = [sys.executable, *python, str(root / SCRIPT), *map(str, args)]
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
    }
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """Return (exit status, stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


def trained(cwd, *args, **options):
    """Return the folder and the output of a tiny run that succeeds."""
    code, out, err = finish(start(cwd, *TINY, *args, **options))
    assert code == 0, err
    return Path(cwd, re.search(r" are in (.+)/\n", out)[1]), out


def assert_whole(run, logged, samples):
    """Assert that a folder has exactly the expected files, readable and for these steps.

    Return the configuration.
    """
    names = {
        "config.json",
        "metrics.csv",
        "gradients.csv",
        "samples",
        "checkpoints",
        "weights.safetensors",
    }
    assert {path.name for path in run.iterdir()} == names | {
        "losses.png",
        "gradients.png",
        "progress.gif",
        "real.png",
    }
    text = (run / "metrics.csv").read_text()
    assert text.endswith("\n")
    assert [path.name for path in (run / "checkpoints").iterdir()] == [
        f"step_{samples[-1]:06}.safetensors"
    ]
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["step"]) for row in rows] == logged
    for row in rows:
        assert row.keys() >= {"step", "d_loss", "g_loss", "d_real", "d_fake"}
        assert all(np.isfinite(float(value)) for value in row.values())
        assert 0 < float(row["d_real"]) < 1 and 0 < float(row["d_fake"]) < 1
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        f"step_{step:06}.png" for step in samples
    ]
    for path in [run / "losses.png", *(run / "samples").iterdir()]:
        with Image.open(path) as image:
            assert (
                image.format == "PNG" and len(set(image.convert("L").tobytes())) > 2
            )  # decodes the whole image; more than the background
    weights = load_weights(run / "weights.safetensors")
    for name, net in (
        ("generator", dcgan_generator(16, 1, 4)),
        ("discriminator", dcgan_discriminator(16, 1, 4)),
    ):
        arrays = {
            key.removeprefix(f"{name}."): a
            for key, a in weights.items()
            if key.startswith(f"{name}.")
        }
        Parameters(net).load(arrays)  # raises unless names and shapes match the network's
        for key, a in state(net).items():
            assert np.isfinite(a).all() and len(np.unique(a)) > 1, key
    return json.loads((run / "config.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return folder and output of a tiny run, to compare others with."""
    return trained(tmp_path_factory.mktemp("run"), "--seed", 5)


class TestRun:
    def test_leaves_everything(self, run):
        config = assert_whole(run[0], [10, 12], [0, 12])
        asked = {
            "data": "digits",
            "size": 16,
            "channels": 1,
            "width": 4,
            "steps": 12,
            "batch": 8,
            "seed": 5,
            "real_label": 1.0,
        }
        assert asked.items() <= config.items()
        assert (config["device"], config["path"], config["precision"], config["backend"]) == (
            "cpu",
            "arrays",
            "fp32",
            "NumPy",
        )
        assert [config[f"requested_{name}"] for name in ("device", "path", "precision")] == [
            "auto"
        ] * 3

    def test_says_where_it_runs_and_why(self, run):
        first, *lines, last = run[1].splitlines()
        assert re.fullmatch(r"Device: cpu \(.{10,}\)\.", first)
        assert "Path: arrays in fp32 with NumPy (auto: the planned step needs a GPU)." in lines
        assert last.startswith("12 steps done; ")

    def test_same_seed_same_bytes(self, run, tmp_path):
        again, _ = trained(tmp_path, "--seed", 5, "--out", "elsewhere")
        for name in ("metrics.csv", "weights.safetensors", "samples/step_000012.png"):
            assert (again / name).read_bytes() == (run[0] / name).read_bytes(), name

    def test_another_seed_another_run(self, run, tmp_path):
        other, _ = trained(tmp_path, "--seed", 6)
        for name in (
            "metrics.csv",
            "weights.safetensors",
            "samples/step_000000.png",
            "samples/step_000012.png",
        ):
            assert (other / name).read_bytes() != (run[0] / name).read_bytes(), name

    def test_from_a_plain_checkout_in_any_working_folder(self, tmp_path):
        """In any working folder the example uses its checkout's package and writes its run."""
        checkout, work = tmp_path / "checkout", tmp_path / "work"
        work.mkdir()
        for name in ("rawgan", "kernels", "examples"):
            shutil.copytree(
                ROOT / name,
                checkout / name,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        init = checkout / "rawgan" / "__init__.py"
        init.write_text(init.read_text() + '__version__ = "of the checkout"\n')
        before = sorted(checkout.rglob("*"))
        for number in ("001", "002"):
            folder, _ = trained(work, root=checkout)
            assert folder == work / "runs" / f"dcgan-digits-{number}"
            assert (
                json.loads((folder / "config.json").read_text())["versions"]["rawgan"]
                == "of the checkout"
            )
        assert sorted(checkout.rglob("*")) == before

    def test_never_imports_torch(self, tmp_path):
        _, _, err = finish(start(tmp_path, *TINY, python=("-X", "importtime")))
        modules = {
            line.rpartition("|")[2].strip().partition(".")[0]
            for line in err.splitlines()
            if line.startswith("import time:")
        }
        assert {"numpy", "rawgan"} <= modules
        assert not {"torch", "scipy", "tensorflow", "jax"} & modules


def test_ctrl_c_keeps_what_was_made(tmp_path):
    process = start(
        tmp_path, "--steps", 10**6, "--batch", 8, "--width", 4, "--sample-every", 20, "--out", "run"
    )
    first = process.stdout.readline()  # immediately, not at the end
    run, deadline = tmp_path / "run", time.monotonic() + PATIENCE
    while (
        not (run / "samples" / "step_000020.png").exists()
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert first.startswith("Device: cpu")
    assert code == 130 and "Traceback" not in err
    done = int(
        re.search(
            r"^(\d+) steps done; samples, curves, metrics and weights are in run/$",
            out,
            re.MULTILINE,
        )[1]
    )
    assert_whole(run, [*range(10, done + 1, 10)], sorted({*range(0, done, 20), done}))


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusal(tmp_path, *args):
    """Return the one sentence on stderr of a command that fails without a traceback."""
    before = contents(tmp_path)
    code, _, err = finish(start(tmp_path, *TINY, *args))
    assert code == 2, err
    assert contents(tmp_path) == before
    assert "Traceback" not in err
    lines = [
        re.sub("[─│╭╮╰╯]", "", line).strip() for line in err.splitlines()
    ]  # the frame that typer draws
    errors = [
        line
        for line in lines
        if line and not line.startswith(("Usage:", "Try ")) and line != "Error"
    ]
    assert len(errors) == 1, err
    return errors[0].removeprefix("error: ")


def write_idx(folder, images, labels):
    """Write the two IDX files of a training split, given as bytes."""
    folder.mkdir()
    for stem, content in zip(idx.STEMS["train"], (images, labels)):
        (folder / stem).write_bytes(content)


IDX_IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 20, 28, 28) + bytes(20 * 28 * 28)
IDX_LABELS = bytes([0, 0, 8, 1]) + struct.pack(">I", 20) + bytes(20)


class TestRefuses:
    @pytest.mark.parametrize(
        "args, words",
        [
            ("--device gpu", "gpu cpu auto"),
            ("--device foo", "foo auto cpu gpu"),
            ("--size 33", "33 32"),
            ("--size 0", "size"),
            ("--channels 2", "2 channels"),
            ("--data nowhere", "nowhere digits"),
            ("--batch 9000", "9000 8192"),
            ("--batch 1", "batch 2"),
            ("--steps 0", "steps 1"),
            ("--steps many", "steps integer"),
            ("--lr nan", "nan"),
            ("--lr inf", "inf"),
            ("--lr -0.001", "-0.001"),
            ("--lr 0", "0 positive"),
            ("--seed -1", "seed"),
            ("--real-label 1.5", "real-label 1"),
            ("--real-label nan", "real-label"),
        ],
    )
    def test_what_makes_no_sense(self, tmp_path, args, words):
        message = refusal(tmp_path, *args.split(), "--out", "run")
        for word in words.split():
            assert word in message

    @pytest.mark.parametrize(
        "images, labels, file, word",
        [
            (IDX_IMAGES[:5000], IDX_LABELS, 0, "bytes"),
            (IDX_IMAGES[:7], IDX_LABELS, 0, ""),
            (b"\x1f\x8b" + IDX_IMAGES[2:], IDX_LABELS, 0, ""),
            (b"PK\x03\x04" + IDX_IMAGES[4:], IDX_LABELS, 0, ""),
            (IDX_IMAGES, IDX_LABELS[:-3], 1, ""),
        ],
        ids=[
            "truncated",
            "truncated header",
            "wrong magic: gzip",
            "wrong magic",
            "truncated labels",
        ],
    )
    def test_broken_idx_files(self, tmp_path, images, labels, file, word):
        write_idx(tmp_path / "data", images, labels)
        message = refusal(tmp_path, "--data", "data", "--out", "run")
        assert str(Path("data", idx.STEMS["train"][file])) in message and word in message

    def test_the_same_idx_files_whole(self, tmp_path):
        """The undamaged IDX files are accepted, so the test above refuses only the damage."""
        write_idx(tmp_path / "data", IDX_IMAGES, IDX_LABELS)
        folder, out = trained(tmp_path, "--data", "data")
        assert "20 images of 28x28x1" in out and (folder / "weights.safetensors").exists()

    def test_a_folder_with_a_broken_picture(self, tmp_path):
        (tmp_path / "data").mkdir()
        for n in range(10):
            Image.new("RGB", (20, 20), (n, 0, 0)).save(tmp_path / "data" / f"{n}.png")
        broken = tmp_path / "data" / "7.png"
        broken.write_bytes(broken.read_bytes()[:50])
        assert str(Path("data", "7.png")) in refusal(tmp_path, "--data", "data", "--out", "run")

    def test_a_folder_that_holds_something(self, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "precious.txt").write_text("of last week")
        assert "run already holds something" in refusal(tmp_path, "--out", "run")

    def test_a_file_as_folder_or_above_it(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        assert "file already is a file" in refusal(tmp_path, "--out", "file")
        assert str(Path("file", "run")) in refusal(tmp_path, "--out", "file/run")

    @pytest.mark.skipif(
        not Path("/proc/self").exists(),
        reason="needs a folder that nobody, not even root, can write to: /proc",
    )
    def test_a_folder_that_cannot_be_written(self, tmp_path):
        assert "/proc/run" in refusal(tmp_path, "--out", "/proc/run")
