"""Names of the forms timed by benchmarks/steps/__main__.py; imports neither PyTorch nor CuPy."""

from rawgan.precision import PRECISIONS

# our forms: steps per captured graph (0: no graph)
STEPS_PER_GRAPH = {"launches": 0, "graph": 1, "20 a graph": 20}
BEST = "20 a graph"
WITHOUT = " without "  # as in "bf16 without joint pass, 20 a graph"
OURS = [f"{precision}, {form}" for precision in PRECISIONS for form in STEPS_PER_GRAPH]
PLAIN = ["eager", "eager, no TF32", "AMP", "captured"]
COMPILED = ["compiled", "compiled, captured"]
THEIRS = [*PLAIN, *COMPILED]
