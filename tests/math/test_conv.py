"""Conv2d, ConvTranspose2d, and the operations of ops/conv.py that they use."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rawgan import backend, cpu
from rawgan.geometry import output_size, pads, pair, same_pad
from rawgan.kernels import array_conv
from rawgan.kernels.cpu import conv as cpu_conv
from rawgan.layers import Conv2d, ConvTranspose2d
from rawgan.layers import conv as layer_file
from rawgan.ops import conv as operations
from rawgan.ops.conv import conv2d, conv2d_dx
from tests.support.reference import assert_close, assert_same, check_layer, randomize, tensor
from tests.support.twins import to_nchw, to_nhwc


def torch_conv2d(x, w, b, stride, pad):
    """Return a convolution without padding, of an image that is padded explicitly."""
    (top, bottom), (left, right) = pads(pad)
    return to_nhwc(F.conv2d(F.pad(to_nchw(x), (left, right, top, bottom)), to_nchw(w), b, stride))


def torch_conv_transpose2d(x, w, b, stride, pad, output_padding):
    """Return PyTorch's transposed convolution if it supports the padding.

    Otherwise use no padding, and crop explicitly.
    """
    (top, bottom), (left, right) = pads(pad)
    if top == bottom and left == right:
        return to_nhwc(
            F.conv_transpose2d(to_nchw(x), to_nchw(w), b, stride, (top, left), output_padding)
        )
    below, beside = output_padding
    y = F.pad(F.conv_transpose2d(to_nchw(x), to_nchw(w), None, stride), (0, beside, 0, below))
    y = to_nhwc(F.pad(y, (-left, -right, -top, -bottom)))
    return y if b is None else y + b


def torch_adjoint(x, w, b, size, stride, pad):
    """Return the transposed convolution by autograd.

    It is the gradient of torch_conv2d with respect to an image of this size.
    """
    image = torch.zeros(len(x), *size, w.shape[-1], dtype=x.dtype, requires_grad=True)
    (y,) = torch.autograd.grad(
        torch_conv2d(image, w, None, stride, pad), image, x, create_graph=True
    )
    return y + b


def check_conv(x, K, kernel, stride=1, pad=0, bias=True, device=backend.CPU, **kind):
    layer = Conv2d(x.shape[3], K, kernel, stride, pad, bias)
    check_layer(
        layer,
        x,
        lambda x, p: torch_conv2d(x, p["w"], p.get("b"), stride, pad),
        device=device,
        bilinear=True,
        **kind,
    )


def check_transpose(
    x, C, kernel, stride=1, pad=0, output_padding=0, bias=True, device=backend.CPU, **kind
):
    layer = ConvTranspose2d(x.shape[3], C, kernel, stride, pad, output_padding, bias)

    def f(x, p):
        return torch_conv_transpose2d(x, p["w"], p.get("b"), stride, pad, pair(output_padding))

    check_layer(layer, x, f, device=device, bilinear=True, **kind)


@pytest.fixture(
    scope="module", autouse=True, params=["plain", "by_columns", "by_planes", "by_phases"]
)
def form(request):
    """Run each test with the plain formula, each fast form for the CPU, and the form for a GPU."""
    with pytest.MonkeyPatch.context() as patch, backend.reference_cpu(request.param == "plain"):
        patch.setattr(cpu_conv, "SMALL_C", {"by_columns": 0, "by_planes": 2**31}.get(request.param))
        if request.param == "by_phases":
            patch.setattr(operations, "cpu_conv", array_conv)
        yield request.param


NUMBER = st.integers(1, 3)
PADDING = st.integers(0, 5)
GEOMETRY = {
    "N": NUMBER,
    "C": NUMBER,
    "K": NUMBER,
    "kernel": st.tuples(st.integers(1, 5), st.integers(1, 5)),
    "stride": st.tuples(st.integers(1, 7), st.integers(1, 7)),
    "pad": PADDING
    | st.tuples(PADDING, PADDING)
    | st.tuples(st.tuples(PADDING, PADDING), st.tuples(PADDING, PADDING)),
    "larger": st.tuples(
        st.integers(0, 7), st.integers(0, 7)
    ),  # added to the smallest valid image size
    "bias": st.booleans(),
    "gaps": st.booleans(),
    "dtype": st.sampled_from([np.float64, np.float32]),
}


def image(N, size, C, dtype=np.float64):
    return np.random.default_rng(1).normal(size=(N, *size, C)).astype(dtype)


@given(**GEOMETRY)
def test_conv(device, N, C, K, kernel, stride, pad, larger, bias, gaps, dtype):
    size = [max(1, k - sum(p)) + extra_size for k, p, extra_size in zip(kernel, pads(pad), larger)]
    check_conv(image(N, size, C, dtype), K, kernel, stride, pad, bias, device, gaps=gaps)


@given(**GEOMETRY, extra=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_transpose(device, N, C, K, kernel, stride, pad, larger, bias, gaps, dtype, extra):
    extra = tuple(e % s for e, s in zip(extra, stride))
    size = []  # the smallest n with (n - 1) stride + kernel - pad + extra >= 1, plus `more`
    for k, s, p, e, extra_size in zip(kernel, stride, pads(pad), extra, larger):
        size.append(1 + max(0, -((k + e - sum(p) - 1) // s)) + extra_size // 2)
    check_transpose(
        image(N, size, K, dtype), C, kernel, stride, pad, extra, bias, device, gaps=gaps
    )


CASES = {  # N, (H, W), C, K, kernel, stride, pad
    "DCGAN's": (2, (8, 8), 3, 5, 4, 2, 1),
    "odd and prime": (3, (11, 7), 5, 2, (3, 5), (2, 3), (1, 2)),
    "the stride drops rows": (2, (9, 10), 2, 3, 2, 4, 0),
    "kernel below the stride": (2, (8, 9), 2, 3, 2, 3, 0),
    "kernel as large as the image": (2, (5, 4), 3, 2, (5, 4), 1, 0),
    "one pixel": (2, (1, 1), 3, 4, 1, 1, 0),
    "one pixel, padded": (1, (1, 1), 3, 4, 3, 2, 1),
    "batch of one, one channel": (1, (6, 5), 1, 1, 3, 1, 1),
    "padding above the kernel": (2, (4, 3), 2, 3, 2, 3, ((4, 5), (3, 6))),
    "padding above the image, one step": (2, (4, 4), 2, 3, 1, 10, 3),
    "uneven padding": (2, (7, 6), 2, 3, 3, 2, ((0, 2), (1, 0))),
    "many samples": (67, (4, 4), 2, 3, 3, 1, 1),
}


@pytest.mark.parametrize("N, size, C, K, kernel, stride, pad", CASES.values(), ids=CASES)
def test_both(device, N, size, C, K, kernel, stride, pad):
    """Conv2d and ConvTranspose2d are adjoint, and the transposed one restores the input size."""
    check_conv(image(N, size, C), K, kernel, stride, pad, device=device)
    axes = list(zip(size, pair(kernel), pair(stride), pads(pad)))
    small = [output_size(*axis) for axis in axes]
    extra = tuple((H + sum(p) - k) % s for H, k, s, p in axes)
    assert ConvTranspose2d(K, C, kernel, stride, pad, extra).output_size(*small) == size
    check_transpose(image(N, small, K), C, kernel, stride, pad, extra, device=device)


@pytest.mark.parametrize("check", [check_conv, check_transpose])
def test_one_sample_at_a_time(monkeypatch, check):
    monkeypatch.setattr(cpu, "SCRATCH_BYTES", 1)
    check(image(7, (5, 6), 2), 3, 3, 2, 1)


def test_ways_to_write_a_padding(rng):
    x, w = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(4, 3, 3, 3))
    for pad, same in ((2, (2, 2)), ((1, 2), ((1, 1), (2, 2)))):
        assert_same(conv2d(x, w, None, 1, pad), conv2d(x, w, None, 1, same))


@pytest.mark.parametrize(
    "pad", [((0, 0), (0, 2)), ((0, 2), (0, 0)), ((0, 0), (1, 2)), ((2, 1), (0, 0))]
)
def test_padding_on_one_side(pad, rng):
    """Padding reads 0, not adjacent memory: the image is a view into other numbers."""
    around = rng.normal(size=(3, 9, 9, 2))
    x, w = around[:, 2:6, 2:6], rng.normal(size=(4, 3, 3, 2))
    assert_close(
        conv2d(x, w, None, 1, pad), torch_conv2d(tensor(x), tensor(w), None, 1, pad).numpy()
    )
    x = np.ascontiguousarray(x)
    assert_close(
        conv2d(x, w, None, 1, pad), torch_conv2d(tensor(x), tensor(w), None, 1, pad).numpy()
    )


def test_pixels_that_no_tap_reaches(rng):
    """The gradient of pixels that no filter tap reaches is 0, not uninitialised memory.

    There the output of a transposed convolution is its bias.
    """
    dx = conv2d_dx(rng.normal(size=(2, 2, 3, 4)), rng.normal(size=(4, 2, 2, 3)), (9, 8), (4, 3))
    reached = np.isin(np.arange(9), (0, 1, 4, 5))[:, None] & np.isin(
        np.arange(8), (0, 1, 3, 4, 6, 7)
    )
    assert (dx[:, ~reached] == 0).all() and (dx[:, reached] != 0).all()
    layer = ConvTranspose2d(4, 3, 2, (4, 3), output_padding=(3, 0))
    randomize(layer, rng)
    y, _ = layer.forward(rng.normal(size=(2, 2, 3, 4)))
    assert (y[:, ~reached] == layer.params["b"]).all()


# (H, kernel, stride): (before, after); by hand from the formula of the TensorFlow guide
SAME = {
    (28, 5, 2): (1, 2),
    (14, 5, 2): (1, 2),
    (7, 5, 2): (2, 2),
    (28, 3, 1): (1, 1),
    (7, 4, 1): (1, 2),
    (8, 3, 2): (0, 1),
    (9, 2, 3): (0, 0),
    (8, 1, 2): (0, 0),
    (1, 5, 3): (2, 2),
}


@pytest.mark.parametrize("axis, want", SAME.items())
def test_same(axis, want):
    H, R, stride = axis
    assert same_pad(*axis) == want
    x = image(2, (H, 5), 2)
    pad = (want, (0, 0))
    check_layer(
        Conv2d(2, 3, (R, 1), (stride, 1), "same"),
        x,
        lambda x, p: torch_conv2d(x, p["w"], p["b"], (stride, 1), pad),
        bilinear=True,
    )
    if H % stride == 0:
        check_layer(
            ConvTranspose2d(2, 3, (R, 1), (stride, 1), "same"),
            x[:, : H // stride],
            lambda x, p: torch_adjoint(x, p["w"], p["b"], (H, 5), (stride, 1), pad),
            bilinear=True,
        )


def test_same_lies_beside_padding_by_two(rng):
    """Keras' "same" and PyTorch's pad=2, output_padding=1 differ by a shift of one pixel.

    Both are 5x5 at stride 2 with equal output sizes.
    """
    x = rng.normal(size=(2, 7, 7, 3))
    keras, torchs = ConvTranspose2d(3, 2, 5, 2, "same"), ConvTranspose2d(3, 2, 5, 2, 2, 1)
    for layer in (keras, torchs):
        randomize(layer, np.random.default_rng(2))
    y, z = keras.forward(x)[0], torchs.forward(x)[0]
    assert y.shape == z.shape == (2, 14, 14, 2)
    assert_close(y[:, 1:, 1:], z[:, :-1, :-1])


def test_no_image():
    with pytest.raises(
        ValueError,
        match=r"Conv2d: an image of shape \(1, 3, 9, 2\) is too small for a kernel of \(5, 5\)",
    ):
        Conv2d(2, 3, 5).forward(np.zeros((1, 3, 9, 2), np.float32))
    with pytest.raises(
        ValueError, match=r"ConvTranspose2d: .*\(1, 2, 1, 2\) would grow to \(2, 0\)"
    ):
        ConvTranspose2d(2, 3, 3, 2, ((1, 2), (1, 2))).forward(np.zeros((1, 2, 1, 2), np.float32))


@pytest.mark.parametrize("kind", [Conv2d, ConvTranspose2d])
def test_wrong_x(kind):
    layer = kind(2, 3, 3)
    for shape in ((1, 4, 4, 3), (1, 2, 4, 4), (4, 4, 2)):
        with pytest.raises(ValueError) as error:
            layer.forward(np.zeros(shape, np.float32))
        assert (
            str(error.value)
            == f"{kind.__name__}: expected x of shape (N, any, any, 2), got {shape}"
        )
    with pytest.raises(ValueError, match=f"{kind.__name__}: the batch is empty"):
        layer.forward(np.zeros((0, 4, 4, 2), np.float32))
    with pytest.raises(TypeError, match=f"{kind.__name__}: x is float64 but w is float32"):
        layer.forward(np.zeros((1, 4, 4, 2)))


@pytest.mark.parametrize(
    "layer, want",
    [
        (Conv2d(2, 3, 4), "Conv2d(2, 3, 4, stride=1)"),
        (Conv2d(2, 3, 4, 2, 1, bias=False), "Conv2d(2, 3, 4, stride=2, pad=1, bias=False)"),
        (Conv2d(2, 3, (4, 5), (1, 2), "same"), "Conv2d(2, 3, (4, 5), stride=(1, 2), pad='same')"),
        (ConvTranspose2d(3, 2, 4), "ConvTranspose2d(3, 2, 4, stride=1)"),
        (
            ConvTranspose2d(3, 2, 5, 2, 2, (1, 0)),
            "ConvTranspose2d(3, 2, 5, stride=2, pad=2, output_padding=(1, 0))",
        ),
    ],
)
def test_repr(layer, want):
    assert repr(layer) == want


@pytest.mark.parametrize(
    "stride, output_padding", [(2, -1), (1, 1), (2, 2), ((2, 3), (1, 3)), ((2, 3), 2)]
)
def test_output_padding_is_below_the_stride(stride, output_padding):
    with pytest.raises(
        ValueError,
        match=r"ConvTranspose2d\(2, 3, 4.*output_padding must be at least 0 and smaller than the "
        r"stride",
    ):
        ConvTranspose2d(2, 3, 4, stride, 1, output_padding)


# Known mistakes of other implementations: with each of them, the check of this file fails.


def without_the_size(dy, w, size, stride, pad):
    small = [
        (n - 1) * s + k - sum(p)
        for n, s, k, p in zip(dy.shape[1:3], stride, w.shape[1:3], pads(pad))
    ]
    return conv2d_dx(dy, w, tuple(small), stride, pad)


def overwriting(dy, w, size, stride, pad):
    (N, P, Q, _), (_, R, S, C), (sh, sw) = dy.shape, w.shape, stride
    ((top, bottom), (left, right)), (H, W) = pads(pad), size
    dx = np.zeros((N, H + top + bottom, W + left + right, C))
    for p, q in np.ndindex(P, Q):
        dx[:, p * sh : p * sh + R, q * sw : q * sw + S] = np.einsum("nk,krsc->nrsc", dy[:, p, q], w)
    return dx[:, top : top + H, left : left + W]


MISTAKES = {
    "14 to 27": ("conv2d_dx", without_the_size),
    "col2im overwrites": ("conv2d_dx", overwriting),
    "filters flipped": (
        "conv2d",
        lambda x, w, b, stride, pad: conv2d(x, w[:, ::-1, ::-1], b, stride, pad),
    ),
    "strides exchanged": (
        "conv2d",
        lambda x, w, b, stride, pad: conv2d(x, w, b, stride[::-1], pad),
    ),
    "padded before for after": ("pads", lambda pad: [p[::-1] for p in pads(pad)]),
    "bias gradient of one pixel": ("bias_db", lambda dy: dy.sum((0, 1))[0]),
}


@pytest.mark.parametrize("name, wrong", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_found(monkeypatch, name, wrong):
    pad = ((1, 0), (0, 1))
    check_transpose(image(2, (14, 14), 2), 3, 3, (2, 1), pad, (1, 0))
    monkeypatch.setattr(layer_file, name, wrong)
    with pytest.raises(AssertionError):
        check_transpose(image(2, (14, 14), 2), 3, 3, (2, 1), pad, (1, 0))


def test_uninitialised_memory_is_found(monkeypatch):
    monkeypatch.setattr(np, "zeros", np.empty)
    with pytest.raises(AssertionError):
        check_transpose(image(2, (8, 8), 2), 3, 3, 2, 1)
