"""Training steps in PyTorch, eager, as a user of PyTorch would write them.

The networks of DCGAN and WGAN-GP are those that rawgan/exchange.py writes for ours. The others are
written out: Atienza's "same" padding, exactly converted, would cost PyTorch an additional layer,
and those of the MLP GAN are benchmarks/quality/torch_mlp.py's, with PyTorch's initialisation.
"""

import os
from functools import partial

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from benchmarks.common.torch_network import network
from benchmarks.cpu.cases import BATCH, Case, Step
from benchmarks.quality import torch_mlp as mlp
from rawgan.models.recipes import RECIPES
from rawgan.random import Random


def torch_step(case: Case) -> tuple[Step, int]:
    """Return PyTorch's step of the recipe, and the number of parameters of both networks."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    makers = {
        "dcgan": torch_dcgan,
        "atienza_dcgan": torch_atienza,
        "wgan_gp": torch_wgan_gp,
        "raschka_mlp_gan": torch_mlp,
    }
    G, D, step = makers[case.recipe](case)
    return step, sum(p.numel() for net in (G, D) for p in net.parameters())


def converted(case: Case) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the networks of the recipe as rawgan/exchange.py writes them, activations in place."""
    gan = RECIPES[case.recipe].build(Random(0), case.size, 1, case.width)
    G = network(gan.generator, (100,))
    D = network(gan.discriminator, (case.size, case.size, 1))
    for module in (*G, *D):
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            module.inplace = True
    return G, D


def torch_wgan_gp(case: Case):
    """One critic step of Gulrajani et al.: double backward by autograd for the penalty, Adam."""
    G, D = converted(case)
    adam = torch.optim.Adam(D.parameters(), 0.0, (0.0, 0.9))
    real, z = torch.rand(BATCH, 1, 32, 32) * 2 - 1, torch.randn(BATCH, 100)

    def step():
        with torch.no_grad():
            fake = G(z)
        alpha = torch.rand(BATCH, 1, 1, 1)
        x = (alpha * real + (1 - alpha) * fake).requires_grad_()
        (g,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        penalty = 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
        adam.zero_grad()
        (D(fake).mean() - D(real).mean() + penalty).backward()
        adam.step()

    return G, D, step


def torch_dcgan(case: Case):
    """pytorch/examples/dcgan: separate passes on real and fake, Adam."""
    G, D = converted(case)
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), 0.0, (0.5, 0.999)) for net in (G, D))
    real, z = torch.rand(BATCH, 1, 32, 32) * 2 - 1, torch.randn(BATCH, 100)
    ones, zeros = torch.ones(BATCH, 1, 1, 1), torch.zeros(BATCH, 1, 1, 1)
    return G, D, partial(common_step, G, D, g_adam, d_adam, real, z, ones, zeros)


def common_step(G, D, g_optimizer, d_optimizer, real, z, ones, zeros) -> None:
    """Train D on real images, then on fakes, then G on the same fakes."""
    d_optimizer.zero_grad()
    bce(D(real), ones).backward()
    fake = G(z)
    bce(D(fake.detach()), zeros).backward()
    d_optimizer.step()
    g_optimizer.zero_grad()
    bce(D(fake), ones).backward()
    g_optimizer.step()


def torch_mlp(case: Case):
    """MLP GAN of Raschka & Mirjalili, with Dropout in D and Adam.

    G is updated first; D then trains on the fakes generated before that update.
    """
    G, D = mlp.build()
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), 0.0, (0.9, 0.999), 1e-7) for net in (G, D))
    real, z = torch.rand(BATCH, 784) * 2 - 1, torch.rand(BATCH, 20) * 2 - 1
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
    return G, D, partial(mlp.train_step, G, D, g_adam, d_adam, real, z, ones, zeros)


def torch_atienza(case: Case):
    """Atienza's DCGAN: D on one batch of real images and fakes from G in inference mode, RMSprop.

    G's step draws a new z.
    """

    def norm(C):
        return nn.BatchNorm2d(C, 1e-3, 0.01)

    w = case.width
    G = nn.Sequential(
        nn.Linear(100, 7 * 7 * 4 * w), nn.Unflatten(1, (4 * w, 7, 7)),
        norm(4 * w), nn.ReLU(True), nn.ConvTranspose2d(4 * w, 4 * w, 5, 2, 2, 1),
        norm(4 * w), nn.ReLU(True), nn.ConvTranspose2d(4 * w, 2 * w, 5, 2, 2, 1),
        norm(2 * w), nn.ReLU(True), nn.ConvTranspose2d(2 * w, w, 5, 1, 2),
        norm(w), nn.ReLU(True), nn.ConvTranspose2d(w, 1, 5, 1, 2), nn.Sigmoid(),
    )  # fmt: skip
    D = nn.Sequential(
        nn.LeakyReLU(0.2), nn.Conv2d(1, w, 5, 2, 2),
        nn.LeakyReLU(0.2, True), nn.Conv2d(w, 2 * w, 5, 2, 2),
        nn.LeakyReLU(0.2, True), nn.Conv2d(2 * w, 4 * w, 5, 2, 2),
        nn.LeakyReLU(0.2, True), nn.Conv2d(4 * w, 8 * w, 5, 1, 2),
        nn.Flatten(), nn.Linear(4 * 4 * 8 * w, 1), nn.Flatten(0),
    )  # fmt: skip
    g_rmsprop = torch.optim.RMSprop(G.parameters(), 0.0, 0.9, 1e-7)
    d_rmsprop = torch.optim.RMSprop(D.parameters(), 0.0, 0.9, 1e-7)
    real, z, g_z = torch.rand(BATCH, 1, 28, 28), *(torch.rand(2, BATCH, 100) * 2 - 1)
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)
    labels = torch.cat([ones, zeros])

    def step():
        G.eval()
        with torch.no_grad():
            fake = G(z)
        G.train()
        d_rmsprop.zero_grad()
        bce(D(torch.cat([real, fake])), labels).backward()
        d_rmsprop.step()
        g_rmsprop.zero_grad()
        bce(D(G(g_z)), ones).backward()
        g_rmsprop.step()

    if case.plain:
        step = partial(common_step, G, D, g_rmsprop, d_rmsprop, real, z, ones, zeros)
    return G, D, step
