"""rawgan.losses: values and gradients of every objective against autograd."""

import numpy as np
import pytest
import torch
from twins import OBJECTIVES

from rawgan.losses import BCE

SHAPES = [((1, 1), (1, 1)), ((5, 1), (3, 1)), ((4, 1, 1, 1), (7, 1, 1, 1)), ((2, 3, 3, 1), (6, 3, 3, 1))]
objectives = pytest.mark.parametrize("objective, d_real, d_fake, g_fake", OBJECTIVES, ids=lambda o: repr(o) if "(" in repr(o) else "")
TOLERANCE = 1e-10


def autograd(loss, *scores):
    """The loss and its gradients in float64."""
    leaves = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in scores]
    value = loss(*leaves)
    return value.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(value, leaves))


def check(objective, d_real, d_fake, g_fake, a, c, tolerance=TOLERANCE):
    """Both players' losses and gradients, and that the scores are left as they were."""
    before = a.copy(), c.copy()
    got = (*objective.discriminator(a, c), *objective.generator(c))
    want = (*autograd(lambda a, c: d_real(a) + d_fake(c), a, c), *autograd(g_fake, c))
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == a.dtype
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.abs(w).max())
    for s, b in zip((a, c), before):
        np.testing.assert_array_equal(s, b)


class TestEveryObjective:
    @objectives
    @pytest.mark.parametrize("shapes", SHAPES, ids=str)
    def test_value_and_gradients(self, objective, d_real, d_fake, g_fake, shapes):
        rng = np.random.default_rng(1)
        check(objective, d_real, d_fake, g_fake, *(3 * rng.standard_normal(shape) for shape in shapes))

    @objectives
    @pytest.mark.parametrize("dtype, tolerance", [(np.float64, TOLERANCE), (np.float32, 1e-6)])
    def test_far_out_and_at_the_kinks(self, objective, d_real, d_fake, g_fake, dtype, tolerance):
        scores = np.array([[-1e4], [-120], [-1], [0], [1], [120], [1e4]], dtype)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            check(objective, d_real, d_fake, g_fake, scores, scores[::-1].copy(), tolerance)

    @objectives
    @pytest.mark.parametrize("score", [-1e4, -120, 120, 1e4])
    def test_one_far_out_score_alone(self, objective, d_real, d_fake, g_fake, score):
        check(objective, d_real, d_fake, g_fake, np.full((1, 1), score), np.full((1, 1), -score))

    @objectives
    def test_gradients_carry_one_over_the_batch(self, objective, d_real, d_fake, g_fake):
        """A batch of the same score twice has the same loss and half the gradient each."""
        a, c = np.full((1, 1), 0.3), np.full((1, 1), -0.4)
        once = (*objective.discriminator(a, c), *objective.generator(c))
        twice = (*objective.discriminator(a.repeat(2, 0), c.repeat(2, 0)), *objective.generator(c.repeat(2, 0)))
        for got, want in zip(twice, once):
            np.testing.assert_allclose(got, want if want.ndim == 0 else want.repeat(2, 0) / 2, rtol=1e-14)

    @objectives
    def test_the_generator_climbs(self, objective, d_real, d_fake, g_fake):
        """Against its gradient every fake's score rises."""
        c = np.random.default_rng(2).uniform(-3, 0.9, (9, 1))
        _, dc = objective.generator(c)
        assert (dc < 0).all()

    @objectives
    def test_the_discriminator_pulls_apart(self, objective, d_real, d_fake, g_fake):
        rng = np.random.default_rng(3)
        _, da, dc = objective.discriminator(*rng.uniform(-0.9, 0.9, (2, 9, 1)))
        assert (da < 0).any() and da.mean() < 0 < dc.mean()


class TestBCE:
    def test_smoothing_is_one_sided(self):
        """real_label 0.9 moves the real term, by 0.1 a, and nothing else."""
        a, c = np.random.default_rng(4).standard_normal((2, 6, 1))
        loss, da, dc = BCE().discriminator(a, c)
        smooth_loss, smooth_da, smooth_dc = BCE(real_label=0.9).discriminator(a, c)
        np.testing.assert_allclose(smooth_loss - loss, 0.1 * a.mean(), rtol=TOLERANCE)
        np.testing.assert_allclose(smooth_da - da, np.full_like(a, 0.1 / 6), rtol=TOLERANCE)
        np.testing.assert_array_equal(smooth_dc, dc)
        for got, want in zip(BCE(real_label=0.9).generator(c), BCE().generator(c)):
            np.testing.assert_array_equal(got, want)

    def test_minimax_is_the_negative_of_the_discriminators_part(self):
        c = np.random.default_rng(5).standard_normal((6, 1))
        loss, dc = BCE(minimax=True).generator(c)
        far = np.full((1, 1), 1e3)  # D(real) = 1: no loss from there
        want_loss, _, want_dc = BCE().discriminator(far, c)
        np.testing.assert_allclose(loss, -want_loss, rtol=TOLERANCE)
        np.testing.assert_allclose(dc, -want_dc, rtol=TOLERANCE)

    def test_only_the_non_saturating_loss_pushes_hopeless_fakes(self):
        c = np.full((1, 1), -20.0)  # D is certain that it is a fake
        assert BCE().generator(c)[1] < -0.999
        assert -1e-8 < BCE(minimax=True).generator(c)[1] < 0

    def test_score_is_the_mean_probability(self):
        a = np.random.default_rng(6).standard_normal((6, 1))
        np.testing.assert_allclose(BCE().score(a), np.mean(1 / (1 + np.exp(-a))), rtol=TOLERANCE)


@pytest.mark.parametrize("objective", [o for o, *_ in OBJECTIVES if not isinstance(o, BCE)], ids=repr)
def test_score_is_the_mean(objective):
    a = np.random.default_rng(7).standard_normal((6, 1))
    np.testing.assert_allclose(objective.score(a), a.mean(), rtol=TOLERANCE)
