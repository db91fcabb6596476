"""The array path on a simulated GPU: results, number of launches, and tracing by cupy.fuse."""

from inspect import signature
from types import FunctionType

import numpy as np
import pytest

from benchmarks.steps.launches import CountingArray, count_step, counting_gpu
from rawgan import backend, losses, optim
from rawgan.backend import CPU
from rawgan.layers import state
from rawgan.models.recipes import RECIPES
from rawgan.ops import act, norm
from rawgan.random import Random
from tests.support.reference import assert_close

SIZES = {"dcgan": 16, "wgan": 16, "wgan_gp": 16, "cgan": 16}


def trained(recipe, device, steps=2):
    """Return metrics and weights after some steps in float64."""
    random, rng = Random(0), np.random.default_rng(1)
    size = SIZES.get(recipe.name, 28)
    gan = recipe.build(random, size, 1, 8, device, np.float64)
    metrics = {}
    for _ in range(steps):
        reals = [rng.uniform(-1, 1, (4, size, size, 1)) for _ in range(2)]
        zs = [
            recipe.draw_z(rng, 4).astype(np.float64) for _ in range(2 + recipe.schedule.resample_z)
        ]
        if recipe.schedule.order != "discriminator_first":
            reals, zs = reals[:1], zs[:1]
        batches = [[device.asarray(a) for a in arrays] for arrays in (reals, zs)]
        if recipe.classes:
            batches = [[(a, device.asarray(np.arange(4))) for a in arrays] for arrays in batches]
        metrics = gan.train_step(*batches)
    weights = {
        f"{who} {name}": a
        for who in ("generator", "discriminator")
        for name, a in state(getattr(gan, who)).items()
    }
    return {name: backend.to_host(a) for name, a in (metrics | weights).items()}


@pytest.mark.filterwarnings("ignore:raschka_wgan_gp")
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_as_on_the_cpu(name):
    """Every recipe trains as on the CPU with arrays that act as CuPy's.

    NumPy functions refuse them, and they do not convert implicitly.
    """
    want = trained(RECIPES[name], CPU)
    with counting_gpu() as device:
        got = trained(RECIPES[name], device)
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert_close(got[key], value, key, scale=max(1, abs(value).max()))


def test_launches_of_a_step():
    """A DCGAN step has at most the launches that docs/performance.md states.

    Without fused functions and phases in the transposed convolution there were 895.
    """
    counts = count_step("dcgan", 16, 32)
    assert counts.total() <= 340
    fused = sum(n for (_, operation), n in counts.items() if operation.startswith("fused"))
    assert 50 <= fused
    assert not any(operation in ("to the host", "from the host") for _, operation in counts)
    assert (
        sum(n for (place, _), n in counts.items() if place.startswith("optim")) == 6
    )  # theta, m, v are written back, for both networks


# arguments of each fused function: x an array, v a number per channel, n a number
CASES = {
    "affine": "xvv", "standardize": "xvv", "_minus": "xxvvv", "inverse_root": "vn", "moved": "vvn",
    "_to_label": "xnn",
    "adam_step": "xxxxnnnnnn", "rmsprop_step": "xxxnnnn",
}  # fmt: skip
CASES |= {  # activations: arrays of one shape, and numbers
    name: "".join("n" if p.annotation is float else "x" for p in signature(f).parameters.values())
    for name, f in vars(act).items()
    if hasattr(f, "__wrapped__")
}


def fused_functions():
    for module in (act, norm, losses, optim):
        for name, value in vars(module).items():
            if (
                isinstance(value, FunctionType)
                and value.__module__ == module.__name__
                and hasattr(value, "__wrapped__")
            ):
                yield name, value


def test_every_fused_function_has_a_case():
    assert {name for name, _ in fused_functions()} == CASES.keys()


@pytest.mark.parametrize("name, function", [*fused_functions()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cupy_fuses(name, function, dtype, monkeypatch):
    """cupy.fuse traces each function into one kernel in the dtype of its arrays.

    A GPU is needed only to launch it.
    """
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if backend._cupy()[0] is not None:
        pytest.skip(
            "arrays without memory would be computed with: here a GPU runs the layers' tests"
        )
    monkeypatch.setattr(backend, "_cupy", lambda: (cupy, ""))
    unowned = cupy.cuda.memory.UnownedMemory(2**20, 2**10, None, device_id=0)
    kinds = {"x": (4, 3), "v": (3,)}
    arguments = [
        np.dtype(dtype).type(0.5)
        if kind == "n"
        else cupy.ndarray(kinds[kind], dtype, cupy.cuda.memory.MemoryPointer(unowned, 0))
        for kind in CASES[name]
    ]
    fused = cupy.fuse(function.__wrapped__)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):  # from the launch
        fused(*arguments)
    ((kernel, _),) = fused._memo.values()
    outputs = [
        parameter
        for parameter in kernel.params
        if not parameter.is_const and parameter.dtype is not None
    ]
    assert outputs and {parameter.dtype for parameter in outputs} == {np.dtype(dtype)}
    if dtype == "float32":
        assert "double" not in kernel.operation


def test_functions_of_numpy_are_refused():
    with counting_gpu() as device, pytest.raises(TypeError, match="CuPy would refuse"):
        x = device.asarray(np.ones(3))
        assert isinstance(x, CountingArray)
        np.concatenate([x, x])
