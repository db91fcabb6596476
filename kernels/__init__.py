"""Triton kernels, one file per operation of rawgan/ops, each wrapper under the name of its reference.

    from rawgan.kernels import kernels
    y = kernels.conv2d(x, w, b, stride=2, pad=1)

Importing this package reads no device and imports neither Triton nor CuPy nor PyTorch; the first use of a kernel imports Triton.
How to add a kernel: README.md beside this file.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from rawgan.errors import UserError


@cache
def specs() -> dict:
    """{name: Spec} of every kernel: the SPECS at the bottom of each file of this folder."""
    try:
        modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise UserError(
            "the kernels need Triton, which is not installed here; install triton, or compute without kernels"
        ) from None
    return {spec.name: spec for module in modules for spec in getattr(module, "SPECS", ())}


class Kernels:
    """The wrappers as attributes, each looked up when it is first used."""

    def __getattr__(self, name: str):
        if name.startswith("_") or name not in specs():
            raise AttributeError(f"there is no kernel {name!r}")
        setattr(self, name, specs()[name].wrapper)
        return getattr(self, name)


kernels = Kernels()
