"""The table of measured configurations: what it contains is launched, what it lacks is the rule's.

The tests use tables of their own; launches are recorded dry, on a simulated GPU of sm_90.
"""

import numpy as np
import pytest

from benchmarks.steps.cases import CASES
from benchmarks.tune.sweep import write_table
from rawgan.errors import UserError
from rawgan.kernels import gemm_table, kernels
from rawgan.kernels.gemm_config import TABLES, occupy
from rawgan.kernels.gemm_table import (
    configuration,
    entry_of,
    measured_table,
    read_table,
    use_table,
)
from rawgan.kernels.runtime import launch

CONFIG = {
    "BLOCK_M": 64,
    "BLOCK_N": 64,
    "BLOCK_K": 64,
    "num_warps": 8,
    "num_stages": 2,
    "maxnreg": 200,
}
ENTRY = entry_of("pointer", CONFIG)
FACTS = {"device": "no GPU", "multiprocessors": 132}


def half(*shape):
    return np.zeros(shape, "uint16")


CALLS = {
    "conv2d": lambda: kernels.conv2d(half(8, 16, 16, 64), half(64, 4, 4, 64), None, 2, 1),
    "conv2d_dx": lambda: kernels.conv2d_dx(
        half(8, 8, 8, 64), half(64, 4, 4, 64), (16, 16), 2, 1, act="relu"
    ),
    "conv2d_dw": lambda: kernels.conv2d_dw(
        half(8, 16, 16, 64), half(8, 8, 8, 64), 4, 2, 1, partials=True
    ),
    "linear": lambda: kernels.linear(half(64, 512), half(64, 512), act="tanh"),
    "linear_dx": lambda: kernels.linear_dx(half(64, 256), half(256, 512)),
    "linear_dw": lambda: kernels.linear_dw(half(512, 64), half(512, 64), partials=True),
}


def recorded(call) -> launch.Launch:
    """Return the first launch of a call on an H100, not launched."""
    with launch.compile_only(90), launch.record(dry=True) as recording:
        call()
    return recording[0]


def used(one: launch.Launch) -> dict:
    return {name: one.constants[name] for name in CONFIG}


@pytest.mark.parametrize("operation", CALLS)
def test_an_entry_is_used(operation):
    """A launch with the exact key has the entry's implementation, configuration and split."""
    call = CALLS[operation]
    before = recorded(call)
    split = {"split": 4} if operation in gemm_table.SPLITS else {}
    with use_table(90, {str(before.key): ENTRY | split}):
        after = recorded(call)
        assert used(recorded(lambda: kernels.linear(half(4, 9), half(5, 9)))) != CONFIG
    assert used(before) != CONFIG == used(after)
    assert after.name in (f"{operation}_kernel", "matmul_kernel")
    assert not split or after.grid[1] == 4
    assert used(recorded(call)) == used(before) and recorded(call).name == before.name


def test_an_entry_chooses_the_implementation():
    """The rule takes TMA tiles where the entry has pointers, and the small_c kernel alike."""

    def last_layer():
        kernels.conv2d_dx(half(8, 8, 8, 64), half(64, 4, 4, 3), (16, 16), 2, 1)

    assert recorded(CALLS["conv2d"]).name == "conv2d_tma_kernel"
    for impl, block_n in (("small_c", 16), ("pointer", 64)):
        entry = entry_of(impl, CONFIG | {"BLOCK_N": block_n})
        with use_table(90, {str(recorded(last_layer).key): entry}):
            name = recorded(last_layer).name
        assert name == {"small_c": "conv2d_dx_small_c_kernel", "pointer": "conv2d_dx_kernel"}[impl]


def test_what_was_asked_for_is_not_replaced():
    """A configuration or an implementation that the caller gives is used, whatever the table."""
    call = CALLS["conv2d"]
    with use_table(90, {str(recorded(call).key): ENTRY}):
        x, w = half(8, 16, 16, 64), half(64, 4, 4, 64)
        asked = CONFIG | {"num_stages": 4}
        one = recorded(lambda: kernels.conv2d(x, w, None, 2, 1, config=asked, impl="pointer"))
        assert used(one) == asked
        assert recorded(lambda: kernels.conv2d(x, w, None, 2, 1, impl="tma")).name.endswith(
            "tma_kernel"
        )


def test_arrays_that_are_not_aligned_have_no_entry():
    """TMA could not read them: what was measured on aligned arrays does not apply."""
    w = np.zeros(64 * 512 + 1, "uint16")[1:].reshape(64, 512)
    call = CALLS["linear"]
    with use_table(90, {str(recorded(call).key): ENTRY}):
        assert used(recorded(call)) == CONFIG
        assert used(recorded(lambda: kernels.linear(half(64, 512), w, act="tanh"))) != CONFIG


def test_a_plan_uses_the_table():
    """The partial sums of a plan follow the split of the table; other launches stay as they are."""
    case = CASES["dcgan 64x64x3"].toy
    before = [one for one in case.plan("bf16", images=1).plan.launches if one.key]
    dw = next(one for one in before if one.key.operation == "conv2d_dw" and one.grid[1] > 1)
    entry = entry_of("pointer", CONFIG | {"SPLIT_K": 1})
    with use_table(90, {str(dw.key): entry}):
        after = [one for one in case.plan("bf16", images=1).plan.launches if one.key]
    for a, b in zip(before, after, strict=True):
        assert a.key == b.key
        if a.key == dw.key:
            assert used(b) == CONFIG and b.grid[1] == 1
        else:
            assert (a.name, a.grid, a.constants) == (b.name, b.grid, b.constants)


def test_without_a_file_the_table_is_empty(monkeypatch, tmp_path):
    monkeypatch.setattr(gemm_table, "FOLDER", tmp_path)
    monkeypatch.setattr(gemm_table, "_tables", {})
    assert measured_table(90) == {} == read_table(tmp_path / "sm_90.toml", 90)


def test_a_table_that_was_written_is_read(monkeypatch, tmp_path):
    """Writing and reading keep every entry, sorted by key, a line each; launches use it."""
    call, other = CALLS["conv2d"], CALLS["linear_dw"]
    table = {
        str(recorded(call).key): ENTRY | {"us": 27.25, "cold_us": 31.0, "rule_us": 30.5},
        str(recorded(other).key): ENTRY | {"split": 2},
    }
    path = tmp_path / "configs/sm_90.toml"
    write_table(path, FACTS, dict(reversed(table.items())))
    assert read_table(path, 90) == table
    lines = [line for line in path.read_text().splitlines() if line.startswith('"')]
    assert len(lines) == 2 and lines == sorted(lines)
    monkeypatch.setattr(gemm_table, "FOLDER", tmp_path / "configs")
    monkeypatch.setattr(gemm_table, "_tables", {})
    assert used(recorded(call)) == CONFIG and recorded(other).grid[1] == 2
    with launch.compile_only(80), launch.record(dry=True) as recording:
        call()
    assert used(recording[0]) != CONFIG  # the table of another generation


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"wraps": 4}, "unknown field 'wraps'"),
        ({"impl": None}, "'impl' is missing"),
        ({"impl": "small_c"}, "impl is one of tma, pointer, got 'small_c'"),
        ({"tile": "128x128"}, "tile is three powers of two from 16"),
        ({"tile": "96x64x64"}, "powers of two"),
        ({"warps": 6}, "powers of two"),
        ({"stages": 0}, "positive integers"),
        ({"split": 2}, "the sum of conv2d is not split"),
        (
            {"tile": "128x128x64", "stages": 8},
            "8 stages of 128x128x64 need 256 KB of shared memory, a program on sm_90 has 227",
        ),
    ],
)
def test_an_entry_that_cannot_be_launched_is_refused(tmp_path, change, reason):
    """The error is one sentence that names the file, the key and the reason."""
    key = str(recorded(CALLS["conv2d"]).key)
    entry = {name: value for name, value in (ENTRY | change).items() if value is not None}
    write_table(tmp_path / "sm_90.toml", FACTS, {key: entry})
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "sm_90.toml", 90)
    text = str(error.value)
    assert text.startswith(f"sm_90.toml, {key}: ") and reason in text and "\n" not in text


@pytest.mark.parametrize("text", ["[gemm", '[gemm]\n"conv3d a b c d" = { }', '[gemm]\n"x" = { }'])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "sm_90.toml").write_text(text)
    with pytest.raises(UserError, match=r"^sm_90.toml"):
        read_table(tmp_path / "sm_90.toml", 90)


def test_entry_and_configuration():
    assert configuration(ENTRY) == CONFIG
    split = CONFIG | {"SPLIT_K": 3}
    assert configuration(entry_of("pointer", split)) == split


@pytest.mark.parametrize(
    "programs, terms, two_fit, changed",
    [
        (256, 4096, True, {"maxnreg": 128}),  # a second program on an SM
        (128, 4096, True, {"num_stages": 6}),  # one program on each
        (128, 256, True, {"num_stages": 4}),  # a sum of four steps
        (128, 64, True, {}),
        (256, 4096, False, {"num_stages": 6}),  # one for its registers
    ],
)
def test_programs_that_share_an_sm(programs, terms, two_fit, changed):
    large = TABLES["half"][0]
    arguments = {"terms": terms, "itemsize": 2, "two_fit": two_fit}
    assert occupy(large, programs, 132, shared=227 * 1024, **arguments) == large | changed
    unknown = occupy(large, programs, 132, shared=0, **arguments)
    assert unknown["num_stages"] == large["num_stages"]


def test_stages_fit_in_shared_memory():
    """With 99 KB, of an L40 or an RTX 5090, a program of 128 x 128 keeps its three stages."""
    large, small = TABLES["half"][0], TABLES["half"][2]
    rest = {"terms": 4096, "itemsize": 2, "shared": 99 * 1024, "two_fit": True}
    assert occupy(large, 64, 132, **rest) == large
    assert occupy(small, 64, 132, **rest) == small | {"num_stages": 6}
