"""Critics with and without BatchNorm: which sample influences which score."""

import numpy as np

from docs.figures import drawing
from rawgan.init import he_uniform
from rawgan.layers import BatchNorm, LayerNorm, Linear, Parameters, Sequential, Tanh


def influence(norm, N: int = 8) -> np.ndarray:
    """Return (N, N): |d D(x[n]) / d x[m]|, a row per score, by N backward passes.

    Each pass starts from a unit vector.
    """
    rng = np.random.default_rng(0)
    net = Sequential(Linear(6, 16), norm, Tanh(), Linear(16, 1))
    he_uniform(net, rng)
    Parameters(net, dtype=np.float64)
    _, cache = net.forward(rng.normal(size=(N, 6)))
    return np.stack(
        [
            np.linalg.norm(net.backward(dy[:, None], cache, need_grads=False)[0], axis=1)
            for dy in np.eye(N)
        ]
    )


@drawing(7, 3)
def coupling(figure):
    for axes, norm in zip(figure.subplots(1, 2), (LayerNorm(16), BatchNorm(16))):
        values = influence(norm)
        axes.imshow(values, cmap="Blues", vmin=0, vmax=values.max())
        outside = values[~np.eye(len(values), dtype=bool)].max()
        axes.set_title(f"{type(norm).__name__}: largest outside the diagonal {outside:.2g}")
        axes.set(xlabel="sample m", ylabel="score n", xticks=(), yticks=())
