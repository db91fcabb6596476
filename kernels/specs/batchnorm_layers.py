"""Layers with BatchNorm as one function each, for batchnorm.py's Specs: kernels in sequence."""

from rawgan.kernels.batchnorm import (
    batchnorm_apply_act,
    batchnorm_apply_dx,
    batchnorm_infer_dx,
    compute_batch_grad_stats,
    compute_batch_stats,
)
from rawgan.kernels.conv import conv2d, conv2d_dx
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.batch_stats import BatchGradStats, BatchStats


def conv2d_batchnorm_act(x, w, gamma, beta, mean, var, *, stride, pad, act, groups, **keywords):
    """Compute a critic's layer: (z, y, stats); the running statistics are updated in place."""
    norm = BatchStats(gamma, beta, mean, var, groups=groups)
    z = conv2d(x, w, None, stride, pad, norm=norm, **keywords)
    return z, batchnorm_apply_act(z, norm.stats, act), norm.stats


def conv2d_dx_batchnorm_act(
    x, w, gamma, beta, mean, var, *, size, stride, pad, act, groups, **keywords
):
    """Compute a generator's layer, as conv2d_batchnorm_act."""
    norm = BatchStats(gamma, beta, mean, var, groups=groups)
    z = conv2d_dx(x, w, size, stride, pad, norm=norm, **keywords)
    return z, batchnorm_apply_act(z, norm.stats, act), norm.stats


def conv2d_dx_batchnorm_dx(dy, w, z, stats, *, stride, pad, act, **keywords):
    """Backward through a critic's convolution, and the activation and BatchNorm before it."""
    norm = BatchGradStats(z, stats)
    dz = conv2d_dx(dy, w, z.shape[1:3], stride, pad, norm=norm, act=act, **keywords)
    return batchnorm_apply_dx(dz, z, stats, norm.means), norm.dgamma, norm.dbeta


def conv2d_batchnorm_dx(dy, w, z, stats, *, stride, pad, act, **keywords):
    """Backward through a generator's, as conv2d_dx_batchnorm_dx."""
    norm = BatchGradStats(z, stats)
    dz = conv2d(dy, w, None, stride, pad, norm=norm, act=act, **keywords)
    return batchnorm_apply_dx(dz, z, stats, norm.means), norm.dgamma, norm.dbeta


def batchnorm_affine_dx(dp, z, stats):
    """batchnorm_apply_dx with statistics that do not depend on z: dz = scale dp."""
    return batchnorm_apply_dx(dp, z, stats, None)


def batch_moments(z, gamma, beta, mean, var, *, groups):
    """Return the statistics of z; the running mean and variance are updated in place."""
    norm = BatchStats(gamma, beta, mean, var, groups=groups)
    compute_batch_stats(z, norm)
    return norm.stats


def batch_sums(dy, z, stats, *, act):
    """(means, dgamma, dbeta); dy becomes the gradient of BatchNorm's output in place."""
    norm = BatchGradStats(z, stats)
    compute_batch_grad_stats(dy, norm, act)
    return norm.means, norm.dgamma, norm.dbeta


def batchnorm_infer_double_backward(dy, z, stats, upstream, *, act):
    """(dz, dgamma) of batchnorm_infer_dx."""
    dgamma = launch.empty(stats, (z.shape[-1],))
    return batchnorm_infer_dx(dy, z, stats, act, upstream=upstream, dgamma=dgamma), dgamma
