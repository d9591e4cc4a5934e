"""Weights in safetensors files, one or several: names, shapes and tensors, read one at a time."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

import ml_dtypes  # noqa: F401  without it numpy has no bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from zoo.config import Fields
from zoo.files import BundleError, blaming, inside, replacing

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Files that look like weights: what they are, for whoever wonders why they are not read.
PICKLE = "a PyTorch pickle, and reading a pickle runs whatever code its author put there"
OTHER_FORMATS = {
    **dict.fromkeys((".bin", ".pt", ".pth"), PICKLE),
    ".ckpt": "a pickle or a TensorFlow 1 checkpoint, and reading a pickle runs its author's code",
    ".h5": "HDF5 in the layout of TensorFlow classes that transformers no longer has",
    ".msgpack": "Flax weights, which have names of their own",
}
_FLOATS = ("BF16", "F16", "F32", "F64")


class WeightFiles:
    """Tensors by name, from a safetensors file, its index of several, or the folder of either.

    `path` is what to blame: the file, or the index.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = path = _weights_in(Path(path))
        named: dict[str, Path] | None = None
        if path.name.endswith(".index.json"):
            named = {tensor: files[0] for tensor, files in indexed_files(path).items()}
        self._tensors: dict[str, tuple[Path, str, tuple[int, ...]]] = {}  # file, dtype, shape
        for file in sorted({path} if named is None else {*named.values()}):
            with _opened(file) as handle:
                for name in handle.keys():  # noqa: SIM118  no mapping
                    if named is None or named.get(name) == file:
                        part = handle.get_slice(name)
                        self._tensors[name] = (file, part.get_dtype(), tuple(part.get_shape()))
        for name, file in (named or {}).items():
            if name not in self._tensors:
                raise BundleError(
                    f"{file}: no tensor {name!r}, though {path.name} says it is there. "
                    "Download the files again, all of one revision."
                )

    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        if name not in self._tensors:
            raise BundleError(f"{self.path}: no tensor {name!r}")
        return self._tensors[name][2]

    def count(self) -> int:
        """The number of weights in all tensors; a file holds them all, or it is not opened."""
        return sum(math.prod(shape) for _, _, shape in self._tensors.values())

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32, whatever floats the file has; whole numbers are no weights."""
        shape, (file, dtype, _) = self.shape(name), self._tensors[name]
        if dtype not in _FLOATS:
            raise BundleError(
                f"{file}: tensor {name!r} has dtype {dtype}; read are {', '.join(_FLOATS)}"
                ". Quantised weights must be converted to one of these first."
            )
        # Opened for each tensor: a map that stays open keeps its pages, so that at the end the
        # whole file would be in memory beside the model.
        why = f"{file}: tensor {name!r} cannot be read"
        with _opened(file) as handle, blaming(why, safetensors.SafetensorError):
            values = handle.get_tensor(name)
        if values.shape != shape:
            raise BundleError(f"{file}: was replaced while it was read. Load it again.")
        return np.asarray(values, np.float32)


def write_weights(
    folder: str | os.PathLike[str],
    tensors: Iterable[tuple[str, np.ndarray]],
    name: str = WEIGHTS_FILE,
) -> Path:
    """Writes `folder/name`, whole or not at all; dtypes are kept."""
    arrays: dict[str, np.ndarray] = {}  # all in memory: the file begins with every shape
    for tensor, array in tensors:
        if tensor in arrays:
            raise ValueError(f"two tensors are named {tensor!r}")
        arrays[tensor] = np.asarray(array, order="C")
    target = Path(folder) / name
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
        raise BundleError(f"{file}: no such file. Fetch it.")
    why = f"{file}: not a whole safetensors file, damaged or cut off in a download"
    with blaming(why, safetensors.SafetensorError, OSError):
        return safetensors.safe_open(file, framework="np")


def indexed_files(index: Path) -> dict[str, list[Path]]:
    """Tensor name -> files, from an index, which may name files beside it only."""
    files = {}
    for tensor, value in Fields.read(index).part("weight_map").values.items():
        names = value if isinstance(value, list) and value else [value]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise BundleError(
                f"{index}: not an index of weights: 'weight_map' must give each tensor the names "
                f"of files beside it. Received: {value!r:.80}. Fetch it again."
            )
        files[tensor] = [inside(index.parent, name, where=index) for name in names]
    return files


def _weights_in(path: Path) -> Path:
    """The file that a path names, or the one in a folder; a BundleError says what is no weights."""
    others, where = [path], str(path)
    if path.is_dir():
        for name in (WEIGHTS_FILE, INDEX_FILE):
            if (path / name).is_file():
                return inside(path, name)
        others, where = sorted(path.iterdir()), f"{path}: no {WEIGHTS_FILE} and no {INDEX_FILE}"
    others = [file for file in others if file.suffix in OTHER_FORMATS]
    if others:
        raise BundleError(
            f"{where}: only safetensors files are read, and {others[0].name} is "
            f"{OTHER_FORMATS[others[0].suffix]}. Take a revision of the model that has "
            f"{WEIGHTS_FILE}, or, if you trust the file, convert it where transformers and PyTorch "
            "are installed: AutoModel.from_pretrained(folder).save_pretrained(new_folder), with "
            "the Auto class of the model's task."
        )
    if path.is_dir():
        raise BundleError(f"{where}. Give the folder of a model in safetensors format.")
    return path
