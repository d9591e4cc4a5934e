"""Arrays from elsewhere into a model's variables: each exactly one, sizes and shapes checked."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import h5py
import keras
import numpy as np

from zoo.config import Fields
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
    """Gives the variables in `model_weights` their values; a BundleError says which do not fit."""
    variables = model_weights(model)
    problems = [f"{name} is missing there" for name in variables if name not in sources]
    problems += [f"this model has no {name}" for name in sources if name not in variables]
    if not problems:
        for name, variable in variables.items():
            value = sources[name]()
            if value.shape != tuple(variable.shape):
                problems.append(f"{name} is {value.shape} there and {tuple(variable.shape)} here")
            elif keras.backend.backend() != "tensorflow" or value.nbytes <= _SLICE_BYTES:
                variable.assign(value)
            else:
                # TensorFlow copies an array twice on its way into a variable, and keeps the memory:
                # done in slices, an embedding costs no more than a slice on top.
                rows = max(_SLICE_BYTES * len(value) // value.nbytes, 1)
                for start in range(0, len(value), rows):
                    part = keras.ops.convert_to_tensor(value[start : start + rows], variable.dtype)
                    variable.value[start : start + rows].assign(part)
    if problems:
        problem = listed(problems, "; ")
        raise BundleError(f"{where}: weights do not fit the model that is built: {problem}")


def listed(items: list[str], separator: str = ", ") -> str:
    """The first eight items as text: more tell nothing new."""
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return separator.join(items[:8]) + more


def check_size(weights: Path, stored: int, fields: Fields, needed: int) -> None:
    """Raises BundleError if a config with these fields needs more weights than a file stores."""
    if needed > stored:
        sizes = {name: value for name, value in fields.values.items() if type(value) is int}
        raise BundleError(
            f"{fields.where}: the model that it describes has {needed:,} weights, and {weights} "
            f"has {stored:,}: one of {sizes!r:.500} is wrong, or they do not belong together"
        )


def count_stored(paths: Iterable[Path]) -> int:
    """The number of weights in HDF5 files; a BundleError names what Keras would not write."""
    # Compressed, never written, or taken from other files, weights have any size once read.
    count = 0
    for path in paths:
        links, items, size = [], [], 0
        why = f"{path}: not a whole HDF5 file; restore it, or write it anew"
        # What h5py raises for a damaged file depends on where the damage is.
        with blaming(why, OSError, KeyError, TypeError, RuntimeError), h5py.File(path) as file:
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
                if isinstance(item, h5py.Group):
                    continue
                if not isinstance(item, h5py.Dataset) or item.dtype.kind in "OSUc":
                    raise BundleError(f"{path}: /{name} is no array of numbers")
                if item.external or item.is_virtual:
                    raise BundleError(f"{path}: /{name} has its data in other files, never read")
                if (stored := item.id.get_storage_size()) < item.nbytes:
                    raise BundleError(
                        f"{path}: /{name} has {item.nbytes:,} bytes, {stored:,} of them in the "
                        f"file: compressed or unwritten weights are not read"
                    )
                count, size = count + item.size, size + item.nbytes
        if size > (stored := path.stat().st_size):
            raise BundleError(
                f"{path}: weights of {size:,} bytes share their data, in a file of {stored:,} bytes"
            )
    return count


def backbone_weights(backbone: keras.Model) -> dict[str, keras.Variable]:
    """Weights by name within the backbone, such as "block_0/attention/qkv/kernel"."""
    weights = {}  # a variable's path begins with names of the models around, which differ
    for child in backbone.layers:
        for weight in child.weights:
            parts = weight.path.split("/")
            weights["/".join(parts[parts.index(child.name) :])] = weight
    known = {id(weight) for weight in weights.values()}
    # Those that are no layer's, such as a bias of the logits.
    weights |= {weight.name: weight for weight in backbone.weights if id(weight) not in known}
    return weights


def model_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """`backbone_weights`, and the head's: "output/kernel", or its own such as "output_bias"."""
    weights = backbone_weights(model.backbone)
    known = {id(weight) for weight in weights.values()}
    owners = {id(weight): layer.name for layer in model.layers for weight in layer.weights}
    for weight in model.weights:
        if id(weight) not in known:
            owner = owners.get(id(weight))
            weights[weight.name if owner is None else f"{owner}/{weight.name}"] = weight
    return weights
