"""Runs of a plan as a CUDA graph: one launch from the host for all kernels of several steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rawgan.backend import array_module

if TYPE_CHECKING:
    from rawgan.kernels.runtime.memory_plan import Plan


class Graph:
    """`steps` runs of a plan, each with `repeats` repeated launches, captured from CuPy's stream.

    Capturing runs nothing: the arrays keep their values. The graph holds addresses alone, so the
    plan is kept with it, which keeps the arrays alive.
    """

    def __init__(self, plan: Plan, steps: int, repeats: int):
        self.plan, self.steps = plan, steps
        for launch in plan.launches:
            launch.load()  # to compile or load during a capture may fail
        cupy = array_module(*plan.launches[0].arrays)
        # A stream for the capture alone: the default stream cannot be captured, and work on it
        # would break the capture of a stream that waits for it. CuPy captures in the relaxed
        # mode: other threads may allocate and copy meanwhile.
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:  # launches go to the current stream
            stream.begin_capture()
            try:
                for _ in range(steps):
                    plan.run(repeats)
            finally:  # after an error, too: the stream would go on capturing
                self.graph = stream.end_capture()
        self.graph.upload(stream)
        stream.synchronize()

    def launch(self, stream=None) -> None:
        """Do all runs on a CuPy stream, by default the current one."""
        self.graph.launch(stream)
