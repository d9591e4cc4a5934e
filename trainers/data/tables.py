"""Looking at a file that is a mystery: its format, separator, encoding, header and columns."""

from __future__ import annotations

import codecs
import collections
import dataclasses
import re
from collections.abc import Sequence

from trainers.data.config import DEFAULT_LIMITS
from trainers.data.records import stored_sample
from trainers.data.rows import SEPARATORS, STORED, json_objects, split_rows, table_format
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
_ID_NAMES = ("id", "idx", "index", "uid", "pairid", "unnamed: 0", "")


def _is_id(name: str) -> bool:
    return name.lower() in _ID_NAMES or name.lower().endswith("_id")


@dataclasses.dataclass(frozen=True)
class TableLayout:
    """How a file of a user's own can be read, found by looking at its first megabyte.

    Attributes:
        format: "csv", "tsv", "jsonl", "json", "parquet", "tfrecord", "conll", "squad" or "lines".
        separator: "comma", "tab", "semicolon", "pipe" of a table, "auto" of anything else.
        encoding: a Python codec.
        header: bool, whether the first line names the columns.
        columns: their names, or their numbers as text where they have none.
        text_columns: of the text (of both texts for tasks pair and embed); () if none was found.
        label_column: of the label, None if the task has none or none was found.
        rows_seen: int, rows that were looked at.
        reasons: what each guess rests on, a sentence each.
    """

    format: str
    separator: str
    encoding: str
    header: bool
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    label_column: str | None
    rows_seen: int
    reasons: tuple[str, ...] = ()


def inspect_table(path: str, task: str) -> TableLayout:
    """Finds out how a file can be read for a task.

    Args:
        path: of the file, compressed or not.
        task: "lm", "mlm", "classify", "pair", "regress", "embed", "tag" or "span".

    Returns:
        TableLayout.

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
        return _layout(format, "auto", "utf-8", True, columns, rows, task, [])
    content, is_cut = read_bytes(path, _SAMPLE_BYTES)
    if not content.strip():
        raise ValueError(f"{path}: the file is empty. Give one with examples.")
    encoding, reasons = _encoding(bytes(content), is_cut)
    text = decode(content, is_cut, path, encoding, "replace")
    start = text.lstrip()[:1]
    if start == "{" and re.match(r'\s*\{\s*"(data|version)"\s*:', text):
        return TableLayout("squad", "auto", encoding, False, (), (), None, 0, tuple(reasons))
    if start == "{" or (start == "[" and format in ("json", None)):
        return _json_layout(path, text, is_cut, encoding, task, reasons)
    if task == "tag":
        return TableLayout("conll", "auto", encoding, False, (), (), None, 0, tuple(reasons))
    if is_cut:
        text = text[: text.rfind("\n") + 1] or text
    separator = _separator(text, format)
    if separator is None:
        reasons.append("no separator stands in every line: each line is a text")
        count = sum(1 for line in text.split("\n") if line.strip())
        return TableLayout("lines", "auto", encoding, False, (), (), None, count, tuple(reasons))
    format = "tsv" if separator == "tab" else "csv"
    rows = _fields(path, text, separator, is_cut)
    header = _has_header(rows)
    reasons.append(f"separated by {separator}; the first line {'names' if header else 'has no'}")
    reasons[-1] += " the columns" if header else " names of columns"
    columns = [name.strip() for name in rows[0]] if header else list(map(str, range(len(rows[0]))))
    rows = rows[1:] if header else rows
    return _layout(format, separator, encoding, header, columns, rows, task, reasons)


def _encoding(content: bytes, is_cut: bool) -> tuple[str, list[str]]:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", ["it starts with a UTF-16 byte order mark"]
    for encoding in ("utf-16-le", "utf-16-be"):
        nul = content[1 if encoding == "utf-16-le" else 0 :: 2].count(0)
        if nul > len(content) / 8:
            return encoding, [f"half of its bytes are 0, as in {encoding}"]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content, final=not is_cut)
        return "utf-8", []
    except UnicodeDecodeError as error:
        place = error.start
    high = sum(byte > 127 for byte in content) / len(content)
    encoding = "gb18030" if high > 0.3 else "cp1252"
    try:
        codecs.getincrementaldecoder(encoding)().decode(content, final=not is_cut)
    except UnicodeDecodeError:
        encoding = "latin-1"
    return encoding, [f"byte {place} is not UTF-8: read as {encoding}"]


def _separator(text: str, format: str | None) -> str | None:
    """The separator that makes most lines equally wide; None if none does."""
    lines = [line for line in text.split("\n") if line.strip()][:200]
    best, found = 0.0, None
    order = ["tab", "comma", "semicolon", "pipe"] if format == "tsv" else list(SEPARATORS)
    for name in order:
        widths = collections.Counter(
            len(_outside_quotes(line).split(SEPARATORS[name])) for line in lines
        )
        width, count = widths.most_common(1)[0]
        # Commas stand in running text as well: nearly all lines must agree.
        share = count / len(lines)
        if width > 1 and (share > 0.9 or format is not None) and share > best:
            best, found = share, name
    if found is None and format in ("csv", "tsv"):
        return "tab" if format == "tsv" else "comma"
    return found


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _fields(path: str, text: str, separator: str, is_cut: bool) -> list[list[str]]:
    rows = []
    try:
        for _, row in split_rows(
            path, text, SEPARATORS[separator], separator != "tab", DEFAULT_LIMITS
        ):
            rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
    except ValueError:
        if not is_cut or not rows:  # else quotes that close behind the sample
            raise
    width = collections.Counter(map(len, rows)).most_common(1)[0][0]
    return [row for row in rows if len(row) == width]


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    first, others = [cell.strip() for cell in rows[0]], rows[1:]
    names = [cell.lower() for cell in first]
    if any(map(_NUMBER.fullmatch, first)) or len(set(first)) < len(first) or not others:
        return False
    if {*names} & {*_TEXT_NAMES, *_LABEL_NAMES, *_ID_NAMES, *sum(_PAIR_NAMES, ())}:
        return True
    for place, cell in enumerate(first):
        column = [row[place].strip() for row in others]
        if cell in column and len(set(column)) < len(column) / 2:
            return False  # a label as other rows have it
        if all(map(_NUMBER.fullmatch, column)):
            return True
    return all(_NAME.fullmatch(cell) and cell[-1] != "." for cell in first)  # "Go." is a sentence


def _json_layout(path, text, is_cut, encoding, task, reasons) -> TableLayout:
    format = "json" if text.lstrip()[:1] == "[" else "jsonl"
    if is_cut and format == "jsonl":
        text = text[: text.rfind("\n") + 1]
    records = []
    try:
        for _, record in json_objects(path, text, DEFAULT_LIMITS, format):
            records.append(record)
            if len(records) == _SAMPLE_ROWS:
                break
    except ValueError:
        if not is_cut or not records:
            raise
    columns = list(dict.fromkeys(name for record in records for name in record))
    rows = [[_cell(record.get(name)) for name in columns] for record in records]
    return _layout(format, "auto", encoding, True, columns, rows, task, reasons)


def _cell(value: object) -> str:
    return "" if value is None or isinstance(value, list | dict) else str(value)


def _layout(format, separator, encoding, header, columns, rows, task, reasons) -> TableLayout:
    """The layout of a table with the columns of text and label that fit the task."""
    cells = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    lower = {name.lower().strip(): name for name in reversed(columns)}
    label = None
    if task in ("classify", "pair", "regress"):
        label, reason = _label_column(cells, lower, numeric=task == "regress")
        reasons += [reason] if reason else []
    mean = {name: sum(map(len, cell)) / max(len(cell), 1) for name, cell in cells.items()}
    left = [name for name in columns if name != label and not _is_id(name)]
    left = [name for name in left if not all(map(_NUMBER.fullmatch, cells[name]))]
    texts: tuple[str, ...] = ()
    if task in ("pair", "embed"):
        known = next((pair for pair in _PAIR_NAMES if {*pair} <= {*lower}), None)
        if known is not None:
            texts = tuple(lower[name] for name in known)
            reasons.append(f"columns {texts[0]!r} and {texts[1]!r} are texts by their names")
        elif len(left) >= 2:
            longest = sorted(left, key=mean.get, reverse=True)[:2]
            texts = tuple(name for name in columns if name in longest)
            reasons.append(f"columns {texts[0]!r} and {texts[1]!r} hold the longest texts")
    else:
        named = [lower[name] for name in _TEXT_NAMES if lower.get(name) in left]
        if named:
            texts = (named[0],)
            reasons.append(f"column {texts[0]!r} is the text by its name")
        elif left:
            texts = (max(left, key=mean.get),)
            reasons.append(f"column {texts[0]!r} holds the longest texts")
    return TableLayout(
        format,
        separator,
        encoding,
        header,
        tuple(columns),
        texts,
        label,
        len(rows),
        tuple(reasons),
    )


def _label_column(cells, lower, numeric: bool) -> tuple[str | None, str]:
    def fits(name: str) -> bool:
        values = [value for value in cells[name] if value.strip()]
        if numeric:
            return bool(values) and all(map(_NUMBER.fullmatch, values))
        return len(set(values)) > 1

    for name in _LABEL_NAMES:
        if name in lower and fits(lower[name]):
            return lower[name], f"column {lower[name]!r} is the label by its name"
    candidates = [name for name in cells if not _is_id(name) and fits(name)]
    if numeric:
        kind = "the last column of numbers"
        found = candidates[-1:]
    else:
        kind = "the column with the fewest different values"
        different = {name: len(set(cells[name])) for name in candidates}
        # Labels come again and again; texts and ids do not.
        candidates = [n for n in candidates if different[n] <= max(len(cells[n]) / 2, 2)]
        length = {name: sum(map(len, cells[name])) for name in candidates}
        found = sorted(candidates, key=lambda name: (different[name], length[name]))[:1]
    return (found[0], f"column {found[0]!r} is {kind}") if found else (None, "")
