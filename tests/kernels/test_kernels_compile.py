"""Compile every kernel configuration for sm_80, sm_90 and sm_100 without a GPU.

The tests check shared memory, spills and tensor-core instructions.

    python tests/kernels/test_kernels_compile.py                        print the table
    python tests/kernels/test_kernels_compile.py docs/kernel_table.md   write it as a page
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import triton

from rawgan.kernels import all_specs
from rawgan.kernels.runtime import launch

HERE = Path(__file__).parent
BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
SHARED = {
    80: 163 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
}  # shared memory limit of a thread block, in bytes
INSTRUCTION_BYTES = 16
TENSOR_CORE = r"\b(HMMA|HGMMA|UTCHMMA)\b"
ROWS = [
    (name, i, capability)
    for name, spec in all_specs().items()
    for i, (_, _, keywords) in enumerate(spec.compiles)
    for capability in SHARED
    if capability >= 90 or keywords.get("impl") != "tma"  # an A100 has no TMA
    # the limit of registers is for the layout of an H100's accumulators
    if capability == 90 or keywords.get("config", {}).get("maxnreg") != 128
]


def tool(name, *arguments, cwd=None):
    return subprocess.run(
        [BIN / name, *arguments], capture_output=True, text=True, check=True, cwd=cwd
    ).stdout


def inspect(compiled):
    """Return ptxas's results for a kernel: registers, stack, shared memory, and machine code.

    "code" is the code in hex, of the architecture "target", for `disassembled`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage = re.search(
            r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)",
            tool("cuobjdump", "--dump-resource-usage", path.name, cwd=folder),
        )
        tool("cuobjdump", "--extract-text", "all", path.name, cwd=folder)
        (section,) = path.parent.glob("*.bin")  # kernel-NAME.sm_90a.elf.bin
        code = section.read_bytes()
    registers, stack, local = map(int, usage.groups())
    return {
        "kernel": compiled.metadata.name,
        "registers": registers,
        "stack": stack + local,
        "shared": compiled.metadata.shared,
        "target": section.name.split(".")[-3].replace("sm_", "SM"),
        "code": code.hex(),
    }


def disassembled(kernels):
    """Replace the code of the kernels by numbers of its instructions, accesses and main loop.

    nvdisasm needs a quarter of a second, whatever it reads: it gets the code of all kernels of a
    target at once.
    """
    by_target = {}
    for kernel in kernels:
        by_target.setdefault(kernel.pop("target"), []).append(kernel)
    for target, group in by_target.items():
        codes = [bytes.fromhex(kernel.pop("code")) for kernel in group]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(codes))
            file.flush()
            listing = instructions(tool("nvdisasm", "--binary", target, file.name))
        assert len(listing) == sum(map(len, codes)) // INSTRUCTION_BYTES
        start = 0
        for kernel, code in zip(group, codes):
            end = start + len(code) // INSTRUCTION_BYTES
            lines = [(text, to and to - start) for text, to in listing[start:end]]
            kernel.update(described(lines))
            start = end


def described(code):
    """Return what the tests and the table say of a kernel's instructions."""
    return {
        "instructions": len(code),
        "step": main_loop(code),
        "accesses": Counter(
            re.findall(r"\b(?:LDG|STG)\.[.\w]+", "\n".join(text for text, _ in code))
        ),
        "tensor_core": sorted({m[1] for text, _ in code if (m := re.search(TENSOR_CORE, text))}),
    }


def instructions(sass):
    """Return [(instruction, index of its jump target or None), ...] from a disassembly."""
    code = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", sass)
    jumps = [re.search(r"\bBRA\b.*\b0x([0-9a-f]+)$", text) for text in code]
    return [
        (text, int(jump[1], 16) // INSTRUCTION_BYTES if jump else None)
        for text, jump in zip(code, jumps)
    ]


def main_loop(code):
    """Return the instruction count of the shortest loop that multiplies matrices, 0 without one.

    A loop counts if it has tensor-core instructions, or FFMA where no loop has them.
    """
    loops = [
        code[start : end + 1]
        for end, (_, start) in enumerate(code)
        if start is not None and start < end
    ]
    for product in (TENSOR_CORE, r"\bFFMA2?\b"):
        steps = [len(loop) for loop in loops if any(re.search(product, text) for text, _ in loop)]
        if steps:
            return min(steps)
    return 0


def compile_row(name, i, capability):
    """Compile one kernel launch of a Spec; return `inspect` of each kernel in it.

    The arrays are neither read nor written.
    """
    spec = all_specs()[name]
    dtype, case, keywords = spec.compiles[i]

    def array(*shape, dtype=dtype):
        return np.zeros(shape, "uint16" if dtype == "bfloat16" else dtype)

    args, options = spec.make(array, **case)
    with launch.compile_only(capability) as compiled:
        spec.wrapper(*args, **options, **keywords)
    return [inspect(kernel) for kernel in compiled]


def compile_all(rows):
    """Compile in two processes; return {row: kernels}."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)

    def work(part):
        command, numbers = (
            [sys.executable, __file__, "-"],
            [ROWS.index(row) for row in rows[part::2]],
        )
        done = subprocess.run(
            command,
            check=False,
            input=json.dumps(numbers),
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return zip(rows[part::2], json.loads(done.stdout))

    with ThreadPoolExecutor(2) as pool:
        return {row: kernels for part in pool.map(work, range(2)) for row, kernels in part}


@pytest.fixture(scope="session")
def compiled(request):
    """Return the compilation results of the selected tests."""
    chosen = [
        item.callspec.params for item in request.session.items if "compiled" in item.fixturenames
    ]
    return compile_all([(row["name"], row["i"], row["capability"]) for row in chosen])


def parameters() -> list:
    """Return ROWS as parameters; those that need not be compiled in every run are marked slow.

    Compilation is slow. In every run the largest tile, which comes first, of each implementation of
    an operation is compiled for every GPU; for sm_90 it is compiled in every dtype and precision,
    and bfloat16, which the recorded steps use, in every tile.
    """
    chosen, kinds = [], set()
    for name, i, capability in ROWS:
        dtype, _, keywords = all_specs()[name].compiles[i]
        kind = (name, keywords.get("impl"), capability)
        if capability == 90:
            kind += (dtype, keywords.get("precision"), i if dtype == "bfloat16" else None)
        slow = [pytest.mark.slow] if kind in kinds else []
        chosen.append(pytest.param(name, i, capability, marks=slow))
        kinds.add(kind)
    return chosen


@pytest.mark.parametrize("name, i, capability", parameters())
def test_compiles_within_the_machine(compiled, name, i, capability):
    dtype, _, keywords = all_specs()[name].compiles[i]
    kernels = compiled[name, i, capability]
    assert isinstance(kernels, list) and kernels, kernels
    for kernel in kernels:
        assert kernel["stack"] == 0, f"spills: {kernel}"
        assert kernel["shared"] <= SHARED[capability], f"too much shared memory: {kernel}"
    if all_specs()[name].bilinear_reference and not (
        dtype == "float32" and keywords["precision"] == "ieee"
    ):
        assert kernels[0]["tensor_core"], f"no tensor cores: {kernels[0]}"


def is_fast(name, i):
    """Return whether a row is the TMA implementation in bfloat16 with a 128x128 tile."""
    dtype, _, keywords = all_specs()[name].compiles[i]
    config = keywords.get("config", {})
    return (
        keywords.get("impl") == "tma"
        and dtype == "bfloat16"
        and config.get("BLOCK_M") == config.get("BLOCK_N") == 128
    )


STATISTICS = [
    (name, i)
    for name, i, capability in ROWS
    if capability == 90 and all_specs()[name].compiles[i][2].get("config", {}).get("maxnreg") == 128
]
FAST = [(name, i) for name, i, capability in ROWS if capability == 90 and is_fast(name, i)]


@pytest.mark.parametrize("name, i, capability", [(name, i, 90) for name, i in FAST])
def test_fast_convolutions_are_lean(compiled, name, i, capability):
    """The main loop has at most 100 instructions per step and multiplies with wgmma."""
    kernel = compiled[name, i, capability][0]
    assert kernel["tensor_core"] == ["HGMMA"]
    assert kernel["step"] <= 100, kernel


def test_code_of_several_kernels_is_told_apart():
    """Disassembled together, each kernel has the instructions and the loop that it has alone."""
    row = ("conv2d", 0, 90)
    together = [kernel for part in (row, ("adam", ADAM, 90), row) for kernel in compile_row(*part)]
    alone = compile_row(*row)
    disassembled(together)
    disassembled(alone)
    assert together[0] == together[-1] == alone[0] and alone[0]["step"] > 0
    assert together[1]["kernel"] == "adam_kernel" and together[1]["step"] == 0


def test_fast_convolutions_are_all_there():
    plain = [name for name, i in FAST if (name, i) not in STATISTICS]
    assert plain == ["conv2d", "conv2d_dx", "conv2d_dw"]


@pytest.mark.parametrize("name, i, capability", [(name, i, 90) for name, i in STATISTICS])
def test_two_programs_with_statistics_fit_a_multiprocessor(compiled, name, i, capability):
    """A 128x128 tile with BatchNorm's statistics leaves half of a multiprocessor free.

    That is half of 65536 registers, with 256 threads, without spills, and half of 228 KB of shared
    memory, of which a block takes 1 KB more than the kernel.
    """
    kernel = compiled[name, i, capability][0]
    assert kernel["registers"] <= 128 and kernel["stack"] == 0, kernel
    assert 2 * (kernel["shared"] + 1024) <= 228 * 1024, kernel
    assert kernel["instructions"] <= 1200, kernel


def test_statistics_are_all_there():
    names = ("conv2d_batchnorm_act", "conv2d_dx_batchnorm_act")
    names += ("conv2d_dx_batchnorm_dx", "conv2d_batchnorm_dx")
    assert [name for name, _ in STATISTICS] == [*names]


def test_table_names_the_kernel_of_each_gpu():
    """The table names the kernel of each GPU in one order, whatever was compiled first."""
    numbers = {"registers": 40, "shared": 2048, "step": 7}
    rows = {
        ("conv2d", 0, c): [{"kernel": "old_kernel" if c == 80 else "new_kernel", **numbers}]
        for c in SHARED
    }
    ((operation, kernel, *_, last),) = table(dict(reversed(rows.items())))
    assert (operation, kernel, last) == ("conv2d", "old_kernel, new_kernel", "40, 2, 7")
    assert table(rows) == table(dict(reversed(rows.items())))


ADAM = len(all_specs()["adam"].compiles) - 1  # a table of multiples of 4


@pytest.mark.parametrize("name, i, capability", [("adam", ADAM, 90), ("adam", ADAM - 2, 90)])
def test_adam_accesses_16_bytes(compiled, name, i, capability):
    """With an aligned table Adam loads vectors of 16 bytes.

    Single values are a row of the table, step and learning rate in two places, and moments and
    parameters where fewer than a value per thread are updated.
    """
    accesses = compiled[name, i, capability][0]["accesses"]
    wide = accesses.get("LDG.E.128", 0)
    if i == ADAM:
        assert wide >= 3 * accesses["LDG.E"], accesses
        assert accesses["LDG.E"] <= 5 + 2 * (2 + 3), accesses
    else:
        assert wide == 0, accesses


PAGE = """# What the kernels compile to

Every configuration of every kernel, compiled by Triton {version} for an A100 (sm_80), an H100 \
(sm_90) and a B200 (sm_100), as the
tests and `pytest -m slow` do: registers of a thread, shared memory of a block in KB, and \
instructions in a step of the main loop, where
there is one. The stack is 0 everywhere. No time was measured.
Written by `python tests/kernels/test_kernels_compile.py docs/kernel_table.md`.

| operation | kernel | arrays | products | tile | sm_80 | sm_90 | sm_100 |
|---|---|---|---|---|---|---|---|
"""


def table(compiled):
    """Return the rows of the table, one for each kernel launched.

    Each is (operation, kernel, arrays, products, tile, numbers for each capability ...), in the
    order of the capabilities, whatever was compiled first. A GPU may launch another kernel than the
    others.
    """
    rows = {}
    for (name, i, capability), kernels in sorted(
        compiled.items(), key=lambda entry: ROWS.index(entry[0])
    ):
        if isinstance(kernels, str):
            sys.exit(f"{name} {all_specs()[name].compiles[i]} for sm_{capability}: {kernels}")
        dtype, _, keywords = all_specs()[name].compiles[i]
        tile = (
            "x".join(str(keywords["config"][f"BLOCK_{axis}"]) for axis in "MNK")
            if "config" in keywords
            else ""
        )
        for n, kernel in enumerate(kernels):
            row = rows.setdefault(
                (name, i, n), ({}, (dtype, keywords.get("precision", "") if tile else "", tile), {})
            )
            row[0][kernel["kernel"]] = None
            row[2][capability] = (
                f"{kernel['registers']}, {kernel['shared'] / 1024:.0f}, {kernel['step'] or '-'}"
            )
    made = (
        (at[0], ", ".join(names), *properties, *(of.get(c, "") for c in SHARED))
        for at, (names, properties, of) in rows.items()
    )
    return list(dict.fromkeys(made))


def main(path=None):
    rows = table(compile_all(ROWS))
    page = PAGE.format(version=triton.__version__) + "".join(
        f"| {' | '.join(row)} |\n" for row in rows
    )
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
        results = [attempt(ROWS[number]) for number in json.load(sys.stdin)]
        disassembled([kernel for row in results if isinstance(row, list) for kernel in row])
        json.dump(results, sys.stdout)
