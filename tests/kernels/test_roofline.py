"""benchmarks/kernels/roofline.py counts as PyTorch's counter and formulas over the layers do."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.kernels import roofline
from rawgan.layers import Dropout
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from tests.support.twins import MAKE, twin

C = (3, 64, 128, 256, 512)  # channels of DCGAN-64, from the image on
SIDE = (64, 32, 16, 8, 4)
FLOPS = [
    2 * 16 * C[i] * C[i + 1] * SIDE[i + 1] ** 2 for i in range(4)
]  # a sample, of the four 4x4 stride 2 layers
D_FLOPS = [*FLOPS, 2 * 16 * 512]
G_FLOPS = [2 * 16 * 100 * 512, *FLOPS[::-1]]
PARAMETERS = {"G": 3_576_704, "D": 2_765_568}


def flops(kernels):
    return sum(k.flops for k in kernels)


@pytest.mark.parametrize(
    "name", [name for name in roofline.STEPS if not name.startswith("wgan_gp")]
)
def test_flops_of_pytorch(name, monkeypatch):
    """FLOPs equal those of PyTorch's step with D frozen in G's step, real and fake in one batch."""
    monkeypatch.setitem(MAKE, Dropout, lambda layer: torch.nn.Identity())
    recipe, size, channels, width, N, _ = roofline.STEPS[name]
    gan = RECIPES[recipe].build(Random(0), size, channels, width)
    G, D = (twin(net).to("meta") for net in (gan.generator, gan.discriminator))
    z, real = (
        torch.empty(N, RECIPES[recipe].z, device="meta"),
        torch.empty(N, channels, size, size, device="meta"),
    )
    with FlopCounterMode(display=False) as counter:
        fake = G(z)
        if (
            RECIPES[recipe].schedule.order == "generator_first"
        ):  # D's output for the fakes is already computed
            c = D(fake.detach())
            torch.cat([D(real), c]).sum().backward()
        else:
            D(torch.cat([real, fake.detach()])).sum().backward()
        D.requires_grad_(False)
        D(fake).sum().backward()
    extra = (
        flops(roofline.forward(roofline.networks(name)[1], N))
        if RECIPES[recipe].schedule.order == "generator_first"
        else 0
    )
    assert counter.get_total_flops() - extra == flops(roofline.step(name))


def test_wgan_gp_by_formula():
    """A WGAN-GP critic step has 47 layer-convolutions.

    G's forward passes for five of them and for its own step form one batch.
    """
    D, G, N, first, last = sum(D_FLOPS), sum(G_FLOPS), 64, D_FLOPS[0], D_FLOPS[-1]
    critic = (
        3 * D + (3 * (D - first) + first) + (D - last) + 3 * D
    )  # forward, input gradient, JVP, weight gradient
    generator = 2 * D + 2 * G - G_FLOPS[0]
    kernels = roofline.step("wgan_gp 64x64x3, batch 64")
    assert flops(kernels) == N * (6 * G + 5 * critic + generator)
    products = [k for k in kernels if k.flops]
    assert len(products) == 5 + 5 * (5 + 5 + 4 + 5) + 5 + 5 + (5 + 4)


def test_parameters_and_their_bytes():
    G, D = roofline.networks("dcgan 64x64x3, batch 128")
    assert {"G": G.parameters, "D": D.parameters} == PARAMETERS
    [adam] = roofline.adam(G)
    assert (adam.bytes(4), adam.bytes(2)) == (28 * PARAMETERS["G"], 30 * PARAMETERS["G"])


def test_bytes_of_a_forward():
    """The bytes of a forward pass equal the sizes of PyTorch layers' inputs and outputs."""
    name, N, moved = "dcgan 64x64x3, batch 128", 2, 0
    recipe, size, channels, width, *_ = roofline.STEPS[name]
    D = twin(RECIPES[recipe].build(Random(0), size, channels, width).discriminator).to("meta")

    def count(layer, args, y):
        nonlocal moved
        if isinstance(layer, torch.nn.Conv2d):
            moved += args[0].numel() + layer.weight.numel() + y.numel()
        elif isinstance(layer, torch.nn.BatchNorm2d):
            moved += 2 * y.numel()

    for layer in D.modules():
        layer.register_forward_hook(count)
    D(torch.empty(N, channels, size, size, device="meta"))
    assert sum(k.numbers for k in roofline.forward(roofline.networks(name)[1], N)) == moved


def test_floor_by_hand():
    kernels = [roofline.Kernel("y", flops=10**12, numbers=10**6), roofline.Kernel("act", 0, 10**9)]
    limits = {
        "copy": {"per_second": 2e12},
        "bfloat16": {"per_second": 8e14},
        "tf32": {"per_second": 4e14},
    }
    assert roofline.floor_us(kernels, "bfloat16", limits) == pytest.approx(1250 + 1000)
    assert roofline.floor_us(kernels, "float32", limits) == pytest.approx(7500 + 2000)
    assert roofline.floor_us(kernels, "tf32", limits | {"tf32": {"not_measured": "why"}}) is None
