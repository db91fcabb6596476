"""MinibatchStd against autograd to second order, and the passes that its coupling forbids."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rawgan import backend, cpu
from rawgan.errors import UserError
from rawgan.gan import GAN, Schedule
from rawgan.layers import (
    Conv2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    MinibatchStd,
    Sequential,
    Tanh,
    state,
)
from rawgan.layers import minibatch_std as layer_file
from rawgan.losses import BCE, Wasserstein
from rawgan.ops import minibatch_std as ops_file
from rawgan.optim import SGD
from rawgan.parallel import Ranks
from rawgan.penalties import WGANGP, couples_samples
from tests.support.reference import assert_close, assert_same, check_layer, randomize

CASES = {  # shape, group
    "one group": ((4, 3, 2, 5), 4),
    "two groups": ((8, 3, 4, 2), 4),
    "five groups of three": ((15, 1, 2, 3), 3),
    "smaller than the group": ((3, 2, 2, 2), 4),
    "whole batch": ((6, 2, 3, 1), None),
    "rows": ((6, 5), 2),
    "one sample each": ((3, 2, 2, 1), 1),
    "batch of one": ((1, 2, 2, 3), 4),
}


@pytest.fixture(scope="module", autouse=True, params=["plain", "fast", "fast in parts"])
def form(request):
    """Run each test with the plain means, and the fast CPU means in one part and in several."""
    with pytest.MonkeyPatch.context() as patch, backend.reference_cpu(request.param == "plain"):
        if request.param == "fast in parts":
            patch.setattr(cpu, "PARALLEL_BYTES", 0)
        yield


def twin(group, eps):
    """Return the layer in PyTorch, sample by sample of each group."""

    def f(x, p):
        M = len(x) // min(group or len(x), len(x))
        sigma = [(x[m::M].var(0, unbiased=False) + eps).sqrt().mean() for m in range(M)]
        planes = [sigma[n % M].expand(*x.shape[1:-1], 1) for n in range(len(x))]
        return torch.cat([x, torch.stack(planes)], -1)

    return f


@pytest.mark.parametrize("shape, group", CASES.values(), ids=CASES)
@pytest.mark.parametrize("eps", [1e-8, 0.3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("gaps", [False, True])
def test_minibatch_std(device, rng, shape, group, eps, dtype, gaps):
    x = rng.normal(0.5, 2, shape).astype(dtype)
    check_layer(MinibatchStd(group, eps), x, twin(group, eps), device=device, gaps=gaps)


def test_between_layers(device, rng):
    net = Sequential(Linear(4, 3), Tanh(), MinibatchStd(2), Linear(4, 2), Tanh())

    def f(x, p):
        x = twin(2, 1e-8)((x @ p["0.w"].T + p["0.b"]).tanh(), p)
        return (x @ p["3.w"].T + p["3.b"]).tanh()

    check_layer(net, rng.normal(size=(6, 4)), f, device=device)


def test_a_collapsed_group_stays_a_number(rng):
    """Equal samples: sigma is sqrt(eps), and all derivatives are numbers, in float32 too."""
    layer, x = MinibatchStd(4), np.ones((8, 3, 3, 2), np.float32)
    y, cache = layer.forward(x)
    assert_close(y[..., -1], np.full((8, 3, 3), 1e-4))
    dy, ddx = (rng.normal(size=a.shape).astype(np.float32) for a in (y, x))
    results = layer.backward(dy, cache)[0], *layer.double_backward(ddx, dy, cache)[:2]
    assert all(np.isfinite(a).all() for a in results)


def test_the_two_maps_are_adjoint(rng):
    _, xhat, _ = ops_file.minibatch_std(rng.normal(size=(6, 3, 2, 4)), 3, 0.1)
    dy, ddx = rng.normal(size=(6, 3, 2, 5)), rng.normal(size=(6, 3, 2, 4))
    got = np.vdot(ops_file.minibatch_std_dx(dy, xhat), ddx)
    assert_close(got, np.vdot(dy, ops_file.minibatch_std_ddy(ddx, xhat)))


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (MinibatchStd(4), (6, 2), "a batch of 6 cannot be divided into groups of 4"),
        (MinibatchStd(4), (4, 2, 2), "expected x of shape"),
        (MinibatchStd(4), (0, 2), "the batch is empty"),
    ],
)
def test_wrong_x(layer, shape, message):
    with pytest.raises(ValueError, match=f"MinibatchStd: {message}"):
        layer.forward(np.zeros(shape))


def test_empty_group_is_refused():
    with pytest.raises(ValueError, match="a group of MinibatchStd has 1 sample or more, got 0"):
        MinibatchStd(0)


# The training step: real and fake are not mixed


def gan(objective=None, penalty=None, **schedule) -> GAN:
    """Return a small GAN with a MinibatchStd in D, with random weights in float64."""
    rng = np.random.default_rng(5)
    G = Sequential(Linear(3, 8), Tanh())
    D = Sequential(Linear(8, 6), LeakyReLU(), MinibatchStd(4), Linear(7, 1))
    optimizers = [SGD(randomize(net, rng), 0.1) for net in (G, D)]
    return GAN(G, D, objective or BCE(), *optimizers, penalty, None, Schedule(**schedule), rng)


def batches(n=8):
    rng = np.random.default_rng(6)
    return rng.normal(size=(n, 8)), rng.normal(size=(n, 3))


def test_real_and_fake_are_batches_of_their_own():
    """D's loss is that of two passes; one pass of both would have other groups."""
    model = gan()
    real, z = batches()
    assert not model.takes_one_pass()
    fake, _ = model.generate(z)
    one, two = model.one_pass(real, fake), model.separate_passes(real, fake)
    assert abs(one.loss - two.loss) > 1e-3
    metrics, _, d_pass = model.discriminator_gradient(real, fake)
    assert metrics["d_loss"] == two.loss
    for got, want in zip(d_pass.grads, two.grads, strict=True):
        for name in want:
            assert_same(got[name], want[name])


def test_a_discriminator_without_coupling_still_takes_one_pass():
    model = gan()
    model.discriminator = Sequential(Linear(8, 6), Dropout(0.5), Linear(6, 1))
    assert model.takes_one_pass()


def test_a_joint_batch_is_refused():
    with pytest.raises(ValueError, match=r"MinibatchStd.* would mix real and fake in its groups"):
        gan(joint_batch=True)


def test_a_penalty_is_said_not_to_be_one_per_sample():
    message = couples_samples(gan().discriminator)
    assert message == (
        "layer 2 of the critic is a MinibatchStd: it couples the samples of a batch, so that the "
        "penalty is not one per sample"
    )


def test_the_penalty_equals_autograds(rng):
    """The penalty is that of the gradient of the sum of all scores, and so are its gradients."""
    critic = Sequential(
        *(Conv2d(1, 2, 3), LeakyReLU(), MinibatchStd(2), Flatten(), Linear(12, 1)),
    )
    randomize(critic, rng)
    x = rng.normal(size=(4, 4, 4, 1))
    value, grads, _ = WGANGP()(critic, x)
    p = {name: torch.tensor(a.copy(), requires_grad=True) for name, a in critic.params.items()}
    points = torch.tensor(x, requires_grad=True)
    h = torch.nn.functional.conv2d(points.movedim(-1, 1), p["0.w"].movedim(-1, 1), p["0.b"])
    h = torch.nn.functional.leaky_relu(h, 0.2).movedim(1, -1)
    scores = twin(2, 1e-8)(h, p).flatten(1) @ p["4.w"].T + p["4.b"]
    (g,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    want = 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
    assert_close(value, want.item())
    names = ["0.w", "4.w"]
    for name, w in zip(names, torch.autograd.grad(want, [p[name] for name in names])):
        assert_close(grads[name], w.numpy(), name)


def test_a_step_with_penalty_runs():
    model = gan(Wasserstein(), WGANGP())
    before = state(model.discriminator)
    metrics = model.train_step(*batches())
    assert all(np.isfinite(value) for value in metrics.values())
    assert any((a != before[name]).any() for name, a in state(model.discriminator).items())


class TwoRanks(Ranks):
    """The first of two processes, without the other: enough for what `join` checks."""

    size = 2


def test_several_processes_form_groups_of_their_own():
    """With local statistics each process has its groups; synchronised ones are refused."""
    model = gan()
    model.join(TwoRanks())
    assert not model.takes_one_pass()
    with pytest.raises(UserError, match=r"MinibatchStd.* of D forms its groups within each"):
        gan().join(TwoRanks(), synchronised=True)
    gan().join(Ranks(), synchronised=True)


# Mistakes


def contiguous_groups(x, G, eps):
    """Mistake: group m is samples m G to m G + G - 1."""
    order = np.arange(len(x)).reshape(-1, G).T.ravel()
    y, xhat, rstd = right.minibatch_std(x[order], G, eps)
    return y[np.argsort(order)], xhat, rstd


def without_the_projection(ddx, dy, xhat, rstd):
    """Mistake: mean and standard deviation are constants."""
    return (ops_file._slope(dy, xhat) * rstd * ddx.reshape(xhat.shape)).reshape(ddx.shape)


def as_if_constant(dy, xhat):
    return dy[..., :-1]


right = SimpleNamespace(minibatch_std=ops_file.minibatch_std)


@pytest.mark.parametrize(
    "name, wrong, derivative",
    [
        ("minibatch_std", contiguous_groups, "y"),
        ("minibatch_std_dx", as_if_constant, "dx"),
        ("minibatch_std_dx2", without_the_projection, "dx2"),
    ],
)
def test_mistake_is_found(monkeypatch, rng, name, wrong, derivative):
    monkeypatch.setattr(layer_file, name, wrong)
    with pytest.raises(AssertionError, match=f": {derivative}:"):
        check_layer(MinibatchStd(4, 0.1), rng.normal(size=(8, 2, 2, 3)), twin(4, 0.1))
