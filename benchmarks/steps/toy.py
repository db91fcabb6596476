"""Workers of benchmarks/steps/__main__.py at toy size, for its dry run.

Our kernels run in Triton's interpreter, PyTorch on the CPU. A graph of several steps is one step
here, the captured form is not captured, and the compiled forms are not compiled.
`python -m benchmarks.steps.toy ours|torch CASE` is the worker.
"""

import sys
import time

from benchmarks.common.command import toy_device
from benchmarks.common.worker import Count, answer
from benchmarks.steps.cases import CASES, Case
from benchmarks.steps.forms import WITHOUT


class Toy:
    """Answers of the worker: each form is a function that takes one step."""

    def __init__(self, case: Case):
        self.case, self.steps = case, {}

    def run(self, name: str, least: float) -> tuple[float, Count]:
        """Take one step, however long it takes."""
        start = time.perf_counter()
        self.steps[name]()
        return 1e6 * (time.perf_counter() - start), 1


class Ours(Toy):
    """The planned step of a case."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.device = toy_device()

    def prepare(self, name: str) -> dict:
        precision, _, saving = name.partition(", ")[0].partition(WITHOUT)
        without = [saving] if saving else []
        step = self.case.plan(
            precision, self.device, images=self.case.reals * self.case.batch, disable=without
        )
        self.steps[name] = step.run
        return {
            "memory_bytes": 0,
            "arena_bytes": step.plan.bytes,
            "kernels": len(step.plan.launches),
        }


class Theirs(Toy):
    """PyTorch's step of a case."""

    def prepare(self, name: str) -> dict:
        from benchmarks.steps.torch_steps import FORMS, TorchStep, refuse

        form = FORMS[name]
        refuse(self.case, form)
        self.steps[name] = TorchStep(self.case, form._replace(compiled=False), "cpu")
        return {"memory_bytes": 0}

    def count(self, name: str) -> dict:
        """Return no count: nothing runs on a GPU."""
        return {}


if __name__ == "__main__":
    answer({"ours": Ours, "torch": Theirs}[sys.argv[1]](CASES[sys.argv[2]].tiny))
