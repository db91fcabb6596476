"""Device functions that kernels share: they work on one tile, in registers."""
