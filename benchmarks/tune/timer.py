"""Times of the sweep on a GPU: a launch in a graph, one with an empty cache, whole steps."""

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.common.timing import CupyClock, measure
from benchmarks.common.worker import timed
from benchmarks.steps.cases import Case
from rawgan.backend import choose_device
from rawgan.kernels.gemm_table import use_table
from rawgan.kernels.runtime.compile import compile_all, unique_jobs

REPEATS = 20  # of the launches in a graph
ROUNDS = 5
COLD_SECONDS = 0.005


class Timer:
    """Events on a stream of its own, which can be captured: the current one of its caller."""

    def __init__(self):
        self.stream = choose_device("gpu").xp.cuda.Stream(non_blocking=True)
        with self.stream:
            self.clock = CupyClock()

    def time(self, launches: Sequence[Callable[[], None]]) -> dict:
        """Return microseconds of the launches together: us in a graph, cold_us without a cache."""

        def run() -> None:
            for launch in launches:
                launch()

        self.stream.begin_capture()
        try:
            for _ in range(REPEATS):
                run()
        finally:  # after an error, too: the stream would go on capturing
            graph = self.stream.end_capture()
        graph.launch(self.stream)
        warm = min(self.once(lambda: graph.launch(self.stream)) for _ in range(ROUNDS))
        cold = measure(self.clock, run, COLD_SECONDS)
        return {"us": round(warm / REPEATS, 3), "cold_us": cold["median_us"]}

    def once(self, f: Callable[[], None]) -> float:
        """Return the microseconds of one call on the current stream."""
        start = self.clock.event()
        f()
        return self.clock.microseconds(start, self.clock.event())


def time_steps(case: Case, precision: str, capability: int, table: dict) -> dict:
    """Return the microseconds of a whole step with the rule alone and with a table, in turns."""
    device = choose_device("gpu")
    stream = device.xp.cuda.Stream(non_blocking=True)
    graphs, times = {}, {"rule_us": [], "table_us": []}
    for name, used in (("rule_us", {}), ("table_us", table)):
        with use_table(capability, used), stream:
            plan = case.plan(precision, device).plan
            compile_all(unique_jobs(plan.launches), capability)
            graphs[name] = plan.capture(REPEATS)
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            with stream:
                us, _ = timed(lambda g=graph: g.launch(stream), stream.synchronize, 0.1, REPEATS)
            times[name].append(us)
    return {name: round(median(values), 1) for name, values in times.items()}
