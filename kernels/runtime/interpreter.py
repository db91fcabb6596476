"""Triton's interpreter in a quarter of its time.

It patches triton.language for each call of a device function, builds a dictionary of all dtypes and
the attributes of its type for each value, and computes each sum and product of 32-bit integers in
64 bits too, for an assertion that it evaluates in debug mode alone. Results are unchanged.
"""

from dataclasses import replace
from functools import cache


@cache
def speed_up():
    """Replace functions and an option of Triton's interpreter, once."""
    from triton.language import core
    from triton.runtime import interpreter

    interpreter._patch_lang = patch_once_per_launch(interpreter._patch_lang)
    interpreter._get_np_dtype = remembered(interpreter._get_np_dtype)
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
    core.block_type.__init__ = built_once(core.block_type.__init__, key_of_block)
    core.tensor.__init__ = built_once(core.tensor.__init__, key_of_tensor)


def patch_once_per_launch(patch):
    """Return `patch` of triton.language for the first function of each module in a launch.

    `patch` takes a kernel or a device function, whose module refers to triton.language, and goes
    through all members of it. Its changes are restored at the end of the launch.
    """
    patched = set()

    def patch_once(fn):
        module = id(fn.__globals__)
        if module in patched:
            return None
        scope = patch(fn)
        patched.add(module)
        restore = scope.restore

        def restore_all():
            restore()
            patched.clear()

        scope.restore = restore_all
        return scope

    return patch_once


def remembered(look_up):
    """Return `look_up`, of the NumPy dtype of a Triton dtype, with its results in a dictionary."""
    known = {}

    def dtype_of(dtype):
        name = dtype.scalar.name
        if name not in known:
            known[name] = look_up(dtype)
        return known[name]

    return dtype_of


def built_once(init, key):
    """Return `init` of a class, which computes the attributes of equal objects once.

    key(*arguments) is what they depend on, and those attributes that are the object's own. The
    others are never modified.
    """
    known = {}

    def initialise(self, *arguments):
        name, new = key(*arguments)
        if name not in known:
            init(self, *arguments)
            known[name] = {k: value for k, value in vars(self).items() if k not in new}
        vars(self).update(known[name], **new)

    return initialise


def key_of_block(element_ty, shape):
    """Return what the attributes of a tl.block_type depend on."""
    sizes = (size if isinstance(size, int) else size.value for size in shape)
    return (type(element_ty), element_ty.name, *sizes), {"element_ty": element_ty}


def key_of_tensor(handle, type):
    """Return what the attributes of a tl.tensor depend on."""
    return (type.__class__, type.name), {"handle": handle, "type": type}
