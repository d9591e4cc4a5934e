"""Files from the network: verified by checksum, never seen half written."""

import hashlib
import http.client
import os
import sys
import time
import urllib.request
from collections.abc import Iterator

from absl import logging

from trainers.data.limits import DEFAULT_LIMITS, Limits
from zoo.files import replacing


def download(url: str, path: str, sha256: str, limits: Limits = DEFAULT_LIMITS) -> str:
    """Downloads `url` to `path`, unless a file with this checksum (hex) is there; returns `path`.

    The file appears only when complete and verified. Progress goes to stderr.

    Raises ValueError if the checksum differs or the file is larger than `limits` allow, OSError if
    the URL cannot be read; neither leaves a file behind.

    Example: `download("https://host/a.txt", "/cache/a.txt", hashlib.sha256(b"text").hexdigest())`
    """
    # Not keras.utils.get_file: it writes straight to the target (an interrupted or wrong
    # download stays there under its final name for another process to read), and it moves to
    # /tmp in silence when the cache is not writable.
    sha256 = sha256.lower()
    if os.path.exists(path):
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return path
        logging.warning("%s: checksum is not %s, downloading again", path, sha256)
    with replacing(path) as partial:
        digest = hashlib.sha256()
        with open(partial, "wb") as file:
            for block in _blocks(url, path, limits):
                file.write(block)
                digest.update(block)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{url}: sha256 is {digest.hexdigest()}, expected {sha256}; the download was "
                "deleted. Try again; if it repeats, the file has changed or a proxy alters it."
            )
    return path


def _blocks(url: str, path: str, limits: Limits) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            announced = response.headers.get("Content-Length") or ""
            # Digits of any number are no size: such a header tells nothing.
            total = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
            limits.check_download(total, url)
            done, shown = 0, 0.0
            while block := response.read(1 << 16):
                done += len(block)
                limits.check_download(done, url)
                yield block
                if time.monotonic() - shown > 0.5 or done == total:
                    shown = time.monotonic()
                    size = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"
                    print(f"\rdownloading {url}: {size}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
    # URLError, HTTPError and timeouts are all OSErrors.
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"{url}: download failed ({error}). Fetch it on another machine and put it at {path}, "
            "or under data_dir."
        ) from error
