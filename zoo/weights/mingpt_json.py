"""Tensors in one JSON file, as minGPT models are published for web pages: base64 of raw numbers."""

from __future__ import annotations

import base64
import binascii
import math
import os
from pathlib import Path
from typing import Any

import ml_dtypes  # numpy has no bfloat16 of its own
import numpy as np

from zoo.config import read_json
from zoo.files import BundleError

_DTYPES = {
    "torch.float16": np.dtype("<f2"),
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch.float32": np.dtype("<f4"),
    "torch.float64": np.dtype("<f8"),
}

# It holds the weights, in base64.
_LARGEST = 1 << 33


class TensorJson:
    """The tensors and the config of a JSON file.

    The file is one object: "config" holds the model's settings, every other key is a tensor,
    `{"shape": [3, 48], "dtype": "torch.float32", "data": BASE64}`, little endian, row by row.

    Args:
        path: the file.

    Attributes:
        path: Path, to blame in messages.
        config: dict, what the file has under "config", or {}.

    Raises:
        BundleError: no such file, not JSON, or an entry that is no tensor; the message names it.

    Example: `TensorJson("gpt-nano-sort-model.json").shape("lm_head.weight")  # (3, 48)`
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.is_file():
            raise BundleError(f"{self.path}: no such file")
        content = read_json(self.path, largest=_LARGEST)
        if not isinstance(content, dict):
            raise BundleError(f"{self.path}: not a JSON object of tensors by name")
        self.config: dict[str, Any] = content.pop("config", {})
        if not isinstance(self.config, dict):
            raise BundleError(f"{self.path}: 'config' is not an object of settings by name")
        self._tensors: dict[str, dict[str, Any]] = content
        for name in self._tensors:
            self._check(name)

    def names(self) -> list[str]:
        """The names of all tensors, in the file's order."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            BundleError: no such tensor.
        """
        return tuple(self._tensor(name)["shape"])

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32, whatever dtype the file has.

        Raises:
            BundleError: no such tensor, an unknown dtype, or data that is cut off or damaged.
        """
        tensor, shape = self._tensor(name), self.shape(name)
        dtype = _DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise BundleError(
                f"{self.path}: tensor {name!r} has dtype {tensor['dtype']!r}; known are "
                f"{', '.join(_DTYPES)}"
            )
        try:
            data = base64.b64decode(tensor["data"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise BundleError(
                f"{self.path}: the data of tensor {name!r} is not whole base64 ({error}). Fetch "
                "the file again."
            ) from None
        needed = math.prod(shape) * dtype.itemsize
        if len(data) != needed:
            raise BundleError(
                f"{self.path}: the data of tensor {name!r} has {len(data)} bytes, its shape "
                f"{list(shape)} needs {needed}. Fetch the file again."
            )
        return np.frombuffer(data, dtype).reshape(shape).astype(np.float32)

    def _tensor(self, name: str) -> dict[str, Any]:
        if name not in self._tensors:
            raise BundleError(f"{self.path}: no tensor {name!r}")
        return self._tensors[name]

    def _check(self, name: str):
        tensor = self._tensors[name]
        is_tensor = (
            isinstance(tensor, dict)
            and isinstance(tensor.get("dtype"), str)
            and isinstance(tensor.get("data"), str)
            and isinstance(tensor.get("shape"), list)
            and all(type(size) is int and size >= 0 for size in tensor["shape"])
        )
        # Four characters of base64 have three bytes. A model is built by the shapes.
        if is_tensor and len(tensor["data"]) < math.prod(tensor["shape"]):
            raise BundleError(
                f"{self.path}: the data of tensor {name!r} is too short for its shape "
                f"{tensor['shape']!r:.80}. Fetch the file again."
            )
        if not is_tensor:
            raise BundleError(
                f"{self.path}: {name!r} is no tensor: an object with 'shape', a list of sizes, and "
                "the strings 'dtype' and 'data'"
            )
