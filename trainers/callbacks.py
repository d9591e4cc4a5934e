"""Keras' callbacks without a look at the metrics of every step.

To look is to wait for the device, which else is given further steps and batches before it is done
with the last.
"""

import keras

LOOK_EVERY = 10  # steps


class Callbacks(keras.callbacks.CallbackList):
    """Gives the metrics of a step as they are on the device; Keras' own makes numbers of them."""

    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs)


class Bar(keras.callbacks.ProgbarLogger):
    """The bar that moves in a terminal."""

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % LOOK_EVERY == 0:
            super().on_train_batch_end(batch, {k: float(value) for k, value in logs.items()})


class Board(keras.callbacks.TensorBoard):
    """What TensorBoard shows of epochs; Keras' own would read the metrics of each step, too."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)
