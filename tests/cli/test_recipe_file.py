"""`rawgan train my_recipe.py`: recipes in files, their errors, and what executes their code."""

import json
import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.models.recipe_file import check_networks, read_recipe_file
from rawgan.models.recipes import RECIPES
from rawgan.training.checkpoint import checkpoints, load_checkpoint
from rawgan.training.load import load_generator
from rawgan.training.options import Options, find_recipe
from rawgan.training.short_run import ShortRun
from rawgan.training.train import resume, start
from tests.support.runs import assert_same_run, options
from tests.training.test_outputs import rawgan

pytestmark = pytest.mark.usefixtures("nothing_plotted")
EXAMPLE = Path(__file__).parents[2] / "examples" / "my_recipe.py"
TINY = ("--width", 4, "--batch", 8, "--device", "cpu")
LOADED = 'import os\nos.environ["RECIPE_FILE_EXECUTED"] = "yes"\n'


def write(path: Path, *changes: tuple[str, str], end: str = "") -> Path:
    """Write the example with changes, and a line at its end; return the path."""
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text + end)
    return path


def refused(*args) -> str:
    """Return the one sentence of a command line that must end with status 2."""
    message = rawgan(*args, status=2).stderr
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, nothing_plotted):
    """Return a finished run of a recipe file, whose code says when it is executed."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "mine.py", end=LOADED)
    rawgan("train", folder / "mine.py", *TINY, "--steps", 4, "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def executed(monkeypatch):
    """Return a function: whether the code of the run's recipe file was executed since."""
    monkeypatch.delenv("RECIPE_FILE_EXECUTED", raising=False)
    yield lambda: "RECIPE_FILE_EXECUTED" in os.environ
    os.environ.pop("RECIPE_FILE_EXECUTED", None)


class TestTrain:
    def test_the_example(self, tmp_path):
        """The folder of the run has a copy of the file, and config.json its checksum."""
        output = rawgan("train", EXAMPLE, *TINY, "--steps", 3).stdout
        folder = tmp_path / "runs" / "my_gan-digits-001"
        assert "Recipe: my_gan, an example of the documentation. G has 2,476 parameters" in output
        assert f"rawgan train {EXAMPLE} --source" in output
        assert (folder / "recipe.py").read_bytes() == EXAMPLE.read_bytes()
        config = json.loads((folder / "config.json").read_text())
        assert config["recipe"] == "my_gan"
        assert config["recipe_sha256"] == sha256(EXAMPLE.read_bytes()).hexdigest()
        assert config["steps"] == 3 and config["size"] == 16
        _, state = load_checkpoint(checkpoints(folder)[3])
        assert state["identity"]["recipe_sha256"] == config["recipe_sha256"]

    def test_the_bits_are_those_of_the_recipe_in_the_library(self, tmp_path, monkeypatch):
        recipe = replace(find_recipe(str(EXAMPLE)), file=None)
        with monkeypatch.context() as patch:
            patch.setitem(RECIPES, "my_gan", recipe)
            start(options("my_gan", batch=8, steps=4, lr=2e-4), Path("library"))
        rawgan("train", EXAMPLE, *TINY, "--lr", 2e-4, "--steps", 4, "--out", "file")
        got, want = (Path(run, "weights.safetensors").read_bytes() for run in ("file", "library"))
        assert got == want

    def test_the_default_setting_and_the_options(self):
        default, changed = (
            Options.with_defaults(str(EXAMPLE), **options) for options in ({}, {"width": 7})
        )
        assert (default.width, default.steps, default.size) == (128, 6000, 16)
        assert (changed.width, changed.recipe) == (7, "my_gan")
        of_source = Options.with_defaults(str(EXAMPLE), source=True)
        assert (of_source.data, of_source.size, of_source.steps) == ("mnist", 28, 40_000)

    def test_info(self):
        output = rawgan("info", EXAMPLE, "--width", 8).stdout
        assert "my_gan, images of 16x16x1, width 8" in output and "launches" in output
        assert "digits of 16x16x1, width 128, lr 0.0002, batch 64, 6,000 steps" in output

    def test_resumed_is_the_same_run(self):
        rawgan("train", EXAMPLE, *TINY, "--steps", 8, "--out", "whole")
        rawgan("train", EXAMPLE, *TINY, "--steps", 4, "--out", "half")
        rawgan("train", "half/recipe.py", "--resume", "half", "--steps", 8)
        assert_same_run(Path("half"), Path("whole"))

    def test_a_start_that_was_killed_before_the_copy_is_resumed(self, run, tmp_path):
        """A folder without recipe.py has it again."""
        copy = shutil.copytree(run, tmp_path / "copy")
        (copy / "recipe.py").unlink()
        rawgan("train", run / "recipe.py", "--resume", copy, "--steps", 6)
        assert (copy / "recipe.py").read_bytes() == (run / "recipe.py").read_bytes()

    def test_a_start_that_fails_leaves_nothing(self, monkeypatch):
        def broken(*_):
            raise UserError("no picture can be written")

        monkeypatch.setattr("rawgan.training.callbacks.save_grid", broken)
        assert "no picture" in refused("train", EXAMPLE, *TINY, "--out", "run")
        assert not Path("run").exists()

    def test_conditional(self, tmp_path):
        """A recipe with labels, built from another of the library, and drawn by label."""
        (tmp_path / "labels.py").write_text(
            "from dataclasses import replace\n"
            "from rawgan.losses import LeastSquares\n"
            "from rawgan.models.recipes import RECIPES\n"
            'CGAN = RECIPES["cgan"]\n'
            'lscgan = replace(CGAN, name="lscgan", objective=LeastSquares())\n'
        )
        rawgan("train", "labels.py", *TINY, "--steps", 1, "--out", "run")
        rawgan("sample", "run", "--recipe", "labels.py", "--label", 7, "--out", "x.npy")
        assert np.load("x.npy").shape == (64, 16, 16, 1)

    def test_a_short_run_keeps_the_file_too(self):
        run = ShortRun(Options.with_defaults(str(EXAMPLE), width=4, batch=8, device="cpu"))
        run.save_weights()
        with pytest.raises(UserError, match="a program, which is executed only where you name it"):
            load_generator(run.folder.path)
        recipe, _, config = load_generator(run.folder.path, recipe_file=EXAMPLE)
        assert recipe.name == config["recipe"] == "my_gan"

    def test_imported_networks(self, run):
        file = run / "recipe.py"
        options = ("--recipe", file)
        for player in ("generator", "discriminator"):
            rawgan("export", run, "--player", player, "--out", f"{player}.safetensors", *options)
        command = ("import", "generator.safetensors", "--discriminator")
        output = rawgan(*command, "discriminator.safetensors", *options, "--out", "new").stdout
        assert f"rawgan sample new --recipe {file}" in output
        rawgan("sample", "new", *options)
        assert "rawgan train new/recipe.py --resume new" in refused("train", "--resume", "new")
        rawgan("train", file, "--resume", "new", "--steps", 2, "--batch", 8, "--device", "cpu")


class TestFaults:
    """What is wrong with a file is one sentence, with the line where there is one."""

    @pytest.mark.parametrize(
        "code, message",
        [
            ("", "mine.py defines no Recipe: end it with RECIPE = Recipe(...)"),
            ("from rawgan.models.recipes import DCGAN", "mine.py defines no Recipe"),
            ("RECIPE = 3", "RECIPE in mine.py is no Recipe but a int"),
            ("x = (", "mine.py, line 1: SyntaxError: '(' was never closed"),
            ("\nx = y + 1", "mine.py, line 2: NameError: name 'y' is not defined"),
            ("import nosuchmodule", "mine.py, line 1: ModuleNotFoundError: No module named 'nos"),
            ("def f():\n    return 1 / 0\n\nf()", "mine.py, line 2: ZeroDivisionError: division"),
            ("import sys\nsys.exit(3)", "mine.py, line 2: SystemExit: 3"),
            ("raise ValueError('a\\nb\\x1b[2J')", "mine.py, line 1: ValueError: a b\\x1b[2J"),
            (
                "from rawgan.models.recipe import Recipe\nRECIPE = Recipe(name='a')",
                "mine.py, line 2: TypeError: ",
            ),
            (
                "from rawgan.models.recipes import DCGAN as RECIPE",
                "the recipe in mine.py is called dcgan, as one of rawgan is",
            ),
        ],
    )
    def test_the_code(self, tmp_path, code, message):
        (tmp_path / "mine.py").write_text(code)
        for command in (("train", "mine.py"), ("info", "mine.py")):
            assert message in refused(*command)

    def test_no_file(self, tmp_path):
        assert "the recipe file no.py cannot be read: No such file" in refused("train", "no.py")
        (tmp_path / "folder.py").mkdir()
        assert "it is a folder, not a file" in refused("train", "folder.py")
        (tmp_path / "bytes.py").write_bytes(b"\xff\0")
        assert "bytes.py" in refused("train", "bytes.py")

    def test_two_recipes(self, tmp_path):
        """One of several is called RECIPE; names with an underscore and second names are free."""
        two = "\nfrom dataclasses import replace\nother = replace(RECIPE, name='other')\n"
        assert read_recipe_file(write(tmp_path / "a.py", end=two)).name == "my_gan"
        path = write(tmp_path / "b.py", ("RECIPE = ", "mine = "), end=two.replace("RECIPE", "mine"))
        with pytest.raises(UserError, match=r"b.py defines 2 recipes, mine, other: call the one"):
            read_recipe_file(path)
        path = write(
            tmp_path / "c.py", ("RECIPE = ", "_base = "), end=two.replace("RECIPE", "_base")
        )
        assert read_recipe_file(path).name == "other"
        path = write(tmp_path / "d.py", ("RECIPE = ", "mine = "), end="again = mine\n")
        assert read_recipe_file(path).name == "my_gan"

    @pytest.mark.parametrize(
        "old, new, message",
        [
            ('name="my_gan"', 'name="../gan"', "name of the recipe in .* must be letters, digits"),
            ('name="my_gan"', 'name="vae"', "is called vae, as one of rawgan is"),
            ("Hinge(),", "Hinge,", "objective of the recipe in .* must be a loss, such as BCE"),
            ("generator_optimizer=partial(Adam, lr=2e-4, betas=(0.5, 0.9)),\n    d",
             "generator_optimizer=Adam,\n    d",
             r"generator_optimizer of .* must be partial\(Adam, lr=...\)"),
            ("z=32", "z=0", "z of the recipe in .* must be a whole number from 1"),
            ("z=32", "z=32, classes=1", "classes of .* must be 0, or 2 and more"),
            ("z=32", "z=32, draw='uniformly'", "draw of .* must be 'normal' or 'uniform'"),
            ("z=32", "z=32, pixels='bytes'", "pixels of .* must be 'tanh' or 'unit'"),
            ("z=32", "z=32, batch=1", "batch of .* must be a whole number from 2"),
        ],
    )  # fmt: skip
    def test_fields(self, tmp_path, old, new, message):
        path = write(tmp_path / "mine.py", (old, new))
        with pytest.raises(UserError, match=message):
            read_recipe_file(path)

    @pytest.mark.parametrize(
        "old, new, message",
        [
            ("width, z):", "width):", "mine.py: TypeError: generator() got an unexpected keyword"),
            ("Linear(z, width)", "Linear(99, width)", "mine.py: ValueError: "),
            ("Linear(z, width)", "Linear(z, zz)", "mine.py, line 18: NameError: name 'zz' is not"),
            (
                "Reshape(size, size, channels)",
                "Reshape(size * size, 1, channels)",
                "the generator in mine.py makes arrays of shape (8, 256, 1, 1) from 8 latent vect",
            ),
            ("Flatten(),", "Reshape(1, 1, 1),", "mine.py: ValueError: "),
            (
                "    return Sequential(\n        Flatten(),",
                "    return 3\n    Sequential(\n        Flatten(),",
                "the discriminator in mine.py is no Sequential but a int",
            ),
            (
                "betas=(0.5, 0.9)),\n    discriminator",
                "betas=0.5),\n    discriminator",
                "mine.py: TypeError: ",
            ),
        ],
    )
    def test_networks(self, tmp_path, old, new, message):
        """Networks are tried before the data are loaded, and no run folder is made."""
        write(tmp_path / "mine.py", (old, new))
        assert message in refused("train", "mine.py", *TINY, "--out", "run")
        assert not Path("run").exists()

    @pytest.mark.parametrize("group", [None, 3, 5, 8, 12])
    def test_groups_of_any_size(self, tmp_path, group):
        """The batch of the trial is one that MinibatchStd can divide."""
        layer = f"MinibatchStd(group={group}),\n        Flatten(),"
        count = ("Linear(size * size * channels, 2", "Linear(size * size * (channels + 1), 2")
        imported = ("Linear, Reshape", "Linear, MinibatchStd, Reshape")
        path = write(
            tmp_path / "mine.py", ("        Flatten(),", f"        {layer}"), count, imported
        )
        check_networks(read_recipe_file(path), 8, 1, 4)

    def test_a_size_that_the_networks_do_not_have(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "from dataclasses import replace\nfrom rawgan.models.recipes import DCGAN\n"
            "RECIPE = replace(DCGAN, name='mine')"
        )
        assert "size 33 cannot be reached" in refused("train", "mine.py", "--size", 33)

    def test_an_error_in_a_later_step(self, tmp_path):
        """An exception of the file's code during the training is one sentence with its line."""
        steps = "def critic_steps(step):\n    return 1 if step < 2 else None + 1\n\n\n"
        imported = "from rawgan.gan import Schedule\nfrom rawgan.layers"
        write(
            tmp_path / "mine.py",
            ("from rawgan.layers", imported),
            ("RECIPE = ", steps + "RECIPE = "),
            ("z=32", "z=32, schedule=Schedule(critic_steps=critic_steps)"),
        )
        line = 3 + EXAMPLE.read_text().split("RECIPE = ")[0].count("\n")
        output = rawgan("train", "mine.py", *TINY, "--steps", 4, "--out", "run", status=2).stderr
        last = output.splitlines()[-1]
        assert last.startswith(f"error: mine.py, line {line}: TypeError: unsupported operand")

    def test_an_error_of_the_library_keeps_its_traceback(self, monkeypatch):
        def broken(*_):
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr("rawgan.training.train.open_session", broken)
        result = rawgan("train", EXAMPLE, status=1)
        assert isinstance(result.exception, ZeroDivisionError)


COMMANDS = {  # that read a run, before and after its path
    "sample": (["sample"], ["--count", "4", "--out", "x.npy"]),
    "interpolate": (["interpolate", "--pairs", "1", "--frames", "2"], []),
    "export": (["export", "--out", "x.safetensors"], []),
    "evaluate": (["evaluate", "--count", "8"], []),
    "info": (["info"], []),
}


class TestTrust:
    """Code of a run folder is executed where the user names the file, and nowhere else."""

    @pytest.mark.parametrize("command", COMMANDS)
    def test_commands(self, command, run, tmp_path, executed, monkeypatch):
        from rawgan.metrics import classifier

        monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
        monkeypatch.setattr(classifier, "STEPS", 60)
        before, after = COMMANDS[command]
        copy = shutil.copytree(run, tmp_path / "copy")
        message = refused(*before, copy, *after)
        assert "a program, which is executed only where you name it" in message
        assert f"--recipe {copy}/recipe.py" in message and not executed()
        rawgan(*before, copy, *after, "--recipe", copy / "recipe.py")
        assert executed()

    def test_resume(self, run, tmp_path, executed):
        copy = shutil.copytree(run, tmp_path / "copy")
        for command in (
            ("train", "--resume", copy, "--steps", 6),
            ("train", EXAMPLE, "--resume", copy, "--steps", 6),
        ):
            message = refused(*command)
            assert not executed()
        assert f"{EXAMPLE} is not the recipe file of the run" in message
        assert resume(copy, copy / "recipe.py", steps=6) == (6, 6) and executed()

    def test_report_executes_nothing(self, run, tmp_path, executed):
        copy = shutil.copytree(run, tmp_path / "copy")
        rawgan("report", copy)
        html = (copy / "report.html").read_text()
        assert "my_gan" in html and not executed()

    def test_another_file_is_not_executed(self, run, tmp_path, executed):
        """The checksum is compared before anything of the file is executed."""
        write(tmp_path / "other.py", end=LOADED + "# changed\n")
        message = refused("sample", run, "--recipe", "other.py")
        assert "other.py is not the recipe file of the run" in message and not executed()
        copy = shutil.copytree(run, tmp_path / "copy")
        (copy / "recipe.py").write_text((copy / "recipe.py").read_text() + "\n")
        refused("sample", copy, "--recipe", copy / "recipe.py")
        assert not executed()

    @pytest.mark.parametrize("sha", [None, 3, "", "0" * 64])
    def test_a_config_that_lies(self, run, tmp_path, executed, sha):
        """Whatever a config.json names, nothing is executed."""
        copy = shutil.copytree(run, tmp_path / "copy")
        config = json.loads((copy / "config.json").read_text())
        for name in (str(copy / "recipe.py"), "my_gan", "dcgan"):
            changed = config | {"recipe": name, "recipe_sha256": sha}
            for removed in ((), ("steps", "imported")):
                lie = {key: value for key, value in changed.items() if key not in removed}
                lie |= {"imported": {}} if removed else {}
                (copy / "config.json").write_text(json.dumps(lie))
                for args in (
                    ("sample", copy),
                    ("info", copy),
                    ("train", "--resume", copy, "--steps", 6),
                    ("train", "--resume", copy, "--steps", 6, "--data", "digits"),
                ):
                    harmless = (name, sha, args[0]) == ("dcgan", None, "info")  # of the library
                    rawgan(*args, status=0 if harmless else 2)
                    assert not executed()

    def test_a_recipe_file_for_a_run_without_one(self, tmp_path, executed):
        start(Options("dcgan", size=8, width=2, batch=4, steps=1, device="cpu"), tmp_path / "run")
        write(tmp_path / "mine.py", end=LOADED)
        for args in (
            ("sample", "run", "--recipe", "mine.py"),
            ("train", "mine.py", "--resume", "run", "--steps", 2),
        ):
            message = refused(*args)
            assert "run is a run of 'dcgan', without a recipe file: leave mine.py out" in message
            assert not executed()
        assert "rawgan info RUN --recipe mine.py" in refused("info", "--recipe", "mine.py")

    def test_the_folder_of_the_file_is_not_searched(self, tmp_path):
        """A module beside the file is not imported, as a run folder has no copy of it."""
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "beside.py").write_text("x = 1\n")
        write(tmp_path / "sub" / "mine.py", end="import beside\n")
        assert "No module named 'beside'" in refused("train", "sub/mine.py")
