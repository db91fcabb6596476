"""Float64 PyTorch references of operations and layers, and the checks that every layer must pass.

The reference functions run on the CPU and take tensors in this project's layout: images (N, H, W,
C) and weights (K, R, S, C). tests/support/twins.py converts them to PyTorch's layout.
"""

import numpy as np
import torch
from torch.func import functional_call

from rawgan.backend import CPU, array_module, to_host
from rawgan.layers import Parameters, leaves
from tests.support.tolerance import assert_close
from tests.support.twins import NAMES, make, to_nchw, to_nhwc

# Bitwise comparison; the comparison with a tolerance is in tolerance.py


def assert_same(got, want, name="value"):
    """Assert that two arrays are equal bit for bit."""
    np.testing.assert_array_equal(to_host(got), to_host(want), err_msg=name, strict=True)


# PyTorch


def tensor(a):
    """Return a float64 tensor with a copy of the values."""
    return torch.from_numpy(np.array(to_host(a), np.float64))


def torch_function(layer, train=True):
    """Return the layer as a PyTorch function of (x, params)."""
    module = make(layer).double().train(train)
    for name, a in layer.buffers.items():
        module.get_buffer(torch_name(name)).copy_(tensor(a))

    def f(x, params):
        theirs = {
            torch_name(name): a.movedim(-1, {4: 1, 3: 0}.get(a.ndim, -1))
            for name, a in params.items()
        }
        return to_nhwc(functional_call(module, theirs, to_nchw(x)))

    return f


def torch_name(name):
    """Return the twin's name of a parameter or buffer."""
    path, dot, last = name.rpartition(".")
    return path + dot + NAMES.get(last, last)


def derivatives(f, x, params, dy, ddx):
    """Return all derivatives of a layer by autograd.

    First order: y, dx, d<parameter>; second order: ddy, dx2, d<parameter>2.
    """
    x, dy = tensor(x).requires_grad_(), tensor(dy).requires_grad_()
    p = {name: tensor(a).requires_grad_() for name, a in params.items()}
    y = f(x, p)
    first = torch.autograd.grad(y, [x, *p.values()], dy, create_graph=True)
    second = torch.autograd.grad(
        first[0], [dy, x, *p.values()], tensor(ddx), materialize_grads=True
    )
    names = ["y", "dx", *(f"d{name}" for name in p), "ddy", "dx2", *(f"d{name}2" for name in p)]
    return {name: a.detach().numpy() for name, a in zip(names, (y, *first, *second))}


# Layers


def randomize(layer, rng, device=CPU, dtype=np.float64):
    """Draw a layer's parameters from a normal distribution; return its Parameters.

    Running variances are positive.
    """
    parameters = Parameters(layer, device, dtype)
    parameters.flat[:] = device.asarray(rng.normal(size=parameters.flat.size).astype(dtype))
    for _, leaf in leaves(layer):
        for name, a in leaf.buffers.items():
            a[...] = device.asarray(
                rng.uniform(0.5, 2, a.shape).astype(dtype)
                if name == "running_var"
                else rng.normal(size=a.shape)
            )
    return parameters


def gapped(a):
    """Return a view with the same values, NaN in the gaps between them, and reversed strides."""
    xp = array_module(a)
    memory = xp.full([2 * n + 1 for n in reversed(a.shape)], np.nan, a.dtype).T
    view = memory[(slice(1, None, 2),) * a.ndim]
    view[...] = a
    return view


def check_layer(
    layer,
    x,
    f=None,
    *,
    device=CPU,
    train=True,
    labels=None,
    params=None,
    bilinear=False,
    gaps=False,
):
    """Assert a layer's value, backward, double_backward and adjoint identity, and unchanged inputs.

    Parameters and cotangents are random. f(x, params) is the layer in PyTorch, by default its twin.
    The dtype is that of x; `labels` are passed along with x; `params` are values for parameters
    that are not random. A `bilinear` layer, in x and its weight, must meet the bilinear bound in
    float32, and <dy, y> = <x, dx> = <w, dw> is checked. With `gaps`, x, dy and ddx are not
    contiguous.
    """
    rng = np.random.default_rng(3)
    randomize(layer, rng, device, x.dtype)
    for name, value in (params or {}).items():
        layer.params[name][...] = device.asarray(np.asarray(value, x.dtype))
    f = f or torch_function(layer, train)
    p = {name: to_host(a).copy() for name, a in layer.params.items()}
    shape = f(tensor(x), {name: tensor(a) for name, a in p.items()}).shape
    dy, ddx = (rng.normal(size=s).astype(x.dtype) for s in (shape, x.shape))
    want = derivatives(f, x, p, dy, ddx)
    kinds = bilinear_kinds(f, x, p, dy, ddx) if bilinear else other_kinds(want, x, dy, ddx)

    x, dy, ddx = (device.asarray(a) for a in (x, dy, ddx))
    if gaps:
        x, dy, ddx = gapped(x), gapped(dy), gapped(ddx)
    argument = x if labels is None else (x, device.asarray(labels))
    inputs = snapshot([argument, dy, ddx, layer.params])
    y, cache = layer.forward(argument, train)
    assert_close(y, want["y"], f"{layer}: y", **kinds["y"])
    inputs += snapshot([cache, layer.buffers])
    dx, grads = layer.backward(dy, cache)
    ddy, dx2, grads2 = layer.double_backward(ddx, dy, cache)

    assert grads.keys() == p.keys() >= grads2.keys()
    got = {"y": y, "dx": dx, "ddy": ddy, "dx2": dx2}
    got |= {f"d{name}": a for name, a in grads.items()} | {
        f"d{name}2": a for name, a in grads2.items()
    }
    for name, value in want.items():
        if got.get(name) is None:
            assert not value.any(), (
                f"{layer}: {name} is said to be zero, want up to {np.abs(value).max()}"
            )
        else:
            assert got[name].dtype == x.dtype, (
                f"{layer}: {name} is {got[name].dtype}, x is {x.dtype}"
            )
            assert_close(got[name], value, f"{layer}: {name}", **kinds[name])

    assert_equal_inner([(dy, ddy)], (ddx, dx))
    if bilinear or grads2.keys() == {"gamma"}:  # dx is linear in w, or in gamma
        assert_equal_inner([(layer.params[name], a) for name, a in grads2.items()], (ddx, dx))
    if bilinear:
        assert_equal_inner([(layer.params["w"], grads["w"])], (x, dx))
        assert_equal_inner(
            [(dy, y), *((-layer.params[name], grads[name]) for name in grads if name == "b")],
            (x, dx),
        )

    assert_asked_for(layer, ddx, dy, cache, dx, grads, grads2)
    for a, before in inputs:
        assert_same(a, before, f"{layer}: an input")


def order(name):
    """Return the order of a derivative: 0 for y, 1 from backward, 2 from double_backward."""
    return 0 if name == "y" else 2 if name == "ddy" or name[-1] == "2" else 1


def bilinear_kinds(f, x, p, dy, ddx):
    """Return the arguments of `tolerance` for each derivative of a bilinear function f.

    f of the absolute values is the bound, and f of ones is the number of terms.
    """
    bound, terms = (
        derivatives(f, g(x), {name: g(a) for name, a in p.items()}, g(dy), g(ddx))
        for g in (np.abs, np.ones_like)
    )
    return {
        name: {"bound": bound[name], "terms": terms[name], "order": max(1, order(name))}
        for name in bound
    }


def other_kinds(want, x, dy, ddx):
    """Return the arguments of `tolerance` for each derivative.

    The scale is the largest magnitude among all derivatives of its order and their inputs, since
    sums may cancel.
    """
    scales = [np.abs(want["y"]).max(), np.abs(dy).max(), max(np.abs(dy).max(), np.abs(ddx).max())]
    for name, a in want.items():
        scales[order(name)] = max(scales[order(name)], np.abs(a).max())
    return {
        name: {"scale": scales[order(name)], "terms": x.size, "order": max(1, order(name))}
        for name in want
    }


def assert_equal_inner(pairs, want):
    """Assert that the inner products <a, b> of the pairs add up to that of the pair `want`."""
    dtype = want[0].dtype
    products = [to_host(a).astype(np.float64) * to_host(b) for a, b in [*pairs, want]]
    *got, want = (a.sum() for a in products)
    kind = {"scale": sum(np.abs(a).sum() for a in products), "terms": max(a.size for a in products)}
    assert_close(sum(got), want, "inner product", dtype, **kind)


def assert_asked_for(layer, ddx, dy, cache, dx, grads, grads2):
    """Assert that a result that is not requested is None, and that the others keep their bits.

    Gradients are new arrays in each call.
    """
    dx_alone, nothing = layer.backward(dy, cache, need_grads=False)
    assert_same(dx_alone, dx, "dx without need_grads")
    assert nothing == {}
    dx_again, again = layer.backward(dy, cache, need_dx=False)
    assert dx_again is None or to_host(dx_again == dx).all()
    _, _, again2 = layer.double_backward(ddx, dy, cache, need_ddy=False)
    for kept, fresh in ((grads, again), (grads2, again2)):
        assert kept.keys() == fresh.keys()
        for name in kept:
            assert_same(fresh[name], kept[name], f"d{name} alone")
            assert not np.shares_memory(to_host(fresh[name]), to_host(kept[name])), (
                f"d{name} is not fresh"
            )


def snapshot(tree):
    """Return [(array, its current values), ...] for all arrays in nested containers."""
    if isinstance(tree, tuple | list):
        return [pair for branch in tree for pair in snapshot(branch)]
    if isinstance(tree, dict):
        return snapshot(list(tree.values()))
    return [(tree, to_host(tree).copy())] if hasattr(tree, "dtype") else []
