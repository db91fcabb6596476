"""The commands export and import: programs that load the files, names, dtypes, refusals."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from rawgan.exchange import Exchange
from rawgan.layers import state
from rawgan.models.recipes import RECIPES
from rawgan.training.load import load_player
from rawgan.training.run_folder import RunFolder
from tests.cli.test_cli import rawgan, refused
from tests.support.random_networks import NOT_EXPORTED, networks, torched


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run folder with both networks of a small untrained dcgan."""
    rng = np.random.default_rng(0)
    _, size, (G, _), (D, _) = networks("dcgan", rng)
    folder = tmp_path_factory.mktemp("exchange") / "run"
    made = RunFolder.new(folder, {"recipe": "dcgan", "size": size, "channels": 1, "width": 8}, {})
    made.save_weights(
        {
            f"{who}.{n}": a
            for who, net in (("generator", G), ("discriminator", D))
            for n, a in state(net).items()
        }
    )
    return folder


def random_run(folder, name, rng):
    """Make the run folder of a recipe with random weights; return its networks and their inputs."""
    _, size, (G, z), (D, image) = networks(name, rng)
    config = {"recipe": name, "size": size, "channels": 1, "width": 8}
    weights = {f"generator.{n}": a for n, a in state(G).items()}
    weights |= {f"discriminator.{n}": a for n, a in state(D).items()}
    RunFolder.new(folder, config, {}).save_weights(weights)
    return {"generator": (G, z), "discriminator": (D, image)}


@pytest.mark.parametrize("name", RECIPES)
def test_the_printed_program_loads_the_file(name, tmp_path, rng):
    """All that export prints runs as one Python program; its network computes what ours does."""
    recipe, nets = RECIPES[name], random_run(tmp_path / "run", name, rng)
    for player, (net, shape) in nets.items():
        out = tmp_path / f"{player}.safetensors"
        command = "export", tmp_path / "run", "--player", player, "--out", out
        if layer := NOT_EXPORTED.get((name, player)):
            refused(command, layer, "has no counterpart in torch.nn")
            assert not out.exists()
            continue
        text = rawgan(*command).stdout
        exec(compile(text, "program", "exec"), made := {})
        x_torch = made["x"].numpy()
        x = np.moveaxis(x_torch[:, : shape[-1]].reshape(4, shape[-1], *shape[:-1]), 1, -1)
        conditional = x_torch.shape[1] > shape[-1]
        want, _ = net.forward((x, np.arange(4)) if conditional else x, train=False)
        assert conditional == bool(
            recipe.classes and (player == "generator" or not recipe.objective.labelled)
        )
        got = made["y"].numpy()
        got = got.reshape(want.shape) if want.size == 4 else np.moveaxis(got, 1, -1)
        assert np.abs(got - want).max() < 1e-5 * max(1, np.abs(want).max()), (name, player)


class TestCommands:
    def test_there_and_back(self, run, tmp_path):
        for player in ("generator", "discriminator"):
            output = rawgan(
                "export", run, "--player", player, "--out", tmp_path / f"{player}.safetensors"
            ).stdout
            assert "main = nn.Sequential(" in output and "load_state_dict(weights)" in output
        arrays = load_file(tmp_path / "generator.safetensors")
        assert {
            "main.0.weight",
            "main.1.running_mean",
            "main.1.num_batches_tracked",
        } <= arrays.keys()
        assert (
            arrays["main.0.weight"].shape == (100, 16, 4, 4)
            and arrays["main.1.num_batches_tracked"].shape == ()
        )
        told = (
            "--discriminator",
            tmp_path / "discriminator.safetensors",
            "--out",
            tmp_path / "back",
        )
        rawgan("import", tmp_path / "generator.safetensors", "--recipe", "dcgan", *told)
        assert (tmp_path / "back" / "weights.safetensors").read_bytes() == (
            run / "weights.safetensors"
        ).read_bytes()
        rawgan("sample", run, "--count", 4, "--out", tmp_path / "a.npy", "--device", "cpu")
        rawgan(
            "sample",
            tmp_path / "back",
            "--count",
            4,
            "--out",
            tmp_path / "b.npy",
            "--device",
            "cpu",
        )
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()

    def test_what_pytorch_saved_without_a_word_of_rawgan(self, run, tmp_path):
        """PyTorch files without rawgan's metadata take size and width from recipe or options."""
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        save_file(load_file(tmp_path / "g.safetensors"), tmp_path / "plain.safetensors")
        args = (
            "import",
            tmp_path / "plain.safetensors",
            "--recipe",
            "dcgan",
            "--out",
            tmp_path / "back",
        )
        refused(
            args,
            "is not the generator of dcgan with size 64, channels 3, width 64",
            "number of weights",
        )
        rawgan(*args, "--size", 16, "--channels", 1, "--width", 8)
        assert load_player(tmp_path / "back")[2]["width"] == 8

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
    def test_prefix_of_all_names(self, prefix, run, tmp_path):
        """Names of nn.DataParallel and torch.compile are imported; of one tensor they are not."""
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        arrays = load_file(tmp_path / "g.safetensors")
        options = ("--recipe", "dcgan", "--size", 16, "--channels", 1, "--width", 8)
        out = ("--out", tmp_path / "back")
        one = {prefix + name if "0.weight" in name else name: a for name, a in arrays.items()}
        save_file(one, tmp_path / "one.safetensors")
        refused(("import", tmp_path / "one.safetensors", *options, *out), "is only in the")
        save_file({prefix + name: a for name, a in arrays.items()}, tmp_path / "all.safetensors")
        rawgan("import", tmp_path / "all.safetensors", *options, *out)
        for name, a in state(load_player(tmp_path / "back")[1]).items():
            assert a.tobytes() == state(load_player(run)[1])[name].tobytes(), name

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype, run, tmp_path):
        """Weights of 16 bits are imported as the same numbers in float32."""
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        halves = torched(load_file(tmp_path / "g.safetensors"))
        halves = {n: t.to(dtype) if t.is_floating_point() else t for n, t in halves.items()}
        save_torch(halves, tmp_path / "half.safetensors")
        options = ("--recipe", "dcgan", "--size", 16, "--channels", 1, "--width", 8)
        rawgan("import", tmp_path / "half.safetensors", *options, "--out", tmp_path / "back")
        net = load_player(tmp_path / "back")[1]
        arrays = Exchange(net, (100,), main=True).export(state(net))
        assert arrays.keys() == halves.keys()
        for name, tensor in halves.items():
            assert arrays[name].dtype in (np.float32, np.int64)
            assert np.array_equal(arrays[name], tensor.float().numpy()), name

    def test_onnx(self, run, tmp_path, rng):
        rawgan("export", run, "--out", tmp_path / "g.onnx")
        _, net, _ = load_player(run)
        z = RECIPES["dcgan"].draw_z(rng, 2)
        (got,) = ReferenceEvaluator(onnx.load(tmp_path / "g.onnx")).run(None, {"z": z})
        assert np.abs(got - net.forward(z, train=False)[0].transpose(0, 3, 1, 2)).max() < 1e-5

    def test_onnx_that_is_not_installed(self, run, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "onnx", None)
        refused(
            ("export", run, "--format", "onnx", "--out", tmp_path / "g.onnx"),
            "needs the package onnx",
            "rawgan[export]",
        )

    def test_what_makes_no_sense(self, run, tmp_path):
        there = tmp_path / "there.safetensors"
        there.write_text("")
        refused(("export", run, "--out", there), "is there already")
        refused(
            ("export", run, "--format", "pytorch", "--out", tmp_path / "a.onnx"),
            ".safetensors file",
        )
        refused(("export", run, "--out", tmp_path / "a.pt"), ".safetensors, for PyTorch, or .onnx")
        refused(
            ("export", run, "--format", "onnx", "--out", tmp_path / "a.safetensors"), ".onnx file"
        )
        refused(
            ("export", run, "--player", "average", "--out", tmp_path / "a.safetensors"),
            "no network called 'average'",
        )
        refused(
            (
                "export",
                run,
                "--format",
                "onnx",
                "--player",
                "discriminator",
                "--out",
                tmp_path / "a.onnx",
            ),
            "writes generators",
        )
        refused(
            ("export", tmp_path / "nowhere", "--out", tmp_path / "a.safetensors"), "no run folder"
        )
        out = ("--out", tmp_path / "run")
        refused(("import", tmp_path / "a.pth", "--recipe", "dcgan", *out), "is a pickle")
        refused(
            ("import", tmp_path / "a.safetensors", "--recipe", "dcgan", *out),
            "no readable safetensors",
        )
        refused(("import", there, "--recipe", "dcgan", *out), "no readable safetensors")
        refused(("import", there, "--recipe", "nosuchgan", *out), "'nosuchgan' is no recipe")
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        refused(
            ("import", tmp_path / "g.safetensors", "--recipe", "wgan", *out),
            "is a network of dcgan",
        )
        assert not (tmp_path / "run").exists()

    def test_other_names_and_shapes(self, run, tmp_path):
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        arrays = load_file(tmp_path / "g.safetensors")
        told = (
            "--recipe",
            "dcgan",
            "--size",
            16,
            "--channels",
            1,
            "--width",
            8,
            "--out",
            tmp_path / "run",
        )
        w = arrays.pop("main.0.weight")
        for change, words in (
            ({"main.7.weight": w}, "main.0.weight is only in the network"),
            (
                {"main.0.weight": w.transpose(1, 0, 2, 3).copy()},
                "main.0.weight is float32 (16, 100, 4, 4), wanted float (100, 16",
            ),
            ({"main.0.weight": w.astype(np.int64)}, "main.0.weight is int64"),
        ):
            save_file(arrays | change, tmp_path / "changed.safetensors")
            refused(("import", tmp_path / "changed.safetensors", *told), words)

    def test_what_the_file_says_of_itself(self, run, tmp_path):
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        arrays = load_file(tmp_path / "g.safetensors")
        with safe_open(tmp_path / "g.safetensors", "numpy") as file:
            assert json.loads(file.metadata()["rawgan"]) == {
                "recipe": "dcgan",
                "size": 16,
                "channels": 1,
                "width": 8,
            }
        for metadata in (
            "[]",
            '{"size": "16"}',
            '{"width": 1e9}',
            '{"recipe": 7}',
            "{",
            "[" * 100_000,
        ):
            save_file(arrays, tmp_path / "changed.safetensors", {"rawgan": metadata})
            told = (
                "import",
                tmp_path / "changed.safetensors",
                "--recipe",
                "dcgan",
                "--out",
                tmp_path / "run",
            )
            refused(told, "changed.safetensors")
