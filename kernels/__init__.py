"""Triton kernels: one wrapper per operation, under the name of its reference in rawgan/ops.

    from rawgan.kernels import kernels
    y = kernels.conv2d(x, w, b, stride=2, pad=1)

The class Kernels is the table of wrappers and their files. Importing this package reads no device
and imports neither Triton nor CuPy; the first use of a kernel imports its file, and Triton. How to
add a kernel: README.md in this folder.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType

from rawgan.errors import UserError


def _import(module: str) -> ModuleType:
    """Return the module rawgan.kernels.`module`. Raise UserError where Triton is not installed."""
    try:
        return import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise UserError(
            "the kernels need Triton, which is not installed here; install triton, or compute "
            "without kernels"
        ) from None


class LazyImport:
    """Class attribute that is a function of the same name in a file of kernels/.

    The first access imports the file and stores the function on the instance, where every later
    access finds it.
    """

    def __init__(self, module: str):
        self.module = module

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Callable:
        wrapper = getattr(_import(self.module), self.name)
        vars(instance)[self.name] = wrapper
        return wrapper


class Kernels:
    """The wrappers as attributes. LazyImport("act") is the function in act.py."""

    acgan_step = LazyImport("acgan")
    relu = LazyImport("act")
    tanh = LazyImport("act")
    sigmoid = LazyImport("act")
    softplus = LazyImport("act")
    relu_dx = LazyImport("act")
    tanh_dx = LazyImport("act")
    sigmoid_dx = LazyImport("act")
    softplus_dx = LazyImport("act")
    tanh_dx2 = LazyImport("act")
    sigmoid_dx2 = LazyImport("act")
    softplus_dx2 = LazyImport("act")
    leaky_relu = LazyImport("act")
    leaky_relu_dx = LazyImport("act")
    augment = LazyImport("augment")
    augment_dx = LazyImport("augment")
    augment_ddy = LazyImport("augment")
    batchnorm_infer_act = LazyImport("batchnorm")
    batchnorm_infer_dx = LazyImport("batchnorm")
    conv2d = LazyImport("conv")
    conv2d_dx = LazyImport("conv")
    conv2d_dw = LazyImport("conv")
    discriminator_head = LazyImport("discriminator_head")
    moving_average = LazyImport("ema")
    head_gradient = LazyImport("head_gradient")
    step_labels = LazyImport("labels")
    condition = LazyImport("labels")
    condition_dx = LazyImport("labels")
    plane = LazyImport("labels")
    plane_dw = LazyImport("labels")
    linear = LazyImport("linear")
    linear_dx = LazyImport("linear")
    linear_dw = LazyImport("linear")
    bce_discriminator = LazyImport("loss")
    bce_generator = LazyImport("loss")
    least_squares_discriminator = LazyImport("loss")
    least_squares_generator = LazyImport("loss")
    wasserstein_discriminator = LazyImport("loss")
    wasserstein_generator = LazyImport("loss")
    hinge_discriminator = LazyImport("loss")
    relativistic_pairs = LazyImport("loss")
    relativistic_average = LazyImport("loss")
    mean_score = LazyImport("loss")
    mean_probability = LazyImport("loss")
    cross_entropy = LazyImport("loss")
    acgan_discriminator = LazyImport("loss")
    acgan_generator = LazyImport("loss")
    bias_db = LazyImport("norm")
    mean = LazyImport("norm")
    affine = LazyImport("norm")
    standardize = LazyImport("norm")
    normalize = LazyImport("norm")
    normalize_dx = LazyImport("norm")
    normalize_dx2 = LazyImport("norm")
    adam = LazyImport("optimizers")
    rmsprop = LazyImport("optimizers")
    sum_partials = LazyImport("optimizers")
    squared_norms = LazyImport("penalty")
    wgan_gp_value = LazyImport("penalty")
    r1_value = LazyImport("penalty")
    scale_samples = LazyImport("penalty")
    interpolate = LazyImport("penalty")
    penalty_step = LazyImport("penalty")
    critic_inputs = LazyImport("penalty")
    critic_pairs = LazyImport("penalty")
    step_inputs = LazyImport("step_inputs")
    dropout = LazyImport("step_inputs")


kernels = Kernels()


@cache
def all_specs() -> dict:
    """Return {name: Spec} of every kernel. Raise UserError where Triton is not installed.

    Each file in the table of Kernels has its Specs in the file of the same name in specs/.
    """
    files = sorted({entry.module for entry in vars(Kernels).values() if type(entry) is LazyImport})
    table = {}
    for spec in (spec for file in files for spec in _import(f"specs.{file}").SPECS):
        if spec.name in table:
            raise ValueError(f"several Specs have the name {spec.name}")
        table[spec.name] = spec
    return table
