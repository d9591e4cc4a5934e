"""Weights in safetensors files, one or several: names, shapes and tensors, read one at a time.

The format is a JSON header and raw numbers (https://github.com/huggingface/safetensors): reading
it runs no code, unlike PyTorch's pickles, which are refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  without it numpy has no bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from zoo.config import Fields
from zoo.files import BundleError, inside, replacing

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLE = "a PyTorch pickle, and reading a pickle runs whatever code its author put there"
# Files that look like weights: what they are, for whoever wonders why they are not read.
_REFUSED = {
    ".bin": _PICKLE,
    ".pt": _PICKLE,
    ".pth": _PICKLE,
    ".ckpt": "a pickle or a TensorFlow 1 checkpoint, and reading a pickle runs its author's code",
    ".h5": "HDF5 in the layout of TensorFlow classes that transformers no longer has",
    ".msgpack": "Flax weights, which have names of their own",
}
_FLOATS = ("BF16", "F16", "F32", "F64")


class WeightFiles:
    """Tensors by name, from one safetensors file or several; made by `open_weights`.

    Nothing is held in memory: each `read` maps its file, copies one tensor and lets go.

    Attributes:
        path: Path, what to blame in a message: the file, or the index of several.
    """

    def __init__(self, path: Path, files: Mapping[str, Path] | None = None):
        self.path = path
        self._files: dict[str, Path] = {}
        self._specs: dict[str, tuple[str, tuple[int, ...]]] = {}
        for file in sorted({path} if files is None else set(files.values())):
            with _opened(file) as handle:
                for name in handle.keys():  # noqa: SIM118  no mapping
                    if files is None or files.get(name) == file:
                        part = handle.get_slice(name)
                        self._files[name] = file
                        self._specs[name] = (part.get_dtype(), tuple(part.get_shape()))
        for name, file in (files or {}).items():
            if name not in self._specs:
                raise BundleError(
                    f"{file}: no tensor {name!r}, though {path.name} says it is there. "
                    "Download the files again, all of one revision."
                )

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *_) -> None:
        # No file stays open between two reads.
        self._specs.clear()

    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._specs)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._spec(name)[1]

    def count(self) -> int:
        """The number of weights in all tensors; a file holds them all, or it is not opened."""
        return sum(math.prod(shape) for _, shape in self._specs.values())

    def read(self, name: str) -> np.ndarray:
        """One tensor, float32 whatever the file has (float16, bfloat16, float32 or float64).

        Raises:
            BundleError: no such tensor, whole numbers in place of weights, or a file that was
                changed since it was opened.
        """
        dtype, shape = self._spec(name)
        file = self._files[name]
        if dtype not in _FLOATS:
            raise BundleError(
                f"{file}: tensor {name!r} has dtype {dtype}; read are {', '.join(_FLOATS)}"
                ". Quantised weights must be converted to one of these first."
            )
        # Opened for each tensor: a map that stays open keeps its pages, so that at the end the
        # whole file would be in memory beside the model.
        with _opened(file) as handle:
            try:
                values = handle.get_tensor(name)
            except safetensors.SafetensorError as error:
                raise BundleError(f"{file}: tensor {name!r} cannot be read: {error}") from None
        if values.shape != shape:
            raise BundleError(f"{file}: was replaced while it was read. Load it again.")
        return np.asarray(values, np.float32)

    def _spec(self, name: str) -> tuple[str, tuple[int, ...]]:
        if name not in self._specs:
            raise BundleError(f"{self.path}: no tensor {name!r}")
        return self._specs[name]


def open_weights(path: str | os.PathLike[str]) -> WeightFiles:
    """Opens a safetensors file, its index of several, or the one or other in a folder.

    Raises:
        BundleError: no weights there, only pickles, a damaged or truncated file, a missing part,
            or a part without a tensor that the index says it has; the message names the file.
    """
    path = Path(path)
    if path.is_dir():
        names = [name for name in (WEIGHTS_FILE, INDEX_FILE) if (path / name).is_file()]
        if not names:
            raise BundleError(_no_weights(path))
        path = inside(path, names[0])
    if path.suffix in _REFUSED:
        raise BundleError(_no_weights(path))
    return WeightFiles(path, _parts(path) if path.name.endswith(".index.json") else None)


def write_weights(
    folder: str | os.PathLike[str], tensors: Iterable[tuple[str, np.ndarray]]
) -> Path:
    """Writes `folder/model.safetensors`, whole or not at all; dtypes are kept.

    All tensors are in memory until the file is written, because its header, which comes first,
    has every shape.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, array in tensors:
        if name in arrays:
            raise ValueError(f"two tensors are named {name!r}")
        arrays[name] = np.asarray(array, order="C")
    target = Path(folder) / WEIGHTS_FILE
    with replacing(target) as temporary:
        try:
            # transformers wants to see that the layout is PyTorch's.
            safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise OSError(f"{target}: cannot be written: {error}") from error
        os.chmod(temporary, 0o644)  # the writer makes its own file, readable by nobody else
    return target


def _opened(file: Path):
    if not file.is_file():
        raise BundleError(f"{file}: no such file")
    try:
        return safetensors.safe_open(file, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise BundleError(
            f"{file}: not a whole safetensors file ({error}). It was damaged, or its download was "
            "cut off: fetch it again."
        ) from None


def _parts(index: Path) -> dict[str, Path]:
    """Tensor name -> file, from an index."""
    files = Fields.read(index).part("weight_map").values
    # A name with folders in it could point anywhere on the disk.
    if not all(isinstance(file, str) and Path(file).name == file for file in files.values()):
        raise BundleError(
            f"{index}: not an index of safetensors files: 'weight_map' must give each tensor the "
            "name of a file beside it. Fetch it again."
        )
    parts = {file: inside(index.parent, file, where=index) for file in set(files.values())}
    missing = sorted(file for file, path in parts.items() if not path.is_file())
    if missing:
        raise BundleError(
            f"{parts[missing[0]]}: no such file, though {index.name} lists it. "
            f"{len(missing)} of {len(parts)} parts are missing: fetch them."
        )
    return {name: parts[file] for name, file in files.items()}


def _no_weights(path: Path) -> str:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in _REFUSED)
        where = f"{path}: no {WEIGHTS_FILE}"
    else:
        found, where = [path], str(path)
    if not found:
        return f"{where} and no {INDEX_FILE}. Give the folder of a model in safetensors format."
    return (
        f"{where}: only safetensors files are read, and {found[0].name} is "
        f"{_REFUSED[found[0].suffix]}. Take a revision of the model that has {WEIGHTS_FILE}, or, "
        "if you trust the file, convert it where transformers and PyTorch are installed: "
        "AutoModel.from_pretrained(folder).save_pretrained(new_folder), with the Auto class of "
        "the model's task."
    )
