"""What a bundle's `config.json` holds, and how it is read."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any, ClassVar

import keras

from zoo.bundle_error import BundleError
from zoo.inner_paths import inside
from zoo.json_fields import read_json
from zoo.strict_config import STRICT, ConfigError, from_dict
from zoo.text.base import TextConfig

FORMAT_VERSION = 2
# Version 1 had language models only; every field since then has a default.
_READ_VERSIONS = (1, 2)
CONFIG_FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class BundleConfig:
    """What `config.json` holds.

    Attributes:
        format_version: int, raised when older code could not read the folder.
        family: "gpt", "lstm" or "bert".
        task: "lm", or one of `zoo.text.TEXT_MODELS`.
        model: the model config as a dict.
        tokenizer_kind, tokenizer_fingerprint: which tokenizer the weights were trained with.
        start_id: int, the token that an empty text reads; None but for task "lm".
        weights_sha256: hex digest of `model.weights.h5`; "" for a model that other programs saved,
            whose files say nothing to compare it with.
        parameters: int, number of weights.
        versions: package name -> version that wrote the bundle.
        head: options of the task's head, such as {"num_classes": 2}.
        labels: names of classes or tags, in the order of the model's outputs.
        text: how text is read, a `zoo.text.base.TextConfig`; None for task "lm".
        quantization: what `model.quantize` did, as `zoo.serialization.quantization_config` says.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    format_version: int
    family: str
    task: str
    model: dict[str, Any]
    tokenizer_kind: str
    tokenizer_fingerprint: str
    start_id: int | None
    weights_sha256: str
    parameters: int
    versions: dict[str, str]
    head: dict[str, Any] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    text: TextConfig | None = None
    quantization: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_config(folder: Path) -> BundleConfig:
    """The `config.json` of a bundle.

    Raises:
        BundleError: no such folder or file, a training run that is not finished, not valid JSON,
            an unknown key, or another format version; the message names the file.
    """
    path = inside(folder, CONFIG_FILE)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder. Give the --workdir of a training run.")
    if not path.is_file():
        if (folder / "train_config.json").is_file():
            raise BundleError(
                f"{folder}: the training run in it has not finished, so there is no {CONFIG_FILE} "
                "yet. Run `python -m trainers` with the same --recipe and --workdir to finish it."
            )
        raise BundleError(f"{path}: no such file. Give the --workdir of a training run.")
    values = read_json(path)
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int or version not in _READ_VERSIONS:
        raise BundleError(
            f"{path}: format_version is {version!r:.80}, this release reads {_READ_VERSIONS}. "
            "Use the release that wrote it."
        )
    try:
        return from_dict(BundleConfig, values, where=str(path))
    except ConfigError as error:
        raise BundleError(str(error)) from None


def current_versions() -> dict[str, str]:
    """Versions of the packages that a bundle's weights depend on."""
    return {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "tensorflow": importlib.metadata.version("tensorflow"),
    }
