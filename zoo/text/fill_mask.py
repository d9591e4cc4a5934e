"""Text with masked words to what may stand there."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from zoo.text.base import TextEncoder, signature
from zoo.text.packing import central, take_windows

# Candidates for each mask, or the whole vocabulary where it is smaller.
CANDIDATES = 10


class MaskFiller(TextEncoder):
    """The likeliest pieces for each "[MASK]" of a text."""

    reads_offsets = True  # the text around the masks comes back as it was sent

    @signature
    def fill_mask(self, text):
        """`text` [B], with the tokenizer's mask token written out, to `tokens` [B, M, K] string,
        `probabilities` [B, M, K] float32, and `text` [B] with the likeliest piece for each mask.

        The pieces of the M masks of the row with most of them come likeliest first; rows with fewer
        are padded with "" and 0. In the text stands the likeliest of whole characters, where pieces
        may be parts of one. Special tokens are no candidates.
        """
        encoded = self.tokenizer.encode_with_offsets(text)
        is_mask = tf.equal(encoded.ids, self.tokenizer.mask_id)  # ragged [B, None]
        special = list(self.tokenizer.special_tokens.values())
        excluded = np.zeros(self.model.vocabulary_size, np.float32)
        excluded[special + self.spare_ids()] = -1e9
        logits = self._mask_logits(encoded.ids, is_mask) + excluded  # (masks, V)
        count = max(min(CANDIDATES, self.tokenizer.vocabulary_size - len(special)), 1)
        best, ids = tf.math.top_k(tf.nn.softmax(logits), count)  # (masks, K)
        rows = tf.boolean_mask(encoded.ids.value_rowids(), is_mask.flat_values)

        def by_text(values):
            return tf.RaggedTensor.from_value_rowids(values, rows, tf.shape(text, tf.int64)[0])

        start, end = (
            by_text(tf.boolean_mask(offsets.flat_values, is_mask.flat_values))
            for offsets in (encoded.starts, encoded.ends)
        )
        shape = [None, None, count]
        return {
            "tokens": by_text(self.tokenizer.tokens(ids)).to_tensor("", shape=shape),
            "probabilities": by_text(best).to_tensor(0.0, shape=shape),
            "text": _replace(text, start, end, *self._likeliest(logits)),
        }

    def _likeliest(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The text of the likeliest pieces of whole characters, and whether each goes on with the
        word before; both (masks,)."""
        pieces = self.tokenizer.pieces()
        partial = [piece.decode(errors="ignore").encode() != piece for piece in pieces]
        if any(partial):  # a byte-level piece may be a part of a character
            partial += [False] * (self.model.vocabulary_size - len(pieces))
            logits += tf.constant(np.array(partial, np.float32) * -1e9)
        ids = tf.argmax(logits, axis=-1, output_type=tf.int32)[:, None]
        # Byte-level pieces bring the space before a word along: the one in the text stays.
        pieces = tf.strings.regex_replace(self.tokenizer.decode(ids), "^ ", "")
        return pieces, tf.gather(tf.constant(self.tokenizer.continuation), ids[:, 0])

    def _mask_logits(self, ids: tf.RaggedTensor, is_mask: tf.RaggedTensor) -> tf.Tensor:
        """Logits (masks, V) of all masks in order, each from the window it is central in."""
        config = self.config
        windows = self.windows_of(ids)
        packed = self.pack(take_windows(ids, windows))
        chosen = take_windows(is_mask, windows)
        middle = central(windows, config.window_stride(), config.window_size())
        chosen = chosen.with_flat_values(chosen.flat_values & middle.flat_values)
        position = tf.ragged.range(windows.lengths) + 1  # [CLS] stands before
        mask_positions = tf.ragged.boolean_mask(position, chosen)  # ragged [W, None]
        positions = tf.cast(mask_positions.to_tensor(0), tf.int32)  # (W, P)
        positions = tf.pad(positions, [[0, 0], [0, 1]])  # also where no window has a mask
        logits = self.forward({**packed, "masked_positions": positions})  # (W, P, V)
        real = tf.sequence_mask(mask_positions.row_lengths(), tf.shape(positions)[1])
        return tf.boolean_mask(logits, real)


def _replace(
    text: tf.Tensor,
    start: tf.RaggedTensor,
    end: tf.RaggedTensor,
    pieces: tf.Tensor,
    joins: tf.Tensor,
) -> tf.Tensor:
    """`text` [B] with a piece for each span [start, end); what joins takes the space before it."""
    none = tf.zeros([start.nrows(), 1], start.dtype)
    from_byte = tf.concat([none, end], axis=1)  # ragged [B, masks + 1]: the text between masks
    length = tf.strings.length(text)[:, None]
    to_byte = tf.concat([start, tf.cast(length, start.dtype)], axis=1)
    rows = from_byte.value_rowids()
    between = tf.strings.substr(
        tf.gather(text, rows), from_byte.flat_values, to_byte.flat_values - from_byte.flat_values
    )
    joins = start.with_flat_values(joins)
    joins = tf.concat([joins, tf.zeros([start.nrows(), 1], tf.bool)], axis=1).flat_values
    between = tf.where(joins, tf.strings.regex_replace(between, r"\s+$", ""), between)
    pieces = tf.concat([start.with_flat_values(pieces), tf.fill([start.nrows(), 1], "")], axis=1)
    joined = tf.strings.join([between, pieces.flat_values])
    return tf.strings.unsorted_segment_join(joined, rows, start.nrows())
