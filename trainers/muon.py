"""Muon for many matrices at once, with fewer floating-point operations than one by one."""

from __future__ import annotations

import keras
from keras import ops

from trainers.clipping import GlobalNormClipping


def orthogonalized(
    matrices: list, steps: int = 5, coefficients: tuple[float, float, float] | None = None
) -> list:
    """Matrices with the same singular vectors, whose singular values are all about 1.

    Muon's Newton-Schulz iteration x <- p(x x') x with p(g) = a + b g + c g^2 (Jordan et al.,
    2024). All that multiplies x is a polynomial in the first x x', so the iteration needs only that
    small square matrix, and x itself once at the end (Amsel et al., 2025, arXiv:2505.16932,
    appendix F); matrices of different length but the same shorter side go through it as one batch.

    Args:
        matrices: 2D tensors. steps: iterations.
        coefficients: a, b, c. Defaults to Jordan's.

    Returns:
        Tensors of the same shapes.

    Example: `orthogonalized([np.eye(3, 5, dtype="float32")])`
    """
    a, b, c = coefficients or (3.4445, -4.7750, 2.0315)
    result = [None] * len(matrices)
    for places in _by_shorter_side(matrices):
        grams = ops.stack([_gram(matrices[place]) for place in places])  # (N, S, S)
        # The trace is the squared Frobenius norm: no singular value of x / norm is above 1.
        norms = ops.sqrt(ops.trace(grams, axis1=1, axis2=2))[:, None, None] + 1e-7
        grams = grams / ops.square(norms)
        identity = ops.eye(grams.shape[-1], dtype=grams.dtype)
        total = None
        for step in range(steps):
            factor = a * identity + b * grams + c * ops.matmul(grams, grams)
            total = factor if total is None else ops.matmul(factor, total)
            if step < steps - 1:
                grams = ops.matmul(ops.matmul(grams, factor), factor)
        total = total / norms
        for place, factor in zip(places, ops.unstack(total)):
            x = matrices[place]
            wide = x.shape[0] <= x.shape[1]
            result[place] = ops.matmul(factor, x) if wide else ops.matmul(x, factor)
    return result


def _by_shorter_side(matrices: list) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for place, matrix in enumerate(matrices):
        groups.setdefault(min(matrix.shape), []).append(place)
    return list(groups.values())


def _gram(x):
    """The smaller of x x' and x' x."""
    if x.shape[0] <= x.shape[1]:
        return ops.matmul(x, ops.transpose(x))
    return ops.matmul(ops.transpose(x), x)


@keras.saving.register_keras_serializable(package="trainers")
class Muon(GlobalNormClipping, keras.optimizers.Muon):
    """`keras.optimizers.Muon` that orthogonalises all matrices together.

    The same update but for rounding. Variables are those of Keras' optimizer, and so are the
    arguments.

    Raises:
        RuntimeError: in Keras' own `fit` under a `tf.distribute` strategy of several replicas,
            which sums gradients later: use `trainers.strategy_loop`.

    Example: `model.compile(Muon(1e-2, exclude_layers=["output"]), "mse")`
    """

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        strategy = getattr(self, "_distribution_strategy", None)
        # `trainers.replica_step` sums first and says so by an attribute of the instance.
        summed_before = "_all_reduce_sum_gradients" in vars(self)
        if strategy is not None and strategy.num_replicas_in_sync > 1 and not summed_before:
            raise RuntimeError(
                "this Muon needs gradients that are summed over the replicas: train by "
                "trainers.strategy_loop.StrategyLoop, or with keras.optimizers.Muon"
            )
        grads = list(grads)
        momentums = {
            place: self.momentums[self._get_variable_index(variable)]
            for place, variable in enumerate(trainable_variables)
            if self.adam_velocities[self._get_variable_index(variable)] is None
        }
        moved = [self._direction(grads[place], m) for place, m in momentums.items()]
        coefficients = (self.muon_a, self.muon_b, self.muon_c)
        for place, update in zip(momentums, orthogonalized(moved, self.ns_steps, coefficients)):
            # `update_step` is called with one tensor for each variable, on its device.
            grads[place] = ops.stack([grads[place], update])
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _direction(self, gradient, momentum):
        """What is orthogonalised: the next momentum, or Nesterov's look ahead of it."""
        following = ops.convert_to_tensor(momentum) * self.momentum + gradient
        return gradient + self.momentum * following if self.nesterov else following

    def _muon_update_step(self, gradient, variable, lr, m):
        gradient, update = ops.unstack(gradient)
        self.assign(m, m * self.momentum + gradient)
        self.assign_sub(variable, self.lr_adjust(lr * update))
