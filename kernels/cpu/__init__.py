"""Fast NumPy implementations of convolution, BatchNorm, activations and long sums."""
