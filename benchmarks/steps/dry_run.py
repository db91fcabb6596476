"""Parts of benchmarks/steps/__main__.py that need no GPU: plans, compilation, PyTorch's toy steps.

plans       launches and arena of every case in every precision
compiled    every kernel that they launch, for sm_90, on all cores
forms       a CPU step of each of PyTorch's forms, autocast included; without graph capture and
            without torch.compile
same        PyTorch's step equals GAN.train_step in losses and parameters, in float64, from the
            same weights, images and z, for two steps
"""

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from benchmarks.common.worker import why
from benchmarks.steps.cases import CASES, Case
from benchmarks.steps.forms import THEIRS
from rawgan.errors import UserError
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.compile import compile_all, unique_jobs
from rawgan.layers import Dropout, leaves
from rawgan.planned.base import PlannedStep
from rawgan.precision import PRECISIONS


def describe(step: PlannedStep) -> dict:
    """Return launches and memory of a plan."""
    plan = step.plan
    return {
        "launches": len(plan.launches),
        "arena_bytes": plan.bytes,
        "separate_bytes": plan.unshared_bytes,
        "kernels": dict(sorted(plan.counts().items())),
    }


def plans(names: list[str]) -> dict:
    """Return the plan of every case in every precision."""
    rows = {}
    for name in names:
        rows[name] = {"batch": CASES[name].batch}
        for precision in PRECISIONS:
            try:
                rows[name][precision] = describe(CASES[name].plan(precision, images=1))
            except UserError as error:
                rows[name][precision] = why(error)
        rows[name]["without"] = {
            saving: len(CASES[name].plan("bf16", images=1, disable=[saving]).plan.launches)
            for saving in CASES[name].savings
        }
    return {"plans": rows}


def compile_plans(
    cases: dict[str, Case], capability: int = 90, precisions: Iterable[str] = PRECISIONS
) -> list[str]:
    """Compile the launches of all plans on all cores; return the errors."""
    wrong = []
    for (name, case), precision in product(cases.items(), precisions):
        try:
            # a plan on NumPy arrays uses the configurations of the GPU
            with launch.compile_only(capability):
                needed = unique_jobs(case.plan(precision, images=1).plan.launches)
        except UserError as error:
            print(f"{name}, {precision}: {error}", flush=True)
            continue
        results = compile_all(needed, capability)
        errors = [
            f"{job.name}: {result['error']}"
            for job, result in zip(needed, results)
            if "error" in result
        ]
        if errors:
            wrong.append(f"{name} {precision}")
        largest = max(result.get("shared", 0) for result in results)
        summary = (
            f"{len(needed)} kernels for sm_{capability}, at most {largest} bytes of shared memory"
        )
        print(f"{name}, {precision}: {'; '.join(errors) or summary}", flush=True)
    return wrong


def forms_run(case: Case) -> dict[str, float]:
    """Return D's loss of a CPU step of each PyTorch form, without capture or compilation."""
    import torch

    from benchmarks.steps.torch_steps import FORMS, TorchStep

    assert list(FORMS) == THEIRS
    losses = {}
    for name, form in FORMS.items():
        torch.manual_seed(0)
        losses[name] = float(TorchStep(case, form._replace(compiled=False), "cpu")()[0])
    return losses


def apart(case: Case, form: str = "eager") -> float:
    """Return the largest relative difference between two steps of PyTorch and of GAN.train_step.

    Losses and parameters are compared, in float64.
    """
    import torch

    from benchmarks.common.torch_network import network
    from benchmarks.steps.torch_steps import FORMS, TorchStep

    gan, rng, recipe = case.build(dtype=np.float64), np.random.default_rng(0), case.system
    for _, leaf in leaves(gan.discriminator):
        if isinstance(leaf, Dropout):
            leaf.p = 0.0
    for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
        optimizer.epsilon_hat = False  # PyTorch's position of epsilon in Adam
    theirs = TorchStep(
        case, FORMS[form]._replace(amp=False, compiled=False), "cpu", torch.float64, gan
    )
    reals = [np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)) for x in theirs.reals]
    worst = 0.0
    for _ in range(2):
        zs = [
            recipe.draw_z(rng, case.batch).astype(np.float64)
            for _ in range(case.reals + recipe.schedule.resample_z)
        ]
        labels = [rng.integers(0, recipe.classes, case.batch) for _ in zs] if recipe.classes else []
        alphas = [rng.random(case.batch) for _ in reals]
        theirs.z = handed(torch.from_numpy(z) for z in zs)
        theirs.alpha = handed(torch.from_numpy(a).reshape(-1, 1, 1, 1) for a in alphas)
        if labels:
            theirs.fake_labels = handed(torch.from_numpy(a) for a in labels)
        gan.rng = Given(alphas)
        ours = list(zip(zs, labels)) if labels else zs
        images = list(zip(reals, [a.numpy() for a in theirs.labels])) if labels else reals
        metrics = gan.train_step(images, ours)
        for got, want in zip(theirs(), (metrics["d_loss"], metrics["g_loss"])):
            worst = max(worst, abs(float(got) / float(want) - 1))
    image = (case.size, case.size, case.channels)
    for net, copy, shape in (
        (gan.generator, theirs.G, (recipe.z,)),
        (gan.discriminator, theirs.D, image),
    ):
        want = network(net, shape, torch.float64).state_dict()
        for name, got in copy.state_dict().items():
            if not name.endswith("num_batches_tracked"):  # rawgan has no such counter
                worst = max(
                    worst,
                    float((got - want[name]).abs().max() / want[name].abs().max().clamp_min(1e-12)),
                )
    return worst


def handed(tensors: Iterable) -> Callable:
    """Return a function that returns the tensors one after another."""
    return iter([*tensors]).__next__


class Given:
    """Random generator of a penalty that returns predetermined alphas."""

    def __init__(self, alphas: list[np.ndarray]):
        self.alphas = [*alphas]

    def random(self, shape) -> np.ndarray:
        return self.alphas.pop(0).reshape(shape)
