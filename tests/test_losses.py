"""rawgan.losses: values and gradients of every objective against autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import assert_close, assert_same, tensor
from twins import OBJECTIVES, objective_twin

from rawgan.backend import to_host
from rawgan.losses import ACGAN, BCE

SHAPES = [((1, 1), (1, 1)), ((5, 1), (3, 1)), ((4, 1, 1, 1), (7, 1, 1, 1)), ((2, 3, 3, 1), (6, 3, 3, 1))]
FAR = (-1e4, -120.0, 120.0, 1e4)
everyone = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def autograd(loss, *scores):
    """The loss and its gradients in float64."""
    leaves = [tensor(s).requires_grad_() for s in scores]
    value = loss(*leaves)
    return [t.detach().numpy() for t in (value, *torch.autograd.grad(value, leaves))]


def compare(got, want, least=0):
    """Relative to the largest number of each array and to `least`."""
    for name, g, w in zip(("d_loss", "da", "dc", "g_loss", "dc of G"), got, want, strict=True):
        assert np.isfinite(to_host(g)).all()
        assert_close(g, w, name, scale=max(least, abs(w).max()))


def check(objective, device, a, c, least=0):
    """Both players' losses and gradients, in the dtype of the scores, which are left as they were."""
    _, real, fake, generator = objective_twin(objective)
    want = (*autograd(lambda a, c: real(a) + fake(c), a, c), *autograd(generator, c))
    scores = [device.asarray(s.copy()) for s in (a, c)]
    got = (*objective.discriminator(*scores), *objective.generator(scores[1]))
    assert {g.dtype for g in got} == {a.dtype}
    compare(got, want, least)
    for s, before in zip(scores, (a, c)):
        assert_same(s, before)


class TestEveryObjective:
    @everyone
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("shapes", SHAPES, ids=str)
    def test_value_and_gradients(self, objective, shapes, dtype, device, rng):
        check(objective, device, *(rng.normal(size=shape, scale=3).astype(dtype) for shape in shapes))

    @everyone
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_far_out_and_at_the_kinks(self, objective, dtype, device):
        scores = np.array([*FAR, -1, 0, 1], dtype)[:, None]
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            check(objective, device, scores, scores[::-1])

    @everyone
    @pytest.mark.parametrize("score", FAR)
    def test_one_far_out_score_alone(self, objective, score, device):
        check(objective, device, np.full((1, 1), score), np.full((1, 1), -score), least=1)  # sigmoid(-120) may be 0

    @everyone
    def test_gradients_carry_one_over_the_batch(self, objective):
        """The same score twice has the same loss, and each half the gradient."""
        a, c = np.full((1, 1), 0.3), np.full((1, 1), -0.4)
        a2, c2 = a.repeat(2, 0), c.repeat(2, 0)
        once = (*objective.discriminator(a, c), *objective.generator(c))
        for got, want in zip((*objective.discriminator(a2, c2), *objective.generator(c2)), once):
            assert_close(got, want if want.ndim == 0 else want.repeat(2, 0) / 2)

    @everyone
    def test_the_generator_climbs(self, objective, rng):
        """Against its gradient every fake's score rises."""
        _, dc = objective.generator(rng.uniform(-3, 0.9, (9, 1)))
        assert (dc < 0).all()

    @everyone
    def test_the_discriminator_pulls_apart(self, objective, rng):
        """Against its gradient the scores of real samples rise and those of fakes fall."""
        _, da, dc = objective.discriminator(rng.uniform(-3, 0.9, (9, 1)), rng.uniform(0.1, 3, (9, 1)))
        assert (da < 0).all() and (dc > 0).all()


class TestBCE:
    def test_smoothing_is_one_sided(self, rng):
        """real_label 0.9 adds 0.1 a to the real term, and touches nothing else."""
        a, c = rng.normal(size=(2, 6, 1))
        loss, da, dc = BCE().discriminator(a, c)
        smooth_loss, smooth_da, smooth_dc = BCE(real_label=0.9).discriminator(a, c)
        assert_close(smooth_loss - loss, 0.1 * a.mean())
        assert_close(smooth_da - da, np.full_like(a, 0.1 / 6))
        assert_same(smooth_dc, dc)
        for got, want in zip(BCE(real_label=0.9).generator(c), BCE().generator(c)):
            assert_same(got, want)

    def test_only_the_non_saturating_loss_pushes_hopeless_fakes(self):
        c = np.full((1, 1), -20.0)  # D is certain that it is a fake
        assert BCE().generator(c)[1] < -0.999
        assert -1e-8 < BCE(minimax=True).generator(c)[1] < 0


class TestACGAN:
    """Scores (N, 1 + K): real or fake, then the classes."""

    @pytest.mark.parametrize("N, M", [(1, 1), (5, 3)])
    @pytest.mark.parametrize("scale", [1, 1e4])
    def test_value_and_gradients(self, N, M, scale, device, rng):
        a, c = (rng.normal(size=(n, 11), scale=scale) for n in (N, M))
        labels, fake_labels = (rng.integers(10, size=n) for n in (N, M))
        _, real, fake, generator = objective_twin(BCE())

        def classes(scores, labels):
            return F.cross_entropy(scores[:, 1:], torch.from_numpy(labels))

        def discriminator(a, c):
            return real(a[:, :1]) + fake(c[:, :1]) + classes(a, labels) + classes(c, fake_labels)

        want = autograd(discriminator, a, c) + autograd(lambda c: generator(c[:, :1]) + classes(c, fake_labels), c)
        a, c, labels, fake_labels = map(device.asarray, (a, c, labels, fake_labels))
        compare((*ACGAN().discriminator(a, c, labels, fake_labels), *ACGAN().generator(c, fake_labels)), want, least=1 / N)

    def test_score_is_of_real_or_fake_alone(self, rng):
        a = rng.normal(size=(6, 11))
        assert_close(ACGAN().score(a), BCE().score(a[:, :1]))


@everyone
def test_the_score_worth_watching(objective, device, rng):
    """The mean probability for BCE, the mean score for the others."""
    a = rng.normal(size=(6, 1))
    want = (1 / (1 + np.exp(-a))).mean() if isinstance(objective, BCE) else a.mean()
    assert_close(objective.score(device.asarray(a)), want)
