"""Untrusted run folders: no file outside is read, written or deleted, and no command hangs."""

import errno
import json
import os
import shutil
import socket
import time
import tracemalloc
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from rawgan.cli.main import app
from rawgan.errors import UserError, printable
from rawgan.files import Unreadable, load_arrays, locked, read_file, save_arrays, write_whole
from rawgan.report import charts, page
from rawgan.training.checkpoint import checkpoints
from rawgan.training.options import Options
from rawgan.training.run_folder import RunFolder
from rawgan.training.train import resume, start
from tests.support.runs import options

pytestmark = [
    pytest.mark.usefixtures("nothing_plotted"),
    pytest.mark.skipif(os.name != "posix", reason="links, FIFOs and modes as POSIX has them"),
]


def bind(path):
    """Make a socket; bind it from its folder, as the name of a socket has at most 107 bytes."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


KINDS = {
    "link": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path),
    "FIFO": os.mkfifo,
    "folder": os.mkdir,
    "socket": bind,
}
READERS = {  # commands that read a run, as (arguments before RUN, arguments after it)
    "sample": (["sample"], ["--device", "cpu"]),
    "interpolate": (["interpolate", "--pairs", "1", "--frames", "2"], ["--device", "cpu"]),
    "export": (["export", "--out", "out.safetensors"], []),
    "evaluate": (["evaluate", "--count", "8"], ["--device", "cpu"]),
    "resume": (["train", "--steps", "8", "--resume"], []),
    "info": (["info"], []),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, nothing_plotted):
    folder = tmp_path_factory.mktemp("runs") / "run"
    start(options("wgan_gp", size=8, width=2, steps=4, checkpoint_every=4), folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def content(folder: Path) -> dict:
    """Return the content of a folder without following links."""
    return {path: os.lstat(path).st_mtime_ns for path in folder.rglob("*")} | {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def called(command: str, run: Path) -> str:
    """Return the one sentence of a command that must end with status 2 within a minute."""
    before, after = READERS[command]
    began = time.monotonic()
    done = CliRunner().invoke(app, [*before, str(run), *after])
    assert done.exit_code == 2 and time.monotonic() - began < 60, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.exception.code == 2
    return errors[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "file, command",
    [
        *(("config.json", command) for command in READERS),
        *(("weights.safetensors", command) for command in ("sample", "export", "resume")),
        *((name, "resume") for name in ("metrics.csv", "gradients.csv", "penalty_norms.csv")),
        ("checkpoints/step_000004.safetensors", "resume"),
    ],
)
def test_something_else_in_the_place_of_a_file(copy, tmp_path, monkeypatch, file, command, kind):
    monkeypatch.chdir(tmp_path)
    (copy / file).unlink()
    KINDS[kind](copy / file)
    before = content(tmp_path)
    message = called(command, copy)
    assert str(copy / file) in message and (kind.split()[0] in message or "a link" in message)
    assert content(tmp_path) == before


@pytest.mark.parametrize("folder", ["checkpoints", "samples", "tensorboard", "extra"])
def test_a_linked_folder_is_refused(copy, tmp_path, folder):
    """A linked folder inside a run is refused, and its target stays unchanged."""
    outside = tmp_path / "outside"
    if (copy / folder).exists():
        (copy / folder).rename(outside)
    outside.mkdir(exist_ok=True)
    for name in (
        "film.mkv.part",
        "step_000777.png",
        f"step_000777.png.{'0' * 16}.part",
        "step_000099.safetensors",
    ):
        (outside / name).write_text("precious")
    (copy / folder).symlink_to(outside)
    before = content(tmp_path)
    with pytest.raises(UserError, match=f"{folder} is a link"):
        resume(copy, steps=8)
    assert content(tmp_path) == before


def test_a_run_folder_that_is_a_link_is_as_good(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    start(options("dcgan", size=8, width=2, steps=2, checkpoint_every=2), tmp_path / "link")
    assert resume(tmp_path / "link", steps=3) == (3, 3)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["report.html", "report.html.part", "sample.png", "config.json", "config.json.part"]
)
def test_nothing_is_written_through_a_link(copy, tmp_path, name):
    """Nothing is written through a link, by the file's name or by a guessed temporary name."""
    (tmp_path / "victim").write_text("precious")
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(tmp_path / "victim")
    for command in (["report"], ["sample"]):
        CliRunner().invoke(app, [*command, str(copy)])
    with suppress(UserError):  # where the name is still a link
        resume(copy, steps=8)
    with pytest.raises(UserError, match="already holds something"):
        RunFolder.new(copy, {"recipe": "dcgan"}, {})
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_planted_temporary_name_is_not_opened(tmp_path, monkeypatch):
    """A planted file with the right temporary name is not opened."""
    monkeypatch.setattr("rawgan.files.temporary_name", lambda name: f"{name}.part")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a.part").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="a cannot be written: File exists"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_table_that_is_a_hard_link_is_not_written_through(copy, tmp_path):
    (tmp_path / "victim").write_bytes((copy / "metrics.csv").read_bytes())
    (copy / "metrics.csv").unlink()
    os.link(tmp_path / "victim", copy / "metrics.csv")
    before = (tmp_path / "victim").read_bytes()
    resume(copy, steps=20)
    assert (tmp_path / "victim").read_bytes() == before and (
        copy / "metrics.csv"
    ).read_bytes() != before


@pytest.mark.parametrize(
    "name",
    ["config.json", "diagnosis.txt", "evaluation.json", "samples/step_000004.png", "samples"],
)
def test_a_report_does_not_inline_what_lies_outside(copy, tmp_path, name):
    secret = tmp_path / "secret"
    if name == "samples":
        shutil.copytree(copy / "samples", secret)
        shutil.rmtree(copy / "samples")
    else:
        secret.write_bytes(b"\x89PNG\r\n\x1a\n{}SECRET")
        (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(secret)
    html = page(copy)
    assert f"{name} " in html and "a link, not a" in html
    assert "SECRET" not in html and "U0VDUkVU" not in html
    assert name != "samples" or 'alt="samples' not in html


def test_an_import_that_fails_leaves_no_folder(run, tmp_path, monkeypatch):
    CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "g.safetensors")])
    told = [
        "import",
        str(tmp_path / "g.safetensors"),
        "--recipe",
        "wgan_gp",
        "--out",
        str(tmp_path / "new"),
    ]
    with monkeypatch.context() as patch:

        def full(path, content):
            raise UserError(f"{path} cannot be written: No space left on device")

        patch.setattr(
            "rawgan.training.run_folder.write_whole",
            lambda path, content: (full if path.suffix != ".json" else write_whole)(path, content),
        )
        done = CliRunner().invoke(app, told)
    assert done.exit_code == 2 and "No space left" in done.stderr
    assert not (tmp_path / "new").exists()
    assert CliRunner().invoke(app, told).exit_code == 0


@pytest.mark.parametrize("name, existing", [("run", False), ("run", True), (None, False)])
def test_a_start_that_fails_before_its_first_step_leaves_no_folder(
    tmp_path, monkeypatch, name, existing
):
    """Neither at the path that was given nor at the one that is chosen without."""
    monkeypatch.chdir(tmp_path)
    out = name and tmp_path / name
    if existing:
        out.mkdir()
    with monkeypatch.context() as patch:

        def broken(*_):
            raise UserError("no picture can be written")

        patch.setattr("rawgan.training.callbacks.save_grid", broken)
        with pytest.raises(UserError, match="no picture"):
            start(options("dcgan", size=8, width=2, steps=2), out)
    assert not list(tmp_path.rglob("*.*")) and not list(tmp_path.glob("runs/*"))
    assert (tmp_path / "run").exists() == existing
    start(options("dcgan", size=8, width=2, steps=2), out)


@pytest.mark.parametrize(
    "option, value",
    [
        ("seed", 2**128 + 1),
        ("keep", 10**6 + 1),
        ("sample_every", 10**15 + 1),
        ("checkpoint_every", 0),
        ("steps", 10**15 + 1),
        ("lr", 1e31),
    ],
)
def test_what_cannot_be_resumed_is_not_begun(tmp_path, option, value):
    with pytest.raises(
        UserError, match=f"--{option.replace('_', '-')} .* cannot be used: it must be a"
    ):
        start(options("dcgan", **{option: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cause", ["ENOLCK", "EOPNOTSUPP", "EINVAL", "EIO"])
def test_a_file_system_that_cannot_lock(tmp_path, monkeypatch, cause):
    """Where folders cannot be locked, work goes on without; another failure is raised."""
    fcntl = pytest.importorskip("fcntl", reason="locks of a POSIX system")

    def fail(descriptor, operation):
        raise OSError(getattr(errno, cause), "no lock")

    monkeypatch.setattr(fcntl, "flock", fail)
    done = False
    with pytest.raises(OSError, match="no lock") if cause == "EIO" else nullcontext():
        with locked(tmp_path):
            done = True
    assert done == (cause != "EIO")


def test_a_name_that_is_no_text(tmp_path):
    """A file name that is not UTF-8 works, and is shown escaped."""
    run = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    start(options("dcgan", size=8, width=2, steps=2), run)
    for command in (["sample", "--device", "cpu"], ["report"]):
        done = CliRunner().invoke(app, [*command, str(run)])
        assert done.exit_code == 0 and r"r\udcff" in done.stdout, done.output
    assert rb"r\udcff" in (run / "report.html").read_bytes()


@pytest.mark.parametrize(
    "text",
    ["\x1b]0;owned\x07\x1b[2J", "a\nerror: all is lost", "\u202e", "\udcff", "\0", "x" * 10**6],
)
def test_messages_are_tame(text):
    for message in (
        str(UserError(f"before {text} after")),
        printable(text),
        printable(text + "\0" * 5000),
    ):
        assert message.isprintable() and len(message) <= 1000
    assert str(UserError(f"before {text} after")).startswith("before ") and str(
        UserError(f"before {text} after")
    ).endswith(" after")


def test_equal_arrays_are_equal_files():
    """Equal arrays give equal files, whatever order the library or the caller has them in."""
    arrays, about = (
        {f"{n}.w": np.full(n, n, np.float32) for n in range(9)},
        {f"fact {n}": str(n) for n in range(9)},
    )
    files = {
        save_arrays(dict(reversed(arrays.items())), dict(reversed(about.items())))
        for _ in range(20)
    } | {save_arrays(arrays, about)}
    assert len(files) == 1


def test_saved_arrays_come_back(tmp_path, rng):
    arrays = {
        "a": rng.normal(size=(3, 5)),
        "b": np.zeros((0, 2), np.float32),
        "c": np.array(7, np.int64),
    }
    (tmp_path / "a").write_bytes(save_arrays(arrays, {"ä": "\u20ac"}))
    got, about = load_arrays(tmp_path / "a")
    assert about == {"ä": "\u20ac"} and got.keys() == arrays.keys()
    for name, a in arrays.items():
        np.testing.assert_array_equal(got[name], a)


def test_limits_of_the_reader(tmp_path):
    (tmp_path / "a").write_bytes(bytes(2**20))
    assert read_file(tmp_path / "a", 2**20) == bytes(2**20)
    with pytest.raises(Unreadable, match="larger than 0 MiB"):
        read_file(tmp_path / "a", 2**20 - 1)
    with pytest.raises(Unreadable, match="No such file"):
        read_file(tmp_path / "b", 1)
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Unreadable, match="it is a link, not a file"):
        read_file(tmp_path / "b", 2**20)
    assert read_file(tmp_path / "b", 2**20, follow=True) == bytes(2**20)
    for device in ("/dev/zero", "/dev/tty"):
        with pytest.raises(Unreadable, match=r"it is a device, not a file|No such"):
            read_file(Path(device), 2**20, follow=True)


def test_a_file_that_a_user_names_may_be_a_link(tmp_path):
    """A file named by the user may be a link, as in the caches of other programs."""
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "blob")
    (tmp_path / "link").symlink_to("blob")
    assert load_arrays(tmp_path / "link", follow=True)[0]["a"].shape == (3,)


def test_few_pictures_are_said_to_be_few(tmp_path, rng):
    """Too few images are refused before a judge is trained on them."""
    (tmp_path / "pictures").mkdir()
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(
            tmp_path / "pictures" / f"{i}.png"
        )
    start(
        Options("dcgan", str(tmp_path / "pictures"), 8, width=2, steps=1, batch=2, device="cpu"),
        tmp_path / "run",
    )
    done = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "run"), "--count", "8", "--device", "cpu"]
    )
    assert done.exit_code == 2 and "are too few: 8 of each are needed" in done.stderr


@pytest.mark.parametrize("lines", [20_000, 80_000])
def test_a_report_of_penalties_takes_linear_time(lines, rng):
    """A report on penalties takes time and memory linear in the lines.

    The worst case has a step for every line.
    """
    columns = {"step": np.arange(lines), "norm": rng.normal(1, 0.1, lines)}
    tracemalloc.start()
    began = time.process_time()
    assert charts.norms(columns).startswith("<svg")
    assert tracemalloc.get_traced_memory()[1] < 2**26 and time.process_time() - began < 20
    tracemalloc.stop()


def test_the_histogram_counts_every_sample(monkeypatch, rng):
    """The histogram equals NumPy's, step by step, with each column scaled to its largest count."""
    seen = []
    monkeypatch.setattr(charts, "svg", lambda draw, name, height: draw(Axes()))

    class Axes:
        def pcolormesh(self, borders, edges, counts, **_):
            seen.append((edges, counts))

        def __getattr__(self, name):
            return lambda *_, **__: Axes()

        def get_texts(self):
            return []

    step, norm = np.repeat([10.0, 20.0, 30.0], 200), rng.gamma(4, 0.25, 600)
    charts.norms({"step": step, "norm": norm})
    edges, counts = seen[0]
    want = np.stack(
        [np.histogram(norm[step == s].clip(0, edges[-1]), edges)[0] for s in (10, 20, 30)], 1
    )
    np.testing.assert_allclose(counts, want / want.max(0))


@pytest.mark.parametrize("recipe", ["dcgan", "wgan", "lsgan", "raschka_mlp_gan", "atienza_dcgan"])
def test_a_rate_that_is_far_too_large_ends_with_a_diagnosis(recipe, tmp_path, recwarn):
    with pytest.raises(UserError, match=r"the training has diverged|no longer finite"):
        start(options(recipe, lr=1e6, steps=20), tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert not [warning for warning in recwarn if "positive values" in str(warning.message)]


def test_every_file_of_a_run_survives_its_own_copy(run, tmp_path):
    """A copy of a run can be resumed: no file contains an absolute path, a link or a lock."""
    copy = shutil.copytree(run, tmp_path / "copy")
    assert resume(copy, steps=5) == (5, 5) and list(checkpoints(copy))[-1] == 5
    assert json.loads((copy / "config.json").read_text())["steps"] == 5
