"""Shared code of the tests: references, PyTorch twins, tolerances and tiny runs."""
