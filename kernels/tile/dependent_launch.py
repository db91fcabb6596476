"""Programmatic dependent launch: a kernel's programs start while the previous kernel ends.

On a GPU of compute capability 9.0 or more, a kernel launched with Triton's `launch_pdl` may start
before the previous kernel in the stream is complete: as soon as all its programs have called
`gdc_launch_dependents`, or have ended. It must not access global memory before `gdc_wait`, which
returns when the previous kernel is complete and its stores are visible. So that kernel N may rely
on all kernels before it, every kernel waits, also one that reads nothing of the previous one.

Source: CUDA C++ Programming Guide, "Programmatic Dependent Launch and Synchronization".
"""

import triton
import triton.language as tl


@triton.jit
def wait_for_previous_kernel(PDL: tl.constexpr):
    """With PDL wait for the previous kernel, then let the next one start: a kernel's first call."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
