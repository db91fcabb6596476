"""Downloads from a server on this machine: whole, resumed, or one sentence and nothing lost."""

import gzip
import http.server
import struct
import threading
from functools import partial
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from data_files import files, one_sentence, pictures, write_set

from rawgan.data import idx, load
from rawgan.data.download import download
from rawgan.errors import UserError

DEBIAN = idx.KNOWN["fashion-mnist"].system
debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
TRAIN_IMAGES, TRAIN_LABELS = idx.STEMS["train"]


def upstream(stem):
    """The .gz file as Zalando published it: Debian took name and time out of its header, and changed nothing else."""
    file = (DEBIAN / f"{stem}.gz").read_bytes()
    when = struct.pack("<I", 1504176606 if stem.startswith("train") else 1504176627)
    return b"\x1f\x8b\x08\x08" + when + file[8:10] + stem.encode() + b"\0" + file[10:]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An http server on this machine, the only mirror; yields its folder and the paths that were asked of it."""
    asked, root = [], tmp_path / "server"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, form, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "cache"))
    mirrors = (f"http://127.0.0.1:{httpd.server_port}/",)
    for name, known in idx.KNOWN.items():
        monkeypatch.setitem(idx.KNOWN, name, idx.Known(known.licence, mirrors, known.sha256, None, known.remedy))
    yield root, asked
    httpd.shutdown()
    httpd.server_close()


class TestKnown:
    @debian
    def test_fashion_mnist_from_debian(self):
        train, test = load("fashion-mnist"), load("fashion-mnist", 32, split="test")
        assert train.images.shape == (60000, 28, 28, 1) and test.images.shape == (10000, 32, 32, 1)
        assert np.bincount(train.labels).tolist() == [6000] * 10
        assert np.bincount(test.labels).tolist() == [1000] * 10
        assert (train.name, train.licence, train.source) == ("fashion-mnist", "MIT, Zalando SE", str(DEBIAN))
        assert abs(train.images.mean() - 72.94) < 0.005

    @debian
    def test_download_then_cache(self, server, tmp_path, capfd):
        root, asked = server
        for stem in idx.STEMS["test"]:
            (root / f"{stem}.gz").write_bytes(upstream(stem))
        got = load("fashion-mnist", split="test")
        assert got.source == str(tmp_path / "cache" / "fashion-mnist")
        assert files(tmp_path / "cache") == [f"{stem}.gz" for stem in idx.STEMS["test"]]
        assert "100%" in capfd.readouterr().err
        again = load("fashion-mnist", split="test")
        assert len(asked) == 2, "the second time the cache serves"
        want, labels = idx.read_folder(DEBIAN, "test")
        for images in (got, again):
            np.testing.assert_array_equal(images.images[..., 0], want)
            np.testing.assert_array_equal(images.labels, labels)

    @debian
    def test_checksums_of_fashion_mnist(self):
        want = idx.KNOWN["fashion-mnist"].sha256
        assert {stem: sha256(upstream(stem)).hexdigest() for stem in want} == want

    @pytest.mark.parametrize(("name", "remedies"), [("mnist", ["folder"]), ("fashion-mnist", ["folder", "dataset-fashion-mnist"])])
    @pytest.mark.parametrize("fault", ["missing", "wrong", "no server"])
    def test_a_failed_download_leaves_nothing(self, server, tmp_path, monkeypatch, name, remedies, fault):
        root, _ = server
        if fault == "wrong":
            (root / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(bytes(1000)))
        if fault == "no server":
            known = idx.KNOWN[name]
            mirrors = ("http://127.0.0.1:9/", "http://127.0.0.1:9/again/")
            monkeypatch.setitem(idx.KNOWN, name, idx.Known(known.licence, mirrors, known.sha256, None, known.remedy))
        with pytest.raises(UserError) as error:
            load(name)
        assert one_sentence(error, name, TRAIN_IMAGES, *remedies)
        assert files(tmp_path / "cache") == []

    def test_the_second_mirror_is_tried(self, server, tmp_path, monkeypatch, rng):
        root, asked = server
        write_set(root, pictures(rng), np.zeros(12), pack=gzip.compress, suffix=".gz")
        sums = {stem: sha256((root / f"{stem}.gz").read_bytes()).hexdigest() for stem in idx.STEMS["train"]}
        (here,) = idx.KNOWN["mnist"].mirrors
        monkeypatch.setitem(idx.KNOWN, "mnist", idx.Known("", (f"{here}empty/", here), sums))
        assert load("mnist").images.shape == (12, 28, 28, 1)
        assert asked == [f"{place}/{stem}.gz" for stem in sums for place in ("/empty", "")]

    def test_files_put_into_the_cache_by_hand_are_used_and_kept(self, server, tmp_path, rng):
        images = pictures(rng)
        write_set(tmp_path / "cache" / "mnist", images, np.zeros(12))
        np.testing.assert_array_equal(load("mnist").images[..., 0], images)
        assert server[1] == []

    def test_a_broken_file_in_the_cache_is_named(self, server, tmp_path, rng):
        write_set(tmp_path / "cache" / "mnist", pictures(rng), np.zeros(11))
        with pytest.raises(UserError) as error:
            load("mnist")
        assert one_sentence(error, tmp_path / "cache" / "mnist" / TRAIN_LABELS)

    def test_a_cache_that_cannot_be_made_is_named(self, server, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "file"))
        with pytest.raises(UserError) as error:
            load("mnist")
        assert one_sentence(error, tmp_path / "file", "RAWGAN_DATA")


CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def breaking(tmp_path, monkeypatch):
    """A server of CONTENT that ends the connection after `after` bytes of each answer; `ranges` keeps what was asked for."""
    about = SimpleNamespace(after=None, honours_ranges=True, ranges=[], content=CONTENT)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            about.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and about.honours_ranges else 0
            if start >= len(about.content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(about.content) - 1}/{len(about.content)}")
            self.send_header("Content-Length", str(len(about.content) - start))
            self.end_headers()
            self.wfile.write(about.content[start:][: about.after])

        def log_message(self, form, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def fetch(sum_of=CONTENT):
        url = f"http://127.0.0.1:{httpd.server_port}/file"
        return download("some", [url], sha256(sum_of).hexdigest(), tmp_path / "cache", "file", "bring your own")

    yield about, fetch, tmp_path / "cache"
    httpd.shutdown()
    httpd.server_close()


class TestBrokenOff:
    def test_what_arrived_is_kept_and_gone_on_with(self, breaking):
        server, fetch, cache = breaking
        server.after = 100_000
        kept = []
        for _ in range(2):
            with pytest.raises(UserError) as error:
                fetch()
            assert one_sentence(error, "some", "bring your own") and files(cache) == ["file.part"]
            kept.append((cache / "file.part").read_bytes())
            assert CONTENT.startswith(kept[-1])
        assert 0 < len(kept[0]) < len(kept[1]) <= 200_000
        server.after = None
        assert fetch().read_bytes() == CONTENT
        assert server.ranges == [None, *(f"bytes={len(part)}-" for part in kept)] and files(cache) == ["file"]

    def test_a_server_that_knows_no_ranges_begins_again(self, breaking):
        server, fetch, cache = breaking
        cache.mkdir()
        (cache / "file.part").write_bytes(CONTENT[:5000])
        server.honours_ranges = False
        assert fetch().read_bytes() == CONTENT
        assert server.ranges == ["bytes=5000-"]

    def test_a_part_that_is_whole_is_taken(self, breaking):
        _, fetch, cache = breaking
        cache.mkdir()
        (cache / "file.part").write_bytes(CONTENT)
        assert fetch().read_bytes() == CONTENT and files(cache) == ["file"]

    def test_a_part_of_something_else_is_thrown_away(self, breaking):
        """The checksum finds it, and the next attempt begins at the beginning."""
        server, fetch, cache = breaking
        cache.mkdir()
        (cache / "file.part").write_bytes(bytes(5000))
        with pytest.raises(UserError) as error:
            fetch()
        assert one_sentence(error, "wrong checksum") and files(cache) == []
        assert fetch().read_bytes() == CONTENT and server.ranges == ["bytes=5000-", None]

    def test_a_corrupt_file_in_the_cache_is_fetched_again(self, breaking):
        _, fetch, _ = breaking
        fetch().write_bytes(b"spoilt")
        assert fetch().read_bytes() == CONTENT

    def test_a_file_without_end_is_given_up(self, breaking, monkeypatch):
        _, fetch, cache = breaking
        monkeypatch.setattr("rawgan.data.download.LIMIT", 200_000)
        with pytest.raises(UserError) as error:
            fetch()
        assert one_sentence(error, "some") and files(cache) == []

    def test_a_full_disk_is_said(self, breaking):
        _, fetch, cache = breaking
        cache.mkdir()
        (cache / "file.part").symlink_to("/dev/full")
        with pytest.raises(UserError) as error:
            fetch()
        assert one_sentence(error, cache / "file", "No space left on device", "make room", "RAWGAN_DATA")
