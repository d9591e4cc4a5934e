"""The private Keras names that training on replicas needs; a new Keras release is tried here."""

from __future__ import annotations

import keras


def build_metrics(model: keras.Model, batch: tuple) -> None:
    """Makes the variables of the training metrics, which `fit` makes at its first step."""
    model._symbolic_build(data_batch=keras.utils.unpack_x_y_sample_weight(batch))


def expect_summed_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """The optimizer gets gradients that are summed over the replicas.

    Keras sums them itself, but after clipping, where it clips each replica's part.
    """
    optimizer._all_reduce_sum_gradients = list
    optimizer.gradients_are_summed = True  # for `trainers.optim.muon`


def batches_seen(optimizer: keras.optimizers.Optimizer) -> int:
    """Steps so far, those that only gathered gradients too; `iterations` counts updates."""
    return int(optimizer._iterations.numpy())


def apply_accumulated(optimizer, gradients, variables, gathered_steps: int, is_update: bool):
    """`optimizer.apply` with `gradient_accumulation_steps`, in parts.

    Keras decides in a branch of the graph whether to update, where replicas cannot meet.
    """
    gathered = [
        optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for v in variables
    ]
    if is_update:
        total = [value + before.value for value, before in zip(gradients, gathered)]
        mean = optimizer._clip_gradients([value / gathered_steps for value in total])
        optimizer._apply_weight_decay(variables)
        optimizer._backend_update_step(mean, variables, optimizer.learning_rate)
        gradients = [-before.value for before in gathered]  # back to zero
    optimizer._backend_increment_gradient_accumulators(gradients, gathered)
    optimizer._iterations.assign_add(1)
