"""What the tests of operations and layers share: one tolerance, one comparison, and the five checks of a layer.

The reference is float64 PyTorch on the CPU, written in this project's layout: images (N, H, W, C), weights (K, R, S, C).
"""

import numpy as np
import torch
import torch.nn.functional as F

from rawgan import layers
from rawgan.backend import CPU, to_host
from rawgan.layers import Parameters
from rawgan.ops.conv import pads

# ---- comparison


def tolerance(dtype, want, terms=1, bound=None, scale=None, order=1):
    """The allowed |got - want|, entry by entry. No other function of these tests has such a number in it.

        float64          1e-10 (|want| + scale),  scale = max |want| unless given
        lower, bilinear  4 u sqrt(terms) bound,   bound = T(|x|, |w|), terms = T(1, 1) how many products an entry sums
        lower, others    16 u sqrt(terms) (|want| + scale)

    u is half the distance from 1 to the next number. Derivatives of second order (order=2) get twice that in lower precision.
    """
    if scale is None:
        scale = np.abs(want).max(initial=0)
    if np.dtype(dtype) == np.float64:
        return 1e-10 * (np.abs(want) + scale)
    unit = float(np.finfo(dtype).eps) / 2
    if bound is not None:
        return 4 * order * unit * np.sqrt(terms) * bound
    return 16 * order * unit * np.sqrt(terms) * (np.abs(want) + scale)


def assert_close(got, want, name="value", dtype=None, **kind):
    """Shapes are equal and no entry differs by more than tolerance(dtype, want, **kind); dtype is that of got unless given."""
    got, want = np.asarray(to_host(got)), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{name}: got shape {got.shape}, want {want.shape}"
    allowed = np.broadcast_to(tolerance(dtype or got.dtype, want, **kind), want.shape)
    error = np.abs(got.astype(np.float64) - want)
    wrong = ~(error <= allowed)  # NaN is wrong
    if wrong.any():
        excess = np.where(wrong, np.nan_to_num(error - allowed, nan=np.inf, posinf=np.inf), -1)
        at = tuple(int(i) for i in np.unravel_index(excess.argmax(), want.shape))
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} entries differ; worst at {at}: "
            f"got {got[at]!s}, want {want[at]!s}, difference {error[at]:.3g}, allowed {allowed[at]:.3g}"
        )


def assert_same(got, want, name="value"):
    """Equal to the last bit."""
    got, want = to_host(got), to_host(want)
    assert got.dtype == want.dtype, f"{name}: got {got.dtype}, want {want.dtype}"
    np.testing.assert_array_equal(got, want, err_msg=name)


# ---- layouts


def nchw(a):
    """Channels last to channels second, of a tensor: (N, H, W, C) to (N, C, H, W), and weights (K, R, S, C) to (K, C, R, S)."""
    return a.movedim(-1, 1)


def nhwc(a):
    """The inverse of nchw."""
    return a.movedim(1, -1)


def tensor(a):
    """A float64 tensor with a copy of the values."""
    return torch.from_numpy(np.array(to_host(a), np.float64))


def gapped(a):
    """The same values in memory with gaps between them, NaN in the gaps, and the axes in reverse order."""
    xp = layers.base.np if isinstance(a, np.ndarray) else __import__("cupy")
    wide = xp.full(tuple(2 * n + 1 for n in a.shape[::-1]), np.nan, a.dtype).T
    view = wide[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


# ---- twins


def torch_conv2d(x, w, b, stride, pad):
    (top, bottom), (left, right) = pads(pad)
    return nhwc(F.conv2d(F.pad(nchw(x), (left, right, top, bottom)), nchw(w), b, stride))


def torch_conv_transpose2d(x, w, b, stride, pad, output_padding=0):
    """PyTorch's own where it can pad so; else without padding, and what lies outside the image cut off."""
    (top, bottom), (left, right) = pads(pad)
    if top == bottom and left == right:
        return nhwc(F.conv_transpose2d(nchw(x), nchw(w), b, stride, (top, left), output_padding))
    (below, _), (beside, _) = pads(output_padding)
    y = F.pad(F.conv_transpose2d(nchw(x), nchw(w), None, stride), (0, beside, 0, below))
    y = nhwc(F.pad(y, (-left, -right, -top, -bottom)))
    return y if b is None else y + b


def torch_conv2d_adjoint(x, w, b, size, stride, pad):
    """The transposed convolution as what autograd says: the gradient of torch_conv2d with respect to an image of this size."""
    image = torch.zeros(len(x), *size, w.shape[-1], dtype=x.dtype, requires_grad=True)
    y = torch.autograd.grad(torch_conv2d(image, w, None, stride, pad), image, x, create_graph=True)[0]
    return y if b is None else y + b


def twin(layer, x, p, train=True, labels=None):
    """layer(x) in PyTorch, with the parameters p; running statistics are read from the layer, never changed."""
    gamma, beta, w, b = (p.get(name) for name in ("gamma", "beta", "w", "b"))
    match layer:
        case layers.Sequential():
            for name, child in layer.children().items():
                x = twin(child, x, inside(name, p), train, labels)
            return x
        case layers.Condition():
            return torch.cat([x, twin(layer.inner, torch.from_numpy(to_host(labels)), inside("inner", p), train)], -1)
        case layers.OneHot():
            return F.one_hot(x.long(), layer.K).double()
        case layers.Embedding():
            return F.embedding(x.long(), w)
        case layers.Linear():
            return F.linear(x, w, b)
        case layers.Conv2d():
            return torch_conv2d(x, w, b, layer.stride, layer.same_pads(*x.shape[1:3]))
        case layers.ConvTranspose2d():
            if layer.pad == "same":
                size = layer.output_size(*x.shape[1:3])
                return torch_conv2d_adjoint(x, w, b, size, layer.stride, layer.same_pads(*size))
            return torch_conv_transpose2d(x, w, b, layer.stride, layer.pad, layer.output_padding)
        case layers.BatchNorm():
            running = [tensor(layer.buffers[f"running_{name}"]) for name in ("mean", "var")]
            return nhwc(F.batch_norm(nchw(x), *running, gamma, beta, train, layer.momentum, layer.eps))
        case layers.InstanceNorm():
            return nhwc(F.instance_norm(nchw(x), None, None, gamma, beta, eps=layer.eps))
        case layers.LayerNorm():
            if len(layer.shape) == 1:
                return nhwc(F.group_norm(nchw(x), 1, gamma, beta, layer.eps))
            return F.layer_norm(x, layer.shape, gamma, beta, layer.eps)
        case layers.ReLU():
            return torch.relu(x)
        case layers.LeakyReLU():
            return F.leaky_relu(x, layer.slope)
        case layers.Tanh():
            return torch.tanh(x)
        case layers.Sigmoid():
            return torch.sigmoid(x)
        case layers.Softplus():
            return torch.logaddexp(x, torch.zeros_like(x))  # F.softplus is the identity above 20
        case layers.Reshape():
            return x.reshape(len(x), *layer.shape)
        case layers.Flatten():
            return x.reshape(len(x), -1)
        case _:
            raise NotImplementedError(f"no PyTorch twin of {layer!r}")


def inside(name, p):
    """The parameters of the child of this name, under its own names for them."""
    return {key.removeprefix(name + "."): value for key, value in p.items() if key.startswith(name + ".")}


def derivatives(f, x, params, dy, ddx):
    """Everything a layer returns, from autograd: y, dx, d<parameter>, and of second order ddy, dx2, d<parameter>2."""
    x, dy = tensor(x).requires_grad_(), tensor(dy).requires_grad_()
    p = {name: tensor(a).requires_grad_() for name, a in params.items()}
    y = f(x, p)
    first = torch.autograd.grad(y, [x, *p.values()], dy, create_graph=True)
    second = torch.autograd.grad(first[0], [dy, x, *p.values()], tensor(ddx), materialize_grads=True)
    names = ["y", "dx", *(f"d{name}" for name in p), "ddy", "dx2", *(f"d{name}2" for name in p)]
    return {name: a.detach().numpy() for name, a in zip(names, (y, *first, *second))}


# ---- the five checks


def randomize(layer, rng, device=CPU, dtype=np.float64):
    """Gives the layer normal parameters and positive running statistics on a device in a dtype; returns its Parameters."""
    parameters = Parameters(layer, device, dtype)
    parameters.flat[:] = device.asarray(rng.normal(size=parameters.flat.size).astype(dtype))
    for _, leaf in layers.leaves(layer):
        for name, a in leaf.buffers.items():
            draw = rng.uniform(0.5, 2, a.shape) if name.endswith("var") else rng.normal(size=a.shape)
            a[...] = device.asarray(draw.astype(dtype))
    return parameters


def check_layer(layer, x, f=None, *, device=CPU, train=True, labels=None, params=None, bilinear=False, gaps=False):
    """Value, backward, double_backward, adjoint identity, inputs unchanged: with random parameters and cotangents.

    f(x, params) is the layer in PyTorch, its twin unless given. The dtype is that of x. `params` sets parameters that are not to
    be random, `labels` go beside x. For a layer that is `bilinear`, in x and its weights, float32 is held to the bilinear bound
    and <dy, y> = <x, dx> = <w, dw> is checked as well. `gaps` makes x, dy and ddx non-contiguous.
    """
    rng = np.random.default_rng(3)
    f = f or (lambda x, p: twin(layer, x, p, train, labels))
    randomize(layer, rng, device, x.dtype)
    for name, value in (params or {}).items():
        layer.params[name][...] = device.asarray(np.asarray(value, x.dtype))
    start = {name: to_host(a).copy() for name, a in layer.params.items()}
    dy = rng.normal(size=f(tensor(x), {name: tensor(a) for name, a in start.items()}).shape).astype(x.dtype)
    ddx = rng.normal(size=x.shape).astype(x.dtype)
    want = derivatives(f, x, start, dy, ddx)
    kinds = {name: {"terms": x.size} for name in want}
    if bilinear:  # the reference on absolute values is the bound, on ones it counts the terms
        absolute, ones = (
            derivatives(f, g(x), {name: g(a) for name, a in start.items()}, g(dy), g(ddx)) for g in (np.abs, np.ones_like)
        )
        kinds = {name: {"bound": absolute[name], "terms": ones[name]} for name in want}

    x, dy, ddx = (gapped(device.asarray(a)) if gaps else device.asarray(a) for a in (x, dy, ddx))
    given = x if labels is None else (x, device.asarray(labels))
    unchanged = snapshot([given, dy, ddx, layer.params])
    y, cache = layer.forward(given, train)
    assert_close(y, want["y"], f"{layer}: y", **kinds["y"])
    unchanged += snapshot([cache, layer.buffers])
    dx, grads = layer.backward(dy, cache)
    ddy, dx2, grads2 = layer.double_backward(ddx, dy, cache)

    assert grads.keys() == layer.params.keys()
    assert grads2.keys() <= layer.params.keys()
    got = {"y": y, "dx": dx, "ddy": ddy, "dx2": dx2}
    got |= {f"d{name}": a for name, a in grads.items()} | {f"d{name}2": a for name, a in grads2.items()}
    for name, value in want.items():
        if got.get(name) is None:
            assert not value.any(), f"{layer}: {name} is said to be zero, want {np.abs(value).max()}"
        else:
            assert got[name].dtype == x.dtype, f"{layer}: {name} is {got[name].dtype}, x is {x.dtype}"
            assert_close(got[name], value, f"{layer}: {name}", order=2 if name == "ddy" or name[-1] == "2" else 1, **kinds[name])

    assert_adjoint((dy, ddy), (ddx, dx))
    if grads2:  # dx is linear in the weights, or in gamma
        assert_adjoint(*((layer.params[name], g) for name, g in grads2.items()), want=(ddx, dx))
    if bilinear:
        no_bias = y - layer.params["b"] if "b" in layer.params else y
        assert_adjoint((dy, no_bias), (x, dx))
        assert_adjoint((layer.params["w"], grads["w"]), (x, dx))

    dx_alone, none = layer.backward(dy, cache, need_grads=False)
    _, grads_alone = layer.backward(dy, cache, need_dx=False)
    assert none == {}
    assert_same(dx_alone, dx, "dx without need_grads")
    for name, a in grads.items():
        assert_same(grads_alone[name], a, f"d{name} without need_dx")
        assert not np.shares_memory(to_host(grads_alone[name]), to_host(a)), f"d{name} is not fresh"
    for array, before in unchanged:
        assert_same(array, before, f"{layer}: an input")


def assert_adjoint(*pairs, want):
    """The inner products of the pairs add up to that of `want`."""


def snapshot(tree):
    """[(array, its values now), ...] for all arrays in nested tuples, lists and dictionaries."""
    if isinstance(tree, tuple | list):
        return [pair for branch in tree for pair in snapshot(branch)]
    if isinstance(tree, dict):
        return snapshot(list(tree.values()))
    return [(tree, to_host(tree).copy())] if hasattr(tree, "dtype") else []
