"""rawgan.toys: distributions, the count of modes, and examples/toy_modes.py on mode collapse."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2, kstest

from rawgan.layers import parameter_count
from rawgan.penalties import couples_samples
from rawgan.toys import TOYS, Mixture, count_modes, critic, generator, grid, ring
from tests.support.process import run_process
from tests.support.reference import assert_close, assert_same

EXAMPLE = Path(__file__).parents[2] / "examples" / "toy_modes.py"
toys = pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestDistributions:
    def test_centres(self):
        """Centres lie on a circle of radius 2, 45 degrees apart, or on a grid -4, -2, 0, 2, 4."""
        assert_close(np.hypot(*ring.centres.T), np.full(8, 2.0))
        assert_close(np.unwrap(np.arctan2(*ring.centres.T[::-1])), np.arange(8) * np.pi / 4)
        assert {tuple(c) for c in grid.centres} == {
            (x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)
        }
        assert (ring.std, grid.std) == (0.02, 0.05)

    @toys
    def test_samples(self, toy, rng):
        """Modes are equally likely; |x - centre|^2 / std^2 follows chi-squared(2)."""
        x, K = toy(rng, 20_000), len(toy.centres)
        assert x.shape == (20_000, 2) and x.dtype == np.float32
        difference = x[:, None] - toy.centres
        squared = (difference**2).sum(2)
        shares = np.bincount(squared.argmin(1), minlength=K) / len(x)
        assert abs(shares - 1 / K).max() < 5 * np.sqrt(1 / K / len(x))
        assert kstest(squared.min(1) / toy.std**2, chi2(2).cdf).pvalue > 1e-3

    @toys
    def test_spread(self, toy, rng):
        """The networks' inputs have unit variance along both axes."""
        x = toy(rng, 50_000) / toy.spread
        assert x.dtype == np.float32
        assert abs(x.std(0) - 1).max() < 0.02

    def test_spread_as_in_the_papers_code(self):
        assert abs(ring.spread - 1.414) < 1e-3
        assert abs(grid.spread - 2.828) < 2e-3

    def test_spread_of_wide_modes(self):
        """Centres at +-3 and noise of standard deviation 4: sqrt(9 + 16) along an axis."""
        assert Mixture(np.array([[3.0, 3.0], [-3.0, -3.0]]), std=4).spread == 5

    @toys
    def test_same_seed_same_samples(self, toy):
        assert_same(toy(np.random.default_rng(3), 50), toy(np.random.default_rng(3), 50))


class TestCountModes:
    @toys
    def test_true_samples(self, toy, rng):
        """True samples cover all modes, and 1 - exp(-9/2) of them lie within 3 std of a centre."""
        modes, good = count_modes(toy(rng, 20_000), toy.centres, toy.std)
        assert modes == len(toy.centres)
        assert abs(good - (1 - np.exp(-4.5))) < 0.004

    @toys
    def test_missed_modes(self, toy, rng):
        """Modes without samples are missed: of K modes with ten samples each, K are counted."""
        for K in range(1, len(toy.centres)):
            x = np.repeat(toy.centres[:K], 10, 0)
            assert count_modes(rng.permutation(x), toy.centres, toy.std) == (K, 1)

    def test_samples_off_the_modes(self):
        """Samples count up to 3 std and not beyond; one good sample covers a mode."""
        inside, outside = 2 + 0.0599, 2 + 0.0601
        assert count_modes(np.array([[inside, 0.0]]), ring.centres, ring.std) == (1, 1)
        assert count_modes(np.array([[outside, 0.0]]), ring.centres, ring.std) == (0, 0)
        x = np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0], [1.0, 1.0], [-1.9, 0.0]])
        assert count_modes(x, ring.centres, ring.std) == (2, 0.4)

    def test_nearest_centre_alone_is_covered(self):
        """A sample within 3 std of two centres covers only the nearest mode."""
        assert count_modes(np.array([[0.4, 0.0]]), np.array([[0.0, 0.0], [1.0, 0.0]]), 1.0) == (
            1,
            1,
        )

    def test_broken_samples_are_not_good(self):
        x = np.array([[np.nan, 0.0], [np.inf, 0.0], [2.0, 0.0], [2.0, np.nan]])
        assert count_modes(x, ring.centres, ring.std) == (1, 0.25)

    @pytest.mark.parametrize(
        "x, centres, std",
        [
            (np.zeros((0, 2)), ring.centres, 0.1),
            (np.zeros((5, 3)), ring.centres, 0.1),
            (np.zeros(2), ring.centres, 0.1),
            (np.zeros((5, 2)), np.zeros((0, 2)), 0.1),
            (np.zeros((5, 2)), ring.centres, 0.0),
            (np.zeros((5, 2)), ring.centres, np.nan),
        ],
    )
    def test_what_cannot_be_counted(self, x, centres, std):
        with pytest.raises(ValueError, match="expected samples"):
            count_modes(x, centres, std)


class TestNetworks:
    def test_shapes(self, rng):
        z, x = (
            rng.normal(size=(5, 3)).astype(np.float32),
            rng.normal(size=(5, 2)).astype(np.float32),
        )
        assert generator(width=16, z=3).forward(z)[0].shape == (5, 2)
        assert critic(width=16).forward(x)[0].shape == (5, 1)

    def test_three_hidden_layers(self):
        """Networks have the layers 2 -> 128 -> 128 -> 128 -> 1 or 2, with biases."""
        hidden = 3 * 128 + 2 * 129 * 128
        assert parameter_count(critic()) == hidden + 129
        assert parameter_count(generator()) == hidden + 129 * 2

    def test_the_penalty_is_one_per_sample(self):
        assert couples_samples(critic()) is None


class TestTraining:
    @pytest.mark.parametrize("name", ["GAN", "WGAN-GP"])
    def test_same_seed_same_run(self, example, name):
        players = [example.Player(name, ring, seed) for seed in (1, 1, 2)]
        for player in players:
            player.train(5)
        first, again, other = [player.sample(20) for player in players]
        assert_same(first, again)
        assert players[0].norms == players[1].norms
        assert abs(first - other).max() > 1e-3

    def test_norms(self, example):
        """There is one norm per critic step, and the report is the mean of the last 100."""
        player = example.Player("WGAN-GP", ring, 0)
        player.train(40)
        assert len(player.norms) == 120
        assert_close(player.last_norm(), np.mean(player.norms[20:]), dtype=np.float64)

    def test_surface(self, example, rng):
        """surface returns D's score at points of the plane, in the toy's units."""
        player = example.Player("WGAN-GP", grid, 0)
        x = rng.normal(size=(3, 4, 2)).astype(np.float32)
        want, _ = player.gan.discriminator.forward(x.reshape(12, 2) / grid.spread)
        assert_same(player.surface(x), want.reshape(3, 4))

    def test_ring(self, example):
        """After a sixth of the steps WGAN-GP covers every mode, and its slopes are near 1.

        The GAN misses modes, and its slopes exceed 5.
        """
        gan, wgan_gp = (example.Player(name, ring, seed=0) for name in example.PLAYERS)
        for player in (gan, wgan_gp):
            player.train(800)
        modes, good = count_modes(wgan_gp.sample(), ring.centres, ring.std)
        assert modes == 8 and good > 0.3
        assert 0.9 <= wgan_gp.last_norm() <= 1.1
        assert gan.last_norm() > 5
        assert count_modes(gan.sample(), ring.centres, ring.std)[0] < 8

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @toys
    def test_collapse_and_cure(self, example, toy, seed):
        """At full length the GAN misses modes and WGAN-GP none, with slopes within 0.9 to 1.1.

        Each takes a minute.
        """
        gan, wgan_gp = (example.Player(name, toy, seed) for name in example.PLAYERS)
        for player in (gan, wgan_gp):
            player.train(5000)
        got = count_modes(gan.sample(), toy.centres, toy.std)[0]
        assert got < len(toy.centres), f"the GAN covers all {got} modes"
        modes, good = count_modes(wgan_gp.sample(), toy.centres, toy.std)
        assert modes == len(toy.centres), f"WGAN-GP covers {modes} modes"
        assert good > 0.5
        assert 0.9 <= wgan_gp.last_norm() <= 1.1


class TestExample:
    @staticmethod
    def start(cwd, *args):
        command = [sys.executable, str(EXAMPLE), *map(str, args)]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
        return run_process(command, cwd=cwd, env=environment, timeout=120)

    @pytest.mark.parametrize("name, modes", [("ring", 8), ("grid", 25)])
    def test_picture(self, tmp_path, name, modes):
        done = self.start(tmp_path, "--distribution", name, "--steps", 3, "--seed", 1)
        assert done.returncode == 0, done.stderr
        gan, wgan_gp, last = done.stdout.splitlines()
        assert gan.startswith("GAN: ") and wgan_gp.startswith("WGAN-GP: ")
        assert f"of {modes} modes" in gan and f"of {modes} modes" in wgan_gp
        assert last == f"The picture is runs/toy-{name}-001/modes.png"
        with Image.open(tmp_path / "runs" / f"toy-{name}-001" / "modes.png") as picture:
            assert picture.width > 1000
            assert len(picture.getcolors(10**6)) > 50

    def test_out(self, tmp_path):
        """A missing output folder is made, and existing files in it stay unchanged."""
        assert self.start(tmp_path, "--steps", 1, "--out", "new/mine.png").returncode == 0
        before = (tmp_path / "new" / "mine.png").read_bytes()
        done = self.start(tmp_path, "--steps", 1, "--out", "new/mine.png")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: new/mine.png is there already; give --out another name\n"
        assert (tmp_path / "new" / "mine.png").read_bytes() == before
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.png"]

    @pytest.mark.parametrize(
        "args, words",
        [
            (
                ("--distribution", "square"),
                "there is no distribution 'square': choose ring or grid",
            ),
            (("--out", "file/mine.png"), "the folder file cannot be made"),
            (("--out", "file"), "does not end in .png"),
        ],
    )
    def test_bad_input(self, example, monkeypatch, capsys, tmp_path, args, words):
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["toy_modes.py", *args])
        with pytest.raises(SystemExit) as leaving:
            example.run_command(example.command)
        out, err = capsys.readouterr()
        assert (leaving.value.code, out) == (2, "")
        assert err.startswith("error: ") and words in err and err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize("args", [("--steps", 0), ("--seed", -1), ("--steps", "many")])
    def test_what_typer_refuses(self, tmp_path, args):
        done = self.start(tmp_path, *args)
        assert done.returncode == 2
        assert "Invalid value" in done.stderr and "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())
