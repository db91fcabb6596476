"""Downloads from a local server: complete, resumed, or one error sentence with nothing lost."""

import gzip
import http.server
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest

from rawgan.data import idx, load
from rawgan.data.download import download
from rawgan.errors import UserError
from tests.support.data_files import files, idx_bytes, one_sentence, pictures, write_set

DEBIAN = idx.KNOWN["fashion-mnist"].system
debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
TRAIN_IMAGES, TRAIN_LABELS = idx.STEMS["train"]


def upstream(stem):
    """Return the .gz file as Zalando published it.

    Debian removed name and time from its header, and changed nothing else.
    """
    file = (DEBIAN / f"{stem}.gz").read_bytes()
    when = struct.pack("<I", 1504176606 if stem.startswith("train") else 1504176627)
    return b"\x1f\x8b\x08\x08" + when + file[8:10] + stem.encode() + b"\0" + file[10:]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Run a local HTTP server as the only mirror; yield its folder and the requested paths."""
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
        monkeypatch.setitem(
            idx.KNOWN, name, idx.Known(known.licence, mirrors, known.sha256, None, known.remedy)
        )
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
        assert (train.name, train.licence, train.source) == (
            "fashion-mnist",
            "MIT, Zalando SE",
            str(DEBIAN),
        )
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

    @pytest.mark.parametrize(
        ("name", "remedies"),
        [("mnist", ["folder"]), ("fashion-mnist", ["folder", "dataset-fashion-mnist"])],
    )
    @pytest.mark.parametrize("fault", ["missing", "wrong", "no server"])
    def test_a_failed_download_leaves_nothing(
        self, server, tmp_path, monkeypatch, name, remedies, fault
    ):
        root, _ = server
        if fault == "wrong":
            (root / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(bytes(1000)))
        if fault == "no server":
            known = idx.KNOWN[name]
            mirrors = ("http://127.0.0.1:9/", "http://127.0.0.1:9/again/")
            monkeypatch.setitem(
                idx.KNOWN, name, idx.Known(known.licence, mirrors, known.sha256, None, known.remedy)
            )
        with pytest.raises(UserError) as error:
            load(name)
        assert one_sentence(error, name, TRAIN_IMAGES, *remedies)
        assert files(tmp_path / "cache") == []

    def test_the_second_mirror_is_tried(self, server, tmp_path, monkeypatch, rng):
        root, asked = server
        write_set(root, pictures(rng), np.zeros(12), pack=gzip.compress, suffix=".gz")
        sums = {
            stem: sha256((root / f"{stem}.gz").read_bytes()).hexdigest()
            for stem in idx.STEMS["train"]
        }
        (here,) = idx.KNOWN["mnist"].mirrors
        monkeypatch.setitem(idx.KNOWN, "mnist", idx.Known("", (f"{here}empty/", here), sums))
        assert load("mnist").images.shape == (12, 28, 28, 1)
        assert asked == [f"{place}/{stem}.gz" for stem in sums for place in ("/empty", "")]

    @pytest.fixture
    def published(self, server, tmp_path, monkeypatch, rng):
        """Publish twelve images as `mnist`; yield them and the folder in the cache."""
        images = pictures(rng)
        write_set(server[0], images, np.zeros(12), pack=gzip.compress, suffix=".gz")
        sums = {
            stem: sha256((server[0] / f"{stem}.gz").read_bytes()).hexdigest()
            for stem in idx.STEMS["train"]
        }
        monkeypatch.setitem(idx.KNOWN, "mnist", idx.Known("", idx.KNOWN["mnist"].mirrors, sums))
        return images, tmp_path / "cache" / "mnist"

    def test_published_files_put_into_the_cache_by_hand_are_used_and_kept(self, published, server):
        images, folder = published
        folder.mkdir(parents=True)
        for stem in idx.STEMS["train"]:
            (folder / f"{stem}.gz").write_bytes((server[0] / f"{stem}.gz").read_bytes())
        np.testing.assert_array_equal(load("mnist").images[..., 0], images)
        assert server[1] == []

    @pytest.mark.parametrize("stem", [TRAIN_IMAGES, TRAIN_LABELS])
    def test_another_file_of_the_right_name_is_not_believed(self, published, server, rng, stem):
        """A valid file of the right name and size is refused by its checksum in every load."""
        _, folder = published
        load("mnist")
        content = pictures(rng) if stem == TRAIN_IMAGES else np.ones(12, np.uint8)
        (folder / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(content)))
        with pytest.raises(UserError) as error:
            load("mnist")
        assert one_sentence(error, folder / stem, "not the file that was published", "delete it")

    def test_a_plain_file_in_the_cache_is_not_believed(self, published, server, rng):
        _, folder = published
        write_set(folder, pictures(rng), np.zeros(12))
        with pytest.raises(UserError) as error:
            load("mnist")
        assert (
            one_sentence(error, folder / TRAIN_IMAGES, "not the file that was published")
            and server[1] == []
        )

    def test_a_linked_file_in_the_cache_is_read_and_checked(self, published, server):
        """A linked file in the cache is read and checked, as links named by a user are followed."""
        images, folder = published
        folder.mkdir(parents=True)
        for stem in idx.STEMS["train"]:
            (folder / f"{stem}.gz").symlink_to(server[0] / f"{stem}.gz")
        np.testing.assert_array_equal(load("mnist").images[..., 0], images)

    def test_a_cache_that_cannot_be_made_is_named(self, server, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("RAWGAN_DATA", str(tmp_path / "file"))
        with pytest.raises(UserError) as error:
            load("mnist")
        assert one_sentence(error, tmp_path / "file", "RAWGAN_DATA")


CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def breaking(tmp_path, monkeypatch):
    """Server of CONTENT that disconnects after `after` bytes; `ranges` records the requests."""
    about = SimpleNamespace(after=None, honours_ranges=True, ranges=[], content=CONTENT)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            about.ranges.append(asked)
            start = (
                int(asked.removeprefix("bytes=").removesuffix("-"))
                if asked and about.honours_ranges
                else 0
            )
            if start >= len(about.content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(about.content) - 1}/{len(about.content)}"
                )
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
        return download(
            "some", [url], sha256(sum_of).hexdigest(), tmp_path / "cache", "file", "bring your own"
        )

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
        assert server.ranges == [None, *(f"bytes={len(part)}-" for part in kept)] and files(
            cache
        ) == ["file"]

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
        """A partial file of other content fails its checksum and is fetched from the start."""
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

    def test_a_full_disk_is_said(self, breaking, monkeypatch):
        _, fetch, cache = breaking
        monkeypatch.setattr(
            "rawgan.data.download.opened_part", lambda *_: open("/dev/full", "ab", buffering=0)
        )
        with pytest.raises(UserError) as error:
            fetch()
        assert one_sentence(
            error, cache / "file", "No space left on device", "make room", "RAWGAN_DATA"
        )

    @pytest.mark.parametrize("content", [b"", b"precious", CONTENT[:5000]])
    def test_a_part_that_is_a_link_is_replaced(self, breaking, tmp_path, content):
        _, fetch, cache = breaking
        cache.mkdir()
        (tmp_path / "outside").write_bytes(content)
        (cache / "file.part").symlink_to(tmp_path / "outside")
        assert fetch().read_bytes() == CONTENT and files(cache) == ["file"]
        assert (tmp_path / "outside").read_bytes() == content

    def test_two_at_once_both_get_it(self, breaking):
        """Of two concurrent downloads one fetches and the other waits: there is one request."""
        server, fetch, cache = breaking
        with ThreadPoolExecutor() as pool:
            paths = [job.result() for job in [pool.submit(fetch) for _ in range(4)]]
        assert [path.read_bytes() for path in paths] == [CONTENT] * 4
        assert server.ranges == [None] and files(cache) == ["file"]
