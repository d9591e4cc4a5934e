"""Keras' `fit` over this worker's rows of each batch, and for an epoch whose evaluation is left."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from trainers.distribution import Distribution
from trainers.distribution.rows import own_rows
from trainers.distribution.strategy_loop import build_metrics
from trainers.tasks import Task
from trainers.tasks.training_models import ResetValidationState


def validation_batches(
    task: Task, distribution: Distribution
) -> tf.data.Dataset | dict[str, tf.data.Dataset] | None:
    """This worker's rows of what `fit` validates on, with empty rows so that they divide."""
    data = task.validation_data
    share = distribution.replicas, distribution.worker, distribution.workers
    if isinstance(data, dict):
        return {name: own_rows(batches, *share) for name, batches in data.items()}
    return None if data is None else own_rows(data, *share)


class KerasLoop:
    """Trains a compiled model by `keras.Model.fit`; `StrategyLoop` does it for several replicas."""

    def __init__(self, model: keras.Model):
        self.model = model

    def build_metrics(self, batch: tuple) -> None:
        """Makes the sums of the training metrics before the first step."""
        build_metrics(self.model, batch)

    def fit(
        self,
        batches: tf.data.Dataset,
        steps_per_epoch: int,
        epochs: range,
        validation_data: tf.data.Dataset | dict[str, tf.data.Dataset] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int = 0,
    ) -> None:
        """`keras.Model.fit` for some epochs, each with `steps_per_epoch` batches.

        Args:
            batches: `(inputs, targets)` or `(inputs, targets, weights)`; one iterator serves all
                epochs.
            steps_per_epoch: int; with 0 each epoch is its evaluation alone.
            epochs: numbers of the epochs to do.
            validation_data: evaluated at the end of each epoch; several by name are evaluated one
                by one, and logged as "val_loss/NAME".
            callbacks: see Keras.
            verbose: 0, 1 or 2, as in `fit`.
        """
        if isinstance(validation_data, dict):
            callbacks, validation_data = [_EvaluateEach(validation_data), *callbacks], None
        if not steps_per_epoch:
            self._evaluate(epochs, validation_data, callbacks)
            return
        self.model.fit(
            batches,
            steps_per_epoch=steps_per_epoch,
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            validation_data=validation_data,
            callbacks=list(callbacks),
            shuffle=False,  # the dataset has its own order
            verbose=verbose,
        )

    def _evaluate(self, epochs: range, validation_data, callbacks) -> None:
        self.model.stop_training = False
        called = keras.callbacks.CallbackList(
            list(callbacks), epochs=epochs.stop, steps=0, model=self.model
        )
        called.on_train_begin()
        for epoch in epochs:
            logs = {}
            if validation_data is not None:
                found = self.model.evaluate(
                    validation_data, callbacks=list(callbacks), verbose=0, return_dict=True
                )
                logs = {f"val_{name}": value for name, value in found.items()}
            called.on_epoch_end(epoch, logs)
        called.on_train_end()


class _EvaluateEach(keras.callbacks.Callback):
    """Evaluates on several sets by name at the end of an epoch; the logs get what it finds."""

    def __init__(self, sets: dict[str, tf.data.Dataset]):
        super().__init__()
        self.sets = sets

    def on_epoch_end(self, epoch, logs=None):
        for name, batches in self.sets.items():
            found = self.model.evaluate(
                batches, callbacks=[ResetValidationState()], verbose=0, return_dict=True
            )
            logs |= {f"val_{metric}/{name}": value for metric, value in found.items()}
