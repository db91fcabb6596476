"""What makes Triton's interpreter faster changes none of its results."""

from types import FunctionType, SimpleNamespace

import pytest
import triton.language as tl

from rawgan.kernels.runtime.interpreter import (
    built_once,
    key_of_block,
    key_of_tensor,
    patch_once_per_launch,
    remembered,
)


def test_a_module_is_patched_once_in_a_launch():
    calls = []

    def patch(fn):
        calls.append(("patch", fn.__name__))
        return SimpleNamespace(restore=lambda: calls.append(("restore", fn.__name__)))

    kernels, library = {}, {}  # the names of two modules
    kernel, helper, zeros = (
        FunctionType((lambda: None).__code__, names, name)
        for names, name in ((kernels, "kernel"), (kernels, "helper"), (library, "zeros"))
    )
    patch_once = patch_once_per_launch(patch)
    for _ in range(2):
        launch = patch_once(kernel)
        for device_function in (helper, zeros, helper, zeros):
            patch_once(device_function)
        launch.restore()
    once = [("patch", "kernel"), ("patch", "zeros"), ("restore", "kernel")]
    assert calls == once * 2


@pytest.mark.parametrize("shape", [None, (4,), (2, 4)])
def test_dtypes_are_those_of_the_interpreter(shape):
    from triton.runtime import interpreter

    look_up = remembered(interpreter._get_np_dtype)
    scalars = [tl.int1, tl.float16, tl.bfloat16, tl.float32, tl.float64, tl.int8, tl.uint8]
    scalars += [tl.int16, tl.uint16, tl.int32, tl.uint32, tl.int64, tl.uint64]
    scalars += [tl.pointer_type(tl.float32), tl.pointer_type(tl.bfloat16)]
    for _ in range(2):
        for scalar in scalars:
            dtype = tl.block_type(scalar, list(shape)) if shape else scalar
            assert look_up(dtype) == interpreter._get_np_dtype(dtype)


def test_attributes_are_those_of_the_interpreter():
    """Of block types and tensors, the first of a kind and the next ones."""
    init_block, init_tensor = tl.block_type.__init__, tl.tensor.__init__
    block = built_once(init_block, key_of_block)
    tensor = built_once(init_tensor, key_of_tensor)
    scalars = [tl.int1, tl.float16, tl.bfloat16, tl.float32, tl.int32, tl.uint32, tl.int64]
    scalars += [tl.pointer_type(tl.float32), tl.pointer_type(tl.int32)]
    shapes = [[4], [2, 4], [tl.constexpr(4), 1], [4, 2], [8]]

    def built(cls, init, *arguments):
        new = cls.__new__(cls)
        init(new, *arguments)
        return new

    def attributes(new):
        values = vars(new).items()
        return {name: (str(value), value.__class__) for name, value in values}

    for handle in ("first", "second"):
        for scalar in scalars:
            types = [scalar]
            for shape in shapes:
                got = built(tl.block_type, block, scalar, shape)
                want = built(tl.block_type, init_block, scalar, shape)
                assert attributes(got) == attributes(want) and got.element_ty is scalar
                types.append(got)
            for type_ in types:
                got = built(tl.tensor, tensor, handle, type_)
                assert attributes(got) == attributes(built(tl.tensor, init_tensor, handle, type_))
                assert got.handle is handle and got.type is type_
