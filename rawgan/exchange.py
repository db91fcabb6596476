"""Conversion of networks and weights to PyTorch and ONNX, with images in (N, C, H, W).

Networks in rawgan use (N, H, W, C) with weights (K, R, S, C). `modules` maps each layer to the
torch.nn module that computes the same on (N, C, H, W), and describes how each of its tensors is
permuted:

    convolution, also transposed   (K, R, S, C) -> (K, C, R, S)
    linear                         (K, C) unchanged, unless its rows or columns are the pixels of
                                   an image that is flattened before or unflattened after it:
                                   these are permuted from the order H, W, C to C, H, W, and so
                                   are the channels of a BatchNorm in between

PyTorch is not needed. The package onnx is needed only to export ONNX.
"""

from dataclasses import dataclass, field

import numpy as np

from rawgan import layers
from rawgan.errors import UserError
from rawgan.layers import Sequential

Arrays = dict[str, np.ndarray]
NAMES = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}


@dataclass
class Entry:
    """Mapping between a rawgan parameter and a PyTorch tensor.

    PyTorch's tensor is our parameter `ours` with its rows and columns permuted, then its axes
    transposed. None leaves them as they are.
    """

    ours: str
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    axes: tuple[int, ...] | None = None

    def theirs(self, a: np.ndarray) -> np.ndarray:
        """Return PyTorch's tensor for our parameter."""
        a = a if self.rows is None else a[self.rows]
        a = a if self.columns is None else a[:, self.columns]
        return np.ascontiguousarray(a if self.axes is None else a.transpose(self.axes))

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of PyTorch's tensor for the shape of ours."""
        return ours if self.axes is None else tuple(ours[i] for i in self.axes)

    def back(self, a: np.ndarray) -> np.ndarray:
        """Return our array for PyTorch's tensor: the inverse of `theirs`."""
        a = a if self.axes is None else a.transpose(np.argsort(self.axes))
        a = a if self.rows is None else a[np.argsort(self.rows)]
        return np.ascontiguousarray(a if self.columns is None else a[:, np.argsort(self.columns)])


@dataclass
class Module:
    """A torch.nn module: class name, positional and keyword arguments, and its tensors by name."""

    name: str
    arguments: tuple = ()
    options: dict = field(default_factory=dict)
    tensors: dict[str, Entry] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The Python expression that constructs the module."""
        arguments = [
            *map(repr, self.arguments),
            *(f"{name}={value!r}" for name, value in self.options.items()),
        ]
        return f"nn.{self.name}({', '.join(arguments)})"


def to_chw(H: int, W: int, C: int) -> np.ndarray:
    """Return the permutation of a flattened image from the order H, W, C to C, H, W.

    Entry i is the index in H, W, C order of the pixel that is at i in C, H, W order.
    """
    return np.arange(H * W * C).reshape(H, W, C).transpose(2, 0, 1).ravel()


def order_ahead(rest: list[layers.Layer]) -> np.ndarray | None:
    """Return the row permutation of a Linear layer that is followed by the layers `rest`.

    It is `to_chw` if they unflatten the row to an image before the next Linear layer, else None.
    """
    for layer in rest:
        if isinstance(layer, layers.Reshape) and len(layer.shape) == 3:
            return to_chw(*layer.shape)
        if isinstance(layer, layers.Linear):
            return None
    return None


def modules(
    net: Sequential, shape: tuple[int, ...], prefix: str = ""
) -> tuple[list[Module], list[Module]]:
    """Return the torch.nn modules that are equivalent to a network on (N, C, H, W).

    shape    of one input sample, (H, W, C) or (C,)
    prefix   of the names of the network's parameters

    Returns two lists: the modules of the network, and the modules that embed one-hot labels for a
    Condition layer that has parameters (empty without one). For a Condition without parameters, the
    input of the modules is the input and the one-hot labels concatenated along C. Raises UserError
    for a layer without a counterpart.
    """
    torch_modules, condition, order = [], [], None
    for i, layer in enumerate(net.layers):
        at, rest = f"{prefix}{i}.", net.layers[i + 1 :]
        match layer:
            case layers.Condition(inner=inner):
                inside = inner if isinstance(inner, Sequential) else Sequential(inner)
                if inner.params:
                    condition, _ = modules(inside, (), f"{at}inner.")
                shape = (*shape[:-1], shape[-1] + channels_of(inside))
            case layers.OneHot(K=K):
                shape = (K,)
            case layers.Reshape(shape=shape):
                order = None
                torch_modules.append(Module("Unflatten", (1, (shape[-1], *shape[:-1]))))
            case layers.Flatten():
                order, shape = to_chw(*shape), (int(np.prod(shape)),)
                torch_modules.append(Module("Flatten"))
            case layers.Linear(C=C, K=K):
                columns, order, shape = order, order_ahead(rest), (K,)
                tensors = {"weight": Entry(f"{at}w", order, columns)}
                tensors |= {"bias": Entry(f"{at}b", order)} if "b" in layer.params else {}
                torch_modules.append(
                    Module("Linear", (C, K), {"bias": "b" in layer.params}, tensors)
                )
            case layers.BatchNorm(eps=eps, momentum=momentum):
                tensors = {
                    NAMES.get(name, name): Entry(f"{at}{name}", order)
                    for name in ("gamma", "beta", *layer.averaged)
                }
                kind = "BatchNorm2d" if len(shape) == 3 else "BatchNorm1d"
                torch_modules.append(
                    Module(kind, (shape[-1],), {"eps": eps, "momentum": momentum}, tensors)
                )
            case layers.Conv2d() | layers.ConvTranspose2d():
                convolve = grown if isinstance(layer, layers.ConvTranspose2d) else shrunk
                tensors = {"weight": Entry(f"{at}w", axes=(0, 3, 1, 2))}
                tensors |= {"bias": Entry(f"{at}b")} if "b" in layer.params else {}
                converted, shape = convolve(layer, shape, tensors)
                torch_modules += converted
            case layers.Crop(H=H, W=W):
                torch_modules.append(Module("ZeroPad2d", ((0, W - shape[1], 0, H - shape[0]),)))
                shape = (H, W, shape[-1])
            case layers.MaxPool2d() | layers.AvgPool2d() | layers.Upsample2d():
                converted, shape = resized(layer, shape)
                torch_modules.append(converted)
            case layers.ReLU() | layers.Tanh() | layers.Sigmoid():
                torch_modules.append(Module(type(layer).__name__))
            case layers.LeakyReLU(slope=number) | layers.Dropout(p=number):
                torch_modules.append(Module(type(layer).__name__, (number,)))
            case _:
                raise UserError(f"{layer.label} has no counterpart in torch.nn that is known here")
    return torch_modules, condition


def channels_of(inside: Sequential) -> int:
    """Return the number of channels of a label embedding."""
    return int(inside.forward(np.zeros(1, np.int64), train=False)[0].shape[-1])


def resized(layer: layers.Layer, shape: tuple[int, ...]) -> tuple[Module, tuple[int, ...]]:
    """Return the module of a pool or of Upsample2d, and its output shape for samples of `shape`."""
    (H, W, C), k = shape, layer.k
    if isinstance(layer, layers.Upsample2d):
        return Module("Upsample", (), {"scale_factor": k}), (H * k, W * k, C)
    return Module(type(layer).__name__, (k,)), (H // k, W // k, C)


def shrunk(
    layer: layers.Conv2d, shape: tuple[int, ...], tensors: dict[str, Entry]
) -> tuple[list[Module], tuple[int, ...]]:
    """Return the modules of a Conv2d, and its output shape for samples of `shape`.

    Asymmetric padding is a ZeroPad2d before the convolution.
    """
    (top, bottom), (left, right) = layer.same_pads(*shape[:2])
    even = top == bottom and left == right
    options = {
        "stride": layer.stride,
        "padding": (top, left) if even else 0,
        "bias": "b" in layer.params,
    }
    sizes = zip(shape[:2], layer.kernel, layer.stride, (top + bottom, left + right))
    shape = (*((n + pad - k) // s + 1 for n, k, s, pad in sizes), layer.K)
    convolution = Module("Conv2d", (layer.C, layer.K, layer.kernel), options, tensors)
    return [convolution] if even else [
        Module("ZeroPad2d", ((left, right, top, bottom),)),
        convolution,
    ], shape


def grown(
    layer: layers.ConvTranspose2d, shape: tuple[int, ...], tensors: dict[str, Entry]
) -> tuple[list[Module], tuple[int, ...]]:
    """Return the modules of a ConvTranspose2d, and its output shape for samples of `shape`.

    Asymmetric padding is a ZeroPad2d with negative padding, a crop, after the transposed
    convolution.
    """
    H, W = layer.output_size(*shape[:2])
    pads = layer.same_pads(H, W)
    padding = tuple(min(pad) for pad in pads)
    # the asymmetric part of the padding, which is cropped after the convolution
    ends = [(before - p, after - p) for (before, after), p in zip(pads, padding)]
    axes = zip((H, W), shape[:2], layer.kernel, layer.stride, pads)
    extra = tuple(size - ((n - 1) * s + k - sum(pad)) for size, n, k, s, pad in axes)
    options = {
        "stride": layer.stride,
        "padding": padding,
        "output_padding": extra,
        "bias": "b" in layer.params,
    }
    torch_modules = [Module("ConvTranspose2d", (layer.K, layer.C, layer.kernel), options, tensors)]
    if any(map(any, ends)):
        (top, bottom), (left, right) = ends
        torch_modules.append(Module("ZeroPad2d", ((-left, -right, -top, -bottom),)))
    return torch_modules, (H, W, layer.C)


@dataclass
class Exchange:
    """A network and its PyTorch counterpart.

    net      the rawgan network
    shape    of one input sample, (H, W, C) or (C,)
    main     the layout of DCGAN in pytorch/examples: the modules are in an attribute `main`,
             and z is an image of one pixel
    """

    net: Sequential
    shape: tuple[int, ...]
    main: bool = False

    def __post_init__(self):
        self.modules, self.condition = modules(self.net, self.shape)
        if self.main and self.modules[0].name == "Unflatten":
            self.modules = self.modules[1:]

    def entries(self) -> dict[str, Entry]:
        """Return the mapping of each tensor by its name in PyTorch's state_dict."""
        parts = (("main." if self.main else "", self.modules), ("condition.", self.condition))
        numbered = ((prefix, i, module) for prefix, part in parts for i, module in enumerate(part))
        return {
            f"{prefix}{i}.{name}": entry
            for prefix, i, module in numbered
            for name, entry in module.tensors.items()
        }

    def code(self) -> str:
        """Return Python code that constructs the modules, for use after `from torch import nn`."""
        parts = {"condition": self.condition, "main": self.modules}
        written = {
            name: "".join(f"    {module.code},\n" for module in part)
            for name, part in parts.items()
            if part
        }
        return "\n".join(f"{name} = nn.Sequential(\n{lines})" for name, lines in written.items())

    def export(self, ours: Arrays) -> Arrays:
        """Return the tensors of PyTorch's state_dict from our parameters and running statistics."""
        tensors = {}
        for name, entry in self.entries().items():
            tensors[name] = entry.theirs(ours[entry.ours])
            # PyTorch's count of batches is used only with momentum=None, which rawgan lacks
            if name.endswith("running_var"):
                tensors[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
        return tensors

    def load(self, theirs: Arrays) -> Arrays:
        """Return our parameters and running statistics from the tensors of a PyTorch state_dict.

        The inverse of `export`. Raises UserError, naming the first tensor at fault, unless names,
        shapes and dtypes match this network.
        """
        entries = self.entries()
        names = {name for name in theirs if not name.endswith("num_batches_tracked")}
        for name in sorted(entries.keys() ^ names):
            raise UserError(
                f"the file does not fit this network: {name} is only in "
                f"{'the file' if name in names else 'the network'}"
            )
        here, ours = {**self.net.params, **self.net.buffers}, {}
        for name, entry in entries.items():
            want, a = entry.shape(here[entry.ours].shape), theirs[name]
            if a.shape != want or a.dtype.kind != "f":
                raise UserError(
                    f"the file does not fit this network: {name} is {a.dtype} {a.shape}, "
                    f"wanted float {want}"
                )
            ours[entry.ours] = entry.back(a)
        return ours


def onnx_model(net: Sequential, z: int, classes: int, name: str):
    """Return a generator as an ONNX model: z (N, Z) to images (N, C, H, W).

    z        size of the latent vectors
    classes  number of classes; if not 0, the model has a second input, labels (N,) int64
    name     of the graph

    Raises UserError if the package onnx is not installed, or for a layer without a counterpart in
    ONNX.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise UserError(
            "--format onnx needs the package onnx: pip install 'rawgan[export]'"
        ) from error
    here, nodes, constants = {**net.params, **net.buffers}, [], []

    def constant(a: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(a, f"constant_{len(constants)}"))
        return constants[-1].name

    def add(kind: str, *inputs: str, **attributes) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"value_{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    x, inputs = "z", [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", z])]
    if classes:
        inputs.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["N"]))
        hot = add(
            "OneHot",
            "labels",
            constant(np.array(classes, np.int64)),
            constant(np.array([0, 1], np.float32)),
        )
        x = add("Concat", x, hot, axis=1)
    for module in modules(net, (z,))[0]:
        tensors = {
            key: constant(entry.theirs(here[entry.ours])) for key, entry in module.tensors.items()
        }
        parameters = [
            tensors[key]
            for key in ("weight", "bias", "running_mean", "running_var")
            if key in tensors
        ]
        match module.name:
            case "Unflatten":
                x = add("Reshape", x, constant(np.array([0, *module.arguments[1]], np.int64)))
            case "Linear":
                x = add("Gemm", x, *parameters, transB=1)
            case "ConvTranspose2d":
                o = module.options
                options = {
                    "strides": o["stride"],
                    "pads": o["padding"] * 2,
                    "output_padding": o["output_padding"],
                }
                x = add("ConvTranspose", x, *parameters, **options)
            case "BatchNorm1d" | "BatchNorm2d":
                x = add("BatchNormalization", x, *parameters, epsilon=module.options["eps"])
            case "ZeroPad2d":  # a crop; an end at INT64_MAX crops nothing
                left, right, top, bottom = module.arguments[0]
                starts, ends = (
                    (-top, -left),
                    tuple(n or np.iinfo(np.int64).max for n in (bottom, right)),
                )
                x = add(
                    "Slice", x, *(constant(np.array(a, np.int64)) for a in (starts, ends, (2, 3)))
                )
            case "Upsample":
                k, mode = module.options["scale_factor"], "asymmetric"
                scales = constant(np.array([1, 1, k, k], np.float32))
                x = add("Resize", x, "", scales, coordinate_transformation_mode=mode)
            case "LeakyReLU":
                x = add("LeakyRelu", x, alpha=module.arguments[0])
            case "ReLU" | "Tanh" | "Sigmoid":
                x = add({"ReLU": "Relu"}.get(module.name, module.name), x)
            case "Dropout":
                pass  # the identity in inference
            case _:
                raise UserError(
                    f"{module.name} in a generator has no counterpart in ONNX that is known here"
                )
    nodes[-1].output[0] = "images"
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", "C", "H", "W"])
    graph = helper.make_graph(nodes, name, inputs, [images], constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="rawgan"
    )
    onnx.checker.check_model(model)
    return model
