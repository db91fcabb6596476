"""GANs from scratch: hand-written forward, backward and second derivatives.

Every layer runs on NumPy, on CuPy and through fused Triton kernels.
"""

__version__ = "0.1.0"
