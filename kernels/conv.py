"""Convolution, its transpose and its weight gradient as Triton kernels. The mathematics is in rawgan/ops/conv.py.

Each of the three takes one of these forms, chosen by sizes, dtype, alignment and the GPU's capability:

    descriptor   conv_descriptor.py   channels that fill a step, strides that divide the image: the copy engine of Hopper gathers
    pointer      conv_pointer.py      everything
    thin         conv_pointer.py      conv2d_dx to a few channels: the last layer of a generator, the image gradient of a critic
    linear       linear.py            filters as large as the image: the first layer of a generator, the last of a critic

Where the channels do not fill a step of the pointer form, they are folded into the width: an image of W pixels with C channels is
one of W C pixels with one, under filters S C wide that move by stride C. So the first layer of a critic is one dense product, too.
"""

from collections.abc import Callable
from math import prod

from rawgan.backend import Array
from rawgan.kernels import conv_descriptor as descriptor
from rawgan.kernels import conv_pointer as pointer
from rawgan.kernels import launch
from rawgan.kernels.conv_descriptor import Sizes, box, connected, image_box, tile_of, tiles_of
from rawgan.kernels.gemm import activated_dx, compiles, split, table, thin_config
from rawgan.kernels.linear import add_slices, linear, linear_dw, linear_dx, outputs
from rawgan.kernels.moments import NO_NORM, Moments, Sums
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


def _choose(
    form: str | None, arrays, precision: str, config, capability: int | None, shape: tuple[int, int], boxed: Callable,
    norm=None, classes: int = 1,
) -> tuple[str, launch.Config]:  # fmt: skip
    """("descriptor" or "pointer", configuration) for an output of `shape` = (rows, columns) in each of so many classes, the tiles
    filling a GPU of that capability; boxed(configuration): whether its steps are boxes."""
    rows = shape[0]
    dtype = arrays[0].dtype
    configs = table(dtype, precision) if config is None else (config,)
    boxes = form != "pointer" and launch.capability(arrays[0]) >= 90
    tensor_cores = dtype.itemsize == 2 or precision != "ieee"
    fitting = ()
    if boxes and tensor_cores and min(shape) >= 64 and launch.aligned(*arrays):
        fitting = tuple(c for c in configs if c["BLOCK_N"] >= 64 and boxed(c))
    if form == "descriptor" and not fitting:
        raise ValueError("these arrays cannot be read in boxes, or not on this GPU: the descriptor form does not serve them")
    room = 128 * 128 if norm is None else 64 * 64  # with statistics beside them, larger tiles with pointers spill
    configs = tuple(c for c in configs if c["BLOCK_M"] * c["BLOCK_N"] <= room and _whole(norm, rows, c["BLOCK_M"]))
    if not configs and not fitting:
        raise ValueError(f"no tile is whole in each of {norm.groups} groups of {rows // norm.groups} rows")
    return (
        ("descriptor", launch.pick(fitting, shape, capability)) if fitting else ("pointer", launch.pick(configs, shape, capability))
    )


def conv2d(x: Array, w: Array, b: Array | None = None, stride: Pair = 1, pad: Pad = 0, **how) -> Array:
    """y = act(conv2d(x, w) + b), or with v, an array like y, (conv2d(x, w) + b) act'(v).

    `how` is act=, slope=, v=, out=, precision= and config= (see gemm.py), form=, "descriptor" or "pointer", to insist on one, and
    norm=, Moments or Sums (see moments.py): with Sums y is the gradient of act(BatchNorm(z)), carried through both.
    """
    return _conv2d(x, w, b, stride, pad, **how)


def conv2d_dx(dy: Array, w: Array, size: tuple[int, int], stride: Pair = 1, pad: Pad = 0, **how) -> Array:
    """dx = act(conv2d_dx(dy, w) + b), the transposed convolution of a generator; or with v, an array like dx,
    conv2d_dx(dy, w) act'(v), the gradient before the activation below. `how` is b= and what conv2d takes."""
    return _conv2d_dx(dy, w, size, stride, pad, **how)


def _conv2d(
    x, w, b, stride, pad, *, act=None, slope=0.2, v=None, norm=None, out=None, precision="tf32x3", config=None, form=None
) -> Array:
    (N, H, W, C), (K, R, S, _) = x.shape, w.shape
    P, Q = _output((H, W), (R, S), stride, pad)
    shape = (N, P, Q, K)
    y = launch.empty(x, shape) if out is None else out
    launch.fit((C, w.shape[3]), (K, len(w if b is None else b)), (y.shape, shape), *_like(shape, v, norm))
    sizes, finish = _sizes(x.shape, (K, R, S), (P, Q), stride, pad), {"ACT": act, "SLOPE": slope, "PRECISION": precision}
    if _is_linear(sizes) and norm is None and form is None:
        rows = x.reshape(N, -1), w.reshape(K, -1), b
        how = {"act": act, "slope": slope, "v": _rows(v), "precision": precision, "config": config}
        linear(*rows, **how, out=_rows(y))
        return y

    def boxed(c):
        return _divide(sizes) and C % c["BLOCK_K"] == 0 and _whole(norm, N, tile_of(c["BLOCK_M"], P, Q)["TILE_N"])

    form, config = _choose(form, (x, w), precision, config, launch.capability(x), (N * P * Q, K), boxed, norm)
    columns = launch.cdiv(K, config["BLOCK_N"])
    if form == "descriptor":
        tile = tile_of(config["BLOCK_M"], P, Q)
        tiles = tiles_of(tile, N, P, Q)
        given = image_box(x, sizes, tile, config["BLOCK_K"]), box(w.reshape(K, -1), config["BLOCK_N"], config["BLOCK_K"])
        kernel = descriptor.conv2d_box_kernel
    else:
        tile, tiles, given, kernel = {}, launch.cdiv(N * P * Q, config["BLOCK_M"]), (x, w), pointer.conv2d_kernel
        sizes = sizes if C % config["BLOCK_K"] == 0 else _folded(sizes)
    v, arrays, constants = _normalized(norm, b, v, tiles, columns, N * P * Q)
    launch.run(kernel, (tiles * columns,), *given, b, v, y, arrays, **sizes, **finish, **constants, **tile, **config)
    return y


def _conv2d_dx(
    dy,
    w,
    size,
    stride,
    pad,
    *,
    b=None,
    act=None,
    slope=0.2,
    v=None,
    norm=None,
    out=None,
    precision="tf32x3",
    config=None,
    form=None,
) -> Array:
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw) = dy.shape, w.shape, size, pair(stride)
    shape = (N, H, W, C)
    dx = launch.empty(dy, shape) if out is None else out
    launch.fit((K, len(w)), (C, C if b is None else len(b)), (dx.shape, shape), *_like(shape, v, norm))
    sizes, finish = _sizes(shape, (K, R, S), (P, Q), stride, pad), {"ACT": act, "SLOPE": slope, "PRECISION": precision}
    if _is_linear(sizes) and norm is None and b is None and form is None:
        rows = dy.reshape(N, K), w.reshape(K, -1)
        how = {"act": act, "slope": slope, "v": _rows(v), "precision": precision, "config": config}
        linear_dx(*rows, **how, out=_rows(dx))
        return dx
    blocks = (N, launch.cdiv(H, sh), launch.cdiv(W, sw))
    rows = prod(blocks)
    if sh * sw * C <= 16 and norm is None and form is None:
        config = config or thin_config(dy.dtype, precision)
        grid = (launch.cdiv(rows, config["BLOCK_M"]),)
        launch.run(pointer.conv2d_dx_thin_kernel, grid, dy, w, b, v, dx, **sizes, **finish, **config)
        return dx

    def boxed(c):
        tile_n = tile_of(c["BLOCK_M"], *blocks[1:])["TILE_N"]
        return K % c["BLOCK_K"] == 0 and C * w.itemsize % 16 == 0 and _whole(norm, N, tile_n)

    form, config = _choose(form, (dy, w), precision, config, launch.capability(dy), (rows, C), boxed, norm, sh * sw)
    columns, classes = launch.cdiv(C, config["BLOCK_N"]), sh * sw
    if form == "descriptor":
        tile = tile_of(config["BLOCK_M"], *blocks[1:])
        tiles = tiles_of(tile, *blocks)
        given = box(dy, *tile.values(), config["BLOCK_K"]), box(w.reshape(K, -1), config["BLOCK_K"], config["BLOCK_N"])
        kernel = descriptor.conv2d_dx_box_kernel
    else:
        tile, tiles, given, kernel = {}, launch.cdiv(rows, config["BLOCK_M"]), (dy, w), pointer.conv2d_dx_kernel
    v, arrays, constants = _normalized(norm, b, v, tiles * classes, columns, N * H * W)
    launch.run(kernel, (tiles * columns, classes), *given, b, v, dx, arrays, **sizes, **finish, **constants, **tile, **config)
    return dx


def _rows(a: Array | None) -> Array | None:
    """Each sample as a row."""
    return a if a is None else a.reshape(len(a), -1)


def _like(shape, v: Array | None, norm: Moments | Sums | None):
    """What has to fit the output beside the operands."""
    others = [v] if v is not None else []
    if isinstance(norm, Sums):
        others.append(norm.z)
    return [(a.shape, shape) for a in others] + ([] if norm is None else [(norm.width, shape[-1])])


def _whole(norm: Moments | Sums | None, size: int, tile: int) -> bool:
    """Whether no tile reaches over two groups of samples: `tile` of the `size` images or rows."""
    return norm is None or norm.groups == 1 or size % (norm.groups * tile) == 0


def _normalized(norm: Moments | Sums | None, b: Array | None, v: Array | None, tiles: int, columns: int, rows: int) -> tuple:
    """What the kernel reads at the place of its output, the arrays of its statistics, and their constants."""
    if norm is None:
        return v, None, NO_NORM
    if isinstance(norm, Sums) and (v is not None or b is not None):
        raise ValueError("with Sums a product is a gradient: it takes neither a bias nor v")
    return norm.z if isinstance(norm, Sums) else v, *norm.arguments(tiles, columns, rows)


def conv2d_dw(
    x: Array, dy: Array, kernel: Pair, stride: Pair = 1, pad: Pad = 0,
    *, out: Array | None = None, slices: Array | bool | None = None, precision: str = "tf32x3",
    config: launch.Config | None = None, form: str | None = None,
) -> Array:  # fmt: skip
    """dw, the sum split over as many programs as fill the GPU: a number that depends on the sizes and the capability alone.

    With slices=True or an array for them, the slices themselves, (n, K, R, S, C): see linear.outputs.
    """
    (N, P, Q, K), (R, S), C = dy.shape, pair(kernel), x.shape[3]
    launch.fit((N, len(x)))
    sizes = _sizes(x.shape, (K, R, S), (P, Q), stride, pad)
    if _is_linear(sizes) and form is None:
        out, slices = (a if a is None or a is True else a.reshape(*a.shape[:-3], -1) for a in (out, slices))
        dw = linear_dw(x.reshape(N, -1), dy.reshape(N, K), precision=precision, config=config, out=out, slices=slices)
        return dw.reshape(*dw.shape[:-1], R, S, C)

    def boxed(c):
        return _divide(sizes) and C % c["BLOCK_N"] == 0 and K * dy.itemsize % 16 == 0

    form, config = _choose(form, (x, dy), precision, config, None, (K, R * S * C), boxed)
    tile = tile_of(config["BLOCK_K"], P, Q)
    sum_steps = tiles_of(tile, N, P, Q) if form == "descriptor" else launch.cdiv(N * P * Q, config["BLOCK_K"])
    tiles = launch.cdiv(K, config["BLOCK_M"]) * launch.cdiv(R * S * C, config["BLOCK_N"])
    steps, count = split(sum_steps, tiles, launch.capability(x))
    dw, target = outputs(x, (K, R, S, C), count, out, slices)
    how = {"STEPS": steps, "PRECISION": precision, **config}
    if form == "descriptor":
        image, flat = image_box(x, sizes, tile, config["BLOCK_N"]), connected(tile, P, Q)
        pixels = (
            box(dy.reshape(-1, K), config["BLOCK_K"], config["BLOCK_M"]) if flat else box(dy, *tile.values(), config["BLOCK_M"])
        )
        kernel, given = descriptor.conv2d_dw_box_kernel, (image, pixels, target)
        launch.run(kernel, (tiles, count), *given, CONNECTED=flat, **sizes, **tile, **how)
    else:
        sizes = sizes if C % config["BLOCK_N"] == 0 else _folded(sizes)
        launch.run(pointer.conv2d_dw_kernel, (tiles, count), x, dy, target, **sizes, **how)
    return dw if target is dw else add_slices(target, dw)


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
)
