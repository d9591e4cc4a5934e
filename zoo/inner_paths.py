"""Files of a model lie in its folder: no name in one of them, and no link, leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.bundle_error import BundleError


def inside(folder: str | os.PathLike[str], *names: str, where: str | Path | None = None) -> Path:
    """The path of a file or folder of a model, which need not be there.

    Whoever made a model decides what its files name. A name such as "../other", an absolute one,
    or a link could have anything on this machine read as part of the model, and then exported.
    In the Hugging Face Hub's cache all files are links, to the blobs of the same repository.

    Args:
        folder: the model's.
        names: relative, one or several that are joined.
        where: what named them, for the message. Defaults to the path itself.

    Raises:
        BundleError: it leads out of the folder.

    Example: `inside("downloads/minilm", "1_Pooling", "config.json")`
    """
    folder = Path(folder)
    path = folder.joinpath(*names)
    try:
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, U+0000 in a name
        raise BundleError(f"{where or path}: {names[-1]!r:.80} is no path ({error})") from None
    if target.is_relative_to(root) or _is_blob(root, target):
        return path
    if where is not None and not path.is_symlink():
        raise BundleError(
            f"{where}: {'/'.join(names)!r:.80} leads out of {folder}; a model is read from its own "
            "folder only"
        )
    raise BundleError(
        f"{path}: a link to {target}, out of {folder}; a model is read from its own folder only. "
        "If you trust it, put a copy in place of the link."
    )


def check_links(folder: Path) -> None:
    """Raises BundleError if any link below a folder leads out of it, for readers not our own."""
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(where, name)):
                inside(folder, os.path.relpath(os.path.join(where, name), folder))


def _is_blob(root: Path, target: Path) -> bool:
    """Whether `root` is in a snapshot of the Hub's cache, and `target` a blob of its repository."""
    # repository/snapshots/revision/... and repository/blobs/hash
    snapshots = (parent.parent for parent in (root, *root.parents))
    return any(
        snapshot.name == "snapshots" and target.parent == snapshot.parent / "blobs"
        for snapshot in snapshots
    )
