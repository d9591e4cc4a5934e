"""Lines of a CoNLL file: what separates its columns, which they are, and which lines are comments.

A line that starts with "#" before the first word of a sentence is a comment (CoNLL-U, MultiCoNER)
unless it has the columns of a word and a tag: tweets begin with "#" as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from absl import logging

from trainers.data.config import Limits
from trainers.data.rows import find_column, is_number

PREFIXED = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
_CONLL_U = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
_NAMES = re.compile(r"#\s*global\.columns\s*=\s*(.*)")
# IDs of CoNLL-U: of a word, of the surface form of several ("2-3"), of a word left out ("8.1").
_ID = re.compile(r"\d+([-.]\d+)?")
_BLANKS = re.compile("[ \t]+")  # no-break and ideographic spaces are part of a word
Word = tuple[str, str, int]  # word, tag, line


class ConllLines:
    """Splits one file into sentences of (word, tag, line).

    Args:
        path: names the file in messages. text: of the file.
        separator: "auto", "tab" or "space". token_column, tag_column: name or number.
        limits: of a line.
    """

    def __init__(
        self,
        path: str,
        text: str,
        separator: str,
        token_column: str,
        tag_column: str,
        limits: Limits,
    ):
        self.path = path
        self.asked = {"token_column": token_column, "tag_column": tag_column}
        self.lines = text.split("\n")
        for number, line in enumerate(self.lines, start=1):
            limits.check_row(line, f"{path}:{number}")
        marked = set(_marked(self.lines))
        # Of what are words for certain; a file may have no others than those that start with "#".
        words = [n for n, line in enumerate(self.lines) if not _ends(line) and n not in marked]
        self.by_tab, self.width = _separation([self.lines[n] for n in words], separator)
        self.header = None
        names = self._names(words)
        self.places = [
            int(column) if names is None and is_number(column) else self._place(option, names)
            for option, column in self.asked.items()
        ]
        self._check_ids(words)
        self.comments = self._comments(sorted(marked), words)

    def sentences(self) -> Iterator[list[Word]]:
        """The sentences; lines of -DOCSTART- and blank ones end them."""
        sentence: list[Word] = []
        for index, line in enumerate(self.lines):
            if _ends(line):
                if sentence:
                    yield sentence
                sentence = []
            elif index not in self.comments and index != self.header:
                row = self._split(line)
                if not self._has_ids or row[0].isdecimal():
                    sentence.append((*self._columns(row, index), index + 1))
        if sentence:
            yield sentence

    def _names(self, words: list[int]) -> list[str] | None:
        """Names of the columns: of a comment, of a first line, of CoNLL-U; None without any."""
        first = self._split(self.lines[words[0]]) if words else []
        self._has_ids = len(first) == len(_CONLL_U) and _ID.fullmatch(first[0]) is not None
        for line in self.lines:
            if named := _NAMES.match(line):
                names = named[1].split()
                self._has_ids = names[:1] == ["ID"]
                return names
            if not line.startswith("#"):
                break
        asked = [name for name in self.asked.values() if not is_number(name)]
        if asked and set(asked) <= set(first):
            self.header = words[0]
            return first
        return _CONLL_U if self._has_ids else None

    def _place(self, option: str, names: list[str] | None) -> int:
        width = self.width or len(names or ())
        place = f"{self.path}:{1 if self.header is None else self.header + 1}"
        if names is None:
            have = f"0 to {width - 1}" if width else "numbers from 0"
            raise ValueError(
                f"{place}: no column {self.asked[option]!r} ({option}): the columns have no names "
                f"here, they are {have}. Give the number with --set=data.{option}=..., or name "
                'all columns in the first line ("# global.columns = FORM UPOS", or the names alone)'
            )
        return find_column(self.asked[option], names, len(names), option, place)

    def _check_ids(self, words: list[int]) -> None:
        if self._has_ids and 0 in self.places:
            raise ValueError(
                f"{self.path}:{words[0] + 1 if words else 1}: column 0 holds the numbers of the "
                "words (CoNLL-U), neither words nor tags. Name both columns, such as "
                "--set=data.token_column=FORM --set=data.tag_column=UPOS."
            )

    def _comments(self, marked: list[int], words: list[int]) -> set[int]:
        rows = [self._split(self.lines[index]) for index in words]
        tags = {row[self.places[1]] for row in rows if self._fits(row)} | {"O"}
        widths = {len(row) for row in rows}
        comments, doubtful = set(), []
        for index in marked:
            row = self._split(self.lines[index])
            if self._fits(row) and (len(row) in widths or not widths):
                tag = row[self.places[1]].strip()
                if tag in tags or PREFIXED.fullmatch(tag):
                    continue
                if not self.lines[index].startswith("# "):
                    doubtful.append(index + 1)
            comments.add(index)
        if doubtful:
            logging.warning(
                "%s:%d: %d line(s) that start with # have the columns of a word, and a tag that no "
                "other line has: they are left out as comments",
                self.path,
                doubtful[0],
                len(doubtful),
            )
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
