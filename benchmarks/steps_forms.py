"""The names of what is timed in benchmarks/steps.py, for those who must import neither PyTorch nor CuPy."""

from rawgan.planned import PRECISIONS

HOW = {"launches": 0, "graph": 1, "20 a graph": 20}  # ours: how many steps are captured at once
BEST = "20 a graph"
WITHOUT = " without "  # "bf16 without joint pass, 20 a graph"
OURS = [f"{precision}, {how}" for precision in PRECISIONS for how in HOW]
PLAIN = ["eager", "eager, no TF32", "AMP", "captured"]
COMPILED = ["compiled", "compiled, captured"]
THEIRS = [*PLAIN, *COMPILED]
