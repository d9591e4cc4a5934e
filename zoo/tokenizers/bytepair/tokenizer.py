"""Byte-level byte-pair encoding, as GPT-2 and RoBERTa have it."""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from zoo.tokenizers.base import REPLACEMENT, Tokenizer, check_kind, string_vector
from zoo.tokenizers.bytepair import files as bytepair_files
from zoo.tokenizers.bytepair.alphabet import ALPHABET, from_bytes, to_bytes
from zoo.tokenizers.bytepair.graph import BytePairGraph
from zoo.tokenizers.bytepair.merges import last_merges, merging_model
from zoo.tokenizers.bytepair.special import check_special_names
from zoo.tokenizers.bytepair.training import learn_merges
from zoo.tokenizers.bytepair.units import joined_bytes, word_table
from zoo.tokenizers.bytepair.vocabulary import MergeError, merge_pairs, numbered
from zoo.tokenizers.roles import set_roles
from zoo.tokenizers.wordpiece.tokenizer import Encoding
from zoo.tokenizers.wordpiece.training import in_batches

END_OF_TEXT = "<|endoftext|>"


class BytePairTokenizer(Tokenizer):
    """GPT-2's tokenizer; gives the ids of tiktoken and of Hugging Face's ByteLevel BPE.

    A text is split into words by GPT-2's pattern, and the bytes of each word are merged, pair by
    pair. Any bytes have ids: one that is not part of valid UTF-8 splits words as punctuation does.

    Args:
        vocabulary: piece -> id, or the pieces in order, their bytes written as GPT-2 does ("Ġthe"
            is " the"); all 256 single bytes must be there.
        merges: "a b" or ("a", "b"), best first.
        special_tokens: name -> id, or names; names that the vocabulary lacks get the ids after it.
        end: the special token that ends a text (default "<|endoftext|>").
        roles: for encoders: "cls", "sep", "pad", "mask" and "unknown" to names of special tokens;
            sets `cls_id`, `sep_id`, `pad_id`, `mask_id` and `unknown_id`. Default none.
        add_prefix_space: puts a space before each text that has none; then decoding gives that
            space back. Default False.
        parse_special: a special token written out in a text becomes its id, and the blanks before a
            mask token go into it. Default False: it is text like any other, as a user's text
            should be.
        pair_separators: separators between the texts of a pair, 2 in RoBERTa. Default 1.

    Raises ValueError for an id without a piece or with two, a byte without a piece, a merge of
    unknown pieces, an unknown `end` or role, or special tokens that overlap where they are parsed;
    TypeError for anything but strings and integers.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

    Example:
        tokenizer = BytePairTokenizer.train(["low lower lowest"] * 9, vocabulary_size=300)
        tokenizer.decode(tokenizer.encode(["lower!"]))  # [b"lower!"]
    """

    kind = "bytepair"

    vocabulary: list[str]

    def __init__(
        self,
        vocabulary: Mapping[str, int] | Sequence[str],
        merges: Sequence[tuple[str, str]] | Sequence[str],
        special_tokens: Mapping[str, int] | Sequence[str] = (END_OF_TEXT,),
        end: str = END_OF_TEXT,
        roles: Mapping[str, str] | None = None,
        add_prefix_space: bool = False,
        parse_special: bool = False,
        pair_separators: int = 1,
    ):
        self.vocabulary, self.special_tokens = numbered(vocabulary, special_tokens)
        self.merges, self._pairs = merge_pairs(self.vocabulary, self.special_tokens, merges)
        if end not in self.special_tokens:
            known = ", ".join(self.special_tokens) or "none"
            raise ValueError(f"end={end!r} is no special token; those are: {known}.")
        if pair_separators < 1:
            raise ValueError(f"pair_separators={pair_separators} must be at least 1.")
        self.end, self.end_id = end, self.special_tokens[end]
        self.roles = dict(roles or {})
        set_roles(self, self.roles)
        self.add_prefix_space, self.parse_special = bool(add_prefix_space), bool(parse_special)
        self.pair_separators = int(pair_separators)
        if self.parse_special:
            check_special_names(self.special_tokens)
        self.lossless = not (self.add_prefix_space or self.parse_special)

    @classmethod
    def train(
        cls,
        texts: Iterable[str | bytes],
        vocabulary_size: int,
        min_count: int = 2,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        **options: Any,
    ) -> Self:
        """Learns merges from `texts`; equal texts give equal ids.

        Args:
            texts: strings or bytes; read once, in batches.
            vocabulary_size: at most this many ids: 256 bytes, merged pieces, then `special_tokens`;
                fewer if the texts offer no more.
            min_count: pairs seen fewer times are left (default 2).
            special_tokens: names.
            **options: the constructor's, such as end and roles.

        Raises TypeError for a single string, ValueError if the size leaves no room for the bytes.

        Example: `BytePairTokenizer.train(["to be or not to be"], vocabulary_size=260)`
        """
        if isinstance(texts, str | bytes):
            raise TypeError("texts is one string; pass a list of strings.")
        room = vocabulary_size - len(special_tokens)
        if room < len(ALPHABET):
            raise ValueError(
                f"vocabulary_size={vocabulary_size} is too small: 256 bytes and "
                f"{len(special_tokens)} special tokens need {256 + len(special_tokens)}."
            )
        blank = cls(list(ALPHABET), [], special_tokens, **options)
        counts = collections.Counter()
        for batch in in_batches(texts):
            words = blank._graph.words(string_vector(batch))
            data, begins = words.data.numpy().tobytes(), words.begins.numpy().tolist()
            special = set() if words.special is None else {*words.special.begins.numpy().tolist()}
            for begin, end in zip(begins, [*begins[1:], len(data)]):
                counts[data[begin:end]] += begin not in special
        words = {from_bytes(word): count for word, count in counts.items() if count}
        merges = learn_merges(words, room, min_count)
        pieces = [*ALPHABET, *(left + right for left, right in merges)]
        return cls(pieces, merges, special_tokens, **options)

    @classmethod
    def from_files(
        cls,
        vocab_json: str | os.PathLike[str],
        merges_txt: str | os.PathLike[str],
        **options: Any,
    ) -> Self:
        """Reads GPT-2's two files, `vocab.json` (`encoder.json`) and `merges.txt` (`vocab.bpe`).

        Args:
            vocab_json: piece -> id. merges_txt: a merge a line, after a line "#version: 0.2".
            **options: the constructor's; the files do not name the special tokens.

        Raises ValueError, naming the file and the line, if one is not what it should be.

        Example: `BytePairTokenizer.from_files("gpt2/vocab.json", "gpt2/merges.txt")`
        """
        vocabulary = bytepair_files.read_vocabulary(vocab_json)
        merges, first_line = bytepair_files.read_merges(merges_txt)
        try:
            return cls(vocabulary, merges, **options)
        except MergeError as error:
            place = f"{os.fspath(merges_txt)}, line {error.index + first_line}"
            raise ValueError(f"{place}: {error.reason}") from error
        except ValueError as error:
            raise ValueError(f"{os.fspath(vocab_json)}: {error}") from error

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads Hugging Face's `tokenizer.json` of a byte-level BPE tokenizer.

        Special tokens, their roles, `add_prefix_space` and `pair_separators` come from the file.

        Args:
            path: the file.
            **options: the constructor's, in place of what the file says. Their library always
                parses special tokens in a text: `parse_special=True` does so here.

        Raises ValueError, naming the file and the field, if the file asks for something that this
        class does not do, such as a normalizer or another pattern.

        Example: `BytePairTokenizer.from_tokenizer_json("roberta-base/tokenizer.json")`
        """
        found = bytepair_files.read_tokenizer_json(path)
        try:
            return cls(**{**found, **options})
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def write_files(self, folder: str | os.PathLike[str]) -> None:
        """Writes `vocab.json`, `merges.txt` and `tokenizer.json` as Hugging Face's libraries read
        them; `load_tokenizer` does not, it reads what `save` writes."""
        bytepair_files.write_files(self, folder)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Rebuilds the tokenizer from `get_config`'s dict.

        Raises ValueError for another kind, a missing option or an invalid vocabulary.
        """
        check_kind(cls, config)
        names = (
            *("vocabulary", "merges", "special_tokens", "end", "roles"),
            *("add_prefix_space", "parse_special", "pair_separators"),
        )
        missing = [name for name in names if name not in config]
        if missing:
            raise ValueError(f"{', '.join(missing)}: missing; save the tokenizer again.")
        return cls(**{name: config[name] for name in names})

    def get_config(self) -> dict[str, Any]:
        """The plain, JSON-ready dict that `from_config` takes."""
        return {
            **super().get_config(),
            "merges": self.merges,
            "special_tokens": self.special_tokens,
            "end": self.end,
            "roles": self.roles,
            "add_prefix_space": self.add_prefix_space,
            "parse_special": self.parse_special,
            "pair_separators": self.pair_separators,
        }

    def encode(self, strings: Any) -> tf.RaggedTensor:
        """Encodes strings [B] as RaggedTensor int32 [B, None].

        Raises ValueError for anything but one axis, TypeError for anything but strings.

        Example: `tokenizer.encode(["low", ""]).to_list()`
        """
        ids, splits = self._encode_functions[False](string_vector(strings))
        return tf.RaggedTensor.from_row_splits(ids, splits, validate=False)

    def encode_with_offsets(self, strings: Any) -> Encoding:
        """Encodes strings [B] as `encode` and says which bytes of them each piece comes from.

        The spaces around a piece do not count to it, and a piece that is part of a character has
        the span of the whole character, as in Hugging Face's library with `trim_offsets`. A "word"
        is one of GPT-2's pattern; blanks that stand apart are one, with an empty span if they are
        spaces.

        Raises as `encode`.

        Example: `tokenizer.encode_with_offsets(["a low"]).starts.to_list()` is `[[0, 2]]`.
        """
        ids, splits, *rows = self._encode_functions[True](string_vector(strings))
        return Encoding(
            *(tf.RaggedTensor.from_row_splits(row, splits, validate=False) for row in (ids, *rows))
        )

    def pieces(self) -> list[bytes]:
        """The bytes of each id; U+FFFD for the unknown one, b"" for the other special ones."""
        pieces = [to_bytes(piece) for piece in self.vocabulary]
        for index in self.special_tokens.values():
            pieces[index] = b""
        if self.unknown_id is not None:
            pieces[self.unknown_id] = REPLACEMENT
        return pieces

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        """Bool (V,), True for the pieces without a space before them, special ones aside."""
        special = set(self.special_tokens.values())
        return np.array(
            [i not in special and piece[:1] != "Ġ" for i, piece in enumerate(self.vocabulary)]
        )

    @functools.cached_property
    def _graph(self) -> BytePairGraph:
        special = set(self.special_tokens.values())
        texts = [to_bytes(piece) for piece in self.vocabulary]
        ranks = last_merges(self._pairs, [None if i in special else t for i, t in enumerate(texts)])
        # What merging makes of some text: bytes, and the pieces that come out of their own bytes.
        tokens = {
            index: text
            for index, text in enumerate(texts)
            if index in ranks or (len(text) == 1 and index not in special)
        }
        return BytePairGraph(
            table=word_table(tokens),
            model=merging_model([tokens.get(index) for index in range(len(texts))], ranks),
            joined=joined_bytes(tokens),
            lengths=np.array([len(text) for text in texts], np.int32),
            spaces_before=np.array([len(t) - len(t.lstrip(b" ")) for t in texts], np.int32),
            spaces_after=np.array([len(t) - len(t.rstrip(b" ")) for t in texts], np.int32),
            special_tokens=self.special_tokens if self.parse_special else {},
            takes_blanks=self.roles.get("mask") if self.parse_special else None,
            add_prefix_space=self.add_prefix_space,
        )

    # Without offsets and with. Functions of their own, so that they are traced once and not again
    # for every graph that encodes.
    @functools.cached_property
    def _encode_functions(self) -> dict[bool, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        return {offsets: self._encode_function(offsets) for offsets in (False, True)}

    def _encode_function(self, offsets: bool):
        graph, texts = self._graph, tf.TensorSpec([None], tf.string, name="texts")
        return tf.function(
            lambda texts: graph.encode(texts, offsets), input_signature=[texts], autograph=False
        )
