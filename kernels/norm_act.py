"""BatchNorm and the activation after it, between two products that do most of it. The mathematics is in rawgan/ops/norm.py.

    forward    y = conv2d(x, w, norm=Moments(gamma, beta, ...))              the product takes its own statistics
               a = norm_act(y, stats, act)                                    act(scale y + shift), one elementwise pass
    backward   dz = conv2d_dx(dy_above, w_above, norm=Sums(y, stats), act=act)    through act, with the sums dgamma and dbeta
               dy = norm_dx(dz, y, stats, means)                              scale (dz - E(dz) - yhat E(yhat dz)), one more

So a layer's BatchNorm costs one launch each way, and of the forward pass only y is kept: yhat and the activation are computed
again, which is cheaper than loading them. stats and means are those of moments.py: one row for each group of samples.
"""

from math import prod

import triton
import triton.language as tl

from rawgan.backend import Array, array_module
from rawgan.kernels import launch
from rawgan.kernels.act import activate
from rawgan.kernels.conv import conv2d, conv2d_dx
from rawgan.kernels.gemm import activated, activated_dx, below, load
from rawgan.kernels.moments import Moments, Sums
from rawgan.kernels.spec import Spec
from rawgan.ops import conv as ops
from rawgan.ops import norm as norm_ops
from rawgan.ops.conv import output_size

CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def norm_act_kernel(
    z_ptr, stats_ptr, y_ptr,
    SIZE: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr,
    ACT: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    at = offs // GROUP * K + offs % K
    scale = load(stats_ptr + 3 * GROUPS * K, at, mask)
    shift = load(stats_ptr + 4 * GROUPS * K, at, mask)
    y = activate(scale * load(z_ptr, offs, mask) + shift, ACT, SLOPE)
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def norm_dx_kernel(
    dz_ptr, z_ptr, stats_ptr, means_ptr, dx_ptr,
    SIZE: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = below(offs, SIZE, BLOCK)
    at = offs // GROUP * K + offs % K
    dz = load(dz_ptr, offs, mask)
    if means_ptr is not None:
        zhat = (load(z_ptr, offs, mask) - load(stats_ptr, at, mask)) * load(stats_ptr + 2 * GROUPS * K, at, mask)
        dz = dz - load(means_ptr, at, mask) - zhat * load(means_ptr + GROUPS * K, at, mask)
    dx = load(stats_ptr + 3 * GROUPS * K, at, mask) * dz
    tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def _sizes(z: Array, stats: Array) -> dict[str, int]:
    _, groups, K = stats.shape
    launch.fit((z.shape[-1], K), (len(z) % groups, 0))
    return {"SIZE": z.size, "GROUP": z.size // groups, "K": K, "GROUPS": groups}


def norm_act(z: Array, stats: Array, act: str | None = "relu", slope: float = 0.2, out: Array | None = None) -> Array:
    """y = act(scale z + shift): z (N, ..., K), stats (5, groups, K)."""
    y = launch.empty(z, z.shape) if out is None else out
    launch.fit((y.shape, z.shape))
    grid = (launch.cdiv(z.size, CONFIG["BLOCK"]),)
    launch.run(norm_act_kernel, grid, z, stats, y, **_sizes(z, stats), ACT=act, SLOPE=slope, **CONFIG)
    return y


def norm_dx(dz: Array, z: Array, stats: Array, means: Array | None) -> Array:
    """dx = scale (dz - means[0] - zhat means[1]), zhat = (z - mean) rstd: dz and z (N, ..., K), means (2, groups, K).

    Without means dx = scale dz: the statistics are the running ones, which do not depend on z.
    """
    launch.fit((dz.shape, z.shape), ((2, *stats.shape[1:]), (2, *stats.shape[1:]) if means is None else means.shape))
    dx = launch.empty(z, z.shape)
    grid = (launch.cdiv(z.size, CONFIG["BLOCK"]),)
    launch.run(norm_dx_kernel, grid, dz, z, stats, means, dx, **_sizes(z, stats), **CONFIG)
    return dx


# Specs: a product with its BatchNorm and activation, forward and backward, for a critic (down) and for a generator (up)


def running_dx(dz, z, stats):
    """norm_dx where the statistics are the running ones."""
    return norm_dx(dz, z, stats, None)


def conv2d_norm_act(x, w, gamma, beta, mean, var, *, stride, pad, act, groups, **how):
    """A layer of a critic: its product, its activation, its statistics; the running mean and variance are moved in place."""
    norm = Moments(gamma, beta, mean, var, groups=groups)
    z = conv2d(x, w, None, stride, pad, norm=norm, **how)
    return z, norm_act(z, norm.stats, act), norm.stats


def conv2d_dx_norm_act(x, w, gamma, beta, mean, var, *, size, stride, pad, act, groups, **how):
    """A layer of a generator."""
    norm = Moments(gamma, beta, mean, var, groups=groups)
    z = conv2d_dx(x, w, size, stride, pad, norm=norm, **how)
    return z, norm_act(z, norm.stats, act), norm.stats


def conv2d_dx_norm_dx(dy, w, z, stats, *, stride, pad, act, **how):
    """Backward through a product of a critic, and the activation and BatchNorm below it."""
    norm = Sums(z, stats)
    dz = conv2d_dx(dy, w, z.shape[1:3], stride, pad, norm=norm, act=act, **how)
    return norm_dx(dz, z, stats, norm.means), norm.dgamma, norm.dbeta


def conv2d_norm_dx(dy, w, z, stats, *, stride, pad, act, **how):
    """The same of a generator."""
    norm = Sums(z, stats)
    dz = conv2d(dy, w, None, stride, pad, norm=norm, act=act, **how)
    return norm_dx(dz, z, stats, norm.means), norm.dgamma, norm.dbeta


def _forward_reference(product):
    def reference(x, w, gamma, beta, mean, var, *, act, groups, **where):
        z = product(x, w, **where)
        parts = z.reshape(groups, -1, z.shape[-1])
        xhat, rstd, mu, v = norm_ops.normalize(parts, (1,), 1e-5)
        scale = gamma * rstd
        stats = [a.reshape(groups, -1) for a in (mu, v, rstd, scale, beta - mu * scale)]
        for group in range(groups):
            mean += 0.1 * (stats[0][group] - mean)
            var += 0.1 * (stats[1][group] * (M := parts.shape[1]) / (M - 1) - var)
        return z, activated(norm_ops.affine(xhat, gamma, beta), act).reshape(z.shape), array_module(z).stack(stats)

    return reference


def before_act(da, z, stats, act):
    """(dz, zhat), (groups, rows, K) each: the gradient of BatchNorm's output from that of act of it, in NumPy."""
    mean, _, rstd, scale, shift = stats[:, :, None]
    parts = z.reshape(len(mean), -1, z.shape[-1])
    pre = scale * parts + shift
    v = activated(pre, act) if act in ("tanh", "sigmoid") else pre
    return activated_dx(da.reshape(parts.shape), act, v), (parts - mean) * rstd


def _backward_reference(product):
    def reference(dy, w, z, stats, *, act, **where):
        dz, zhat = before_act(product(dy, w, z.shape[1:3], **where), z, stats, act)
        dx = norm_ops.normalize_dx(dz, zhat, stats[3][:, None], (1,))
        return dx.reshape(z.shape), (dz * zhat).sum((0, 1)), dz.sum((0, 1))

    return reference


def make_stats(array, groups, K):
    """What a BatchNorm may have left, of any mean and width."""
    stats = array(5, groups, K, dtype="float32")
    stats[1] = stats[1] ** 2
    stats[2] = (1 + stats[1]) ** -0.5
    stats[4] -= stats[0] * stats[3]
    return stats


def _make(up: bool, backward: bool):
    """The input of a layer, or the gradient above it, of the critic's shape (N, H, W, C) to K filters, or of a generator's back."""

    def make(array, N, H, W, C, K, R, stride, pad, act, groups):
        large, small = (N, H, W, C), (N, *(output_size(n, R, stride, (pad, pad)) for n in (H, W)), K)
        w, where = array(K, R, R, C), {"stride": stride, "pad": pad, "act": act}
        if backward:
            z, dy = (small, large) if up else (large, small)
            return (array(*dy), w, array(*z), make_stats(array, groups, z[-1])), where
        x, width = (small, C) if up else (large, K)
        params = [array(width, dtype="float32") for _ in range(4)]
        return (array(*x), w, *params), where | {"groups": groups} | ({"size": (H, W)} if up else {})

    return make


def _case(N, H, C, K, R, stride, pad, act="leaky_relu", groups=1):
    return {"N": N, "H": H, "W": H, "C": C, "K": K, "R": R, "stride": stride, "pad": pad, "act": act, "groups": groups}


def _spec(wrapper, reference, up: bool, backward: bool) -> Spec:
    large = tuple(
        _case(256, size, c, k, 4, 2, 1, "relu" if up else "leaky_relu", 2) for size, c, k in ((32, 64, 128), (16, 128, 256))
    )

    def traffic(itemsize, N, H, W, C, K, R, stride, pad, **_):
        x, y = H * W * C, (H // stride) * (W // stride) * K
        normalised = x if up != backward else y
        return itemsize * (N * (x + y + (3 + backward) * normalised) + K * R * R * C)

    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=_make(up, backward),
        cases=(
            _case(4, 16, 64, 64, 4, 2, 1, groups=2),  # these two in boxes
            _case(5, 8, 64, 64, 3, 1, 1, None),
            _case(3, 7, 5, 6, 3, 2, 1, "tanh"),
            _case(8, 8, 16, 16, 4, 2, 1, "relu", 2),
        ),
        benchmarks=large,
        traffic=traffic,
        flops=lambda N, H, W, C, K, R, stride, pad, **_: 2 * N * (H // stride) * (W // stride) * K * R * R * C,
        compiles=tuple(("bfloat16", case, {"form": form}) for case in large[1:] for form in ("pointer", "descriptor")),
        dtypes=("float32", "tf32", "float16", "bfloat16"),
        writes=() if backward else (4, 5),  # the running statistics
    )


SPECS = (
    _spec(
        conv2d_norm_act, _forward_reference(lambda x, w, stride, pad: ops.conv2d(x, w, None, stride, pad)), up=False, backward=False
    ),
    _spec(conv2d_dx_norm_act, _forward_reference(ops.conv2d_dx), up=True, backward=False),
    _spec(conv2d_dx_norm_dx, _backward_reference(ops.conv2d_dx), up=False, backward=True),
    _spec(
        conv2d_norm_dx,
        _backward_reference(lambda dy, w, size, stride, pad: ops.conv2d(dy, w, None, stride, pad)),
        up=True,
        backward=True,
    ),
    Spec(
        name="running_dx",
        wrapper=running_dx,
        reference=lambda dz, z, stats: (dz.reshape(stats.shape[1], -1, z.shape[-1]) * stats[3][:, None]).reshape(z.shape),
        make=lambda array, shape: ((array(*shape), array(*shape), make_stats(array, 1, shape[-1])), {}),
        cases=({"shape": (6, 5, 5, 7)}, {"shape": (2, 1300)}),
        benchmarks=({"shape": (128, 14, 14, 128)},),
        traffic=lambda itemsize, shape: 2 * itemsize * prod(shape),
        flops=lambda shape: prod(shape),
        compiles=(("bfloat16", {"shape": (128, 14, 14, 128)}, {}),),
    ),
)
