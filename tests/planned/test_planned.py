"""The planned step equals GAN.train_step in every precision."""

import pytest

from tests.support.planned_cases import STEPS
from tests.support.planned_runs import WHERE, check, results

NAMES = (
    "dcgan",
    "dcgan, width 64",
    "dcgan, batch 3",
    "least squares",
    "hinge, no norm in D",
    "cgan",
    "atienza_dcgan",
    "atienza_cgan",
    "cgan, one layer",
    "atienza_cgan, perceptron",
    "dcgan, average",
    "acgan",
    "acgan, smoothed, real and fake apart",
    "wgan",
    "wgan, batch 3",
)
FIRST = ("raschka_mlp_gan", "raschka_dcgan", "raschka_mlp_gan, average")
BOTH = ("raschka_wgan_gp", "raschka_wgan_gp, perceptron")
LOW = {
    "dcgan": 2e-4,
    "cgan": 2e-4,
    "raschka_mlp_gan": 1e-3,
    "raschka_wgan_gp": 2e-4,
}  # learning rates of Adam
ROUNDING = {"bf16x3": 2**-17, "tf32": 2**-11, "bf16": 2**-8}  # of a factor, relative


@WHERE
@pytest.mark.parametrize("name", (*NAMES, *FIRST, *BOTH))
def test_planned_step_trains_the_same(name, where):
    """Planned and eager steps agree in metrics, parameters, statistics, gradients and G's average.

    No array is allocated. The number of wgan's D steps changes during the run.
    """
    check(results("compare", where, "fp32", [name])[name])


@WHERE
@pytest.mark.parametrize("precision", ROUNDING)
def test_lower_precision(where, precision):
    """Metrics are within 16 roundings of float64, gradients of the first step within 64.

    Each product rounds. A gradient near 0 may have the other sign, so that Adam moves a parameter
    the other way: by up to 1.06 of its rate, where the second of two gradients is twice the first;
    1.4 where beta1 is 0.9. The second gradient is then that of other parameters.
    """
    rounding = ROUNDING[precision]
    for name, result in results("compare", where, precision, LOW).items():
        metrics, G, D, *_ = result["planned"]
        assert metrics <= 16 * rounding, name
        assert max(result["first gradients"]) <= 64 * rounding, name
        assert max(G, D) <= 2 * STEPS * (1.4 if name.startswith("raschka") else 1.06) * LOW[name], (
            name
        )
