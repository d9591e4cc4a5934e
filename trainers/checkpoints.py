"""Checkpoints of a run: what is needed to go on, and the best weights so far.

    checkpoints/step-00000500.npz   model, optimizer, carried state and random seeds
    checkpoints/best-00000500.npz   weights of the best evaluation
    checkpoints/latest.json         which step is whole, written last

`latest.json` names files that were complete before it was written, so a process killed in the
middle leaves the checkpoint before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
from absl import logging

from zoo.atomic_write import replacing
from zoo.bundle import sha256_of
from zoo.strict_config import STRICT, from_dict, to_dict


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: int, optimizer steps done.
        tokens: int, tokens trained on.
        best_step: int, step of the best evaluation; 0 before the first one.
        best_value: float, its monitored metric; None before.
        seconds: float, wall time of training, over all processes of the run.
        cpu_seconds: float, processor time likewise.
        corpus: str, fingerprint of the data.
        sha256: digest of the checkpoint, "" before the first.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_value: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    corpus: str = ""
    sha256: str = ""


class Checkpoints:
    """The `checkpoints` folder of a workdir.

    Args:
        workdir: Path. keep: int, newest checkpoints kept.
    """

    def __init__(self, workdir: Path, keep: int = 2):
        self.folder = workdir / "checkpoints"
        self.keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}.npz"

    def best(self, step: int) -> Path:
        """Where the best weights lie, found at a step."""
        return self.folder / f"best-{step:08d}.npz"

    def save(self, trained_model: keras.Model, progress: Progress) -> Progress:
        """Writes a checkpoint, then drops the ones too many.

        Args:
            trained_model: compiled model. progress: with the best step that `save_best` wrote.

        Returns:
            `progress` with the checkpoint's digest.

        Raises:
            OSError: no room or no permission; the checkpoint before stays.
        """
        with _writing(self.path(progress.step)) as temporary:
            write_variables(temporary, _state(trained_model))
            progress = dataclasses.replace(progress, sha256=sha256_of(temporary))
        with _writing(self.folder / "latest.json") as temporary:
            temporary.write_text(json.dumps(to_dict(progress), indent=2) + "\n", encoding="utf-8")
        for old in sorted(self.folder.glob("step-*.npz"))[: -self.keep]:
            old.unlink()
        for old in self.folder.glob("best-*.npz"):
            if old != self.best(progress.best_step):
                old.unlink()
        return progress

    def save_best(self, model: keras.Model, step: int) -> None:
        """Writes the weights that the bundle will hold. The ones before stay until `save`.

        Raises:
            OSError: as `save`.
        """
        with _writing(self.best(step)) as temporary:
            write_variables(temporary, model.weights)

    def restore_best(self, model: keras.Model, step: int) -> None:
        """Loads the best weights, and leaves the optimizer of a compiled model alone."""
        read_variables(self.best(step), model.weights)

    def latest(self) -> Progress | None:
        """The newest whole checkpoint's progress; None if there is none.

        Raises:
            ValueError: `latest.json` or the checkpoint it names is damaged or missing.
        """
        path = self.folder / "latest.json"
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("not a JSON object")
            progress = from_dict(Progress, values)
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); start in another --workdir") from None
        checkpoint = self.path(progress.step)
        if not checkpoint.is_file() or sha256_of(checkpoint) != progress.sha256:
            raise ValueError(
                f"{checkpoint}: missing or damaged, its checksum is not the one in {path.name}; "
                "restore it or start in another --workdir"
            )
        return progress

    def restore(self, trained_model: keras.Model, step: int) -> None:
        """Loads what `save` wrote into a compiled model."""
        trained_model.optimizer.build(trained_model.trainable_variables)
        read_variables(self.path(step), _state(trained_model))
        logging.info("resumed at step %d from %s", step, self.path(step))


def write_variables(path: Path, variables: Sequence[keras.Variable]) -> None:
    """Writes values of variables, in order, in NumPy's .npz format.

    Not Keras' HDF5: on a full disk that library prints pages and ends in a segmentation fault,
    where this raises an OSError. One variable at a time, so that no copy of all is in memory.
    """
    with open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for index, variable in enumerate(variables):
            value = variable.numpy()
            if value.dtype.kind == "V":  # bfloat16, which NumPy's format does not know
                value = value.astype("float32")
            with archive.open(f"{index:05d}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, value, allow_pickle=False)


def read_variables(path: Path, variables: Sequence[keras.Variable]) -> None:
    """Assigns what `write_variables` wrote.

    Raises:
        ValueError: damaged, or of other shapes: the code that wrote it had another model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = [arrays[name].shape for name in arrays.files]
            if shapes != [tuple(variable.shape) for variable in variables]:
                raise ValueError("its variables are not this model's; use the release it is from")
            for name, variable in zip(arrays.files, variables):
                variable.assign(arrays[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be restored: {error}") from error


def _state(trained_model: keras.Model) -> list[keras.Variable]:
    """All that the next step depends on. `variables` has the seeds of dropout and a carried
    state; Keras' own `save_weights` would leave the seeds out."""
    return [*trained_model.variables, *trained_model.optimizer.variables]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """`replacing`, with an error that names the file and says what to do."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise OSError(
            f"{path} could not be written: {error.strerror or error}. What was saved before is "
            "whole: mend the cause and run the same command to go on from there"
        ) from error
