"""Every configuration of every kernel compiled for sm_80, sm_90 and sm_100, without a GPU: shared memory, spills, tensor cores.

python tests/test_kernels_compile.py                             compiles all of them and prints the table
python tests/test_kernels_compile.py docs/kernel_table.md        writes it as a page
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import triton

from rawgan.kernels import launch, specs

HERE = Path(__file__).parent
BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes that one block may use
TENSOR_CORE = r"\b(HMMA|HGMMA|UTCHMMA)\b"
ROWS = [
    (name, i, capability)
    for name, spec in specs().items()
    for i, (_, _, how) in enumerate(spec.compiles)
    for capability in SHARED
    if capability >= 90 or how.get("form") != "descriptor"  # an A100 has no copy engine for boxes
]


def tool(name, *arguments):
    return subprocess.run([BIN / name, *arguments], capture_output=True, text=True, check=True).stdout


def inspect(compiled):
    """What ptxas made of a kernel: registers, stack, instructions in all and in the step of its main loop."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", tool("cuobjdump", "--dump-resource-usage", file.name))
        sass = tool("nvdisasm", "-c", file.name)
    registers, stack, local = map(int, usage.groups())
    code = instructions(sass)
    return {
        "kernel": compiled.metadata.name,
        "registers": registers,
        "stack": stack + local,
        "shared": compiled.metadata.shared,
        "instructions": len(code),
        "step": main_loop(code),
        "tensor_core": sorted({m[1] for text, _ in code if (m := re.search(TENSOR_CORE, text))}),
    }


def instructions(sass):
    """[(instruction, index of the one it jumps to or None), ...] from a disassembly."""
    code, labels = [], {}
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.append(instruction[1])
    jumps = [re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", text) for text in code]
    return [(text, labels.get(jump[1]) if jump else None) for text, jump in zip(code, jumps)]


def main_loop(code):
    """How many instructions the shortest loop has that multiplies matrices (on tensor cores, else with FFMA); 0 without."""
    loops = [code[start : end + 1] for end, (_, start) in enumerate(code) if start is not None and start < end]
    for product in (TENSOR_CORE, r"\bFFMA2?\b"):
        steps = [len(loop) for loop in loops if any(re.search(product, text) for text, _ in loop)]
        if steps:
            return min(steps)
    return 0


def compile_row(name, i, capability):
    """One kernel launch of a Spec, compiled: what `inspect` says of each kernel in it. Arrays are never touched."""
    spec = specs()[name]
    dtype, case, how = spec.compiles[i]

    def array(*shape, dtype=dtype):
        return np.zeros(shape, "uint16" if dtype == "bfloat16" else dtype)

    args, options = spec.make(array, **case)
    with launch.compile_only(capability) as compiled:
        spec.wrapper(*args, **options, **how)
    return [inspect(kernel) for kernel in compiled]


def compile_all(rows):
    """{row: kernels}, from two processes."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)

    def work(part):
        command, numbers = [sys.executable, __file__, "-"], [ROWS.index(row) for row in rows[part::2]]
        done = subprocess.run(command, input=json.dumps(numbers), capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return zip(rows[part::2], json.loads(done.stdout))

    with ThreadPoolExecutor(2) as pool:
        return {row: kernels for part in pool.map(work, range(2)) for row, kernels in part}


@pytest.fixture(scope="session")
def compiled(request):
    """What was compiled for the tests that were selected."""
    chosen = [item.callspec.params for item in request.session.items if "compiled" in item.fixturenames]
    return compile_all([(row["name"], row["i"], row["capability"]) for row in chosen])


@pytest.mark.parametrize("name, i, capability", ROWS)
def test_compiles_within_the_machine(compiled, name, i, capability):
    dtype, _, how = specs()[name].compiles[i]
    kernels = compiled[name, i, capability]
    assert isinstance(kernels, list) and kernels, kernels
    for kernel in kernels:
        assert kernel["stack"] == 0, f"spills: {kernel}"
        assert kernel["shared"] <= SHARED[capability], f"too much shared memory: {kernel}"
    if specs()[name].form and not (dtype == "float32" and how["precision"] == "ieee"):
        assert kernels[0]["tensor_core"], f"no tensor cores: {kernels[0]}"


def is_fast(name, i):
    """Whether this is a descriptor form in bfloat16 at 128x128."""
    dtype, _, how = specs()[name].compiles[i]
    config = how.get("config", {})
    return how.get("form") == "descriptor" and dtype == "bfloat16" and config.get("BLOCK_M") == config.get("BLOCK_N") == 128


FAST = [(name, i) for name, i, capability in ROWS if capability == 90 and is_fast(name, i)]


@pytest.mark.parametrize("name, i, capability", [(name, i, 90) for name, i in FAST])
def test_fast_convolutions_are_lean(compiled, name, i, capability):
    """At most 100 instructions in a step of the main loop, whose matrices wgmma multiplies."""
    kernel = compiled[name, i, capability][0]
    assert kernel["tensor_core"] == ["HGMMA"]
    assert kernel["step"] <= 100, kernel


def test_fast_convolutions_are_all_there():
    assert [name for name, _ in FAST] == ["conv2d", "conv2d_dx", "conv2d_dw"]


def test_table_names_the_kernel_of_each_gpu():
    """In one order, whatever was compiled first."""
    numbers = {"registers": 40, "shared": 2048, "step": 7}
    found = {("conv2d", 0, c): [{"kernel": "old_kernel" if c == 80 else "new_kernel", **numbers}] for c in SHARED}
    ((operation, kernel, *_, last),) = table(dict(reversed(found.items())))
    assert (operation, kernel, last) == ("conv2d", "old_kernel, new_kernel", "40, 2, 7")
    assert table(found) == table(dict(reversed(found.items())))


PAGE = """# What the kernels compile to

Every configuration of every kernel, compiled by Triton {version} for an A100 (sm_80), an H100 (sm_90) and a B200 (sm_100), as the
tests do: registers of a thread, shared memory of a block in KB, and instructions in a step of the main loop, where
there is one. The stack is 0 everywhere. No time was measured.
Written by `python tests/test_kernels_compile.py docs/kernel_table.md`.

| operation | kernel | arrays | products | tile | sm_80 | sm_90 | sm_100 |
|---|---|---|---|---|---|---|---|
"""


def table(found):
    """[(operation, kernel, arrays, products, tile, numbers for each capability ...), ...], a row for each kernel launched.

    In the order of the capabilities, whatever was compiled first: the kernel may be another one for another GPU.
    """
    rows = {}
    for (name, i, capability), kernels in sorted(found.items(), key=lambda entry: ROWS.index(entry[0])):
        if isinstance(kernels, str):
            sys.exit(f"{name} {specs()[name].compiles[i]} for sm_{capability}: {kernels}")
        dtype, _, how = specs()[name].compiles[i]
        tile = "x".join(str(how["config"][f"BLOCK_{axis}"]) for axis in "MNK") if "config" in how else ""
        for n, kernel in enumerate(kernels):
            row = rows.setdefault((name, i, n), ({}, (dtype, how.get("precision", "") if tile else "", tile), {}))
            row[0][kernel["kernel"]] = None
            row[2][capability] = f"{kernel['registers']}, {kernel['shared'] / 1024:.0f}, {kernel['step'] or '-'}"
    made = ((at[0], ", ".join(names), *what, *(of.get(c, "") for c in SHARED)) for at, (names, what, of) in rows.items())
    return list(dict.fromkeys(made))


def main(path=None):
    rows = table(compile_all(ROWS))
    page = PAGE.format(version=triton.__version__) + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    if path:
        Path(path).write_text(page, encoding="utf-8")
    else:
        print(page)


def attempt(row):
    try:
        return compile_row(*row)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    if sys.argv[1:] != ["-"]:
        main(*sys.argv[1:])
    else:
        json.dump([attempt(ROWS[number]) for number in json.load(sys.stdin)], sys.stdout)
