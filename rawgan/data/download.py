"""Downloads into the cache folder: whole and with the right checksum, or not at all; what broke off is gone on with."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rawgan.errors import UserError

CHUNK = 1 << 16  # bytes taken from the network at a time
LIMIT = 1 << 30  # bytes: nothing that is fetched here is larger
TIMEOUT = 30  # seconds without a byte


def cache_folder() -> Path:
    """Where downloads are kept: what the environment variable RAWGAN_DATA says, else the user's cache folder."""
    if moved := os.environ.get("RAWGAN_DATA"):
        return Path(os.path.expanduser(moved))
    import pooch  # here, as only downloads want it

    return Path(pooch.os_cache("rawgan"))


def download(name: str, urls: list[str], sha256: str, folder: Path, file: str, remedy: str) -> Path:
    """Fetches `folder`/`file` from the first of the urls that has it, and returns its path.

    A download that breaks off leaves FILE.part, from which the next one goes on. Raises UserError where no url serves, which ends
    with the remedy, and where the folder cannot be written; a file with another checksum is thrown away.
    """
    import pooch
    import requests

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): set RAWGAN_DATA to a folder of yours.") from None
    pooch.get_logger().setLevel("WARNING")  # the bar says what is fetched
    for url in urls:
        try:
            return Path(pooch.retrieve(url, f"sha256:{sha256}", file, folder, downloader=resuming(folder / f"{file}.part")))
        except (requests.RequestException, TimeoutError, ConnectionError) as error:
            why = type(error).__name__
        except ValueError:  # what pooch raises for it
            why = "wrong checksum"
        except OSError as error:
            space = "make room for it" if error.errno == errno.ENOSPC else "check its permissions"
            raise UserError(f"{folder / file} cannot be written ({error.strerror}): {space}, or set RAWGAN_DATA.") from None
    raise UserError(f"{name} could not be downloaded ({why} for {file}): {remedy}.")


def resuming(part: Path) -> Callable:
    """A downloader for pooch that writes to `part`, goes on where an earlier one broke off, and shows how far it is."""

    def downloader(url: str, output: str, _) -> None:
        import requests
        from tqdm import tqdm

        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            whole = have and response.status_code == 416  # there is nothing behind what is here
            if not whole:
                response.raise_for_status()
                if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                    have = 0  # the server begins at the beginning, whatever it was asked for
                left = response.headers.get("Content-Length")
                shown = {"total": have + int(left) if left else None, "initial": have, "unit": "B", "unit_scale": True}
                every = 0.1 if sys.stderr.isatty() else 10
                with open(part, "ab" if have else "wb") as file, tqdm(desc=part.stem, mininterval=every, **shown) as bar:
                    for chunk in response.iter_content(CHUNK):
                        if file.tell() + len(chunk) > LIMIT:
                            part.unlink()  # nothing to go on from
                            raise requests.ConnectionError(f"more than {LIMIT} bytes")
                        file.write(chunk)
                        bar.update(len(chunk))
        os.replace(part, output)

    return downloader
