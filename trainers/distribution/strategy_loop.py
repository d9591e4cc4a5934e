"""`fit` for several replicas of a `tf.distribute` strategy: same callbacks, logs and metrics.

Keras' own cannot run under MultiWorkerMirroredStrategy, clips gradients before they are summed over
replicas, gives all the same dropout masks and divides losses by the weights of one replica. Here a
step is the one that one device makes. `build_metrics`, `_train_step`, `_apply` use private
names.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainers.distribution.rows import replica_index
from trainers.distribution.strategies import Distribution

_SEED_STRIDE = 1_000_003  # between the seeds of two replicas: any large number will do


def build_metrics(model: keras.Model, batch: tuple) -> None:
    """Makes the variables of the training metrics, which `fit` makes at its first step."""
    model._symbolic_build(data_batch=keras.utils.unpack_x_y_sample_weight(batch))


class StrategyLoop:
    """Trains a model that was made under `distribution.scope()` and compiled outside of it."""

    def __init__(self, model: keras.Model, distribution: Distribution):
        self.model = model
        self.distribution = distribution
        self.strategy = distribution.strategy
        self.gathered_steps = model.optimizer.gradient_accumulation_steps or 1
        on_tpu = isinstance(self.strategy, tf.distribute.TPUStrategy)  # it compiles the whole step
        # XLA's own programs cannot talk to other replicas half-way, as contrast in a batch does.
        reads_others = getattr(model.loss, "reads_other_replicas", False)
        self.compiled = model.jit_compile and not on_tpu and not reads_others
        # No relaxed shapes: each length of a bucket has its own program, as a TPU needs it.
        self._train = tf.function(self._step, autograph=False)
        self._test = tf.function(self._step, autograph=False)
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
        validation_data: Mapping[str, tf.data.Dataset] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int = 0,
    ) -> None:
        """As `KerasLoop.fit`, over this worker's rows, which must divide by its replicas.

        A callback that sets `model.stop_training` at a step, on whichever worker, ends training on
        all after the step that follows, without the evaluation that `fit` would do.
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
            for name, data in (validation_data or {}).items():
                found, suffix = self._evaluate(data, callbacks), f"/{name}" if name else ""
                logs |= {f"val_{metric}{suffix}": value for metric, value in found.items()}
            callbacks.on_epoch_end(epoch, logs)
            # The chief alone evaluates what `fit` does not, and may have had enough.
            if leaving := self.distribution.any_worker(model.stop_training):
                break
        model.stop_training = leaving
        callbacks.on_train_end(logs)

    def build_metrics(self, batch) -> None:
        """Makes, once, what `fit` makes at its first step: metrics and optimizer variables."""
        if self._is_built:
            return
        self._is_built = True
        optimizer = self.model.optimizer
        with self.strategy.scope():
            if not optimizer.built:
                optimizer.build(self.model.trainable_variables)
        # Keras sums gradients itself, but after clipping, where it clips each replica's part.
        optimizer._all_reduce_sum_gradients = list
        optimizer.gradients_are_summed = True  # for `trainers.optim.optimizers.Muon`
        # Outside of the scope: metrics are sums that every worker has, not variables of replicas.
        build_metrics(self.model, batch)

    def _evaluate(self, batches, callbacks: keras.callbacks.CallbackList) -> dict[str, float]:
        callbacks.on_test_begin()
        self.model.reset_metrics()
        for number, batch in enumerate(batches):
            self.build_metrics(batch)
            callbacks.on_test_batch_begin(number)
            self._add_up(self._test(self._per_replica(batch), tf.constant(0.0), None))
            callbacks.on_test_batch_end(number, {})
        logs = self._logs()
        callbacks.on_test_end(logs)
        return logs

    def _train_step(self, batch) -> tuple[dict[str, float], bool]:
        self.build_metrics(batch)
        leaving = tf.constant(float(self.model.stop_training))
        # Steps so far, those that only gathered gradients too; `iterations` counts updates.
        steps = int(self.model.optimizer._iterations.numpy())
        is_update = (steps + 1) % self.gathered_steps == 0
        leaving = self._add_up(self._train(self._per_replica(batch), leaving, is_update))
        return self._logs(), leaving

    def _per_replica(self, batch):
        """The batch of this worker, cut into a part for each of its replicas."""
        parts = self.distribution.replicas // self.distribution.workers
        rows = tf.nest.flatten(batch)[0].shape[0] // parts

        def part(replica):
            first = replica.replica_id_in_sync_group % parts * rows
            return tf.nest.map_structure(lambda value: value[first : first + rows], batch)

        return self.strategy.experimental_distribute_values_from_function(part)

    def _add_up(self, sums: Sequence[tf.Tensor]) -> bool:
        """Adds to the metric variables; whether a worker wants to stop."""
        *sums, leaving = sums
        for variable, value in zip(self.model.metrics_variables, sums, strict=True):
            variable.assign_add(value)
        return float(leaving) > 0

    def _logs(self) -> dict[str, float]:
        results = self.model.get_metrics_result()
        return {name: float(np.asarray(value)) for name, value in results.items()}

    def _step(self, batch, leaving: tf.Tensor, is_update: bool | None) -> list[tf.Tensor]:
        """One step over a PerReplica `(inputs, targets[, weights])`: what to add to each metric
        variable; last, the sum of `leaving`. `is_update` is False where gradients are only
        gathered, None in validation. The passes are functions of the variables' values, so XLA can
        compile them.
        """
        model = self.model

        def run(*arguments):
            return self._pass(*arguments, training=is_update is not None)

        def replica(batch):
            x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
            trainable = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
            state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
            # Made anew for each replica: each has its number in its program.
            made = tf.function(run, jit_compile=True, autograph=False) if self.compiled else run
            gradients, sums, state = made(trainable, state, x, y, weights, self._share(weights))
            held = [index for index, value in enumerate(gradients) if value is not None]
            together = [[gradients[index] for index in held], [*sums, tf.identity(leaving)]]
            gradients, sums = self._sum(together)
            if is_update is not None:
                self._apply(gradients, [model.trainable_variables[i] for i in held], is_update)
            return sums, self._share_rows(state)

        local = self.strategy.experimental_local_results  # which all replicas have alike
        sums, state = self.strategy.run(replica, args=(batch,))
        for place, value in state.items():
            model.non_trainable_variables[int(place)].assign(local(value)[0])
        return [local(value)[0] for value in sums]

    def _sum(self, values):
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def _share(self, weights) -> tf.Tensor:
        """What the mean over this replica counts in the mean over all, times the replicas."""
        reduction = getattr(self.model.loss, "reduction", "")
        if weights is None or reduction != "mean_with_sample_weight":
            return tf.constant(1.0)
        own = tf.reduce_sum(tf.cast(weights, tf.float32))
        return tf.math.divide_no_nan(own * self.distribution.replicas, self._sum(own))

    def _pass(self, trainable, state, x, y, weights, share, training: bool):
        """Gradients, what is added to each metric variable, and the state that changed."""
        model = self.model
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            outputs, new_state = self._forward(trainable, state, x, training)
            # Keras divides it by the number of replicas, so that gradients are summed.
            loss = share * model.compute_loss(
                x=x, y=y, y_pred=outputs, sample_weight=weights, training=training
            )
        gradients = tape.gradient(loss, trainable) if training else []
        # Embeddings give the rows that were read; sums over replicas need them whole.
        gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        zeros = [(v, ops.zeros(v.shape, v.dtype)) for v in model.metrics_variables]
        with keras.StatelessScope(zeros) as scope:
            rows = tf.shape(tf.nest.flatten(x)[0])[0]
            model.metrics[0].update_state(loss * self.distribution.replicas, sample_weight=rows)
            model.compute_metrics(x, y, outputs, sample_weight=weights)
        sums = [scope.get_current_value(variable) for variable, _ in zeros]
        return gradients, sums, new_state

    def _forward(self, trainable, state, x, training: bool):
        """Outputs, and the new values of the variables that changed, by their place."""
        variables = self.model.non_trainable_variables
        # The random numbers of each replica are others than those of the first.
        offsets = [
            tf.cast([replica_index() * _SEED_STRIDE, 0], variable.dtype)
            if variable.name == "seed_generator_state"
            else None
            for variable in variables
        ]
        given = [v if offset is None else v + offset for v, offset in zip(state, offsets)]
        outputs, after = self.model.stateless_call(trainable, given, x, training=training)
        changed = {
            str(place): value if offset is None else value - offset
            for place, (value, before, offset) in enumerate(zip(after, given, offsets))
            if value is not before
        }
        return outputs, changed

    def _apply(self, gradients, variables, is_update: bool) -> None:
        """`optimizer.apply`; with `gradient_accumulation_steps` in parts."""
        optimizer = self.model.optimizer
        if self.gathered_steps == 1:
            optimizer.apply(gradients, variables)
            return
        # Keras decides in a branch of the graph whether to update, where replicas cannot meet.
        gathered = [
            optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for v in variables
        ]
        if is_update:
            total = [value + before.value for value, before in zip(gradients, gathered)]
            mean = optimizer._clip_gradients([value / self.gathered_steps for value in total])
            optimizer._apply_weight_decay(variables)
            optimizer._backend_update_step(mean, variables, optimizer.learning_rate)
            gradients = [-before.value for before in gathered]  # back to zero
        optimizer._backend_increment_gradient_accumulators(gradients, gathered)
        optimizer._iterations.assign_add(1)

    def _share_rows(self, state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """State of the rows of a batch: each replica has its own rows, and zeros for the others."""
        by_row = {id(variable) for variable in getattr(self.model, "row_states", ())}
        variables = self.model.non_trainable_variables
        return {
            place: self._sum(value) if id(variables[int(place)]) in by_row else value
            for place, value in state.items()
        }
