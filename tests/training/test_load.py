"""rawgan.training.load: the networks of a run, and the errors for a damaged run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rawgan.errors import UserError
from rawgan.layers import state
from rawgan.models.recipes import RECIPES
from rawgan.training.load import choose_labels, load_generator
from tests.support.example_runs import train, write_pictures
from tests.support.reference import assert_same


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return train("dcgan", data, tmp_path_factory.mktemp("runs") / "dcgan")


@pytest.fixture
def broken(plain, tmp_path):
    """Return a copy of a run that a test may damage."""
    return Path(shutil.copytree(plain, tmp_path / "broken"))


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

    @pytest.mark.parametrize(
        "content", ["[]", "7", "null", "{}", '{"recipe": ["dcgan"]}', '"dcgan"']
    )
    def test_configs_of_something_else(self, broken, content):
        (broken / "config.json").write_text(content)
        self.fails(broken, "names no recipe" if content[0] == "{" else "it holds no JSON object")

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
            (
                {"size": 4096, "width": 4096},
                "does not fit the generator",
            ),  # more than any memory
            ({"width": 5}, "the number of weights is another"),
            ({"channels": 3}, "the number of weights is another"),
            (
                {"recipe": "atienza_dcgan"},
                "does not fit the generator that config.json names, atienza_dcgan",
            ),
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
        self.change_weights(
            broken,
            lambda arrays: {n: a for n, a in arrays.items() if n.startswith("discriminator.")},
        )
        self.fails(broken, "the number of weights is another")

    def test_weights_under_other_names(self, broken):
        self.change_weights(
            broken, lambda arrays: {n.replace("gamma", "delta"): a for n, a in arrays.items()}
        )
        self.fails(broken, "does not fit the generator")

    def test_weights_that_are_not_finite(self, broken):
        self.change_weights(
            broken,
            lambda arrays: (
                arrays | {"generator.1.w": np.full_like(arrays["generator.1.w"], np.nan)}
            ),
        )
        self.fails(broken, "not finite")

    def test_a_file_is_no_folder(self, plain):
        self.fails(plain / "config.json", "there is no run folder")
