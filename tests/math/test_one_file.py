"""examples/dcgan_in_one_file.py: the library's trajectory, its imports, images and errors."""

import ast
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rawgan.layers import state
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from tests.support.process import run_process
from tests.support.reference import assert_close

SCRIPT = Path(__file__).parents[2] / "examples" / "dcgan_in_one_file.py"
NAMES = {"w": "w", "gamma": "gamma", "beta": "beta", "running_mean": "mean", "running_var": "var"}


@pytest.fixture(scope="module")
def script():
    """Return the file as a module, on NumPy, in float64."""
    spec = importlib.util.spec_from_file_location("dcgan_in_one_file", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", None)
        spec.loader.exec_module(module)
    module.DTYPE = np.float64
    return module


def array(net, key: str) -> np.ndarray:
    """Return the script's array that the library calls `key`, such as 2.running_mean.

    The library's generator begins with a Reshape, the script's does not.
    """
    index, _, name = key.partition(".")
    first = 1 if hasattr(net.layers[1], "gamma") else 0
    return getattr(net.layers[int(index) - first], NAMES[name])


@pytest.mark.parametrize("channels", [1, 3])
def test_trajectory_is_the_librarys(script, channels):
    """Twenty steps from the same weights and batches equal the library's, to rounding.

    Every loss, parameter and running statistic is compared.
    """
    gan = RECIPES["dcgan"].build(Random(0), 16, channels, script.WIDTH, dtype=np.float64)
    players = {
        "generator": script.generator(channels),
        "discriminator": script.discriminator(channels),
    }
    adams = []
    for name, net in players.items():
        ours, optimizer = getattr(gan, name), getattr(gan, f"{name}_optimizer")
        for key, values in state(ours).items():
            array(net, key)[...] = values
        adams.append(script.Adam(net, optimizer.lr, *optimizer.betas, optimizer.eps))
    rng = np.random.default_rng(0)
    for step in range(20):
        real, z = rng.uniform(-1, 1, (6, 16, 16, channels)), rng.standard_normal((6, script.Z))
        output = gan.train_step(real, z)
        losses = script.train_step(*players.values(), *adams, real, z[:, None, None])
        assert_close(
            np.array(losses),
            np.array([output["d_loss"], output["g_loss"]]),
            f"losses of step {step}",
        )
    for name, net in players.items():
        for key, values in state(getattr(gan, name)).items():
            assert_close(array(net, key), values, f"{name} {key}")


def test_imports_numpy_or_cupy_alone():
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported - set(sys.stdlib_module_names) == {"numpy", "cupy"}


def test_runs_as_a_script(tmp_path):
    """The script trains for three steps on a user's colour images and writes a valid image grid."""
    np.save(
        tmp_path / "own.npy", np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), np.uint8)
    )
    done = run_process([sys.executable, SCRIPT, "own.npy", "3"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 3: loss D" in done.stdout
    with Image.open(tmp_path / "runs/one-file/000003.png") as grid:
        assert (grid.size, grid.mode) == ((512, 512), "RGB")
        assert len(grid.getcolors(2**18)) > 100


def test_digits_are_drawn(script):
    """The script draws ten different digits, each with strokes and inside a dark border."""
    digits = script.draw_digits(200)
    assert digits.shape == (200, 16, 16, 1) and digits.dtype == np.uint8
    border = np.concatenate([digits[:, [0, -1]].reshape(-1), digits[:, :, [0, -1]].reshape(-1)])
    assert border.max() <= 128 and (digits.max((1, 2, 3)) > 200).all()
    means = [digits[i::10].mean(0) for i in range(10)]
    assert min(abs(a - b).max() for i, a in enumerate(means) for b in means[:i]) > 60


def test_bad_images(tmp_path):
    np.save(tmp_path / "bad.npy", np.zeros((70, 28, 28), np.uint8))
    done = run_process([sys.executable, SCRIPT, "bad.npy"], cwd=tmp_path)
    assert (
        done.returncode == 1
        and done.stderr
        == "images must be uint8 (n, 16, 16) or (n, 16, 16, 3), not uint8 (70, 28, 28, 1)\n"
    )
