"""Convolution, its transpose and its weight gradient as Triton kernels. The mathematics is in rawgan/ops/conv.py.

Each of the three takes one of these forms, chosen by the sizes alone:

    descriptor   conv_descriptor.py   channels that fill a step, strides that divide the image: the copy engine of Hopper gathers
    pointer      conv_pointer.py      everything
    thin         conv_pointer.py      conv2d_dx to a few channels: the last layer of a generator, the image gradient of a critic
    linear       linear.py            filters as large as the image: the first layer of a generator, the last of a critic

Where the channels do not fill a step of the pointer form, they are folded into the width: an image of W pixels with C channels is
one of W C pixels with one, under filters S C wide that move by stride C. So the first layer of a critic is one dense product, too.
"""

from collections.abc import Callable

from rawgan.backend import Array
from rawgan.kernels import conv_descriptor as descriptor
from rawgan.kernels import conv_pointer as pointer
from rawgan.kernels import launch
from rawgan.kernels.conv_descriptor import Sizes, box, connected, image_box, tile_of, tiles_of
from rawgan.kernels.gemm import activated_dx, compiles, split, table, thin_config
from rawgan.kernels.linear import add_slices, linear, linear_dw, linear_dx
from rawgan.kernels.norm import merge_moments
from rawgan.kernels.spec import Spec
from rawgan.ops import conv as ops
from rawgan.ops.conv import Pad, Pair, output_size, pads, pair


def _output(size, kernel, stride, pad) -> tuple[int, int]:
    return tuple(output_size(*axis) for axis in zip(size, kernel, pair(stride), pads(pad)))


def _sizes(x, w, y, stride, pad) -> Sizes:
    """The constants of the kernels from the shapes (N, H, W, C), (K, R, S) and (P, Q)."""
    names = ("N", "H", "W", "C", "K", "R", "S", "P", "Q", "STRIDE_H", "STRIDE_W", "TOP", "LEFT")
    (top, _), (left, _) = pads(pad)
    return dict(zip(names, (*x, *w, *y, *pair(stride), top, left)))


def _folded(sizes: Sizes) -> Sizes:
    """The same convolution with the channels of x in its width."""
    return sizes | {name: sizes[name] * sizes["C"] for name in ("W", "S", "STRIDE_W", "LEFT")} | {"C": 1}


def _is_linear(sizes: Sizes) -> bool:
    """Whether the filters are as large as the image."""
    return [sizes[name] for name in ("R", "S", "P", "Q", "TOP", "LEFT")] == [sizes["H"], sizes["W"], 1, 1, 0, 0]


def _divide(sizes: Sizes) -> bool:
    """Whether the strides divide the image, so that what a tap meets is a box."""
    return sizes["H"] % sizes["STRIDE_H"] == 0 == sizes["W"] % sizes["STRIDE_W"]


def _choose(form: str | None, arrays, precision: str, config, capability: int | None, shape, boxed: Callable):
    """("descriptor" or "pointer", configuration) for an output of `shape` = (rows, columns), the tiles filling a GPU of that
    capability; boxed(configuration): whether its steps are boxes."""
    dtype = arrays[0].dtype
    configs = table(dtype, precision) if config is None else (config,)
    boxes = form == "descriptor" or (form is None and launch.capability(arrays[0]) >= 90)
    tensor_cores = dtype.itemsize == 2 or precision != "ieee"
    fitting = ()
    if boxes and tensor_cores and min(shape) >= 64 and launch.aligned(*arrays):
        fitting = tuple(c for c in configs if c["BLOCK_N"] >= 64 and boxed(c))
    if form == "descriptor" and not fitting:
        raise ValueError("these arrays cannot be read in boxes: the descriptor form does not serve them")
    return (
        ("descriptor", launch.pick(fitting, shape, capability)) if fitting else ("pointer", launch.pick(configs, shape, capability))
    )


def conv2d(x: Array, w: Array, b: Array | None = None, stride: Pair = 1, pad: Pad = 0, **how) -> Array:
    """y = act(conv2d(x, w) + b), or with v, an array like y, (conv2d(x, w) + b) act'(v).

    `how` is act=, slope=, v=, precision= and config= (see gemm.py), and form=, "descriptor" or "pointer", to insist on one.
    """
    return _conv2d(x, w, b, stride, pad, **how)[0]


def conv2d_moments(x: Array, w: Array, b: Array | None = None, stride: Pair = 1, pad: Pad = 0, eps: float = 1e-5, groups=1, **how):
    """conv2d, and mean, variance and rstd of each channel of it over each of `groups` equal parts of the batch, (groups, K).

    Taken from the float32 sums before they are rounded to y, without another pass over it.
    """
    y, slices = _conv2d(x, w, b, stride, pad, groups=groups, **how)
    return y, *merge_moments(slices, (groups, len(w)), eps)


def _conv2d(
    x, w, b, stride, pad, *, act=None, slope=0.2, v=None, groups=0, precision="tf32x3", config=None, form=None
) -> tuple[Array, Array | None]:
    (N, H, W, C), (K, R, S, _) = x.shape, w.shape
    P, Q = _output((H, W), (R, S), stride, pad)
    shape = (N, P, Q, K)
    launch.fit((C, w.shape[3]), (K, len(w if b is None else b)), (shape, shape if v is None else v.shape))
    sizes, finish = _sizes(x.shape, (K, R, S), (P, Q), stride, pad), {"ACT": act, "SLOPE": slope, "PRECISION": precision}
    if _is_linear(sizes) and not groups and form is None:
        v = v if v is None else v.reshape(N, K)
        rows = x.reshape(N, -1), w.reshape(K, -1), b
        return linear(*rows, act=act, slope=slope, v=v, precision=precision, config=config).reshape(shape), None

    def boxed(c):
        return _divide(sizes) and C % c["BLOCK_K"] == 0

    form, config = _choose(form, (x, w), precision, config, launch.capability(x), (N * P * Q, K), boxed)
    y = launch.empty(x, shape)
    columns = launch.cdiv(K, config["BLOCK_N"])
    if form == "descriptor":
        tile = tile_of(config["BLOCK_M"], P, Q)
        tiles = tiles_of(tile, N, P, Q)
        slices = _room_for_moments(x, groups, tiles, K, N % (groups * tile["TILE_N"]) == 0 if groups else True)
        image = image_box(x, sizes, tile, config["BLOCK_K"])
        filters = box(w.reshape(K, -1), config["BLOCK_N"], config["BLOCK_K"])
        given = image, filters, b, v, y, slices
        launch.run(descriptor.conv2d_box_kernel, (tiles * columns,), *given, **sizes, **finish, **tile, **config)
    else:
        tiles = launch.cdiv(N * P * Q, config["BLOCK_M"])
        slices = _room_for_moments(x, groups, tiles, K, N * P * Q % (groups * config["BLOCK_M"]) == 0 if groups > 1 else True)
        sizes = sizes if C % config["BLOCK_K"] == 0 else _folded(sizes)
        launch.run(pointer.conv2d_kernel, (tiles * columns,), x, w, b, v, y, slices, **sizes, **finish, **config)
    return y, slices


def _room_for_moments(like: Array, groups: int, tiles: int, width: int, whole: bool) -> Array | None:
    """Where the kernels leave the moments of their tiles, (groups, tiles of each, 3, width); None for groups = 0."""
    if not groups:
        return None
    if not whole or tiles % groups:
        raise ValueError(f"a tile of the convolution would reach over two of {groups} groups: take their moments from its output")
    return launch.empty(like, (groups, tiles // groups, 3, width), "float32")


def conv2d_dx(dy: Array, w: Array, size: tuple[int, int], stride: Pair = 1, pad: Pad = 0, **how) -> Array:
    """dx = act(conv2d_dx(dy, w) + b), the transposed convolution of a generator; or with v, an array like dx,
    conv2d_dx(dy, w) act'(v), the gradient before the activation below. `how` is b= and what conv2d takes."""
    return _conv2d_dx(dy, w, size, stride, pad, **how)[0]


def conv2d_dx_moments(dy: Array, w: Array, size: tuple[int, int], stride: Pair = 1, pad: Pad = 0, eps=1e-5, groups=1, **how):
    """conv2d_dx, and the moments of its channels as in conv2d_moments, (groups, C)."""
    dx, slices = _conv2d_dx(dy, w, size, stride, pad, groups=groups, **how)
    return dx, *merge_moments(slices, (groups, w.shape[3]), eps)


def _conv2d_dx(
    dy, w, size, stride, pad, *, b=None, act=None, slope=0.2, v=None, groups=0, precision="tf32x3", config=None, form=None
) -> tuple[Array, Array | None]:
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw) = dy.shape, w.shape, size, pair(stride)
    shape = (N, H, W, C)
    launch.fit((K, len(w)), (C, C if b is None else len(b)), (shape, shape if v is None else v.shape))
    sizes, finish = _sizes(shape, (K, R, S), (P, Q), stride, pad), {"ACT": act, "SLOPE": slope, "PRECISION": precision}
    if _is_linear(sizes) and not groups and b is None and form is None:
        v = v if v is None else v.reshape(N, -1)
        rows = dy.reshape(N, K), w.reshape(K, -1)
        return linear_dx(*rows, act=act, slope=slope, v=v, precision=precision, config=config).reshape(shape), None
    dx, blocks = launch.empty(dy, shape), (N, launch.cdiv(H, sh), launch.cdiv(W, sw))
    rows = blocks[0] * blocks[1] * blocks[2]
    if sh * sw * C <= 16 and not groups and form is None:
        config = config or thin_config(dy.dtype, precision)
        grid = (launch.cdiv(rows, config["BLOCK_M"]),)
        launch.run(pointer.conv2d_dx_thin_kernel, grid, dy, w, b, v, dx, **sizes, **finish, **config)
        return dx, None

    def boxed(c):
        return K % c["BLOCK_K"] == 0 and C * w.itemsize % 16 == 0

    form, config = _choose(form, (dy, w), precision, config, launch.capability(dy), (rows, C), boxed)
    columns, classes = launch.cdiv(C, config["BLOCK_N"]), sh * sw
    if form == "descriptor":
        tile = tile_of(config["BLOCK_M"], *blocks[1:])
        tiles = tiles_of(tile, *blocks)
        slices = _room_for_moments(dy, groups, tiles * classes, C, N % (groups * tile["TILE_N"]) == 0 if groups else True)
        pixels = box(dy, *tile.values(), config["BLOCK_K"])
        filters = box(w.reshape(K, -1), config["BLOCK_K"], config["BLOCK_N"])
        given = pixels, filters, b, v, dx, slices
        launch.run(descriptor.conv2d_dx_box_kernel, (tiles * columns, classes), *given, **sizes, **finish, **tile, **config)
    else:
        tiles = launch.cdiv(rows, config["BLOCK_M"])
        slices = _room_for_moments(dy, groups, tiles * classes, C, rows % (groups * config["BLOCK_M"]) == 0 if groups > 1 else True)
        launch.run(pointer.conv2d_dx_kernel, (tiles * columns, classes), dy, w, b, v, dx, slices, **sizes, **finish, **config)
    return dx, slices


def conv2d_dw(
    x: Array, dy: Array, kernel: Pair, stride: Pair = 1, pad: Pad = 0,
    *, precision: str = "tf32x3", config: launch.Config | None = None, form: str | None = None,
) -> Array:  # fmt: skip
    """dw, the sum split over as many programs as fill the GPU: a number that depends on the sizes and the capability alone."""
    (N, P, Q, K), (R, S), C = dy.shape, pair(kernel), x.shape[3]
    launch.fit((N, len(x)))
    sizes = _sizes(x.shape, (K, R, S), (P, Q), stride, pad)
    if _is_linear(sizes) and form is None:
        return linear_dw(x.reshape(N, -1), dy.reshape(N, K), precision=precision, config=config).reshape(K, R, S, C)

    def boxed(c):
        return _divide(sizes) and C % c["BLOCK_N"] == 0 and K * dy.itemsize % 16 == 0

    form, config = _choose(form, (x, dy), precision, config, None, (K, R * S * C), boxed)
    tile = tile_of(config["BLOCK_K"], P, Q)
    sum_steps = tiles_of(tile, N, P, Q) if form == "descriptor" else launch.cdiv(N * P * Q, config["BLOCK_K"])
    tiles = launch.cdiv(K, config["BLOCK_M"]) * launch.cdiv(R * S * C, config["BLOCK_N"])
    steps, slices = split(sum_steps, tiles, launch.capability(x))
    dw = launch.empty(x, (K, R, S, C))
    target = dw if slices == 1 else launch.empty(x, (slices, K, R, S, C), "float32")
    how = {"STEPS": steps, "PRECISION": precision, **config}
    if form == "descriptor":
        image, flat = image_box(x, sizes, tile, config["BLOCK_N"]), connected(tile, P, Q)
        pixels = (
            box(dy.reshape(-1, K), config["BLOCK_K"], config["BLOCK_M"]) if flat else box(dy, *tile.values(), config["BLOCK_M"])
        )
        kernel, given = descriptor.conv2d_dw_box_kernel, (image, pixels, target)
        launch.run(kernel, (tiles, slices), *given, CONNECTED=flat, **sizes, **tile, **how)
    else:
        sizes = sizes if C % config["BLOCK_N"] == 0 else _folded(sizes)
        launch.run(pointer.conv2d_dw_kernel, (tiles, slices), x, dy, target, **sizes, **how)
    return dw if slices == 1 else add_slices(target, dw)


def _make(names: str):
    """Makes the arguments of one of the three: the two arrays of "xwy" that `names` says, and how they meet."""

    def make(array, N, H, W, C, K, R, S, stride, pad, bias=False, below=False, act=None, form=None):
        P, Q = _output((H, W), (R, S), stride, pad)
        shapes = {"x": (N, H, W, C), "w": (K, R, S, C), "y": (N, P, Q, K)}
        arrays = [array(*shapes[name]) for name in names]
        how = {name: value for name, value in (("act", act), ("form", form)) if value}
        how |= {"v": array(*shapes["y" if names == "xw" else "x"])} if below else {}
        if names == "xw":
            return (*arrays, array(K) if bias else None, stride, pad), how
        if names == "yw":
            return (*arrays, (H, W), stride, pad), how | ({"b": array(C)} if bias else {})
        return (*arrays, (R, S), stride, pad), how

    return make


def _traffic(itemsize, N, H, W, C, K, R, S, stride, pad, **_):
    P, Q = _output((H, W), (R, S), stride, pad)
    return itemsize * (N * H * W * C + K * R * S * C + N * P * Q * K)


def _flops(N, H, W, C, K, R, S, stride, pad, **_):
    P, Q = _output((H, W), (R, S), stride, pad)
    return 2 * N * P * Q * K * R * S * C


def _case(N, H, W, C, K, R, S, stride, pad, **more):
    return {"N": N, "H": H, "W": W, "C": C, "K": K, "R": R, "S": S, "stride": stride, "pad": pad, **more}


DCGAN64 = ((64, 3, 64), (32, 64, 128), (16, 128, 256), (8, 256, 512))  # the discriminator's layers: size, C, K
LARGE, THIN = _case(128, 16, 16, 128, 256, 4, 4, 2, 1), _case(128, 64, 64, 3, 64, 4, 4, 2, 1)
BELOW = {"below": True, "act": "leaky_relu"}
TANH = {"bias": True, "act": "tanh"}


def _spec(wrapper, names, form, reference=None, extra=()) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference or form,
        make=_make(names),
        cases=(
            _case(3, 9, 7, 5, 6, 3, 2, (2, 3), ((1, 2), (0, 1))),
            _case(1, 5, 6, 1, 1, 2, 5, 1, (0, 2)),
            _case(5, 4, 4, 33, 1, 4, 4, 1, 0),
            _case(2, 11, 7, 3, 17, 2, 1, 3, 0),
            _case(2, 8, 8, 64, 64, 4, 4, 2, 1, form="pointer"),
            _case(4, 8, 8, 64, 64, 4, 4, 2, 1),  # these two in boxes
            _case(3, 14, 14, 64, 64, 3, 2, (2, 1), ((1, 1), (0, 1))),
            *extra,
        ),
        benchmarks=tuple(_case(128, size, size, c, k, 4, 4, 2, 1) for size, c, k in DCGAN64),
        traffic=_traffic,
        flops=_flops,
        compiles=compiles(LARGE, THIN, ("pointer", "descriptor"))
        + ((("bfloat16", LARGE | BELOW, {}),) if wrapper is not conv2d_dw else ()),
        dtypes=("float32", "tf32", "float16", "bfloat16"),
        form=form,
    )


def _moments(y, eps, groups):
    """y, and mean, variance and rstd of its channels over each group of samples."""
    parts = y.reshape(groups, -1, y.shape[-1])
    var = parts.var(1)
    return y, parts.mean(1), var, (var + eps) ** -0.5


def _moments_spec(wrapper, names, form) -> Spec:
    make = _make(names)

    def make_with_moments(array, eps, groups, **case):
        args, how = make(array, **case)
        return args, how | {"eps": eps, "groups": groups}

    def reference(*args, eps, groups, **how):
        return _moments(form(*args, **how), eps, groups)

    how = {"eps": 1e-5, "groups": 2}
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make_with_moments,
        cases=(_case(4, 16, 16, 64, 64, 4, 4, 2, 1) | how, _case(3, 7, 5, 6, 5, 3, 3, 1, 1, bias=True) | how | {"groups": 1}),
        benchmarks=tuple(_case(256, size, size, c, k, 4, 4, 2, 1) | how for size, c, k in DCGAN64[1:]),
        traffic=lambda itemsize, eps, groups, **case: _traffic(itemsize, **case),
        flops=lambda eps, groups, **case: _flops(**case),
        compiles=tuple(("bfloat16", LARGE | how, {"form": form}) for form in ("pointer", "descriptor")),
        dtypes=("float32", "tf32", "float16", "bfloat16"),
    )


def _conv2d_form(x, w, b=None, stride=1, pad=0, act=None, v=None, form=None):
    return ops.conv2d(x, w, b, stride, pad)


def _conv2d_reference(x, w, b=None, stride=1, pad=0, act=None, v=None, form=None):
    return activated_dx(ops.conv2d(x, w, b, stride, pad), act, v)


def _conv2d_dx_form(dy, w, size, stride, pad, act=None, v=None, b=0, form=None):
    return ops.conv2d_dx(dy, w, size, stride, pad) + b


def _conv2d_dx_reference(dy, w, size, stride, pad, act=None, v=None, b=0, form=None):
    return activated_dx(ops.conv2d_dx(dy, w, size, stride, pad) + b, act, v)


def _conv2d_dw_form(x, dy, kernel, stride, pad, form=None):
    return ops.conv2d_dw(x, dy, kernel, stride, pad)


SPECS = (
    _spec(
        conv2d,
        "xw",
        _conv2d_form,
        _conv2d_reference,
        (_case(2, 7, 7, 8, 9, 3, 3, 2, 1, **TANH), _case(1, 16, 16, 32, 64, 4, 4, 2, 1, **BELOW)),
    ),
    _spec(
        conv2d_dx,
        "yw",
        _conv2d_dx_form,
        _conv2d_dx_reference,
        (
            _case(2, 8, 8, 3, 16, 4, 4, 2, 1, **TANH),
            _case(2, 7, 6, 1, 33, 5, 5, 1, 2, bias=True),
            _case(2, 9, 7, 2, 5, 3, 3, (1, 2), ((0, 1), (1, 1)), **BELOW),
            _case(1, 16, 16, 64, 64, 4, 4, 2, 1, **BELOW),
        ),
    ),
    _spec(conv2d_dw, "xy", _conv2d_dw_form, extra=(_case(5, 11, 11, 3, 4, 3, 3, 1, 1),)),  # a sum in several slices
    _moments_spec(conv2d_moments, "xw", _conv2d_form),
    _moments_spec(conv2d_dx_moments, "yw", _conv2d_dx_form),
)
