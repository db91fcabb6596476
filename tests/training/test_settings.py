"""The settings of the recipes: train, info, the examples, the page and the gallery agree."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rawgan.errors import UserError
from rawgan.layers import parameter_count
from rawgan.models.recipe import Setting
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training import session
from rawgan.training.options import Options
from rawgan.training.systems import SYSTEMS
from tests.cli.test_cli import rawgan, refused
from tests.support.simulated_gpu import LOAD, stop

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "docs" / "samples"
OF_SYSTEMS = {f"train_{name}.py" for name in SYSTEMS}  # their defaults are those of the systems
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("train_*.py") if path.name not in OF_SYSTEMS
)
KEYS = {"width": "width", "steps": "steps", "lr": "lr", "data": "source", "size": "size"}
KEYS |= {"channels": "channels"}  # of a setting, in config.json


@pytest.fixture
def before_the_first_step(monkeypatch):
    """End every training before its first step."""
    monkeypatch.setattr(session, "load", LOAD)
    stop(monkeypatch)


@pytest.fixture(scope="module")
def info():
    """Return the lines of `rawgan info`."""
    return rawgan("info").stdout.splitlines()


@pytest.fixture(scope="module")
def page():
    """Return the page of recipes by the name of a section."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))


def counts(name: str, setting: Setting) -> tuple[int, int]:
    """Return the numbers of parameters of G and D in a setting."""
    shape = setting.size, setting.channels, setting.width
    gan = RECIPES[name].build(Random(0), *shape)
    return parameter_count(gan.generator), parameter_count(gan.discriminator)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", RECIPES)
class TestEveryRecipe:
    @pytest.mark.usefixtures("before_the_first_step")
    def test_train(self, name, tmp_path):
        """`train RECIPE` prints and takes the default, and what it has less than --source."""
        recipe = RECIPES[name]
        args = ("--device", "cpu", "--out", tmp_path)
        lines = rawgan("train", name, *args).stdout.splitlines()
        assert f"Setting: {recipe.describe(recipe.default)}." in lines
        (remark,) = [line for line in lines if line.startswith("Source: ")]
        assert recipe.source_command in remark
        assert f"{recipe.default.steps:,} of {recipe.steps:,} steps" in remark
        slow = [line for line in lines if line.startswith("Schedule: ")]
        assert len(slow) == (name == "wgan") and all("100 steps of D" in line for line in slow)
        G, D = counts(name, recipe.default)
        assert any(line.endswith(f"G has {G:,} parameters, D {D:,}.") for line in lines)
        config = json.loads((tmp_path / "config.json").read_text())
        assert {key: config[stored] for key, stored in KEYS.items()} == vars(recipe.default)
        assert config["batch"] == recipe.batch

    def test_info(self, name, info):
        recipe = RECIPES[name]
        start = next(n for n, line in enumerate(info) if line.startswith(f"{name} "))
        settings = recipe.default, recipe.of_source
        for line, setting in zip(info[start : start + 2], settings, strict=True):
            G, D = counts(name, setting)
            assert line.split()[-2 - len(recipe.describe(setting).split()) :][:2] == [
                f"{G:,}",
                f"{D:,}",
            ]
            assert line.endswith(f"  {recipe.describe(setting)}")
        assert info[start + 2].strip() == recipe.source

    @pytest.mark.parametrize("source", [False, True])
    def test_info_of_one(self, name, source):
        recipe = RECIPES[name]
        setting = recipe.of_source if source else recipe.default
        small = () if not source else ("--width", "8")  # a plan of the source takes seconds
        width = 8 if source else setting.width
        output = rawgan("info", name, *(("--source",) if source else ()), *small).stdout
        first = f"{name}, images of {setting.image}, width {width}, batch {recipe.batch}, fp32"
        assert output.splitlines()[0] == first
        assert f"rawgan train     {recipe.describe(recipe.default)}\n" in output
        assert f"--source         {recipe.describe(recipe.of_source)}\n" in output

    def test_page(self, name, page):
        recipe = RECIPES[name]
        assert f"| `rawgan train {name}` | {recipe.describe(recipe.default)} |" in page[name]
        assert f"| `{recipe.source_command}` | {recipe.describe(recipe.of_source)} |" in page[name]
        assert f"![Samples of {name}](samples/{name}.png)" in page[name]

    def test_gallery(self, name):
        """The picture is of the default: its record has the setting, and its shape the size."""
        recipe = RECIPES[name]
        record = json.loads((GALLERY / "samples.json").read_text())[name]
        assert record["setting"] == recipe.describe(recipe.default)
        with Image.open(GALLERY / f"{name}.png") as picture:
            columns, side = recipe.classes or 8, recipe.default.size + 1
            scale, rest = divmod(picture.width, columns * side + 1)
            assert rest == 0 and picture.height == round(scale * (8 * side + 1) / 2)

    def test_source(self, name):
        """--source takes everything from the source; what is given wins."""
        recipe = RECIPES[name]
        if recipe.data is None:
            with pytest.raises(UserError, match="add --data FOLDER"):
                Options.with_defaults(name, source=True)
        options = Options.with_defaults(
            name, recipe.data or "cifar10", True, width=None, batch=None
        )
        taken = {key: getattr(options, key) for key in KEYS}
        assert taken == vars(recipe.of_source) | {"data": recipe.data or "cifar10"}
        assert options.batch is None and options.lr is None  # of the recipe
        options = Options.with_defaults(name, "cifar10", True, steps=3, lr=1e-3, size=32)
        assert (options.steps, options.lr, options.size) == (3, 1e-3, 32)
        assert options.width == recipe.width

    def test_other_data_have_their_own_size(self, name):
        recipe = RECIPES[name]
        options = Options.with_defaults(name, "fashion-mnist")
        assert (options.size, options.channels) == (None, None)
        assert (options.width, options.steps) == (recipe.default.width, recipe.default.steps)
        assert options.lr == recipe.default.lr

    def test_shortfall(self, name):
        recipe = RECIPES[name]
        assert recipe.shortfall(recipe.of_source) == ""
        assert recipe.shortfall(recipe.default) != ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_have_the_defaults_of_train(path, monkeypatch):
    """An example takes the options of the bare command of its recipe."""
    taken = []

    def validate(self):
        taken.append(self)
        raise SystemExit(0)  # before the data are loaded

    monkeypatch.setattr(Options, "validate", validate)
    monkeypatch.setattr(sys, "argv", [path.name])
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    rawgan("train", taken[0].recipe)
    assert taken[0] == taken[1]
    names = {"train_mlp_gan": "raschka_mlp_gan"}
    assert taken[0].recipe == names.get(path.stem, path.stem.removeprefix("train_"))


def test_readme_has_the_default_of_dcgan():
    """The Python example of README.md, and the caption of its animation, have the default."""
    text, setting = (ROOT / "README.md").read_text(), RECIPES["dcgan"].default
    shape = f"size={setting.size}, channels={setting.channels}, width={setting.width}"
    (lr,) = re.findall(rf"with_lr\((.+?)\)\.build\(Random\(0\), {shape}\)", text)
    assert float(lr) == setting.lr and f"for step in range({setting.steps}):" in text
    assert f"from step 0 to step {setting.steps}." in text


def test_what_is_below_the_source():
    source = Setting(64, 40_000, None, "mnist", 28, 1)
    for change, words in (
        ({"steps": 39_999}, "39,999 of 40,000 steps"),
        ({"width": 63}, "width 63 of 64"),
        ({"size": 16}, "images of 16x16x1, not 28x28x1"),
        ({"data": "digits"}, "of digits, not mnist"),
    ):
        assert Setting(**vars(source) | change).below(source) == [words]
    for change in ({"steps": 50_000}, {"width": 65}, {"size": 32}, {"channels": 3}, {"lr": 1}):
        assert Setting(**vars(source) | change).below(source) == []
    folder = Setting(**vars(source) | {"data": None})
    assert Setting(**vars(source) | {"data": "faces"}).below(folder) == []


@pytest.mark.usefixtures("before_the_first_step")
def test_a_run_of_the_source(tmp_path, monkeypatch):
    """`train --source` prints the setting of the source, and nothing that it lacks."""
    images = np.random.default_rng(0).integers(0, 256, (80, 28, 28), np.uint8)
    np.save(tmp_path / "mnist.npy", images)
    monkeypatch.undo()  # the images are loaded
    stop(monkeypatch)
    args = ("--data", tmp_path / "mnist.npy", "--source", "--out", tmp_path / "run")
    recipe = RECIPES["raschka_mlp_gan"]
    lines = rawgan("train", "raschka_mlp_gan", *args).stdout.splitlines()
    assert f"Setting: {recipe.describe(recipe.of_source)}." in lines
    assert not [line for line in lines if line.startswith("Source: ")]


def test_source_where_it_means_nothing(tmp_path):
    refused(("train", "--resume", tmp_path, "--source"), "--source cannot be given with --resume")
    refused(("info", "--source"), "rawgan info RECIPE --source")
    refused(("info", tmp_path, "--source"), "leave --source out")
    refused(("train", "dcgan", "--source"), "64x64x3", "add --data FOLDER")
