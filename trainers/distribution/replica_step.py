"""One training step on several replicas, equal to the step of one device on the whole batch."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from trainers.distribution.keras_internals import (
    apply_accumulated,
    batches_seen,
    expect_summed_gradients,
)

# Between the seeds of two replicas: any large number will do.
_SEED_STRIDE = 1_000_003
_SEED_STATE = "seed_generator_state"


class ReplicaStep:
    """Forward and backward pass on each replica, then one update of all.

    The passes are functions of the variables' values, so XLA can compile them; sums over the
    replicas and the update come after. Metrics are returned as sums to be added. The variables of
    the compiled model belong to `strategy`.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        self.model = model
        self.strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        self.gathered_steps = model.optimizer.gradient_accumulation_steps or 1
        on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)  # it compiles the whole step
        # XLA's own programs cannot talk to other replicas half-way, as contrast in a batch does.
        reads_others = getattr(model.loss, "reads_other_replicas", False)
        self.compiled = model.jit_compile and not on_tpu and not reads_others

    def prepare(self) -> None:
        """Makes the optimizer's variables; called under the strategy's scope."""
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        expect_summed_gradients(optimizer)

    def is_update(self) -> bool:
        """Whether the next step updates, or only gathers gradients."""
        return (batches_seen(self.model.optimizer) + 1) % self.gathered_steps == 0

    def train(self, batch, leaving, is_update: bool) -> list[tf.Tensor]:
        """A step in cross-replica context, over a PerReplica `(inputs, targets[, weights])`.

        `leaving` is a float32 scalar, above 0 where this worker wants to stop. Returns what to add
        to each metric variable; last, the sum of `leaving`.
        """

        def replica(batch):
            gradients, sums, state = self._compiled(self._gradients)(*self._arguments(batch))
            held = [index for index, value in enumerate(gradients) if value is not None]
            together = [[gradients[index] for index in held], [*sums, tf.identity(leaving)]]
            summed, sums = self._sum(together)
            variables = [self.model.trainable_variables[index] for index in held]
            self._apply(summed, variables, is_update)
            return sums, self._share_rows(state)

        sums, state = self.strategy.run(replica, args=(batch,))
        self._keep(state)
        return [self._first(value) for value in sums]

    def test(self, batch) -> list[tf.Tensor]:
        """What a validation batch adds to each metric variable; in cross-replica context."""

        def replica(batch):
            sums, state = self._compiled(self._measures)(*self._arguments(batch))
            return self._sum(sums), self._share_rows(state)

        sums, state = self.strategy.run(replica, args=(batch,))
        self._keep(state)
        return [self._first(value) for value in sums]

    def _compiled(self, function):
        # Made anew for each replica: each has its number in its program.
        return (
            tf.function(function, jit_compile=True, autograph=False) if self.compiled else function
        )

    def _arguments(self, batch):
        model = self.model
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        trainable = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
        state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
        return trainable, state, x, y, weights, self._share(weights)

    def _share(self, weights) -> tf.Tensor:
        """What the mean over this replica counts in the mean over all, times the replicas."""
        if (
            weights is None
            or getattr(self.model.loss, "reduction", "") != "mean_with_sample_weight"
        ):
            return tf.constant(1.0)
        own = tf.reduce_sum(tf.cast(weights, tf.float32))
        return tf.math.divide_no_nan(own * self.replicas, self._sum(own))

    def _gradients(self, trainable, state, x, y, weights, share):
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            outputs, new_state = self.forward(trainable, state, x, training=True)
            loss = self._loss(x, y, outputs, weights, training=True) * share
        gradients = tape.gradient(loss, trainable)
        # Embeddings give the rows that were read; sums over replicas need them whole.
        gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        return gradients, self._sums(x, y, outputs, weights, loss), new_state

    def _measures(self, trainable, state, x, y, weights, share):
        outputs, new_state = self.forward(trainable, state, x, training=False)
        loss = self._loss(x, y, outputs, weights, training=False) * share
        return self._sums(x, y, outputs, weights, loss), new_state

    def _loss(self, x, y, outputs, weights, training):
        # Keras divides it by the number of replicas, so that gradients are summed.
        return self.model.compute_loss(
            x=x, y=y, y_pred=outputs, sample_weight=weights, training=training
        )

    def forward(self, trainable, state, x, training):
        """Outputs, and the new values of the variables that changed by their place."""
        variables = self.model.non_trainable_variables
        offsets = [self._seed_offset(variable) for variable in variables]
        given = [
            value if offset is None else value + offset for value, offset in zip(state, offsets)
        ]
        outputs, after = self.model.stateless_call(trainable, given, x, training=training)
        changed = {
            str(place): value if offset is None else value - offset
            for place, (value, before, offset) in enumerate(zip(after, given, offsets))
            if value is not before
        }
        return outputs, changed

    def _seed_offset(self, variable: keras.Variable):
        """What makes the random numbers of this replica others than those of the first."""
        if variable.name != _SEED_STATE:
            return None
        replica = tf.cast(
            tf.distribute.get_replica_context().replica_id_in_sync_group, variable.dtype
        )
        return tf.stack([replica * _SEED_STRIDE, tf.zeros_like(replica)])

    def _sums(self, x, y, outputs, weights, loss) -> list[tf.Tensor]:
        model = self.model
        variables = model.metrics_variables
        zeros = [(variable, ops.zeros(variable.shape, variable.dtype)) for variable in variables]
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        with keras.StatelessScope(zeros) as scope:
            model.metrics[0].update_state(loss * self.replicas, sample_weight=rows)
            model.compute_metrics(x, y, outputs, sample_weight=weights)
        return [scope.get_current_value(variable) for variable in variables]

    def _apply(self, gradients, variables, is_update: bool) -> None:
        optimizer, gathered_steps = self.model.optimizer, self.gathered_steps
        if gathered_steps == 1:
            optimizer.apply(gradients, variables)
        else:
            apply_accumulated(optimizer, gradients, variables, gathered_steps, is_update)

    def _sum(self, values):
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def _share_rows(self, state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """State of the rows of a batch: each replica has its own rows, and zeros for the others."""
        by_row = {id(variable) for variable in getattr(self.model, "row_states", ())}
        variables = self.model.non_trainable_variables
        return {
            place: self._sum(value) if id(variables[int(place)]) in by_row else value
            for place, value in state.items()
        }

    def _keep(self, state) -> None:
        for place, value in state.items():
            self.model.non_trainable_variables[int(place)].assign(self._first(value))

    def _first(self, value) -> tf.Tensor:
        """What all replicas have alike."""
        return self.strategy.experimental_local_results(value)[0]
