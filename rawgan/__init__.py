"""GANs from scratch: every layer's forward, backward and second derivative by hand, on NumPy, CuPy and Triton."""

__version__ = "0.1.0"
