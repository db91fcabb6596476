"""Specs of conv.py."""

from math import prod

from rawgan.kernels.conv import conv2d, conv2d_dw, conv2d_dx
from rawgan.kernels.gemm_config import small_config
from rawgan.kernels.runtime.launch import cdiv
from rawgan.kernels.specs.spec import EXACT, PRODUCTS, Axes, Spec
from rawgan.kernels.specs.testing import activated_dx, compiles
from rawgan.ops import conv as ops
from rawgan.ops.conv import output_size, pads, pair


def _output(size, kernel, stride, pad) -> tuple[int, int]:
    return tuple(output_size(*axis) for axis in zip(size, kernel, pair(stride), pads(pad)))


def _make(names: str):
    """Return a maker of arguments: the arrays of "xwy" that `names` lists, then the geometry."""

    def make(
        array,
        N,
        H,
        W,
        C,
        K,
        R,
        S,
        stride,
        pad,
        bias=False,
        below=False,
        act=None,
        impl=None,
        config=None,
    ):
        P, Q = _output((H, W), (R, S), stride, pad)
        shapes = {"x": (N, H, W, C), "w": (K, R, S, C), "y": (N, P, Q, K)}
        arrays = [array(*shapes[name]) for name in names]
        keywords = {"act": act, "impl": impl, "config": config}
        keywords = {name: value for name, value in keywords.items() if value}
        keywords |= {"v": array(*shapes["y" if names == "xw" else "x"])} if below else {}
        if names == "xw":
            return (*arrays, array(K) if bias else None, stride, pad), keywords
        if names == "yw":
            return (*arrays, (H, W), stride, pad), keywords | ({"b": array(C)} if bias else {})
        return (*arrays, (R, S), stride, pad), keywords

    return make


def _traffic(itemsize, N, H, W, C, K, R, S, stride, pad, **_):
    P, Q = _output((H, W), (R, S), stride, pad)
    return itemsize * (N * H * W * C + K * R * S * C + N * P * Q * K)


def _flops(N, H, W, C, K, R, S, stride, pad, **_):
    P, Q = _output((H, W), (R, S), stride, pad)
    return 2 * N * P * Q * K * R * S * C


def _case(N, H, W, C, K, R, S, stride, pad, **keywords):
    return {
        "N": N,
        "H": H,
        "W": W,
        "C": C,
        "K": K,
        "R": R,
        "S": S,
        "stride": stride,
        "pad": pad,
        **keywords,
    }


def _tma_cases(C, K):
    """Cases of impl="tma" with several tiles along every axis, ragged along one of them."""
    return tuple(
        _case(N, H, W, C, K, R, R, 2, R // 3, impl="tma", config=small_config(pixels, 64))
        for N, H, W, R, pixels in ((7, 6, 8, 2, 32), (3, 12, 8, 2, 16), (2, 4, 40, 3, 16))
    )


DCGAN64 = (
    (64, 3, 64),
    (32, 64, 128),
    (16, 128, 256),
    (8, 256, 512),
)  # the discriminator's layers: size, C, K
LARGE, SMALL_C = _case(128, 16, 16, 128, 256, 4, 4, 2, 1), _case(128, 64, 64, 3, 64, 4, 4, 2, 1)
BELOW = {"below": True, "act": "leaky_relu"}
TANH = {"bias": True, "act": "tanh"}


def _spec(wrapper, names, form, reference=None, extra=()) -> Spec:
    name = wrapper.__name__
    small_c = ("conv2d_dx_small_c_kernel",) if wrapper is conv2d_dx else ()
    return Spec(
        name=name,
        wrapper=wrapper,
        reference=reference or form,
        make=_make(names),
        cases=(
            _case(3, 9, 7, 5, 6, 3, 2, (2, 3), ((1, 2), (0, 1))),
            _case(1, 5, 6, 1, 1, 2, 5, 1, (0, 2)),
            _case(5, 4, 4, 33, 1, 4, 4, 1, 0),
            _case(2, 11, 7, 3, 17, 2, 1, 3, 0),
            _case(2, 8, 8, 64, 64, 4, 4, 2, 1, impl="pointer"),
            _case(4, 8, 8, 64, 64, 4, 4, 2, 1),  # these two with TMA
            _case(3, 14, 14, 64, 64, 3, 2, (2, 1), ((1, 1), (0, 1))),
            *extra,
        ),
        benchmarks=tuple(_case(128, size, size, c, k, 4, 4, 2, 1) for size, c, k in DCGAN64),
        traffic=_traffic,
        flops=_flops,
        compiles=compiles(LARGE, SMALL_C, ("pointer", "tma"))
        + ((("bfloat16", LARGE | BELOW, {}),) if wrapper is not conv2d_dw else ()),
        dtypes=("float32", *PRODUCTS, "float16", "bfloat16"),
        bilinear_reference=form,
        implementations=(f"{name}_kernel", f"{name}_tma_kernel", "matmul_kernel", *small_c),
    )


def _conv2d_bilinear(x, w, b=None, stride=1, pad=0, act=None, v=None, impl=None, config=None):
    return ops.conv2d(x, w, b, stride, pad)


def _conv2d_reference(x, w, b=None, stride=1, pad=0, act=None, v=None, impl=None, config=None):
    return activated_dx(ops.conv2d(x, w, b, stride, pad), act, v)


def _conv2d_dx_bilinear(dy, w, size, stride, pad, act=None, v=None, b=0, impl=None, config=None):
    return ops.conv2d_dx(dy, w, size, stride, pad) + b


def _conv2d_dx_reference(dy, w, size, stride, pad, act=None, v=None, b=0, impl=None, config=None):
    return activated_dx(ops.conv2d_dx(dy, w, size, stride, pad) + b, act, v)


def _conv2d_dw_bilinear(x, dy, kernel, stride, pad, impl=None, config=None):
    return ops.conv2d_dw(x, dy, kernel, stride, pad)


def statistics_axes(constants: dict, tiles: int) -> Axes:
    """Axes of groups with separate statistics, and of the tiles that the last program merges."""
    if constants["NORM"] is None:
        return {}
    groups = constants["GROUPS"]
    return {"groups": (groups, EXACT), "tiles of a group": (tiles // groups, EXACT)}


def _count(axes: Axes) -> int:
    """Return the number of tiles along all axes."""
    return prod(cdiv(*axis) for axis in axes.values())


def _classes(c: dict) -> tuple[int, int, int]:
    """Return height and width of a residue class of pixels of conv2d_dx, and their number."""
    height, width = cdiv(c["H"], c["STRIDE_H"]), cdiv(c["W"], c["STRIDE_W"])
    return height, width, c["STRIDE_H"] * c["STRIDE_W"]


def _pixel_axes(c: dict, images: int, height: int, width: int) -> Axes:
    """Axes of TMA tiles of TILE_N images x TILE_P rows x TILE_Q columns of pixels."""
    return {
        "images": (images, c["TILE_N"]),
        "image rows": (height, c["TILE_P"]),
        "image columns": (width, c["TILE_Q"]),
    }


def _conv2d_axes(launch) -> Axes:
    c = launch.constants
    rows = c["N"] * c["P"] * c["Q"], c["BLOCK_M"]
    axes = {"rows": rows, "columns": (c["K"], c["BLOCK_N"])}
    return axes | statistics_axes(c, cdiv(*rows))


def _conv2d_dx_axes(launch) -> Axes:
    c = launch.constants
    height, width, classes = _classes(c)
    rows = c["N"] * height * width, c["BLOCK_M"]
    axes = {"rows": rows, "columns": (c["C"], c["BLOCK_N"]), "stride classes": (classes, EXACT)}
    return axes | statistics_axes(c, cdiv(*rows) * classes)


def _conv2d_dx_small_c_axes(launch) -> Axes:
    c = launch.constants
    height, width = (cdiv(c[n], c["FACTOR"] * c[f"STRIDE_{n}"]) for n in "HW")
    return {"rows": (c["N"] * height * width, c["BLOCK_M"])}


def _conv2d_dw_axes(launch) -> Axes:
    c = launch.constants
    axes = {"rows": (c["K"], c["BLOCK_M"]), "columns": (c["R"] * c["S"] * c["C"], c["BLOCK_N"])}
    return axes | {"split-K": (c["N"] * c["P"] * c["Q"], c["STEPS"] * c["BLOCK_K"])}


def _conv2d_tma_axes(launch) -> Axes:
    c = launch.constants
    rows = _pixel_axes(c, c["N"], c["P"], c["Q"])
    return rows | {"columns": (c["K"], c["BLOCK_N"])} | statistics_axes(c, _count(rows))


def _conv2d_dx_tma_axes(launch) -> Axes:
    c = launch.constants
    height, width, classes = _classes(c)
    rows = _pixel_axes(c, c["N"], height, width) | {"stride classes": (classes, EXACT)}
    columns = c["C"] // c["BLOCK_N"]  # C is a multiple of BLOCK_N
    return rows | {"columns": (columns, EXACT)} | statistics_axes(c, _count(rows))


def _conv2d_dw_tma_axes(launch) -> Axes:
    c, x = launch.constants, launch.arguments[0]
    steps = _count(_pixel_axes(c, x.shape[0], c["P"], c["Q"]))  # a tile of pixels each
    columns = c["R"] * c["S"] * c["C"] // c["BLOCK_N"]  # C is a multiple of BLOCK_N
    axes = {"rows": (c["K"], c["BLOCK_M"]), "columns": (columns, EXACT)}
    return axes | {"split-K": (steps, c["STEPS"])}


GRID_AXES = {
    "conv2d_kernel": _conv2d_axes,
    "conv2d_dx_kernel": _conv2d_dx_axes,
    "conv2d_dx_small_c_kernel": _conv2d_dx_small_c_axes,
    "conv2d_dw_kernel": _conv2d_dw_axes,
    "conv2d_tma_kernel": _conv2d_tma_axes,
    "conv2d_dx_tma_kernel": _conv2d_dx_tma_axes,
    "conv2d_dw_tma_kernel": _conv2d_dw_tma_axes,
}

SPECS = (
    _spec(
        conv2d,
        "xw",
        _conv2d_bilinear,
        _conv2d_reference,
        (
            _case(2, 7, 7, 8, 9, 3, 3, 2, 1, **TANH),
            _case(1, 16, 16, 32, 64, 4, 4, 2, 1, **BELOW),
            _case(
                7, 9, 9, 5, 40, 3, 3, (2, 1), 1
            ),  # from here on, several tiles along every axis, the last ragged
            _case(37, 4, 4, 20, 40, 4, 4, 1, 0),
            *_tma_cases(32, 96),
        ),
    ),
    _spec(
        conv2d_dx,
        "yw",
        _conv2d_dx_bilinear,
        _conv2d_dx_reference,
        (
            _case(2, 8, 8, 3, 16, 4, 4, 2, 1, **TANH),
            _case(2, 7, 6, 1, 33, 5, 5, 1, 2, bias=True),
            _case(2, 9, 7, 2, 5, 3, 3, (1, 2), ((0, 1), (1, 1)), **BELOW),
            _case(1, 16, 16, 64, 64, 4, 4, 2, 1, **BELOW),
            _case(7, 9, 9, 40, 5, 3, 3, (2, 1), 1),
            _case(9, 14, 14, 3, 9, 4, 4, 2, 1),
            _case(37, 4, 4, 3, 330, 4, 4, 1, 0),
            _case(37, 4, 3, 20, 40, 4, 3, 1, 0, bias=True),  # one pixel of dy
            *_tma_cases(128, 32),
        ),
    ),
    _spec(
        conv2d_dw,
        "xy",
        _conv2d_dw_bilinear,
        extra=(
            _case(5, 11, 11, 3, 4, 3, 3, 1, 1),  # a sum in several partials
            _case(330, 4, 4, 3, 37, 4, 4, 1, 0),
            _case(19, 8, 8, 64, 80, 2, 2, 2, 0, impl="tma", config=small_config(32, 64)),
            _case(7, 9, 9, 5, 40, 3, 3, (2, 1), 1, config=small_config(32, 32)),
        ),
    ),
)
