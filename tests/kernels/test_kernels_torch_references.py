"""PyTorch's functions in benchmarks/kernels/torch_references.py equal the kernels' references."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.kernels import __main__ as command
from benchmarks.kernels import torch_references as kernels_torch
from benchmarks.kernels.rows import Row
from rawgan.kernels import all_specs
from tests.support.fake_benchmark import FakeClock
from tests.support.tolerance import assert_close

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", kernels_torch.FUNCTIONS)
def test_pytorch_computes_the_same(name, monkeypatch):
    """Each function in kernels_torch.py equals its kernel's float64 reference at test shapes."""
    spec, compared = all_specs()[name], 0

    def array(*shape, dtype=None):
        a = rng.normal(size=shape)
        return (
            rng.integers(0, 100, shape).astype(dtype) if dtype in ("int64", "int32", "uint8") else a
        )

    for case in spec.cases:
        rng = np.random.default_rng(3)
        args, options = spec.make(array, **case)
        values = [kernels_torch.tensor(a.copy() if hasattr(a, "dtype") else a, "cpu") for a in args]
        named = {
            key: kernels_torch.tensor(a.copy() if hasattr(a, "dtype") else a, "cpu")
            for key, a in options.items()
        }
        try:
            got = kernels_torch.FUNCTIONS[name](*values, **named)()
        except NotImplementedError:
            continue
        compared += 1
        want = spec.reference(*args, **options)
        if spec.writes and want is None:
            got = [values[i] for i in spec.writes] + [
                a for a in named.values() if torch.is_tensor(a)
            ]
            want = [args[i] for i in spec.writes] + [
                a for a in options.values() if hasattr(a, "dtype")
            ]
        got, want = (v if isinstance(v, tuple | list) else [v] for v in (got, want))
        for i, (g, w) in enumerate(zip(got, want)):
            channels_first = g.ndim == 4 and (name.startswith("conv2d") or g.shape != w.shape)
            a = g.detach().movedim(1, -1) if channels_first else g.detach()
            assert_close(a.numpy(), w, f"{name} {case}, output {i}")
    assert compared


def test_the_process_with_pytorch(monkeypatch, capsys):
    """The PyTorch process answers every row in order, and gives reasons for missing numbers."""
    rows = [["relu", "bfloat16", 0], ["r1_value", "float32", 0, None], ["adam", "float16", 0]]

    def timed(row, device):
        return (
            clock.work
            if row.kernel == "relu"
            else real(row, "cpu")
            if row.kernel == "r1_value"
            else 1 / 0
        )

    clock, real = FakeClock(), kernels_torch.timed
    monkeypatch.setattr(kernels_torch, "TorchClock", lambda torch: clock)
    monkeypatch.setattr(kernels_torch, "timed", timed)
    for lines in ([1e9, rows], [0.0, rows[:1]]):
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(lines)))
        kernels_torch.main()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [n for n, _ in answers] == [0, 1, 2, 0]
    assert answers[0][1]["median_us"] == 10
    assert [cell["not_measured"] for _, cell in answers[1:]] == [
        "PyTorch has no such function", "ZeroDivisionError('division by zero')", "no time was left",
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch finds a GPU here")
def test_pytorch_without_a_gpu():
    """Without a GPU the PyTorch process ends, and the rows state the reason."""
    cells, saved = [{}], []
    command.measure_torch([Row("relu", "float32", 0)], cells, 1.0, lambda: saved.append(1))
    assert (
        cells == [{"torch": {"not_measured": "the process with PyTorch ended before it"}}]
        and not saved
    )


def test_each_function_is_that_of_a_kernel():
    """A function whose kernel has another name would never be timed."""
    assert kernels_torch.FUNCTIONS.keys() <= all_specs().keys()
    assert len(kernels_torch.FUNCTIONS) >= 40
