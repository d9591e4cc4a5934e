"""Text to one tag a word, with byte offsets."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from zoo.text.base import TextEncoder, signature
from zoo.text.packing import central, take_windows


class TextTagger(TextEncoder):
    """Tags of the words of a text: named entities, parts of speech."""

    reads_offsets = True

    @signature
    def tag(self, text):
        """`text` [B] to `tokens`, `tags` [B, W] string, `start`, `end` [B, W] int32 byte offsets
        with `text[start:end] == token`, and `scores` [B, W] float32.

        Words are BERT's: split at blanks, around punctuation and around Chinese characters. The
        first piece of a word decides. BIO tags come out well-formed: an I- that follows nothing of
        its type is a B-, with the score, the probability, of the tag that the model chose. Each
        word of a long text is tagged in the window where it stands nearest the middle. Rows are
        padded with "", -1 and 0.
        """
        encoded = self.tokenizer.encode_with_offsets(text)
        is_first = encoded.word_starts.flat_values  # (N,) over the pieces of all texts
        probabilities = tf.nn.softmax(self._piece_logits(encoded.ids))  # (N, C)
        first = tf.boolean_mask(probabilities, is_first)  # (words, C)
        rows = tf.boolean_mask(encoded.ids.value_rowids(), is_first)
        start = tf.boolean_mask(encoded.starts.flat_values, is_first)
        word = tf.cumsum(tf.cast(is_first, tf.int32)) - 1  # (N,) the word of each piece
        end = tf.math.segment_max(encoded.ends.flat_values, word)
        tag = self._well_formed(tf.argmax(first, axis=-1, output_type=tf.int32), rows)
        values = {  # and what pads a row
            "tokens": (tf.strings.substr(tf.gather(text, rows), start, end - start), ""),
            "tags": (tf.gather(tf.constant(self.labels, tf.string), tag), ""),
            "start": (start, -1),
            "end": (end, -1),
            "scores": (tf.reduce_max(first, axis=-1), 0.0),
        }
        size = tf.shape(text, tf.int64)[0]
        return {
            name: tf.RaggedTensor.from_value_rowids(value, rows, size).to_tensor(padding)
            for name, (value, padding) in values.items()
        }

    def _piece_logits(self, ids: tf.RaggedTensor) -> tf.Tensor:
        windows = self.windows_of(ids)
        logits = self.forward(self.pack(take_windows(ids, windows)))[:, 1:]  # [CLS] is no piece
        pieces = tf.RaggedTensor.from_tensor(logits, windows.lengths)
        chosen = central(windows, self.config.window_stride(), self.config.window_size())
        return tf.boolean_mask(pieces.flat_values, chosen.flat_values)

    def _well_formed(self, tags: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """An I-X whose predecessor in the text is no B-X or I-X becomes B-X."""
        types, begins = bio_tables(self.labels)
        previous = tf.concat([[-1], tags[:-1]], axis=0)[: tf.size(tags)]
        same_text = tf.equal(rows, tf.concat([[-1], rows[:-1]], axis=0)[: tf.size(rows)])
        own = tf.gather(types, tags)
        before = tf.where(same_text, tf.gather(types, tf.maximum(previous, 0)), -1)
        return tf.where(tf.equal(own, before), tags, tf.gather(begins, tags))


def bio_tables(labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each label the number of its entity type, and the label that begins such an entity.

    Tags without `B-`/`I-` are types of their own; `I-X` begins itself where there is no `B-X`.
    """
    names = [label[2:] if label[:2] in ("B-", "I-") else label for label in labels]
    kinds = sorted(set(names))
    index_of = {label: index for index, label in enumerate(labels)}
    begins = [
        index_of.get(f"B-{name}", index) if label[:2] == "I-" else index
        for index, (label, name) in enumerate(zip(labels, names))
    ]
    return np.array([kinds.index(name) for name in names], np.int32), np.array(begins, np.int32)
