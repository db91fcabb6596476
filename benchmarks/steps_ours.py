"""Our planned steps of benchmarks/steps.py in each precision: launched one by one, as a CUDA graph, with 20 steps in one graph.

python -m benchmarks.steps_ours CASE is the worker: see benchmarks/steps.py for what it answers.
"""

import sys
from functools import partial

from benchmarks.step_cases import CASES, Case
from benchmarks.step_worker import Count, answer, timed
from benchmarks.steps_forms import HOW, WITHOUT
from rawgan.backend import choose_device


class Side:
    """The worker's answers for one case."""

    def __init__(self, case: Case):
        self.case, self.device, self.plans, self.runs = case, choose_device("gpu"), {}, {}
        self.stream = self.device.xp.cuda.Stream(non_blocking=True)

    def prepare(self, name: str) -> dict:
        plan, how = name.split(", ")
        with self.stream:
            step, found = self.plans.get(plan) or self.plan(plan)
            steps = HOW[how]
            self.runs[name] = partial(step.plan.capture(steps).launch, self.stream) if steps else step.run
        return found

    def plan(self, name: str):
        precision, _, saving = name.partition(WITHOUT)
        pool = self.device.xp.get_default_memory_pool()
        before = pool.used_bytes()
        step = self.case.plan(precision, self.device, without=[saving] if saving else [])
        for launch in step.plan.launches:
            launch.load()
        self.stream.synchronize()
        found = {"memory_bytes": pool.used_bytes() - before, "arena_bytes": step.plan.bytes, "kernels": len(step.plan.launches)}
        self.plans[name] = step, found
        return self.plans[name]

    def run(self, name: str, least: float) -> tuple[float, Count]:
        with self.stream:
            return timed(self.runs[name], self.stream.synchronize, least, max(HOW[name.split(", ")[1]], 1))


if __name__ == "__main__":
    answer(Side(CASES[sys.argv[1]]))
