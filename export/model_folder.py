"""The folder of a served model, `MODEL/VERSION/`: its versions, and what lies in one."""

import os
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

# Paths in the folder of a version. TensorFlow and TensorFlow Serving name those of the first line.
SAVED_MODEL_FILE, DEBUG_INFO_FILE = "saved_model.pb", "debug/saved_model_debug_info.pb"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
BATCHING_FILE = "batching_params.pbtxt"  # a copy of the file beside this one
GOLDEN_FILE = "assets.extra/golden_pairs.jsonl"
CARD_FILE = "assets.extra/model_card.md"
PRECISION_REPORT_FILE = "assets.extra/precision_report.md"

_MAX_VERSION = 2**63 - 1


def find_versions(base_path: str | os.PathLike[str]) -> dict[int, str] | None:
    """Version number -> folder; None for no such path, tf.errors.OpError for an unreadable one."""
    if not tf.io.gfile.isdir(base_path):
        return None
    found: dict[int, str] = {}
    # Of two spellings of a number, as 5 and 0005, the shorter one is served: it comes last.
    for entry in sorted(tf.io.gfile.listdir(base_path), key=len, reverse=True):
        folder = entry.rstrip("/")  # object stores list folders with a slash
        path = os.path.join(base_path, folder)
        named = folder.isascii() and folder.isdigit() and int(folder) <= _MAX_VERSION
        if named and tf.io.gfile.isdir(path):
            found[int(folder)] = path
    return found


def newest_version(model_folder: Path) -> Path:
    """The version folder with the highest number, or the folder itself if it is a SavedModel."""
    if (model_folder / SAVED_MODEL_FILE).is_file():
        return model_folder
    versions = find_versions(model_folder)
    if not versions:
        raise ValueError(
            f"{model_folder}: no model version in it. Write one with "
            f"`python -m export --workdir=... --out={model_folder}`"
        )
    return Path(versions[max(versions)])


def read_saved_model(folder: Path) -> saved_model_pb2.SavedModel:
    """The graphs of a SavedModel; OSError where there is no file, DecodeError for a damaged one."""
    return saved_model_pb2.SavedModel.FromString((folder / SAVED_MODEL_FILE).read_bytes())


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
