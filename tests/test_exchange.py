"""Exchange with PyTorch and ONNX: the same pictures there, the same bits when they come back."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_cli import rawgan, refused
from torch import nn

from rawgan.errors import UserError
from rawgan.exchange import Exchange, onnx_model
from rawgan.layers import BatchNorm, LayerNorm, Parameters, Sequential, leaves, state
from rawgan.models.recipes import RECIPES
from rawgan.training.load import load_player
from rawgan.training.run import RunFolder

SAME_GENERATOR = ("wgan", "wgan_gp", "lsgan", "hinge", "acgan")  # as dcgan, atienza_dcgan or atienza_cgan
SIZES = {"atienza_dcgan": 28, "raschka_wgan_gp": 28, "wgan_gp_mnist": 28}  # sizes with crops and odd paddings; others 16


def random_net(net, rng):
    """Parameters and running statistics that are all different from each other."""
    for _, leaf in leaves(net):
        for name, a in {**leaf.params, **leaf.buffers}.items():
            scale = np.prod(a.shape[1:]) ** -0.5  # so that nothing saturates
            a[...] = rng.uniform(0.5, 1.5, a.shape) if name in ("gamma", "running_var") else scale * rng.standard_normal(a.shape)
    Parameters(net)
    return net


def networks(name, rng, channels=1, width=8):
    """The networks of a recipe and the shape of what they take."""
    recipe, size = RECIPES[name], SIZES.get(name, 16)
    G = random_net(recipe.generator(size, channels, width, z=recipe.z), rng)
    D = random_net(recipe.discriminator(size, channels, width), rng)
    return recipe, size, (G, (recipe.z,)), (D, (size, size, channels))


class Generator(nn.Module):
    """As in pytorch/examples' dcgan/main.py, for 64x64, written down here from its description in the paper and its names."""

    def __init__(self, nz=100, ngf=8, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 8, 4, 1, 0, bias=False), nn.BatchNorm2d(ngf * 8), nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 8, ngf * 4, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf * 4), nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf * 2), nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self, ndf=8, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 2), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 4), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, ndf * 8, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 8), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return self.main(x)


def torched(arrays):
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}


def test_the_dcgan_of_pytorch_examples(rng):
    recipe = RECIPES["dcgan"]
    G, D = random_net(recipe.generator(64, 3, 8), rng), random_net(recipe.discriminator(64, 3, 8), rng)
    theirs_g, theirs_d = Generator().eval(), Discriminator().eval()
    theirs_g.load_state_dict(torched(Exchange(G, (100,), main=True).export(state(G))), strict=True)
    theirs_d.load_state_dict(torched(Exchange(D, (64, 64, 3), main=True).export(state(D))), strict=True)
    z = recipe.draw_z(rng, 5)
    with torch.no_grad():
        images = theirs_g(torch.from_numpy(z).reshape(5, 100, 1, 1))
        judged = theirs_d(images).flatten().numpy()
    x, _ = G.forward(z, train=False)
    assert np.abs(x - images.numpy().transpose(0, 2, 3, 1)).max() < 1e-5
    scores, _ = D.forward(x, train=False)
    assert np.abs(1 / (1 + np.exp(-scores.astype(np.float64).ravel())) - judged).max() < 1e-5


@pytest.mark.parametrize("name", RECIPES)
def test_a_plain_sequential_gives_the_same(name, rng):
    """Of every recipe, both networks: the printed code, with the exported tensors, and back to the same bits."""
    recipe, size, *nets = networks(name, rng, channels=3 if name in ("atienza_dcgan", "raschka_mlp_gan") else 1)
    labels = rng.integers(10, size=4)
    for (net, shape), one_player in zip(nets, ("generator", "discriminator")):
        exchange = Exchange(net, shape)
        made = {}
        exec(exchange.code(), {"nn": nn}, made)
        theirs = made["main"].eval()
        arrays = exchange.export(state(net))
        theirs.load_state_dict(torched({n: a for n, a in arrays.items() if not n.startswith("condition.")}), strict=True)
        x = recipe.draw_z(rng, 4) if one_player == "generator" else rng.uniform(-1, 1, (4, *shape)).astype(np.float32)
        conditional = recipe.classes and not (one_player == "discriminator" and recipe.objective.labelled)
        want, _ = net.forward((x, labels) if conditional else x, train=False)
        given = torch.from_numpy(x).movedim(-1, 1)
        if conditional:
            c = nn.functional.one_hot(torch.from_numpy(labels), 10).float()
            if "condition" in made:
                made["condition"].load_state_dict(torched({
                    n.removeprefix("condition."): a for n, a in arrays.items() if n.startswith("condition.")}))  # fmt: skip
                c = made["condition"](c)
            elif one_player == "discriminator":
                c = c[:, :, None, None].expand(-1, -1, size, size)
            given = torch.cat([given, c], 1)
        with torch.no_grad():
            got = theirs(given).movedim(1, -1).numpy()
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-5 * max(1, np.abs(want).max()), (name, one_player)
        back = exchange.load(arrays)
        for key, a in state(net).items():
            assert back[key].tobytes() == a.tobytes(), key
        assert back.keys() == state(net).keys()


def test_pixels_in_the_wrong_order_are_caught(rng, monkeypatch):
    """What the permutation of rows and columns is for: without it, the check above fails."""
    monkeypatch.setattr("rawgan.exchange.to_chw", lambda H, W, C: np.arange(H * W * C))
    for name in ("raschka_wgan_gp", "atienza_dcgan"):
        with pytest.raises(AssertionError):
            test_a_plain_sequential_gives_the_same(name, rng)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SAME_GENERATOR])
def test_onnx_gives_the_same_pictures(name, rng):
    recipe, _, (G, _), _ = networks(name, rng, channels=3, width=4 if name != "raschka_dcgan" else 8)
    model = onnx_model(G, recipe.z, recipe.classes, name)
    z, labels = recipe.draw_z(rng, 3), np.array([0, 9, 4])
    inputs = {"z": z} | ({"labels": labels} if recipe.classes else {})
    (got,) = ReferenceEvaluator(model).run(None, inputs)
    want, _ = G.forward((z, labels) if recipe.classes else z, train=False)
    assert got.shape == tuple(want.shape[i] for i in (0, 3, 1, 2))
    assert np.abs(got - want.transpose(0, 3, 1, 2)).max() < 1e-5


def test_a_layer_without_a_counterpart_is_said():
    with pytest.raises(UserError, match=r"layer 1, LayerNorm\(4.* has no counterpart"):
        Exchange(Sequential(BatchNorm(4), LayerNorm(4)), (4,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with both networks of a small dcgan, not trained."""
    rng = np.random.default_rng(0)
    _, size, (G, _), (D, _) = networks("dcgan", rng)
    folder = tmp_path_factory.mktemp("exchange") / "run"
    made = RunFolder.new(folder, {"recipe": "dcgan", "size": size, "channels": 1, "width": 8}, {})
    made.save_weights({f"{who}.{n}": a for who, net in (("generator", G), ("discriminator", D)) for n, a in state(net).items()})
    return folder


class TestCommands:
    def test_there_and_back(self, run, tmp_path):
        for player in ("generator", "discriminator"):
            said = rawgan("export", run, "--player", player, "--out", tmp_path / f"{player}.safetensors").stdout
            assert "main = nn.Sequential(" in said
        arrays = load_file(tmp_path / "generator.safetensors")
        assert {"main.0.weight", "main.1.running_mean", "main.1.num_batches_tracked"} <= arrays.keys()
        assert arrays["main.0.weight"].shape == (100, 16, 4, 4) and arrays["main.1.num_batches_tracked"].shape == ()
        told = ("--discriminator", tmp_path / "discriminator.safetensors", "--out", tmp_path / "back")
        rawgan("import", tmp_path / "generator.safetensors", "--recipe", "dcgan", *told)
        assert (tmp_path / "back" / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
        rawgan("sample", run, "--count", 4, "--out", tmp_path / "a.npy", "--device", "cpu")
        rawgan("sample", tmp_path / "back", "--count", 4, "--out", tmp_path / "b.npy", "--device", "cpu")
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()

    def test_what_pytorch_saved_without_a_word_of_rawgan(self, run, tmp_path):
        """Names and arrays alone: then size and width are the recipe's own, or given."""
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        save_file(load_file(tmp_path / "g.safetensors"), tmp_path / "plain.safetensors")
        args = ("import", tmp_path / "plain.safetensors", "--recipe", "dcgan", "--out", tmp_path / "back")
        refused(args, "is not the generator of dcgan with size 64, channels 3, width 64", "number of weights")
        rawgan(*args, "--size", 16, "--channels", 1, "--width", 8)
        assert load_player(tmp_path / "back")[2]["width"] == 8

    def test_onnx(self, run, tmp_path, rng):
        rawgan("export", run, "--format", "onnx", "--out", tmp_path / "g.onnx")
        _, net, _ = load_player(run)
        z = RECIPES["dcgan"].draw_z(rng, 2)
        (got,) = ReferenceEvaluator(onnx.load(tmp_path / "g.onnx")).run(None, {"z": z})
        assert np.abs(got - net.forward(z, train=False)[0].transpose(0, 3, 1, 2)).max() < 1e-5

    def test_onnx_that_is_not_installed(self, run, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "onnx", None)
        refused(("export", run, "--format", "onnx", "--out", tmp_path / "g.onnx"), "needs the package onnx", "rawgan[export]")

    def test_what_makes_no_sense(self, run, tmp_path):
        there = tmp_path / "there.safetensors"
        there.write_text("")
        refused(("export", run, "--out", there), "is there already")
        refused(("export", run, "--out", tmp_path / "a.onnx"), ".safetensors file")
        refused(("export", run, "--format", "onnx", "--out", tmp_path / "a.safetensors"), ".onnx file")
        refused(("export", run, "--player", "average", "--out", tmp_path / "a.safetensors"), "no network called 'average'")
        refused(("export", run, "--format", "onnx", "--player", "discriminator", "--out", tmp_path / "a.onnx"), "writes generators")
        refused(("export", tmp_path / "nowhere", "--out", tmp_path / "a.safetensors"), "no run folder")
        out = ("--out", tmp_path / "run")
        refused(("import", tmp_path / "a.pth", "--recipe", "dcgan", *out), "is a pickle")
        refused(("import", tmp_path / "a.safetensors", "--recipe", "dcgan", *out), "no readable safetensors")
        refused(("import", there, "--recipe", "dcgan", *out), "no readable safetensors")
        refused(("import", there, "--recipe", "nosuchgan", *out), "'nosuchgan' is no recipe")
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        refused(("import", tmp_path / "g.safetensors", "--recipe", "wgan", *out), "is a network of dcgan")
        assert not (tmp_path / "run").exists()

    def test_other_names_and_shapes(self, run, tmp_path):
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        arrays = load_file(tmp_path / "g.safetensors")
        told = ("--recipe", "dcgan", "--size", 16, "--channels", 1, "--width", 8, "--out", tmp_path / "run")
        w = arrays.pop("main.0.weight")
        for change, words in (
            ({"main.7.weight": w}, "main.0.weight is only in the network"),
            ({"main.0.weight": w.transpose(1, 0, 2, 3).copy()}, "main.0.weight is float32 (16, 100, 4, 4), wanted float (100, 16"),
            ({"main.0.weight": w.astype(np.int64)}, "main.0.weight is int64"),
        ):
            save_file(arrays | change, tmp_path / "changed.safetensors")
            refused(("import", tmp_path / "changed.safetensors", *told), words)

    def test_what_the_file_says_of_itself(self, run, tmp_path):
        rawgan("export", run, "--out", tmp_path / "g.safetensors")
        arrays = load_file(tmp_path / "g.safetensors")
        with safe_open(tmp_path / "g.safetensors", "numpy") as file:
            assert json.loads(file.metadata()["rawgan"]) == {"recipe": "dcgan", "size": 16, "channels": 1, "width": 8}
        for said in ("[]", '{"size": "16"}', '{"width": 1e9}', '{"recipe": 7}', "{", "[" * 100_000):
            save_file(arrays, tmp_path / "changed.safetensors", {"rawgan": said})
            told = ("import", tmp_path / "changed.safetensors", "--recipe", "dcgan", "--out", tmp_path / "run")
            refused(told, "changed.safetensors")
