"""Programmatic dependent launch: every kernel waits before it accesses memory, where it is on."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from rawgan.backend import CPU
from rawgan.kernels import kernels
from rawgan.kernels.runtime import launch
from tests.support.planned_runs import RUNS, planned

KERNELS = Path(__file__).parents[2] / "kernels"
WAIT = "wait_for_previous_kernel(PDL)"


def waits(source: str) -> dict[str, bool]:
    """Return whether each kernel of a file takes PDL, and waits in its first statement."""
    functions = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and "triton.jit" in map(ast.unparse, node.decorator_list)
    ]
    return {
        function.name: "PDL" in [a.arg for a in function.args.args]
        and ast.unparse(function.body[1]) == WAIT
        for function in functions
        if function.name.endswith("_kernel")
    }


SOURCES = {path.name: path.read_text() for path in sorted(KERNELS.glob("*.py"))}


def test_every_kernel_waits_first():
    """A kernel may rely on all before it only where each of them has waited for the previous."""
    taken = {f"{name}: {k}": ok for name, s in SOURCES.items() for k, ok in waits(s).items()}
    assert len(taken) > 35
    assert [name for name, ok in taken.items() if not ok] == []


def test_a_load_before_the_wait_is_found():
    wait = f"    {WAIT}\n"
    load = "    x = tl.load(x_ptr)\n"
    head = '@triton.jit\ndef f_kernel(x_ptr, PDL):\n    """Do."""\n'
    assert waits(head + wait + load) == {"f_kernel": True}
    assert waits(head + load + wait) == {"f_kernel": False}
    assert waits(head + load) == {"f_kernel": False}


ACCESS = re.compile(r"\b(ld\.global|st\.global|atom|red\.|cp\.async)")


def ptx(capability: int, dependent: bool) -> list[str]:
    """Return the PTX of an elementwise kernel and of a convolution."""
    x, w = np.zeros((8, 16, 16, 64), np.uint16), np.zeros((64, 4, 4, 64), np.uint16)
    with launch.compile_only(capability) as compiled:
        if dependent:
            with launch.dependent_launches():
                kernels.conv2d(kernels.relu(x), w, stride=2, pad=1)
        else:
            kernels.conv2d(kernels.relu(x), w, stride=2, pad=1)
    return [kernel.asm["ptx"] for kernel in compiled]


def test_compiled():
    """On sm_90 the wait is before the first access to memory; elsewhere there is none."""
    on_h100, without, on_a100 = ptx(90, True), ptx(90, False), ptx(80, True)
    assert not any("griddepcontrol" in code for code in (*without, *on_a100))
    for code in on_h100:
        wait = code.index("griddepcontrol.wait")
        assert wait < ACCESS.search(code).start() and "griddepcontrol.launch_dependents" in code


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp"])
def test_a_step_without_a_gpu_is_the_same(name):
    """In Triton's interpreter no kernel waits, inside the block and outside."""
    with launch.dependent_launches():
        _, step = planned(RUNS[name], CPU)
    assert all(one.constants["PDL"] is False for one in step.plan.launches if not is_host(one))


def is_host(one) -> bool:
    return isinstance(one, launch.HostCall)
