"""Muon for all matrices at once: equal shapes go through its products as one batch."""

from __future__ import annotations

import keras
from keras import ops

from trainers.optim.adamw import GlobalNormClipping, LayerwiseRates

# From this ratio of its sides on, two iterations from one Gram matrix are fewer operations.
_LONG = 2


def orthogonalized(
    matrices: list, steps: int = 5, coefficients: tuple[float, float, float] | None = None
) -> list:
    """Matrices with the same singular vectors, whose singular values are all about 1.

    Muon's Newton-Schulz iteration x <- p(g) x with g = x x', p(g) = a + b g + c g g (Jordan et al.,
    2024). For long matrices two iterations share a g: that of the second is p(g) g p(g), so x is
    read and written half as often, and 224 x 896 takes 0.78 of the operations. To go on like that
    (Amsel et al., 2025, arXiv:2505.16932, appendix F) would take fewer still, and lose in g what is
    small in x: after 50 steps the losses on one device and on several then differed by 3.5e-5.

    `coefficients` are a, b, c; None is Jordan's.
    """
    a, b, c = coefficients or (3.4445, -4.7750, 2.0315)

    def polynomial(gram):
        return b * gram + c * ops.matmul(gram, gram)

    result = [None] * len(matrices)
    wide = [x if x.shape[0] <= x.shape[1] else ops.transpose(x) for x in matrices]
    for places in _by_shape(wide):
        x = ops.stack([wide[place] for place in places])  # (N, S, L)
        x = x / (ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True)) + 1e-7)
        pairs = steps // 2 if x.shape[2] >= _LONG * x.shape[1] else 0
        for _ in range(pairs):
            gram = _gram(x)
            first = a * ops.eye(x.shape[1], dtype=x.dtype) + polynomial(gram)
            gram = ops.matmul(ops.matmul(first, gram), first)
            x = ops.matmul(a * first + ops.matmul(polynomial(gram), first), x)
        for _ in range(steps - 2 * pairs):
            x = a * x + ops.matmul(polynomial(_gram(x)), x)
        for place, one in zip(places, ops.unstack(x)):
            shape = matrices[place].shape
            result[place] = one if shape[0] <= shape[1] else ops.transpose(one)
    return result


def _gram(x):
    """(N, S, L) to (N, S, S)."""
    return ops.matmul(x, ops.transpose(x, (0, 2, 1)))


def _by_shape(matrices: list) -> list[list[int]]:
    groups: dict[tuple, list[int]] = {}
    for place, matrix in enumerate(matrices):
        groups.setdefault(tuple(matrix.shape), []).append(place)
    return list(groups.values())


@keras.saving.register_keras_serializable(package="trainers")
class Muon(GlobalNormClipping, LayerwiseRates, keras.optimizers.Muon):
    """`keras.optimizers.Muon` that orthogonalises all matrices together, and with `layer_decay`.

    The same update but for rounding, and the same variables. Not for Keras' own `fit`
    under a `tf.distribute` strategy of several replicas, which sums gradients later.
    """

    # Whether the training loop gives gradients that are summed over the replicas.
    gradients_are_summed = False

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        grads = self._with_updates(list(grads), trainable_variables)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _with_updates(self, grads: list, variables) -> list:
        """Gradients; those of Muon's matrices (R, C) with their updates, (2, R, C)."""
        strategy = getattr(self, "_distribution_strategy", None)
        replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        if replicas > 1 and not self.gradients_are_summed:
            raise RuntimeError(
                "this Muon needs gradients that are summed over the replicas: train by "
                "trainers.distribution.strategy_loop.StrategyLoop, or with keras.optimizers.Muon"
            )
        indices = [self._get_variable_index(variable) for variable in variables]
        momentums = {
            place: self.momentums[index]
            for place, index in enumerate(indices)
            if self.adam_velocities[index] is None
        }
        moved = [self._direction(grads[place], m) for place, m in momentums.items()]
        coefficients = (self.muon_a, self.muon_b, self.muon_c)
        for place, update in zip(momentums, orthogonalized(moved, self.ns_steps, coefficients)):
            # `update_step` is called with one tensor for each variable, on its device.
            grads[place] = ops.stack([grads[place], update])
        return grads

    def _direction(self, gradient, momentum):
        """What is orthogonalised: the next momentum, or Nesterov's look ahead of it."""
        following = ops.convert_to_tensor(momentum) * self.momentum + gradient
        return gradient + self.momentum * following if self.nesterov else following

    def _muon_update_step(self, gradient, variable, lr, m):
        gradient, update = ops.unstack(gradient)
        self.assign(m, m * self.momentum + gradient)
        self.assign_sub(variable, self.lr_adjust(lr * update))

    def _decay_of(self, variable) -> float:
        if not self._use_weight_decay(variable):
            return 0.0
        by_adam = self._should_use_adamw(variable)
        return (self.adam_weight_decay if by_adam else self.weight_decay) or 0.0
