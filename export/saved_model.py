"""A bundle becomes `MODEL/VERSION/`, a SavedModel that TensorFlow Serving runs."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging

from export.golden import GOLDEN_FILE, make_golden_pairs, write_golden_pairs
from export.signature_defs import declare_methods
from export.signatures import ServedModule
from export.verify import replay_locally
from export.warmup_file import WARMUP_FILE, write_warmup
from zoo.bundle import Bundle


class ExportError(ValueError):
    """The model cannot be exported; nothing was left behind."""


def export_saved_model(
    bundle: Bundle, model_folder: str | os.PathLike[str], version: int | None = None
) -> Path:
    """Writes a new version of a served model, whole or not at all.

    The SavedModel is written to a sibling whose name is no number (no server looks at it), its
    golden pairs are replayed through a session, and only then it is renamed to `VERSION`.

    Args:
        bundle: from `zoo.load`.
        model_folder: the folder that a server gets as --model_base_path; created if missing.
        version: int, at least 0. Defaults to one more than the newest.

    Returns:
        Path of the version's folder.

    Raises:
        ExportError: the version exists, the folder cannot be written, the model's backend is not
            TensorFlow, or the SavedModel does not answer as the Keras model does.

    Example: `export_saved_model(zoo.load("runs/shakespeare"), "served/shakespeare")`
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "a SavedModel is made of TensorFlow operations: run the export with "
            f"KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}"
        )
    model_folder = Path(model_folder).absolute()
    version = _next_version(model_folder) if version is None else version
    if version < 0:
        raise ExportError(f"--version must be at least 0. Received: {version}")
    target = model_folder / str(version)
    if target.exists():
        raise ExportError(
            f"{target} exists, and a served version never changes: choose another --version, "
            f"or leave it out for {_next_version(model_folder)}"
        )
    try:
        model_folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".partial-{version}-", dir=model_folder))
    except OSError as error:
        raise ExportError(f"cannot write {model_folder}: {error.strerror}") from error
    try:
        _write(bundle, partial)
        problems = replay_locally(partial)
        if problems:
            raise ExportError(
                "the SavedModel does not answer as the Keras model does:\n  "
                + "\n  ".join(problems)
            )
        partial.chmod(0o755)  # mkdtemp's 0700 would hide it from a server's user
        os.rename(partial, target)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logging.info("exported %s", target)
    return target


def _write(bundle: Bundle, folder: Path) -> None:
    module = ServedModule(bundle)
    tf.saved_model.save(
        module,
        str(folder),
        signatures=module.functions,
        # Nobody differentiates a served model; without this the graph doubles.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    if module.methods:
        declare_methods(folder, module.methods)
    pairs = make_golden_pairs(bundle)
    write_golden_pairs(pairs, folder / GOLDEN_FILE)
    write_warmup(pairs, module.methods, folder / WARMUP_FILE)


def _next_version(model_folder: Path) -> int:
    if not model_folder.is_dir():
        return 1
    names = (child.name for child in model_folder.iterdir() if child.is_dir())
    return 1 + max((int(name) for name in names if re.fullmatch(r"\d+", name)), default=0)
