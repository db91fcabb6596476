"""Spec of head_gradient.py, with statistics and partial sums as plain arrays."""

from math import prod

from rawgan.backend import array_module
from rawgan.kernels.head_gradient import TILE, head_gradient
from rawgan.kernels.specs.batchnorm import batch_sums_reference, make_stats
from rawgan.kernels.specs.conv import statistics_axes
from rawgan.kernels.specs.spec import EXACT, Axes, Spec
from rawgan.kernels.specs.step_inputs import dropout_reference
from rawgan.kernels.tile.batch_stats import BatchGradStats
from rawgan.kernels.tile.dropout import DropoutMask


def from_arrays(dscore, w, z, stats, *, act, mask=None, state=None, x=None, bias=False):
    """Return (dp, means, dgamma, dbeta), and with x also dw, and with a bias db."""
    norm = BatchGradStats(z, stats)
    dp, *grads = head_gradient(dscore, w, norm, act, 0.2, mask, state, x, bias=bias)
    return dp, norm.means, norm.dgamma, norm.dbeta, *(a for a in grads if a is not None)


def _reference(dscore, w, z, stats, act, mask=None, state=None, x=None, bias=False):
    dy = (dscore.reshape(-1, 1) * w.reshape(-1)).reshape(z.shape)
    if mask is not None:
        dy = dropout_reference(dy, state, *mask)
    results = dy, *batch_sums_reference(dy, z, stats, act=act)  # dy becomes dp
    if x is None:
        return results
    xp, groups, block = array_module(z), stats.shape[1], TILE["BLOCK_M"]
    parts = [
        slice(group + start, group + min(start + block, len(z) // groups))
        for group in range(0, len(z), len(z) // groups)
        for start in range(0, len(z) // groups, block)
    ]
    dscore, rows = dscore.reshape(-1), x.reshape(len(x), -1)
    dw = xp.stack([(dscore[part] @ rows[part]).reshape(w.shape) for part in parts])
    db = xp.stack([dscore[part].sum(keepdims=True) for part in parts])
    return (*results, dw, db) if bias else (*results, dw)


def _make(array, shape, groups, act, mask=None, weights=True, bias=False):
    options = {"act": act, "mask": mask, "bias": bias}
    if mask:
        options["state"] = array(2, dtype="int64")
        options["state"][:] = 2**40 + 5, 7
    if weights:
        options["x"] = array(*shape)
    stats = make_stats(array, groups, shape[-1])
    return (array(shape[0], 1), array(1, *shape[1:]), array(*shape), stats), options


def _axes(one) -> Axes:
    c = one.constants
    axes = {"samples": (c["SAMPLES"], c["BLOCK_M"]), "pixels": (c["PIXELS"], EXACT)}
    axes |= {"columns": (c["WIDTH"], c["BLOCK_N"])}
    return axes | statistics_axes(c, c["TILES_M"])


GRID_AXES = {"head_gradient_kernel": _axes}
LARGE = {"shape": (256, 4, 4, 512), "groups": 2, "act": "leaky_relu"}
MASK = DropoutMask(0.5, 3, 1000)

SPECS = (
    Spec(
        name="head_gradient",
        wrapper=from_arrays,
        reference=_reference,
        make=_make,
        cases=(
            {"shape": (6, 2, 2, 7), "groups": 1, "act": "relu", "bias": True},
            {"shape": (9, 70), "groups": 1, "act": None, "mask": MASK, "weights": False},
            {"shape": (132, 3, 1, 70), "groups": 2, "act": "leaky_relu", "mask": MASK,
             "bias": True},
            # so many tiles that their statistics are merged in two levels
            {"shape": (6, 5, 7, 66), "groups": 2, "act": "tanh"},
        ),
        benchmarks=(LARGE, LARGE | {"shape": (128, 4, 4, 512), "groups": 1, "weights": False}),
        traffic=lambda itemsize, shape, weights=True, **_: (2 + weights) * itemsize * prod(shape),
        flops=lambda shape, weights=True, **_: (8 + 2 * weights) * prod(shape),
        compiles=(
            ("bfloat16", LARGE, {}),
            ("float32", LARGE, {}),
            ("bfloat16", LARGE | {"mask": MASK, "bias": True}, {}),
        ),
        float32=(1, 2, 3, 4, 5),
    ),
)  # fmt: skip
