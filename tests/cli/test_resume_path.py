"""What a resumed run keeps of --path and --precision, also one of an earlier version."""

import json

import pytest

from rawgan.training.options import read_config, to_config
from rawgan.training.train import resume, start
from tests.cli.test_cli import rawgan, refused
from tests.support.runs import assert_same_run, options
from tests.support.simulated_gpu import NO_GPU, PLANNED, TINY, resolved, simulate, stop


class TestResume:
    def test_a_planned_run_without_a_gpu(self, monkeypatch, tmp_path):
        """A planned run resumed without a GPU is refused unless --path auto is given."""
        run = tmp_path / "run"
        with monkeypatch.context() as there:
            simulate(there)
            stop(there)
            rawgan("train", "dcgan", *TINY, "--precision", "tf32", "--out", run)
            again = rawgan("train", "--resume", run, "--steps", 2).stdout
            assert "Path: planned in tf32 with Triton kernels on CuPy (as this run began)." in again
            assert resolved(run) == ("auto", "tf32", "planned", "tf32", "Triton kernels on CuPy")
        simulate(monkeypatch, None)
        before = (run / "config.json").read_bytes()
        for extra in ((), ("--device", "cpu"), ("--device", "auto")):
            words = (
                "was trained by --path planned in tf32",
                "which cannot go on here",
                "add --device auto --path auto",
            )
            refused(("train", "--resume", run, *extra), *words)
        assert (run / "config.json").read_bytes() == before
        output = rawgan("train", "--resume", run, "--device", "auto", "--path", "auto").stdout
        assert NO_GPU in output and "2 steps done" in output
        assert resolved(run) == ("auto", "tf32", "arrays", "fp32", "NumPy")

    def test_a_run_on_arrays_where_there_is_a_gpu(self, monkeypatch, tmp_path):
        """A run on arrays stays on arrays where there is a GPU; --path auto resolves again."""
        run = tmp_path / "run"
        simulate(monkeypatch, None)
        rawgan("train", "dcgan", *TINY, "--out", run)
        simulate(monkeypatch)
        stop(monkeypatch)
        output = rawgan("train", "--resume", run, "--steps", 2).stdout
        assert (
            "Device: cpu" in output
            and "Path: arrays in fp32 with NumPy (as this run began)." in output
        )
        output = rawgan("train", "--resume", run, "--steps", 2, "--device", "gpu").stdout
        assert (
            "Path: arrays in fp32 with CuPy (as this run began, slower on a GPU than planned)."
            in output
        )
        output = rawgan(
            "train", "--resume", run, "--steps", 2, "--device", "auto", "--path", "auto"
        ).stdout
        assert PLANNED in output and "after step 1 of 2" in output
        assert resolved(run)[2:] == ("planned", "bf16", "Triton kernels on CuPy")


class TestFormerVersions:
    """The config.json of earlier versions, with --kernels and --planned."""

    def former(self, config: dict, **chosen) -> dict:
        """Write the config as earlier versions wrote it."""
        kept = {
            key: value
            for key, value in config.items()
            if key not in ("path", "backend") and "requested" not in key
        }
        return (
            kept
            | {"kernels": False, "planned": False, "precision": "fp32", "path": "NumPy"}
            | chosen
        )

    @pytest.mark.parametrize(
        "chosen, path",
        [
            ({}, "arrays"),
            ({"kernels": True}, "kernels"),
            ({"planned": True, "precision": "bf16"}, "planned"),
            ({"planned": True, "kernels": True, "precision": "tf32"}, "planned"),
            ({"kernels": "no"}, None),
        ],
    )
    def test_what_they_chose(self, chosen, path, tmp_path):
        config = to_config(options("dcgan"))
        (tmp_path / "config.json").write_text(json.dumps(self.former(config, **chosen)))
        read = read_config(tmp_path / "config.json")
        assert (read["path"], read["precision"]) == (
            path,
            chosen.get("precision", "fp32"),
        ) and read["backend"] == "NumPy"
        assert not {"kernels", "planned"} & read.keys()

    def test_a_run_of_theirs_goes_on(self, tmp_path):
        """A resumed run of an earlier version gives the same bits as one of the current version."""
        for name in ("run", "straight"):
            start(
                options("dcgan", steps=2 if name == "run" else 4, size=8, checkpoint_every=2),
                tmp_path / name,
            )
        path = tmp_path / "run" / "config.json"
        path.write_text(json.dumps(self.former(json.loads(path.read_text()))))
        resume(tmp_path / "run", steps=4)
        assert_same_run(tmp_path / "run", tmp_path / "straight")
        config = json.loads(path.read_text())
        assert (config["path"], config["precision"], config["backend"]) == (
            "arrays",
            "fp32",
            "NumPy",
        )
        assert not {"kernels", "planned"} & config.keys()
