"""Resolve --path and --precision: what computes the steps on a device, in which precision, and why.

planned   the whole step as a fixed list of fused Triton kernels, in CUDA graphs: auto on a GPU
kernels   each operation as its own Triton kernel
arrays    each operation in NumPy or CuPy: auto without a GPU, or where a step cannot be planned
"""

from typing import NamedTuple

from rawgan.backend import Device, choose_device, without_gpu
from rawgan.errors import UserError
from rawgan.models.recipe import Recipe
from rawgan.training.options import Options

BF16_CAPABILITY = 80  # the least compute capability whose tensor cores multiply bfloat16


class Choice(NamedTuple):
    """A resolved path and precision, the device it computes on, and why it was chosen."""

    path: str
    precision: str
    device: Device
    reason: str

    def __str__(self):
        return f"{self.path} in {self.precision} with {self.device.library} ({self.reason})"


def requested_device(options: Options) -> Device:
    """Return the device of --device, with Triton kernels where --path asks for them.

    Raises UserError where the path or the precision cannot be computed on it.
    """
    device = choose_device(options.device, options.path in ("planned", "kernels"))
    if options.precision not in ("auto", "fp32") and device.name == "cpu":
        if device.kernels:
            reason = f"Triton's interpreter does not round as {options.precision} does"
        else:
            reason = without_gpu(device)
        raise UserError(f"--precision {options.precision} needs a GPU, but {reason}")
    return device


def choose_path(
    path: str,
    precision: str,
    recipe: Recipe,
    device: Device,
    reason: str = "as requested",
    refusal: str = "",
) -> Choice:
    """Return what --path and --precision stand for on a device that requested_device returned.

    auto is the planned step on a GPU, else the array path, also where Triton cannot run or the step
    cannot be planned, as `refusal` says. `reason` is that of any other path. Raises
    UserError for a precision that the array path does not have.
    """
    if path == "planned":
        precision, remark = planned_precision(precision, recipe, device)
        return Choice(path, precision, device, reason + remark)
    if path != "auto":
        remark = slower(device) if path == "arrays" else ""
        return Choice(path, "fp32", device, reason + remark)
    try:
        if device.name == "cpu":
            raise UserError("the planned step needs a GPU")
        if refusal:
            raise UserError(refusal)
        fast = choose_device("gpu", kernels=True)
    except UserError as error:
        if precision not in ("auto", "fp32"):
            raise UserError(
                f"--precision {precision} goes with the planned step, which is refused: {error}"
            ) from error
        return Choice("arrays", "fp32", device, f"auto{slower(device)}: {error}")
    precision, remark = planned_precision(precision, recipe, fast)
    return Choice("planned", precision, fast, f"auto, the fastest path on a GPU{remark}")


def planned_precision(requested: str, recipe: Recipe, device: Device) -> tuple[str, str]:
    """Return the precision of a planned step and a remark for auto.

    auto is bf16 where GPU and recipe allow it, else fp32.
    """
    has = f"{device.capability // 10}.{device.capability % 10}"
    if requested != "auto":
        return requested, ""
    if device.name == "cpu":
        return "fp32", "; Triton's interpreter computes in float32"
    if device.capability < BF16_CAPABILITY:
        return "fp32", f"; bf16 needs compute capability 8.0 and this GPU has {has}"
    if not recipe.bf16:
        return "fp32", f"; the recipe {recipe.name} excludes bf16"
    return "bf16", f"; compute capability {has} multiplies in bf16"


def slower(device: Device) -> str:
    """Return the remark that the array path gets on a GPU."""
    return ", slower on a GPU than planned" if device.name == "gpu" else ""
