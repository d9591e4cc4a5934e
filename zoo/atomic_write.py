"""Files that are whole or not there: write to a sibling, then rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path` that takes its place when the block ends well.

    A reader sees the old file or the new one, never half of one; a full disk or a killed process
    leaves the old one as it was. If the block raises, the temporary file is removed.

    Args:
        path: the file to write; its folder is created.

    Yields:
        Path of the temporary file, with the suffixes of `path` (Keras looks at them).

    Raises:
        OSError: the folder cannot be written.

    Example:
        with replacing("bundle/config.json") as temporary:
            temporary.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename is atomic only within one file system.
    descriptor, name = tempfile.mkstemp(prefix=".partial-", suffix=f"-{path.name}", dir=path.parent)
    os.close(descriptor)
    os.chmod(name, 0o644)  # mkstemp's 0600 would hide the file from a server's user
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
