"""The contract of every tokenizer, and what they share: decoding, saving, the fingerprint."""

import abc
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import tensorflow as tf

from zoo.files import write_json

FILE_NAME = "tokenizer.json"
FORMAT_VERSION = 1

UNKNOWN = "<|unknown|>"
END = "<|end|>"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()

# What special tokens are for in an encoder's input; a tokenizer's `cls_id` is the id for "cls".
ROLES = ("cls", "sep", "pad", "mask", "unknown")


class Tokenizer(abc.ABC):
    """Maps a batch of strings to ragged token ids and back, in TensorFlow operations only.

    Without lookup tables, Python functions, or anything to track or initialise, the same code runs
    eagerly, in `tf.function`, `tf.data` and TensorFlow Serving. A subclass sets the attributes and
    implements `encode` and `_texts`.
    """

    kind: ClassVar[str]  # name of the subclass in `tokenizer.json`
    config_names: ClassVar[tuple[str, ...]] = ()  # the constructor's arguments, all attributes
    # Options that older files do not have; fingerprints leave them out where they are not set.
    defaults: ClassVar[Mapping[str, Any]] = {}
    rules_version: ClassVar[int] = 1  # raised when the same vocabulary starts to encode differently
    splits_anywhere: ClassVar[bool] = False  # if encode(a + b) == encode(a) + encode(b), always

    vocabulary: str | list[str] | None  # what JSON needs to rebuild the tokenizer
    end_id: int  # "end of text", the separator of documents; `encode` never produces it
    start_id: int | None = None  # what stands before every text of a language model, if any does
    unknown_id: int | None = None  # whatever the vocabulary lacks; None if nothing can be unknown
    special_tokens: dict[str, int]  # name -> id of the ids that stand for no text
    pair_separators: int = 1  # between the two texts of a pair: 1 as in BERT, 2 as in RoBERTa

    @abc.abstractmethod
    def encode(self, strings: Any) -> tf.RaggedTensor:
        """The ids of strings, a RaggedTensor int32 [B, None].

        Args:
            strings: string tensor (B,), or a list or array of one axis; ValueError for other axes,
                TypeError for anything but strings.

        Example:
            >>> import zoo
            >>> zoo.ByteTokenizer().encode(["ab", ""]).to_list()
            [[97, 98], []]
        """

    def encode_target(self, strings: Any) -> tf.RaggedTensor:
        """`encode` of texts that a model writes, which only Marian's has other pieces for."""
        return self.encode(strings)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer, `end_id` first."""
        return (self.end_id,)

    @abc.abstractmethod
    def _texts(self) -> list[bytes]:
        """A new list of the bytes of each id in order; those of special ids do not count."""

    def pieces(self) -> list[bytes]:
        """The text of each id in order: b"" for special ids, U+FFFD for the unknown one."""
        pieces = self._texts()
        for index in self.special_tokens.values():
            pieces[index] = b""
        if self.unknown_id is not None:
            pieces[self.unknown_id] = REPLACEMENT
        return pieces

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Rebuilds the tokenizer from `get_config`'s dict; ValueError for another class's."""
        if config.get("kind") != cls.kind:
            raise ValueError(
                f"{cls.__name__} reads kind {cls.kind!r}, the config says "
                f"{config.get('kind')!r}. Use load_tokenizer, which picks the class."
            )
        config = {**cls.defaults, **config}
        if missing := [name for name in cls.config_names if name not in config]:
            raise ValueError(f"{', '.join(missing)}: missing; save the tokenizer again.")
        return cls(*(config[name] for name in cls.config_names))

    def get_config(self) -> dict[str, Any]:
        """The plain, JSON-ready dict that `from_config` takes."""
        options = {name: getattr(self, name) for name in self.config_names}
        for name, default in self.defaults.items():
            if options[name] == default:
                del options[name]
        return {"kind": self.kind, "vocabulary": self.vocabulary, **options}

    @functools.cached_property
    def vocabulary_size(self) -> int:
        """The number of ids, special ones included: ids are 0 to vocabulary_size - 1."""
        return len(self._texts())

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of kind, vocabulary and rules: equal exactly if the ids are equal."""
        rules = {**self.get_config(), "rules_version": self.rules_version}
        canonical = json.dumps(rules, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    def decode(self, ids: Any) -> tf.Tensor:
        """The texts of ids, strings (B,).

        Special ids decode to "". The unknown id, and any id outside [0, vocabulary_size), decodes
        to U+FFFD: raising would let one row of a served batch fail the others, and a model may
        have more outputs than there are tokens.

        Args:
            ids: integers, a RaggedTensor [B, None] or dense (B, T), where padding counts, too;
                ValueError for other axes, TypeError for anything but integers.

        Example:
            >>> import zoo
            >>> zoo.ByteTokenizer().decode([[104, 105, 256]]).numpy().tolist()
            [b'hi']
        """
        ids = _integers(ids)
        if ids.shape.rank not in (None, 2):
            raise ValueError(
                f"decode takes ids with two axes, [batch, time]; got shape {ids.shape}. "
                "For one sequence pass ids[None, :]."
            )
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(tf.ensure_shape(ids, [None, None]))
        return self._join(ids)

    def decode_after(self, ids: Any) -> tf.Tensor:
        """The texts of ids that go on where others ended: `decode`, but no space is left out."""
        return self.decode(ids)

    def _join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        # Joining pieces costs more than tf.strings.unicode_encode (24 against 9 ms for 1.1 MB),
        # but it serves bytes and characters alike and drops special ids for free.
        return tf.strings.unsorted_segment_join(
            _lookup(self._piece_table, ids.flat_values), ids.value_rowids(), ids.nrows()
        )

    def tokens(self, ids: Any) -> tf.Tensor | tf.RaggedTensor:
        """The text of every single id of integers of any shape, special ids by name; "<|unknown|>"
        outside [0, vocabulary_size). A prompt and a token that is not special, put together, are
        its continuation.
        """
        ids = _integers(ids)
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(_lookup(self._token_table, ids.flat_values))
        return _lookup(self._token_table, ids)

    def spell(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Strings (B, T), padded with "": each id [B, None] as it stands in its text, special ones
        by name. Put together they are what `decode` gives, but for special and unknown ids; the
        first one is "" where it is but the space that `decode` leaves out.
        """
        table = self._piece_table.copy()
        for name, index in self.special_tokens.items():
            if index != self.unknown_id:
                table[index] = name.encode()
        spelled = ids.with_flat_values(_lookup(table, ids.flat_values)).to_tensor("")
        if not self._drops_space:
            return spelled
        first = tf.strings.regex_replace(spelled[:, :1], "^ ", "")
        return tf.concat([first, spelled[:, 1:]], axis=1)

    @functools.cached_property
    def _drops_space(self) -> bool:
        """Whether `decode` leaves out the space before a text."""
        spaced = [place for place, text in enumerate(self._piece_table[:-1]) if text[:1] == b" "]
        with tf.init_scope():
            return bool(spaced) and self.decode([spaced[:1]]).numpy()[0][:1] != b" "

    def whole_characters(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Ids [B, None] without the last ones where `decode` could not give back the bytes of a
        character that they begin; here it always can.
        """
        return ids

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Writes `folder/tokenizer.json`, which `load_tokenizer(folder)` reads; returns its path.

        Creates the folder, replaces an older file; a reader never sees half of it.
        """
        path = os.path.join(folder, FILE_NAME)
        own = {"format_version": FORMAT_VERSION, "fingerprint": self.fingerprint}
        # ASCII escapes keep the file exact through editors that normalise Unicode.
        write_json(path, {**self.get_config(), **own}, indent=2, ensure_ascii=True)
        return path

    # The tables are numpy, not tensors: a tensor made inside one graph could not be used in the
    # next, and a constant needs no tracking by tf.saved_model.save. Their extra last entry is
    # what ids outside the vocabulary become.
    @functools.cached_property
    def _piece_table(self) -> np.ndarray:
        return np.array([*self.pieces(), REPLACEMENT], dtype=object)

    @functools.cached_property
    def _token_table(self) -> np.ndarray:
        pieces = self.pieces()
        for name, index in self.special_tokens.items():
            pieces[index] = name.encode()
        return np.array([*pieces, UNKNOWN.encode()], dtype=object)


class Encoding(NamedTuple):
    """Ids and where they come from; four RaggedTensors [B, None] of the same row splits.

    `string[start:end]` are the bytes of a piece, with the accents stripped after its last letter.
    Spans are in order and do not overlap, but pieces of one character (a Korean syllable) have
    the same one.
    """

    ids: tf.RaggedTensor  # int32
    starts: tf.RaggedTensor  # int32, offset of the first byte of the piece in its string
    ends: tf.RaggedTensor  # int32, offset after its last byte
    word_starts: tf.RaggedTensor  # bool, True for the first piece of each word


class SubwordTokenizer(Tokenizer):
    """A tokenizer of words and pieces of words, which knows where these stand in a text."""

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        """Bool (V,), True for the pieces that continue a word, special ones aside."""
        special = {*self.special_tokens.values()}
        return np.array(
            [i not in special and text[:1] != b" " for i, text in enumerate(self._texts())]
        )

    @abc.abstractmethod
    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        """Ids int32 (P,) and row splits int64 (B + 1,) of strings (B,); with `offsets` also
        `starts` and `ends` int64 and `word_starts`, (P,), of an `Encoding`.
        """

    def encode(self, strings: Any) -> tf.RaggedTensor:
        ids, splits = self._encode_ids(string_vector(strings))
        return tf.RaggedTensor.from_row_splits(ids, splits, validate=False)

    def encode_with_offsets(self, strings: Any) -> Encoding:
        """Encodes strings as `encode` and says which bytes of them each piece comes from.

        Example:
            >>> import zoo
            >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
            >>> zoo.WordPieceTokenizer(pieces).encode_with_offsets([" Ab"]).starts.to_list()
            [[1, 2]]
        """
        ids, splits, starts, ends, first = self._encode_spans(string_vector(strings))
        values = ids, tf.cast(starts, tf.int32), tf.cast(ends, tf.int32), first
        return Encoding(
            *(tf.RaggedTensor.from_row_splits(value, splits, validate=False) for value in values)
        )

    # Functions of their own, so that they are traced once and not again for every graph that
    # encodes: tracing WordPiece was half the time of an export.
    _encode_ids = functools.cached_property(lambda self: self._traced(offsets=False))
    _encode_spans = functools.cached_property(lambda self: self._traced(offsets=True))

    def _traced(self, offsets: bool) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        texts = tf.TensorSpec([None], tf.string, name="texts")
        return tf.function(
            lambda texts: self._encode(texts, offsets), input_signature=[texts], autograph=False
        )

    def _set_roles(self, roles: Mapping[str, str], pair_separators: int = 1) -> None:
        """Sets `pair_separators`, and `cls_id`, `sep_id` and so on for the roles given."""
        if pair_separators < 1:
            raise ValueError(f"pair_separators={pair_separators} must be at least 1.")
        self.pair_separators = int(pair_separators)
        for role, name in roles.items():
            if role not in ROLES:
                raise ValueError(f"roles: {role!r} is none of {', '.join(ROLES)}.")
            setattr(self, f"{role}_id", self._special_id(f"roles: {role}", name))

    def _special_id(self, argument: str, name: str) -> int:
        if name not in self.special_tokens:
            known = ", ".join(self.special_tokens) or "none"
            raise ValueError(f"{argument}={name!r} is no special token; those are: {known}.")
        return self.special_tokens[name]


def require_roles(tokenizer: Tokenizer, *roles: str) -> None:
    """Raises ValueError unless the tokenizer has the roles, such as "cls" and "sep"."""
    missing = [role for role in roles if getattr(tokenizer, f"{role}_id", None) is None]
    if missing:
        raise ValueError(
            f"a {tokenizer.kind} tokenizer without special tokens for {', '.join(missing)} cannot "
            "feed an encoder. Use a WordPiece tokenizer, or one made with "
            'roles={"cls": "<s>", "sep": "</s>", "pad": "<pad>", ...}.'
        )


def numbered_pieces(pieces: Any, name: str) -> dict[str, int]:
    """Piece -> id of a list of strings, or of a dict; TypeError or ValueError for anything else."""
    if isinstance(pieces, str | bytes) or not isinstance(pieces, Iterable):
        raise TypeError(f"{name} must be a list of strings, or a dict, found {pieces!r:.80}.")
    ids: dict[str, int] = {}
    for place, piece in enumerate(pieces):
        index = pieces[piece] if isinstance(pieces, Mapping) else place
        if not isinstance(piece, str) or type(index) is not int:
            raise TypeError(
                f"{name}[{place}] must be a string, and an id a whole number, found {piece!r:.80} "
                f"with id {index!r:.80}."
            )
        if ids.setdefault(piece, index) != index:
            raise ValueError(
                f"{name}[{index}] = {piece!r} repeats {name}[{ids[piece]}]; name each piece once, "
                "with an unused name such as [unused0] in the other place."
            )
    return ids


def string_vector(strings: Any) -> tf.Tensor:
    """`strings` as a string tensor (B,); the errors are those of `Tokenizer.encode`."""
    if isinstance(strings, list | tuple) and not strings:
        strings = np.array([], dtype=object)  # An empty list has no element to tell its type.
    elif isinstance(strings, np.ndarray) and strings.size == 0:
        strings = strings.astype(object)
    try:
        tensor = tf.convert_to_tensor(strings, dtype=tf.string)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"encode takes strings (bytes, or str that UTF-8 can hold), got {strings!r:.80}."
        ) from error
    if tensor.shape.rank not in (None, 1):
        raise ValueError(
            f"encode takes strings with one axis, [batch]; got shape {tensor.shape}. "
            "For one string pass a list of one."
        )
    return tf.ensure_shape(tensor, [None])


def cut_character_bytes(strings: tf.Tensor) -> tf.Tensor:
    """How many bytes (B,) int32 at the ends of strings (B,) begin characters not ended there."""

    def cut_one(strings, total, cut):
        size = tf.strings.length(strings) - cut
        strings = tf.strings.substr(strings, tf.zeros_like(size), size)
        return strings, total + cut, _one_cut_character(strings)

    # Random bytes may begin another one before the last: what is left ends with none.
    cut = _one_cut_character(strings)
    start = (strings, tf.zeros_like(cut), cut)
    return tf.while_loop(lambda *state: tf.reduce_any(state[2] > 0), cut_one, start)[1]


def _one_cut_character(strings: tf.Tensor) -> tf.Tensor:
    # Three bytes before, so that each string has three last ones.
    padded = tf.strings.join(["\0\0\0", strings])
    last = tf.strings.substr(padded, tf.strings.length(strings), tf.fill(tf.shape(strings), 3))
    last = tf.cast(tf.io.decode_raw(last, tf.uint8, fixed_length=3), tf.int32)  # (B, 3)
    continues = (last & 0xC0) == 0x80
    cut = tf.zeros_like(last[:, 0])
    for place, smallest in enumerate((0xF0, 0xE0, 0xC2)):  # a character of more bytes than follow
        begins = (last[:, place] >= smallest) & (last[:, place] <= 0xF4)
        begins &= tf.reduce_all(continues[:, place + 1 :], 1)
        cut = tf.where(begins, 3 - place, cut)
    return cut


def _integers(ids: Any) -> tf.Tensor | tf.RaggedTensor:
    if not isinstance(ids, tf.RaggedTensor):
        if isinstance(ids, list | tuple):
            try:
                ids = np.array(ids)
            except ValueError as error:
                raise ValueError(
                    "token ids: rows of different lengths; pass tf.ragged.constant(ids)."
                ) from error
            ids = ids if ids.size else ids.astype(np.int32)  # Empty lists make float arrays.
        ids = tf.convert_to_tensor(ids)
    if not ids.dtype.is_integer:
        raise TypeError(f"token ids are integers; got {ids.dtype.name}. Cast them to int32.")
    return ids


def _lookup(table: np.ndarray, ids: tf.Tensor) -> tf.Tensor:
    ids = tf.cast(ids, tf.int64)
    outside = len(table) - 1
    ids = tf.where((ids >= 0) & (ids < outside), ids, outside)
    return tf.gather(tf.constant(table, tf.string), ids)
