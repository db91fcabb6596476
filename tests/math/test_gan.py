"""The training step of rawgan.gan equals a PyTorch twin over a run, and autograd in each step."""

import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

import rawgan.gan
from rawgan.backend import to_host
from rawgan.gan import Schedule
from rawgan.layers import state
from rawgan.losses import BCE
from rawgan.optim import SGD
from tests.support.gan_twin import FIRST, assert_drift, assert_parity, assert_steps, atienza, dcgan
from tests.support.reference import assert_close, assert_same
from tests.support.twins import OBJECTIVES, gradients, states, to_nchw, twin


class TestTrajectory:
    @pytest.mark.parametrize(
        "recipe",
        [
            pytest.param(lambda: dcgan(), id="16x16x1, label 0.9"),
            pytest.param(lambda: dcgan(32, 3, real_label=1.0), id="32x32x3"),
            pytest.param(lambda: dcgan(28, 1, width=3, z=100, batch=5), id="28x28x1, odd"),
        ],
    )
    def test_dcgan(self, recipe, device):
        assert_parity(recipe(), 50, device)

    def test_atienza(self, device):
        assert_parity(atienza(), 10, device)

    @pytest.mark.parametrize(
        "size, first", [(16, FIRST), (32, 3)]
    )  # at 32x32 an activation reaches its kink in the fourth step
    def test_dcgan_in_float32(self, size, first, device):
        assert_drift(dcgan(size), 50, device, first)

    @pytest.mark.slow
    def test_dcgan_32_in_full(self, device):
        assert_parity(dcgan(32, width=32, z=100, batch=64, real_label=1.0), 50, device)

    @pytest.mark.slow
    def test_dcgan_32_in_full_in_float32(self, device):
        assert_drift(dcgan(32, width=32, z=100, batch=64, real_label=1.0), 50, device, first=0)


def test_the_listing_in_the_docstring_is_the_step():
    """The code in the docstring of rawgan/gan.py gives the bits of `train_step`."""
    one, other = dcgan().gan(), dcgan().gan()
    _, _, rest = rawgan.gan.__doc__.partition("beside `GAN.train_step`:\n")
    listing, _, _ = rest.partition("\n`GAN`")
    for batch in dcgan().batches(3):
        real, z = (a.astype(np.float64) for a in batch)
        names = {
            "G": one.generator,
            "D": one.discriminator,
            "objective": one.objective,
            "g_optimizer": one.generator_optimizer,
            "d_optimizer": one.discriminator_optimizer,
            "real": real,
            "z": z,
        }
        exec(textwrap.dedent(listing), names)
        metrics = other.train_step(real, z)
        assert metrics["d_loss"] == names["d_loss"] and metrics["g_loss"] == names["g_loss"]
        for mine, theirs in ((one.generator, other.generator), (names["D"], other.discriminator)):
            for (name, a), b in zip(state(mine).items(), state(theirs).values()):
                assert np.array_equal(a, b), name


class TestOneStep:
    @pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
    def test_each_player_moves_alone_by_autograds_amount(self, objective):
        assert_steps(dcgan(), objective)

    def test_of_atienza(self):
        assert_steps(atienza())

    @pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
    def test_the_generator_raises_its_score_and_the_discriminator_the_difference(self, objective):
        gan = dcgan().gan(objective=objective, optimizer=lambda parameters: SGD(parameters, 1e-3))
        real, z = (a.astype(np.float64) for a in next(dcgan().batches(1)))

        def scores():
            return gan.discriminator.forward(real)[0].mean(), gan.discriminator.forward(
                gan.generator.forward(z)[0]
            )[0].mean()

        a, c = scores()
        gan.discriminator_step(real, gan.generator.forward(z)[0])
        a1, c1 = scores()
        assert a1 - c1 > a - c
        gan.generator_step(*gan.generator.forward(z), real)
        assert scores()[1] > c1

    def test_metrics_are_of_the_scores_before_each_players_step(self, device):
        recipe = dcgan(real_label=1.0)
        gan = recipe.gan(device=device)
        real, z = (device.asarray(a.astype(np.float64)) for a in next(recipe.batches(1)))
        a, c = (gan.discriminator.forward(x)[0] for x in (real, gan.generator.forward(z)[0]))
        got = gan.train_step(real, z)
        assert got.keys() == {"d_loss", "g_loss", "d_real", "d_fake"}
        assert_close(got["d_loss"], to_host(BCE().discriminator(a, c)[0]))
        assert_close(got["d_real"], to_host(BCE().score(a)))
        assert_close(got["d_fake"], to_host(BCE().score(c)))


class TestVariants:
    """Steps of other recipes equal autograd, or a combination of the plain steps above."""

    def one(self, **options):
        recipe = dcgan(real_label=1.0)
        gan = recipe.gan(optimizer=lambda parameters: SGD(parameters, 0.5))
        return replace(gan, **options), [
            [a.astype(np.float64) for a in pair] for pair in recipe.batches(4)
        ]

    def test_joint_is_the_mean_over_one_batch(self):
        gan, ((real, z), *_) = self.one(schedule=Schedule(joint_batch=True))
        fake, _ = gan.generate(z)
        D, D_twin = gan.discriminator, twin(gan.discriminator)
        labels = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).to(torch.float64)
        scores = D_twin(to_nchw(torch.from_numpy(np.concatenate([real, fake]))))
        want = torch.nn.functional.binary_cross_entropy_with_logits(scores.flatten(), labels)
        want.backward()
        before = state(D)
        got = gan.discriminator_step(real, fake)
        assert_close(got["d_loss"], want.item())
        after = state(D)
        for name, grad in gradients(D, D_twin).items():
            assert_close(after[name] - before[name], -0.5 * grad, name, scale=abs(grad).max())
        for name in D.buffers:
            assert_close(after[name], states(D, D_twin)[name][1], name, scale=1)

    @pytest.mark.parametrize("fakes", [4, 8])
    def test_one_pass_is_two(self, fakes):
        """For a D without BatchNorm a joint pass equals two passes, for any number of fakes."""
        gan = atienza().gan(optimizer=lambda parameters: SGD(parameters, 0.5))
        ((real, z),) = ([a.astype(np.float64) for a in pair] for pair in atienza().batches(1))
        fake, _ = gan.generate(z[:fakes])
        D = gan.discriminator
        (a, real_cache), (c, fake_cache) = D.forward(real), D.forward(fake)
        loss, da, dc = gan.objective.discriminator(a, c)
        passes = D.backward(da, real_cache)[1], D.backward(dc, fake_cache)[1]
        metrics, got, _ = gan.discriminator_gradient(real, fake)
        want = gan.discriminator_optimizer.parameters.flatten_gradients(*passes)
        assert_close(got, want, scale=abs(want).max())
        for name, value in (
            ("d_loss", loss),
            ("d_real", BCE().score(a)),
            ("d_fake", BCE().score(c)),
        ):
            assert_close(metrics[name], value, name)

    @pytest.mark.parametrize(
        "fields",
        [
            {"order": "both"},
            {"fake_mode": "eval"},
            {"generator_mode": "eval"},
            {"penalty_mode": True},
        ],
    )
    def test_unknown_orders_and_modes(self, fields):
        with pytest.raises(ValueError, match=f"{next(iter(fields.values()))!r}: "):
            Schedule(**fields)

    def test_joint_and_both_at_once(self):
        with pytest.raises(ValueError, match="cannot be combined with a joint batch"):
            Schedule(joint_batch=True, order="simultaneous")

    def test_generator_first_shows_the_discriminator_the_old_fakes(self):
        gan, ((real, z), *_) = self.one(schedule=Schedule(order="generator_first"))
        gan.train_step(real, z)
        got = state(gan.generator), state(gan.discriminator)
        gan, _ = self.one()
        fake, cache = gan.generate(z)
        gan.generator_step(fake, cache)
        gan.discriminator_step(real, fake)
        self.assert_states(gan, *got)

    @pytest.mark.parametrize("resample_z", [False, True])
    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_lists_are_discriminator_steps(self, steps, resample_z):
        gan, batches = self.one()
        reals, zs = map(list, zip(*batches[:steps]))
        gan.train_step(reals, zs + [batches[3][1]] * resample_z)
        assert (gan.discriminator_optimizer.t, gan.generator_optimizer.t) == (steps, 1)
        got = state(gan.generator), state(gan.discriminator)
        gan, _ = self.one()
        for real, z in batches[:steps]:
            fake, cache = gan.generate(z)
            gan.discriminator_step(real, fake)
        gan.generator_step(*(gan.generate(batches[3][1]) if resample_z else (fake, cache)))
        self.assert_states(gan, *got)

    def test_clip_bounds_the_discriminator_alone(self):
        gan, ((real, z), *_) = self.one(clip=0.01)
        generator = state(gan.generator)
        fake, _ = gan.generate(z)
        gan.discriminator_step(real, fake)
        free, _ = self.one()
        free.discriminator_step(real, fake)
        for name, a in free.discriminator.params.items():
            assert_same(gan.discriminator.params[name], a.clip(-0.01, 0.01), name)
        for name in gan.generator.params:
            assert_same(gan.generator.params[name], generator[name], name)

    def test_fakes_made_in_inference_mode_leave_the_generators_statistics(self):
        gan, ((real, z), (_, g_z), *_) = self.one(schedule=Schedule(fake_mode="inference"))
        before = state(gan.generator)
        gan.generate(g_z)  # the effect of G's step on its running statistics
        after = state(gan.generator)
        for name, running in gan.generator.buffers.items():
            running[...] = before[name]
        want = gan.discriminator.forward(gan.generator.forward(z, train=False)[0])[0]
        got = gan.train_step([real], [z, g_z])
        assert_close(got["d_fake"], BCE().score(want))
        for name, running in gan.generator.buffers.items():
            assert_same(running, after[name], name)

    def assert_states(self, gan, *want):
        for net, arrays in zip((gan.generator, gan.discriminator), want):
            for name, a in state(net).items():
                assert_same(a, arrays[name], name)
