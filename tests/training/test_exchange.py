"""Exchange with PyTorch and ONNX: equal images after export, equal bits after a round trip."""

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from rawgan import layers as L
from rawgan.errors import UserError
from rawgan.exchange import Exchange, onnx_model
from rawgan.layers import BatchNorm, LayerNorm, Sequential, state
from rawgan.models.recipes import RECIPES
from tests.support.random_networks import NOT_EXPORTED, networks, random_net, torched

SAME_GENERATOR = (
    "wgan",
    "wgan_gp",
    "lsgan",
    "hinge",
    "acgan",
    "atienza_acgan",
)  # with the architecture of dcgan, atienza_dcgan or atienza_cgan


class Generator(nn.Module):
    """Generator of pytorch/examples' dcgan/main.py for 64x64, rewritten for this test.

    It follows the description in the paper and uses the names of the example.
    """

    def __init__(self, nz=100, ngf=8, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 8, 4, 1, 0, bias=False), nn.BatchNorm2d(ngf * 8),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 8, ngf * 4, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self, ndf=8, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, ndf * 8, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return self.main(x)


def test_the_dcgan_of_pytorch_examples(rng):
    recipe = RECIPES["dcgan"]
    G, D = (
        random_net(recipe.generator(64, 3, 8), rng),
        random_net(recipe.discriminator(64, 3, 8), rng),
    )
    theirs_g, theirs_d = Generator().eval(), Discriminator().eval()
    theirs_g.load_state_dict(torched(Exchange(G, (100,), main=True).export(state(G))), strict=True)
    theirs_d.load_state_dict(
        torched(Exchange(D, (64, 64, 3), main=True).export(state(D))), strict=True
    )
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
    """The printed PyTorch code of both networks of every recipe computes the same as rawgan.

    The exported tensors are imported back with the same bits. A network that is not exported is
    refused, with the name of the layer.
    """
    recipe, size, *nets = networks(
        name, rng, channels=3 if name in ("atienza_dcgan", "raschka_mlp_gan") else 1
    )
    labels = rng.integers(10, size=4)
    for (net, shape), one_player in zip(nets, ("generator", "discriminator")):
        if layer := NOT_EXPORTED.get((name, one_player)):
            with pytest.raises(UserError, match=f"^{layer}.* has no counterpart in torch.nn"):
                Exchange(net, shape)
            continue
        exchange = Exchange(net, shape)
        made = {}
        exec(exchange.code(), {"nn": nn}, made)
        theirs = made["main"].eval()
        arrays = exchange.export(state(net))
        theirs.load_state_dict(
            torched({n: a for n, a in arrays.items() if not n.startswith("condition.")}),
            strict=True,
        )
        x = (
            recipe.draw_z(rng, 4)
            if one_player == "generator"
            else rng.uniform(-1, 1, (4, *shape)).astype(np.float32)
        )
        conditional = recipe.classes and not (
            one_player == "discriminator" and recipe.objective.labelled
        )
        want, _ = net.forward((x, labels) if conditional else x, train=False)
        inputs = torch.from_numpy(x).movedim(-1, 1)
        if conditional:
            c = nn.functional.one_hot(torch.from_numpy(labels), 10).float()
            if "condition" in made:
                made["condition"].load_state_dict(torched({
                    n.removeprefix("condition."): a
                    for n, a in arrays.items() if n.startswith("condition.")}))  # fmt: skip
                c = made["condition"](c)
            elif one_player == "discriminator":
                c = c[:, :, None, None].expand(-1, -1, size, size)
            inputs = torch.cat([inputs, c], 1)
        with torch.no_grad():
            got = theirs(inputs).movedim(1, -1).numpy()
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-5 * max(1, np.abs(want).max()), (name, one_player)
        back = exchange.load(arrays)
        for key, a in state(net).items():
            assert back[key].tobytes() == a.tobytes(), key
        assert back.keys() == state(net).keys()


def test_training_goes_on_with_the_same_statistics(rng):
    """In training mode, too, both libraries agree, and their running statistics stay equal.

    BatchNorm's eps and momentum are those of the network.
    """
    *_, (G, shape), _ = networks("atienza_dcgan", rng)
    exchange, made = Exchange(G, shape), {}
    exec(exchange.code(), {"nn": nn}, made)
    theirs = made["main"].train()
    theirs.load_state_dict(torched(exchange.export(state(G))), strict=True)
    z = rng.uniform(-1, 1, (16, *shape)).astype(np.float32)
    for _ in range(3):
        G.forward(z)
        theirs(torch.from_numpy(z))
    ours, moved = exchange.export(state(G)), theirs.state_dict()
    statistics = [name for name in ours if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        want = moved[name].numpy()
        assert np.abs(ours[name] - want).max() < 1e-5 * max(1, np.abs(want).max()), name


def test_pixels_in_the_wrong_order_are_caught(rng, monkeypatch):
    """The check above fails without the permutation of pixels of a Reshape or Flatten."""
    monkeypatch.setattr("rawgan.exchange.to_chw", lambda H, W, C: np.arange(H * W * C))
    for name in ("raschka_wgan_gp", "atienza_dcgan"):
        with pytest.raises(AssertionError):
            test_a_plain_sequential_gives_the_same(name, rng)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SAME_GENERATOR])
def test_onnx_gives_the_same_pictures(name, rng):
    recipe, _, (G, _), _ = networks(
        name, rng, channels=3, width=4 if name != "raschka_dcgan" else 8
    )
    if layer := NOT_EXPORTED.get((name, "generator")):
        with pytest.raises(UserError, match=f"^{layer}.* has no counterpart"):
            onnx_model(G, recipe.z, recipe.classes, name)
        return
    model = onnx_model(G, recipe.z, recipe.classes, name)
    z, labels = recipe.draw_z(rng, 3), np.array([0, 9, 4])
    inputs = {"z": z} | ({"labels": labels} if recipe.classes else {})
    (got,) = ReferenceEvaluator(model).run(None, inputs)
    want, _ = G.forward((z, labels) if recipe.classes else z, train=False)
    assert got.shape == tuple(want.shape[i] for i in (0, 3, 1, 2))
    assert np.abs(got - want.transpose(0, 3, 1, 2)).max() < 1e-5


def test_pools_and_upsampling(rng):
    """Networks with pools and nearest upsampling compute the same in PyTorch and ONNX."""
    G = Sequential(
        *(L.Linear(5, 24), L.Reshape(3, 4, 2), L.Upsample2d(2), L.Conv2d(2, 3, 3, pad=1)),
        *(L.Upsample2d(3), L.ConvTranspose2d(3, 3, 1), L.Tanh()),
    )
    D = Sequential(
        *(L.AvgPool2d(2), L.Conv2d(3, 4, 3), L.MaxPool2d(2), L.Flatten(), L.Linear(4 * 3 * 5, 1)),
    )
    for net, shape in ((G, (5,)), (D, (18, 24, 3))):
        random_net(net, rng)
        exchange, made = Exchange(net, shape), {}
        exec(exchange.code(), {"nn": nn}, made)
        made["main"].load_state_dict(torched(exchange.export(state(net))), strict=True)
        x = rng.normal(size=(4, *shape)).astype(np.float32)
        want, _ = net.forward(x, train=False)
        with torch.no_grad():
            got = made["main"](torch.from_numpy(x).movedim(-1, 1)).movedim(1, -1).numpy()
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_upsampling_in_onnx(rng):
    net = Sequential(
        L.Linear(5, 24), L.Reshape(3, 4, 2), L.Upsample2d(2), L.ConvTranspose2d(2, 3, 3, pad=1)
    )
    random_net(net, rng)
    z = rng.normal(size=(4, 5)).astype(np.float32)
    (got,) = ReferenceEvaluator(onnx_model(net, 5, 0, "net")).run(None, {"z": z})
    want = net.forward(z, train=False)[0].transpose(0, 3, 1, 2)
    assert got.shape == want.shape and np.abs(got - want).max() < 1e-5


def test_a_constant_scale_in_onnx(rng):
    """A BatchNorm whose gamma is no parameter becomes one with all four of its tensors."""
    net = Sequential(L.Linear(5, 3), BatchNorm(3, trained_scale=False), L.Tanh())
    random_net(net, rng)
    z = rng.normal(size=(4, 5)).astype(np.float32)
    (got,) = ReferenceEvaluator(onnx_model(net, 5, 0, "net")).run(None, {"z": z})
    assert np.abs(got - net.forward(z, train=False)[0]).max() < 1e-5


WITHOUT_COUNTERPART = [
    L.GlobalMeanPool(),
    L.GlobalSumPool(),
    L.PixelNorm(),
    L.Augment(),
    L.GaussianNoise(0.3),
    L.MinibatchStd(),
    L.EqualizedLR(L.Conv2d(2, 2, 1)),
    L.WeightNorm(L.Conv2d(2, 2, 1)),
    L.SpectralNorm(L.Conv2d(2, 2, 1)),
    L.Residual(L.Tanh()),
    L.Skip(L.Tanh()),
    L.Heads(L.Tanh()),
    L.Lerp(L.Tanh(), L.Tanh()),
    L.ConditionalBatchNorm(2, 3),
    L.Projection(L.Linear(2, 1), L.Embedding(3, 2)),
]


@pytest.mark.parametrize("layer", WITHOUT_COUNTERPART, ids=lambda layer: type(layer).__name__)
def test_blocks_have_no_counterpart(layer):
    net = Sequential(L.Conv2d(1, 2, 3), layer)
    with pytest.raises(UserError, match=rf"layer 1, {type(layer).__name__}\b.* has no counterpart"):
        Exchange(net, (8, 8, 1))


def test_a_layer_without_a_counterpart_is_said():
    with pytest.raises(UserError, match=r"layer 1, LayerNorm\(4.* has no counterpart"):
        Exchange(Sequential(BatchNorm(4), LayerNorm(4)), (4,))
