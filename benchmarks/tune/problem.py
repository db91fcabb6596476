"""One launch of the sweep: its arrays, a call of its wrapper, and the check against float64."""

from collections.abc import Callable

import numpy as np

from rawgan.backend import Array, array_module
from rawgan.kernels import kernels
from rawgan.kernels.gemm_table import GemmKey
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.addresses import address_space
from rawgan.kernels.runtime.launch import cdiv
from rawgan.kernels.specs.spec import PRODUCTS
from rawgan.kernels.specs.testing import activated, activated_dx, float64
from rawgan.kernels.specs.tolerance import kernel_tolerance, loss_of_sum, statistics_tolerance
from rawgan.kernels.tile.batch_stats import BatchGradStats, BatchStats
from rawgan.ops import conv as conv_ops

Make = Callable[..., Array]


def random_arrays(xp) -> Make:
    """Return a function that makes arrays of random numbers on the device of xp."""
    rng = xp.random.default_rng(0)

    def make(*shape: int, dtype: str) -> Array:
        a = rng.standard_normal(shape, dtype="float32")
        return (a.view("uint32") >> 16).astype("uint16") if dtype == "uint16" else a.astype(dtype)

    return make


def no_arrays(*shape: int, dtype: str) -> Array:
    """Return an array without memory, to record a launch without running it."""
    return address_space.empty(np.empty(0), shape, dtype)


def reduced(key: GemmKey) -> GemmKey:
    """Return the launch at a size for Triton's interpreter, of the same geometry and epilogue.

    At most 64 channels, so that TMA takes those that it takes at full size.
    """
    s = dict(key.sizes)
    if "R" not in s:
        sizes = {axis: min(n, 48) for axis, n in s.items()}
        return key._replace(sizes=tuple(sizes.items()))
    if s["P"] * s["Q"] > 1:
        for image, output, filters, stride, first in (
            ("H", "P", "R", "STRIDE_H", "TOP"),
            ("W", "Q", "S", "STRIDE_W", "LEFT"),
        ):
            last = (s[output] - 1) * s[stride] + s[filters] - s[image] - s[first]
            s[image] = min(s[image], 8 + s[image] % 2)
            s[output] = (s[image] + s[first] + last - s[filters]) // s[stride] + 1
    channels = {axis: 64 if s[axis] % 64 == 0 else min(s[axis], 20) for axis in "CK"}
    # Rows of a GEMM: 32 in each group of samples, a tile, and 64 in all, as TMA needs them, where
    # the launch has as many
    if key.operation == "conv2d_dx":
        pixels = cdiv(s["H"], s["STRIDE_H"]) * cdiv(s["W"], s["STRIDE_W"])
    else:
        pixels = s["P"] * s["Q"]
    images = key.groups * max(4, cdiv(32, pixels), cdiv(64, pixels * key.groups))
    images = min(images, s["N"])
    return key._replace(sizes=tuple((s | channels | {"N": images}).items()))


class Problem:
    """The arrays of a launch. make(*shape, dtype=) makes them: random_arrays, or no_arrays."""

    def __init__(self, key: GemmKey, make: Make):
        self.key, self.sizes = key, dict(key.sizes)
        half = key.products in ("bfloat16", "float16")
        self.dtype = {"bfloat16": "uint16"}.get(key.products, key.products) if half else "float32"
        self.precision = "ieee" if half else key.products
        a, b, y = self.shapes()
        self.a, self.b = (make(*shape, dtype=self.dtype) for shape in (a, b))
        words = key.epilogue.split("+")
        self.act = next((w for w in words if w not in ("none", "bias", "partials", *NORMS)), None)
        self.norm = next((w for w in words if w in NORMS), None)
        self.bias = make(y[-1], dtype="float32") if "bias" in words else None
        self.v = self.z = self.stats = None
        if self.act and self.act.endswith("_dx"):
            self.act, self.v = self.act[: -len("_dx")], make(*y, dtype=self.dtype)
        if self.norm == "batch_stats":
            self.vectors = [make(y[-1], dtype="float32") for _ in range(4)]
        if self.norm == "batch_grad_stats":
            self.z, self.stats = (
                make(*y, dtype=self.dtype),
                make(5, key.groups, y[-1], dtype="float32"),
            )
            if (
                make is not no_arrays
            ):  # shift 0: act' depends on the sign of z alone, which is exact
                self.stats[4] = 0

    def shapes(self) -> tuple[tuple, tuple, tuple]:
        """Return the shapes of the operands and of the output."""
        s = self.sizes
        if "R" not in s:
            x, w, y = (s["N"], s["C"]), (s["K"], s["C"]), (s["N"], s["K"])
        else:
            x, w, y = (tuple(s[n] for n in names) for names in ("NHWC", "KRSC", "NPQK"))
        return {"": (x, w, y), "_dx": (y, w, x), "_dw": (x, y, w)}[self.kind]

    @property
    def kind(self) -> str:
        """Return "", "_dx" or "_dw"."""
        return self.key.operation.removeprefix("conv2d").removeprefix("linear")

    @property
    def geometry(self) -> tuple:
        """Return the arguments of a convolution after its operands."""
        s = self.sizes
        stride = s["STRIDE_H"], s["STRIDE_W"]
        pads = []
        for image, output, filters, step, first in (
            ("H", "P", "R", "STRIDE_H", "TOP"),
            ("W", "Q", "S", "STRIDE_W", "LEFT"),
        ):
            last = (s[output] - 1) * s[step] + s[filters] - s[image] - s[first]
            pads.append((s[first], max(last, 0)))
        between = {"": (), "_dx": ((s["H"], s["W"]),), "_dw": ((s["R"], s["S"]),)}[self.kind]
        return *between, stride, tuple(pads)

    def run(self, impl: str | None = None, config: launch.Config | None = None) -> list[Array]:
        """Call the wrapper; return the output, or the partial sums, and the statistics."""
        operation, norm = getattr(kernels, self.key.operation), None
        options = {"precision": self.precision, "config": config}
        if self.kind == "_dw" and "partials" in self.key.epilogue:
            options["partials"] = True
        if self.kind != "_dw":
            options |= {"act": self.act, "v": self.v}
        if "R" not in self.sizes:
            options |= {"b": self.bias} if self.bias is not None else {}
            return [operation(self.a, self.b, **options)]
        if self.norm == "batch_stats":
            norm = BatchStats(*self.vectors, groups=self.key.groups)
        if self.norm == "batch_grad_stats":
            norm = BatchGradStats(self.z, self.stats)
        options |= {"impl": impl} | ({"norm": norm} if norm else {})
        if self.kind == "":
            y = operation(self.a, self.b, self.bias, *self.geometry, **options)
        else:
            options |= {"b": self.bias} if self.bias is not None else {}
            y = operation(self.a, self.b, *self.geometry, **options)
        if norm is None:
            return [y]
        return [y, norm.stats] if self.z is None else [y, norm.means, norm.dgamma, norm.dbeta]

    def product(self, a: Array, b: Array) -> Array:
        """Return the product alone, in NumPy."""
        if "R" in self.sizes:
            reference = getattr(conv_ops, self.key.operation)
            bias = (None,) if self.kind == "" else ()
            return reference(a, b, *bias, *self.geometry)
        return {"": lambda: a @ b.T, "_dx": lambda: a @ b, "_dw": lambda: b.T @ a}[self.kind]()

    def expected(self) -> list[tuple[Array, Array]]:
        """Return (value in float64, allowed error) of each output of `run`."""
        a, b = float64(self.a), float64(self.b)
        total, bound = self.product(a, b), self.product(abs(a), abs(b))
        terms = self.product(a * 0 + 1, b * 0 + 1)
        name = {"tf32x3": "float32", "ieee": "float32"}.get(self.key.products, self.key.products)
        held = "float32" if self.key.epilogue == "partials" else name
        held = name if name in PRODUCTS else held
        if self.bias is not None:
            total = total + float64(self.bias)
        loss = loss_of_sum(name, int(terms.max()))
        if self.z is not None:
            return self.expected_sums(total, bound, terms, held, loss)
        v = None if self.v is None else float64(self.v)
        value = activated_dx(total, self.act, v) if v is not None else activated(total, self.act)
        # act' of the values of v, at most 1 where they are outputs of act
        slope = 1.0 if v is None else abs(activated_dx(total * 0 + 1, self.act, v)).clip(1.0)
        outputs = [(value, slope * kernel_tolerance(held, value, bound, terms))]
        if self.norm == "batch_stats":
            parts = value.reshape(self.key.groups, -1, value.shape[-1])
            mean, var = parts.mean(1), parts.var(1)
            gamma, beta = (float64(a) for a in self.vectors[:2])
            rstd = (var + 1e-5) ** -0.5
            rows = mean, var, rstd, gamma * rstd, beta - mean * gamma * rstd
            stats = array_module(value).stack(rows)
            outputs.append((stats, statistics_tolerance(stats, loss)))
        return outputs

    def expected_sums(self, total, bound, terms, held: str, loss: float) -> list[tuple]:
        """Return value and allowed error of the outputs with BatchGradStats."""
        mean, _, rstd, scale, shift = float64(self.stats)[:, :, None]
        groups, K = len(mean), total.shape[-1]
        z = float64(self.z).reshape(groups, -1, K)
        p, zhat = scale * z + shift, (z - mean) * rstd
        v = activated(p, self.act) if self.act in ("tanh", "sigmoid") else p
        dp = activated_dx(total.reshape(p.shape), self.act, v)
        sums = dp.sum(1), (dp * zhat).sum(1)
        means = array_module(dp).stack(sums) / p.shape[1]
        allowed = kernel_tolerance(held, dp.reshape(total.shape), bound, terms)
        outputs = [(dp.reshape(total.shape), allowed)]
        for value in (means, sums[1].sum(0), sums[0].sum(0)):
            error = kernel_tolerance(held if held in PRODUCTS else "float32", value)
            outputs.append((value, error + loss * (abs(value) + abs(value).max())))
        return outputs

    def check(self, outputs: list[Array], expected: list[tuple[Array, Array]]) -> None:
        """Raise ArithmeticError unless every output is within its allowed error."""
        for i, (got, (want, allowed)) in enumerate(zip(outputs, expected, strict=True)):
            value = float64(got)
            if i == 0 and self.key.epilogue == "partials":
                value = value.sum(0)
            error = abs(value.reshape(want.shape) - want)
            wrong = ~(error <= allowed)  # true for NaN
            if wrong.any():
                worst = float((error / allowed).max())
                raise ArithmeticError(
                    f"output {i}: {int(wrong.sum())} of {wrong.size} entries are wrong, "
                    f"the worst by {worst:.3g} times its allowed error"
                )


NORMS = ("batch_stats", "batch_grad_stats")
