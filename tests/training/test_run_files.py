"""Parsers of a run's files on broken input: only UserError is raised, and memory is bounded."""

import json
import os
import random
import re
import shutil
import subprocess
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from rawgan.backend import CPU
from rawgan.cli.import_ import command as import_command
from rawgan.errors import UserError
from rawgan.layers import state
from rawgan.models.recipes import RECIPES
from rawgan.random import Random
from rawgan.training import session
from rawgan.training.checkpoint import checkpoints, checksum, load_checkpoint
from rawgan.training.load import load_config, load_generator
from rawgan.training.options import FIELDS, Options, from_config, read_config, to_config
from rawgan.training.session import Session
from rawgan.training.software import commit_of, warn_of_other_libraries
from rawgan.training.train import start
from tests.support.file_faults import counts_of_child, replace

LIMIT = 2**24  # memory in bytes that reading a file of some kilobytes may use


@pytest.fixture(scope="module")
def run(tmp_path_factory, nothing_plotted):
    """Return a complete run with a checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    start(Options("dcgan", steps=3, width=2, size=8, batch=4, device="cpu"), folder)
    return folder


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    2**63,
    10**40,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "\0",
    "dcgan",
]
VALUES += ["../../etc", "/dev/zero", "x" * 5000, [], [[]], {}, {"a": 1}, "step", "\ud800", "1e9"]


def mutate_json(value, dice: random.Random):
    """Return the value with one element changed, removed or added."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        kind = dice.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return value | {dice.choice(["x", key + "x", ""]): dice.choice(VALUES)}
        return value | {key: mutate_json(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.7:
        i = dice.randrange(len(value))
        return [*value[:i], mutate_json(value[i], dice), *value[i + 1 :]]
    return dice.choice(VALUES)


def mutate_bytes(content: bytes, dice: random.Random) -> bytes:
    """Return the bytes with some of them changed, removed, repeated or cut off."""
    broken = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        if not broken:
            break
        i, j = sorted(
            (dice.randrange(len(broken)), min(len(broken), dice.randrange(len(broken)) + 1))
        )
        match dice.randrange(6):
            case 0:
                broken[i] ^= 1 << dice.randrange(8)
            case 1:
                del broken[i : min(j, i + 40)]
            case 2:
                broken[i:i] = broken[i : min(j, i + 40)]
            case 3:
                broken[i:i] = dice.randbytes(dice.randrange(9))
            case 4:
                del broken[i:]
            case 5:
                broken[i : i + 8] = dice.choice((b"\0", b"\xff")) * len(broken[i : i + 8])
    return bytes(broken)


def fuzz(rounds, run, folder, seed):
    """Read broken configs, checkpoints and imports; return how many of each were refused."""
    dice, counts = random.Random(seed), {}
    config, path = (
        json.loads((run / "config.json").read_text()),
        list(checkpoints(run).values())[-1],
    )
    content, saved = path.read_bytes(), load_checkpoint(path)[1]
    arrays = load_checkpoint(path)[0]
    restored = Session(from_config(config, run), session.load("digits", 8), CPU)
    folder.mkdir(exist_ok=True)
    outside = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    def tried(name, read):
        counts.setdefault(name, 0)
        try:
            read()
        except UserError as error:
            counts[name] += 1
            assert "\n" not in str(error) and len(str(error)) < 2000, error

    for _ in range(rounds):
        kind = dice.randrange(4)
        if kind == 0:
            text = json.dumps(mutate_json(config, dice)).encode()
            text = mutate_bytes(text, dice) if dice.random() < 0.3 else text
            replace(folder / "config.json", text)
            tried(
                "config",
                lambda: (
                    load_config(folder / "config.json"),
                    from_config(read_config(folder / "config.json"), folder),
                ),
            )
        elif kind == 1:
            broken = mutate_bytes(content, dice)
            replace(folder / "a.safetensors", broken)
            if broken != content:
                with pytest.raises(UserError):
                    load_checkpoint(folder / "a.safetensors")
                counts["bytes"] = counts.get("bytes", 0) + 1
        elif kind == 2:  # a complete checkpoint with content that no run would write
            text = json.dumps(mutate_json(saved, dice))
            replace(
                folder / "b.safetensors",
                save(arrays, {"state": text, "sha256": checksum(arrays, text)}),
            )
            tried("state", lambda: restored.restore(folder / "b.safetensors"))
        else:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            text = json.dumps(mutate_json(header, dice)).encode()
            length = dice.choice((len(text), len(text), len(text), 2**40, 2**63, 0)).to_bytes(
                8, "little"
            )
            replace(
                folder / "c.safetensors",
                length + text + content[8 + int.from_bytes(content[:8], "little") :],
            )
            tried("header", lambda: load_checkpoint(folder / "c.safetensors"))
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == outside
    assert {p.name for p in folder.iterdir()} <= {
        "config.json",
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    }
    return counts


@pytest.mark.parametrize("versions", [None, "2.0", [], {}, {"numpy": None}])
def test_versions_that_a_config_does_not_have(versions, capsys):
    """No warning where a config.json names no version; a sentence where it names another."""
    warn_of_other_libraries({} if versions is None else {"versions": versions})
    error = capsys.readouterr().err
    assert ("the run began with numpy None" in error) == (versions == {"numpy": None})
    assert error == "" or versions == {"numpy": None}


@pytest.mark.parametrize("lr", [0.0, -1e-3, float("inf"), float("nan")])
def test_a_learning_rate_is_positive(lr):
    with pytest.raises(UserError, match="a learning rate is a positive number"):
        Options.with_defaults("dcgan", lr=lr).validate()


def test_broken_files(run, tmp_path):
    counts = fuzz(2000, run, tmp_path / "broken", 0)
    assert all(count > 80 for count in counts.values()), counts


@pytest.mark.slow
def test_very_many_broken_files(run, tmp_path, figures):
    fuzz(1000, run, tmp_path / "broken", 2)  # memory that is allocated once and kept
    n = 100_000
    counts_of_child(lambda: fuzz(n, run, tmp_path / "broken", 1), tmp_path / "log", figures)
    figures.title = f"{n:,} mutated files, of them refused"
    assert figures.growth < 2 * LIMIT


def test_broken_files_take_no_memory(run, tmp_path):
    tracemalloc.start()
    try:
        fuzz(100, run, tmp_path / "broken", 3)
        assert tracemalloc.get_traced_memory()[1] < 2 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved | {"step": -1},
        lambda saved: saved | {"step": 3.0},
        lambda saved: saved | {"t": {"generator": 3}},
        lambda saved: saved | {"t": {"generator": 3, "discriminator": True}},
        lambda saved: saved | {"random": saved["random"] | {"seed": 1}},
        lambda saved: saved | {"random": saved["random"] | {"streams": {}}},
        lambda saved: saved | {"feed": saved["feed"] | {"position": {"epoch": None, "at": 4}}},
        lambda saved: (
            saved | {"feed": saved["feed"] | {"position": saved["feed"]["position"] | {"at": 3}}}
        ),
        lambda saved: (
            saved | {"feed": saved["feed"] | {"random": {"seed": 0, "streams": {"data": {}}}}}
        ),
        lambda saved: {"identity": saved["identity"]},
    ],
)
def test_state_that_cannot_be(change, run, tmp_path):
    arrays, saved = load_checkpoint(list(checkpoints(run).values())[-1])
    text = json.dumps(change(saved))
    (tmp_path / "a.safetensors").write_bytes(
        save(arrays, {"state": text, "sha256": checksum(arrays, text)})
    )
    options = from_config(read_config(run / "config.json"), run)
    restored = Session(options, session.load("digits", 8), CPU)
    with pytest.raises(UserError, match="has no usable step and random streams"):
        restored.restore(tmp_path / "a.safetensors")


def test_a_file_that_says_it_is_large(tmp_path):
    """The header's sizes are checked against the file's length before an array is allocated."""
    for shape in ([2**40], [2**20, 2**20], [2**62, 4]):
        header = {
            "a": {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [0, 4 * int(np.prod(shape, dtype=object))],
            }
        }
        text = json.dumps(header).encode()
        (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
        tracemalloc.start()
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(tmp_path / "a.safetensors")
        assert tracemalloc.get_traced_memory()[1] < LIMIT
        tracemalloc.stop()


def test_a_config_without_end(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**40)  # a sparse file
    with pytest.raises(UserError, match="larger than 1 MiB"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_checked(name, tmp_path):
    """Every option is restored unchanged from a config, and invalid values are refused."""
    options = Options(
        "dcgan",
        data="digits",
        size=16,
        channels=1,
        width=8,
        steps=100,
        batch=8,
        real_label=0.9,
        ema=0.99,
        flip=True,
        seed=5,
        device="cpu",
        path="planned",
        precision="bf16",
        sample_every=10,
        checkpoint_every=20,
        keep=3,
        tensorboard=True,
    )
    config = to_config(options)
    assert from_config(config, tmp_path) == options
    key = "source" if name == "data" else name
    for wrong in (
        {k: v for k, v in config.items() if k != key},
        *(config | {key: bad} for bad in ([], {}, -1, "\0", float("nan"))),
    ):
        with pytest.raises(UserError, match=f"no usable {key}|names no recipe"):
            from_config(wrong, tmp_path)


def test_an_imported_file_that_lies(tmp_path):
    """An imported file that declares a huge size or width is refused without allocating memory."""
    arrays = {"0.weight": np.zeros((4, 20), np.float32)}
    for metadata in (
        {"size": 4096, "width": 4096, "channels": 3},
        {"size": 4, "width": 1, "channels": 1},
    ):
        save_file(
            arrays,
            tmp_path / "a.safetensors",
            {"rawgan": json.dumps(metadata | {"recipe": "raschka_mlp_gan"})},
        )
        tracemalloc.start()
        with pytest.raises(UserError):
            import_command(
                tmp_path / "a.safetensors",
                "raschka_mlp_gan",
                tmp_path / "out",
                None,
                None,
                None,
                None,
            )
        tracemalloc.stop()
    assert not (tmp_path / "out").exists()


def test_a_generator_in_half_a_run(run, tmp_path):
    """Weights that do not match the config are refused."""
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    weights = load_file(run / "weights.safetensors")
    save_file(
        {n: a for n, a in weights.items() if "gamma" not in n}, tmp_path / "weights.safetensors"
    )
    with pytest.raises(UserError, match="does not fit the generator"):
        load_generator(tmp_path)
    net = RECIPES["dcgan"].build(Random(1), 8, 1, 2).generator
    save_file(
        {f"generator.{n}": a for n, a in state(net).items()}, tmp_path / "weights.safetensors"
    )
    load_generator(tmp_path)


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_read_without_a_lock(tmp_path):
    """The commit, and whether files have changed, are read without writing to the repository.

    A training that is killed while git has locked the index would leave the lock behind.
    """

    def git(*command):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a", *command],
                       check=True, capture_output=True)  # fmt: skip

    assert commit_of(tmp_path) is None
    git("init")
    assert commit_of(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    os.utime(tmp_path / "file", ns=(1, 1))  # so that git would refresh its index
    (tmp_path / ".git" / "index.lock").touch()
    before = (tmp_path / ".git" / "index").read_bytes()
    commit = commit_of(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "untracked").touch()
    assert commit_of(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"
    (tmp_path / ".git" / "index.lock").unlink()
    assert commit_of(tmp_path) == f"{commit}-dirty"
    assert (tmp_path / ".git" / "index").read_bytes() == before
