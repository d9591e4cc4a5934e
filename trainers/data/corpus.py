"""Running text: its documents, split and encoded; one corpus, or several that are mixed."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from trainers.data.config import DataConfig
from trainers.data.pipeline import MixedStream
from trainers.data.prepare.shards import Prepared, TokenShards, TokenStream
from trainers.data.rows import (
    HUGGING_FACE,
    STORED,
    row_format,
    stored_rows,
    table_format,
    text_rows,
)
from trainers.data.sources import NAMED_SOURCES, File, find_data_dir, find_files
from trainers.data.text import Block, decode, keeps_lines, read_blocks
from zoo.tokenizers import Tokenizer

# Articles start at " = Title = " between blank lines; " = = Part = = " is a part of one. Without
# the blank lines, formulas of two articles would look like titles.
_WIKITEXT_TITLE = re.compile(r"(?:\A|(?<=^ \n)) = [^=\n]+ = \n(?= \n)", re.MULTILINE)
_COLUMN = "text_column"  # what messages call the option that names the field
# Bounds the memory of encoding: one batch is about a million characters.
_CHUNK_CHARACTERS = 1 << 16
_BATCH_CHARACTERS = 1 << 20


class Document(NamedTuple):
    """A text, or a piece of one; `name` says where it is from (a path, or a path and line)."""

    name: str
    text: str
    is_last: bool = True  # whether the document ends with it: a large one has several pieces


def read_documents(source: str, data: DataConfig, data_dir: str | None = None) -> list[Document]:
    """Reads the documents of a source as `data` says, always in the same order (sorted by path)."""
    files, data = find_source(source, data, data_dir), reading_of(source, data)
    documents, empty, total = [], [], 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        data.limits.check("source_bytes", total, file.path)

    for file in files:
        left = None if data.max_bytes is None else max(data.max_bytes - total, 0)
        if left == 0:
            logging.info("%s: stopped at max_bytes=%d before %s", source, data.max_bytes, file.path)
            break
        parts, known = [], len(documents)
        for piece in read_pieces(file, data, count, limit=left):
            parts.append(piece.text)
            if piece.is_last:
                if any(parts):
                    documents.append(Document(piece.name, "".join(parts)))
                parts = []
        if len(documents) == known and data.split == "files":
            empty.append(file.path)
    if not documents:
        raise ValueError(
            f"{source}: no text in {len(files)} file(s), the first is {files[0].path}. "
            "Point the source at files that are not empty, or raise max_bytes."
        )
    if empty:
        logging.warning("%s: skipped %d empty file(s), such as %s", source, len(empty), empty[0])
    return documents


def reading_of(source: str, data: DataConfig) -> DataConfig:
    """How a source is read: a corpus known by name knows that itself."""
    if (named := NAMED_SOURCES.get(source)) is None:
        return data
    return dataclasses.replace(data, encoding="utf-8", split=named.split or data.split)


def find_source(source: str, data: DataConfig, data_dir: str | None) -> list[File]:
    """The files of a source."""
    if source in NAMED_SOURCES:
        return NAMED_SOURCES[source].find(find_data_dir(data_dir))
    if source.startswith(HUGGING_FACE):
        files = [File(source, source)]
    else:
        files = find_files(source, data, data_dir, NAMED_SOURCES)
    for file in files:
        if data.split != "rows" and table_format(file.path) in STORED:
            raise ValueError(
                f"{file.path}: holds rows, not text. Read one column of them with "
                "--set=data.split=rows and --set=data.text_column=NAME."
            )
    return files


def read_pieces(
    file: File,
    data: DataConfig,
    on_bytes: Callable[[int], object] = lambda size: None,
    *,
    start: int = 0,
    stop: int | None = None,
    limit: int | None = None,
) -> Iterator[Document]:
    """The documents of a file in order; empty ones and blank lines are none.

    `start` and `stop` count bytes of text and JSON lines, row groups of a Parquet file, or rows of
    a data set; `limit` bytes. `on_bytes` is told how many (decompressed) ones were read.
    """
    format = row_format(file.path, data.format) if data.split == "rows" else ""
    if format in STORED:
        columns = {_COLUMN: data.text_column}
        for number, row in stored_rows(file.path, format, columns, data.limits, start, stop):
            on_bytes(len(row[_COLUMN].encode("utf-8", "replace")))
            if row[_COLUMN]:
                yield Document(f"{file.name}:{number}", row[_COLUMN])
        return
    in_blocks = data.split in ("files", "lines") or format == "jsonl"
    in_blocks = in_blocks and keeps_lines(data.encoding)
    limit_name = "row_bytes" if in_blocks and data.split != "files" else "source_bytes"
    blocks = read_blocks(
        file.path,
        start=start,
        stop=stop,
        limit=limit,
        whole=not in_blocks,
        check_size=lambda size: data.limits.check(limit_name, size, file.path),
    )
    # Lines of a later part are counted from there.
    name, lines = f"{file.name}@{start}" if start else file.name, 0
    for block in blocks:
        on_bytes(len(block.content))
        text = decode(
            block.content, block.is_cut, file.path, data.encoding, data.invalid, block.offset
        )
        if data.split == "files":
            yield Document(file.name, text, block.is_last)
            continue
        for line, part in _parts(file.path, data, format, block, text):
            where = f"{name}:{lines + line}"
            if data.split in ("lines", "poems"):
                data.limits.check("row_bytes", part, f"{file.path}: {where}")
            if data.split == "poems" and part.strip():  # title, author and body on own lines
                if part.count("\t") != 2:
                    raise ValueError(
                        f"{file.path}: {where} has {part.count(chr(9))} tabs, expected 2: title "
                        "TAB author TAB body. Fix or remove the line."
                    )
                part = part.replace("\t", "\n")
            if part if data.split == "rows" else part.strip():
                yield Document(where, part)
        lines += text.count("\n")


def _parts(
    path: str, data: DataConfig, format: str, block: Block, text: str
) -> Iterator[tuple[int, str]]:
    """Line in the block and text of each document of a block; blank ones as well."""
    if data.split == "articles":
        starts = [match.start() for match in _WIKITEXT_TITLE.finditer(text)]
        for start, end in zip(starts, starts[1:] + [len(text)]):
            yield text.count("\n", 0, start) + 1, text[start:end]
        return
    if block.is_cut:
        text = text[: text.rfind("\n") + 1]
    if data.split != "rows":
        yield from enumerate(text.split("\n"), start=1)
        return
    columns = {_COLUMN: data.text_column}
    rows = text_rows(path, text, format, columns, data)
    if block.offset:
        try:
            rows = list(rows)
        except ValueError:
            # Blank lines in place of those before the block: now the message counts from the top.
            before = read_blocks(path, stop=block.offset)
            text = "\n" * sum(block.content.count(b"\n") for block in before) + text
            rows = text_rows(path, text, format, columns, data)
    yield from ((number, row[_COLUMN]) for number, row in rows)


class SplitTexts(NamedTuple):
    """Texts to train on and to validate on."""

    train: list[str]
    validation: list[str]
    ends: bool  # whether an end-of-text token follows each: there are several documents


def split_documents(
    documents: Sequence[Document],
    validation_fraction: float = 0.1,
    validation_documents: Sequence[Document] | None = None,
    seed: int = 0,
) -> SplitTexts:
    """What trains and what validates: `validation_documents`, or a share; one document is cut."""
    texts = [document.text for document in documents if document.text]
    # A model that trains on one text never sees the end token, so it is not asked to predict it.
    ends = len(texts) > 1
    if validation_documents is not None:
        return SplitTexts(texts, [d.text for d in validation_documents if d.text], ends)
    if not ends:
        cut = int(len(texts[0]) * (1 - validation_fraction))
        return SplitTexts([texts[0][:cut]], [texts[0][cut:]], ends)
    parts = held_out([len(text) for text in texts], validation_fraction, seed)
    return SplitTexts(*([texts[index] for index in part] for part in parts), ends)


def held_out(sizes: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Which documents train and which validate: shuffled, the last that fit into the share."""
    order = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    room = fraction * sum(sizes)
    chosen: list[int] = []
    for index in reversed(order):
        if sizes[index] <= room:
            chosen.append(index)
            room -= sizes[index]
        elif chosen:
            break
        # Else a document over the whole allowance came last: it trains, the next one may fit.
    # At least one validates: the shortest if all exceed the share.
    kept_out = set(chosen or [min(order, key=lambda index: sizes[index])])
    train = [index for index in order if index not in kept_out]
    return train, [index for index in order if index in kept_out]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Encoded text, ready to be cut into training windows; a document cut in two counts twice."""

    train_ids: TokenStream
    validation_ids: TokenStream
    validation_characters: int


def encode_texts(texts: SplitTexts, tokenizer: Tokenizer, context_length: int) -> Corpus:
    """Encodes both parts."""
    end_id = tokenizer.end_id if texts.ends else None
    streams = [_encode(tokenizer, part, end_id) for part in texts[:2]]
    corpus = Corpus(*streams, sum(map(len, texts.validation)))
    _check_length(corpus, context_length, "")
    for part, ids in zip(("training", "validation"), streams):
        unknown = 0 if tokenizer.unknown_id is None else np.sum(ids == tokenizer.unknown_id)
        if unknown:
            message = "%d of %d %s tokens are unknown to the tokenizer"
            logging.warning(message, unknown, len(ids), part)
    return corpus


def prepared_corpus(prepared: Prepared, context_length: int) -> Corpus:
    """The corpus of a prepared folder, read from its shards while it is used."""
    corpus = Corpus(prepared.train, prepared.validation, prepared.validation.characters)
    _check_length(corpus, context_length, f"{prepared.folder}: ")
    return corpus


def _check_length(corpus: Corpus, context_length: int, where: str) -> None:
    for part, ids in (("training", corpus.train_ids), ("validation", corpus.validation_ids)):
        if len(ids) < context_length + 1:
            raise ValueError(
                f"{where}the {part} text has {len(ids)} tokens, fewer than context_length + 1 = "
                f"{context_length + 1}. Use more text, a smaller context_length, or another "
                "validation_fraction."
            )


def _encode(tokenizer: Tokenizer, texts: list[str], end_id: int | None) -> np.ndarray:
    """All texts as one int32 array, `end_id` (unless None) after each."""
    parts = [np.zeros(0, np.int32)]
    encoder = StreamEncoder(tokenizer, end_id, lambda ids, *_: parts.append(ids))
    for text in texts:
        encoder.add(text)
    encoder.flush()
    return np.concatenate(parts)


class StreamEncoder:
    """Encodes documents, a million characters at once; `sink` gets ids, characters, documents."""

    def __init__(
        self, tokenizer: Tokenizer, end_id: int | None, sink: Callable[[np.ndarray, int, int], None]
    ):
        self._tokenizer, self._end_id, self._sink = tokenizer, end_id, sink
        self._batch: list[tuple[str, bool]] = []
        self._size = 0

    def add(self, text: str, is_last: bool = True) -> None:
        """Takes in a text, or a piece of one: cut where no tokens reach across."""
        step = _CHUNK_CHARACTERS if self._tokenizer.splits_anywhere else max(len(text), 1)
        for start in range(0, max(len(text), 1), step):
            chunk = text[start : start + step]
            self._batch.append((chunk, is_last and start + step >= len(text)))
            self._size += len(chunk)
            if self._size >= _BATCH_CHARACTERS:
                self.flush()

    def flush(self) -> None:
        """Encodes what is waiting."""
        if not self._batch:
            return
        is_last = [last for _, last in self._batch]
        with tf.device("CPU"):  # String operations run there; their neighbours should not move.
            ids = self._tokenizer.encode([chunk for chunk, _ in self._batch])
        values = ids.flat_values.numpy()
        if self._end_id is not None:
            ends = ids.row_splits.numpy()[1:][is_last]
            values = np.insert(values, ends, self._end_id)
        characters, self._batch, self._size = self._size, [], 0
        self._sink(values, characters, sum(is_last))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Corpora of one tokenizer that are read in proportion; one by itself has the name ""."""

    corpora: dict[str, Corpus]
    block: dict[str, int]
    tokenizer: Tokenizer  # what encoded all of them

    @property
    def train_ids(self) -> TokenStream | MixedStream:
        """The training stream, or all of them, to be read in proportion."""
        if "" in self.corpora:
            return self.corpora[""].train_ids
        streams = tuple(corpus.train_ids for corpus in self.corpora.values())
        return MixedStream(streams, tuple(self.block[name] for name in self.corpora))

    @property
    def shares(self) -> dict[str, float]:
        """Name -> share of what is read, 1 in all."""
        size = sum(self.block.values())
        return {name: self.block[name] / size for name in self.corpora}

    def mean(self, of_corpus: Callable[[Corpus], Any]) -> Any:
        """The mean over the mixture of something known of each corpus."""
        shares = self.shares.items()
        return sum(share * of_corpus(self.corpora[name]) for name, share in shares)

    def _streams(self) -> Iterator[TokenStream]:
        for part in self.corpora.values():
            yield from (part.train_ids, part.validation_ids)

    def fingerprint(self) -> str:
        """SHA-256 of all token streams, of prepared ones of their fingerprints."""
        digest = hashlib.sha256()
        for ids in self._streams():
            if isinstance(ids, TokenShards):
                digest.update(ids.fingerprint.encode())
            else:
                digest.update(np.int64(len(ids)).tobytes())
                digest.update(np.ascontiguousarray(ids, np.int32).tobytes())
        return digest.hexdigest()

    def check(self) -> None:
        """Reads every byte of what lies in shards, after reading them failed."""
        for ids in self._streams():
            if isinstance(ids, TokenShards):
                ids.check()

    def summary(self) -> str:
        """How many tokens there are, in one line."""
        parts = self.corpora.values()
        train = sum(len(part.train_ids) for part in parts)
        validation = sum(len(part.validation_ids) for part in parts)
        several = f" of {len(parts)} corpora" if len(parts) > 1 else ""
        return (
            f"{train:,} training tokens{several}, {validation:,} validation tokens, "
            f"vocabulary {self.tokenizer.vocabulary_size}"
        )
