"""WordPiece as BERT has it: normalise, split into words, cut words into known pieces."""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow as tf

from zoo.files import replacing
from zoo.tokenizers.added_tokens import NameFinder, characters_of
from zoo.tokenizers.base import REPLACEMENT, Tokenizer, check_kind, string_vector
from zoo.tokenizers.segments import lengths_of, rows_of
from zoo.tokenizers.wordpiece.longest_match import Pieces, build_model, checked_vocabulary, cut
from zoo.tokenizers.wordpiece.plain_text import pieces_of_texts, plain_pattern
from zoo.tokenizers.wordpiece.rules import Rules, rules
from zoo.tokenizers.wordpiece.training import in_batches, learn_vocabulary
from zoo.tokenizers.wordpiece.words import spans_of, words_of

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, CLS, SEP, MASK)
CONTINUATION = "##"
_LONGEST_WORD = 1 << 20


class Encoding(NamedTuple):
    """Ids and where they come from; four RaggedTensors [B, None] of the same row splits.

    `string[start:end]` are the bytes that a piece comes from, the accents stripped after its
    last letter included. Spans are in order and do not overlap, but two pieces of one character
    (a Korean syllable, say, cut between its letters) both have the span of that character.

    Attributes:
        ids: int32.
        starts: int32, offset of the first byte of the piece in its string.
        ends: int32, offset after its last byte.
        word_starts: bool, True for the first piece of each word.
    """

    ids: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor
    word_starts: tf.RaggedTensor


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer; gives the ids of Hugging Face's BertWordPieceTokenizer.

    Text is cleaned (control characters and invalid UTF-8 go), lowercased and stripped of accents
    if so set, split at spaces, at punctuation and around Chinese characters, and each word is cut
    into the longest pieces that the vocabulary has. A special token written out in the text, such
    as "[MASK]", becomes its id. No [CLS] or [SEP] is added.

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

    Raises ValueError for a vocabulary without a special token or with a piece that is empty,
    repeated, holds U+0000 or has over 256 bytes, TypeError if it is not a list of strings.

    Example:
        tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"])
        tokenizer.encode(["Ab [MASK]"]).to_list()  # [[5, 6, 4]]
    """

    kind = "wordpiece"
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
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (
            self.special_tokens.values()
        )
        self.end_id = self.sep_id

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

        Raises TypeError for a single string, ValueError if the size leaves no room for a piece
        or the texts have no character `min_count` times.

        Example: `WordPieceTokenizer.train(["to be or not to be"], vocabulary_size=100)`
        """
        if isinstance(texts, str | bytes):
            raise TypeError("texts is one string; pass a list of strings.")
        if vocabulary_size <= len(SPECIAL):
            raise ValueError(
                f"vocabulary_size={vocabulary_size} leaves no room for pieces beside the "
                f"{len(SPECIAL)} special ids; pass at least {len(SPECIAL) + 1}."
            )
        blank = cls(SPECIAL, **options)
        counts = collections.Counter()
        for batch in in_batches(texts):
            words = tf.unique_with_counts(
                words_of(string_vector(batch), blank._rules, blank._names).texts
            )
            for word, count in zip(words.y.numpy(), words.count.numpy()):
                counts[word.decode()] += int(count)
        for word in [*SPECIAL, *(word for word in counts if len(word) > blank.max_word_characters)]:
            counts.pop(word, None)
        pieces = learn_vocabulary(counts, vocabulary_size, SPECIAL, CONTINUATION, min_count)
        return cls(pieces, **options)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads a `vocab.txt`: UTF-8, one piece a line, its id the number of the line from 0.

        Args:
            path: the file.
            **options: the constructor's; the file does not say if the model is lowercase.

        Raises ValueError, naming the file, if it is not UTF-8 or not a valid vocabulary.

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
        """Rebuilds the tokenizer from `get_config`'s dict.

        Raises ValueError for another kind, a missing option or an invalid vocabulary.
        """
        check_kind(cls, config)
        names = ("vocabulary", "lowercase", "strip_accents", "split_cjk", "max_word_characters")
        missing = [name for name in names if name not in config]
        if missing:
            raise ValueError(f"{', '.join(missing)}: missing; save the tokenizer again.")
        # What was saved before there were any has none.
        return cls(
            **{name: config[name] for name in names}, added_tokens=config.get("added_tokens", ())
        )

    def get_config(self) -> dict[str, Any]:
        """The plain, JSON-ready dict that `from_config` takes."""
        return {
            **super().get_config(),
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
            "split_cjk": self.split_cjk,
            "max_word_characters": self.max_word_characters,
            **({"added_tokens": self.added_tokens} if self.added_tokens else {}),
        }

    def encode(self, strings: Any) -> tf.RaggedTensor:
        """Encodes UTF-8 strings [B] as RaggedTensor int32 [B, None].

        Raises ValueError for anything but one axis, TypeError for anything but strings.

        Example: `tokenizer.encode(["a [SEP]", ""]).to_list()` is `[[5, 3], []]`.
        """
        pieces = self._cut_functions[False](string_vector(strings))
        return tf.RaggedTensor.from_row_splits(pieces.ids, pieces.splits, validate=False)

    def encode_with_offsets(self, strings: Any) -> Encoding:
        """Encodes strings [B] as `encode` and says which bytes of them each piece comes from.

        Raises as `encode`.

        Example: `tokenizer.encode_with_offsets([" Ab"]).starts.to_list()` is `[[1, 2]]`.
        """
        ids, splits, starts, ends = self._cut_functions[True](string_vector(strings))
        # A word's first piece never has the mark: a "#" in the text is a word of its own.
        first = ~tf.gather(self.continuation, ids)
        starts, ends = tf.cast(starts, tf.int32), tf.cast(ends, tf.int32)
        rows = (ids, starts, ends, first)
        return Encoding(
            *(tf.RaggedTensor.from_row_splits(row, splits, validate=False) for row in rows)
        )

    def decode(self, ids: Any) -> tf.Tensor:
        """Decodes int ids, a RaggedTensor [B, None] or dense [B, T], to a string tensor [B].

        Words are put together from their pieces and joined with spaces; special ids are left
        out, but [UNK] and ids outside the vocabulary become U+FFFD.

        Raises ValueError if the ids do not have two axes, TypeError if they are not integers.

        Example: `tokenizer.decode([[2, 5, 6, 5, 3]])` is `[b"ab a"]`.
        """
        return tf.strings.strip(super().decode(ids))

    def pieces(self) -> list[bytes]:
        """The UTF-8 bytes of each piece, "##" included; U+FFFD for [UNK], b"" if special."""
        pieces = [piece.encode() for piece in self.vocabulary]
        for index in self.special_tokens.values():
            pieces[index] = b""
        pieces[self.unknown_id] = REPLACEMENT
        return pieces

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        """Bool (V,), True for the pieces that continue a word: "##ing"."""
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
    def _plain_pattern(self) -> str:
        names = [name for name, normal in self.added_tokens.items() if not normal]
        without = characters_of([*SPECIAL, *names], False)
        without |= characters_of(self._normalized_texts, self.lowercase)
        return plain_pattern(self._rules, self.lowercase, self.max_word_characters, without)

    @functools.cached_property
    def _names(self) -> NameFinder:
        return NameFinder([*SPECIAL, *(n for n, normal in self.added_tokens.items() if not normal)])

    @functools.cached_property
    def _normalized_texts(self) -> list[str]:
        """What the normalised names look like in a normalised text."""
        names = [name for name, normal in self.added_tokens.items() if normal]
        if not names:
            return []
        with tf.init_scope():  # also while a graph is made
            words = words_of(string_vector(names), self._rules, NameFinder(SPECIAL))
            joined = tf.strings.unsorted_segment_join(
                words.texts, rows_of(words.row_splits), len(names)
            )
        texts = [text.decode() for text in joined.numpy()]
        if not all(texts):
            raise ValueError(f"added_tokens: nothing is left of {names[texts.index('')]!r}.")
        return texts

    @functools.cached_property
    def _normalized_names(self) -> NameFinder | None:
        # Of two names that are one once they are normalised, the last one counts.
        texts = self._normalized_texts
        return NameFinder(list(dict.fromkeys(texts))) if texts else None

    @functools.cached_property
    def _stand_ins(self) -> tuple[list[str], list[str], list[str]]:
        """The vocabulary as the operation has it, and the words that stand for found names.

        A name at the end of the vocabulary is no piece of a word: in its place is a text with a
        space, which no word has.
        """
        pieces = list(self.vocabulary)
        for index in reversed(range(len(pieces))):
            if pieces[index] not in self.added_tokens:
                break
            pieces[index] = f" {index}"
        ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        raw = [*SPECIAL, *(name for name, normal in self.added_tokens.items() if not normal)]
        normal = [name for name, normal in self.added_tokens.items() if normal]
        latest = dict(zip(self._normalized_texts, normal))
        return pieces, [pieces[ids[n]] for n in raw], [pieces[ids[n]] for n in latest.values()]

    # Without offsets and with. Functions of their own, so that they are traced once and not again
    # for every graph that encodes: tracing this was half the time of an export.
    @functools.cached_property
    def _cut_functions(self) -> dict[bool, Callable[[tf.Tensor], Pieces]]:
        return {offsets: self._cut_function(offsets) for offsets in (False, True)}

    def _cut_function(self, offsets: bool):
        def cut_texts(texts):
            pieces = pieces_of_texts(
                texts,
                self._plain_pattern,
                self._cut_plain,
                lambda part: self._cut_any(part, offsets),
                offsets,
            )
            # A branch of `tf.cond` forgets that these are vectors.
            return Pieces(*(tf.ensure_shape(values, [None]) for values in pieces))

        texts = tf.TensorSpec([None], tf.string, name="texts")
        return tf.function(cut_texts, input_signature=[texts], autograph=False)

    def _cut_plain(self, texts: tf.Tensor) -> Pieces:
        return cut(self._text_model, tf.strings.lower(texts) if self.lowercase else texts)

    def _cut_any(self, texts: tf.Tensor, offsets: bool) -> Pieces:
        words = words_of(texts, self._rules, self._names, self._normalized_names, offsets)
        too_long = lengths_of(words.splits) > self.max_word_characters
        replaced, cut_texts = too_long, tf.where(too_long, UNKNOWN, words.texts)
        if self.added_tokens:
            _, raw, normal = self._stand_ins
            # Index 0 is no name, and indices from the end are those of normalised names.
            stand_ins = ["", *raw, *reversed(normal)]
            index = tf.where(words.found < 0, words.found + len(stand_ins), words.found)
            cut_texts = tf.where(words.found != 0, tf.gather(stand_ins, index), cut_texts)
            replaced |= words.found != 0
        ids, splits, starts, ends = cut(self._word_model, cut_texts)
        if offsets:
            # The piece of such a word spans the word, not what stood in.
            widths = tf.where(replaced, tf.strings.length(words.texts), 0)
            widths = tf.cast(tf.gather(widths, rows_of(splits)), tf.int64)
            starts, ends = spans_of(words, splits, starts, tf.where(widths > 0, widths, ends))
        return Pieces(ids, tf.gather(splits, words.row_splits), starts, ends)

    @functools.cached_property
    def _word_model(self) -> np.ndarray:
        # A character has at most 4 bytes: the operation's own limit never strikes first.
        limit = max(4 * self.max_word_characters, max(map(len, self._stand_ins[0])) * 4)
        return build_model(self._stand_ins[0], CONTINUATION, UNKNOWN, limit)

    @functools.cached_property
    def _text_model(self) -> np.ndarray:
        limit = self.max_word_characters
        return build_model(self._stand_ins[0], CONTINUATION, UNKNOWN, limit, splits=True)


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
