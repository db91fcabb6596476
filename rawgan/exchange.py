"""Exchange with PyTorch and ONNX: the one file that knows (N, C, H, W).

Networks here are (N, H, W, C) with weights (K, R, S, C). `modules` says of each layer which module of torch.nn does the same on
(N, C, H, W), and how its tensors are made from ours:

    convolution, also transposed   (K, R, S, C) -> (K, C, R, S)
    linear                         (K, C) as it is; but where its rows or columns are the pixels of an image that is flattened or
                                   unflattened beside it, they move from the order H, W, C to C, H, W; a BatchNorm between, too

PyTorch itself is not needed, and of ONNX only its package, to write.
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
    """How a tensor of PyTorch is made of our parameter `ours`: its rows and columns chosen, then its axes moved."""

    ours: str
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    axes: tuple[int, ...] | None = None

    def theirs(self, a: np.ndarray) -> np.ndarray:
        a = a if self.rows is None else a[self.rows]
        a = a if self.columns is None else a[:, self.columns]
        return np.ascontiguousarray(a if self.axes is None else a.transpose(self.axes))

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs."""
        return ours if self.axes is None else tuple(ours[i] for i in self.axes)

    def back(self, a: np.ndarray) -> np.ndarray:
        """Our array of theirs: the inverse."""
        a = a if self.axes is None else a.transpose(np.argsort(self.axes))
        a = a if self.rows is None else a[np.argsort(self.rows)]
        return np.ascontiguousarray(a if self.columns is None else a[:, np.argsort(self.columns)])


@dataclass
class Module:
    """A module of torch.nn: its class, its arguments, its tensors by name."""

    name: str
    arguments: tuple = ()
    options: dict = field(default_factory=dict)
    tensors: dict[str, Entry] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The Python expression that makes it."""
        arguments = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.options.items())]
        return f"nn.{self.name}({', '.join(arguments)})"


def to_chw(H: int, W: int, C: int) -> np.ndarray:
    """Where each pixel of an image flattened in the order C, H, W stands in the order H, W, C."""
    return np.arange(H * W * C).reshape(H, W, C).transpose(2, 0, 1).ravel()


def order_ahead(rest: list[layers.Layer]) -> np.ndarray | None:
    """The order in which the next layers want a row of numbers: that of an image where it is unflattened to one, else ours."""
    for layer in rest:
        if isinstance(layer, layers.Reshape) and len(layer.shape) == 3:
            return to_chw(*layer.shape)
        if isinstance(layer, layers.Linear):
            return None
    return None


def modules(net: Sequential, shape: tuple[int, ...], prefix: str = "") -> tuple[list[Module], list[Module]]:
    """The modules that do on (N, C, H, W) what the network does with samples of `shape`, (H, W, C) or (C,).

    And apart those that turn one-hot labels into the condition that is put beside the input, where that has parameters. Without
    parameters, the input of the modules is the input and the condition, one-hot, side by side along C. Raises UserError for a layer
    that has no counterpart.
    """
    found, condition, order = [], [], None
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
                found.append(Module("Unflatten", (1, (shape[-1], *shape[:-1]))))
            case layers.Flatten():
                order, shape = to_chw(*shape), (int(np.prod(shape)),)
                found.append(Module("Flatten"))
            case layers.Linear(C=C, K=K):
                columns, order, shape = order, order_ahead(rest), (K,)
                tensors = {"weight": Entry(f"{at}w", order, columns)}
                tensors |= {"bias": Entry(f"{at}b", order)} if "b" in layer.params else {}
                found.append(Module("Linear", (C, K), {"bias": "b" in layer.params}, tensors))
            case layers.BatchNorm(eps=eps, momentum=momentum):
                tensors = {NAMES.get(name, name): Entry(f"{at}{name}", order) for name in (*layer.params, *layer.buffers)}
                kind = "BatchNorm2d" if len(shape) == 3 else "BatchNorm1d"
                found.append(Module(kind, (shape[-1],), {"eps": eps, "momentum": momentum}, tensors))
            case layers.Conv2d() | layers.ConvTranspose2d():
                convolve = grown if isinstance(layer, layers.ConvTranspose2d) else shrunk
                tensors = {"weight": Entry(f"{at}w", axes=(0, 3, 1, 2))}
                tensors |= {"bias": Entry(f"{at}b")} if "b" in layer.params else {}
                more, shape = convolve(layer, shape, tensors)
                found += more
            case layers.Crop(H=H, W=W):
                found.append(Module("ZeroPad2d", ((0, W - shape[1], 0, H - shape[0]),)))
                shape = (H, W, shape[-1])
            case layers.ReLU() | layers.Tanh() | layers.Sigmoid():
                found.append(Module(type(layer).__name__))
            case layers.LeakyReLU(slope=slope):
                found.append(Module("LeakyReLU", (slope,)))
            case layers.Dropout(p=p):
                found.append(Module("Dropout", (p,)))
            case _:
                raise UserError(f"{layer.label} has no counterpart in torch.nn that is known here")
    return found, condition


def channels_of(inside: Sequential) -> int:
    """How many channels a condition has."""
    return int(inside.forward(np.zeros(1, np.int64), train=False)[0].shape[-1])


def shrunk(layer: layers.Conv2d, shape: tuple[int, ...], tensors: dict[str, Entry]) -> tuple[list[Module], tuple[int, ...]]:
    """A convolution, after a module that pads where its padding is not the same on both sides; and the shape of what it makes."""
    (top, bottom), (left, right) = layer.same_pads(*shape[:2])
    even = top == bottom and left == right
    options = {"stride": layer.stride, "padding": (top, left) if even else 0, "bias": "b" in layer.params}
    sizes = zip(shape[:2], layer.kernel, layer.stride, (top + bottom, left + right))
    shape = (*((n + pad - k) // s + 1 for n, k, s, pad in sizes), layer.K)
    convolution = Module("Conv2d", (layer.C, layer.K, layer.kernel), options, tensors)
    return [convolution] if even else [Module("ZeroPad2d", ((left, right, top, bottom),)), convolution], shape


def grown(layer: layers.ConvTranspose2d, shape: tuple[int, ...], tensors: dict[str, Entry]) -> tuple[list[Module], tuple[int, ...]]:
    """A transposed convolution, before a module that crops where its padding is not the same on both sides; and the shape."""
    H, W = layer.output_size(*shape[:2])
    pads = layer.same_pads(H, W)
    padding = tuple(min(pad) for pad in pads)
    ends = [(before - p, after - p) for (before, after), p in zip(pads, padding)]  # still to be cropped
    axes = zip((H, W), shape[:2], layer.kernel, layer.stride, pads)
    extra = tuple(size - ((n - 1) * s + k - sum(pad)) for size, n, k, s, pad in axes)
    options = {"stride": layer.stride, "padding": padding, "output_padding": extra, "bias": "b" in layer.params}
    found = [Module("ConvTranspose2d", (layer.K, layer.C, layer.kernel), options, tensors)]
    if any(map(any, ends)):
        (top, bottom), (left, right) = ends
        found.append(Module("ZeroPad2d", ((-left, -right, -top, -bottom),)))
    return found, (H, W, layer.C)


@dataclass
class Exchange:
    """A network beside its PyTorch counterpart. With `main`, as pytorch/examples' DCGAN has it: the modules are in an attribute of
    that name, and z comes as an image of one pixel."""

    net: Sequential
    shape: tuple[int, ...]
    main: bool = False

    def __post_init__(self):
        self.modules, self.condition = modules(self.net, self.shape)
        if self.main and self.modules[0].name == "Unflatten":
            self.modules = self.modules[1:]

    def entries(self) -> dict[str, Entry]:
        """Our parameters by PyTorch's names."""
        parts = (("main." if self.main else "", self.modules), ("condition.", self.condition))
        found = ((prefix, i, module) for prefix, part in parts for i, module in enumerate(part))
        return {f"{prefix}{i}.{name}": entry for prefix, i, module in found for name, entry in module.tensors.items()}

    def code(self) -> str:
        """The Python that makes the modules in PyTorch, with `from torch import nn`."""
        parts = {"condition": self.condition, "main": self.modules}
        written = {name: "".join(f"    {module.code},\n" for module in part) for name, part in parts.items() if part}
        return "\n".join(f"{name} = nn.Sequential(\n{lines})" for name, lines in written.items())

    def export(self, ours: Arrays) -> Arrays:
        """The tensors of PyTorch's state_dict from our parameters and running statistics by name."""
        found = {}
        for name, entry in self.entries().items():
            found[name] = entry.theirs(ours[entry.ours])
            if name.endswith("running_var"):  # PyTorch counts batches, for those without a momentum; ours all have one
                found[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
        return found

    def load(self, theirs: Arrays) -> Arrays:
        """The inverse. Raises UserError, naming the first, unless names and shapes are this network's."""
        entries = self.entries()
        given = {name for name in theirs if not name.endswith("num_batches_tracked")}
        for name in sorted(entries.keys() ^ given):
            raise UserError(
                f"the file does not fit this network: {name} is only in {'the file' if name in given else 'the network'}"
            )
        here, ours = {**self.net.params, **self.net.buffers}, {}
        for name, entry in entries.items():
            want, a = entry.shape(here[entry.ours].shape), theirs[name]
            if a.shape != want or a.dtype.kind != "f":
                raise UserError(f"the file does not fit this network: {name} is {a.dtype} {a.shape}, wanted float {want}")
            ours[entry.ours] = entry.back(a)
        return ours


def onnx_model(net: Sequential, z: int, classes: int, name: str):
    """A generator as an ONNX model: z (N, Z), with classes labels (N,) beside it, to images (N, C, H, W).

    Raises UserError where the package onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise UserError("--format onnx needs the package onnx: pip install 'rawgan[export]'") from error
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
        hot = add("OneHot", "labels", constant(np.array(classes, np.int64)), constant(np.array([0, 1], np.float32)))
        x = add("Concat", x, hot, axis=1)
    for module in modules(net, (z,))[0]:
        tensors = {key: constant(entry.theirs(here[entry.ours])) for key, entry in module.tensors.items()}
        parameters = [tensors[key] for key in ("weight", "bias", "running_mean", "running_var") if key in tensors]
        match module.name:
            case "Unflatten":
                x = add("Reshape", x, constant(np.array([0, *module.arguments[1]], np.int64)))
            case "Linear":
                x = add("Gemm", x, *parameters, transB=1)
            case "ConvTranspose2d":
                o = module.options
                options = {"strides": o["stride"], "pads": o["padding"] * 2, "output_padding": o["output_padding"]}
                x = add("ConvTranspose", x, *parameters, **options)
            case "BatchNorm1d" | "BatchNorm2d":
                x = add("BatchNormalization", x, *parameters, epsilon=module.options["eps"])
            case "ZeroPad2d":  # a crop: to the end where nothing is to go
                left, right, top, bottom = module.arguments[0]
                starts, ends = (-top, -left), tuple(n or np.iinfo(np.int64).max for n in (bottom, right))
                x = add("Slice", x, *(constant(np.array(a, np.int64)) for a in (starts, ends, (2, 3))))
            case "LeakyReLU":
                x = add("LeakyRelu", x, alpha=module.arguments[0])
            case "ReLU" | "Tanh" | "Sigmoid":
                x = add({"ReLU": "Relu"}.get(module.name, module.name), x)
            case "Dropout":
                pass  # does nothing in inference
            case _:
                raise UserError(f"{module.name} in a generator has no counterpart in ONNX that is known here")
    nodes[-1].output[0] = "images"
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", "C", "H", "W"])
    graph = helper.make_graph(nodes, name, inputs, [images], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="rawgan")
    onnx.checker.check_model(model)
    return model
