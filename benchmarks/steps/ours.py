"""Worker of benchmarks/steps/__main__.py for our planned steps in each precision.

Forms: kernels launched one by one, a CUDA graph of one step, a CUDA graph of 20 steps.
`python -m benchmarks.steps.ours CASE` answers the requests of benchmarks/common/worker.py.
"""

import sys
from functools import partial

from benchmarks.common.worker import Count, answer, timed
from benchmarks.steps.cases import CASES, Case
from benchmarks.steps.forms import STEPS_PER_GRAPH, WITHOUT
from rawgan.backend import choose_device


class Side:
    """Answers of the worker for one case."""

    def __init__(self, case: Case):
        self.case, self.device, self.plans, self.runs = case, choose_device("gpu"), {}, {}
        self.stream = self.device.xp.cuda.Stream(non_blocking=True)

    def prepare(self, name: str) -> dict:
        plan, form = name.split(", ")
        with self.stream:
            step, cell = self.plans.get(plan) or self.plan(plan)
            steps = STEPS_PER_GRAPH[form]
            self.runs[name] = (
                partial(step.plan.capture(steps).launch, self.stream) if steps else step.run
            )
        return cell

    def plan(self, name: str):
        precision, _, saving = name.partition(WITHOUT)
        pool = self.device.xp.get_default_memory_pool()
        before = pool.used_bytes()
        step = self.case.plan(precision, self.device, disable=[saving] if saving else [])
        for launch in step.plan.launches:
            launch.load()
        self.stream.synchronize()
        cell = {
            "memory_bytes": pool.used_bytes() - before,
            "arena_bytes": step.plan.bytes,
            "kernels": len(step.plan.launches),
        }
        self.plans[name] = step, cell
        return self.plans[name]

    def run(self, name: str, least: float) -> tuple[float, Count]:
        with self.stream:
            return timed(
                self.runs[name],
                self.stream.synchronize,
                least,
                max(STEPS_PER_GRAPH[name.split(", ")[1]], 1),
            )


if __name__ == "__main__":
    answer(Side(CASES[sys.argv[1]]))
