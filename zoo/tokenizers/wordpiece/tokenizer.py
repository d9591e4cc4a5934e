"""WordPiece as BERT has it: normalise, split into words, cut words into known pieces."""

import collections
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf
from tensorflow_text.core.pybinds import (
    pywrap_fast_wordpiece_tokenizer_model_builder as model_builder,
)

from zoo.files import blaming
from zoo.tokenizers.base import REPLACEMENT, SubwordTokenizer, numbered_pieces, string_vector
from zoo.tokenizers.files import read_lines, write_lines
from zoo.tokenizers.ragged import rows_of
from zoo.tokenizers.training import batches, learn_pieces
from zoo.tokenizers.wordpiece.longest_match import Pieces, cut, pieces_of_texts, plain_pattern
from zoo.tokenizers.wordpiece.normalizer import Rules, rules
from zoo.tokenizers.wordpiece.split import Splitter, spans_of

UNKNOWN = "[UNK]"
_ROLES = {"pad": "[PAD]", "unknown": UNKNOWN, "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
SPECIAL = tuple(_ROLES.values())
CONTINUATION = "##"
_LONGEST_WORD = 1 << 20  # The operation counts up to four bytes for each character in an int32.
_LONGEST_PIECE = 256  # Bytes, the continuation mark not counted: what the operation can hold.


class WordPieceTokenizer(SubwordTokenizer):
    """BERT's tokenizer; gives the ids of Hugging Face's BertWordPieceTokenizer.

    Text is cleaned (control characters and invalid UTF-8 go), lowercased and stripped of accents
    if so set, split at spaces, at punctuation and around Chinese characters, and each word is cut
    into the longest pieces that the vocabulary has. A special token written out in the text, such
    as "[MASK]", becomes its id. No [CLS] or [SEP] is added. Decoding joins words with spaces.

    Args:
        vocabulary: pieces in the order of their ids, continuations as "##ing"; must contain
            [PAD], [UNK], [CLS], [SEP] and [MASK].
        lowercase: lowercases the text, as the "uncased" models.
        strip_accents: removes accents. Default None: as `lowercase`.
        split_cjk: makes every Chinese character a word of its own.
        max_word_characters: longer words become [UNK].
        added_tokens: names that are found in a text before it is split, wherever they stand, the
            longest first: name -> whether the text is normalised before (True), or names that are
            found in the text as it is. Each is a piece; those at the end of the vocabulary are
            pieces of no word.

    Raises:
        ValueError, TypeError: a vocabulary without a special token or with a piece that is empty,
            repeated, holds U+0000 or has over 256 bytes, or that is no list of strings.

    Example:
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
        >>> WordPieceTokenizer(pieces).encode(["Ab [MASK]"]).to_list()
        [[5, 6, 4]]
    """

    kind = "wordpiece"
    config_names = (
        *("vocabulary", "lowercase", "strip_accents", "split_cjk", "max_word_characters"),
        "added_tokens",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"added_tokens": {}}

    vocabulary: list[str]

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_cjk: bool = True,
        max_word_characters: int = 100,
        added_tokens: Mapping[str, bool] | Sequence[str] = (),
    ):
        if not 1 <= max_word_characters <= _LONGEST_WORD:
            raise ValueError(
                f"max_word_characters={max_word_characters} must be from 1 to {_LONGEST_WORD}."
            )
        self.vocabulary = [*numbered_pieces(vocabulary, "vocabulary")]
        ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        _check_pieces(ids)
        self.lowercase = bool(lowercase)
        self.strip_accents = self.lowercase if strip_accents is None else bool(strip_accents)
        self.split_cjk = bool(split_cjk)
        self.max_word_characters = int(max_word_characters)
        self.added_tokens = _checked_names(added_tokens, ids)
        self.special_tokens = {name: ids[name] for name in SPECIAL}
        self._set_roles(_ROLES)
        self.end_id = ids["[SEP]"]

    @classmethod
    def train(
        cls, texts: Iterable[str | bytes], vocabulary_size: int, min_count: int = 2, **options: Any
    ) -> Self:
        """Learns a vocabulary from `texts`; equal texts give equal ids.

        Args:
            texts: strings, or bytes in UTF-8; read once, in batches. ValueError if they have no
                character `min_count` times.
            vocabulary_size: at most this many ids, the five special ones ([PAD] is 0) included;
                fewer if the texts offer no more.
            min_count: pieces and characters seen fewer times are left out.
            **options: the constructor's, such as lowercase; training follows them.

        Example:
            >>> WordPieceTokenizer.train(["to be or not to be"], vocabulary_size=99).vocabulary[5:8]
            ['b', 'e', 'o']
        """
        if vocabulary_size <= len(SPECIAL):
            raise ValueError(
                f"vocabulary_size={vocabulary_size} is too small for pieces beside the "
                f"{len(SPECIAL)} special ids; pass at least {len(SPECIAL) + 1}."
            )
        blank = cls(SPECIAL, **options)
        counts: collections.Counter[str] = collections.Counter()
        for batch in batches(texts):
            words = tf.unique_with_counts(blank._splitter.split(string_vector(batch)).texts)
            for word, count in zip(words.y.numpy(), words.count.numpy()):
                counts[word.decode()] += int(count)
        limit = blank.max_word_characters
        known = {w: n for w, n in counts.items() if len(w) <= limit and w not in SPECIAL}
        pieces = learn_pieces(known, vocabulary_size, SPECIAL, CONTINUATION, min_count)
        return cls(pieces, **options)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads a `vocab.txt`: UTF-8, one piece a line, its id the number of the line from 0.

        Args:
            path: the file. ValueError, which names it, if it is no valid vocabulary.
            **options: the constructor's; the file does not say if the model is lowercase.
        """
        with blaming(path):
            return cls(read_lines(path), **options)

    def write_vocabulary(self, path: str | os.PathLike[str]) -> None:
        """Writes `vocab.txt` as `from_file` and other BERT programs read it."""
        write_lines(path, self.vocabulary)

    def _join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return tf.strings.strip(super()._join(ids))

    def _texts(self) -> list[bytes]:
        return [piece.encode() for piece in self.vocabulary]

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        return np.array([piece.startswith(CONTINUATION) for piece in self.vocabulary])

    @functools.cached_property
    def _piece_table(self) -> np.ndarray:
        spaced = [
            piece[len(CONTINUATION) :] if continues else piece and b" " + piece
            for piece, continues in zip(self.pieces(), self.continuation)
        ]
        return np.array([*spaced, b" " + REPLACEMENT], dtype=object)

    @functools.cached_property
    def _rules(self) -> Rules:
        return rules(self.lowercase, self.strip_accents, self.split_cjk)

    @functools.cached_property
    def _names(self) -> tuple[dict[str, str], dict[str, str]]:
        """Names in a text, and in a normalised text (the last of equal ones counts) -> the name."""
        normal = [name for name, normalized in self.added_tokens.items() if normalized]
        raw = {name: name for name in (*SPECIAL, *self.added_tokens) if name not in normal}
        if not normal:
            return raw, {}
        with tf.init_scope():  # also while a graph is made
            words = Splitter(self._rules, SPECIAL).split(string_vector(normal))
            joined = tf.strings.unsorted_segment_join(
                words.texts, rows_of(words.row_splits), len(normal)
            )
        texts = [text.decode() for text in joined.numpy()]
        if not all(texts):
            raise ValueError(f"added_tokens: nothing is left of {normal[texts.index('')]!r}.")
        return raw, dict(zip(texts, normal))

    @functools.cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self._rules, *map(list, self._names))

    @functools.cached_property
    def _plain_pattern(self) -> str:
        raw, normal = self._names
        names = {**dict.fromkeys(raw, False), **dict.fromkeys(normal, self.lowercase)}
        return plain_pattern(self._rules, self.lowercase, self.max_word_characters, names)

    def _model(self, splits: bool) -> np.ndarray:
        """The operation's form of the vocabulary, which cuts words, or splits texts into words."""
        size = len(self.vocabulary)
        while self.vocabulary[size - 1] in self.added_tokens:
            size -= 1  # an added token at the end of the vocabulary is no piece of a word
        limit = self.max_word_characters
        if not splits:
            # A character has at most 4 bytes: the operation's own limit never strikes first.
            limit = 4 * max(limit, *map(len, self.vocabulary))
        detokenizes = False
        return np.frombuffer(
            model_builder.build_fast_wordpiece_model(
                self.vocabulary[:size], limit, CONTINUATION, UNKNOWN, not splits, detokenizes
            ),
            np.uint8,
        )

    _word_model = functools.cached_property(lambda self: self._model(splits=False))
    _text_model = functools.cached_property(lambda self: self._model(splits=True))

    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        ids, splits, *spans = pieces_of_texts(
            texts,
            self._plain_pattern,
            self._cut_plain,
            lambda part: self._cut_any(part, offsets),
            offsets,
        )
        if not offsets:
            return ids, splits
        # A word's first piece never has the mark: a "#" in the text is a word of its own.
        return ids, splits, *spans, ~tf.gather(self.continuation, ids)

    def _cut_plain(self, texts: tf.Tensor) -> Pieces:
        return cut(self._text_model, tf.strings.lower(texts) if self.lowercase else texts)

    def _cut_any(self, texts: tf.Tensor, offsets: bool) -> Pieces:
        words = self._splitter.split(texts, offsets)
        # A name and a word that is too long are cut as one piece, whose id a name then gives.
        is_name = words.names > 0
        replaced = is_name | (words.splits[1:] - words.splits[:-1] > self.max_word_characters)
        pieces = cut(self._word_model, tf.where(replaced, UNKNOWN, words.texts))
        splits = pieces[0].row_splits
        ids, starts, ends = (part.values for part in pieces)
        names = [name for names in self._names for name in names.values()]
        id_of = dict(zip(self.vocabulary, range(len(self.vocabulary))))
        name_ids = tf.gather([0, *(id_of[name] for name in names)], words.names)
        ids = tf.tensor_scatter_nd_update(
            ids, tf.gather(splits, tf.where(is_name)), tf.boolean_mask(name_ids, is_name)
        )
        if offsets:
            # The piece of such a word spans the word, not what stood in.
            widths = tf.where(replaced, tf.strings.length(words.texts), 0)
            widths = tf.cast(tf.gather(widths, rows_of(splits)), tf.int64)
            starts, ends = spans_of(words, splits, starts, tf.where(widths > 0, widths, ends))
        of_texts = tf.gather(splits, words.row_splits)
        return tuple(
            tf.RaggedTensor.from_row_splits(values, of_texts, validate=False)
            for values in (ids, starts, ends)
        )


def _check_pieces(ids: Mapping[str, int]) -> None:
    for piece, index in ids.items():
        size = len(piece.removeprefix(CONTINUATION).encode(errors="surrogatepass"))
        if not 1 <= size <= _LONGEST_PIECE or re.search("[\0\ud800-\udfff]", piece):
            raise ValueError(
                f"vocabulary[{index}] = {piece!r:.80}: a piece must have 1 to {_LONGEST_PIECE} "
                "bytes, no U+0000 and no surrogate; put an unused name such as [unused0] in its "
                "place."
            )
    if missing := [name for name in SPECIAL if name not in ids]:
        raise ValueError(
            f"vocabulary: {', '.join(missing)} missing; BERT's special tokens must be in it."
        )


def _checked_names(
    added_tokens: Mapping[str, bool] | Sequence[str], ids: Mapping[str, int]
) -> dict[str, bool]:
    """Name -> whether the text is normalised before, without the special ones."""
    if isinstance(added_tokens, str | bytes) or not isinstance(added_tokens, Iterable):
        raise TypeError(f"added_tokens must be a dict or a list, found {added_tokens!r:.80}.")
    if not isinstance(added_tokens, Mapping):
        added_tokens = dict.fromkeys(added_tokens, False)
    for name, normal in added_tokens.items():
        if not isinstance(name, str) or not isinstance(normal, bool):
            raise TypeError(f"added_tokens: {name!r:.80} must be a string, {normal!r:.80} a bool.")
        if name not in ids or name.startswith(CONTINUATION) or name.split() != [name]:
            raise ValueError(
                f"added_tokens: {name!r:.80} has a blank in it, begins with {CONTINUATION!r}, or "
                "is not in the vocabulary, which is not supported."
            )
    return {name: normal for name, normal in added_tokens.items() if name not in SPECIAL}
