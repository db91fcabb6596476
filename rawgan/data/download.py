"""Resumable downloads into the cache folder, verified by their checksum."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rawgan.errors import UserError
from rawgan.files import kind, locked

CHUNK = 1 << 16  # bytes read from the network at a time
LIMIT = 1 << 30  # bytes; no download is larger
TIMEOUT = 30  # seconds without a byte


def cache_folder() -> Path:
    """Return the folder of downloads.

    It is the environment variable RAWGAN_DATA, else the user's cache folder.
    """
    if moved := os.environ.get("RAWGAN_DATA"):
        return Path(os.path.expanduser(moved))
    import pooch  # imported here because only downloads need it

    return Path(pooch.os_cache("rawgan"))


def download(name: str, urls: list[str], sha256: str, folder: Path, file: str, remedy: str) -> Path:
    """Download `folder`/`file` from the first working url, and return its path.

    One process at a time downloads into a folder; others wait for it and use the file. An
    interrupted download is kept as FILE.part, from which the next one resumes. A file with another
    checksum is deleted. Raises UserError, ending with `remedy`, if no url works, and UserError if
    the folder cannot be written.
    """
    import pooch
    import requests

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}): set RAWGAN_DATA to a folder of yours."
        ) from None
    pooch.get_logger().setLevel("WARNING")  # the progress bar names the file
    for url in urls:
        try:
            with locked(folder, wait=True):
                return Path(
                    pooch.retrieve(
                        url,
                        f"sha256:{sha256}",
                        file,
                        folder,
                        downloader=resuming(folder / f"{file}.part"),
                    )
                )
        except (requests.RequestException, TimeoutError, ConnectionError) as error:
            why = type(error).__name__
        except ValueError:  # pooch's error for it
            why = "wrong checksum"
        except OSError as error:
            space = "make room for it" if error.errno == errno.ENOSPC else "check its permissions"
            raise UserError(
                f"{folder / file} cannot be written ({error.strerror}): {space}, or set "
                "RAWGAN_DATA."
            ) from None
    raise UserError(f"{name} could not be downloaded ({why} for {file}): {remedy}.")


def resuming(part: Path) -> Callable:
    """Return a downloader for pooch that writes to `part`, resumes from it, and shows progress."""

    def downloader(url: str, output: str, _) -> None:
        import requests
        from tqdm import tqdm

        have = part.stat().st_size if kind(part) == "a file" else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            whole = have and response.status_code == 416  # the partial file is complete
            if not whole:
                response.raise_for_status()
                if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                    have = 0  # the server ignored the range and sends the whole file
                left = response.headers.get("Content-Length")
                shown = {
                    "total": have + int(left) if left else None,
                    "initial": have,
                    "unit": "B",
                    "unit_scale": True,
                }
                every = 0.1 if sys.stderr.isatty() else 10
                with (
                    opened_part(part, have) as file,
                    tqdm(desc=part.stem, mininterval=every, **shown) as bar,
                ):
                    for chunk in response.iter_content(CHUNK):
                        if file.tell() + len(chunk) > LIMIT:
                            part.unlink()  # cannot be resumed
                            raise requests.ConnectionError(f"more than {LIMIT} bytes")
                        file.write(chunk)
                        bar.update(len(chunk))
        os.replace(part, output)

    return downloader


def opened_part(part: Path, have: int) -> BinaryIO:
    """Open a partial download for writing: append after `have` bytes, or create it if that is 0."""
    if not have:
        part.unlink(missing_ok=True)
        return open(part, "xb")
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return open(part, "ab", opener=lambda name, _: os.open(name, flags))
