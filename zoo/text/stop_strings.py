"""Stop strings: where the text of new tokens comes to hold one, token by token."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers import Tokenizer


class StopState(NamedTuple):
    """What is known of the text that the tokens so far make, and what ends it."""

    # (B,) string, its last bytes: one less than the longest stop string has
    tail: tf.Tensor
    surplus: tf.Tensor  # (B,) int32, its bytes from the stop string on; 0 where there is none
    sizes: tf.Tensor  # (B, S) int32, bytes of each stop string
    stops: tf.Tensor  # (B, S, L) uint8, these bytes


class StopStrings:
    """Finds the stop strings [B, S] of each row, "" for none, in the bytes of new tokens.

    A row ends at the token by which its text comes to hold one, be that inside of the token. Of
    several the one that begins first counts.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tf.Tensor):
        # Its last entry is for ids outside the vocabulary, which are never chosen.
        self._pieces = tf.constant(np.array([*tokenizer.pieces(), b""], object), tf.string)
        self._sizes = tf.strings.length(stop)  # (B, S)
        self._longest = tf.maximum(tf.reduce_max(self._sizes), 1)
        self._bytes = _padded_bytes(stop, self._longest)  # (B, S, L)
        self._any = tf.reduce_any(self._sizes > 0)
        # As one call: of a branch that is not taken each operation costs a little.
        self._read = tf.function(
            self._read_token, autograph=False, experimental_attributes={"_noinline": True}
        )

    def begin(self) -> StopState:
        """The state before the first token."""
        rows = tf.shape(self._sizes)[:1]
        return StopState(tf.fill(rows, ""), tf.fill(rows, 0), self._sizes, self._bytes)

    def step(self, state: StopState, token: tf.Tensor, active: tf.Tensor):
        """The state after a token (B,), and whether it ended a row, (B,) bool: an active one."""
        # Without stop strings a token costs no more than this condition.
        return tf.cond(
            self._any,
            lambda: self._read(state, token, active),
            lambda: (state, tf.zeros_like(active)),
        )

    def _read_token(self, state: StopState, token: tf.Tensor, active: tf.Tensor):
        known = tf.minimum(token, tf.size(self._pieces) - 1)
        text = tf.strings.join([state.tail, tf.gather(self._pieces, known)])
        size = tf.strings.length(text)
        width = tf.reduce_max(size)  # T
        data = _padded_bytes(text, width + self._longest)  # (B, T + L)
        begins, offsets = tf.range(width), tf.range(self._longest)
        windows = tf.gather(data, begins[:, None] + offsets, axis=1)  # (B, T, L)
        beyond = offsets >= state.sizes[..., None]  # (B, S, L)
        equal = windows[:, :, None] == state.stops[:, None]
        found = tf.reduce_all(equal | beyond[:, None], axis=-1)  # (B, T, S)
        found &= begins[:, None] + state.sizes[:, None] <= size[:, None, None]
        found &= state.sizes[:, None] > 0
        first = tf.reduce_min(tf.where(tf.reduce_any(found, -1), begins, width), axis=-1)  # (B,)
        ended = active & tf.reduce_any(found, axis=[1, 2])
        kept = tf.minimum(size, self._longest - 1)
        tail = tf.strings.substr(text, size - kept, kept)
        surplus = tf.where(ended, size - first, state.surplus)
        return state._replace(tail=tail, surplus=surplus), ended

    def read(self, token_ids: tf.Tensor, lengths: tf.Tensor):
        """The state at the end of tokens (B, N), and how many each row has until its stop string.

        For a backend whose compiled loop has no strings; (B,) bool says which rows have one.
        """
        state, ended = self.begin(), tf.zeros_like(lengths, tf.bool)
        counts = lengths
        for place, token in enumerate(tf.unstack(token_ids, axis=1)):
            state, now = self.step(state, token, ~ended & (place < lengths))
            counts = tf.where(now, place + 1, counts)
            ended |= now
        return state, counts, ended


def _padded_bytes(strings: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """The bytes of strings (...), uint8 (..., width), zeros after their ends."""
    return tf.io.decode_raw(strings, tf.uint8, fixed_length=width)
