"""Sequential, the chain rule to second order, and Parameters, the flat vector of a network."""

import numpy as np
import pytest

from rawgan.errors import UserError
from rawgan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    Flatten,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    Linear,
    Parameters,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softplus,
    Tanh,
    leaves,
    parameter_count,
    state,
)
from rawgan.layers import linear as linear_file
from tests.support.reference import assert_close, assert_same, check_layer, randomize

GENERATOR = Sequential(
    Linear(3, 8), Reshape(2, 2, 2), BatchNorm(2), ReLU(), ConvTranspose2d(2, 3, 4, 2, 1), Tanh()
)
CRITIC = Sequential(
    *(Conv2d(2, 3, 3, 2, "same"), LayerNorm(3), LeakyReLU()),
    *(Conv2d(3, 4, 3), InstanceNorm(4), Tanh()),
    *(Flatten(), Linear(16, 1)),
)
NESTED = Sequential(
    Sequential(Conv2d(2, 3, 3), Tanh()),
    Sequential(BatchNorm(3), Sequential(LeakyReLU(), Flatten())),
    Linear(18, 2),
)
NETS = {  # a network and its batch shape
    "piecewise linear": (
        Sequential(Linear(4, 6), LeakyReLU(), Linear(6, 5), ReLU(), Linear(5, 1)),
        (3, 4),
    ),
    "smooth": (
        Sequential(Linear(4, 6), Tanh(), Linear(6, 5), Sigmoid(), Linear(5, 3), Softplus()),
        (3, 4),
    ),
    "curvature first": (Sequential(BatchNorm(4), Tanh(), Linear(4, 2)), (5, 4)),
    "curvature last": (Sequential(Linear(4, 3), LayerNorm(3)), (5, 4)),
    "curvature in the middle": (
        Sequential(Linear(4, 3), LeakyReLU(), Linear(3, 4), Softplus(), Linear(4, 2)),
        (5, 4),
    ),
    "generator": (GENERATOR, (4, 3)),
    "critic": (CRITIC, (3, 8, 7, 2)),
    "nested": (NESTED, (3, 5, 4, 2)),
}
over_nets = pytest.mark.parametrize("net, shape", NETS.values(), ids=NETS)


def ready(net, shape):
    """Return x, cotangents and a cache of a network with random weights."""
    rng = np.random.default_rng(4)
    randomize(net, rng)
    x = rng.normal(size=shape)
    y, cache = net.forward(x)
    return x, rng.normal(size=y.shape), rng.normal(size=shape), cache


@over_nets
@pytest.mark.parametrize("train", [True, False])
def test_second_order(device, net, shape, train):
    check_layer(net, np.random.default_rng(1).normal(size=shape), device=device, train=train)


def test_no_curvature_is_none():
    net, shape = NETS["piecewise linear"]
    _, dy, ddx, cache = ready(net, shape)
    assert net.double_backward(ddx, dy, cache)[1] is None


@over_nets
def test_upstream(net, shape):
    """upstream returns the gradients of every layer's output, and double_backward accepts them."""
    _, dy, ddx, cache = ready(net, shape)
    dys = net.upstream(dy, cache)
    assert len(dys) == len(net.layers) + 1
    assert_same(dys[0], net.backward(dy, cache)[0])
    for i, layer in enumerate(net.layers):
        assert_same(dys[i], layer.backward(dys[i + 1], cache[i])[0])
    assert_same(dys[-1], dy)
    assert_all_same(
        net.double_backward(ddx, dy, cache, dys=dys), net.double_backward(ddx, dy, cache)
    )


def assert_all_same(got, want):
    """Assert that two results of double_backward are equal bit for bit."""
    for a, b in zip(got[:2], want[:2], strict=True):
        assert (a is None and b is None) or assert_same(a, b) is None
    assert got[2].keys() == want[2].keys()
    for name in want[2]:
        assert_same(got[2][name], want[2][name], name)


@over_nets
def test_asked_for_less(net, shape):
    """A result that is not requested is None, and the others keep their bits."""
    _, dy, ddx, cache = ready(net, shape)
    ddy, dx, grads = net.double_backward(ddx, dy, cache)
    for need_ddy, need_dx in ((True, False), (False, True), (False, False)):
        got_ddy, got_dx, got_grads = net.double_backward(
            ddx, dy, cache, need_ddy=need_ddy, need_dx=need_dx
        )
        for got, want, needed in ((got_ddy, ddy, need_ddy), (got_dx, dx, need_dx)):
            if got is None:
                assert want is None or not needed
            else:
                assert_same(got, want, f"need_ddy={need_ddy}, need_dx={need_dx}")
        assert_all_same((None, None, got_grads), (None, None, grads))


@pytest.mark.parametrize(
    "first", [Linear(4, 4), Conv2d(1, 1, 1), ConvTranspose2d(1, 1, 1), LayerNorm(4)], ids=repr
)
def test_first_input_gradient_is_not_computed(first):
    net = Sequential(first, Tanh(), Sequential(Tanh()))
    _, dy, _, cache = ready(net, (3, 4) if isinstance(first, Linear | LayerNorm) else (3, 4, 4, 1))
    assert net.backward(dy, cache, need_dx=False)[0] is None


@pytest.mark.parametrize("below", [[], [Tanh()]], ids=["first", "above a layer without parameters"])
def test_what_is_not_asked_for_is_not_computed(monkeypatch, below):
    def computed(*_):
        raise AssertionError("nobody asked for this gradient")

    net = Sequential(*below, Linear(4, 3), Tanh())
    _, dy, _, cache = ready(net, (5, 4))
    with monkeypatch.context() as patch:
        patch.setattr(linear_file, "linear_dw", computed)
        net.upstream(dy, cache)
        net.backward(dy, cache, need_grads=False)
    monkeypatch.setattr(linear_file, "linear_dx", computed)
    net.backward(dy, cache, need_dx=False)


def test_caches_are_values():
    """A cache is independent of later forward passes, and gradients are not accumulated."""
    net, shape = NETS["critic"]
    x, dy, ddx, cache = ready(net, shape)
    first = net.backward(dy, cache), net.double_backward(ddx, dy, cache)
    _, other = net.forward(x + 1)
    net.backward(dy, other)
    (dx, grads), second = net.backward(dy, cache), net.double_backward(ddx, dy, cache)
    assert_all_same((dx, None, grads), (first[0][0], None, first[0][1]))
    assert_all_same(second, first[1])


def test_labels_say_where():
    net = Sequential(Linear(3, 4), Sequential(LeakyReLU(), Sequential(Linear(5, 2))))
    assert [leaf.label for _, leaf in leaves(net)] == [
        "layer 0, Linear(3, 4)",
        "layer 1.0, LeakyReLU(0.2)",
        "layer 1.1.0, Linear(5, 2)",
    ]
    with pytest.raises(
        ValueError,
        match=r"^layer 1\.1\.0, Linear\(5, 2\): expected x of shape \(N, 5\), got \(7, 4\)$",
    ):
        net.forward(np.zeros((7, 3), np.float32))
    with pytest.raises(TypeError, match=r"^layer 0, Linear\(3, 4\): x is float64 but w is float32"):
        net.forward(np.zeros((7, 3)))


def test_no_second_derivative():
    net = Sequential(Sequential(Embedding(3, 4)), Tanh())
    y, cache = net.forward(np.array([0, 2]))
    with pytest.raises(
        NotImplementedError, match=r"^layer 0\.0, Embedding\(3, 4\) has no double_backward"
    ):
        net.double_backward(np.zeros(2), y, cache)


def test_bind_reaches_every_layer():
    net, stream = (
        Sequential(Dropout(), Sequential(Tanh(), Sequential(Dropout()))),
        np.random.default_rng(0),
    )
    net.bind(stream)
    assert [layer.rng for _, layer in leaves(net) if isinstance(layer, Dropout)] == [stream, stream]


# Parameters


def small():
    return Sequential(Linear(2, 3), Sequential(BatchNorm(3), Tanh()), Linear(3, 1, bias=False))


NAMES = {"0.w": (3, 2), "0.b": (3,), "1.0.gamma": (3,), "1.0.beta": (3,), "2.w": (1, 3)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_flat_vector(device, dtype):
    """The flat vector holds the network's weights in order, and layers hold views of it."""
    net = small()
    for name, p in net.params.items():
        p[...] = list(NAMES).index(name) + 1
    parameters = Parameters(net, device, dtype)
    assert parameters.flat.dtype == dtype and parameters.flat.size == parameter_count(net) == 18
    assert parameter_count(net, buffers=True) == 24
    assert parameters.flat.tolist() == [1] * 6 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3
    assert {name: p.shape for name, p in net.params.items()} == NAMES
    assert {a.dtype for a in net.buffers.values()} == {np.dtype(dtype)}
    parameters.flat += 1
    assert all((p == i + 2).all() for i, p in enumerate(net.params.values()))
    net.layers[0].params["b"][0] = 9
    assert parameters.flat[6] == 9
    assert (
        parameters.flat_buffers.dtype == dtype
        and parameters.flat_buffers.tolist() == [0] * 3 + [1] * 3
    )
    parameters.flat_buffers += 1
    assert [b.tolist() for b in net.buffers.values()] == [[1] * 3, [2] * 3]


def test_one_layer_alone():
    layer = Linear(2, 3)
    parameters = Parameters(layer)
    parameters.flat[:] = np.arange(9)
    assert layer.params["w"].tolist() == [[0, 1], [2, 3], [4, 5]] and layer.params[
        "b"
    ].tolist() == [6, 7, 8]
    assert Parameters(Tanh()).flat.shape == (0,)


def test_views(rng):
    parameters = Parameters(small())
    flat = rng.normal(size=18)
    views = parameters.views(flat)
    assert {name: view.shape for name, view in views.items()} == NAMES
    assert_same(np.concatenate([view.ravel() for view in views.values()]), flat)
    assert all(np.shares_memory(view, flat) for view in views.values())


def test_gather(rng):
    """flatten_gradients adds up passes, counts a missing parameter as 0, and changes no input."""
    parameters = Parameters(small(), dtype=np.float64)
    before = parameters.flat.copy()
    one = {name: rng.normal(size=shape) for name, shape in NAMES.items()}
    two = {name: rng.normal(size=NAMES[name]) for name in ("2.w", "0.w")}
    kept = {name: a.copy() for name, a in one.items()}
    want = np.concatenate([(one[name] + two.get(name, 0)).ravel() for name in NAMES])
    assert_close(parameters.flatten_gradients(one, two), want)
    assert_same(parameters.flatten_gradients(), np.zeros(18))
    assert_same(parameters.flat, before)
    for name, a in kept.items():
        assert_same(one[name], a)


def test_load(device):
    """load restores what `state` returned, running statistics included, into the same vector."""
    net, other = small(), small()
    randomize(net, np.random.default_rng(1), device)
    parameters = Parameters(other, device, np.float64)
    flat = parameters.flat
    parameters.load(state(net))
    assert parameters.flat is flat
    for name, a in state(net).items():
        assert_same(state(other)[name], a, name)
    saved = state(net)
    net.params["0.w"][...] = 0
    assert saved["0.w"].all()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda arrays: arrays.pop("1.0.running_var"), "1.0.running_var is only in the network"),
        (lambda arrays: arrays.update({"3.w": np.zeros(2)}), "3.w is only in the file"),
        (
            lambda arrays: arrays.update({"2.w": np.zeros((3, 1))}),
            r"2.w is \(3, 1\), wanted \(1, 3\)",
        ),
    ],
)
def test_load_what_does_not_fit(change, message):
    net = small()
    parameters = Parameters(net)
    before, arrays = state(net), {name: a + 1 for name, a in state(net).items()}
    change(arrays)
    with pytest.raises(UserError, match=message):
        parameters.load(arrays)
    for name, a in state(net).items():
        assert_same(a, before[name], name)


# Known mistakes of other implementations: with each of them, the check of this file fails.


def without_curvature(self, ddx, dy, cache, need_ddy=True):
    ddy, _, grads = tanh(self, ddx, dy, cache)
    return ddy, None, grads


def accumulating(self, dy, cache, need_dx=True, need_grads=True):
    dx, grads = linear(self, dy, cache, need_dx, need_grads)
    for name, g in grads.items():
        total = self.__dict__.setdefault("total", {})
        grads[name] = total[name] = total.get(name, 0) + g
    return dx, grads


def with_bias(self, ddx, dy, cache, need_ddy=True):
    ddy, dx, grads = linear2(self, ddx, dy, cache)
    return ddy + self.params.get("b", 0), dx, grads


tanh, linear, linear2 = Tanh.double_backward, Linear.backward, Linear.double_backward
MISTAKES = {
    "a curvature is left out": (Tanh, "double_backward", without_curvature),
    "gradients are accumulated": (Linear, "backward", accumulating),
    "the tangent gets a bias": (Linear, "double_backward", with_bias),
}


@pytest.mark.parametrize("layer, name, wrong", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, layer, name, wrong):
    monkeypatch.setattr(layer, name, wrong)
    net = Sequential(Linear(4, 6), Tanh(), Linear(6, 3))
    with pytest.raises(AssertionError):
        check_layer(net, np.random.default_rng(1).normal(size=(3, 4)))
