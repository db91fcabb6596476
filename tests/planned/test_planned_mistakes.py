"""The comparison with GAN.train_step detects mistakes in the plan of raschka_wgan_gp.

The worker, which prints the comparison with each mistake as JSON:

    TRITON_INTERPRET=1 python tests/planned/test_planned_mistakes.py
"""

import json

import pytest

from rawgan.backend import CPU
from rawgan.kernels import kernels
from rawgan.planned import simultaneous as planned_simultaneous
from rawgan.planned.network import FusedBlock, backward, backward_maps, forward
from rawgan.planned.simultaneous import SimultaneousStep as Step
from tests.support.planned_cases import RASCHKA, Run
from tests.support.planned_runs import check_quantities, compare, run_python


def two_passes(order):
    """Compute D's loss gradient in separate passes for real and fake, in the given order."""

    def loss_gradient(self, x):
        B, D, last, (real, fake, _) = self.batch, self.D, self.G.blocks[-1], self.loss_terms
        passes = {"real": (x[:B], 0, (B, real, None)), "fake": (x[B:], B, (0, None, fake))}
        for i, (samples, row, terms) in enumerate(passes[name] for name in order):
            y, cache = self.discriminator_forward(samples, first_sample=row)
            cache, dzs = self.discriminator_loss(y, cache, *terms, add=i > 0)
            dz = backward_maps(D.blocks, cache, dzs, D.gradient)
            if row:
                dfake = D.blocks[0].input_grad(dz, self.fake, act=last.act, slope=last.slope)
        return dfake

    return loss_gradient


def no_mistake(m):
    """Control of the next mistake: two passes in the right order."""
    m.setattr(Step, "loss_gradient", two_passes(("real", "fake")))


def statistics_in_the_other_order(m):
    """Mistake: the fakes update the running statistics first."""
    m.setattr(Step, "loss_gradient", two_passes(("fake", "real")))


def batch_statistics_in_the_penalty(m):
    """Mistake: D runs in training mode for the penalty, with batch statistics and Dropout."""
    m.setattr(
        planned_simultaneous,
        "forward",
        lambda net, x, out=None, train=True: forward(net, x, out=out),
    )


def penalty_before_the_statistics_move(m):
    def launch(self):
        B = self.batch
        _, g_cache = forward(
            self.G.blocks, self.draw_inputs(self.real, self.input_counter), out=self.fake
        )
        kernels.critic_inputs(self.real, self.fake, self.state, self.alpha, self.x)
        x = self.x.reshape(3 * B, *self.fake.shape[1:])
        self.penalty_gradient(x[2 * B :])
        dfake = kernels.scale_samples(self.loss_gradient(x[: 2 * B]), self.minus_one)
        backward(self.G.blocks, g_cache, [dfake], self.G.gradient)
        self.D.step()
        self.G.step(self.state[1:])

    m.setattr(Step, "launch", launch)


def of_the_jvp(m, changes):
    """Change the arguments of batchnorm_infer_dx in the third sweep only."""
    original = kernels.batchnorm_infer_dx

    def changed(dy, z, stats, act, slope, **options):
        options = {"act": act, "slope": slope} | options
        return original(dy, z, stats, **(options | changes if "upstream" in options else options))

    m.setattr(kernels, "batchnorm_infer_dx", changed)


def no_gradient_of_gamma(m):
    """Mistake: the penalty's gradient of gamma is dropped."""
    of_the_jvp(m, {"dgamma": None})


def jvp_without_activation(m):
    of_the_jvp(m, {"act": None})


def gradient_of_the_bias(m):
    """Mistake: the penalty contributes a gradient to the biases, as a loss does."""
    add = FusedBlock.add_gradients
    m.setattr(
        FusedBlock,
        "add_gradients",
        lambda self, gradient, x, dz, bias_samples=None: add(self, gradient, x, dz),
    )


def generator_climbs(m):
    """Mistake: G gets D's gradient with respect to the fakes with the wrong sign."""
    m.setattr(kernels, "scale_samples", lambda g, factor: g)


MISTAKES = [
    statistics_in_the_other_order, batch_statistics_in_the_penalty,
    penalty_before_the_statistics_move, no_gradient_of_gamma, jvp_without_activation,
    gradient_of_the_bias, generator_climbs,
]  # fmt: skip


@pytest.fixture(scope="module")
def compared():
    return run_python(__file__)


def test_no_mistake(compared):
    check_quantities(compared["no_mistake"])


@pytest.mark.parametrize("mistake", [mistake.__name__ for mistake in MISTAKES])
def test_mistake_is_caught(compared, mistake):
    with pytest.raises(AssertionError, match="from float64"):
        check_quantities(compared[mistake])


def main() -> None:
    compared = {}
    for mistake in (no_mistake, *MISTAKES):
        with pytest.MonkeyPatch.context() as m:
            mistake(m)
            compared[mistake.__name__] = compare(Run(RASCHKA, 8, 1, 4), CPU, "fp32")
    print(json.dumps(compared))


if __name__ == "__main__":
    main()
