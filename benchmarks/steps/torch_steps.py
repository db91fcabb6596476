"""PyTorch's training steps for benchmarks/steps/__main__.py, in the forms that a user would choose.

    eager             as in pytorch/examples: float32, convolutions in TF32, cudnn.benchmark, NCHW,
                      Adam with default options
    eager, no TF32    eager with TF32 off
    AMP               autocast to bfloat16, channels_last, fused Adam
    captured          AMP, with the whole step captured by torch.cuda.graph and D's parameters
                      frozen in G's step; a critic without normalisation takes real and fake as
                      one batch
    compiled          AMP, with torch.compile of each network in its default mode
    compiled, captured    captured, with compiled networks

Networks and initial weights equal ours. The real images are float32 in GPU memory, while ours are
gathered from bytes in every step; z is drawn in the step. torch.compile does not support the
double backward of a gradient penalty; those cells say so.

`python -m benchmarks.steps.torch_steps CASE` is the worker that answers the requests of
benchmarks/common/worker.py.
"""

import contextlib
import sys
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.common.torch_network import network
from benchmarks.common.worker import Count, answer, timed
from benchmarks.steps.cases import CASES, Case
from rawgan.errors import UserError
from rawgan.layers import BatchNorm, leaves
from rawgan.losses import BCE, Objective, Wasserstein
from rawgan.optim import Adam


class Form(NamedTuple):
    tf32: bool = True
    amp: bool = False
    captured: bool = False
    compiled: bool = False


FORMS = {
    "eager": Form(),
    "eager, no TF32": Form(tf32=False),
    "AMP": Form(amp=True),
    "captured": Form(amp=True, captured=True),
    "compiled": Form(amp=True, compiled=True),
    "compiled, captured": Form(amp=True, captured=True, compiled=True),
}


def losses(objective: Objective) -> tuple:
    """Return D's loss as a function of the scores of real and fake, and G's loss."""
    if objective == BCE():
        to_one, to_zero = (
            lambda c: F.binary_cross_entropy_with_logits(c, torch.ones_like(c)),
            lambda c: F.binary_cross_entropy_with_logits(c, torch.zeros_like(c)),
        )
        return to_one, to_zero, to_one
    if objective == Wasserstein():
        return (lambda a: -a.mean()), torch.mean, (lambda c: -c.mean())
    raise NotImplementedError(f"{objective} in PyTorch")


class TorchStep:
    """A training step: a call trains once and returns D's loss and G's."""

    def __init__(self, case: Case, form: Form, device: str = "cuda", dtype=torch.float32, gan=None):
        self.case, self.form, self.device, self.recipe = case, form, device, case.system
        gan = gan or case.build()
        classes, image = self.recipe.classes, (case.size, case.size, case.channels)
        nets = (
            network(gan.generator, (self.recipe.z,), dtype),
            network(gan.discriminator, image, dtype),
        )
        memory = torch.channels_last if form.amp else torch.contiguous_format
        self.G, self.D = (net.to(device, memory_format=memory) for net in nets)
        self.moves = [
            self.adam(o, net)
            for o, net in ((gan.generator_optimizer, self.G), (gan.discriminator_optimizer, self.D))
        ]
        if form.compiled:
            self.G, self.D = (torch.compile(net) for net in (self.G, self.D))
        self.real_loss, self.fake_loss, self.generator_loss = losses(gan.objective)
        images, labels = case.data(case.reals * case.batch)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, dtype)
        x = (x / 255 if self.recipe.pixels == "unit" else x / 127.5 - 1).contiguous(
            memory_format=memory
        )
        self.reals = x.split(case.batch)
        self.labels = (
            torch.from_numpy(labels).to(device).long().split(case.batch) if classes else None
        )
        self.classes = torch.arange(classes, device=device)
        normalised = any(isinstance(leaf, BatchNorm) for _, leaf in leaves(gan.discriminator))
        self.joint = form.captured and not normalised

    def adam(self, ours, net: nn.Module) -> torch.optim.Optimizer:
        if not isinstance(ours, Adam):
            raise NotImplementedError(f"{type(ours).__name__} in PyTorch")
        options = {"fused": True} if self.form.amp and self.device == "cuda" else {}
        options |= {"capturable": True} if self.form.captured and self.device == "cuda" else {}
        return torch.optim.Adam(net.parameters(), ours.lr, ours.betas, ours.eps, **options)

    def z(self) -> torch.Tensor:
        z = self.reals[0].new_empty(self.case.batch, self.recipe.z)
        return z.normal_() if self.recipe.draw == "normal" else z.uniform_(-1, 1)

    def alpha(self) -> torch.Tensor:
        return self.reals[0].new_empty(self.case.batch, 1, 1, 1).uniform_()

    def fake_labels(self) -> torch.Tensor | None:
        if self.labels is None:
            return None
        return torch.randint(self.recipe.classes, (self.case.batch,), device=self.device)

    def beside(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Concatenate one-hot labels to x along the channel axis."""
        if labels is None:
            return x
        hot = (labels[:, None] == self.classes).to(x.dtype)
        return torch.cat(
            [x, hot if x.ndim == 2 else hot[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1
        )

    def amp(self):
        if not self.form.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.recipe.schedule.order == "generator_first":
            fake, labels = self.generate()
            g = self.generator_step(fake, labels)
            return self.discriminator_step(0, fake.detach(), labels), g
        for i in range(self.case.reals):
            with torch.no_grad() if self.recipe.schedule.resample_z else contextlib.nullcontext():
                fake, labels = self.generate()
            d = self.discriminator_step(i, fake.detach(), labels)
        if self.recipe.schedule.resample_z:
            fake, labels = self.generate()
        return d, self.generator_step(fake, labels)

    def generate(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        labels = self.fake_labels()
        with self.amp():
            return self.G(self.beside(self.z(), labels)), labels

    def discriminator_step(
        self, i: int, fake: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        self.moves[1].zero_grad()
        with self.amp():
            real, fake = (
                self.beside(self.reals[i], self.labels and self.labels[i]),
                self.beside(fake, labels),
            )
            if self.joint:
                a, c = self.D(torch.cat([real, fake.to(real.dtype)])).chunk(2)
            else:
                a, c = self.D(real), self.D(fake)
            loss = self.real_loss(a.float() if self.form.amp else a) + self.fake_loss(
                c.float() if self.form.amp else c
            )
            if self.recipe.penalty is not None:
                loss = loss + self.penalty(real, fake.to(real.dtype))
        loss.backward()
        self.moves[1].step()
        return loss.detach()

    def penalty(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Return the gradient penalty of Gulrajani et al., by double backward."""
        x = torch.lerp(fake, real, self.alpha()).requires_grad_()
        (g,) = torch.autograd.grad(self.D(x).sum(), x, create_graph=True)
        return self.recipe.penalty.weight * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()

    def generator_step(self, fake: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        self.moves[0].zero_grad()
        if self.form.captured:
            self.D.requires_grad_(False)
        with self.amp():
            c = self.D(self.beside(fake, labels))
            loss = self.generator_loss(c.float() if self.form.amp else c)
        loss.backward()
        self.D.requires_grad_(True)
        self.moves[0].step()
        return loss.detach()


def refuse(case: Case, form: Form) -> None:
    """Raise UserError for a form that PyTorch does not support."""
    if form.compiled and case.system.penalty is not None:
        raise UserError("torch.compile has no double backward")


def prepare(case: Case, form: Form):
    """Return the step of a form, ready to be timed on the GPU.

    Raises UserError for a form that PyTorch does not support.
    """
    refuse(case, form)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = form.tf32, True
    step = TorchStep(case, form)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    if not form.captured:
        return step
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step.kept = step()
    return partial(replay, graph, step)


def replay(graph, step: TorchStep) -> None:
    """Replay the graph; the argument `step` keeps the memory of its inputs allocated."""
    graph.replay()


class Side:
    """Answers of the worker for one case."""

    def __init__(self, case: Case):
        self.case, self.steps = case, {}

    def prepare(self, name: str) -> dict:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.steps[name] = prepare(self.case, FORMS[name])
        torch.cuda.synchronize()
        return {"memory_bytes": torch.cuda.max_memory_allocated() - before}

    def run(self, name: str, least: float) -> tuple[float, Count]:
        form, step = FORMS[name], self.steps[name]
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = form.tf32, True
        return timed(step, torch.cuda.synchronize, least)

    def count(self, name: str) -> dict:
        """Return the number of kernels and copies of a step, counted by PyTorch's profiler.

        Call it last: the profiler may slow down later steps.
        """
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            self.steps[name]()
            torch.cuda.synchronize()
        seen = sum(
            event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events()
        )
        return {"kernels": seen} if seen else {}


if __name__ == "__main__":
    answer(Side(CASES[sys.argv[1]]))
