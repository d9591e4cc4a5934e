"""Checkpoints of a run: what is needed to go on, and the best weights so far.

    checkpoints/step-00000500.npz    model, optimizer, carried state and random seeds
    checkpoints/step-00000500.json   how far the run was, and the digests of itself and of the
                                     other two; written last
    checkpoints/best-00000500.npz    weights of the best evaluation

A step without its .json was not written to its end: a process killed in the middle leaves the
checkpoint before. Files are written by a thread of their own, from copies of the values, while
training goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
from absl import logging

from trainers.background import InOrder
from trainers.progress import Progress, read_progress, write_progress
from trainers.variables_file import read_variables, snapshot, write_values
from zoo.files import file_sha256, replacing


class Checkpoints:
    """The `checkpoints` folder of a workdir.

    An error in writing, OSError for no room or no permission, is raised by the next method that
    writes, or by `wait`; the checkpoint before stays.

    Args:
        workdir: Path. keep: int, newest checkpoints kept.
        publish: called, in that thread, when a checkpoint is whole.
    """

    def __init__(self, workdir: Path, keep: int = 2, publish: Callable[[], None] = lambda: None):
        self.folder = workdir / "checkpoints"
        self.keep = keep
        self._publish = publish
        self._writing = InOrder()
        self._digests: dict[Path, str] = {}  # of what this process wrote

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}.npz"

    def best(self, step: int) -> Path:
        """Where the best weights lie, found at a step."""
        return self.folder / f"best-{step:08d}.npz"

    def save(self, trained_model: keras.Model, progress: Progress) -> None:
        """Writes a checkpoint of the values of now, then drops the ones too many.

        Args:
            trained_model: compiled model. progress: with the best step that `save_best` wrote.
        """
        # At most one copy of all values is in memory.
        self._writing.wait()
        values = snapshot(_state(trained_model))

        def write():
            path = self.path(progress.step)
            with _writing(path) as temporary:
                write_values(temporary, values)
                self._digests[path] = file_sha256(temporary)
            self._write_progress(progress)

        self._writing.add(write)

    def update(self, progress: Progress) -> None:
        """Tells of a checkpoint, written before, what is known since: its evaluation.

        Args:
            progress: with the digests that `latest` gave, where another process wrote the files.
        """
        self._writing.add(lambda: self._write_progress(progress))

    def save_best(self, model: keras.Model, step: int) -> None:
        """Writes the weights that the bundle will hold. The ones before stay until `update`."""
        self._writing.wait()
        values = snapshot(model.weights)

        def write():
            path = self.best(step)
            with _writing(path) as temporary:
                write_values(temporary, values)
                self._digests[path] = file_sha256(temporary)

        self._writing.add(write)

    def wait(self) -> None:
        """Returns when all is written.

        Raises:
            OSError: something could not be written.
        """
        self._writing.wait()

    def latest(self) -> Progress | None:
        """The newest checkpoint that is whole; None if there is none.

        Damaged ones are told of and passed over: the run goes on from the one before.

        Raises:
            ValueError: there are checkpoints, and none is whole.
        """
        self._writing.wait()
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
        if (self.folder / "latest.json").is_file():
            raise ValueError(
                f"{self.folder}: the checkpoints in it are of an older release; go on with that "
                "one, or start in another --workdir"
            )
        return None

    def restore(self, trained_model: keras.Model, step: int) -> None:
        """Loads what `save` wrote into a compiled model.

        Raises:
            ValueError: the checkpoint is another model's.
        """
        trained_model.optimizer.build(trained_model.trainable_variables)
        read_variables(self.path(step), _state(trained_model))
        logging.info("resumed at step %d from %s", step, self.path(step))

    def drop_after(self, step: int) -> None:
        """Removes what is newer than a step: damaged, or without its .json."""
        for path in self.folder.glob("*-*.*"):
            if _step_of(path) > step:
                path.unlink()

    def restore_best(self, model: keras.Model, step: int) -> None:
        """Loads the best weights, and leaves the optimizer of a compiled model alone."""
        self._writing.wait()
        read_variables(self.best(step), model.weights)

    def _read_whole(self, path: Path) -> Progress:
        """What a .json says, once every file that it speaks of is what was written."""
        try:
            progress = read_progress(path)
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error})") from error
        if progress.step != _step_of(path):
            raise ValueError(f"{path}: damaged (it is of step {progress.step})")
        digests = {self.path(progress.step): progress.sha256}
        if progress.best_sha256:
            digests[self.best(progress.best_step)] = progress.best_sha256
        for file, digest in digests.items():
            if not file.is_file() or file_sha256(file) != digest:
                raise ValueError(
                    f"{file}: missing or damaged, its checksum is not the one in {path.name}"
                )
        return progress

    def _write_progress(self, progress: Progress) -> None:
        checkpoint, best = self.path(progress.step), self.best(progress.best_step)
        progress = dataclasses.replace(
            progress,
            sha256=self._digests.get(checkpoint, progress.sha256),
            best_sha256=self._digests.get(best, progress.best_sha256),
        )
        with _writing(_progress_of(self.path(progress.step))) as temporary:
            write_progress(progress, temporary)
        written = sorted(self.folder.glob("step-*.json"))[-self.keep :]
        kept = {_step_of(path) for path in written}
        best = {_best_step(path) for path in written}
        for path in self.folder.glob("*-*.*"):
            needed = best if path.name.startswith("best-") else kept
            if _step_of(path) not in needed | {-1}:
                path.unlink()
        self._publish()


def _progress_of(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".json")


def _best_step(path: Path) -> int:
    try:
        return read_progress(path).best_step
    except ValueError:  # damaged since; `latest` tells of it
        return 0


def _step_of(path: Path) -> int:
    """The step in a file's name; -1 for files that are no checkpoint."""
    found = re.fullmatch(r"(?:step|best)-(\d+)\.(?:npz|json)", path.name)
    return int(found[1]) if found else -1


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
