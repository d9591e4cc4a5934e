"""Checkpoints of a run: what is needed to go on, and the best weights so far.

    checkpoints/step-00000500.weights.h5   trained model and optimizer
    checkpoints/best.weights.h5            weights of the lowest validation loss
    checkpoints/latest.json                which step is whole, written last

`latest.json` names files that were complete before it was written, so a process killed in the
middle leaves the checkpoint before.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import keras
from absl import logging

from zoo.atomic_write import replacing
from zoo.bundle import load_weights, save_weights, sha256_of
from zoo.configs import STRICT, from_dict, to_dict


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: int, optimizer steps done.
        best_step: int, step of the lowest validation loss; 0 before the first evaluation.
        best_loss: float, that loss; infinite before.
        seconds: float, wall time of training, over all processes of the run.
        cpu_seconds: float, processor time likewise.
        corpus: str, fingerprint of the token streams.
        sha256: digest of the checkpoint's weights, "" before the first.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
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

    @property
    def best(self) -> Path:
        """The best weights, without optimizer."""
        return self.folder / "best.weights.h5"

    def weights(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}.weights.h5"

    def save(self, trained_model: keras.Model, progress: Progress) -> Progress:
        """Writes a checkpoint, then drops the ones too many.

        Raises:
            OSError: no room or no permission; the checkpoint before stays.
        """
        path = self.weights(progress.step)
        with replacing(path) as temporary:
            trained_model.save_weights(temporary)
            progress = dataclasses.replace(progress, sha256=sha256_of(temporary))
        with replacing(self.folder / "latest.json") as temporary:
            temporary.write_text(json.dumps(to_dict(progress), indent=2) + "\n", encoding="utf-8")
        for old in sorted(self.folder.glob("step-*.weights.h5"))[: -self.keep]:
            old.unlink()
        return progress

    def save_best(self, model: keras.Model) -> None:
        """Writes the weights that the bundle will hold."""
        with replacing(self.best) as temporary:
            save_weights(model, temporary)

    def restore_best(self, model: keras.Model) -> None:
        """Loads the best weights, and leaves the optimizer of a compiled model alone."""
        load_weights(model, self.best)

    def latest(self) -> Progress | None:
        """The newest whole checkpoint's progress; None if there is none.

        Raises:
            ValueError: `latest.json` or the weights it names are damaged or missing.
        """
        path = self.folder / "latest.json"
        if not path.is_file():
            return None
        try:
            progress = from_dict(
                Progress, json.loads(path.read_text(encoding="utf-8")), where=str(path)
            )
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); start in another --workdir") from None
        weights = self.weights(progress.step)
        if not weights.is_file() or sha256_of(weights) != progress.sha256:
            raise ValueError(
                f"{weights}: missing or damaged, its checksum is not the one in {path.name}; "
                "restore it or start in another --workdir"
            )
        return progress

    def restore(self, trained_model: keras.Model, step: int) -> None:
        """Loads weights and optimizer state into a compiled model."""
        trained_model.optimizer.build(trained_model.trainable_variables)
        trained_model.load_weights(self.weights(step))
        logging.info("resumed at step %d from %s", step, self.weights(step))
