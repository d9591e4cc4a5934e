"""Tagged words in CoNLL columns: one word per line, a blank line after each sentence.

Whatever scheme a file is written in, tags come out as BIO (also called IOB2): "B-type" starts an
entity, "I-type" continues it, "O" is none. A sequence that breaks its scheme, such as "I-type"
after "O", is read as the CoNLL evaluation script reads it: the word starts an entity.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from absl import logging

from trainers.data.examples import TaggedTexts
from trainers.data.files import find_files, read_files

Scheme = Literal["bio", "iob1", "iob2", "bioes", "bioul", "raw"]

# What the prefixes of each scheme mean, in BIOES.
_PREFIXES = {
    "bio": {"B": "B", "I": "I"},
    "iob1": {"B": "B", "I": "I"},
    "bioes": {"B": "B", "I": "I", "E": "E", "L": "E", "S": "S", "U": "S"},
}
_OTHER_NAMES = {"iob2": "bio", "bioul": "bioes", "bilou": "bioes", "iobes": "bioes"}
_PREFIXED = re.compile(r"([BIESLU])-(.+)", re.DOTALL)


def read_tagged(
    source: str,
    *,
    data_dir: str | None = None,
    pattern: str | None = None,
    token_column: int = 0,
    tag_column: int = -1,
    separator: Literal["auto", "tab", "space"] = "auto",
    scheme: Scheme | Literal["auto"] = "auto",
    comment_prefix: str | None = None,
    encoding: str = "utf-8",
    invalid: Literal["replace", "strict"] = "replace",
) -> TaggedTexts:
    """Reads sentences of words with one tag each; lines of -DOCSTART- are skipped.

    Args:
        source: a file, folder or glob, as in `sources.read_documents`; gzip too.
        data_dir: where relative paths are looked for after the working directory.
        pattern: which files of a folder or glob, such as "*.conll". Default: all.
        token_column: number of the word's column, from 0; from the end: -1.
        tag_column: the same for the tag; the last by default.
        separator: "tab", or "space" for any run of spaces and tabs. "auto" is "tab" for a file
            that has one (words may then hold spaces), else "space".
        scheme: how entities are written: "bio" (= "iob2"), "iob1" (B- only between entities that
            touch), "bioes" (= "bioul"), or "raw" for tags that are no entities (parts of
            speech), which are kept as they are. "auto" looks at all tags of the source.
        comment_prefix: lines that start so are skipped, such as "#". Default: none, as words may
            start so.
        encoding: of the files.
        invalid: what becomes of invalid bytes, rule 3 of decoding.py.

    Raises FileNotFoundError if nothing is there; ValueError, naming file and line, for a line
    with too few columns, an empty word or tag, a tag that is not of the scheme, and no sentences.

    Example: `read_tagged("train.conll").tags[0]  # ["O", "B-person", "I-person"]`
    """
    scheme = _known(scheme)
    if separator not in ("auto", "tab", "space"):
        raise ValueError(f"separator={separator!r}: use 'auto', 'tab' or 'space'.")
    sentences, places, where = [], [], []  # Of (word, tag, line); paths; names with lines.
    files = find_files(source, data_dir, pattern)
    for file, text in read_files(files, encoding=encoding, invalid=invalid):
        reader = _Reader(file.path, text, separator, token_column, tag_column, comment_prefix)
        for sentence in reader.sentences():
            sentences.append(sentence)
            places.append(file.path)
            where.append(f"{file.name}:{sentence[0][2]}")
    if not sentences:
        raise ValueError(
            f"{files[0].path}: no sentences in {len(files)} file(s). Point the source at files "
            "with a word and its tag on each line."
        )
    words = [[word for word, _, _ in sentence] for sentence in sentences]
    tags = [[tag for _, tag, _ in sentence] for sentence in sentences]
    if scheme == "auto":
        scheme = _detect(tags)
        logging.info("%s: tag scheme %r", source, scheme)
        if scheme == "raw" and any("O" in sentence for sentence in tags):
            logging.warning(
                "%s: tags without B- and I- are kept as they are, so there are no entities to "
                "score; write them as B-type and I-type if they are meant as entities",
                source,
            )
    if scheme == "raw":
        return TaggedTexts(words, tags, where)

    repaired, first = 0, ""
    for index, sentence in enumerate(sentences):
        for _, tag, line in sentence:
            if _parse(tag, scheme) is None:
                raise ValueError(
                    f"{places[index]}:{line}: the tag {tag!r} is not one of scheme {scheme!r}: O, "
                    f"or {', '.join(_PREFIXES[scheme])} with a type, such as B-person. Correct it, "
                    "set --set=data.scheme=..., or 'raw' for tags that are no entities."
                )
        if problems := bio_problems(tags[index], scheme):
            repaired += len(problems)
            first = first or f"{places[index]}:{sentence[problems[0]][2]}"
        tags[index] = to_bio(tags[index], scheme)
    if repaired:
        logging.warning(
            "%s: %d tag(s) break the scheme %r, the first at %s. They were read as the CoNLL "
            "evaluation script reads them: a word inside no entity starts one",
            source,
            repaired,
            scheme,
            first,
        )
    return TaggedTexts(words, tags, where)


def to_bio(tags: Sequence[str], scheme: Scheme = "bio") -> list[str]:
    """The tags of one sentence as BIO, broken sequences repaired; "raw" ones as they are.

    Raises ValueError for a tag that is not of the scheme.

    Example: `to_bio(["I-x", "E-x", "S-x"], "bioes")` is `["B-x", "I-x", "B-x"]`
    """
    if _known(scheme) == "raw":
        return list(tags)
    return [
        f"B-{kind}" if starts else f"I-{kind}" if kind else "O"
        for kind, starts, _ in _walk(tags, scheme)
    ]


def bio_problems(tags: Sequence[str], scheme: Scheme = "bio") -> list[int]:
    """Positions of the tags of one sentence that break its scheme; see `to_bio`.

    These are: an inside or end without a start; under "iob1", a B- that touches no entity of its
    type; under "bioes", an entity without its end (the position of its last word).

    Example: `bio_problems(["O", "I-x", "I-x"])` is `[1]`
    """
    if _known(scheme) == "raw":
        return []
    return sorted({index for _, _, broken in _walk(tags, scheme) for index in broken})


def _known(scheme: str) -> str:
    scheme = _OTHER_NAMES.get(scheme, scheme)
    if scheme not in ("auto", "raw", *_PREFIXES):
        known = ", ".join(["auto", "raw", *_PREFIXES, *_OTHER_NAMES])
        raise ValueError(f"scheme={scheme!r}: use one of {known}.")
    return scheme


def _walk(tags: Sequence[str], scheme: str) -> list[tuple[str, bool, list[int]]]:
    """For each tag: type ("" is outside), whether it starts an entity, positions it breaks at."""
    scheme = _known(scheme)
    if scheme == "auto":
        raise ValueError("scheme='auto' is for whole files: use one of bio, iob1, bioes or raw.")
    steps = []
    open_kind, last_kind = "", ""  # Type of the entity that may go on; of the word before.
    for index, tag in enumerate([*tags, "O"]):  # The last one closes what is open.
        parsed = _parse(tag, scheme)
        if parsed is None:
            raise ValueError(f"the tag {tag!r} at position {index} is not of scheme {scheme!r}.")
        prefix, kind = parsed
        starts = bool(kind) and (prefix in "BS" or kind != open_kind)
        broken = []
        if scheme == "iob1":
            if prefix == "B" and kind != last_kind:
                broken.append(index)
        elif starts and prefix in "IE":
            broken.append(index)
        if scheme == "bioes" and open_kind and (starts or not kind):
            broken.append(index - 1)
        open_kind = kind if prefix in "BI" else ""
        last_kind = kind
        steps.append((kind, starts, broken))
    # What the closing step found belongs to the last word.
    if len(steps) > 1:
        steps[-2][2].extend(steps[-1][2])
    return steps[:-1]


@functools.lru_cache(4096)  # A corpus has millions of tags, of which a few dozen differ.
def _parse(tag: str, scheme: str) -> tuple[str, str] | None:
    """(prefix in BIOES, type) of a tag; None if the scheme has no such tag."""
    match = _PREFIXED.fullmatch(tag)
    if match and match[1] in _PREFIXES[scheme]:
        return _PREFIXES[scheme][match[1]], match[2]
    return ("O", "") if tag == "O" else None


def _detect(sentences: list[list[str]]) -> str:
    kinds = {tag for sentence in sentences for tag in sentence} - {"O"}
    prefixes = {match[1] for tag in kinds if (match := _PREFIXED.fullmatch(tag))}
    if not prefixes:
        return "raw"
    if prefixes & set("ESLU"):
        return "bioes"
    # Under IOB1 entities start with I-, and with B- only where they touch one of their type.
    sentences = [tags for tags in sentences if all(_parse(tag, "bio") for tag in tags)]
    late_starts = any(bio_problems(tags, "bio") for tags in sentences)
    free_starts = any(bio_problems(tags, "iob1") for tags in sentences)
    return "iob1" if late_starts and not free_starts else "bio"


class _Reader:
    """Splits one file into sentences of (word, tag, line)."""

    def __init__(
        self,
        path: str,
        text: str,
        separator: str,
        token_column: int,
        tag_column: int,
        comment_prefix: str | None,
    ):
        self.path, self.text = path, text
        self.by_tab = separator == "tab" or (separator == "auto" and "\t" in text)
        self.token_column, self.tag_column = token_column, tag_column
        self.comment_prefix = comment_prefix

    def sentences(self) -> Iterator[list[tuple[str, str, int]]]:
        sentence = []
        for number, line in enumerate(self.text.split("\n"), start=1):
            # strip also takes a lone tab: WNUT-17 ends most of its sentences so.
            if not line.strip() or line.startswith("-DOCSTART-"):
                if sentence:
                    yield sentence
                sentence = []
            elif not self.comment_prefix or not line.startswith(self.comment_prefix):
                sentence.append((*self._columns(line, number), number))
        if sentence:
            yield sentence

    def _columns(self, line: str, number: int) -> tuple[str, str]:
        # Not str.split(): no-break and ideographic spaces are part of a word.
        row = line.split("\t") if self.by_tab else re.split("[ \t]+", line.strip(" \t"))
        count = len(row)
        asked = (self.token_column, self.tag_column)
        places = [column + count if column < 0 else column for column in asked]
        if any(not 0 <= place < count for place in places) or places[0] == places[1]:
            raise ValueError(
                f"{self.path}:{number}: {count} column(s) in {line[:80]!r}, too few for "
                f"token_column={asked[0]} and tag_column={asked[1]}; columns are separated by "
                f"{'tabs' if self.by_tab else 'spaces'}. Correct the line, or set "
                "--set=data.token_column=..., data.tag_column, or the separator."
            )
        word, tag = row[places[0]], row[places[1]].strip()
        if not word or not tag:
            raise ValueError(
                f"{self.path}:{number}: the {'tag' if word else 'word'} is empty in {line[:80]!r}. "
                "Fill it in or remove the line; only lines between sentences are blank."
            )
        return word, tag
