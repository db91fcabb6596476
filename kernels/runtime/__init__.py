"""Launching, recording, memory plan, CUDA graph, compilation: Triton's calling convention."""
