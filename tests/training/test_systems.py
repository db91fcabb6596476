"""`rawgan train SYSTEM`: its options, and what is refused in one sentence."""

import json

import pytest

from rawgan import systems
from rawgan.training.systems import SYSTEMS
from tests.cli.test_cli import rawgan, refused
from tests.support.example_runs import write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


def test_the_names_are_those_of_the_trainings():
    assert (*SYSTEMS,) == systems.NAMES


def test_the_command_trains_one(data, tmp_path):
    told = ("--data", data, "--width", 2, "--batch", 8, "--steps", 3, "--seed", 5, "--lr", 0.01)
    rawgan("train", "autoencoder", *told, "--out", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    expected = {"recipe": "autoencoder", "width": 2, "batch": 8, "steps": 3, "seed": 5, "lr": 0.01}
    assert config.items() >= expected.items()
    assert config["source"] == str(data)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    "option, word",
    [
        (("--path", "planned"), "--path is no option of the training of"),
        (("--real-label", "0.9"), "--real-label is no option of the training of"),
        (("--flip",), "--flip is no option of the training of"),
    ],
)
def test_options_of_recipes_are_refused(name, option, word):
    refused(("train", name, *option), word)


def test_a_source_without_a_setting(data):
    refused(("train", "vae", "--source"), "has no setting of its source")
    refused(("train", "vae", "--lr", "nan"), "learning rate")
