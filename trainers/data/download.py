"""Files from the network: verified by checksum, never seen half written."""

import hashlib
import os
import sys
import time
import urllib.request
from collections.abc import Iterator

from absl import logging

from zoo.atomic_write import replacing


def download(url: str, path: str, sha256: str) -> str:
    """Downloads `url` to `path`, unless a file with this checksum is there; returns `path`.

    The file appears only when complete and verified. Progress goes to stderr.

    Raises ValueError if the checksum (hex) differs, OSError if the URL cannot be read; neither
    leaves a file behind.

    Example: `download("https://host/a.txt", "/cache/a.txt", hashlib.sha256(b"text").hexdigest())`
    """
    # Not keras.utils.get_file: it writes straight to the target (an interrupted or wrong
    # download stays there under its final name for another process to read), and it moves to
    # /tmp in silence when the cache is not writable.
    if os.path.exists(path):
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return path
        logging.warning("%s: checksum is not %s, downloading again", path, sha256)
    with replacing(path) as partial:
        digest = hashlib.sha256()
        with open(partial, "wb") as file:
            for block in _blocks(url, path):
                file.write(block)
                digest.update(block)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{url}: sha256 is {digest.hexdigest()}, expected {sha256}; the download was "
                "deleted. Try again; if it repeats, the file has changed or a proxy alters it."
            )
    return path


def _blocks(url: str, path: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            total = int(response.headers.get("Content-Length") or 0)
            done, shown = 0, 0.0
            while block := response.read(1 << 16):
                yield block
                done += len(block)
                if time.monotonic() - shown > 0.5 or done == total:
                    shown = time.monotonic()
                    size = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"
                    print(f"\rdownloading {url}: {size}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
    except OSError as error:  # URLError, HTTPError and timeouts are all OSErrors.
        raise OSError(
            f"{url}: download failed ({error}). Fetch it on another machine and put it at {path}, "
            "or under data_dir."
        ) from error
