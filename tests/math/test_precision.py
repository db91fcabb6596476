"""Conversion to bfloat16, against PyTorch's."""

import numpy as np
import pytest
import torch

from rawgan.precision import to_bfloat16


def bits(*words):
    return np.array(words, np.uint32).view(np.float32)


CASES = {
    "random": np.random.default_rng(0).normal(size=1000).astype(np.float32),
    "ties, to even": bits(0x3F808000, 0x3F818000, 0xBF808000, 0xBF818000),
    "next to a tie": bits(0x3F807FFF, 0x3F808001, 0x3F817FFF, 0x3F818001),
    "zeros and the smallest": bits(0x00000000, 0x80000000, 0x00000001, 0x00008000, 0x00018000),
    "largest and infinite": bits(0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0xFF800000),
}


@pytest.mark.parametrize("a", CASES.values(), ids=CASES)
def test_rounding_is_to_nearest_even(a):
    got = to_bfloat16(a)
    assert got.dtype == np.uint16
    want = torch.from_numpy(a).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(got, want)
