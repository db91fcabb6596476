"""Specs of linear.py."""

from rawgan.kernels.gemm_config import TABLES
from rawgan.kernels.linear import linear, linear_dw, linear_dx
from rawgan.kernels.specs.spec import PRODUCTS, Axes, Spec
from rawgan.kernels.specs.step_inputs import dropout_reference
from rawgan.kernels.specs.testing import activated_dx, compiles
from rawgan.kernels.tile.dropout import DropoutMask
from rawgan.ops import linear as ops

MASK = DropoutMask(0.5, 3, 1000)


def _spec(wrapper, reference, make, cases, benchmarks, bilinear_reference=None) -> Spec:
    return Spec(
        name=wrapper.__name__,
        wrapper=wrapper,
        reference=reference,
        make=make,
        cases=cases,
        benchmarks=benchmarks,
        traffic=lambda itemsize, N, C, K, **_: itemsize * (N * C + K * C + N * K),
        flops=lambda N, C, K, **_: 2 * N * C * K,
        compiles=(
            *compiles(
                {"N": 1024, "C": 512, "K": 512},
                {"N": 64, "C": 100, "K": 3} if wrapper is linear else None,
            ),
            *_compiles_mlp(wrapper),
        ),
        dtypes=("float32", *PRODUCTS, "float16", "bfloat16"),
        bilinear_reference=bilinear_reference or reference,
    )


_TRAIN = (
    {"N": 128, "C": 100, "K": 16384},
    {"N": 128, "C": 784, "K": 512},
    {"N": 128, "C": 8192, "K": 1},
)


def _reference(x, w, b=None, act=None, v=None, mask=None, state=None):
    y = activated_dx(ops.linear(x, w, b), act, v)
    return y if mask is None else dropout_reference(y, state, *mask)


def _dx_reference(dy, w, act=None, v=None, mask=None, state=None):
    dx = activated_dx(ops.linear_dx(dy, w), act, v)
    return dx if mask is None else dropout_reference(dx, state, *mask)


def _dw_reference(x, dy, bias_rows=None):
    dw = ops.linear_dw(x, dy)
    return dw if bias_rows is None else (dw, dy[:bias_rows].sum(0))


def _compiles_mlp(wrapper):
    """Return the rows of the first layer of the MLP GAN's D: Dropout or db in a split-K sum."""
    options = {"bias_rows": 128} if wrapper is linear_dw else {"mask": MASK, "act": "leaky_relu"}
    case = {"N": 128, "C": 784, "K": 100} | options
    return tuple(
        (dtype, case, {"precision": precision, "config": TABLES[name][-1]})
        for dtype, precision, name in (
            ("bfloat16", "ieee", "half"),
            ("float32", "tf32", "tf32"),
            ("float32", "tf32x3", "tf32x3"),
        )
    )


def _bound(product):
    """Return the bilinear reference: the product, as large as Dropout's scale makes it."""
    return lambda *operands, mask=None, **_: product(*operands) / (1 - mask.p if mask else 1)


def _make(array, N, C, K, bias=False, below=False, **options):
    v = {"v": array(N, K)} if below else {}
    return (array(N, C), array(K, C), *((array(K),) if bias else ())), v | _masked(array, options)


def _make_dx(array, N, C, K, act=None, **options):
    v = {"act": act, "v": array(N, C)} if act else {}
    return (array(N, K), array(K, C)), v | _masked(array, options)


def _masked(array, options):
    """Return the options of a case, with a seed and a step for its mask."""
    if "mask" not in options:
        return options
    state = array(2, dtype="int64")
    state[:] = 2**40 + 5, 7
    return options | {"state": state}


def _matmul_axes(launch) -> Axes:
    c = launch.constants
    axes = {"rows": (c["M"], c["BLOCK_M"]), "columns": (c["N"], c["BLOCK_N"])}
    return axes | {"split-K": (c["K"], c["STEPS"] * c["BLOCK_K"])}


GRID_AXES = {"matmul_kernel": _matmul_axes}

SPECS = (
    _spec(
        linear,
        _reference,
        _make,
        (
            {"N": 37, "C": 100, "K": 70, "bias": True, "act": "leaky_relu"},
            {"N": 1, "C": 17, "K": 1},
            {"N": 64, "C": 64, "K": 64},
            {"N": 5, "C": 700, "K": 3, "bias": True, "act": "sigmoid"},  # in partials
            {"N": 5, "C": 700, "K": 3, "below": True, "act": "leaky_relu"},
            {
                "N": 37,
                "C": 330,
                "K": 70,
                "bias": True,
                "act": "tanh",
                "mask": MASK,
            },  # several tiles along every axis
        ),
        _TRAIN,
        bilinear_reference=_bound(ops.linear),
    ),
    _spec(
        linear_dx,
        _dx_reference,
        _make_dx,
        (
            {"N": 37, "C": 100, "K": 70},
            {"N": 1, "C": 17, "K": 1},
            {"N": 37, "C": 20, "K": 330, "act": "leaky_relu", "mask": MASK},
            {"N": 37, "C": 70, "K": 330},
        ),
        _TRAIN,
        bilinear_reference=_bound(ops.linear_dx),
    ),
    _spec(
        linear_dw,
        _dw_reference,
        lambda array, N, C, K, **options: ((array(N, C), array(N, K)), options),
        (
            {"N": 37, "C": 100, "K": 70},
            {"N": 1, "C": 17, "K": 1},
            {"N": 330, "C": 70, "K": 37},
            {"N": 37, "C": 100, "K": 70, "bias_rows": 30},
            {"N": 330, "C": 70, "K": 37, "bias_rows": 330},  # in partials
        ),
        _TRAIN,
    ),
)
