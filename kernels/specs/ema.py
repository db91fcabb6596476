"""Spec of ema.py: moving_average."""

from rawgan import ema
from rawgan.kernels.ema import moving_average
from rawgan.kernels.specs.spec import Spec

SPECS = (
    Spec(
        name="moving_average",
        wrapper=moving_average,
        reference=ema.moving_average,
        make=lambda array, n, decay: ((array(n, dtype="float32"), array(n), decay), {}),
        cases=({"n": 1500, "decay": 0.9}, {"n": 1, "decay": 0.0}),
        benchmarks=({"n": 3_574_656, "decay": 0.999},),
        traffic=lambda itemsize, n, **_: n * (8 + itemsize),
        flops=lambda n, **_: 3 * n,
        compiles=(("float32", {"n": 1920, "decay": 0.999}, {}),),
        dtypes=("float32",),
        writes=(0,),
    ),
)
