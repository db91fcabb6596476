"""A string that a kernel or a wrapper does not know is refused: no `else` takes it for another.

The constants that are strings are found in the launches of all Specs, which are recorded, not run.
"""

import ast
import re

import numpy as np
import pytest
from triton.compiler.errors import CompilationError

from rawgan.kernels import all_specs, kernels
from rawgan.kernels.runtime import launch
from tests.kernels.test_kernels_coverage import recorded
from tests.kernels.test_kernels_names import FILES, is_kernel, kernel, reads

UNKNOWN = "unknown"


def strings() -> dict[tuple[str, str], launch.Launch]:
    """Return {(kernel, constant): a launch in which that constant is a string}."""
    launches = {}
    for spec in all_specs().values():
        for case in spec.cases:
            for one in recorded(spec, case, spec.dtypes[0]):
                for name, value in one.constants.items():
                    if isinstance(value, str):
                        launches.setdefault((one.name, name), one)
    return launches


STRINGS = strings()


def test_strings_are_found():
    """The constants of some kernels, among them both ways to name statistics and all loss terms."""
    names = {name for _, name in STRINGS}
    assert {"ACT", "PRECISION", "NORM", "KIND", "DRAW", "PIXELS", "LOSS_TERM"} <= names
    assert {"A_LOSS_TERM", "C_LOSS_TERM", "REAL_LOSS_TERM", "FAKE_LOSS_TERM"} <= names
    assert ("batch_stats_kernel", "NORM") in STRINGS and ("conv2d_tma_kernel", "NORM") in STRINGS


def causes(error: BaseException | None) -> list[str]:
    """Return the text of an error and of those that it was raised from."""
    return [] if error is None else [str(error), *causes(error.__cause__)]


@pytest.mark.parametrize("kernel, name", STRINGS)
def test_an_unknown_string_does_not_compile(kernel, name):
    one = STRINGS[kernel, name]
    wrong = launch.Launch(one.kernel, one.grid, one.arguments, one.constants | {name: UNKNOWN})
    with launch.compile_only(90), pytest.raises(CompilationError) as info:
        wrong.compile()
    # NAME must be ..., in a static_assert of ours or in tl.dot
    assert re.search("must be|is none of", " ".join(causes(info.value))), causes(info.value)


def unchecked(source: str) -> list[str]:
    """Return the constants that a kernel compares with strings and nowhere refuses.

    A comparison is `NAME == "..."`. It is refused by a tl.static_assert that reads NAME, or by a
    function that the `else` passes NAME to.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.FunctionDef) and is_kernel(node)):
            continue
        compared, refused = set(), set()
        for part in ast.walk(node):
            match part:
                case ast.Compare(left=ast.Name(id=name), comparators=[ast.Constant(value=str())]):
                    compared.add(name)
                case ast.Call() if ast.unparse(part.func) == "tl.static_assert":
                    refused |= reads(part.args[0])
                case ast.If(orelse=[*other]):
                    calls = (n for one in other for n in ast.walk(one) if isinstance(n, ast.Call))
                    refused |= {a.id for n in calls for a in n.args if isinstance(a, ast.Name)}
        names += [f"{node.name}: {name}" for name in sorted(compared - refused)]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_choice_by_string_is_asserted(path):
    assert unchecked(path.read_text()) == []


def test_a_choice_without_assertion_is_found():
    lines = ['if SIZE == "a":', "    x = 1", "else:", "    x = 2"]
    assert unchecked(kernel(*lines)) == ["f: SIZE"]
    checked = [*lines[:3], '    tl.static_assert(SIZE == "b", "a or b")', *lines[3:]]
    assert unchecked(kernel(*checked)) == []
    assert unchecked(kernel(*lines[:3], "    g(n, SIZE)")) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_an_unknown_precision_is_refused(name, dtype):
    x = np.zeros((4, 3) if name == "linear" else (2, 4, 4, 3), dtype)
    with launch.record(dry=True), pytest.raises(ValueError, match="precision is one of tf32x3,"):
        getattr(kernels, name)(x, x, precision=UNKNOWN)


@pytest.mark.parametrize("name", ["conv2d", "conv2d_dx", "conv2d_dw"])
def test_an_unknown_impl_is_refused(name):
    x = np.zeros((2, 4, 4, 3), np.float32)
    rest = {"conv2d": (), "conv2d_dx": ((7, 7),), "conv2d_dw": ((1, 1),)}[name]
    w = x if name == "conv2d_dw" else np.zeros((3, 4, 4, 3), np.float32)
    with launch.record(dry=True), pytest.raises(ValueError, match="impl is 'tma', 'pointer' or"):
        getattr(kernels, name)(x, w, *rest, impl=UNKNOWN)
