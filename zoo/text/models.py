"""The classes that put strings around the models of encoders, one for each task."""

import functools

import numpy as np
import tensorflow as tf

from zoo.generation.options import PROMPT, Option
from zoo.text.answer import TextAnswerer
from zoo.text.base import CANDIDATES, TextEncoder, signature
from zoo.text.cleaning import clean
from zoo.text.packing import central, take_windows, truncate, truncate_pair


class _WholeText(TextEncoder):
    """One output row for a text, long texts by the mean of their windows' outputs."""

    def outputs(self, text, text_pair) -> tf.Tensor:
        """The model's outputs (B, C) for texts [B], or for pairs of them."""
        if text_pair is None:
            ids = self.encode(text)
            windows = self.windows_of(ids)
            outputs = self.forward(self.pack(take_windows(ids, windows)))  # (W, C)
            return tf.math.segment_mean(outputs, windows.rows)
        size = self.config.window_size(True, self.tokenizer.pair_separators)
        pair = truncate_pair(self.encode(text), self.encode(text_pair), size)
        return self.forward(self.pack(*pair))


class TextClassifier(_WholeText):
    """Labels of texts."""

    @signature
    def predict(self, text, text_pair=None):
        """To `label` [B] string, `scores` [B, C] float32 probabilities, `classes` [B, C] string."""
        outputs = self.outputs(text, text_pair)
        scores = tf.nn.softmax(outputs)
        labels = tf.constant(self.labels, tf.string)
        return {
            "label": tf.gather(labels, tf.argmax(outputs, axis=-1)),
            "scores": scores,
            "classes": tf.tile(labels[None], [tf.shape(scores)[0], 1]),
        }


class TextRegressor(_WholeText):
    """Numbers for texts."""

    @signature
    def predict(self, text, text_pair=None):
        """To `outputs` [B] float32, in the unit of the training data."""
        return {"outputs": self.outputs(text, text_pair)[:, 0]}


def prompt_options(model: TextEncoder) -> dict[str, Option]:
    """The option that names a text's prompt, where the model has prompts."""
    config = model.config
    if not config.prompts:
        return {}
    names = ("", *config.prompts)

    def is_known(given: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(given[:, None] == names, axis=1)

    rule = f"one of {', '.join(config.prompts)}, or empty for none"
    return {PROMPT: Option(tf.string, config.default_prompt or "", rule, is_known)}


class TextEmbedder(TextEncoder):
    """Vectors of texts, alike where the texts mean alike; of a long one the beginning is read."""

    @functools.partial(signature, options=prompt_options)
    def embed(self, text, **options):
        """To `embedding` [B, D] float32, of length 1 if the model normalises; of a model with
        prompts an option `prompt` names the one before each text.
        """
        text = self.prompted(clean(text, self.config.cleaning), options.get(PROMPT))
        ids = truncate(self.tokenizer.encode(text), self.config.window_size())
        return {"embedding": self.forward(self.pack(ids))}

    def prompted(self, text: tf.Tensor, names: tf.Tensor | None) -> tf.Tensor:
        """Cleaned texts [B] behind the prompts that are named [B]."""
        if names is None:
            return text
        prompts = {"": "", **self.config.prompts}
        index = tf.argmax(tf.cast(names[:, None] == [*prompts], tf.int32), axis=1)
        return tf.strings.join([tf.gather(tf.constant([*prompts.values()]), index), text])


class TextTagger(TextEncoder):
    """Tags of the words of a text: named entities, parts of speech."""

    reads_offsets = True

    @signature
    def tag(self, text):
        """To `tokens`, `tags` [B, W] string, `start`, `end` [B, W] int32 byte offsets, and `scores`
        [B, W] float32 of the tags that the model chose; the first piece of a word decides.
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
            "tokens": (_spans(text, rows, start, end), ""),
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

    def word_probabilities(self, words: tf.RaggedTensor) -> tf.Tensor:
        """(W, C) of the words of sentences [B, None] by their first pieces, in order; a word that
        has none is as likely to have any tag.
        """
        pieces = self.tokenizer.encode_with_offsets(spaced(words))  # rows are words
        splits = tf.gather(pieces.ids.row_splits, words.row_splits)
        ids = tf.RaggedTensor.from_row_splits(pieces.ids.flat_values, splits, validate=False)
        is_first = pieces.word_starts.flat_values
        probabilities = tf.boolean_mask(tf.nn.softmax(self._piece_logits(ids)), is_first)
        places = tf.boolean_mask(pieces.ids.value_rowids(), is_first)
        size = tf.size(words.flat_values)
        evenly = tf.fill([size, len(self.labels)], 1 / len(self.labels))
        return tf.tensor_scatter_nd_update(evenly, places[:, None], probabilities)

    def _piece_logits(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Logits (N, C) of all pieces, each from the window it is nearest the middle of."""
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


def spaced(words: tf.RaggedTensor) -> tf.Tensor:
    """The words of sentences [B, None] as they stand in a text, (W,): byte pairs have the space."""
    after_first = tf.ragged.range(words.row_lengths()).flat_values > 0
    return tf.strings.join([tf.where(after_first, " ", ""), words.flat_values])


def bio_tables(labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each label the number of its entity type, and the label that begins such an entity."""
    # Tags without B-, I- are types of their own; I-X begins itself where there is no B-X.
    names = [label[2:] if label[:2] in ("B-", "I-") else label for label in labels]
    kinds = sorted(set(names))
    index_of = {label: index for index, label in enumerate(labels)}
    begins = [
        index_of.get(f"B-{name}", index) if label[:2] == "I-" else index
        for index, (label, name) in enumerate(zip(labels, names))
    ]
    return np.array([kinds.index(name) for name in names], np.int32), np.array(begins, np.int32)


class MaskFiller(TextEncoder):
    """The likeliest pieces for each "[MASK]" of a text."""

    reads_offsets = True  # the text around the masks comes back as it was sent

    @signature
    def fill_mask(self, text):
        """To `tokens` [B, M, K] string and `probabilities` [B, M, K] float32 of the likeliest for
        each of M masks, padded with "" and 0, and `text` [B] with them in it.
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

        places = (encoded.starts.flat_values, encoded.ends.flat_values)
        start, end = (by_text(tf.boolean_mask(x, is_mask.flat_values)) for x in places)
        shape = [None, None, count]
        return {
            "tokens": by_text(self.tokenizer.tokens(ids)).to_tensor("", shape=shape),
            "probabilities": by_text(best).to_tensor(0.0, shape=shape),
            "text": _replace(text, start, end, *self._likeliest(logits)),
        }

    def _likeliest(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The likeliest pieces of whole characters, and which join the word before; (masks,)."""
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


def _spans(text, rows, start, end) -> tf.Tensor:
    """Bytes [start, end) (N,) of the texts in `rows` (N,) of `text` [B]."""
    # Of single bytes: a copy of its text for each word of 100 kB would take 3 GB.
    single = tf.strings.bytes_split(text)
    begin = tf.gather(single.row_starts(), rows) + tf.cast(start, tf.int64)
    places = tf.ragged.range(begin, begin + tf.cast(end - start, tf.int64))
    bytes_ = tf.gather(single.flat_values, places.flat_values)
    return tf.strings.unsorted_segment_join(bytes_, places.value_rowids(), places.nrows())


def _replace(text, start, end, pieces, joins) -> tf.Tensor:
    """`text` [B] with a piece for each span [start, end); what joins takes the space before it."""
    none = tf.zeros([start.nrows(), 1], start.dtype)
    from_byte = tf.concat([none, end], axis=1)  # ragged [B, masks + 1]: the text between masks
    length = tf.cast(tf.strings.length(text)[:, None], start.dtype)
    to_byte = tf.concat([start, length], axis=1)
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


TEXT_MODELS: dict[str, type[TextEncoder]] = {
    "mlm": MaskFiller,
    "classify": TextClassifier,
    "pair": TextClassifier,
    "tag": TextTagger,
    "span": TextAnswerer,
    "embed": TextEmbedder,
    "regress": TextRegressor,
}
