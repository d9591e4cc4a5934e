"""Activations computed twice: less memory in training, for more time.

Chen et al., 2016 (arXiv:1604.06174): keep what goes into a block, and compute what happens inside
it again in the backward pass.
"""

from __future__ import annotations

import keras
from keras import ops


def rematerialized(block: keras.layers.Layer, x, **arguments):
    """`block(x, **arguments)`, whose inside is computed again for the gradient.

    `keras.remat` alone would not do: on TensorFlow it loses the gradients of weights that are not
    variables at that moment, on JAX it may not change a variable inside, and dropout would draw
    other masks the second time. So weights and seeds go in as arguments, and new seeds come out.

    Args:
        block: built layer; changes no variables but the seeds of its random numbers.
        x: tensor.
        **arguments: further arguments of `block`, without gradients.

    Example: `hidden = rematerialized(block, hidden, training=True)`
    """
    variables = block.variables
    state = [variable for variable in variables if not variable.trainable]

    def inside(x, *values):
        with keras.StatelessScope(list(zip(variables, values))) as scope:
            y = block(x, **arguments)
        return y, *(scope.get_current_value(variable) for variable in state)

    y, *after = keras.remat(inside)(x, *(ops.convert_to_tensor(v) for v in variables))
    for variable, value in zip(state, after):
        if variable.name == "seed_generator_state":
            variable.assign(value)
    return y
