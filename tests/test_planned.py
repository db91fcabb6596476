"""The planned step trains as GAN.train_step does, in every precision."""

import pytest
from planned_runs import STEPS, WHERE, check, results

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
)
FIRST = ("raschka_mlp_gan", "raschka_dcgan")
LOW = {"dcgan": 2e-4, "cgan": 2e-4, "raschka_mlp_gan": 1e-3}  # rates of Adam


@WHERE
@pytest.mark.parametrize("name", (*NAMES, *FIRST))
def test_planned_step_trains_the_same(name, where):
    """Metrics, parameters and running statistics; the plan makes no array."""
    check(results("compare", where, "fp32", [name])[name])


@WHERE
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precision(where, precision):
    """Metrics stay within 16 roundings of float64. A gradient near 0 may have the other sign, so that Adam moves a parameter the
    other way: by up to 1.06 of its rate, where the second of two gradients is twice the first; 1.4 where beta1 is 0.9."""
    for name, found in results("compare", where, precision, LOW).items():
        metrics, G, D, _ = found["planned"]
        assert metrics <= 16 * {"tf32": 2**-11, "bf16": 2**-8}[precision], name
        assert max(G, D) <= 2 * STEPS * (1.06 if LOW[name] == 2e-4 else 1.4) * LOW[name], name
