"""WordPiece as BERT has it: normalise, split into words, cut words into known pieces."""

import collections
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from zoo.files import replacing
from zoo.tokenizers.base import REPLACEMENT, SubwordTokenizer, string_vector
from zoo.tokenizers.ragged import lengths_of, rows_of
from zoo.tokenizers.special_tokens import NameFinder, rarest_characters
from zoo.tokenizers.training import batches, learn_pieces
from zoo.tokenizers.wordpiece.longest_match import (
    Pieces,
    build_model,
    checked_vocabulary,
    cut,
    pieces_of_texts,
    plain_pattern,
)
from zoo.tokenizers.wordpiece.normalizer import Rules, rules
from zoo.tokenizers.wordpiece.split import spans_of, split_words

UNKNOWN = "[UNK]"
ROLES = {"pad": "[PAD]", "unknown": UNKNOWN, "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
SPECIAL = tuple(ROLES.values())
CONTINUATION = "##"
_LONGEST_WORD = 1 << 20


class WordPieceTokenizer(SubwordTokenizer):
    """BERT's tokenizer; gives the ids of Hugging Face's BertWordPieceTokenizer.

    Text is cleaned (control characters and invalid UTF-8 go), lowercased and stripped of accents
    if so set, split at spaces, at punctuation and around Chinese characters, and each word is cut
    into the longest pieces that the vocabulary has. A special token written out in the text, such
    as "[MASK]", becomes its id. No [CLS] or [SEP] is added. Decoding joins words with spaces.

    Args:
        vocabulary: pieces in the order of their ids, continuations as "##ing"; must contain
            [PAD], [UNK], [CLS], [SEP] and [MASK].
        lowercase: lowercases the text (default True, as the "uncased" models).
        strip_accents: removes accents. Default None: as `lowercase`.
        split_cjk: makes every Chinese character a word of its own (default True).
        max_word_characters: longer words become [UNK] (default 100).
        added_tokens: names that are found in a text before it is split, wherever they stand, the
            longest first: name -> whether the text is normalised before (True), or names that are
            found in the text as it is. Each is a piece; those at the end of the vocabulary are
            pieces of no word. Default none.

    Raises:
        ValueError: a vocabulary without a special token or with a piece that is empty, repeated,
            holds U+0000 or has over 256 bytes.
        TypeError: it is not a list of strings.

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
    lossless = False

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
        # The operation counts up to four bytes for each in an int32.
        if not 1 <= max_word_characters <= _LONGEST_WORD:
            raise ValueError(
                f"max_word_characters={max_word_characters} must be from 1 to {_LONGEST_WORD}."
            )
        self.vocabulary = checked_vocabulary(vocabulary, SPECIAL, CONTINUATION)
        self.lowercase = bool(lowercase)
        self.strip_accents = self.lowercase if strip_accents is None else bool(strip_accents)
        self.split_cjk = bool(split_cjk)
        self.max_word_characters = int(max_word_characters)
        ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        self.added_tokens = _checked_names(added_tokens, ids)
        self.special_tokens = {name: ids[name] for name in SPECIAL}
        self._set_roles(ROLES)
        self.end_id = self.sep_id
        self._raw_names = [*SPECIAL, *(n for n, normal in self.added_tokens.items() if not normal)]

    @classmethod
    def train(
        cls,
        texts: Iterable[str | bytes],
        vocabulary_size: int,
        min_count: int = 2,
        **options: Any,
    ) -> Self:
        """Learns a vocabulary from `texts`; equal texts give equal ids.

        Args:
            texts: strings, or bytes in UTF-8; read once, in batches.
            vocabulary_size: at most this many ids, the five special ones ([PAD] is 0) included;
                fewer if the texts offer no more.
            min_count: pieces and characters seen fewer times are left out (default 2).
            **options: the constructor's, such as lowercase; training follows them.

        Raises:
            TypeError: a single string.
            ValueError: the size is too small for a piece, or the texts have no character
                `min_count` times.

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
        counts = collections.Counter()
        for batch in batches(texts):
            words = tf.unique_with_counts(
                split_words(string_vector(batch), blank._rules, blank._finder).texts
            )
            for word, count in zip(words.y.numpy(), words.count.numpy()):
                counts[word.decode()] += int(count)
        for word in [*SPECIAL, *(word for word in counts if len(word) > blank.max_word_characters)]:
            counts.pop(word, None)
        return cls(
            learn_pieces(counts, vocabulary_size, SPECIAL, CONTINUATION, min_count), **options
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads a `vocab.txt`: UTF-8, one piece a line, its id the number of the line from 0.

        Args:
            path: the file.
            **options: the constructor's; the file does not say if the model is lowercase.

        Raises:
            ValueError: it is not UTF-8 or not a valid vocabulary; the message names the file.

        Example: `WordPieceTokenizer.from_file("bert-base-cased/vocab.txt", lowercase=False)`
        """
        pieces = cls.read_vocabulary(path)
        try:
            return cls(pieces, **options)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    @staticmethod
    def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
        """The lines of a `vocab.txt`; ValueError, naming the file, if it is not UTF-8."""
        try:
            with open(path, encoding="utf-8", newline="") as file:
                lines = file.read().split("\n")  # A piece may be a line separator of Unicode.
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error
        if lines[-1] == "":
            lines.pop()
        return [line.removesuffix("\r") for line in lines]

    def write_vocabulary(self, path: str | os.PathLike[str]) -> None:
        """Writes `vocab.txt` as `from_file` and other BERT programs read it."""
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(piece + "\n" for piece in self.vocabulary)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return super().from_config({"added_tokens": (), **config})  # old files have none

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if not self.added_tokens:
            del config["added_tokens"]  # fingerprints are older than these
        return config

    def _join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return tf.strings.strip(super()._join(ids))

    def pieces(self) -> list[bytes]:
        """The UTF-8 bytes of each piece, "##" included; U+FFFD for [UNK], b"" if special."""
        pieces = [piece.encode() for piece in self.vocabulary]
        for index in self.special_tokens.values():
            pieces[index] = b""
        pieces[self.unknown_id] = REPLACEMENT
        return pieces

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
    def _finder(self) -> NameFinder:
        return NameFinder(self._raw_names)

    @functools.cached_property
    def _normalized_names(self) -> dict[str, str]:
        """What the normalised names look like in a normalised text -> the name.

        Of two names that are one once they are normalised, the last one counts.
        """
        names = [name for name, normal in self.added_tokens.items() if normal]
        if not names:
            return {}
        with tf.init_scope():  # also while a graph is made
            words = split_words(string_vector(names), self._rules, NameFinder(SPECIAL))
            joined = tf.strings.unsorted_segment_join(
                words.texts, rows_of(words.row_splits), len(names)
            )
        texts = [text.decode() for text in joined.numpy()]
        if not all(texts):
            raise ValueError(f"added_tokens: nothing is left of {names[texts.index('')]!r}.")
        return dict(zip(texts, names))

    @functools.cached_property
    def _normalized_finder(self) -> NameFinder | None:
        return NameFinder([*self._normalized_names]) if self._normalized_names else None

    @functools.cached_property
    def _plain_pattern(self) -> str:
        without = rarest_characters(self._raw_names)
        without |= rarest_characters(self._normalized_names, either_case=self.lowercase)
        return plain_pattern(self._rules, self.lowercase, self.max_word_characters, without)

    @functools.cached_property
    def _operation_pieces(self) -> list[str]:
        """The vocabulary as the operation has it.

        An added token at the end of the vocabulary is no piece of a word: in its place is a text
        with a space, which no word has.
        """
        pieces = list(self.vocabulary)
        for index in reversed(range(len(pieces))):
            if pieces[index] not in self.added_tokens:
                break
            pieces[index] = f" {index}"
        return pieces

    @functools.cached_property
    def _word_model(self) -> np.ndarray:
        # A character has at most 4 bytes: the operation's own limit never strikes first.
        limit = 4 * max(self.max_word_characters, *map(len, self._operation_pieces))
        return build_model(self._operation_pieces, CONTINUATION, UNKNOWN, limit)

    @functools.cached_property
    def _text_model(self) -> np.ndarray:
        limit = self.max_word_characters
        return build_model(self._operation_pieces, CONTINUATION, UNKNOWN, limit, splits=True)

    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        pieces = pieces_of_texts(
            texts,
            self._plain_pattern,
            self._cut_plain,
            lambda part: self._cut_any(part, offsets),
            offsets,
        )
        # A branch of `tf.cond` forgets that these are vectors.
        ids, splits, starts, ends = (tf.ensure_shape(values, [None]) for values in pieces)
        if not offsets:
            return ids, splits
        # A word's first piece never has the mark: a "#" in the text is a word of its own.
        first = ~tf.gather(self.continuation, ids)
        return ids, splits, tf.cast(starts, tf.int32), tf.cast(ends, tf.int32), first

    def _cut_plain(self, texts: tf.Tensor) -> Pieces:
        return cut(self._text_model, tf.strings.lower(texts) if self.lowercase else texts)

    def _cut_any(self, texts: tf.Tensor, offsets: bool) -> Pieces:
        words = split_words(texts, self._rules, self._finder, self._normalized_finder, offsets)
        replaced = lengths_of(words.splits) > self.max_word_characters
        cut_texts = tf.where(replaced, UNKNOWN, words.texts)
        if self.added_tokens:
            piece_of = dict(zip(self.vocabulary, self._operation_pieces))
            # Index 0 is no name, and indices from the end are those of normalised names.
            names = [*self._raw_names, *reversed(self._normalized_names.values())]
            pieces = ["", *(piece_of[name] for name in names)]
            index = tf.where(words.names < 0, words.names + len(pieces), words.names)
            cut_texts = tf.where(words.names != 0, tf.gather(pieces, index), cut_texts)
            replaced |= words.names != 0
        ids, splits, starts, ends = cut(self._word_model, cut_texts)
        if offsets:
            # The piece of such a word spans the word, not what stood in.
            widths = tf.where(replaced, tf.strings.length(words.texts), 0)
            widths = tf.cast(tf.gather(widths, rows_of(splits)), tf.int64)
            starts, ends = spans_of(words, splits, starts, tf.where(widths > 0, widths, ends))
        return Pieces(ids, tf.gather(splits, words.row_splits), starts, ends)


def _checked_names(
    added_tokens: Mapping[str, bool] | Sequence[str], ids: Mapping[str, int]
) -> dict[str, bool]:
    """The added tokens beside the special ones: name -> whether the text is normalised before."""
    if isinstance(added_tokens, str | bytes) or not isinstance(added_tokens, Iterable):
        raise TypeError(f"added_tokens must be a dict or a list, found {added_tokens!r:.80}.")
    if not isinstance(added_tokens, Mapping):
        added_tokens = dict.fromkeys(added_tokens, False)
    for name, normal in added_tokens.items():
        if not isinstance(name, str) or not isinstance(normal, bool):
            raise TypeError(f"added_tokens: {name!r:.80} must be a string, {normal!r:.80} a bool.")
        if name not in ids:
            raise ValueError(f"added_tokens: {name!r:.80} is not in the vocabulary.")
        if name.startswith(CONTINUATION) or name.split() != [name]:
            raise ValueError(
                f"added_tokens: {name!r:.80} has a blank in it or begins with {CONTINUATION!r}, "
                "which is not supported."
            )
    return {name: normal for name, normal in added_tokens.items() if name not in SPECIAL}
