"""The command line `rawgan`: help pages, every command, exit statuses and messages."""

import io
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rawgan.cli.common import with_errors_printed
from rawgan.cli.main import COMMANDS, app
from rawgan.data import load
from rawgan.errors import alternatives, counted
from rawgan.models.recipes import RECIPES
from rawgan.penalties import R1
from rawgan.training.checkpoint import checkpoints
from rawgan.training.options import FIELDS
from rawgan.training.run_folder import RunFolder
from tests.support.process import run_process
from tests.support.runs import assert_same_run

ROOT = Path(__file__).parents[2]
TINY = ("--batch", 4, "--width", 4, "--device", "cpu")


def rawgan(*args, status=0):
    """Run the command line in this process; assert its exit status and return the result."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, args)))
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def refused(args, *words):
    """Assert exit status 2 and one sentence on stderr with all the words."""
    message = rawgan(*args, status=2).stderr
    assert message.startswith("error: ") and message.count("\n") == 1, message
    for word in words:
        assert word in message


class TestHelp:
    def test_the_whole(self):
        output = rawgan("--help").stdout
        for name in COMMANDS:
            assert f" {name} " in output
        assert rawgan(status=2).output.count("Usage:") == 1

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_page(self, name):
        """Every help page describes the command and each option, with an example for arguments."""
        output = rawgan(name, "--help").stdout
        assert COMMANDS[name].command.__doc__.split("\n")[0] in re.sub(r"\s+", " ", output)
        assert f"rawgan {name} " in output
        for row in re.findall(r"│ (?:\*  )?(--[\w-]+.*?)│", output):
            assert re.search(r"[a-z]{3,} [a-z(]|Show", row.split("<")[-1]), f"no help for {row}"

    def test_the_ranges_of_training_options(self):
        """A bound of an option of `rawgan train` is a value that Options accepts."""
        hints = get_type_hints(COMMANDS["train"].command, include_extras=True)
        bounds = [
            (name, bound)
            for name, hint in hints.items()
            for option in getattr(hint, "__metadata__", ())
            for bound in (option.min, option.max)
            if bound is not None
        ]
        assert len(bounds) >= 14
        for name, bound in bounds:
            assert FIELDS[name](bound), (name, bound)

    def test_as_a_module_and_as_a_program(self, tmp_path):
        done = run_process([sys.executable, "-m", "rawgan", "sample", "nowhere"], cwd=tmp_path)
        assert (
            done.returncode == 2
            and done.stderr
            == "error: there is no run folder nowhere; give one that a training left\n"
        )
        scripts = re.search(
            r"\[project.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL
        )[1]
        assert scripts == 'rawgan = "rawgan.cli.main:main"'

    def test_the_examples_show_their_options_and_defaults(self):
        for example, defaults in (
            ("train_cgan.py", ("--data", "default: 1200", "default: 16")),
            ("train_dcgan.py", ("--data", "default: 1500", "default: 32")),
            ("sample.py", ("--count",)),
        ):
            command = [sys.executable, str(ROOT / "examples" / example), "--help"]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for default in defaults:
                assert default in output


class TestFirstWords:
    """What a newcomer meets: misspelt names, the version, warnings, singular and plural."""

    def test_version(self):
        assert rawgan("--version").stdout == f"rawgan {version('rawgan')}\n"

    @pytest.mark.parametrize(
        "args, meant",
        [
            (("train", "dcgna"), "dcgan"),
            (("train", "wgan-gp"), "wgan_gp"),
            (("train", "dcgan", "--data", "fashon-mnist"), "fashion-mnist"),
            (("info", "acgn"), "acgan"),
            (("import", "a.safetensors", "--recipe", "hing", "--out", "b"), "hinge"),
        ],
    )
    def test_did_you_mean(self, args, meant):
        refused(args, f"did you mean {meant!r}? There are ")

    def test_a_misspelt_command_is_named(self):
        assert "Did you mean 'train'?" in rawgan("trian", "dcgan", status=2).stderr

    def test_a_name_that_resembles_nothing(self):
        assert alternatives("xyz", ["dcgan", "wgan"]) == "there are dcgan, wgan"

    def test_counts(self):
        assert [counted(n, "step") for n in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
        assert counted(2, "batch", "batches") == "2 batches"

    def test_warnings_have_no_source_path(self, capsys):
        def command():
            warnings.warn("CUDA path could not\nbe detected", stacklevel=1)

        with pytest.warns(UserWarning):  # pytest collects them: the caller's hook is restored
            with_errors_printed(command)()
            warnings.warn("another", stacklevel=1)
        assert capsys.readouterr().err == "warning: CUDA path could not\\nbe detected\n"


class TestInfo:
    def test_what_there_is(self):
        output = rawgan("info").stdout
        assert re.search(r"^NumPy +available", output, re.MULTILINE)
        assert re.search(r"^CuPy +(available: .+|not available: .{10,})", output, re.MULTILINE)
        assert re.search(
            r"^Triton kernels +(available|not available): .{10,}", output, re.MULTILINE
        )
        for name in RECIPES:
            assert re.search(rf"^{name} +[\d,]+ +[\d,]+ ", output, re.MULTILINE)
        assert "3,576,704" in output and "2,765,568" in output  # the DCGAN of pytorch/examples

    def test_of_a_plan(self, monkeypatch):
        """`info` of a plan needs a recipe or a run, and reports one that cannot be planned."""
        refused(("info", "nowhere"), "nowhere is no recipe and no run folder", "dcgan")
        refused(("info", "--batch", 3), "rawgan info RECIPE --batch 3")
        refused(("info", "dcgan", "--precision", "fp8"), "choose auto, fp32, bf16x3, tf32, bf16")
        refused(("info", "dcgan", "--size", 33), "size 33 cannot be reached")
        refused(("info", "dcgan", "--size", 4096, "--width", 4096), "not enough memory")
        monkeypatch.setitem(RECIPES, "wgan_gp", replace(RECIPES["wgan_gp"], penalty=R1()))
        assert re.search(
            r"^plan +none: .*the planned step does not support",
            rawgan("info", "wgan_gp").stdout,
            re.MULTILINE,
        )


class TestReadme:
    def commands(self):
        part = re.search(
            r"## Train on your own pictures\n(.*?)\n(?:## |MIT)",
            (ROOT / "README.md").read_text(),
            re.DOTALL,
        )[1]
        return [
            line
            for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
            for line in block.splitlines()
        ]

    def test_every_command_works(self, tmp_path, monkeypatch):
        """Every command of the README's section on training with user images runs.

        Commands that train for long run with few steps.
        """
        few = {"3000": "6", "20000": "1"}
        monkeypatch.chdir(tmp_path)
        (tmp_path / "path" / "to" / "pictures").mkdir(parents=True)
        for n, image in enumerate(load("digits", 32, 3).images[:70]):
            Image.fromarray(image).save(tmp_path / "path" / "to" / "pictures" / f"{n}.png")
        seen = set()
        for line in self.commands():
            program, *args = re.sub(
                r"--steps (\d+)", lambda match: f"--steps {few[match[1]]}", line
            ).split()
            assert program == "rawgan"
            if args[0] == "train" and "--steps" not in args:
                args += ["--steps", "3"]
            rawgan(*args)
            seen.add(args[0])
        assert seen >= {"train", "sample", "interpolate", "export", "import", "info"}
        assert (
            list(checkpoints(tmp_path / "runs" / "dcgan-digits-001"))[-1] == 6
        )  # three steps, and resumed
        with Image.open(tmp_path / "grid.png") as grid:
            assert grid.size == (4 * (10 * 17 + 1),) * 2
        assert np.load(tmp_path / "sevens.npy").shape == (1000, 16, 16, 1)
        assert len(list((tmp_path / "pictures").glob("*.png"))) == 20

    def test_the_files_of_a_run_are_the_ones_it_names(self, tmp_path):
        text = (ROOT / "README.md").read_text()
        args = ("--steps", 10, *TINY, "--tensorboard", "--out", tmp_path / "run")
        rawgan("train", "wgan_gp", *args)
        for path in (tmp_path / "run").iterdir():
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text, path.name


def event_file(path):
    """Return the steps from which events are dropped, and {tag: {step: value}} of an event file."""
    from tensorboardX.proto.event_pb2 import (
        Event,  # imported here: other tests import this file where it is not installed
        SessionLog,
    )

    content, at, begun, seen = path.read_bytes(), 0, [], {}
    while at < len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        at += 16 + length
        begun += [event.step] if event.session_log.status == SessionLog.START else []
        for value in event.summary.value:
            seen.setdefault(value.tag, {})[event.step] = value
    return begun, seen


class TestTrain:
    def test_recipes_that_there_are_not(self):
        refused(("train", "nosuchgan"), "'nosuchgan' is no recipe", "dcgan", "wgan_gp")
        refused(("train",), "name a recipe", "--resume RUN")

    @pytest.mark.parametrize(
        "option",
        [
            "--width 8",
            "--seed 1",
            "--skip-broken",
            "--batch 4",
            "--flip",
            "--augment color",
            "--out elsewhere",
            "dcgan",
        ],
    )
    def test_what_cannot_be_given_with_resume(self, option):
        name = option.split()[0] if option.startswith("-") else "recipe"
        refused(
            ("train", "--resume", "run", *option.split()), name, "cannot be given with --resume"
        )

    def test_the_run_of_an_example_is_resumed(self, example, tmp_path, monkeypatch):
        """A run of examples/train_dcgan.py goes on to the bits of a run of `rawgan train`."""
        monkeypatch.chdir(tmp_path)
        sizes = ("--width", 4, "--batch", 4)
        assert example("train_dcgan.py", *sizes, "--steps", 2, "--out", "run")[0] == 0
        output = rawgan("train", "--resume", "run", "--steps", 4).stdout
        assert "Resuming run after step 2 of 4." in output
        rawgan("train", "dcgan", *sizes, "--lr", 5e-4, "--steps", 4, "--out", "whole")
        assert_same_run(tmp_path / "run", tmp_path / "whole")

    def test_a_folder_of_pictures_is_found_again_from_elsewhere(self, tmp_path, monkeypatch):
        """A folder of images is found again from another working directory.

        This includes a folder with the name of its data set.
        """
        (tmp_path / "faces").mkdir()
        for n in range(9):
            Image.new("RGB", (20, 20), (20 * n, 0, 0)).save(tmp_path / "faces" / f"{n}.png")
        monkeypatch.chdir(tmp_path)
        args = ("--size", 16, "--width", 2, "--batch", 4, "--steps", 1, "--out", "run")
        rawgan("train", "dcgan", "--data", "faces", *args)
        monkeypatch.chdir("/")
        rawgan("train", "--resume", tmp_path / "run", "--steps", 2)
        Image.new("RGB", (20, 20)).save(tmp_path / "faces" / "9.png")
        refused(("train", "--resume", tmp_path / "run", "--steps", 3), "faces have changed since")

    def test_event_files(self, tmp_path, monkeypatch):
        """Losses, gradient norms, samples; a resumed run drops the events after its checkpoint.

        It has a file of its own, also within the second in which the first was made.
        """
        clock = SimpleNamespace(time=lambda: 1.7e9)
        monkeypatch.setattr("tensorboardX.event_file_writer.time", clock)
        folder = tmp_path / "run" / "tensorboard"
        rawgan("train", "dcgan", "--steps", 20, *TINY, "--tensorboard", "--out", tmp_path / "run")
        (first,) = folder.iterdir()
        begun, seen = event_file(first)
        assert begun == []
        rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
        assert seen["d_loss"][20].simple_value == pytest.approx(float(rows[-1].split(",")[1]))
        assert seen["gradients/generator.1.w"].keys() == {10, 20} and seen["samples"].keys() == {
            0,
            20,
        }
        with Image.open(io.BytesIO(seen["samples"][20].image.encoded_image_string)) as image:
            assert image.size == (8 * 17 + 1,) * 2
        rawgan("train", "--resume", tmp_path / "run", "--steps", 30)
        (second,) = set(folder.iterdir()) - {first}
        begun, seen = event_file(second)
        assert begun == [21] and seen["d_loss"].keys() == {30}

    def test_an_event_file_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        args = (
            "--steps",
            1,
            "--batch",
            4,
            "--width",
            4,
            "--tensorboard",
            "--out",
            tmp_path / "run",
        )
        refused(("train", "dcgan", *args), "needs the package tensorboardX", "rawgan[tensorboard]")
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    rawgan(
        "train",
        "cgan",
        "--steps",
        1,
        "--batch",
        4,
        "--width",
        2,
        "--out",
        folder,
        "--device",
        "cpu",
    )
    return folder


class TestSample:
    def test_the_same_pictures_in_every_form(self, run, tmp_path):
        for out in ("a.npy", "a.png", "folder"):
            rawgan("sample", run, "--count", 20, "--seed", 3, "--out", tmp_path / out)
        images = np.load(tmp_path / "a.npy")
        assert images.shape == (20, 16, 16, 1) and images.dtype == np.uint8
        with Image.open(tmp_path / "a.png") as grid:
            sheet = np.asarray(grid)[::4, ::4]
        names = sorted(path.name for path in (tmp_path / "folder").iterdir())
        assert names == [f"{n:06}.png" for n in range(20)]
        for n, name in enumerate(names):
            top, left = 1 + 17 * (n // 10), 1 + 17 * (n % 10)
            np.testing.assert_array_equal(
                sheet[top : top + 16, left : left + 16], images[n, ..., 0]
            )
            with Image.open(tmp_path / "folder" / name) as image:
                np.testing.assert_array_equal(np.asarray(image), images[n, ..., 0])

    def test_one_class(self, run, tmp_path):
        rawgan("sample", run, "--count", 3, "--label", 7, "--out", tmp_path / "a.npy")
        rawgan("sample", run, "--count", 20, "--out", tmp_path / "b.npy")
        assert (
            np.load(tmp_path / "a.npy")[0] != np.load(tmp_path / "b.npy")[0]
        ).any()  # equal z, labels 7 and 0
        refused(("sample", run, "--label", 10), "labels 0 to 9")

    def test_places_that_make_no_sense(self, run, tmp_path):
        refused(("sample", run, "--out", tmp_path / "a.tiff"), "a.tiff")
        (tmp_path / "file").write_text("in the way")
        refused(("sample", run, "--out", tmp_path / "file"), "is there already", "--force")
        refused(("sample", run, "--out", tmp_path / "file", "--force"), "cannot be written")


def test_a_run_says_what_made_it(tmp_path, monkeypatch):
    """A run records its versions, and the commit only where rawgan is a git checkout."""
    run = RunFolder.new(tmp_path / "a", {}, {})
    config = json.loads((run.path / "config.json").read_text())
    assert config["versions"].keys() == {"rawgan", "python", "numpy", "blas"}
    assert config["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", config["commit"])
    assert (config["commit"] is not None) == (ROOT / ".git").exists()
    monkeypatch.setattr("shutil.which", lambda name: None)
    RunFolder.new(tmp_path / "b", {}, {})
    assert json.loads((tmp_path / "b" / "config.json").read_text())["commit"] is None
