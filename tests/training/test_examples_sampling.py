"""examples/sample.py and interpolate.py as a user calls them: files, exit statuses, messages."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.support.example_runs import assert_one_sentence, size_of, start, train, write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """Return a run of examples/train_dcgan.py."""
    out = tmp_path_factory.mktemp("runs") / "dcgan"
    code, _, err = start(
        out.parent,
        "train_dcgan.py",
        "--data",
        data,
        "--size",
        16,
        "--steps",
        2,
        "--width",
        4,
        "--batch",
        8,
        "--out",
        out,
    )
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def conditional(data, tmp_path_factory):
    return train("cgan", data, tmp_path_factory.mktemp("runs") / "cgan")


@pytest.fixture
def copy(plain, tmp_path):
    """Return a copy of a run that a test may modify."""
    return Path(shutil.copytree(plain, tmp_path / "copy"))


class TestSample:
    def test_in_a_process(self, plain, tmp_path):
        code, out, err = start(
            tmp_path, "sample.py", plain, "--count", 5, "--seed", 3, "--out", "five.png"
        )
        assert code == 0, err
        first, last = out.splitlines()
        assert (
            first.startswith("Device: cpu, computing with NumPy (")
            and last == "5 pictures of dcgan written to five.png"
        )
        assert size_of(tmp_path / "five.png") == (4 * (3 * 17 + 1), 4 * (2 * 17 + 1))
        assert_one_sentence(
            start(tmp_path, "sample.py", "nowhere"), "there is no run folder nowhere"
        )

    def test_the_seed_decides(self, example, copy):
        pictures = []
        for seed in (1, 1, 2):
            assert example("sample.py", copy, "--count", 4, "--seed", seed)[0] == 0
            pictures.append((copy / "sample.png").read_bytes())
        assert pictures[0] == pictures[1] != pictures[2]

    def test_a_column_per_class(self, example, conditional, tmp_path):
        assert example("sample.py", conditional, "--count", 20, "--out", tmp_path / "a.png")[0] == 0
        assert size_of(tmp_path / "a.png") == (4 * (10 * 17 + 1), 4 * (2 * 17 + 1))

    def test_a_single_digit_on_request(self, example, conditional, tmp_path):
        for label in (0, 7, 9):
            assert (
                example(
                    "sample.py",
                    conditional,
                    "--count",
                    4,
                    "--label",
                    label,
                    "--out",
                    tmp_path / f"{label}.png",
                )[0]
                == 0
            )
            assert size_of(tmp_path / f"{label}.png") == (4 * (2 * 17 + 1),) * 2
        assert (tmp_path / "0.png").read_bytes() != (tmp_path / "7.png").read_bytes()

    @pytest.mark.parametrize("label", [-1, 10])
    def test_labels_out_of_range(self, example, conditional, label, tmp_path):
        out = tmp_path / "a.png"
        assert_one_sentence(
            example("sample.py", conditional, "--label", label, "--out", out),
            "labels 0 to 9",
            f"not {label}",
        )
        assert not out.exists()

    def test_a_label_for_an_unconditional_recipe(self, example, plain):
        assert_one_sentence(
            example("sample.py", plain, "--label", 7), "dcgan is trained without labels"
        )

    def test_places_that_cannot_be_written(self, example, plain, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder.png").mkdir()
        assert_one_sentence(
            example("sample.py", plain, "--out", tmp_path / "a.jpg"), ".png", "a.jpg"
        )
        assert_one_sentence(
            example("sample.py", plain, "--out", tmp_path / "nowhere" / "a.png"),
            "cannot be written",
        )
        assert_one_sentence(
            example("sample.py", plain, "--out", tmp_path / "file" / "a.png"), "cannot be written"
        )
        assert_one_sentence(
            example("sample.py", plain, "--out", tmp_path / "folder.png"), "cannot be written"
        )

    @pytest.mark.parametrize(
        "args", [(), ("run", "--count", 0), ("run", "--seed", -1), ("run", "--label", "seven")]
    )
    def test_arguments_that_make_no_sense(self, example, args):
        code, _, err = example("sample.py", *args)
        assert code == 2 and "Traceback" not in err


WALKS = {
    f"interpolation-{way}.{kind}" for way in ("linear", "spherical") for kind in ("png", "gif")
}


class TestInterpolate:
    def test_in_a_process(self, plain, tmp_path):
        code, out, err = start(
            tmp_path, "interpolate.py", plain, "--pairs", 2, "--frames", 5, "--out", "walks"
        )
        assert code == 0, err
        assert out.startswith("Device: cpu, computing with NumPy (")
        assert {path.name for path in (tmp_path / "walks").iterdir()} == WALKS
        for way in ("linear", "spherical"):
            assert size_of(tmp_path / "walks" / f"interpolation-{way}.png") == (
                4 * (5 * 17 + 1),
                4 * (2 * 17 + 1),
            )
            with Image.open(tmp_path / "walks" / f"interpolation-{way}.gif") as gif:
                lasts = 0
                for n in range(gif.n_frames):
                    gif.seek(n)
                    lasts += gif.info["duration"]
            assert lasts == 8 * 60
        assert_one_sentence(
            start(tmp_path, "interpolate.py", "nowhere"), "there is no run folder nowhere"
        )

    def test_into_the_run_unless_told(self, example, copy):
        assert example("interpolate.py", copy, "--pairs", 1, "--frames", 2)[0] == 0
        assert all((copy / name).exists() for name in WALKS)

    def test_labels(self, example, conditional, tmp_path):
        assert (
            example(
                "interpolate.py",
                conditional,
                "--pairs",
                1,
                "--frames",
                2,
                "--label",
                7,
                "--out",
                tmp_path,
            )[0]
            == 0
        )
        assert_one_sentence(
            example("interpolate.py", conditional, "--label", 10), "labels 0 to 9", "not 10"
        )

    def test_bad_input(self, example, plain, tmp_path):
        (tmp_path / "file").write_text("")
        assert_one_sentence(example("interpolate.py", plain, "--label", 1), "without labels")
        assert_one_sentence(
            example("interpolate.py", plain, "--out", tmp_path / "file"), "cannot be written"
        )
        assert_one_sentence(example("interpolate.py", tmp_path / "file"), "there is no run folder")
        assert example("interpolate.py", plain, "--frames", 1)[0] == 2
