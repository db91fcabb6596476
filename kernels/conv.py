"""Convolution, its transpose and its weight gradient. The mathematics is in rawgan/ops/conv.py.

Each of the three has several implementations, chosen by sizes, dtype, alignment and the GPU:

    tma       conv_tma.py       sm_90 on, tensor cores, outputs of 64 x 64 and more; conditions on
                                channels and strides: see there
    pointer   conv_pointer.py   any shape
    small_c   conv_pointer.py   conv2d_dx to few channels: a generator's last layer, a critic's
                                image gradient
    linear    linear.py         filters as large as the image: a generator's first layer, a
                                critic's last

The sum of conv2d_dw over the pixels is split over several programs (split-K). Those of conv2d and
conv2d_dx are not: their epilogues need the whole sum.

Where the channels are no multiple of BLOCK_K, the pointer kernels take the image with its channels
folded into the width: W C pixels of one channel, filters S C wide that move by stride C. So a
critic's first layer is one dense GEMM, too.
"""

from collections.abc import Callable
from math import prod

import triton

from rawgan.backend import Array
from rawgan.geometry import Pad, Pair, output_size, pads, pair
from rawgan.kernels import conv_pointer, conv_tma
from rawgan.kernels.conv_tma import (
    Sizes,
    accumulator,
    array_tiles,
    contiguous,
    count_tiles,
    divides,
    fits_128_registers,
    image_tiles,
    pixel_tile,
)
from rawgan.kernels.gemm_config import (
    occupy,
    output_tiles,
    pick,
    small_c_config,
    split,
    table,
    without_split,
)
from rawgan.kernels.gemm_table import GemmKey, epilogue_name, gemm_key, measured
from rawgan.kernels.linear import linear, linear_dw, linear_dx, outputs, sum_partials
from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.batch_stats import NO_NORM, BatchGradStats, BatchStats

Norm = BatchStats | BatchGradStats | None


def conv2d(
    x: Array, w: Array, b: Array | None = None, stride: Pair = 1, pad: Pad = 0, *,
    act: str | None = None, slope: float = 0.2, v: Array | None = None, norm: Norm = None,
    out: Array | None = None, precision: str = "tf32x3", config: launch.Config | None = None,
    impl: str | None = None,
) -> Array:  # fmt: skip
    """Return y = act(conv2d(x, w) + b), or with v, an array like y, (conv2d(x, w) + b) act'(v).

    x (N, H, W, C), w (K, R, S, C), b (K,), y (N, P, Q, K); slope is that of leaky_relu. out: an
    array for y. precision and config: see gemm_config.py. impl: "tma" or "pointer", to require one.
    norm: statistics that the epilogue takes (tile/batch_stats.py): BatchStats of y; with
    BatchGradStats the convolution is the gradient of act(BatchNorm(z)), and y that of BatchNorm's
    output.

    Raises ValueError for shapes that do not fit, and for an impl that does not take these arrays.
    """
    (N, H, W, C), (K, R, S, _) = x.shape, w.shape
    P, Q = _output((H, W), (R, S), stride, pad)
    shape = (N, P, Q, K)
    y = launch.empty(x, shape) if out is None else out
    launch.require_equal((C, w.shape[3]), (y.shape, shape), *_like(shape, v, norm))
    launch.require_shapes((K,), b)
    sizes = _sizes(x.shape, (K, R, S), (P, Q), stride, pad)
    if _is_linear(sizes) and norm is None and impl is None:
        linear(
            x.reshape(N, -1), w.reshape(K, -1), b, act=act, slope=slope, v=_rows(v), out=_rows(y),
            precision=precision, config=config,
        )  # fmt: skip
        return y

    def takes_tma(c: launch.Config) -> bool:
        images = pixel_tile(c["BLOCK_M"], P, Q)["TILE_N"]
        whole = C % c["BLOCK_K"] == 0 and K * x.itemsize % 16 == 0
        return divides(sizes) and whole and _tiles_fit_groups(norm, N, images)

    saved = _saved(norm, b, v)
    arrays = [a for a in (x, w, y, saved) if a is not None]
    key = _key("conv2d", sizes, x, precision, b, act, v, norm)
    impl, config = _measured(key, impl, config, *arrays)
    impl, config = _choose(
        impl, arrays, precision, config, launch.multiprocessors(x), (N * P * Q, K), takes_tma, norm,
        terms=R * S * C,
    )  # fmt: skip
    tiles_n = launch.cdiv(K, config["BLOCK_N"])
    if impl == "tma":
        tile = pixel_tile(config["BLOCK_M"], P, Q)
        tiles_m = count_tiles(tile, N, P, Q)
        operands = (
            image_tiles(x, sizes, tile, config["BLOCK_K"]),
            array_tiles(w.reshape(K, -1), config["BLOCK_N"], config["BLOCK_K"]),
        )
        output, saved = (
            None if a is None else array_tiles(a, *tile.values(), config["BLOCK_N"])
            for a in (y, saved)
        )
        kernel, sizes = conv_tma.conv2d_tma_kernel, _without(sizes, "H", "W")
        tile |= accumulator(x, precision)
    else:
        tile, operands, output, kernel = {}, (x, w), y, conv_pointer.conv2d_kernel
        tiles_m = launch.cdiv(N * P * Q, config["BLOCK_M"])
        sizes = sizes if C % config["BLOCK_K"] == 0 else _folded(sizes)
    bn, statistics = _norm_arguments(norm, tiles_m, tiles_n, N * P * Q)
    constants = sizes | {"ACT": act, "SLOPE": slope, "PRECISION": precision} | statistics
    arguments = *operands, b, saved, output, bn
    launch.run(kernel, (tiles_m * tiles_n,), *arguments, key=key, **constants, **tile, **config)
    return y


def conv2d_dx(
    dy: Array, w: Array, size: tuple[int, int], stride: Pair = 1, pad: Pad = 0, *,
    b: Array | None = None, act: str | None = None, slope: float = 0.2, v: Array | None = None,
    norm: Norm = None, out: Array | None = None, precision: str = "tf32x3",
    config: launch.Config | None = None, impl: str | None = None,
) -> Array:  # fmt: skip
    """Return dx = act(conv2d_dx(dy, w) + b) (N, *size, C), a generator's transposed convolution.

    With v, an array like dx, conv2d_dx(dy, w) act'(v): the gradient before the activation below.
    Arguments else as for conv2d.
    """
    (N, P, Q, K), (_, R, S, C), (H, W), (sh, sw) = dy.shape, w.shape, size, pair(stride)
    shape = (N, H, W, C)
    dx = launch.empty(dy, shape) if out is None else out
    launch.require_equal((K, len(w)), (dx.shape, shape), *_like(shape, v, norm))
    launch.require_shapes((C,), b)
    sizes = _sizes(shape, (K, R, S), (P, Q), stride, pad)
    if _is_linear(sizes) and norm is None and b is None and impl is None:
        linear_dx(
            dy.reshape(N, K), w.reshape(K, -1), act=act, slope=slope, v=_rows(v), out=_rows(dx),
            precision=precision, config=config,
        )  # fmt: skip
        return dx

    # One pixel of dy: the stride has no effect. One as large as the filter makes each pixel of dx a
    # residue class, with one tap, where stride 1 makes a single class with all taps.
    smallest = config or table(dy.dtype, precision)[-1]
    if _is_linear(sizes) and _tiles_fit_groups(norm, N, smallest["BLOCK_M"]):
        sh, sw = sizes["STRIDE_H"], sizes["STRIDE_W"] = R, S

    epilogue = {"ACT": act, "SLOPE": slope, "PRECISION": precision}
    pixels = (N, launch.cdiv(H, sh), launch.cdiv(W, sw))  # of one residue class
    rows = prod(pixels)
    key = _key("conv2d_dx", sizes, dy, precision, b, act, v, norm)
    saved = _saved(norm, b, v)
    arrays = [a for a in (dy, w, dx, saved) if a is not None]
    impl, config = _measured(key, impl, config, *arrays)
    few_channels = sh * sw * C <= 16 and norm is None
    if few_channels and impl in (None, "small_c"):
        # Blocks of 2 x 2 strides read dy less often; their products with zeros are slow in float32
        factor = 2 if dy.itemsize == 2 else 1
        columns = factor**2 * sh * sw * C
        block_n = triton.next_power_of_2(max(columns, 16))
        config = config or small_c_config(dy.dtype) | {"BLOCK_N": block_n}
        if columns > config["BLOCK_N"]:
            factor = 1
        blocks = N * launch.cdiv(H, factor * sh) * launch.cdiv(W, factor * sw)
        grid = (launch.cdiv(blocks, config["BLOCK_M"]),)
        kernel = conv_pointer.conv2d_dx_small_c_kernel
        constants = sizes | epilogue | {"FACTOR": factor}
        launch.run(kernel, grid, dy, w, b, v, dx, key=key, **constants, **config)
        return dx

    def takes_tma(c: launch.Config) -> bool:
        images = pixel_tile(c["BLOCK_M"], *pixels[1:])["TILE_N"]
        whole = K % c["BLOCK_K"] == 0 == C % c["BLOCK_N"]
        return divides(sizes) and whole and _tiles_fit_groups(norm, N, images)

    classes, taps = sh * sw, launch.cdiv(R, sh) * launch.cdiv(S, sw)
    impl, config = _choose(
        impl, arrays, precision, config, launch.multiprocessors(dy), (rows, C), takes_tma, norm,
        classes=classes, terms=taps * K,
    )  # fmt: skip
    tiles_n = launch.cdiv(C, config["BLOCK_N"])
    if impl == "tma":
        tile = pixel_tile(config["BLOCK_M"], *pixels[1:])
        tiles_m = count_tiles(tile, *pixels)
        operands = (
            array_tiles(dy, *tile.values(), config["BLOCK_K"]),
            array_tiles(w.reshape(K, -1), config["BLOCK_K"], config["BLOCK_N"]),
        )
        output, saved = (
            None if a is None else image_tiles(a, sizes, tile, config["BLOCK_N"])
            for a in (dx, saved)
        )
        grid = (tiles_m * tiles_n * classes,)
        kernel, sizes = conv_tma.conv2d_dx_tma_kernel, _without(sizes, "P", "Q")
        tile |= accumulator(dy, precision)
    else:
        tile, operands, output, kernel = {}, (dy, w), dx, conv_pointer.conv2d_dx_kernel
        tiles_m = launch.cdiv(rows, config["BLOCK_M"])
        grid = (tiles_m * tiles_n, classes)
    bn, statistics = _norm_arguments(norm, tiles_m * classes, tiles_n, N * H * W)
    constants = sizes | epilogue | statistics
    arguments = *operands, b, saved, output, bn
    launch.run(kernel, grid, *arguments, key=key, **constants, **tile, **config)
    return dx


def conv2d_dw(
    x: Array, dy: Array, kernel: Pair, stride: Pair = 1, pad: Pad = 0, *,
    out: Array | None = None, partials: Array | bool | None = None, precision: str = "tf32x3",
    config: launch.Config | None = None, impl: str | None = None,
) -> Array:  # fmt: skip
    """Return dw (K, R, S, C), its sum split over as many programs as fill the GPU.

    The number of parts depends on the sizes and the number of multiprocessors alone. partials: True
    or an array for them, to get the partial sums (n, K, R, S, C) instead: see linear.outputs.
    """
    (N, _, _, C), (_, P, Q, K), (R, S) = x.shape, dy.shape, pair(kernel)
    launch.require_equal((len(dy), N))
    sizes = _sizes(x.shape, (K, R, S), (P, Q), stride, pad)
    if _is_linear(sizes) and impl is None:
        out, partials = (
            a if a is None or a is True else a.reshape(*a.shape[:-3], -1) for a in (out, partials)
        )
        dw = linear_dw(
            x.reshape(N, -1), dy.reshape(N, K), precision=precision, config=config, out=out,
            partials=partials,
        )  # fmt: skip
        return dw.reshape(*dw.shape[:-1], R, S, C)

    def takes_tma(c: launch.Config) -> bool:
        return divides(sizes) and C % c["BLOCK_N"] == 0 and K * dy.itemsize % 16 == 0

    key = gemm_key("conv2d_dw", sizes, x, precision, "none" if partials is None else "partials")
    impl, config = _measured(key, impl, config, x, dy)
    impl, config = _choose(impl, (x, dy), precision, config, 1, (K, R * S * C), takes_tma)
    config, parts = without_split(config)
    tile = pixel_tile(config["BLOCK_K"], P, Q)
    if impl == "tma":
        sum_steps = count_tiles(tile, N, P, Q)
    else:
        sum_steps = launch.cdiv(N * P * Q, config["BLOCK_K"])
    tiles = launch.cdiv(K, config["BLOCK_M"]) * launch.cdiv(R * S * C, config["BLOCK_N"])
    steps, count = split(sum_steps, tiles, launch.multiprocessors(x), parts)
    dw, target = outputs(x, (K, R, S, C), count, out, partials)
    constants = {"STEPS": steps, "PRECISION": precision, **config}
    if impl == "tma":
        flat = contiguous(tile, P, Q)
        if flat:
            dy_tiles = array_tiles(dy.reshape(-1, K), config["BLOCK_K"], config["BLOCK_M"])
        else:
            dy_tiles = array_tiles(dy, *tile.values(), config["BLOCK_M"])
        operands = image_tiles(x, sizes, tile, config["BLOCK_N"]), dy_tiles
        constants |= {"CONTIGUOUS": flat, **tile}
        dw_kernel, sizes = conv_tma.conv2d_dw_tma_kernel, _without(sizes, "N", "H", "W")
    else:
        operands, dw_kernel = (x, dy), conv_pointer.conv2d_dw_kernel
        sizes = sizes if C % config["BLOCK_N"] == 0 else _folded(sizes)
    launch.run(dw_kernel, (tiles, count), *operands, target, key=key, **sizes, **constants)
    return dw if target is dw else sum_partials(target, dw)


def _key(
    operation: str, sizes: Sizes, x: Array, precision: str, b: Array | None, act: str | None,
    v: Array | None, norm: Norm,
) -> GemmKey:  # fmt: skip
    """Return the key of a convolution with an epilogue in the table of measured configurations."""
    if norm is None:
        return gemm_key(operation, sizes, x, precision, epilogue_name(b, act, v))
    name = "batch_stats" if isinstance(norm, BatchStats) else "batch_grad_stats"
    epilogue = epilogue_name(b, act, v, name)
    return gemm_key(operation, sizes, x, precision, epilogue, norm.groups)


def _measured(
    key: GemmKey, impl: str | None, config: launch.Config | None, *arrays: Array
) -> tuple[str | None, launch.Config | None]:
    """Return impl and config as they were asked for, or where neither was those measured."""
    if impl is not None or config is not None:
        return impl, config
    return measured(key, *arrays) or (None, None)


def _choose(
    impl: str | None, arrays, precision: str, config: launch.Config | None,
    multiprocessors: int, shape: tuple[int, int], takes_tma: Callable[[launch.Config], bool],
    norm: Norm = None, classes: int = 1, terms: int | None = None,
) -> tuple[str, launch.Config]:  # fmt: skip
    """Return ("tma" or "pointer", configuration) for `classes` outputs of `shape` (rows, columns).

    The configuration's tiles fill a GPU of so many multiprocessors. takes_tma: whether the sizes
    suit TMA in a configuration. terms: the products in a sum that is not split. Raises ValueError
    for another impl, where impl="tma" is not possible, and where no tile is whole in each of norm's
    groups.
    """
    if impl not in (None, "tma", "pointer"):
        raise ValueError(f"impl is 'tma', 'pointer' or None, got {impl!r}")
    rows, dtype = shape[0], arrays[0].dtype
    configs = table(dtype, precision) if config is None else (config,)

    # TMA: Hopper or later, tensor cores, at least 64 x 64 outputs
    hopper = impl != "pointer" and launch.capability(arrays[0]) >= 90
    tensor_cores = dtype.itemsize == 2 or precision != "ieee"
    tma_configs = ()
    if hopper and tensor_cores and min(shape) >= 64 and launch.aligned(*arrays):
        tma_configs = tuple(c for c in configs if c["BLOCK_N"] >= 64 and takes_tma(c))
    if tma_configs:
        picked = pick(tma_configs, shape, multiprocessors, classes)
        if config is None and terms is not None:
            picked = occupy(
                picked, classes * output_tiles(picked, shape), multiprocessors, terms=terms,
                itemsize=dtype.itemsize, shared=launch.shared_memory(arrays[0]),
                two_fit=fits_128_registers(norm, dtype, launch.capability(arrays[0])),
            )  # fmt: skip
        return "tma", picked
    if impl == "tma":
        raise ValueError("impl='tma' does not take these arrays, or not on this GPU")

    # Pointers: with statistics in the epilogue, larger tiles spill registers
    largest = 128 * 128 if norm is None else 64 * 64
    pointer_configs = tuple(
        c
        for c in configs
        if c["BLOCK_M"] * c["BLOCK_N"] <= largest and _tiles_fit_groups(norm, rows, c["BLOCK_M"])
    )
    if not pointer_configs:
        raise ValueError(
            f"no tile is whole in each of {norm.groups} groups of {rows // norm.groups} rows"
        )
    return "pointer", pick(pointer_configs, shape, multiprocessors, classes)


def _output(size, kernel, stride, pad) -> tuple[int, int]:
    return tuple(output_size(*axis) for axis in zip(size, kernel, pair(stride), pads(pad)))


def _sizes(x, w, y, stride, pad) -> Sizes:
    """Return the kernels' constants from the shapes (N, H, W, C), (K, R, S) and (P, Q)."""
    names = ("N", "H", "W", "C", "K", "R", "S", "P", "Q", "STRIDE_H", "STRIDE_W", "TOP", "LEFT")
    (top, _), (left, _) = pads(pad)
    return dict(zip(names, (*x, *w, *y, *pair(stride), top, left)))


def _without(sizes: Sizes, *names: str) -> Sizes:
    """Return the sizes without those that a tensor descriptor has, and the kernel needs no more."""
    return {name: size for name, size in sizes.items() if name not in names}


def _folded(sizes: Sizes) -> Sizes:
    """Return the sizes of the same convolution with x's channels folded into its width."""
    folded = {name: sizes[name] * sizes["C"] for name in ("W", "S", "STRIDE_W", "LEFT")}
    return sizes | folded | {"C": 1}


def _is_linear(sizes: Sizes) -> bool:
    """Return whether the filters are as large as the image: the convolution is a linear map."""
    H, W, R, S, P, Q, top, left = (
        sizes[name] for name in ("H", "W", "R", "S", "P", "Q", "TOP", "LEFT")
    )
    return (R, S, P, Q, top, left) == (H, W, 1, 1, 0, 0)


def _rows(a: Array | None) -> Array | None:
    """Return each sample as a row."""
    return a if a is None else a.reshape(len(a), -1)


def _like(shape, v: Array | None, norm: Norm) -> list[tuple]:
    """Return the pairs that have to be equal for v and norm to fit an output of `shape`."""
    others = [v] if v is not None else []
    if isinstance(norm, BatchGradStats):
        others.append(norm.z)
    return [(a.shape, shape) for a in others] + ([] if norm is None else [(norm.width, shape[-1])])


def _tiles_fit_groups(norm: Norm, size: int, tile: int) -> bool:
    """Return whether no tile of `tile` of the `size` images or rows reaches over two groups."""
    return norm is None or norm.groups == 1 or size % (norm.groups * tile) == 0


def _saved(norm: Norm, b: Array | None, v: Array | None) -> Array | None:
    """Return the array like the output that the epilogue reads: v, or the z of BatchGradStats."""
    if not isinstance(norm, BatchGradStats):
        return v
    if v is not None or b is not None:
        raise ValueError(
            "with BatchGradStats a convolution is a gradient: it takes neither a bias nor v"
        )
    return norm.z


def _norm_arguments(norm: Norm, tiles_m: int, tiles_n: int, rows: int) -> tuple:
    """Return the arrays of the statistics and their constants for the kernel."""
    return (None, NO_NORM) if norm is None else norm.arguments(tiles_m, tiles_n, rows)
