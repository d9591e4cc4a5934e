"""Arrays from elsewhere into a model's variables: each exactly one, sizes and shapes checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from zoo.files import BundleError, blaming
from zoo.weights.family import Tensors

# A function that reads one tensor when it is its turn.
Source = Callable[[], np.ndarray]
_SLICE_BYTES = 1 << 24
# Groups and weights of one HDF5 file; a model of a hundred layers has a few thousand.
_MAX_ENTRIES = 100_000


def sources_of(
    tables: Mapping[str, Tensors], read: Callable[[str], np.ndarray]
) -> dict[str, Source]:
    """For each variable name a function that makes its value of the tensors that `read` gives."""
    return {
        name: lambda table=table: table.to_variable([read(tensor) for tensor in table.names])
        for name, table in tables.items()
    }


def assign_weights(model: keras.Model, sources: Mapping[str, Source], where: object) -> None:
    """Gives every variable of a model its value, with one array in memory at a time.

    `sources` has a function for each name in `model_weights`. A BundleError names what is missing,
    too much or of a wrong shape; then the model holds some values and not others.
    """
    variables = model_weights(model)
    problems = [f"{name} is missing there" for name in variables if name not in sources]
    problems += [f"this model has no {name}" for name in sources if name not in variables]
    if not problems:
        for name, variable in variables.items():
            value = sources[name]()
            if value.shape == tuple(variable.shape):
                _assign(variable, value)
            else:
                problems.append(f"{name} is {value.shape} there and {tuple(variable.shape)} here")
    if problems:
        raise BundleError(
            f"{where}: weights do not fit the model that is built: {listed(problems, '; ')}"
        )


def listed(items: list[str], separator: str = ", ") -> str:
    """The first eight items as text: more tell nothing new."""
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return separator.join(items[:8]) + more


def _assign(variable: keras.Variable, value: np.ndarray) -> None:
    if keras.backend.backend() != "tensorflow" or value.nbytes <= _SLICE_BYTES:
        variable.assign(value)
        return
    # TensorFlow copies an array twice on its way into a variable, and keeps the memory: done in
    # slices, an embedding costs no more than a slice on top.
    rows = max(_SLICE_BYTES * len(value) // value.nbytes, 1)
    for start in range(0, len(value), rows):
        part = keras.ops.convert_to_tensor(value[start : start + rows], dtype=variable.dtype)
        variable.value[start : start + rows].assign(part)


def check_size(
    weights: Path, stored: int, config_file: str | Path, fields: Mapping[str, Any], needed: int
) -> None:
    """Raises BundleError, before a model is built, if its config asks for more than a file has.

    `stored` weights are in the file `weights`, and the model of the config with these fields, by
    the file's own names, has `needed`.
    """
    if needed > stored:
        sizes = {name: value for name, value in fields.items() if type(value) is int}
        raise BundleError(
            f"{config_file}: the model that it describes has {needed:,} weights, and {weights} "
            f"has {stored:,}: one of {sizes!r:.500} is wrong, or they do not belong together"
        )


def count_stored(paths: Iterable[Path]) -> int:
    """The number of weights in HDF5 files, each of which really holds what it says it holds.

    An HDF5 file can have any size once it is read: compressed, or never written and filled with
    zeros by the reader, or taken from other files by name. Keras writes none of these, and they
    are refused by a BundleError.
    """
    count = 0
    for path in paths:
        links, items, size = [], [], 0
        why = f"{path}: not a whole HDF5 file; restore it, or write it anew"
        # What h5py raises for a damaged file depends on where the damage is.
        kinds = (OSError, KeyError, TypeError, RuntimeError)
        with blaming(why, *kinds), h5py.File(path, "r") as file:
            file.visititems_links(lambda *link, links=links: links.append(link))
            if len(links) > _MAX_ENTRIES:
                raise BundleError(f"{path}: more than {_MAX_ENTRIES:,} groups and weights")
            for name, link in links:
                if not isinstance(link, h5py.HardLink):
                    raise BundleError(f"{path}: /{name} is a link, which is not read")
            file.visititems(lambda *item, items=items: items.append(item))  # each once
            if len(items) != len(links):  # Keras could take one for another
                raise BundleError(f"{path}: a group or weight is in the file under two names")
            for name, item in items:
                if not isinstance(item, h5py.Group):
                    _check_dataset(f"{path}: /{name}", item)
                    count, size = count + item.size, size + item.nbytes
        if size > path.stat().st_size:
            raise BundleError(
                f"{path}: weights of {size:,} bytes share their data, in a file of "
                f"{path.stat().st_size:,} bytes"
            )
    return count


def _check_dataset(where: str, item: h5py.Dataset) -> None:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind in "OSU":
        raise BundleError(f"{where} is no array of numbers")
    if item.external or item.is_virtual:
        raise BundleError(f"{where} takes its data from other files, which is not read")
    stored = item.id.get_storage_size()
    if stored < item.nbytes:
        raise BundleError(
            f"{where} has the shape {item.shape}, {item.nbytes:,} bytes, and the file holds "
            f"{stored:,} bytes of it: compressed or unwritten weights are not read"
        )


def backbone_weights(backbone: keras.Model) -> dict[str, keras.Variable]:
    """Weights by name within the backbone, such as "block_0/attention/qkv/kernel".

    A variable's own path also holds the names of the models around, which differ between tasks.
    """
    weights = {}
    for child in backbone.layers:
        for weight in child.weights:
            parts = weight.path.split("/")
            weights["/".join(parts[parts.index(child.name) :])] = weight
    return weights


def model_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """The backbone's weights as `backbone_weights` names them, and the head's.

    The head's are called by layer, such as "output/kernel", or by their own name where the head
    itself holds them.
    """
    weights = backbone_weights(model.backbone)
    known = {id(weight) for weight in weights.values()}
    owners = {id(weight): layer.name for layer in model.layers for weight in layer.weights}
    for weight in model.weights:
        if id(weight) not in known:
            owner = owners.get(id(weight))
            weights[weight.name if owner is None else f"{owner}/{weight.name}"] = weight
    return weights
