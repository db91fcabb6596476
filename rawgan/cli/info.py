"""rawgan info: what this machine can do, and what there is to train."""

import platform
import warnings
from importlib.metadata import PackageNotFoundError, version

import numpy as np

import rawgan
from rawgan.backend import choose_device
from rawgan.layers import parameter_count
from rawgan.models.recipes import RECIPES
from rawgan.random import Random


def command():
    """Says what is installed, where it would compute and why not elsewhere, and lists the recipes with their parameter counts."""
    device = choose_device()
    packages = ", ".join(f"{name} {installed(name)}" for name in ("numpy", "cupy-cuda12x", "triton", "safetensors", "pillow"))
    print(f"rawgan {rawgan.__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"packages: {packages}\n")
    for path, state in paths(device).items():
        print(f"{path:16} {state}")
    print(f"\n{'recipe':16} {'G':>10} {'D':>10}  {'image':>9}  source")
    for recipe in RECIPES.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of penalties that couple samples: training says it
            gan = recipe.build(Random(0))
        G, D = parameter_count(gan.generator), parameter_count(gan.discriminator)
        image = f"{recipe.size}x{recipe.size}x{recipe.channels}"
        print(f"{recipe.name:16} {G:>10,} {D:>10,}  {image:>9}  {recipe.source}")


def installed(package: str) -> str:
    """The version of a package, or that it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def paths(device) -> dict[str, str]:
    """The ways to compute, and for each whether it is there or why not."""
    gpu = device.name == "gpu"
    triton = installed("triton")
    if triton == "not installed":
        kernels = "not available: Triton is not installed"
    elif gpu:
        kernels = f"available with Triton {triton}, inside rawgan.backend.use_kernels(); rawgan train does not enter it yet"
    else:
        kernels = (
            f"not available: Triton {triton} is there, but they need CuPy and a GPU; here they run in its interpreter, for tests"
        )
    return {
        "NumPy": f"available, NumPy {np.__version__} on the CPU",
        "CuPy": f"available: {device.why}" if gpu else f"not available: {device.why}",
        "Triton kernels": kernels,
    }
