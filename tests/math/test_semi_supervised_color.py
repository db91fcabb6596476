"""The convolutional networks of rawgan.systems.semi_supervised: counts, and a training's twin."""

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.layers import GlobalMeanPool, WeightNorm, parameter_count
from rawgan.models import semi_supervised as models
from rawgan.models.semi_supervised import (
    FIRST_Z,
    NETWORKS,
    build,
    convolutional_discriminator,
    convolutional_generator,
)
from rawgan.random import Random
from rawgan.systems.semi_supervised import SemiSupervisedGAN
from tests.math.test_semi_supervised import Twin, torch_absolute_matching
from tests.support import recipe_twin  # noqa: F401  the twin of Dropout
from tests.support.reference import assert_close

N, SHAPE, Z, K, SEED = 4, (16, 16, 3), 5, 3, 3
FIRST = np.random.default_rng(1).uniform(-1, 1, (8, *SHAPE))


def small(device=None):
    """Return a system of width 2 in float64."""
    sizes = {
        "classes": K,
        "width": 2,
        "z": Z,
        "dtype": np.float64,
        "networks": NETWORKS["convolutional"],
    }
    if device is None:
        return build(Random(SEED), FIRST, **sizes)
    return build(Random(SEED), device.asarray(FIRST), device=device, **sizes)


def follow(device, steps):
    """Train a system and its twin; compare losses, weights and running statistics to 1e-10."""
    model = small(device)
    twin = Twin(model, SEED, lr=3e-4, matching=torch_absolute_matching)
    rng = np.random.default_rng(7)
    for step in range(steps):
        x, u, v = rng.uniform(-1, 1, (3, N, *SHAPE))
        z, z2 = rng.uniform(size=(2, N, Z))
        batch = x, rng.integers(K, size=N), u, z, v, z2
        got = model.train_step(*map(device.asarray, batch))
        for name, value in twin.train_step(*batch).items():
            assert_close(got[name], value.detach(), f"step {step}: {name}", allowed=1e-10)
    for name, (g, w) in twin.states().items():
        assert_close(g, w, name, allowed=1e-10)


def test_parameter_counts():
    """Those of the source for CIFAR-10 and for SVHN."""
    for width, count, scales in ((96, 1_406_804, 1440), (64, 626_580, 960)):
        assert parameter_count(convolutional_generator(width=width)) == 4_933_382
        D = convolutional_discriminator(width=width)
        assert parameter_count(D) == count
        assert parameter_count(D, buffers=True) == count + scales


def test_shapes():
    """Images in (-1, 1) of the shape of the data; the features are the mean over the pixels."""
    model = small()
    fake, _ = model.generator.forward(np.random.default_rng(0).random((N, Z)))
    assert fake.shape == (N, *SHAPE) and -1 < fake.min() < 0 < fake.max() < 1
    assert model.discriminator.forward(fake)[0].shape == (N, K)
    assert model.body.forward(fake)[0].shape == (N, 4)
    assert isinstance(model.body.layers[-1], GlobalMeanPool)


def test_other_sizes():
    z = np.zeros((2, 100), np.float32)
    fake, _ = convolutional_generator((24, 16, 1), 3).forward(z)
    assert fake.shape == (2, 24, 16, 1)
    assert convolutional_discriminator((24, 16, 1), 3, 7).forward(fake, False)[0].shape == (2, 7)
    for make in (convolutional_generator, convolutional_discriminator):
        for shape in ((28, 28, 1), (8, 8, 3), (16, 20, 3)):
            with pytest.raises(UserError, match="multiples of 8 from 16 on"):
                make(shape)


def test_first_values():
    """Each unit of D has mean 0 and std 1 over the images; the logits, and G's pixels, std 0.1."""
    model = small()
    model.discriminator.bind(Random(SEED).stream("noise"))
    first_z = Random(SEED).stream("first z").random((FIRST_Z, Z), np.float32).astype(np.float64)
    D = (*model.body.layers, model.discriminator.layers[1])
    for inputs, layers, count in ((FIRST, D, 10), (first_z, model.generator.layers, 1)):
        normed = [layer for layer in layers if isinstance(layer, WeightNorm)]
        stds = {layer: 1.0 for layer in normed} | {normed[-1]: 0.1}
        assert len(normed) == count
        x = inputs
        for layer in layers:
            x, _ = layer.forward(x)
            if layer in stds:
                axes = tuple(range(x.ndim - 1))
                assert_close(x.mean(axes), np.zeros(x.shape[-1]), scale=1, terms=x.size)
                assert_close(x.std(axes), np.full(x.shape[-1], stds[layer]), terms=x.size)


def test_training(device):
    """Every loss, weight and running statistic of 5 steps equals those of PyTorch's twin."""
    follow(device, 5)


def squared_matching(m):
    """Mistake: the gradient is that of the squared distance."""

    def wrong(fake, real):
        loss, _ = models.absolute_feature_matching(fake, real)
        return loss, models.feature_matching(fake, real)[1]

    kind = NETWORKS["convolutional"]._replace(matching=wrong)
    m.setitem(NETWORKS, "convolutional", kind)


def features_before_the_pool(m):
    """Mistake: the features are those of each pixel."""
    step = SemiSupervisedGAN.generator_step

    def wrong(self, v, z):
        pool = self.body.layers.pop()
        self.matching = matching_of_pixels
        try:
            return step(self, v, z)
        finally:
            self.body.layers.append(pool)

    def matching_of_pixels(fake, real):
        flat = (a.reshape(len(a), -1) for a in (fake, real))
        loss, dfake = models.absolute_feature_matching(*flat)
        return loss, dfake.reshape(fake.shape)

    m.setattr(SemiSupervisedGAN, "generator_step", wrong)


@pytest.mark.parametrize("mistake", [squared_matching, features_before_the_pool])
def test_mistakes_are_caught(monkeypatch, device, mistake):
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        follow(device, 2)
