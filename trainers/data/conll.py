"""Tagged words in CoNLL columns: one word per line, a blank line after each sentence.

Whatever scheme a file is written in, tags come out as BIO (also called IOB2): "B-type" starts an
entity, "I-type" continues it, "O" is none. A sequence that breaks its scheme, such as "I-type"
after "O", is read as the CoNLL evaluation script reads it: the word starts an entity.
"""

import functools
from collections.abc import Sequence
from typing import Literal

from absl import logging

from trainers.data.config import DEFAULT_LIMITS, Limits
from trainers.data.conll_lines import PREFIXED, ConllLines
from trainers.data.examples import TaggedTexts
from trainers.data.sources import find_files, read_files

Scheme = Literal["bio", "iob1", "iob2", "bioes", "bioul", "raw"]

# What the prefixes of each scheme mean, in BIOES.
_PREFIXES = {
    "bio": {"B": "B", "I": "I"},
    "iob1": {"B": "B", "I": "I"},
    "bioes": {"B": "B", "I": "I", "E": "E", "L": "E", "S": "S", "U": "S"},
}
_OTHER_NAMES = {"iob2": "bio", "bioul": "bioes", "bilou": "bioes", "iobes": "bioes"}


def read_tagged(
    source: str,
    *,
    data_dir: str | None = None,
    pattern: str | None = None,
    token_column: str | int = 0,
    tag_column: str | int = -1,
    separator: Literal["auto", "tab", "space"] = "auto",
    scheme: Scheme | Literal["auto"] = "auto",
    encoding: str = "utf-8",
    invalid: Literal["replace", "strict"] = "replace",
    limits: Limits = DEFAULT_LIMITS,
) -> TaggedTexts:
    """Reads sentences of words with one tag each; lines of -DOCSTART- and comments are skipped.

    CoNLL-U is read by its words: surface forms of several ("2-3") and empty nodes are skipped.

    Args:
        source: a file, folder or glob, as in `sources.read_documents`; gzip too.
        data_dir: where relative paths are looked for after the working directory.
        pattern: which files of a folder or glob, such as "*.conll". Default: all.
        token_column: number of the word's column, from 0; from the end: -1. Or its name: of
            CoNLL-U (FORM), of a comment `# global.columns = FORM UPOS`, or of a line of names.
        tag_column: the same for the tag; the last by default.
        separator: "tab", or "space" for any run of spaces and tabs. "auto" is "tab" where all lines
            have one (words may then hold spaces), "space" where none has; a file with both is
            split so that all lines have as many columns.
        scheme: how entities are written: "bio" (= "iob2"), "iob1" (B- only between entities that
            touch), "bioes" (= "bioul"), or "raw" for tags that are no entities (parts of
            speech), which are kept as they are. "auto" looks at all tags of the source.
        encoding: of the files.
        invalid: what becomes of invalid bytes, see `text.decode`.
        limits: of all files together, and of a line.
    """
    scheme = _known(scheme)
    if separator not in ("auto", "tab", "space"):
        raise ValueError(f"separator={separator!r}: use 'auto', 'tab' or 'space'.")
    sentences, places, where = [], [], []  # Of (word, tag, line); paths; names with lines.
    files = find_files(source, data_dir, pattern)
    columns = (str(token_column), str(tag_column))
    for file, text in read_files(files, encoding=encoding, invalid=invalid, limits=limits):
        for sentence in ConllLines(file.path, text, separator, *columns, limits).sentences():
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
    """The tags of one sentence as BIO, broken sequences repaired; "raw" ones as they are."""
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
    match = PREFIXED.fullmatch(tag)
    if match and match[1] in _PREFIXES[scheme]:
        return _PREFIXES[scheme][match[1]], match[2]
    return ("O", "") if tag == "O" else None


def _detect(sentences: list[list[str]]) -> str:
    kinds = {tag for sentence in sentences for tag in sentence} - {"O"}
    prefixes = {match[1] for tag in kinds if (match := PREFIXED.fullmatch(tag))}
    if not prefixes:
        return "raw"
    if prefixes & set("ESLU"):
        return "bioes"
    # Under IOB1 entities start with I-, and with B- only where they touch one of their type.
    sentences = [tags for tags in sentences if all(_parse(tag, "bio") for tag in tags)]
    late_starts = any(bio_problems(tags, "bio") for tags in sentences)
    free_starts = any(bio_problems(tags, "iob1") for tags in sentences)
    return "iob1" if late_starts and not free_starts else "bio"
