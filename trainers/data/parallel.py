"""Pairs of a source and its target, such as a sentence and its translation: how they are read.

A table has a column of each, JSON a field of each; two text files have a line of each.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from absl import logging

from trainers.data.config import DataConfig
from trainers.data.examples import TextPairs
from trainers.data.rows import (
    HUGGING_FACE,
    STORED,
    json_objects,
    row_format,
    stored_rows,
    text_rows,
)
from trainers.data.sources import (
    GITHUB,
    File,
    find_data_dir,
    find_files,
    find_published,
    find_unpublished,
    read_files,
)
from trainers.data.text import replace_surrogates

_SCITLDR = "allenai/scitldr/5ccad9c00a60ad75c9e04abf7f27d0f53f983b20/SciTLDR-Data/SciTLDR-A"
# name -> file, address below GITHUB, sha256; without an address how to get the file
PAIR_SOURCES: dict[str, tuple[str, str, str]] = {
    # English TAB Spanish, 118,964 pairs; CC BY 2.0.
    "tatoeba_spa": (
        "tatoeba_spa_eng/spa.txt",
        "",
        "unpack spa-eng.zip, of www.manythings.org/anki and of TensorFlow's tutorials, so that "
        "DATA_DIR/tatoeba_spa_eng/spa.txt is there.",
    ),
    # English TAB Chinese (simplified and traditional), 20,133 pairs; CC BY 2.0 FR.
    "tatoeba_cmn": (
        "tatoeba_cmn_eng/cmn.txt",
        "pjgao/seq2seq_keras/345f3ad6aa03988aa5deb9e5252de4f0c59cc0a2/data/cmn.txt",
        "74bd3c04dfe0ec75aaaf165597b2a83c6a733d34f46b184fc21ca6b552c268d3",
    ),
    # Abstracts of papers and one-sentence summaries, English; Apache-2.0.
    **{
        f"scitldr/{part}": (f"scitldr/{part}.jsonl", f"{_SCITLDR}/{part}.jsonl", sha256)
        for part, sha256 in {
            "train": "b222771d387be585cfdf5ae957b36757138415a352e0a3e3b23f73f87c3b1119",
            "dev": "3191fa98ccc09521332b7a1cd63b1930be4e8df125a235ccd31e40329709525e",
            "test": "fb42dd6cd4f4a1928ae8a01a189456fbfe994a07e938bd49f68653933f6503c9",
        }.items()
    },
}
Row = tuple[list[str], list[str], str]  # texts of both sides, and where they stand
_WORD = re.compile(r"[^\W\d_]+")
_LOOKED_AT, _FEWEST = 1000, 20  # pairs whose languages are compared
# English and English are alike by 0.92 (50 pairs) to 0.99 (1,000), Danish and Norwegian by 0.93,
# Spanish and Portuguese by 0.73, English and Spanish by 0.54 at most, and Chinese by 0.06.
_ALIKE = 0.85


def read_pairs(source: str, data: DataConfig, data_dir: str | None = None) -> TextPairs:
    """Reads pairs from tables or JSON lines, or from two text files, "SOURCES,TARGETS"; a pair
    without text on one side is an error, or left out where `data.mismatched` is "skip".
    """
    rows = _lines_of_two(source, data, data_dir) if "," in source else _rows(source, data, data_dir)
    pairs, empty = [], []
    for first, second, place in rows:
        texts, targets = (second, first) if data.reverse else (first, second)
        pair = " ".join(texts), targets[0], targets, place
        (pairs if pair[0].strip() and pair[1].strip() else empty).append(pair)
    if empty:
        text, _, _, place = empty[0]
        side = "target" if text.strip() else "source"
        found = f"{place}: the {side} is empty; {len(empty)} pair(s) of {source} are like that"
        if data.mismatched == "error":
            raise ValueError(
                f"{found}. Fill it in or remove the row, or leave such pairs out with "
                "--set=data.mismatched=skip."
            )
        logging.warning("%s: left out", found)
    if not pairs:
        raise ValueError(f"{source}: no pairs of a source and a target. Give files that have some.")
    sources, targets, references, where = map(list, zip(*pairs))
    several = any(len(own) > 1 for own in references)
    return TextPairs(sources, targets, where, references if several else None, len(empty))


def _rows(source: str, data: DataConfig, data_dir: str | None) -> Iterator[Row]:
    if data.pair_column is None:
        raise ValueError(f"{source}: set data.pair_column, the column of the targets.")
    columns = {"text_column": data.text_column, "pair_column": data.pair_column}
    for file in _files(source, data, data_dir):
        format = row_format(file.path, data.format)
        if format in STORED:
            rows = stored_rows(file.path, format, columns, data.limits)
        else:
            ((_, text),) = read_files([file], data)
            if format in ("json", "jsonl"):
                yield from _json_pairs(file, text, format, data)
                continue
            rows = text_rows(file.path, text, format, columns, data)
        size = 0
        for line, row in rows:
            text, target = row["text_column"], row["pair_column"]
            size += len(text) + len(target)
            data.limits.check("source_bytes", size, file.path)
            yield [text], [target], f"{file.name}:{line}"


def _files(source: str, data: DataConfig, data_dir: str | None) -> list[File]:
    if source.startswith(HUGGING_FACE):
        return [File(source, source)]
    if source not in PAIR_SOURCES:
        return find_files(source, data, data_dir, PAIR_SOURCES)
    (name, address, more), data_dir = PAIR_SOURCES[source], find_data_dir(data_dir)
    if not address:
        return [find_unpublished(name, data_dir, more)]
    return [find_published(name, GITHUB + address, more, data_dir, data.limits)]


def _json_pairs(file: File, text: str, format: str, data: DataConfig) -> Iterator[Row]:
    """Of a field with several strings those of a source are its sentences, those of a target are
    several right ones, the first of which trains.
    """
    options = {"text_column": data.text_column, "pair_column": data.pair_column}
    for line, record in json_objects(file.path, text, data.limits, format):
        place, values = f"{file.path}:{line}", []
        for option, name in options.items():
            value = record.get(name)
            parts = value if isinstance(value, list) else [value]
            if not parts or not all(isinstance(part, str) for part in parts):
                found = "no field" if name not in record else "no string, or strings, in field"
                raise ValueError(
                    f"{place}: {found} {name!r} ({option}). The fields of this line are "
                    f"{', '.join(map(repr, record))}. Correct or remove the row, or name another "
                    f"field with --set=data.{option}=..."
                )
            values.append([replace_surrogates(str(part)) for part in parts])
        yield values[0], values[1], f"{file.name}:{line}"


def _lines_of_two(source: str, data: DataConfig, data_dir: str | None) -> Iterator[Row]:
    names, texts = source.split(","), []
    if len(names) != 2:
        raise ValueError(f"{source}: two files of lines are SOURCES,TARGETS with one comma.")
    for name in names:
        files = find_files(name, data, data_dir)
        if len(files) > 1:
            raise ValueError(f"{name}: {len(files)} files; name one, whose lines are read.")
        ((file, text),) = read_files(files, data)
        texts.append((file, text.removesuffix("\n").split("\n")))
    (first, sources), (second, targets) = texts
    if len(sources) != len(targets):
        raise ValueError(
            f"{first.path} has {len(sources):,} lines and {second.path} {len(targets):,}: each "
            "line of the first must have its target in the same line of the second."
        )
    for line, (text, target) in enumerate(zip(sources, targets), start=1):
        yield [text], [target], f"{first.name}:{line}"


def are_alike(pairs: TextPairs) -> bool:
    """Whether sources and targets are of one language, by the words of the first ones.

    What three letters follow each other is then as alike between the columns as inside of them.
    Rows that are pairs, which share names, are not compared. Of few rows nothing is said.
    """
    columns = [texts[:_LOOKED_AT] for texts in (pairs.source, pairs.target)]
    if len(columns[0]) < _FEWEST:
        return False
    source, target = ([_trigrams(texts[half::2]) for half in (0, 1)] for texts in columns)
    inside = math.sqrt(_cosine(*source) * _cosine(*target))
    between = (_cosine(source[0], target[1]) + _cosine(source[1], target[0])) / 2
    return between > _ALIKE * inside


def _trigrams(texts: Sequence[str]) -> Counter[str]:
    """How often three characters follow each other in the different words of texts."""
    words = {f" {word} " for text in texts for word in _WORD.findall(text.casefold())}
    return Counter(word[at : at + 3] for word in words for at in range(len(word) - 2))


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    product = sum(count * other[trigram] for trigram, count in one.items())
    sizes = [math.sqrt(sum(n * n for n in counts.values())) for counts in (one, other)]
    return product / (sizes[0] * sizes[1]) if all(sizes) else 0.0


def folded(text: str) -> str:
    """What two texts have in common that differ in case and whitespace only."""
    return " ".join(text.casefold().split())


def pair_groups(pairs: TextPairs) -> list[int]:
    """A number for each pair; pairs that share a source or a target have the same, and so have
    those that hang together by others: no such text may stand on both sides of a split.
    """
    parents = list(range(len(pairs)))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    for texts in (pairs.source, pairs.target):
        first: dict[str, int] = {}
        for at, text in enumerate(texts):
            parents[root(at)] = root(first.setdefault(folded(text), at))
    return [root(at) for at in range(len(pairs))]


def shared_texts(pairs: TextPairs, others: TextPairs) -> int:
    """How many of `others` have a source or a target that stands in `pairs`, too."""
    known = [{*map(folded, texts)} for texts in (pairs.source, pairs.target)]
    both = zip(others.source, others.target)
    return sum(any(folded(text) in there for text, there in zip(row, known)) for row in both)
