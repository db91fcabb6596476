"""What of benchmarks/steps.py needs no GPU: the plans, the compilation of what they launch, and PyTorch's steps at toy width.

plans       launches and arena of every case in every precision
compiled    every kernel that they launch, for sm_90, on all cores
forms       each of PyTorch's, for a step on the CPU: autocast too; the captured one without the capture, the compiled ones not
same        PyTorch's step says and does what GAN.train_step does, in float64, from the same weights, images and z, twice
"""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.facts import cores
from benchmarks.step_cases import CASES, Case
from benchmarks.step_worker import why
from benchmarks.steps_forms import THEIRS
from rawgan.errors import UserError
from rawgan.kernels import launch
from rawgan.layers import Dropout, leaves
from rawgan.planned import PRECISIONS, Planned


def describe(step: Planned) -> dict:
    """What a plan is known to take."""
    plan = step.plan
    return {
        "launches": len(plan.launches),
        "arena_bytes": plan.bytes,
        "separate_bytes": plan.separate,
        "kernels": dict(sorted(plan.counts().items())),
    }


def plans(names: list[str]) -> dict:
    """The plan of every case in every precision."""
    rows = {}
    for name in names:
        rows[name] = {"batch": CASES[name].batch}
        for precision in PRECISIONS:
            try:
                rows[name][precision] = describe(CASES[name].plan(precision, images=1))
            except UserError as error:
                rows[name][precision] = why(error)
        rows[name]["without"] = {
            saving: len(CASES[name].plan("bf16", images=1, without=[saving]).plan.launches) for saving in CASES[name].savings
        }
    return {"plans": rows}


def distinct(step: Planned) -> list[launch.Launch]:
    """The launches of a plan, each compiled kernel once."""

    def key(one: launch.Launch) -> str:
        kinds = [(str(a.dtype), launch.address(a) % 16) for a in one.arrays]
        return f"{one.name} {kinds} {one.constants}"

    return list({key(one): one for one in step.plan.launches}.values())


def compile_part(case: Case, precision: str, capability: int, part: int, parts: int) -> list[tuple[str, int]]:
    """(kernel, bytes of shared memory) of each launch of one part of a plan, compiled for sm_<capability> into Triton's cache."""
    launch.INTERPRETED = capability  # the plan on NumPy arrays takes the configurations of the GPU
    found = distinct(case.plan(precision, images=1))[part::parts]
    with launch.compile_only(capability):
        return [(one.name, one.compile().metadata.shared) for one in found]


def compile_plans(names: list[str], capability: int = 90) -> list[str]:
    """Compiles what all plans launch, on all cores; returns what went wrong."""
    parts, wrong = min(cores(), 4), []  # of a plan: each is planned anew
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        jobs = {
            (name, precision): [pool.submit(compile_part, CASES[name], precision, capability, n, parts) for n in range(parts)]
            for name in names
            for precision in PRECISIONS
        }
        for (name, precision), results in jobs.items():
            try:
                kernels = [kernel for part in results for kernel in part.result()]
                largest = max(shared for _, shared in kernels)
                said = f"{len(kernels)} kernels for sm_{capability}, at most {largest} bytes of shared memory"
            except UserError as error:
                said = str(error)
            except Exception as error:
                wrong.append(f"{name} {precision}")
                said = why(error)["not_measured"]
            print(f"{name}, {precision}: {said}", flush=True)
    return wrong


def forms_run(case: Case) -> dict[str, float]:
    """D's loss of a step of each of PyTorch's forms on the CPU, not captured and not compiled."""
    import torch

    from benchmarks.steps_torch import FORMS, TorchStep

    assert list(FORMS) == THEIRS
    said = {}
    for name, form in FORMS.items():
        torch.manual_seed(0)
        said[name] = float(TorchStep(case, form._replace(compiled=None), "cpu")()[0])
    return said


def apart(case: Case, form: str = "eager") -> float:
    """By how much at most losses and parameters of two steps of PyTorch and of GAN.train_step differ, relatively, in float64."""
    import torch

    from benchmarks.steps_torch import FORMS, TorchStep, network

    gan, rng, recipe = case.build(dtype=np.float64), np.random.default_rng(0), case.system
    for _, leaf in leaves(gan.discriminator):
        if isinstance(leaf, Dropout):
            leaf.p = 0.0
    theirs = TorchStep(case, FORMS[form]._replace(amp=False, compiled=None), "cpu", torch.float64, gan)
    reals = [np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)) for x in theirs.reals]
    worst = 0.0
    for _ in range(2):
        zs = [recipe.draw_z(rng, case.batch).astype(np.float64) for _ in range(case.reals + recipe.fresh_z)]
        labels = [rng.integers(0, recipe.classes, case.batch) for _ in zs] if recipe.classes else []
        alphas = [rng.random(case.batch) for _ in reals]
        theirs.z = handed(torch.from_numpy(z) for z in zs)
        theirs.alpha = handed(torch.from_numpy(a).reshape(-1, 1, 1, 1) for a in alphas)
        if labels:
            theirs.fake_labels = handed(torch.from_numpy(a) for a in labels)
        gan.rng = Given(alphas)
        ours = list(zip(zs, labels)) if labels else zs
        images = list(zip(reals, [a.numpy() for a in theirs.labels])) if labels else reals
        said = gan.train_step(images, ours)
        for got, want in zip(theirs(), (said["d_loss"], said["g_loss"])):
            worst = max(worst, abs(float(got) / float(want) - 1))
    image = (case.size, case.size, case.channels)
    for net, copy, shape in ((gan.generator, theirs.G, (recipe.z,)), (gan.discriminator, theirs.D, image)):
        want = network(net, shape, torch.float64).state_dict()
        for name, got in copy.state_dict().items():
            if not name.endswith("num_batches_tracked"):  # ours counts none
                worst = max(worst, float((got - want[name]).abs().max() / want[name].abs().max().clamp_min(1e-12)))
    return worst


def handed(tensors: Iterable) -> Callable:
    """A function that returns one after another."""
    return iter([*tensors]).__next__


class Given:
    """Random numbers that were drawn before, for a penalty."""

    def __init__(self, alphas: list[np.ndarray]):
        self.alphas = [*alphas]

    def random(self, shape) -> np.ndarray:
        return self.alphas.pop(0).reshape(shape)


def dry_run(names: list[str]) -> int:
    """Prints what it finds; 1 where something is wrong."""
    for name, row in plans(names)["plans"].items():
        for precision in PRECISIONS:
            said = row[precision]
            print(f"{name}, {precision}:", said.get("not_measured") or f"{said['launches']} launches, {said['arena_bytes']} bytes")
    wrong = compile_plans(names)
    for name in names:
        case = CASES[name].toy
        for form, loss in forms_run(case).items():
            print(f"{name} at {case.size}, width {case.width}, PyTorch {form}: D's loss {loss:.4f}", flush=True)
            wrong += [] if np.isfinite(loss) else [f"{name} {form}"]
        for form in ("eager", "captured"):
            difference = apart(case, form)
            print(f"{name}, PyTorch {form} and GAN.train_step in float64: {difference:.1e} apart", flush=True)
            wrong += [] if difference < 1e-8 else [f"{name} {form}"]
    print(f"nothing was measured; {len(wrong)} wrong", *wrong, sep="\n  ")
    return bool(wrong)
