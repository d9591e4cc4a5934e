"""HDF5 files of unknown origin: how much they hold, before anything is read from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py

from zoo.files import BundleError

# Groups and weights of one file; a model of a hundred layers has a few thousand.
_MAX_ENTRIES = 100_000


def count_stored(paths: Iterable[Path]) -> int:
    """The number of weights in HDF5 files, each of which really holds what it says it holds.

    An HDF5 file can have any size once it is read: compressed, or never written and filled with
    zeros by the reader, or taken from other files by name. Keras writes none of these, and they
    are refused by a BundleError.
    """
    count = 0
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                count += _count(file, path)
        except BundleError:
            raise
        # What h5py raises for a damaged file depends on where the damage is.
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BundleError(
                f"{path}: not a whole HDF5 file ({error}). Restore it, or write it anew."
            ) from None
    return count


def _count(file: h5py.File, path: Path) -> int:
    count = size = 0
    for name, dataset in _datasets(file, path):
        stored, needed = dataset.id.get_storage_size(), dataset.nbytes
        if dataset.external or dataset.is_virtual:
            raise BundleError(f"{path}: {name} takes its data from other files, which is not read")
        if stored < needed:
            raise BundleError(
                f"{path}: {name} has the shape {dataset.shape}, {needed:,} bytes, and the file "
                f"holds {stored:,} bytes of it: compressed or unwritten weights are not read"
            )
        size += needed
        count += math.prod(dataset.shape)
    if size > path.stat().st_size:
        raise BundleError(
            f"{path}: weights of {size:,} bytes in a file of {path.stat().st_size:,}: several "
            "share their data, which is not read"
        )
    return count


def _datasets(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    groups, entries, seen = [("", file)], 0, set()
    while groups:
        prefix, group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise BundleError(f"{path}: {prefix or '/'} is in the file under two names")
        seen.add(address)
        for name in group:
            entries += 1
            if entries > _MAX_ENTRIES:
                raise BundleError(f"{path}: more than {_MAX_ENTRIES:,} groups and weights")
            place = f"{prefix}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise BundleError(f"{path}: {place} is a link, which is not read")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append((place, item))
            elif isinstance(item, h5py.Dataset) and item.dtype.kind not in "OSU":
                yield place, item
            else:
                raise BundleError(f"{path}: {place} is no array of numbers")
