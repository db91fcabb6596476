"""Each guide of docs/add_a_*.md, followed with an example that is on no page.

A copy of the library is changed in the files that the page names, and the command that the page
gives is run there, with the name of the example.
"""

import re

from tests.support.clone import ROOT, append, apply_diff, fresh_clone, insert, run_python, run_tests
from tests.support.clone import replace_once as replace


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Return the arguments of the commands `pytest ...` of a page, in order."""
    arguments = re.findall(r"`pytest ([^`]+)`", text_of(page))
    assert arguments, f"{page} gives no command"
    return arguments


def lint(clone) -> None:
    """Run ruff, as in README.md: what a page gives to add passes it."""
    run_python(clone, "-m", "ruff", "check", "--no-cache", ".")


def without_imports(code: str) -> str:
    return re.sub(r"^(from|import) .*\n", "", code, flags=re.MULTILINE)


# A layer with curvature: squareplus, y = (x + sqrt(x^2 + 4)) / 2, in a form without cancellation

SQUAREPLUS = '''
@elementwise
def squareplus(x: Array) -> Array:
    """y = (x + sqrt(x^2 + 4)) / 2, as max(x, 0) + 2 / (r + |x|) with r = sqrt(x^2 + 4).

    Derivatives: squareplus_dx, squareplus_dx2. Source: Barron 2021 (arXiv:2112.11687).
    """
    if kernels_on(x):
        return kernels.squareplus(x)
    xp = array_module(x)
    return xp.maximum(x, 0) + 2 / (xp.sqrt(x * x + 4) + xp.absolute(x))


@elementwise
def squareplus_dx(dy: Array, x: Array) -> Array:
    """dx = y / r dy, with r = sqrt(x^2 + 4)."""
    if kernels_on(dy, x):
        return kernels.squareplus_dx(dy, x)
    return squareplus(x) / array_module(x).sqrt(x * x + 4) * dy


@elementwise
def squareplus_dx2(ddx: Array, dy: Array, x: Array) -> Array:
    """dx = 2 / r^3 dy ddx, with r = sqrt(x^2 + 4)."""
    if kernels_on(ddx, dy, x):
        return kernels.squareplus_dx2(ddx, dy, x)
    return 2 / (x * x + 4) ** 1.5 * dy * ddx
'''
LAYER = '''
class Squareplus(Layer):
    """y = (x + sqrt(x^2 + 4)) / 2; any shape."""

    def forward(self, x, train=True):
        return act.squareplus(x), x

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return act.squareplus_dx(dy, cache), {}

    def double_backward(self, ddx, dy, cache, need_ddy=True):
        return act.squareplus_dx(ddx, cache), act.squareplus_dx2(ddx, dy, cache), {}
'''
TWIN = """
class Squareplus(nn.Module):
    def forward(self, x):
        return (x + (x * x + 4).sqrt()) / 2
"""


def add_layer(clone):
    """Follow add_a_layer.md; return without the dispatch to kernels, which is of another page."""
    append(clone / "rawgan/ops/act.py", SQUAREPLUS)
    append(clone / "rawgan/layers/act.py", LAYER)
    layers = clone / "rawgan/layers/__init__.py"
    replace(layers, "Softplus, Tanh\n", "Softplus, Squareplus, Tanh\n")
    replace(layers, ' "Tanh",\n', '\n    "Squareplus", "Tanh",\n')
    tests = clone / "tests/math/test_act.py"
    replace(tests, "Sigmoid(), Softplus()]", "Sigmoid(), Softplus(),\n    Squareplus()]")
    replace(tests, "Softplus, Tanh\n", "Softplus, Squareplus, Tanh\n")
    twins = clone / "tests/support/twins.py"
    insert(twins, "class Reshape(nn.Module):", f"{TWIN.strip()}\n\n\n")
    insert(twins, "    layers.Reshape: ", "    layers.Squareplus: lambda layer: Squareplus(),\n")


UNKNOWN = """
from dataclasses import replace
import numpy as np, pytest
from rawgan.errors import UserError
from rawgan.exchange import Exchange, onnx_model
from rawgan.layers import Linear, Sequential, Squareplus
from rawgan.models.recipes import RECIPES
from rawgan.planned import plan_step
from rawgan.random import Random

def with_squareplus(size, channels, width, z=20):
    return Sequential(Linear(20, 8), Squareplus(), Linear(8, 784))

net = with_squareplus(28, 1, 8)
with pytest.raises(UserError, match="layer 1, Squareplus.* has no counterpart in torch.nn"):
    Exchange(net, (20,))
with pytest.raises(UserError, match="layer 1, Squareplus.* has no counterpart in torch.nn"):
    onnx_model(net, 20, 0, "net")
gan = replace(RECIPES["raschka_mlp_gan"], generator=with_squareplus).build(Random(0), 28, 1, 8)
with pytest.raises(UserError, match="planned step does not support layer 1, Squareplus"):
    plan_step(gan, np.zeros((4, 28, 28, 1), np.uint8), 4)
"""


def test_layer(tmp_path):
    """A layer with curvature; export and the planned step refuse it by name."""
    clone = fresh_clone(tmp_path)
    add_layer(clone)
    (command,) = commands("add_a_layer.md")
    run_tests(clone, command.split(), least=100)
    run_python(clone, "-c", UNKNOWN)


# A kernel: the layer's, as a branch of an existing file, and one in a file of its own

KERNEL_BRANCHES = """--- kernels/tile/activation.py
@@
+    elif ACT == "squareplus":
+        x = tl.where(x <= 0, 0.0, x) + 2.0 / (tl.sqrt(x * x + 4.0) + tl.abs(x))
     elif ACT == "softplus":
         x = tl.where(x <= 0, 0.0, x) + log1p(tl.exp(-tl.abs(x)))
@@
         return (1.0 - saved) * (1.0 + saved) * dy
+    elif ACT == "squareplus":
+        return activate(saved, ACT, SLOPE) / tl.sqrt(saved * saved + 4.0) * dy
@@
         return -2.0 * saved * (1.0 - saved) * (1.0 + saved) * dy * ddx
+    elif ACT == "squareplus":
+        r = tl.sqrt(saved * saved + 4.0)
+        return 2.0 / (r * r * r) * dy * ddx
"""
WRAPPERS = '''
def squareplus(x: Array) -> Array:
    """Squareplus, elementwise."""
    return _run("squareplus", x)


def squareplus_dx(dy: Array, x: Array) -> Array:
    """Return the derivative of squareplus times dy, from x."""
    return _run("squareplus", x, dy)


def squareplus_dx2(ddx: Array, dy: Array, x: Array) -> Array:
    """Return the second derivative of squareplus times dy ddx, from x."""
    return _run("squareplus", x, dy, ddx)
'''
NAMES = """    squareplus = LazyImport("act")
    squareplus_dx = LazyImport("act")
    squareplus_dx2 = LazyImport("act")
    hellinger_discriminator = LazyImport("loss")
"""
TERM = """--- kernels/tile/loss_terms.py
@@
         "linear"      p x
+        "exp_p"       exp(p x)
@@
+    elif LOSS_TERM == "exp_p":
+        return tl.exp(LOSS_PARAM * x), LOSS_PARAM * tl.exp(LOSS_PARAM * x)
     elif LOSS_TERM == "r1":
"""
TERM_WRAPPER = '''def hellinger_discriminator(a: Array, c: Array) -> tuple[Array, Array, Array]:
    """Return (loss, da, dc): mean exp(-a) + mean exp(c)."""
    return mean_terms((a, "exp_p", -1.0, 1.0), (c, "exp_p", 1.0, 1.0))


'''
THEIRS = """def squareplus(x):
    return lambda: (x + (x * x + 4).sqrt()) / 2


def hellinger_discriminator(a, c):
    return with_gradients(lambda a, c: torch.exp(-a).mean() + torch.exp(c).mean(), a, c)


"""
# The squared Hellinger distance as an f-divergence, up to the constant -2
HELLINGER = '''
@dataclass(frozen=True)
class Hellinger(Objective):
    """D: mean( exp(-a) ) + mean( exp(c) );  G: -mean(c).

    Source: Nowozin et al. 2016 (arXiv:1606.00709), table 1, with T = 1 - exp(-score).
    """

    def discriminator(self, a: Array, c: Array) -> tuple[Array, Array, Array]:
        if kernels_on(a, c):
            return kernels.hellinger_discriminator(a, c)
        xp = array_module(a, c)
        real, fake = xp.exp(-a), xp.exp(c)
        return _average(real) + _average(fake), -real / a.size, fake / c.size

    def generator(self, c: Array) -> tuple[Array, Array]:
        return -_average(c), array_module(c).full_like(c, -1 / c.size)
'''
BETWEEN = '''
@dataclass(frozen=True)
class ZeroCentred(R1):
    """P = weight / 2 mean( |g|^2 ) between real and fake; points as in WGANGP.

    Source: Thanh-Tung et al. 2019 (arXiv:1902.03984).
    """

    def points(self, real, fake, rng):
        return interpolate(real, fake, per_sample(rng, real))
'''


def add_loss(clone):
    """Follow add_a_loss.md up to its tests."""
    append(clone / "rawgan/losses.py", HELLINGER)
    twins = clone / "tests/support/twins.py"
    entry = """    losses.Hellinger: lambda o: separate(
        o,
        lambda a: torch.exp(-a).mean(),
        lambda c: torch.exp(c).mean(),
        lambda c: -c.mean(),
        largest=80,
    ),
"""
    replace(twins, "}\nOBJECTIVES = [\n", f"{entry}}}\nOBJECTIVES = [\n    losses.Hellinger(),\n")


def add_penalty(clone):
    """Follow the section on penalties of add_a_loss.md."""
    append(clone / "rawgan/penalties.py", BETWEEN)
    twins = clone / "tests/support/twins.py"
    value = "lambda norm: o.weight / 2 * (norm**2).mean()"
    entry = f"    penalties.ZeroCentred: lambda o: Penalty(between, {value}),\n"
    added = "    penalties.ZeroCentred(3.0),\n"
    replace(twins, "}\nPENALTIES = [\n", f"{entry}}}\nPENALTIES = [\n{added}")


def test_loss_and_penalty(tmp_path):
    """An f-divergence and a penalty between real and fake."""
    clone = fresh_clone(tmp_path)
    add_loss(clone)
    add_penalty(clone)
    of_loss, of_penalty = commands("add_a_loss.md")
    run_tests(clone, of_loss.split(), least=100)
    run_tests(clone, of_penalty.split(), least=100)
    lint(clone)


def test_branches(tmp_path):
    """The page's own diffs, then those of another activation and of another loss term."""
    clone = fresh_clone(tmp_path)
    mathematics = blocks("add_a_layer.md", "python")[0]
    append(clone / "rawgan/ops/act.py", without_imports(mathematics))
    for diff in blocks("add_a_branch.md", "diff"):
        apply_diff(clone, diff)
    add_layer(clone)
    add_loss(clone)
    for diff in (KERNEL_BRANCHES, TERM):
        apply_diff(clone, diff)
    append(clone / "kernels/act.py", WRAPPERS)
    specs = clone / "kernels/specs/act.py"
    insert(specs, "    swish,\n", "    squareplus,\n    squareplus_dx,\n    squareplus_dx2,\n")
    entries = "".join(
        f"    _spec(squareplus{derivative}, ops.squareplus{derivative}, {arrays}),\n"
        for arrays, derivative in enumerate(("", "_dx", "_dx2"), 1)
    )
    insert(specs, "    _spec(swish, ", entries)
    insert(clone / "kernels/loss.py", "def mean_score(", TERM_WRAPPER)
    specs = clone / "kernels/specs/loss.py"
    insert(specs, "    hinge_discriminator,\n    least", "    hellinger_discriminator,\n")
    entry = "    _spec(hellinger_discriminator, losses.Hellinger().discriminator, 2),\n"
    insert(specs, "    _spec(squared_hinge_discriminator,", entry)
    theirs = clone / "benchmarks/kernels/torch_references.py"
    insert(theirs, "def adam(", THEIRS)
    insert(clone / "kernels/__init__.py", "    relu = LazyImport", NAMES)
    activation, term = commands("add_a_branch.md")
    assert activation.endswith("-k swish") and term.endswith("-k squared_hinge")
    names = "squareplus or swish or hellinger or squared_hinge"
    run_tests(clone, [*activation.removesuffix(" -k swish").split(), "-k", names], least=60)
    lint(clone)


# A kernel of its own

KERNEL = '''"""The mean of two arrays, elementwise."""

import triton
import triton.language as tl

from rawgan.kernels.runtime import launch
from rawgan.kernels.tile.epilogue import load_f32

CONFIG = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def blend_kernel(x_ptr, z_ptr, y_ptr, SIZE: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr):
    """y = (1 - T) x + T z. Tile: BLOCK values."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < SIZE
    x = load_f32(x_ptr, offs, mask)
    z = load_f32(z_ptr, offs, mask)
    y = (1.0 - T) * x + T * z
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


def blend(x, z, t):
    """Return (1 - t) x + t z."""
    launch.require_equal((x.shape, z.shape))
    y = launch.empty(x, x.shape)
    grid = (launch.cdiv(x.size, CONFIG["BLOCK"]),)
    launch.run(blend_kernel, grid, x, z, y, SIZE=x.size, T=t, **CONFIG)
    return y
'''
KERNEL_SPEC = '''"""Spec of blend.py."""

from rawgan.kernels.blend import blend
from rawgan.kernels.specs.spec import Spec

SPECS = (
    Spec(
        name="blend",
        wrapper=blend,
        reference=lambda x, z, t: (1 - t) * x + t * z,
        make=lambda array, n: ((array(n), array(n), 0.25), {}),
        cases=({"n": 1500}, {"n": 1}),
        benchmarks=({"n": 2**24},),
        traffic=lambda itemsize, n: 3 * itemsize * n,
        flops=lambda n: 3 * n,
        compiles=(("bfloat16", {"n": 2**20}, {}),),
    ),
)
'''


def test_kernel(tmp_path):
    clone = fresh_clone(tmp_path)
    (clone / "kernels/blend.py").write_text(KERNEL)
    (clone / "kernels/specs/blend.py").write_text(KERNEL_SPEC)
    entry = '    blend = LazyImport("blend")\n'
    insert(clone / "kernels/__init__.py", "    conv2d = LazyImport", entry)
    (command,) = re.findall(r"`pytest ([^`]+)`", (ROOT / "kernels/README.md").read_text())
    run_tests(clone, command.replace("-k clip", "-k blend").split(), least=9)
    lint(clone)


# A recipe with the library's own R1

RECIPE = """    replace(
        DCGAN,
        name="dcgan_r1",
        source="Mescheder et al. 2018 (arXiv:1801.04406) with the networks of dcgan",
        discriminator=partial(dcgan.dcgan_discriminator, norm="none"),
        penalty=R1(10),
        generator_optimizer=partial(Adam, lr=1e-4, betas=(0.0, 0.99)),
        discriminator_optimizer=partial(Adam, lr=1e-4, betas=(0.0, 0.99)),
        departures=("no normalisation in D",),
    ),
"""


def test_recipe(tmp_path):
    """A recipe with R1: 20 steps equal PyTorch's; export; the generated page."""
    clone = fresh_clone(tmp_path)
    recipes = clone / "rawgan/models/recipes.py"
    insert(recipes, ")\n\nRECIPES = ", RECIPE)
    (command,) = commands("add_a_recipe.md")
    run_tests(clone, command.replace("-k hinge_dcgan", "-k dcgan_r1").split(), least=4)
    (script,) = blocks("add_a_recipe.md", "sh")
    for line in script.splitlines():
        program, *arguments = line.split()
        assert program == "python"
        run_python(clone, *arguments)
    run_tests(clone, ["tests/math/test_recipes.py", "-k", "page_of_recipes"], least=1)
    lint(clone)
