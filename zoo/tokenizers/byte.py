"""One id per byte: no training, no unknowns, lossless on anything."""

from typing import Any

import tensorflow as tf

from zoo.tokenizers.base import END, Tokenizer, string_vector


class ByteTokenizer(Tokenizer):
    """Bytes as tokens: ids 0 to 255 are the bytes, 256 is "<|end|>".

    `decode(encode(x)) == x` for any bytes, valid UTF-8 or not.

    Example:
        >>> ByteTokenizer().encode(["é"]).to_list()
        [[195, 169]]
    """

    kind = "byte"
    lossless = True
    splits_anywhere = True
    vocabulary = None
    unknown_id = None
    end_id = 256

    def __init__(self):
        self.special_tokens = {END: self.end_id}

    def encode(self, strings: Any) -> tf.RaggedTensor:
        strings = string_vector(strings)
        # decode_raw wants strings of equal length, so the batch is decoded as one string.
        values = tf.io.decode_raw(tf.strings.reduce_join(strings), tf.uint8)
        lengths = tf.cast(tf.strings.length(strings, unit="BYTE"), tf.int64)
        return tf.RaggedTensor.from_row_lengths(tf.cast(values, tf.int32), lengths, validate=False)

    def pieces(self) -> list[bytes]:
        return [*(bytes([value]) for value in range(256)), b""]
