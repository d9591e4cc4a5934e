"""Tagged words in CoNLL columns: one word per line, a blank line after each sentence.

Tags of any scheme come out as BIO (IOB2). A sequence that breaks its scheme, such as "I-type" after
"O", is read as the CoNLL evaluation script reads it. A line that starts with "#" before a sentence
is a comment unless it has the columns of a word and a tag: tweets begin with "#" as well.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from absl import logging

from trainers.data.config import DataConfig
from trainers.data.examples import TaggedTexts
from trainers.data.rows import find_column, is_number
from trainers.data.sources import find_files, read_files

_PREFIXED = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
_PREFIXES = {"bio": "BI", "iob1": "BI", "bioes": "BIELSU"}
_BIOUL = {"L": "E", "U": "S"}  # other letters of the same meaning
_CONLL_U = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
_NAMES = re.compile(r"#\s*global\.columns\s*=\s*(.*)")
# IDs of CoNLL-U: of a word, of the surface form of several ("2-3"), of a word left out ("8.1").
_ID = re.compile(r"\d+([-.]\d+)?")
_BLANKS = re.compile("[ \t]+")  # no-break and ideographic spaces are part of a word
Word = tuple[str, str, int]  # word, tag, line


def read_tagged(source: str, data: DataConfig, data_dir: str | None = None) -> TaggedTexts:
    """Reads sentences of words with one tag each from a file, folder or glob."""
    if data.separator not in ("auto", "tab", "space"):
        raise ValueError(f"data.separator={data.separator!r}: use 'auto', 'tab' or 'space'.")
    sentences, places, where = [], [], []  # Of (word, tag, line); paths; names with lines.
    files = find_files(source, data, data_dir)
    for file, text in read_files(files, data):
        for sentence in _Lines(file.path, text, data).sentences():
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
    scheme = "bio" if data.scheme == "iob2" else data.scheme
    if scheme == "auto":
        scheme = _detect(tags)
        logging.info("%s: tag scheme %r", source, scheme)
        if scheme == "raw" and any("O" in sentence for sentence in tags):
            message = (
                "%s: tags without B- and I- are kept as they are, so there are no entities to "
                "score; write them as B-type and I-type if they are meant as entities"
            )
            logging.warning(message, source)
    if scheme == "raw":
        return TaggedTexts(words, tags, where)
    repaired = []  # places of the tags
    for index, sentence in enumerate(sentences):
        for _, tag, line in sentence:
            if _parse(tag, scheme) is None:
                raise ValueError(
                    f"{places[index]}:{line}: the tag {tag!r} is not one of scheme {scheme!r}: O, "
                    f"or {', '.join(_PREFIXES[scheme])} with a type, such as B-person. Correct it, "
                    "set --set=data.scheme=..., or 'raw' for tags that are no entities."
                )
        tags[index], problems = to_bio(tags[index], scheme)
        repaired += [f"{places[index]}:{sentence[problem][2]}" for problem in problems]
    if repaired:
        message = (
            "%s: %d tag(s) break the scheme %r, the first at %s. They were read as the CoNLL "
            "evaluation script reads them: a word inside no entity starts one"
        )
        logging.warning(message, source, len(repaired), scheme, repaired[0])
    return TaggedTexts(words, tags, where)


def to_bio(tags: Sequence[str], scheme: str) -> tuple[list[str], list[int]]:
    """The tags of one sentence as BIO, repaired, and the positions that break its scheme."""
    bio, problems = [], set()
    open_kind = last_kind = ""  # Type of the entity that may go on; of the word before.
    for index, tag in enumerate([*tags, "O"]):  # The last one closes what is open.
        prefix, kind = _parse(tag, scheme)
        starts = bool(kind) and (prefix in "BS" or kind != open_kind)
        if scheme == "iob1":
            is_broken = prefix == "B" and kind != last_kind
        else:
            is_broken = starts and prefix in "IE"
        problems |= {index} if is_broken else set()
        if scheme == "bioes" and open_kind and (starts or not kind):
            problems.add(index - 1)  # the last word of an entity without its end
        open_kind, last_kind = kind if prefix in "BI" else "", kind
        bio.append(f"{'B' if starts else 'I'}-{kind}" if kind else "O")
    return bio[:-1], sorted(problems)


@functools.lru_cache(4096)  # A corpus has millions of tags, of which a few dozen differ.
def _parse(tag: str, scheme: str) -> tuple[str, str] | None:
    """(prefix in BIOES, type) of a tag; None if the scheme has no such tag."""
    match = _PREFIXED.fullmatch(tag)
    if match and match[1] in _PREFIXES[scheme]:
        return _BIOUL.get(match[1], match[1]), match[2]
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
    late_starts = any(to_bio(tags, "bio")[1] for tags in sentences)
    free_starts = any(to_bio(tags, "iob1")[1] for tags in sentences)
    return "iob1" if late_starts and not free_starts else "bio"


class _Lines:
    """Splits one file into sentences of (word, tag, line)."""

    def __init__(self, path: str, text: str, data: DataConfig):
        self.path, self.lines = path, text.split("\n")
        self.asked = {"token_column": data.token_column, "tag_column": data.tag_column}
        for number, line in enumerate(self.lines, start=1):
            data.limits.check("row_bytes", line, f"{path}:{number}")
        marked = dict.fromkeys(_marked(self.lines))
        # Of what are words for certain; a file may have no others than those that start with "#".
        words = [n for n, line in enumerate(self.lines) if not _ends(line) and n not in marked]
        self.by_tab, self.width = _separation([self.lines[n] for n in words], data.separator)
        self.header: int | None = None  # the line of names
        names, self.has_ids = self._names(words)
        place = f"{path}:{1 if self.header is None else self.header + 1}"
        width = self.width if names is None else len(names)
        self.places = [
            int(column)
            if names is None and is_number(column)
            else find_column(column, names, width, option, place)
            for option, column in self.asked.items()
        ]
        if self.has_ids and 0 in self.places:
            raise ValueError(
                f"{path}:{words[0] + 1 if words else 1}: column 0 holds the numbers of the words "
                "(CoNLL-U), neither words nor tags. Name both columns, such as "
                "--set=data.token_column=FORM --set=data.tag_column=UPOS."
            )
        self.comments = self._comments(marked, words)

    def sentences(self) -> Iterator[list[Word]]:
        """The sentences; lines of -DOCSTART- and blank ones end them."""
        sentence: list[Word] = []
        for index, line in enumerate([*self.lines, ""]):
            if _ends(line):
                if sentence:
                    yield sentence
                sentence = []
            elif index not in self.comments and index != self.header:
                row = self._split(line)
                if not self.has_ids or row[0].isdecimal():
                    sentence.append((*self._columns(row, index), index + 1))

    def _names(self, words: list[int]) -> tuple[list[str] | None, bool]:
        """Names of the columns, None without any; and whether the first one numbers the words."""
        for line in self.lines:
            if named := _NAMES.match(line):
                names = named[1].split()
                return names, names[:1] == ["ID"]
            if not line.startswith("#"):
                break
        first = self._split(self.lines[words[0]]) if words else []
        has_ids = len(first) == len(_CONLL_U) and _ID.fullmatch(first[0]) is not None
        asked = [name for name in self.asked.values() if not is_number(name)]
        if asked and set(asked) <= set(first):
            self.header = words[0]
            return first, has_ids
        return (_CONLL_U if has_ids else None), has_ids

    def _comments(self, marked: Sequence[int], words: list[int]) -> set[int]:
        """Those of the `marked` lines that are no words."""
        rows = [self._split(self.lines[index]) for index in words]
        tags = {row[self.places[1]] for row in rows if self._fits(row)} | {"O"}
        widths = {len(row) for row in rows}
        comments, doubtful = set(), []
        for index in marked:
            row = self._split(self.lines[index])
            if self._fits(row) and (len(row) in widths or not widths):
                tag = row[self.places[1]].strip()
                if tag in tags or _PREFIXED.fullmatch(tag):
                    continue
                if not self.lines[index].startswith("# "):
                    doubtful.append(index + 1)
            comments.add(index)
        if doubtful:
            message = (
                "%s:%d: %d line(s) that start with # have the columns of a word, and a tag that no "
                "other line has: they are left out as comments"
            )
            logging.warning(message, self.path, doubtful[0], len(doubtful))
        return comments

    def _split(self, line: str) -> list[str]:
        by_tab = self.by_tab
        if by_tab is None:  # tabs here and there
            by_tab = line.count("\t") + 1 == self.width
        return line.split("\t") if by_tab else _BLANKS.split(line.strip(" \t"))

    def _fits(self, row: list[str]) -> bool:
        count = len(row)
        token, tag = (place + count if place < 0 else place for place in self.places)
        uneven = self.by_tab is None and count != self.width
        return 0 <= token < count and 0 <= tag < count and token != tag and not uneven

    def _columns(self, row: list[str], index: int) -> tuple[str, str]:
        where, line = f"{self.path}:{index + 1}", self.lines[index][:80]
        if not self._fits(row):
            by = {True: "tabs", False: "spaces", None: "tabs or spaces"}[self.by_tab]
            need = f", where most lines have {self.width}" if self.by_tab is None else ""
            raise ValueError(
                f"{where}: {len(row)} column(s) in {line!r}{need}, too few for "
                f"token_column={self.asked['token_column']} and "
                f"tag_column={self.asked['tag_column']}; columns are separated by {by}. Correct "
                "the line, or set --set=data.token_column=..., --set=data.tag_column=..., or "
                "--set=data.separator=tab or space."
            )
        word, tag = row[self.places[0]], row[self.places[1]].strip()
        if not word or not tag:
            raise ValueError(
                f"{where}: the {'tag' if word else 'word'} is empty in {line!r}. "
                "Fill it in or remove the line; only lines between sentences are blank."
            )
        return word, tag


def _ends(line: str) -> bool:
    """Whether a line ends a sentence. WNUT-17 ends most of its sentences with a lone tab."""
    return not line.strip() or line.startswith("-DOCSTART-")


def _marked(lines: list[str]) -> Iterator[int]:
    """Lines that start with "#" and stand before the first word of a sentence."""
    at_start = True
    for index, line in enumerate(lines):
        if at_start and line.startswith("#"):
            yield index
        else:
            at_start = _ends(line)


def _separation(lines: list[str], separator: str) -> tuple[bool | None, int]:
    """Whether tabs separate the columns (None: in some lines), and how many columns there are."""
    counts: Counter[int] = Counter()
    for line in lines:
        tabs, blanks = line.count("\t") + 1, len(_BLANKS.split(line.strip(" \t")))
        fits = {"tab": {tabs}, "space": {blanks}, "auto": {tabs, blanks} if tabs > 1 else {blanks}}
        counts.update(fits[separator])
    width = max(counts, key=lambda width: (counts[width], width), default=0)
    with_tabs = sum("\t" in line for line in lines)
    if separator != "auto" or with_tabs in (0, len(lines)):
        return separator == "tab" or (separator == "auto" and with_tabs > 0), width
    return None, width
