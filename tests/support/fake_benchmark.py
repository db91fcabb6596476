"""Stand-ins for benchmarks without a GPU: a clock, and the Spec of a kernel y = 2 x."""

import numpy as np

from rawgan.kernels.specs.spec import Spec


class FakeClock:
    """GPU stand-in with prescribed durations that records the calls it receives."""

    xp = np

    def __init__(self, *microseconds):
        self.now, self.durations, self.calls = 0.0, microseconds or (10.0,), []

    def event(self):
        self.calls.append("event")
        return self.now

    def microseconds(self, start, end):
        return end - start

    def flush(self):
        self.calls.append("flush")
        self.now += 1e6

    def synchronize(self):
        self.calls.append("synchronize")

    def work(self):
        """Return a timed function: each run takes the next of the durations."""
        self.now += self.durations[self.calls.count("run") % len(self.durations)]
        self.calls.append("run")

    def copy(self):
        return self.work, 3e7

    def product(self, dtype):
        if dtype == "tf32":
            raise RuntimeError("no such product")
        return self.work, 8e9


SIZES = ({"n": 1000}, {"n": 5})


def scaled(by=1.0, fails=False):
    """Return the Spec of a kernel that doubles its input, or of one with a wrong result."""

    def wrapper(x):
        if fails:
            raise RuntimeError("an illegal address\nand more")
        y = np.float32(2 * by) * x
        return y

    return Spec(
        name="double",
        wrapper=wrapper,
        reference=lambda x: 2 * x,
        make=lambda array, n: ((array(n),), {}),
        cases=(),
        benchmarks=SIZES,
        traffic=lambda itemsize, n: 2 * itemsize * n,
        flops=lambda n: n,
        compiles=(),
        dtypes=("float32",),
    )
