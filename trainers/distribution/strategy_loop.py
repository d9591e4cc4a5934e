"""`fit` for several replicas of a `tf.distribute` strategy: same callbacks, logs and metrics.

Keras' own `fit` does not do it: it cannot run under MultiWorkerMirroredStrategy, and elsewhere it
clips gradients before they are summed over the replicas, gives every replica the same dropout
masks and divides weighted losses by the weights of one replica. Here a step with R replicas is
the step that one device makes of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainers.distribution.keras_internals import build_metrics
from trainers.distribution.replica_step import ReplicaStep
from trainers.distribution.strategies import Distribution


class StrategyLoop:
    """Trains a compiled model on the replicas of a strategy.

    Args:
        model: keras.Model, made under `distribution.scope()` like its optimizer, and compiled
            outside of it.
        distribution: Distribution with a strategy.
    """

    def __init__(self, model: keras.Model, distribution: Distribution):
        self.model = model
        self.distribution = distribution
        self.strategy = distribution.strategy
        self.step = ReplicaStep(model, self.strategy)
        # No relaxed shapes: each length of a bucket has its own program, as a TPU needs it.
        self._train = tf.function(self.step.train, autograph=False)
        self._test = tf.function(self.step.test, autograph=False)
        self._is_built = False

    @property
    def traces(self) -> int:
        """How many training programs there are: one for each shape of a batch."""
        return self._train.experimental_get_tracing_count()

    def fit(
        self,
        batches: tf.data.Dataset,
        steps_per_epoch: int,
        epochs: range,
        validation_data: tf.data.Dataset | dict[str, tf.data.Dataset] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int = 0,
    ) -> None:
        """As `KerasLoop.fit`, over this worker's rows of the global batches, which must divide by
        its replicas.

        A callback that sets `model.stop_training` at a step, on whichever worker, ends training
        on all workers after the step that follows, without the evaluation that `fit` would do.
        """
        model = self.model
        iterator = iter(batches) if steps_per_epoch else iter(())
        callbacks = keras.callbacks.CallbackList(
            list(callbacks),
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=epochs.stop,
            steps=steps_per_epoch,
            model=model,
        )
        model.stop_training = False
        callbacks.on_train_begin()
        logs, leaving = {}, False
        for epoch in epochs:
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            for step in range(steps_per_epoch):
                callbacks.on_train_batch_begin(step)
                logs, leaving = self._train_step(next(iterator))
                callbacks.on_train_batch_end(step, logs)
                if leaving:
                    break
            if leaving:
                break
            logs = dict(logs)
            several = isinstance(validation_data, dict)
            for name, data in (validation_data if several else {"": validation_data}).items():
                found = {} if data is None else self.evaluate(data, callbacks)
                suffix = f"/{name}" if several else ""
                logs |= {f"val_{metric}{suffix}": value for metric, value in found.items()}
            callbacks.on_epoch_end(epoch, logs)
            # The chief alone evaluates what `fit` does not, and may have had enough.
            leaving = self.distribution.any_worker(model.stop_training)
            if leaving:
                break
        model.stop_training = leaving
        callbacks.on_train_end(logs)

    def evaluate(
        self, batches: tf.data.Dataset, callbacks: keras.callbacks.CallbackList
    ) -> dict[str, float]:
        """Loss and metrics over all batches."""
        model = self.model
        callbacks.on_test_begin()
        model.reset_metrics()
        for number, batch in enumerate(batches):
            self.build_metrics(batch)
            callbacks.on_test_batch_begin(number)
            self._add_up(self._test(self._per_replica(batch)))
            callbacks.on_test_batch_end(number, {})
        logs = self._logs()
        callbacks.on_test_end(logs)
        return logs

    def build_metrics(self, batch) -> None:
        """Makes, once, what `fit` makes at its first step: metrics and optimizer variables."""
        if self._is_built:
            return
        self._is_built = True
        with self.strategy.scope():
            self.step.prepare()
        # Outside of the scope: metrics are sums that every worker has, not variables of replicas.
        build_metrics(self.model, batch)

    def _train_step(self, batch) -> tuple[dict[str, float], bool]:
        self.build_metrics(batch)
        leaving = tf.constant(float(self.model.stop_training))
        *sums, leaving = self._train(self._per_replica(batch), leaving, self.step.is_update())
        self._add_up(sums)
        return self._logs(), float(leaving) > 0

    def _per_replica(self, batch):
        """The batch of this worker, cut into a part for each of its replicas."""
        parts = self.distribution.local_replicas
        flat = tf.nest.flatten(batch)
        rows = flat[0].shape[0] // parts
        cut = [
            tf.nest.pack_sequence_as(batch, [value[i * rows : (i + 1) * rows] for value in flat])
            for i in range(parts)
        ]
        numbered = iter(cut)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: next(numbered)
        )

    def _add_up(self, sums: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(self.model.metrics_variables, sums, strict=True):
            variable.assign_add(value)

    def _logs(self) -> dict[str, float]:
        results = self.model.get_metrics_result()
        return {name: float(np.asarray(value)) for name, value in results.items()}
