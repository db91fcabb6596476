"""rawgan.losses: values and gradients of every objective against autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rawgan.backend import to_host
from rawgan.losses import ACGAN, BCE, cross_entropy
from tests.support.reference import assert_close, assert_same, tensor
from tests.support.twins import OBJECTIVES, objective_twin

SHAPES = [
    ((1, 1), (1, 1)),
    ((5, 1), (3, 1)),
    ((4, 1, 1, 1), (7, 1, 1, 1)),
    ((2, 3, 3, 1), (6, 3, 3, 1)),
]
FAR = (-1e4, -120.0, 120.0, 1e4)
everyone = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def autograd(loss, *scores):
    """Return the loss and its gradients in float64 by autograd."""
    leaves = [tensor(s).requires_grad_() for s in scores]
    value = loss(*leaves)
    return [t.detach().numpy() for t in (value, *torch.autograd.grad(value, leaves))]


def compare(got, want, least=0):
    """Assert equality relative to the larger of each array's maximum and `least`."""
    for name, g, w in zip(("d_loss", "da", "dc", "g_loss", "dc of G"), got, want, strict=True):
        assert np.isfinite(to_host(g)).all()
        assert_close(g, w, name, scale=max(least, abs(w).max()))


def check(objective, device, a, c, least=0):
    """Assert both players' losses and gradients, their dtype, and unchanged scores."""
    twin = objective_twin(objective)
    want = (
        *autograd(twin.discriminator, a, c),
        *autograd(lambda c: twin.generator(c, tensor(a)), c),
    )
    scores = [device.asarray(s.copy()) for s in (a, c)]
    got = (
        *objective.discriminator(*scores),
        *objective.generator(*twin.generator_scores(*scores[::-1])),
    )
    assert {g.dtype for g in got} == {a.dtype}
    compare(got, want, least)
    for s, before in zip(scores, (a, c)):
        assert_same(s, before)


class TestEveryObjective:
    @everyone
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("shapes", SHAPES, ids=str)
    def test_value_and_gradients(self, objective, shapes, dtype, device, rng):
        if objective_twin(objective).paired:
            shapes = (shapes[0], shapes[0])
        check(
            objective, device, *(rng.normal(size=shape, scale=3).astype(dtype) for shape in shapes)
        )

    @everyone
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_far_out_and_at_the_kinks(self, objective, dtype, device):
        largest = objective_twin(objective).largest
        scores = np.clip([*FAR, -1, 0, 1], -largest, largest).astype(dtype)[:, None]
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            check(objective, device, scores, scores[::-1])

    @everyone
    @pytest.mark.parametrize("score", FAR)
    def test_one_far_out_score_alone(self, objective, score, device):
        score = np.clip(score, -(largest := objective_twin(objective).largest), largest)
        check(
            objective, device, np.full((1, 1), score), np.full((1, 1), -score), least=1
        )  # sigmoid(-120) may be 0

    @everyone
    def test_gradients_carry_one_over_the_batch(self, objective):
        """Gradients include 1/N: a score repeated twice has equal loss, and half the gradient."""
        a, c = np.full((1, 1), 0.3), np.full((1, 1), -0.4)
        a2, c2 = a.repeat(2, 0), c.repeat(2, 0)
        scores = objective_twin(objective).generator_scores
        once = (*objective.discriminator(a, c), *objective.generator(*scores(c, a)))
        twice = (*objective.discriminator(a2, c2), *objective.generator(*scores(c2, a2)))
        for got, want in zip(twice, once):
            assert_close(got, want if want.ndim == 0 else want.repeat(2, 0) / 2)

    @everyone
    def test_the_generator_climbs(self, objective, rng):
        """The gradient of G's loss is negative in every score, so a step increases all of them."""
        c, a = rng.uniform(-3, 0.9, (9, 1)), rng.uniform(0.1, 3, (9, 1))
        _, dc = objective.generator(*objective_twin(objective).generator_scores(c, a))
        assert (dc < 0).all()

    @everyone
    def test_the_discriminator_pulls_apart(self, objective, rng):
        """A step of D increases the scores of real samples and decreases those of fakes."""
        _, da, dc = objective.discriminator(
            rng.uniform(-3, 0.9, (9, 1)), rng.uniform(0.1, 3, (9, 1))
        )
        assert (da < 0).all() and (dc > 0).all()


class TestBCE:
    def test_smoothing_is_one_sided(self, rng):
        """real_label 0.9 adds 0.1 a to the real term and changes nothing else."""
        a, c = rng.normal(size=(2, 6, 1))
        loss, da, dc = BCE().discriminator(a, c)
        smooth_loss, smooth_da, smooth_dc = BCE(real_label=0.9).discriminator(a, c)
        assert_close(smooth_loss - loss, 0.1 * a.mean())
        assert_close(smooth_da - da, np.full_like(a, 0.1 / 6))
        assert_same(smooth_dc, dc)
        for got, want in zip(BCE(real_label=0.9).generator(c), BCE().generator(c)):
            assert_same(got, want)

    @pytest.mark.parametrize("label", [1.0, 0.9])
    def test_gradients_keep_their_digits(self, label):
        """Gradients have relative accuracy in float32, also near 0, where D is right."""
        x = np.float32([-80, -18, -5, 0, 5, 18, 80])[:, None]
        e = x.astype(np.float64)
        s, s_minus = 1 / (1 + np.exp(-e)), 1 / (1 + np.exp(e))
        _, da, dc = BCE(label).discriminator(x, x)
        for got, want in (
            (da, 1 - label - s_minus),
            (dc, s),
            (BCE().generator(x)[1], -s_minus),
            (BCE(minimax=True).generator(x)[1], -s),
        ):
            assert (abs(got - want / 7) <= 4e-6 * abs(want / 7)).all(), (got, want / 7)
        for score in x:
            loss = BCE().discriminator(score, -score)[0]
            want = 2 * np.log1p(np.exp(-score.astype(np.float64)[0]))
            assert abs(loss - want) <= 4e-6 * want

    def test_only_the_non_saturating_loss_pushes_hopeless_fakes(self):
        c = np.full((1, 1), -20.0)  # D is certain that it is fake
        assert BCE().generator(c)[1] < -0.999
        assert -1e-8 < BCE(minimax=True).generator(c)[1] < 0


class TestACGAN:
    """ACGAN takes scores (N, 1 + K): real or fake, then the classes."""

    @pytest.mark.parametrize("N, M", [(1, 1), (5, 3)])
    @pytest.mark.parametrize("scale", [1, 1e4])
    def test_value_and_gradients(self, N, M, scale, device, rng):
        a, c = (rng.normal(size=(n, 11), scale=scale) for n in (N, M))
        labels, fake_labels = (rng.integers(10, size=n) for n in (N, M))
        source = objective_twin(BCE())

        def classes(scores, labels):
            return F.cross_entropy(scores[:, 1:], torch.from_numpy(labels))

        def discriminator(a, c):
            of_source = source.discriminator(a[:, :1], c[:, :1])
            return of_source + classes(a, labels) + classes(c, fake_labels)

        want = autograd(discriminator, a, c) + autograd(
            lambda c: source.generator(c[:, :1], None) + classes(c, fake_labels), c
        )
        a, c, labels, fake_labels = map(device.asarray, (a, c, labels, fake_labels))
        compare(
            (*ACGAN().discriminator(a, c, labels, fake_labels), *ACGAN().generator(c, fake_labels)),
            want,
            least=1 / N,
        )

    def test_cross_entropy_keeps_its_digits(self):
        """The loss and gradient of a row whose label leads by 20 are accurate.

        softmax - 1 in float32 would be 0.
        """
        for lead in (5, 20, 60):
            logits = np.zeros((1, 4), np.float32)
            logits[0, 2] = lead
            loss, dx = cross_entropy(logits, np.array([2]))
            rest = 3 * np.exp(-np.float64(lead))
            assert abs(loss / np.log1p(rest) - 1) < 1e-6
            want = np.array([1, 1, -3, 1]) * rest / 3 / (1 + rest)
            assert (abs(dx[0] / want - 1) < 1e-6).all()

    def test_label_smoothing_is_of_the_real_or_fake_logit(self, device, rng):
        a, c = rng.normal(size=(2, 5, 11))
        labels = rng.integers(10, size=5)
        smooth, plain = ACGAN().with_real_label(0.9), ACGAN()
        assert smooth == ACGAN(BCE(0.9))
        loss, da, dc = smooth.discriminator(a, c, labels, labels)
        plain_loss, plain_da, plain_dc = plain.discriminator(a, c, labels, labels)
        assert_close(loss - plain_loss, 0.1 * a[:, 0].mean())
        assert_close((da - plain_da)[:, 0], np.full(5, 0.1 / 5))
        assert_same(da[:, 1:], plain_da[:, 1:])
        assert_same(dc, plain_dc)

    def test_score_is_of_real_or_fake_alone(self, rng):
        a = rng.normal(size=(6, 11))
        assert_close(ACGAN().score(a), BCE().score(a[:, :1]))


@everyone
def test_the_score_worth_watching(objective, device, rng):
    """The logged score is the mean probability for BCE, the mean score for the others."""
    a = rng.normal(size=(6, 1))
    want = (1 / (1 + np.exp(-a))).mean() if isinstance(objective, BCE) else a.mean()
    assert_close(objective.score(device.asarray(a)), want)
