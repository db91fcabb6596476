"""--path and --precision: what auto selects and what is refused, on a simulated GPU."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rawgan import backend
from rawgan.errors import UserError
from rawgan.layers import BatchNorm, Linear, Reshape, Sequential, Tanh
from rawgan.models.recipes import RECIPES
from rawgan.penalties import R1, WGANGP
from rawgan.training import session
from rawgan.training.path import choose_path
from tests.cli.test_cli import rawgan, refused
from tests.support.runs import options
from tests.support.simulated_gpu import (
    NO_GPU,
    PLANNED,
    SLOWER,
    TINY,
    UNPLANNED,
    resolved,
    simulate,
    stop,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch):
    simulate(monkeypatch)
    stop(monkeypatch)


@pytest.fixture
def no_gpu(monkeypatch):
    simulate(monkeypatch, None)
    stop(monkeypatch)


class TestAuto:
    def check(self, output: str, run: Path):
        assert PLANNED in output and "in CUDA graphs of 25 steps" in output
        assert resolved(run) == ("auto", "auto", "planned", "bf16", "Triton kernels on CuPy")

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_every_recipe_on_a_gpu(self, recipe, gpu, tmp_path):
        """Every recipe is planned, except those with layers or a penalty that have no plan."""
        output = rawgan("train", recipe, *TINY, "--out", tmp_path / "run").stdout
        assert output.startswith("Device: gpu (Simulated GPU found by CuPy 14.2.0).\n")
        no_plan = "sngan" in recipe or recipe == "atienza_acgan"
        if type(RECIPES[recipe].penalty) in (type(None), WGANGP) and not no_plan:
            self.check(output, tmp_path / "run")
        else:
            assert "the planned step does not support" in output
            assert resolved(tmp_path / "run") == ("auto", "auto", "arrays", "fp32", "CuPy")

    def test_a_recipe_without_a_plan(self, gpu, tmp_path, monkeypatch):
        monkeypatch.setitem(RECIPES, "wgan_gp", replace(RECIPES["wgan_gp"], penalty=R1()))
        output = rawgan("train", "wgan_gp", *TINY, "--out", tmp_path / "run").stdout
        assert SLOWER.format(UNPLANNED) in output.splitlines()
        assert resolved(tmp_path / "run") == ("auto", "auto", "arrays", "fp32", "CuPy")

    def test_a_network_without_a_plan(self, gpu, tmp_path, monkeypatch):
        """A layer that no planned step computes: the array path, with the layer in the reason."""

        def generator(size, channels, width, z):
            pixels = size * size * channels
            return Sequential(
                Linear(z, pixels), BatchNorm(pixels), Tanh(), Reshape(size, size, channels)
            )

        monkeypatch.setitem(RECIPES, "dcgan", replace(RECIPES["dcgan"], generator=generator))
        output = rawgan("train", "dcgan", *TINY, "--out", tmp_path / "run").stdout
        assert "Path: arrays in fp32 with CuPy (auto, slower on a GPU than planned: the " in output
        assert "does not support layer 1, BatchNorm" in output
        assert resolved(tmp_path / "run") == ("auto", "auto", "arrays", "fp32", "CuPy")

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_every_recipe_without(self, recipe, no_gpu, tmp_path):
        output = rawgan("train", recipe, *TINY, "--out", tmp_path / "run").stdout
        assert (
            output.startswith("Device: cpu (the driver is on holiday).\n")
            and NO_GPU in output.splitlines()
        )
        assert resolved(tmp_path / "run") == ("auto", "auto", "arrays", "fp32", "NumPy")

    @pytest.mark.parametrize("where", ["gpu", "no_gpu"])
    def test_the_example(self, where, request, tmp_path, monkeypatch, capsys):
        """examples/train_dcgan.py takes the path that auto selects, with and without a GPU.

        Size and length are reduced.
        """
        request.getfixturevalue(where)
        sizes = ("--width", "8", "--steps", "1", "--batch", "4")
        monkeypatch.setattr(sys, "argv", ["train.py", *sizes, "--out", f"{tmp_path}/run"])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(ROOT / "examples" / "train_dcgan.py"), run_name="__main__")
        output = capsys.readouterr().out
        assert not leaving.value.code
        if where == "gpu":
            self.check(output, tmp_path / "run")
        else:
            assert NO_GPU in output.splitlines()

    def test_a_run_that_cannot_be_planned(self, gpu, monkeypatch, tmp_path):
        """The planned step's refusal is the reason for arrays, and for refusing bf16."""

        def refuse(*_):
            raise UserError("there is no plan today")

        monkeypatch.setattr(session, "GraphRunner", refuse)
        args = ("train", "dcgan", *TINY, "--out", tmp_path / "run")
        refused(
            (*args, "--precision", "bf16"),
            "--precision bf16 goes with the planned step, which is refused: there is no plan",
        )
        refused((*args, "--path", "planned"), "there is no plan today")
        assert not (tmp_path / "run").exists()
        assert SLOWER.format("there is no plan today") in rawgan(*args).stdout.splitlines()
        assert resolved(tmp_path / "run")[2:] == ("arrays", "fp32", "CuPy")

    def test_a_gpu_where_triton_cannot_run(self, gpu, monkeypatch, tmp_path):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        output = rawgan("train", "dcgan", *TINY, "--out", tmp_path / "run").stdout
        assert (
            "Path: arrays in fp32 with CuPy (auto, slower on a GPU than planned: "
            "TRITON_INTERPRET is set" in output
        )

    def test_the_reason_is_printed_once_and_so_are_warnings(self, gpu, monkeypatch, tmp_path):
        """The reason and warnings are printed once, though refused networks are built twice."""
        monkeypatch.setitem(
            RECIPES, "dcgan", replace(RECIPES["raschka_wgan_gp"], name="dcgan", penalty=R1())
        )
        result = rawgan("train", "dcgan", *TINY, "--out", tmp_path / "run")
        assert result.stderr.count("warning: ") == 1 and result.stdout.count("Path: ") == 1


class TestPrecision:
    @pytest.mark.parametrize(
        "requested, capability, revoked, taken, why",
        [
            ("auto", (8, 0), False, "bf16", "; compute capability 8.0 multiplies in bf16"),
            (
                "auto",
                (7, 5),
                False,
                "fp32",
                "; bf16 needs compute capability 8.0 and this GPU has 7.5",
            ),
            ("auto", (10, 3), True, "fp32", "; the recipe dcgan excludes bf16"),
            ("tf32", (9, 0), False, "tf32", ""),
            ("bf16x3", (9, 0), False, "bf16x3", ""),
            ("bf16", (9, 0), True, "bf16", ""),
        ],
    )
    def test_of_a_planned_step(
        self, requested, capability, revoked, taken, why, monkeypatch, tmp_path
    ):
        simulate(monkeypatch, capability)
        stop(monkeypatch)
        monkeypatch.setitem(RECIPES, "dcgan", replace(RECIPES["dcgan"], bf16=not revoked))
        output = rawgan(
            "train", "dcgan", *TINY, "--precision", requested, "--out", tmp_path / "run"
        ).stdout
        assert (
            f"Path: planned in {taken} with Triton kernels on CuPy "
            f"(auto, the fastest path on a GPU{why}).\n" in output
        )
        assert resolved(tmp_path / "run") == (
            "auto",
            requested,
            "planned",
            taken,
            "Triton kernels on CuPy",
        )
        step = session.open_session(
            options("dcgan", device="gpu", precision=requested), session.SINGLE_PROCESS
        ).graph_runner.step
        assert step.dtype == ("uint16" if taken == "bf16" else "float32")

    def test_what_other_paths_do_not_have(self, gpu, tmp_path):
        for path in ("kernels", "arrays"):
            args = ("train", "dcgan", "--path", path, "--out", tmp_path / "run")
            refused(
                (*args, "--precision", "tf32"),
                f"--precision tf32 goes with --path planned: --path {path} computes in float32",
            )
            output = rawgan(*args, *TINY, "--precision", "fp32", "--out", tmp_path / path).stdout
            assert (
                f"Path: {path} in fp32 with "
                f"{'Triton kernels on CuPy' if path == 'kernels' else 'CuPy'} (as requested"
                in output
            )
            assert ("slower on a GPU than planned" in output) == (path == "arrays")

    @pytest.mark.parametrize(
        "recipe, reason",
        [
            ({}, "r3gan has the penalties R1 and R2, which the planned step does not support"),
            ({"penalty": None}, "the planned step does not support the losses of RpGAN"),
        ],
        ids=["penalties", "loss"],
    )
    def test_a_relativistic_loss_and_its_penalties(
        self, recipe, reason, gpu, monkeypatch, tmp_path
    ):
        """What has no plan is refused in bf16 and by --path planned, each in one sentence."""
        monkeypatch.setitem(RECIPES, "r3gan", replace(RECIPES["r3gan"], **recipe))
        args = ("train", "r3gan", *TINY, "--out", tmp_path / "run")
        refused((*args, "--path", "planned"), reason)
        refused(
            (*args, "--precision", "bf16"),
            f"--precision bf16 goes with the planned step, which is refused: {reason}",
        )
        assert not (tmp_path / "run").exists()
        output = rawgan(*args).stdout
        assert f"slower on a GPU than planned: {reason}" in output

    def test_what_needs_a_gpu(self, no_gpu, tmp_path):
        args = ("train", "dcgan", "--precision", "bf16", "--out", tmp_path / "run")
        refused(args, "--precision bf16 needs a GPU, but the driver is on holiday")
        refused(
            (*args, "--path", "planned"), "Triton kernels need a GPU, but the driver is on holiday"
        )
        assert not (tmp_path / "run").exists()


def test_paths_that_there_are_not(tmp_path):
    """Unknown paths are refused; those of earlier versions name the current option."""
    refused(
        ("train", "dcgan", "--path", "fast"),
        "'fast' is not known; choose auto, planned, kernels, arrays",
    )
    for name in ("planned", "kernels"):
        refused(
            ("train", "dcgan", f"--{name}", "--out", tmp_path / "run"),
            f"--{name} is now --path {name}",
        )
        refused(
            ("train", "--resume", tmp_path / "run", f"--{name}"), f"--{name} is now --path {name}"
        )
    assert not (tmp_path / "run").exists() and "--planned" not in rawgan("train", "--help").stdout


class TestInfo:
    def test_on_a_gpu(self, gpu, monkeypatch):
        """`info` shows path and precision on a GPU, for recipes with a plan and without one."""
        assert f"--path auto      {PLANNED.removeprefix('Path: ')}" in rawgan("info").stdout
        monkeypatch.setitem(RECIPES, "wgan_gp", replace(RECIPES["wgan_gp"], penalty=R1()))
        for recipe in ("dcgan", "wgan_gp"):
            lines = rawgan(
                "info", recipe, "--width", 8, "--size", 28, "--channels", 1, "--batch", 4
            ).stdout.splitlines()
            assert lines[0].endswith("bf16") and lines[-1].startswith("--path auto      ")
            assert (PLANNED.removeprefix("Path: ") if recipe == "dcgan" else UNPLANNED) in lines[-1]

    def test_without(self, no_gpu):
        for args in (("info",), ("info", "dcgan", "--width", 8, "--size", 8)):
            assert (
                "--path auto      arrays in fp32 with NumPy (auto: the planned step needs a GPU)"
                in rawgan(*args).stdout
            )


def test_the_reason_of_a_refusal_is_the_gpu_first():
    """Without a GPU the reason of a refusal is the GPU, before any other."""
    assert choose_path(
        "auto", "auto", RECIPES["dcgan"], backend.CPU, refusal="clipped weights"
    ).reason.endswith("needs a GPU")
