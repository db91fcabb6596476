"""Triton kernels, one file per operation of rawgan/ops; importing this package reads no device."""
