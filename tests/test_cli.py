"""The command line `rawgan`: every page of help, every command, exit statuses and sentences."""

import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rawgan.cli.main import COMMANDS, app
from rawgan.data import load
from rawgan.models.recipes import RECIPES
from rawgan.training.checkpoint import checkpoints
from rawgan.training.run import RunFolder

ROOT = Path(__file__).parents[1]


def rawgan(*args, status=0):
    """The command line in this process; its result, whose exit status must be `status`."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, args)))
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def refused(args, *words):
    """Exit status 2 and one sentence on stderr with all the words."""
    said = rawgan(*args, status=2).stderr
    assert said.startswith("error: ") and said.count("\n") == 1, said
    for word in words:
        assert word in said


class TestHelp:
    def test_the_whole(self):
        said = rawgan("--help").stdout
        for name in COMMANDS:
            assert f" {name} " in said
        assert rawgan(status=2).output.count("Usage:") == 1

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_page(self, name):
        """Each has a sentence on what it does, a sentence for each option, and where it takes arguments an example."""
        said = rawgan(name, "--help").stdout
        assert COMMANDS[name].command.__doc__.split("\n")[0] in re.sub(r"\s+", " ", said)
        assert f"rawgan {name} " in said
        for row in re.findall(r"│ (?:\*  )?(--[\w-]+.*?)│", said):
            assert re.search(r"[a-z]{3,} [a-z(]|Show", row.split("<")[-1]), f"no help for {row}"

    def test_as_a_module_and_as_a_program(self, tmp_path):
        done = subprocess.run([sys.executable, "-m", "rawgan", "sample", "nowhere"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr == "error: there is no run folder nowhere; give one that a training left\n"
        scripts = re.search(r"\[project.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
        assert scripts == 'rawgan = "rawgan.cli.main:main"'

    def test_the_examples_have_the_same_help_with_their_own_defaults(self):
        for example, defaults in (("train_cgan.py", ("default: cgan", "default: 32")), ("sample.py", ("--count",))):
            command = [sys.executable, str(ROOT / "examples" / example), "--help"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for default in defaults:
                assert default in said


class TestInfo:
    def test_what_there_is(self):
        said = rawgan("info").stdout
        assert re.search(r"^NumPy +available", said, re.MULTILINE)
        assert re.search(r"^CuPy +(available: .+|not available: .{10,})", said, re.MULTILINE)
        assert re.search(r"^Triton kernels +(available|not available): .{10,}", said, re.MULTILINE)
        for name in RECIPES:
            assert re.search(rf"^{name} +[\d,]+ +[\d,]+ ", said, re.MULTILINE)
        assert "3,576,704" in said and "2,765,568" in said  # the DCGAN of pytorch/examples

    def test_of_a_plan(self):
        """Refused unless it is of a recipe or a run; one that has no plan is told so."""
        refused(("info", "nowhere"), "nowhere is no recipe and no run folder", "dcgan")
        refused(("info", "--batch", 3), "rawgan info RECIPE --batch 3")
        refused(("info", "dcgan", "--precision", "fp8"), "choose fp32, tf32, bf16")
        refused(("info", "dcgan", "--size", 33), "size 33 cannot be reached")
        refused(("info", "dcgan", "--size", 4096, "--width", 4096), "not enough memory")
        assert re.search(r"^plan +none: .*the planned step does not know", rawgan("info", "acgan").stdout, re.MULTILINE)


class TestReadme:
    def commands(self):
        part = re.search(r"## Train on your own pictures\n(.*?)\n(?:## |MIT)", (ROOT / "README.md").read_text(), re.DOTALL)[1]
        return [line for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL) for line in block.splitlines()]

    def test_every_command_works(self, tmp_path, monkeypatch):
        """Of the part on the command line, in their order; those that would train for long with few steps."""
        few = {"1500": "3", "3000": "6", "20000": "1"}
        monkeypatch.chdir(tmp_path)
        (tmp_path / "path" / "to" / "pictures").mkdir(parents=True)
        for n, image in enumerate(load("digits", 32, 3).images[:70]):
            Image.fromarray(image).save(tmp_path / "path" / "to" / "pictures" / f"{n}.png")
        seen = set()
        for line in self.commands():
            program, *args = re.sub(r"--steps (\d+)", lambda match: f"--steps {few[match[1]]}", line).split()
            assert program == "rawgan"
            rawgan(*args)
            seen.add(args[0])
        assert seen >= {"train", "sample", "interpolate", "export", "import", "info"}
        assert list(checkpoints(tmp_path / "runs" / "dcgan-digits-001"))[-1] == 6  # three steps, and resumed
        with Image.open(tmp_path / "grid.png") as grid:
            assert grid.size == (4 * (10 * 17 + 1),) * 2
        assert np.load(tmp_path / "sevens.npy").shape == (1000, 16, 16, 1)
        assert len(list((tmp_path / "pictures").glob("*.png"))) == 20

    def test_the_files_of_a_run_are_the_ones_it_names(self, tmp_path):
        text = (ROOT / "README.md").read_text()
        rawgan("train", "wgan_gp", "--steps", 10, "--batch", 4, "--width", 4, "--tensorboard", "--out", tmp_path / "run")
        for path in (tmp_path / "run").iterdir():
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text, path.name


class TestTrain:
    def test_recipes_that_there_are_not(self):
        refused(("train", "nosuchgan"), "'nosuchgan' is no recipe", "dcgan", "wgan_gp")
        refused(("train",), "say which recipe", "--resume RUN")

    @pytest.mark.parametrize("option", ["--width 8", "--lr 1e-3", "--seed 1", "--data mnist", "--flip", "--out elsewhere", "dcgan"])
    def test_what_cannot_be_given_with_resume(self, option):
        name = option.split()[0] if option.startswith("-") else "recipe"
        refused(("train", "--resume", "run", *option.split()), name, "cannot be given with --resume")

    def test_an_example_resumes_too(self, tmp_path, monkeypatch, capsys):
        """Its own defaults are no options that were given."""
        monkeypatch.chdir(tmp_path)
        told = ["--width", "4", "--batch", "4", "--steps", "2", "--out", "run"]
        for args in (told, ["--resume", "run", "--steps", "4"]):
            monkeypatch.setattr(sys, "argv", ["train_dcgan.py", "--device", "cpu", *args])
            with pytest.raises(SystemExit) as leaving:
                runpy.run_path(str(ROOT / "examples" / "train_dcgan.py"), run_name="__main__")
            assert not leaving.value.code
        assert "Resuming run after step 2 of 4." in capsys.readouterr().out

    def test_a_folder_of_pictures_is_found_again_from_elsewhere(self, tmp_path, monkeypatch):
        """Also one that has the name of its data set, which is the folder's own."""
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

    def test_an_event_file(self, tmp_path):
        from tensorboardX.proto.event_pb2 import Event  # here: other tests import this file where it is not installed

        rawgan("train", "dcgan", "--steps", 20, "--batch", 4, "--width", 4, "--tensorboard", "--out", tmp_path / "run")
        (path,) = (tmp_path / "run" / "tensorboard").iterdir()
        content, at, seen = path.read_bytes(), 0, {}
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                seen.setdefault(value.tag, {})[event.step] = value
        rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
        assert seen["d_loss"][20].simple_value == pytest.approx(float(rows[-1].split(",")[1]))
        assert seen["gradients/generator.1.w"].keys() == {10, 20} and seen["samples"].keys() == {0, 20}
        with Image.open(io.BytesIO(seen["samples"][20].image.encoded_image_string)) as image:
            assert image.size == (8 * 17 + 1,) * 2

    def test_an_event_file_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        args = ("--steps", 1, "--batch", 4, "--width", 4, "--tensorboard", "--out", tmp_path / "run")
        refused(("train", "dcgan", *args), "needs the package tensorboardX", "rawgan[tensorboard]")
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    rawgan("train", "cgan", "--steps", 1, "--batch", 4, "--width", 2, "--out", folder, "--device", "cpu")
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
            np.testing.assert_array_equal(sheet[top : top + 16, left : left + 16], images[n, ..., 0])
            with Image.open(tmp_path / "folder" / name) as image:
                np.testing.assert_array_equal(np.asarray(image), images[n, ..., 0])

    def test_one_class(self, run, tmp_path):
        rawgan("sample", run, "--count", 3, "--label", 7, "--out", tmp_path / "a.npy")
        rawgan("sample", run, "--count", 20, "--out", tmp_path / "b.npy")
        assert (np.load(tmp_path / "a.npy")[0] != np.load(tmp_path / "b.npy")[0]).any()  # z the same, labels 7 and 0
        refused(("sample", run, "--label", 10), "labels 0 to 9")

    def test_places_that_make_no_sense(self, run, tmp_path):
        refused(("sample", run, "--out", tmp_path / "a.tiff"), "a.tiff")
        (tmp_path / "file").write_text("in the way")
        refused(("sample", run, "--out", tmp_path / "file"), "cannot be made")


def test_a_run_says_what_made_it(tmp_path, monkeypatch):
    """The commit only where rawgan is a git checkout."""
    run = RunFolder.new(tmp_path / "a", {}, {})
    config = json.loads((run.path / "config.json").read_text())
    assert config["versions"].keys() == {"rawgan", "python", "numpy"}
    assert config["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", config["commit"])
    assert (config["commit"] is not None) == (ROOT / ".git").exists()
    monkeypatch.setattr("shutil.which", lambda name: None)
    RunFolder.new(tmp_path / "b", {}, {})
    assert json.loads((tmp_path / "b" / "config.json").read_text())["commit"] is None
