"""`rawgan train SYSTEM`: its options, and what is refused in one sentence."""

import json

import pytest

from rawgan import systems
from rawgan.training.options import Check
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


def test_checks_say_what_they_accept():
    """An option of a system, refused, is named with the values that it takes."""
    checks = [check for kind in SYSTEMS.values() for check in kind.options_type.checks.values()]
    assert len(checks) > 5 and all(isinstance(check, Check) for check in checks)


def test_options_of_a_system_are_set(data, tmp_path):
    told = ("--data", data, "--size", 8, "--width", 2, "--batch", 2, "--steps", 2)
    rawgan("train", "progressive", *told, "--set", "group=2", "--set", "base=8", "--out", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["group"], config["base"]) == (2, 8)
    refused(("train", "progressive", "--set", "groups=2"), "no option of progressive; it has base")
    whole = "a whole number from 1 to 1048576"
    refused(("train", "progressive", "--set", "group=two"), f"group must be {whole}")
    refused(("train", "progressive", "--set", "group=1.5"), f"group must be {whole}")
    refused(
        ("train", "progressive", "--set", "group=0"),
        f"group 0 of progressive cannot be used: it must be {whole}",
    )
    refused(("train", "infogan", "--set", "form=paper"), "it must be book or gaussian")
    refused(("train", "vae", "--set", "group=2"), "no option of vae; it has none")
    refused(("train", "dcgan", "--set", "group=2"), "--set is for a new run of a system")
    refused(("train", "--resume", tmp_path, "--set", "group=2"), "--set is for a new run of")


def test_info_lists_them():
    lines = rawgan("info").output.splitlines()
    for name in SYSTEMS:
        assert any(line.startswith(f"{name} ") and " steps" in line for line in lines), name
    assert any("; base=512, stable=12000, fade=12000, group=4" in line for line in lines)
    after = lines[next(n for n, line in enumerate(lines) if line.startswith("infogan ")) + 1]
    assert (
        after.split()
        == "--source mnist of 28x28, width 32, lr 0.0002, batch 64, 40,000 steps; form=book".split()
    )
    refused(("info", "vae"), "vae is a system, whose step has no plan")
    refused(("info", "infogen"), "did you mean 'infogan'?")


def test_a_misspelt_name():
    refused(("train", "infogen"), "'infogen' is no recipe to train; did you mean 'infogan'?")


def test_a_resumed_run_keeps_its_options(data, tmp_path):
    """An option is named as it was written, and there is nothing to draw from most systems."""
    told = ("--data", data, "--width", 2, "--batch", 8, "--steps", 1)
    rawgan("train", "stackedgan", *told, "--out", tmp_path)
    for option, value in (("--real-label", 0.9), ("--lr", 0.1)):
        refused(("train", "--resume", tmp_path, option, value), f"{option} cannot be given with")
    for command in ("sample", "interpolate", "evaluate", "info"):
        refused((command, tmp_path), f"drew is in {tmp_path / 'samples'}")
    refused(("export", tmp_path, "--out", tmp_path / "G.safetensors"), "no recipe to draw from")


def test_a_source_without_a_setting(data):
    refused(("train", "vae", "--source"), "has no setting of its source")
    refused(("train", "vae", "--lr", "nan"), "learning rate")
