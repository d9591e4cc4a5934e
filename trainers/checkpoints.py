"""Checkpoints of a run: what is needed to go on, and the best weights so far.

    checkpoints/step-00000700.npz    model, optimizer, carried state and random seeds
    checkpoints/step-00000700.best-00000500.npz
                                     weights of the best evaluation, which was at step 500
    checkpoints/step-00000700.json   how far the run was, and the digests of itself and of the
                                     other two; written last

A step without its .json was not written to its end: a process killed in the middle leaves the
checkpoint before. No two checkpoints share a file, so that one damaged file leaves the other whole.
Files are written by a thread of their own, from copies of the values, while training goes on.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from absl import logging

from zoo.config import STRICT, from_dict, to_dict
from zoo.files import file_sha256, replacing

_DIGEST = "digest"  # of all that is in the .json beside it


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is: what a checkpoint says beside the values of the variables."""

    __pydantic_config__: ClassVar[dict] = STRICT

    step: int = 0  # optimizer steps done
    evaluated_step: int = 0  # of the last evaluation that is in the log; 0 before the first
    tokens: int = 0  # trained on
    best_step: int = 0  # of the best evaluation; 0 before the first
    best_value: float | None = None  # its monitored metric
    seconds: float = 0.0  # wall time of training, over all processes of the run
    cpu_seconds: float = 0.0  # processor time likewise
    corpus: str = ""  # fingerprint of the data
    # Of the training metrics' sums, where the step is between two evaluations: the mean that the
    # next one logs has the steps before the interruption in it.
    metric_values: tuple[float, ...] = ()
    # Training metrics of a step whose evaluation is still to be done.
    training_logs: dict[str, float] = dataclasses.field(default_factory=dict)
    sha256: str = ""  # of the checkpoint's values, "" before the first
    best_sha256: str = ""  # of the best weights; "" before the first
    # The evaluations so far, as `metrics.jsonl` has them, which is written anew from here where it
    # was damaged.
    records: tuple[dict[str, int | float], ...] = ()
    planned_steps: int = 0  # `steps` of the config at that time; 0 before the first
    # (step, planned_steps before) of each time that the run was made longer.
    extensions: tuple[tuple[int, int], ...] = ()


def read_progress(path: Path) -> Progress:
    """What `write_progress` wrote; ValueError for anything else."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if values.pop(_DIGEST, None) != _digest(values):
        raise ValueError(f"its values are not those that {_DIGEST!r} was computed from")
    return from_dict(Progress, values)


def write_progress(progress: Progress, path: Path) -> None:
    """Writes JSON with a digest of all of it."""
    values = to_dict(progress)
    text = json.dumps({**values, _DIGEST: _digest(values)}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def snapshot(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """Copies of the values, which later steps do not change; bfloat16 as float32."""
    values = (np.array(variable.numpy()) for variable in variables)
    # NumPy's format does not know bfloat16, whose kind is that of unknown bytes.
    return [value.astype("float32") if value.dtype.kind == "V" else value for value in values]


def write_values(path: Path, values: Sequence[np.ndarray]) -> None:
    """Writes arrays, in order, in NumPy's .npz format."""
    # Not Keras' HDF5, which on a full disk ends in a segmentation fault; this raises an OSError.
    with open(path, "wb") as file:
        np.savez(file, *values, allow_pickle=False)


def read_variables(path: Path, variables: Sequence[keras.Variable]) -> None:
    """Assigns what `write_values` wrote; ValueError if it is damaged, or another model's."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = [arrays[name].shape for name in arrays.files]
            if shapes != [tuple(variable.shape) for variable in variables]:
                raise ValueError("its variables are not this model's; use the release it is from")
            for name, variable in zip(arrays.files, variables):
                variable.assign(arrays[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be restored: {error}") from error


class Checkpoints:
    """The `checkpoints` folder of a workdir, the `keep` newest; `publish` is called after each.

    An error in writing is raised by the next method that writes, or by `wait`: an OSError, or a
    ValueError where the best weights were damaged since.
    """

    def __init__(self, workdir: Path, keep: int = 2, publish: Callable[[], None] | None = None):
        self.folder = workdir / "checkpoints"
        self.keep = keep
        self._publish = publish
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._last: concurrent.futures.Future = concurrent.futures.Future()
        self._last.set_result(None)
        self._digests: dict[Path, str] = {}  # of what this process wrote

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}.npz"

    def best(self, step: int, best_step: int) -> Path:
        """Where a checkpoint has the best weights so far, which are of an earlier step."""
        return self.folder / f"step-{step:08d}.best-{best_step:08d}.npz"

    def save(self, trained_model: keras.Model, progress: Progress) -> None:
        """Writes a checkpoint of the compiled model's values of now, then drops those too many."""
        self._write_values(self.path(progress.step), _state(trained_model))
        self.update(progress)

    def update(self, progress: Progress) -> None:
        """Adds to a checkpoint that was written before what is known since: its evaluation."""
        self._in_order(lambda: self._write_progress(progress))

    def save_best(self, model: keras.Model, step: int) -> None:
        """Writes the weights that the bundle will hold. The ones before stay until `update`."""
        self._write_values(self.best(step, step), model.weights)

    def wait(self) -> None:
        """Returns when all is written; OSError if something could not be."""
        self._last.result()

    def latest(self) -> Progress | None:
        """The newest checkpoint that is whole, None without any; ValueError if all are damaged."""
        self.wait()
        damaged = []
        for path in sorted(self.folder.glob("step-*.json"), reverse=True):
            try:
                progress = self._read_whole(path)
            except ValueError as error:
                damaged.append(str(error))
                continue
            for message in damaged:
                logging.warning("%s; going back to step %d", message, progress.step)
            return progress
        if damaged:
            raise ValueError(f"{damaged[0]}; restore it or start in another --workdir")
        return None

    def restore(self, trained_model: keras.Model, step: int) -> None:
        """Loads what `save` wrote into a compiled model; ValueError if it is another model's."""
        trained_model.optimizer.build(trained_model.trainable_variables)
        read_variables(self.path(step), _state(trained_model))
        logging.info("resumed at step %d from %s", step, self.path(step))

    def restore_best(self, model: keras.Model, progress: Progress) -> None:
        """Loads a checkpoint's best weights, and leaves the optimizer of a compiled model alone."""
        self.wait()
        read_variables(self.best(progress.step, progress.best_step), model.weights)

    def drop_after(self, step: int) -> None:
        """Removes what is newer than a step: damaged, or without its .json."""
        for path in self.folder.glob("*-*.*"):
            if _step_of(path) > step:
                path.unlink()

    def _write_values(self, path: Path, variables: Sequence[keras.Variable]) -> None:
        self.wait()  # at most one copy of all values is in memory
        values = snapshot(variables)

        def write():
            with _writing(path) as temporary:
                write_values(temporary, values)
                self._digests[path] = file_sha256(temporary)

        self._in_order(write)

    def _in_order(self, write: Callable[[], None]) -> None:
        """Runs `write` after all that came before; an error there ends what was to come."""
        before = self._last
        if before.done():
            before.result()  # raises its error

        def after_others():
            before.result()
            write()

        self._last = self._pool.submit(after_others)

    def _read_whole(self, path: Path) -> Progress:
        """What a .json says, once every file that it speaks of is what was written."""
        try:
            progress = read_progress(path)
            if progress.step != _step_of(path):
                raise ValueError(f"it is of step {progress.step}")
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error})") from error
        digests = {self.path(progress.step): progress.sha256}
        if progress.best_sha256:
            digests[self.best(progress.step, progress.best_step)] = progress.best_sha256
        for file, digest in digests.items():
            if not _is_whole(file, digest):
                raise ValueError(
                    f"{file}: missing or damaged, its checksum is not the one in {path.name}"
                )
        return progress

    def _write_progress(self, progress: Progress) -> None:
        checkpoint, best = self.path(progress.step), self.best(progress.step, progress.best_step)
        if progress.best_step and not best.exists():
            self._copy_best(best, progress)
        progress = dataclasses.replace(
            progress,
            sha256=self._digests.get(checkpoint, progress.sha256),
            best_sha256=self._digests.get(best, progress.best_sha256),
        )
        with _writing(checkpoint.with_suffix(".json")) as temporary:
            write_progress(progress, temporary)
        kept = set()
        for path in sorted(self.folder.glob("step-*.json"))[-self.keep :]:
            kept |= {path, path.with_suffix(".npz")}
            with contextlib.suppress(ValueError):  # damaged since; `latest` tells of it
                kept.add(self.best(_step_of(path), read_progress(path).best_step))
        for path in self.folder.glob("*-*.*"):
            if _step_of(path) >= 0 and path not in kept:
                path.unlink()
        if self._publish is not None:
            self._publish()

    def _copy_best(self, best: Path, progress: Progress) -> None:
        """Gives a checkpoint the best weights that those before it have."""
        copies = sorted(self.folder.glob(f"step-*.best-{progress.best_step:08d}.npz"), reverse=True)
        for source in copies:
            digest = self._digests.get(source, progress.best_sha256)
            if _is_whole(source, digest):
                with _writing(best) as temporary:
                    shutil.copyfile(source, temporary)
                self._digests[best] = digest
                return
        raise ValueError(
            f"{self.folder}: the best weights, of step {progress.best_step}, were damaged or "
            "removed since they were written; the same command goes on from the newest checkpoint "
            "that is whole"
        )


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and file_sha256(path) == digest


def _step_of(path: Path) -> int:
    """The step in a file's name; -1 for files that are no checkpoint."""
    found = re.fullmatch(r"step-(\d+)(?:\.best-\d+)?\.(?:npz|json)", path.name)
    return int(found[1]) if found else -1


def _state(trained_model: keras.Model) -> list[keras.Variable]:
    """All that the next step depends on; Keras' `save_weights` leaves the seeds of dropout out."""
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
