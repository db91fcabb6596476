"""What commands write: weights before plots, nothing replaced without --force."""

import json
import shutil
from typing import NamedTuple, get_type_hints

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rawgan.cli import evaluate as evaluate_command
from rawgan.cli.main import COMMANDS, app
from rawgan.errors import UserError
from rawgan.layers import state
from rawgan.metrics import classifier
from rawgan.training import callbacks, loop, plots
from rawgan.training.checkpoint import checkpoints
from rawgan.training.load import load_generator
from rawgan.training.plots import FRAME, save_grid, save_progress
from rawgan.training.run_folder import load_weights, numbered_samples
from rawgan.training.train import resume, start
from tests.support.runs import options

PLOTS = {"save_curves": loop, "save_gradients": callbacks, "save_progress": callbacks}


def rawgan(*args, status=0):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, args)))
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a conditional run with checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    start(options("cgan", steps=6, checkpoint_every=2, keep=3), folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(classifier, "STEPS", 60)


class TestPlots:
    @pytest.mark.parametrize("error", [UserError("no room"), MemoryError(), ValueError("a bug")])
    @pytest.mark.parametrize("name", PLOTS)
    def test_one_that_fails_costs_nothing_else(self, name, error, tmp_path, monkeypatch, capsys):
        def fail(*_):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(PLOTS[name], name, fail)
            assert start(options("dcgan", steps=4), tmp_path / "run") == (4, 4)
        load_weights(tmp_path / "run" / "weights.safetensors")
        output = capsys.readouterr().err
        assert output.count("could not be made") == 1 and "the weights are saved" in output
        files = {"save_curves": "losses.png", "save_gradients": "gradients.png"}
        missing = files.get(name, "progress.gif")
        for file in ("losses.png", "gradients.png", "progress.gif"):
            assert (tmp_path / "run" / file).exists() == (file != missing)
        assert resume(tmp_path / "run", steps=6) == (6, 6)

    @pytest.mark.parametrize("side", [1200, 1680])
    def test_large_grids_are_animated_smaller(self, side, tmp_path):
        """A grid above Pillow's limit for files of strangers becomes a frame of limited size."""
        grids = [tmp_path / f"step_{n:06}.png" for n in range(2)]
        for n, grid in enumerate(grids):
            save_grid(grid, np.full((64, side, side, 1), 100 * n, np.uint8), 8)
        pixels = (8 * (side + 1) + 1) ** 2
        assert pixels > Image.MAX_IMAGE_PIXELS and (pixels > 2 * Image.MAX_IMAGE_PIXELS) == (
            side == 1680
        )
        save_progress(tmp_path / "progress.gif", grids)
        with Image.open(tmp_path / "progress.gif") as gif:
            assert gif.n_frames == 2 and FRAME / 2 < gif.width <= FRAME

    def test_a_grid_has_a_limit_of_pixels(self, tmp_path, monkeypatch):
        save_grid(tmp_path / "grid.png", np.zeros((1, 8, 8, 1), np.uint8), 1)
        with Image.open(tmp_path / "grid.png") as grid:
            pixels = grid.width * grid.height
        monkeypatch.setattr(plots, "GRID_PIXELS", pixels)
        save_progress(tmp_path / "a.gif", [tmp_path / "grid.png"])
        monkeypatch.setattr(plots, "GRID_PIXELS", pixels - 1)
        with pytest.raises(UserError, match=f"it has more than {pixels - 1} pixels"):
            save_progress(tmp_path / "b.gif", [tmp_path / "grid.png"])

    def test_steps_are_sorted_as_numbers(self, tmp_path):
        (tmp_path / "samples").mkdir()
        steps = [999_750, 1_000_000, 0, 1_000_250, 250, 12_345_678]
        for step in steps:
            grid = np.full((1, 8, 8, 1), sorted(steps).index(step) * 40, np.uint8)
            save_grid(tmp_path / "samples" / f"step_{step:06}.png", grid, 1)
        grids = numbered_samples(tmp_path)
        assert list(grids) == sorted(steps)
        save_progress(tmp_path / "progress.gif", [*grids.values()])
        with Image.open(tmp_path / "progress.gif") as gif:
            assert gif.info["loop"] == 0  # without end
            shades = []
            for n in range(gif.n_frames):
                gif.seek(n)
                shades.append(gif.convert("L").getpixel((30, 30)))
        assert shades == sorted(shades) and len(set(shades)) == 6
        (tmp_path / "checkpoints").mkdir()
        for step in steps:
            (tmp_path / "checkpoints" / f"step_{step:06}.safetensors").write_bytes(b"")
        assert list(checkpoints(tmp_path)) == sorted(steps)


class Output(NamedTuple):
    """A command, its arguments, and the files that it writes: in RUN, or named by an option."""

    command: str
    files: tuple[str, ...]
    args: tuple = ()
    option: str | None = None  # None: the command chose the names, in RUN


FEW = ("--pairs", 2, "--frames", 2)
WALKS = tuple(
    f"interpolation-{line}.{suffix}"
    for line in ("linear", "spherical")
    for suffix in ("png", "gif")
)
OUTPUTS = {
    "sample": Output("sample", ("sample.png",)),
    "sample png": Output("sample", ("x.png",), (), "--out"),
    "sample npy": Output("sample", ("x.npy",), (), "--out"),
    "interpolate": Output("interpolate", WALKS, FEW),
    "interpolate out": Output("interpolate", WALKS, FEW, "--out"),
    "report": Output("report", ("report.html",)),
    "report out": Output("report", ("x.html",), (), "--out"),
    "export": Output("export", ("x.safetensors",), (), "--out"),
    "evaluate": Output("evaluate", ("evaluation.json",), ("--count", 20)),
    "evaluate json": Output("evaluate", ("x.json",), ("--count", 20), "--json"),
}


@pytest.mark.usefixtures("quick")
class TestForce:
    """One rule for all commands: nothing of the user's is replaced, except with --force.

    A file in RUN whose name the command chose is replaced without it, as long as it is as rawgan
    wrote it.
    """

    def test_every_command_with_the_option_is_here(self):
        commands = {
            name for name, module in COMMANDS.items() if "force" in get_type_hints(module.command)
        }
        assert {output.command for output in OUTPUTS.values()} == commands
        for name in commands:
            assert "replace the output where it is there already" in " ".join(
                rawgan(name, "--help").stdout.replace("│", " ").split()
            )

    @pytest.mark.parametrize("name", OUTPUTS)
    def test_rule(self, name, copy, tmp_path):
        command, files, args, option = OUTPUTS[name]
        folder = copy if option is None else tmp_path / "named"
        folder.mkdir(exist_ok=True)
        out = folder if files == WALKS else folder / files[0]
        told = (command, copy, *args, *(() if option is None else (option, out)))
        paths = [folder / file for file in files]
        for path in paths:  # each of them is the user's, the others are not there
            path.write_text("mine")
            refused = rawgan(*told, status=2)
            assert f"{path} is there already" in refused.stderr and "--force" in refused.stderr
            assert [p.read_text() for p in paths if p.exists()] == ["mine"]
            path.unlink()
        rawgan(*told)
        written = [path.read_bytes() for path in paths]
        if option is None:
            rawgan(*told)  # rawgan's own is replaced
        else:
            assert "--force" in rawgan(*told, status=2).stderr
            assert [path.read_bytes() for path in paths] == written
        paths[-1].write_text("mine, in the place of rawgan's")
        rawgan(*told, status=2)
        assert paths[-1].read_text() == "mine, in the place of rawgan's"
        rawgan(*told, "--force")
        assert b"mine" not in paths[-1].read_bytes()
        if option is None:
            rawgan(*told)

    def test_a_link_in_the_run_folder_is_never_replaced(self, copy, tmp_path):
        (tmp_path / "mine.png").write_text("mine")
        (copy / "sample.png").symlink_to(tmp_path / "mine.png")
        for force in ((), ("--force",)):
            assert "is a link" in rawgan("sample", copy, *force, status=2).stderr
        assert (tmp_path / "mine.png").read_text() == "mine"

    @pytest.mark.parametrize("record", ["[]", "{", '{"sample.png": 1}', ""])
    def test_a_broken_record_means_that_nothing_is_rawgans(self, record, copy):
        rawgan("sample", copy)
        (copy / "outputs.json").write_text(record)
        assert "may be yours" in rawgan("sample", copy, status=2).stderr
        rawgan("sample", copy, "--force")
        rawgan("sample", copy)

    def test_a_folder_has_the_pictures_that_were_asked_for_last(self, run, tmp_path):
        folder = tmp_path / "pictures"
        rawgan("sample", run, "--count", 9, "--seed", 1, "--out", folder)
        rawgan("sample", run, "--count", 4, "--seed", 2, "--out", folder, status=2)
        assert len(list(folder.iterdir())) == 9
        rawgan("sample", run, "--count", 4, "--seed", 2, "--out", folder, "--force")
        assert len(list(folder.iterdir())) == 4

    def test_files_of_others_are_never_removed(self, run, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("kept")
        told = ("sample", run, "--out", tmp_path / "mine", "--force")
        assert "holds notes.txt" in rawgan(*told, status=2).stderr
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]

    def test_it_is_said_before_the_networks_are_loaded(self, tmp_path):
        (tmp_path / "x.png").write_bytes(b"mine")
        told = ("sample", tmp_path / "nowhere", "--out", tmp_path / "x.png")
        assert "is there already" in rawgan(*told, status=2).stderr


class TestStep:
    def test_an_earlier_checkpoint_is_drawn_from(self, run, tmp_path):
        got = {}
        for step in (2, 4, 6, None):
            told = () if step is None else ("--step", step)
            path = tmp_path / f"{step}.npy"
            rawgan("sample", run, *told, "--count", 4, "--out", path)
            got[step] = np.load(path)
        np.testing.assert_array_equal(got[6], got[None])
        assert (got[2] != got[4]).any() and (got[4] != got[6]).any()
        rawgan("interpolate", run, "--step", 2, "--pairs", 2, "--frames", 2, "--out", tmp_path)

    def test_without_weights_the_last_of_several_is_drawn_from(self, copy):
        (copy / "weights.safetensors").unlink()
        got, last, earlier = (state(load_generator(copy, step=step)[1]) for step in (None, 6, 4))
        for name, a in last.items():
            np.testing.assert_array_equal(got[name], a)
        assert any((earlier[name] != a).any() for name, a in last.items())

    def test_one_that_is_not_there_is_named_with_those_that_are(self, run):
        for command in ("sample", "interpolate", "evaluate"):
            output = rawgan(command, run, "--step", 3, status=2).stderr
            assert "no checkpoint of step 3, only of 2, 4, 6" in output
        with pytest.raises(UserError, match="no checkpoint of step 0"):
            load_generator(run, step=0)


@pytest.mark.usefixtures("quick")
class TestEvaluation:
    def test_it_names_its_step_and_is_not_replaced_by_the_next(self, copy):
        for step in (4, 4, 6):
            output = rawgan("evaluate", copy, "--step", step, "--count", 20).output
            assert f"Step {step}, 20 samples" in output
        steps = {
            path.name: json.loads(path.read_text())["step"] for path in copy.glob("evaluation*")
        }
        assert steps == {
            "evaluation-000004.json": 4,
            "evaluation-000004-2.json": 4,
            "evaluation-000006.json": 6,
            "evaluation.json": 6,
        }

    def test_scores_are_printed_before_they_are_written(self, copy, monkeypatch):
        def full(*_):
            raise UserError("no room")

        monkeypatch.setattr(evaluate_command, "write_whole", full)
        output = rawgan("evaluate", copy, "--count", 20, status=2)
        assert "Frechet distance" in output.stdout and "no room" in output.stderr

    def test_what_cannot_be_written_is_said_before_the_work(self, copy, tmp_path, monkeypatch):
        def read_only(dir):
            raise OSError(30, "Read-only file system", str(dir))

        monkeypatch.setattr(evaluate_command, "TemporaryFile", read_only)
        monkeypatch.setattr(evaluate_command, "load_generator", None)
        output = rawgan("evaluate", copy, status=2).stderr
        assert "Read-only file system" in output and "--json" in output
        monkeypatch.undo()
        (tmp_path / "x.json").write_text("mine")
        output = rawgan("evaluate", copy, "--json", tmp_path / "x.json", status=2).stderr
        assert "is there already" in output and (tmp_path / "x.json").read_text() == "mine"

    def test_every_score_has_a_direction_and_a_bar_an_estimate(self, copy):
        output = rawgan("evaluate", copy, "--count", 20).output
        for name, better in (("Frechet distance", "lower"), ("recall", "higher")):
            line = next(line for line in output.splitlines() if line.startswith(name))
            assert line.split()[len(name.split())] == better
        assert "evaluation: 100%" in output and "classifier: 100%" in output

    def test_the_judge_is_kept_as_soon_as_it_is_trained(self, copy, tmp_path, monkeypatch):
        def stopped(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(evaluate_command, "sample", stopped)
            rawgan("evaluate", copy, "--count", 20, status=130)
        assert len(list((tmp_path / "cache" / "judges").iterdir())) == 1
        monkeypatch.setattr(classifier, "train_classifier", None)
        rawgan("evaluate", copy, "--count", 20)
