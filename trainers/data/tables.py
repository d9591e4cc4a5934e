"""Looking at a file that is a mystery: its format, separator, encoding, header and columns."""

import codecs
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from trainers.data.config import SEQ2SEQ_TASKS, Limits
from trainers.data.rows import (
    SEPARATORS,
    STORED,
    json_objects,
    split_rows,
    stored_sample,
    table_format,
)
from trainers.data.text import decode, read_bytes

_SAMPLE_BYTES, _SAMPLE_ROWS = 1 << 20, 2000
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d+)?|\.\d+)\s*")
_NAME = re.compile(r"[^\d\W][\w .#/()-]{0,40}")
_TEXT_NAMES = (
    *("text", "review", "sentence", "content", "body", "comment", "tweet", "message", "title"),
    *("question", "headline", "description", "document", "utterance", "abstract", "post", "email"),
)
_LABEL_NAMES = (
    *("label", "labels", "class", "category", "target", "sentiment", "intent", "stars", "rating"),
    *("score", "polarity", "topic", "tag", "emotion", "gold_label", "similarity", "output"),
)
_PAIR_NAMES = [
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "answer"),
    ("anchor", "positive"),
]
# Of a source and what is written for it, a translation or a summary.
_WRITING_NAMES = [
    ("source", "target"),
    ("src", "tgt"),
    ("article", "highlights"),
    *((name, "summary") for name in ("article", "document", "dialogue", "source", "text", "body")),
    ("abstract", "title"),
    ("input", "output"),
]
# Of a column, as "en", "zh-CN", "spa" or "English".
_LANGUAGE = re.compile(
    r"([a-z]{2,3}|[A-Z]{2,3})([_-][A-Za-z]{2,4})?|(?i:arabic|bengali|bulgarian|catalan|chinese|"
    r"czech|danish|dutch|english|estonian|finnish|french|german|greek|hebrew|hindi|hungarian|"
    r"indonesian|irish|italian|japanese|korean|latin|mandarin|norwegian|persian|polish|portuguese|"
    r"romanian|russian|serbian|slovak|spanish|swedish|tamil|thai|turkish|ukrainian|urdu|"
    r"vietnamese|welsh)"
)
_NEXT_ROWS = 20
_ID_NAMES = ("id", "idx", "index", "uid", "pairid", "unnamed: 0", "")


def _is_id(name: str) -> bool:
    return name.lower() in _ID_NAMES or name.lower().endswith("_id")


@dataclasses.dataclass(frozen=True)
class TableLayout:
    """How a file of a user's own can be read, found by looking at its first megabyte."""

    format: str  # one of `rows.FORMATS`, "conll", "squad" or "lines"
    encoding: str
    separator: str = "auto"  # "comma", "tab", "semicolon" or "pipe" of a table
    header: bool = False  # whether the first line names the columns
    columns: tuple[str, ...] = ()  # their names, or their numbers as text where they have none
    text_columns: tuple[str, ...] = ()  # two where the task reads two; () if none was found
    label_column: str | None = None  # None if the task has none or none was found


def inspect_table(path: str, task: str) -> TableLayout:
    """Finds out how a file can be read for a task.

    Args:
        path: of the file, compressed or not.
        task: "lm", "chat", "mlm", "classify", "pair", "regress", "embed", "tag", "span",
            "translate" or "summarize".

    Raises:
        ValueError: the file is empty, broken or in no encoding that can be told; it is named.
        OSError: it cannot be read.

    Example:
        >>> with open("reviews.csv", "w") as file:
        ...     print("review,stars", "Good.,5", "Bad.,1", "Fine.,5", sep=chr(10), file=file)
        >>> inspect_table("reviews.csv", "classify").label_column
        'stars'
    """
    format = table_format(path)
    if format in STORED:
        columns, rows = stored_sample(path, format, _SAMPLE_ROWS)
        is_cut = len(rows) == _SAMPLE_ROWS
        return _with_columns(TableLayout(format, "utf-8", header=True), columns, rows, task, is_cut)
    content, is_cut = read_bytes(path, _SAMPLE_BYTES)
    if not content.strip():
        raise ValueError(f"{path}: the file is empty. Give one with examples.")
    encoding = _encoding(bytes(content), is_cut)
    text = decode(content, is_cut, path, encoding, "replace")
    start = text.lstrip()[:1]
    if start == "{" and re.match(r'\s*\{\s*"(data|version)"\s*:', text):
        return TableLayout("squad", encoding)
    if start == "{" or (start == "[" and format in ("json", None)):
        return _json_layout(path, text, is_cut, encoding, task)
    if task == "tag":
        return TableLayout("conll", encoding)
    if is_cut:
        text = text[: text.rfind("\n") + 1] or text
    separator = _separator(text, format)
    if separator is None:
        return TableLayout("lines", encoding)
    rows = split_rows(path, text, SEPARATORS[separator], separator != "tab", Limits())
    rows = _sample(rows, is_cut)
    is_cut |= len(rows) == _SAMPLE_ROWS
    width = Counter(map(len, rows)).most_common(1)[0][0]
    rows = [row for row in rows if len(row) == width]
    header = _has_header(rows, task in SEQ2SEQ_TASKS)
    columns = [name.strip() for name in rows[0]] if header else list(map(str, range(len(rows[0]))))
    layout = TableLayout("tsv" if separator == "tab" else "csv", encoding, separator, header)
    return _with_columns(layout, columns, rows[1:] if header else rows, task, is_cut)


def _encoding(content: bytes, is_cut: bool) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, first in (("utf-16-le", 1), ("utf-16-be", 0)):
        if content[first::2].count(0) > len(content) / 8:
            return encoding  # half of its bytes are 0
    high = sum(byte > 127 for byte in content) / len(content)
    for encoding in ("utf-8", "gb18030" if high > 0.3 else "cp1252"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(content, final=not is_cut)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _separator(text: str, format: str | None) -> str | None:
    """The separator that makes most lines equally wide; None if none does."""
    lines = [re.sub(r'"[^"]*"', "", line) for line in text.split("\n") if line.strip()][:200]
    best, found = 0.0, None
    for name in ["tab", "comma", "semicolon", "pipe"] if format == "tsv" else SEPARATORS:
        widths = Counter(line.count(SEPARATORS[name]) + 1 for line in lines)
        width, count = widths.most_common(1)[0]
        # Commas stand in running text as well: nearly all lines must agree.
        share = count / len(lines)
        if width > 1 and (share > 0.9 or format is not None) and share > best:
            best, found = share, name
    return found or {"csv": "comma", "tsv": "tab"}.get(format)


def _sample(numbered: Iterable[tuple[int, Any]], is_cut: bool) -> list:
    """The first rows of a text, which may be cut within one."""
    rows = []
    try:
        for _, row in itertools.islice(numbered, _SAMPLE_ROWS):
            rows.append(row)
    except ValueError:
        if not is_cut or not rows:  # else quotes that close behind the sample
            raise
    return rows


def _has_header(rows: Sequence[Sequence[str]], are_pairs: bool) -> bool:
    """Whether the first row names the columns; of pairs it may be a pair that looks like names."""
    first, others = [cell.strip() for cell in rows[0]], rows[1:]
    names = [cell.lower() for cell in first]
    if any(map(_NUMBER.fullmatch, first)) or len(set(first)) < len(first) or not others:
        return False
    if {*names} & {*_TEXT_NAMES, *_LABEL_NAMES, *_ID_NAMES, *sum(_PAIR_NAMES + _WRITING_NAMES, ())}:
        return True
    for place, cell in enumerate(first):
        column = [row[place].strip() for row in others]
        if cell in column and len(set(column)) < len(column) / 2:
            return False  # a label as other rows have it
        if all(map(_NUMBER.fullmatch, column)):
            return True
    if are_pairs and not all(map(_LANGUAGE.fullmatch, first)):
        cells = [*first, *(cell.strip() for row in others[:_NEXT_ROWS] for cell in row)]
        if any(" " in cell for cell in first) or not all(
            " " in cell for cell in cells[len(first) :]
        ):
            return False
    return all(_NAME.fullmatch(cell) and cell[-1] != "." for cell in first)  # "Go." is a sentence


def _json_layout(path: str, text: str, is_cut: bool, encoding: str, task: str) -> TableLayout:
    format = "json" if text.lstrip()[:1] == "[" else "jsonl"
    if is_cut and format == "jsonl":
        text = text[: text.rfind("\n") + 1]
    records = _sample(json_objects(path, text, Limits(), format), is_cut)
    columns = list(dict.fromkeys(name for record in records for name in record))
    records = [[record.get(name) for name in columns] for record in records]
    if task in SEQ2SEQ_TASKS:  # a list of sentences is a text, too
        records = [
            [" ".join(map(str, v)) if isinstance(v, list) else v for v in r] for r in records
        ]
    rows = [["" if v is None or isinstance(v, list | dict) else str(v) for v in r] for r in records]
    is_cut |= len(rows) == _SAMPLE_ROWS
    return _with_columns(TableLayout(format, encoding, header=True), columns, rows, task, is_cut)


def _with_columns(
    layout: TableLayout, columns: list[str], rows: Sequence[Sequence[str]], task: str, is_cut: bool
) -> TableLayout:
    """The layout with the columns of text and label that fit the task."""
    cells = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    lower = {name.lower().strip(): name for name in reversed(columns)}
    label = None
    if task in ("classify", "pair", "regress"):
        label = _label_column(cells, lower, task == "regress", is_cut)
    length = {name: sum(map(len, cell)) for name, cell in cells.items()}
    left = [name for name in columns if name != label and not _is_id(name)]
    left = [name for name in left if not all(map(_NUMBER.fullmatch, cells[name]))]
    longest = sorted(left, key=length.get, reverse=True)
    if task in SEQ2SEQ_TASKS:
        known = next((pair for pair in _WRITING_NAMES if {*pair} <= {*lower}), None)
        # Behind two languages stands who translated; summaries stand anywhere, and are shorter.
        texts = (left if task == "translate" else longest)[:2]
        texts = texts if known is None else [lower[name] for name in known]
    elif task in ("pair", "embed"):
        known = next((pair for pair in _PAIR_NAMES if {*pair} <= {*lower}), None)
        texts = [lower[name] for name in known or ()]
        if known is None and len(left) >= 2:
            texts = [name for name in columns if name in longest[:2]]
    else:
        texts = [lower[name] for name in _TEXT_NAMES if lower.get(name) in left] or longest
        texts = texts[:1]
    return dataclasses.replace(
        layout, columns=tuple(columns), text_columns=tuple(texts), label_column=label
    )


def _label_column(
    cells: dict[str, list[str]], lower: dict[str, str], numeric: bool, is_cut: bool
) -> str | None:
    """The column of labels by its name, else by its values; `is_cut`: the file has more rows."""

    def fits(name: str) -> bool:
        values = [value for value in cells[name] if value.strip()]
        if numeric:
            return bool(values) and all(map(_NUMBER.fullmatch, values))
        return len(set(values)) > 1

    named = [lower[name] for name in _LABEL_NAMES if name in lower]
    # A file that is sorted by its labels begins with one of them.
    if named := [*filter(fits, named), *(named if is_cut and not numeric else [])]:
        return named[0]
    candidates = [name for name in cells if not _is_id(name) and fits(name)]
    if numeric:
        return candidates[-1] if candidates else None
    different = {name: len(set(cells[name])) for name in candidates}
    # Labels come again and again; texts and ids do not.
    candidates = [n for n in candidates if different[n] <= max(len(cells[n]) / 2, 2)]
    length = {name: sum(map(len, cells[name])) for name in candidates}
    return min(candidates, key=lambda name: (different[name], length[name]), default=None)
