"""Specs of batchnorm.py, and of the convolutions with its statistics in their epilogues.

A layer is specified as one function, forward and backward, for a critic (conv2d) and for a
generator (conv2d_dx); statistics are plain arrays here.
"""

from math import prod

from rawgan.backend import array_module
from rawgan.geometry import output_size
from rawgan.kernels.batchnorm import (
    batchnorm_infer_act,
    batchnorm_infer_dx,
)
from rawgan.kernels.gemm_config import TABLES, config, small_config
from rawgan.kernels.runtime import launch
from rawgan.kernels.specs.batchnorm_layers import (
    batch_moments,
    batch_sums,
    batchnorm_affine_dx,
    batchnorm_infer_double_backward,
    conv2d_batchnorm_act,
    conv2d_batchnorm_dx,
    conv2d_dx_batchnorm_act,
    conv2d_dx_batchnorm_dx,
)
from rawgan.kernels.specs.conv import statistics_axes
from rawgan.kernels.specs.spec import PRODUCTS, Axes, Spec
from rawgan.kernels.specs.testing import activated, activated_dx
from rawgan.ops import conv as conv_ops
from rawgan.ops import norm as norm_ops

# References


def _stats(gamma, beta, mean, var, eps):
    """(5, ...): mean, variance, rstd, scale, shift."""
    rstd = (var + eps) ** -0.5
    scale = gamma * rstd
    return array_module(mean).stack([mean, var, rstd, scale, beta - mean * scale])


def _update_running(mean, var, batch_mean, batch_var, count):
    """Update the running statistics by those of each group, with the unbiased variance."""
    for group_mean, group_var in zip(batch_mean, batch_var):
        mean += 0.1 * (group_mean - mean)
        var += 0.1 * (group_var * count / (count - 1) - var)


def _forward_reference(convolution):
    def reference(x, w, gamma, beta, mean, var, *, act, groups, impl=None, config=None, **geometry):
        z = convolution(x, w, **geometry)
        parts = z.reshape(groups, -1, z.shape[-1])
        xhat, rstd, mu, v = norm_ops.normalize(parts, (1,), 1e-5)
        scale = gamma * rstd
        stats = [a.reshape(groups, -1) for a in (mu, v, rstd, scale, beta - mu * scale)]
        _update_running(mean, var, stats[0], stats[1], parts.shape[1])
        y = activated(norm_ops.affine(xhat, gamma, beta), act).reshape(z.shape)
        return z, y, array_module(z).stack(stats)

    return reference


def _before_act(dy, z, stats, act):
    """(dp, zhat), (groups, rows, K) each: the gradient of p from that of act(p), in NumPy."""
    mean, _, rstd, scale, shift = stats[:, :, None]
    parts = z.reshape(len(mean), -1, z.shape[-1])
    p = scale * parts + shift
    v = activated(p, act) if act in ("tanh", "sigmoid") else p
    return activated_dx(dy.reshape(parts.shape), act, v), (parts - mean) * rstd


def _backward_reference(convolution):
    def reference(dy, w, z, stats, *, act, impl=None, config=None, **geometry):
        dp, zhat = _before_act(convolution(dy, w, z.shape[1:3], **geometry), z, stats, act)
        dz = norm_ops.normalize_dx(dp, zhat, stats[3][:, None], (1,))
        return dz.reshape(z.shape), (dp * zhat).sum((0, 1)), dp.sum((0, 1))

    return reference


def _affine_dx_reference(dp, z, stats):
    return (dp.reshape(stats.shape[1], -1, z.shape[-1]) * stats[3][:, None]).reshape(z.shape)


def _moments_reference(z, gamma, beta, mean, var, *, groups):
    parts = z.reshape(groups, -1, z.shape[-1])
    mu, v = parts.mean(1), parts.var(1)
    _update_running(mean, var, mu, v, parts.shape[1])
    return _stats(gamma, beta, mu, v, 1e-5)


def batch_sums_reference(dy, z, stats, *, act):
    """Return (means, dgamma, dbeta); dy becomes the gradient of BatchNorm's output in place."""
    dp, zhat = _before_act(dy, z, stats, act)
    dy[...] = dp.reshape(dy.shape)
    means = array_module(z).stack([dp.mean(1), (dp * zhat).mean(1)])
    return means, (dp * zhat).sum((0, 1)), dp.sum((0, 1))


def _infer_act_reference(z, gamma, beta, mean, var, act, eps):
    stats = _stats(gamma, beta, mean, var, eps)
    return activated(norm_ops.affine((z - mean) * stats[2], gamma, beta), act), stats[:, None]


def _infer_dx_reference(dy, z, stats, *, act):
    dp, _ = _before_act(dy, z, stats, act)
    return (dp * stats[3][:, None]).reshape(z.shape)


def _double_backward_reference(dy, z, stats, upstream, *, act):
    dp, _ = _before_act(dy, z, stats, act)
    dgamma = stats[2][0] * (dp * upstream.reshape(dp.shape)).sum((0, 1))
    return _infer_dx_reference(dy, z, stats, act=act), dgamma


# Arguments


def make_stats(array, groups, K):
    """stats (5, groups, K) as a BatchNorm leaves them, of any mean and variance."""
    stats = array(5, groups, K, dtype="float32")
    stats[1] = stats[1] ** 2
    stats[2] = (1 + stats[1]) ** -0.5
    stats[4] -= stats[0] * stats[3]
    return stats


def _make_layer(up: bool, backward: bool):
    """Return a maker of a layer's arguments.

    A critic's layer maps (N, H, W, C) to K channels; up: a generator's maps back.
    """

    def make(array, N, H, W, C, K, R, stride, pad, act, groups, **keywords):
        large = N, H, W, C
        small = N, *(output_size(n, R, stride, (pad, pad)) for n in (H, W)), K
        w = array(K, R, R, C)
        keywords |= {"stride": stride, "pad": pad, "act": act}
        if backward:
            z, dy = (small, large) if up else (large, small)
            return (array(*dy), w, array(*z), make_stats(array, groups, z[-1])), keywords
        x, width = (small, C) if up else (large, K)
        params = [array(width, dtype="float32") for _ in range(4)]
        keywords |= {"groups": groups} | ({"size": (H, W)} if up else {})
        return (array(*x), w, *params), keywords

    return make


def _make_affine_dx(array, shape):
    return (array(*shape), array(*shape), make_stats(array, 1, shape[-1])), {}


def _vectors(array, K):
    """gamma, beta, and a running mean and variance."""
    gamma, beta, mean, var = (array(K, dtype="float32") for _ in range(4))
    return gamma, beta, mean, var**2


def _make_moments(array, shape, groups):
    return (array(*shape), *_vectors(array, shape[-1])), {"groups": groups}


def _make_sums(array, shape, groups, act):
    return (array(*shape), array(*shape), make_stats(array, groups, shape[-1])), {"act": act}


def _make_infer_act(array, shape, act):
    return (array(*shape), *_vectors(array, shape[-1])), {"act": act, "eps": 1e-3}


def _make_infer_dx(arrays: int):
    """Return a maker of dy, z and stats, and of `arrays - 2` further arrays of z's shape."""

    def make(array, shape, act):
        dy, z, *rest = (array(*shape) for _ in range(arrays))
        return (dy, z, make_stats(array, 1, shape[-1]), *rest), {"act": act}

    return make


# Cases


def _case(N, H, C, K, R, stride, pad, act="leaky_relu", groups=1, W=None, **keywords):
    sizes = {"N": N, "H": H, "W": W or H, "C": C, "K": K, "R": R}
    return sizes | {"stride": stride, "pad": pad, "act": act, "groups": groups, **keywords}


def _tile_cases(normalized: str):
    """Cases with several tiles along every axis, the last ragged.

    normalized: "C" or "K", whose channels BatchNorm's are. The first case is for impl="pointer",
    the others for "tma"; the last two have two groups of several tiles, the last one so many that
    their statistics are merged in two levels.
    """
    other = "C" if normalized == "K" else "K"
    width, most = (96, 66) if normalized == "K" else (128, 18)  # a residue class has tiles too
    pointer = _case(8, 8, R=3, stride=2, pad=1, groups=2, **{other: 5, normalized: 40}, W=8)
    return pointer, *(
        _case(
            N, H, W=W, R=R, stride=2, pad=R // 3, groups=groups, **{other: 32, normalized: width},
            impl="tma", config=small_config(pixels, 64),
        )
        for N, H, W, R, groups, pixels in (
            (9, 6, 6, 2, 1, 32), (3, 12, 8, 2, 1, 16), (2, 4, 40, 3, 2, 16), (most, 6, 8, 2, 2, 16),
        )
    )  # fmt: skip


# The largest tile, with registers for two programs on a multiprocessor
TWO_PROGRAMS = config(128, 128, 64, 8, 3) | {"maxnreg": 128}
SPLIT = TABLES["bf16x3"][0]


def _layer_spec(wrapper, reference, up: bool, backward: bool) -> Spec:
    large = tuple(
        _case(256, size, c, k, 4, 2, 1, "relu" if up else "leaky_relu", 2)
        for size, c, k in ((32, 64, 128), (16, 128, 256))
    )

    def traffic(itemsize, N, H, W, C, K, R, stride, pad, **_):
        x, y = H * W * C, (H // stride) * (W // stride) * K
        normalized = x if up != backward else y
        return itemsize * (N * (x + y + (3 + backward) * normalized) + K * R * R * C)

    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=_make_layer(up, backward),
        cases=(
            _case(4, 16, 64, 64, 4, 2, 1, groups=2),  # these two with TMA
            _case(5, 8, 64, 64, 3, 1, 1, None),
            _case(3, 7, 5, 6, 3, 2, 1, "tanh"),
            _case(8, 8, 16, 16, 4, 2, 1, "relu", 2),
            _case(64, 4, 9, 20, 4, 1, 0, "relu", 2),  # images of one pixel
            *_tile_cases("C" if up != backward else "K"),
        ),
        benchmarks=large,
        traffic=traffic,
        flops=lambda N, H, W, C, K, R, stride, pad, **_: (
            2 * N * (H // stride) * (W // stride) * K * R * R * C
        ),
        terms=lambda C, K, R, stride, **_: (
            launch.cdiv(R, stride) ** 2 * K if up != backward else R * R * C
        ),
        stats=None if backward else 2,
        compiles=(
            ("bfloat16", large[1], {"impl": "pointer"}),
            ("bfloat16", large[1], {"impl": "tma"}),
            ("bfloat16", large[1], {"impl": "tma", "config": TWO_PROGRAMS}),
            ("float32", large[1], {"impl": "tma", "precision": "bf16x3", "config": SPLIT}),
        ),
        dtypes=("float32", *PRODUCTS, "float16", "bfloat16"),
        implementations=(
            ("conv2d_dx_kernel", "conv2d_dx_tma_kernel")
            if wrapper.__name__.startswith("conv2d_dx")
            else ("conv2d_kernel", "conv2d_tma_kernel")
        ),
        writes=() if backward else (4, 5),  # the running statistics
        float32=(1, 2) if backward else (2,),
    )


def _spec(
    wrapper, reference, make, passes, cases, large, flops=6, writes=(), float32=(), stats=None
) -> Spec:
    """Return the Spec: `passes` arrays of z's size are read or written, `flops` are per value."""
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=(large,),
        traffic=lambda itemsize, shape, **_: passes * itemsize * prod(shape),
        flops=lambda shape, **_: flops * prod(shape),
        compiles=(("bfloat16", large, {}), ("float32", large, {})),
        writes=writes,
        float32=float32,
        stats=stats,
    )


def _infer_dx_spec(wrapper, reference, arrays: int) -> Spec:
    cases = (
        {"shape": (6, 5, 5, 70), "act": "leaky_relu"},
        {"shape": (130, 130), "act": "relu"},
        {"shape": (1, 3), "act": None},
    )
    large = {"shape": (128, 7, 7, 256), "act": "leaky_relu"}
    return _spec(
        wrapper, reference, _make_infer_dx(arrays), arrays + 1, cases, large, flops=2 + arrays,
        float32=() if arrays == 2 else (1,),
    )  # fmt: skip


def _stats_axes(one) -> Axes:
    c = one.constants
    rows = c["COUNT"], c["BLOCK_M"]
    axes = {"rows": rows, "columns": (c["WIDTH"], c["BLOCK_N"])}
    return axes | statistics_axes(c, launch.cdiv(*rows) * c["GROUPS"])


GRID_AXES = {
    "batch_stats_kernel": _stats_axes,
    "batchnorm_infer_dx_kernel": lambda one: {
        "rows": (one.constants["ROWS"], one.constants["BLOCK_M"]),
        "columns": (one.constants["WIDTH"], one.constants["BLOCK_N"]),
    },
}

LARGE = (128, 7, 7, 128)
SPECS = (
    _layer_spec(
        conv2d_batchnorm_act,
        _forward_reference(lambda x, w, stride, pad: conv_ops.conv2d(x, w, None, stride, pad)),
        up=False,
        backward=False,
    ),
    _layer_spec(
        conv2d_dx_batchnorm_act, _forward_reference(conv_ops.conv2d_dx), up=True, backward=False
    ),
    _layer_spec(
        conv2d_dx_batchnorm_dx, _backward_reference(conv_ops.conv2d_dx), up=False, backward=True
    ),
    _layer_spec(
        conv2d_batchnorm_dx,
        _backward_reference(
            lambda dy, w, size, stride, pad: conv_ops.conv2d(dy, w, None, stride, pad)
        ),
        up=True,
        backward=True,
    ),
    Spec(
        name="batchnorm_affine_dx",
        wrapper=batchnorm_affine_dx,
        reference=_affine_dx_reference,
        make=_make_affine_dx,
        cases=({"shape": (6, 5, 5, 7)}, {"shape": (2, 1300)}),
        benchmarks=({"shape": (128, 14, 14, 128)},),
        traffic=lambda itemsize, shape: 2 * itemsize * prod(shape),
        flops=lambda shape: prod(shape),
        compiles=(("bfloat16", {"shape": (128, 14, 14, 128)}, {}),),
    ),
    _spec(
        batch_moments,
        _moments_reference,
        _make_moments,
        1,
        (
            {"shape": (6, 5, 5, 70), "groups": 2},
            {"shape": (9, 130), "groups": 1},
            {"shape": (2, 3), "groups": 1},
        ),
        {"shape": LARGE, "groups": 2},
        writes=(3, 4),  # the running statistics
        float32=(0,),
        stats=0,
    ),
    _spec(
        batch_sums,
        batch_sums_reference,
        _make_sums,
        3,
        (
            {"shape": (6, 5, 5, 70), "groups": 2, "act": "leaky_relu"},
            {"shape": (9, 130), "groups": 1, "act": "tanh"},
        ),
        {"shape": LARGE, "groups": 2, "act": "leaky_relu"},
        writes=(0,),
        float32=(0, 1, 2),
    ),
    _spec(
        batchnorm_infer_act,
        _infer_act_reference,
        _make_infer_act,
        2,
        ({"shape": (6, 5, 5, 7), "act": "relu"}, {"shape": (2, 1300), "act": None}),
        {"shape": LARGE, "act": "relu"},
        float32=(1,),
        stats=1,
    ),
    _infer_dx_spec(batchnorm_infer_dx, _infer_dx_reference, 2),
    _infer_dx_spec(batchnorm_infer_double_backward, _double_backward_reference, 3),
)
