"""The command line `rawgan`: every page of help, every command, exit statuses and sentences."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rawgan.cli.main import COMMANDS, app
from rawgan.models.recipes import RECIPES

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
        assert f"rawgan {name} " in said or name == "info"
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
