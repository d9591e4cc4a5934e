"""Labelled data: texts from tables of any format or a folder per label; from JSON questions
(SQuAD) and conversations.

Texts are kept as they stand, empty ones too (with a warning). A row without a label is an error, as
is one whose label is NaN or infinite, which is how programs write a number that is missing.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from absl import logging

from trainers.data.config import DataConfig
from trainers.data.examples import LabeledTexts, Questions, label_numbers, warn_blank
from trainers.data.rows import (
    FORMATS,
    HUGGING_FACE,
    STORED,
    Row,
    is_number,
    json_objects,
    open_dataset,
    row_format,
    stored_rows,
    table_format,
    text_rows,
)
from trainers.data.sources import File, find_files, read_files
from trainers.data.text import replace_surrogates
from zoo.text.chat_form import END, GENERATE, START, ChatForm, Messages

# How C, Python, NumPy, pandas, R and JSON spell numbers that are none.
_NOT_FINITE = re.compile("[-+]?(nan|NaN|NAN|inf|Inf|INF|[iI]nfinity)")
_SQUAD = "SQuAD is {data: [{paragraphs: [{context, qas: [{id, question, answers}]}]}]}"


def read_labeled(
    source: str, data: DataConfig, data_dir: str | None = None, task: str = "classify"
) -> LabeledTexts:
    """Reads texts, or pairs of texts, from a file, folder, glob or hfds://OWNER/NAME."""
    names = ["text_column", "pair_column", "label_column", "id_column"]
    columns = {name: getattr(data, name) for name in names if getattr(data, name) is not None}
    if task == "embed":
        del columns["label_column"]
    if source.startswith(HUGGING_FACE):
        files, format = [File(source, source)], "hfds"
    else:
        files = find_files(source, data, data_dir)
        format = _format(source, files, data.format)
    if format == "folders":
        _check_folders(source, files, columns)
    values: dict[str, list[str]] = {option: [] for option in columns}
    where, without_rows, size = [], [], 0
    for file, rows in _rows_of_files(files, format, columns, data):
        before = len(where)
        for line, row in rows:
            where.append(f"{file.name}:{line}")
            for option, value in row.items():
                values[option].append(value)
            if format in STORED:
                size += sum(map(len, row.values()))
                data.limits.check("source_bytes", size, file.path)
            if format == "folders":
                data.limits.check("row_bytes", row["text_column"], f"{file.path}:{line}")
            elif "label_column" in row:
                _check_label(row["label_column"].strip(), data.label_column, f"{file.path}:{line}")
        if len(where) == before:
            without_rows.append(file.path)
    if not where:
        raise ValueError(
            f"{without_rows[0]}: no examples; {len(without_rows)} file(s) are empty or have only "
            "a header. Point the source at files with examples."
        )
    if without_rows:
        message = "%s: %d file(s) have no rows, such as %s"
        logging.warning(message, source, len(without_rows), without_rows[0])
    labels = [label.strip() for label in values.get("label_column", ())]
    if task == "regress":
        label_numbers(labels, where)
    by_number = format in ("csv", "tsv") and all(map(is_number, columns.values()))
    _warn(source, values, where, no_header=by_number and data.header == "auto")
    texts, pairs = values["text_column"], values.get("pair_column")
    return LabeledTexts(texts, pairs, labels if "label_column" in values else None, where)


def _rows_of_files(
    files: list[File], format: str, columns: dict[str, str], data: DataConfig
) -> Iterator[tuple[File, Iterator[Row]]]:
    if format in STORED:
        for file in files:
            yield file, stored_rows(file.path, format, columns, data.limits)
        return
    for file, text in read_files(files, data):
        if format == "folders":
            folder = os.path.basename(os.path.dirname(file.path))
            row = {"text_column": text, "label_column": folder}
            yield file, iter([(1, {option: row[option] for option in columns})])
        else:
            yield file, text_rows(file.path, text, format, columns, data)


def _check_label(label: str, column: str | int, place: str) -> None:
    if not label:
        raise ValueError(
            f"{place}: no label in column {column!r}. Fill it in or remove the row; texts without "
            "labels are for --task=lm and --task=mlm."
        )
    if _NOT_FINITE.fullmatch(label):
        raise ValueError(
            f"{place}: the label in column {column!r} is {label!r}, not a finite number and not a "
            "class. Fill it in or remove the row; a class that is really called so needs another "
            "name."
        )


def _warn(source: str, values: dict[str, list[str]], where: list[str], no_header: bool) -> None:
    """Of what is kept, and perhaps should not be."""
    first, *others = values.get("label_column") or [""]
    # An example of a class that no other has: the names of columns that were given by number?
    if no_header and first and first not in others and len(set(others)) < len(others):
        message = (
            "%s: no other row has the label %r. If this line names the columns, set "
            "--set=data.header=first (columns by number: it is read as an example)"
        )
        logging.warning(message, where[0], first)
    warn_blank(f"{source}: text", values["text_column"], where)
    # A text may really be "nan", so it is kept.
    texts = zip(values["text_column"], where)
    places = [place for text, place in texts if _NOT_FINITE.fullmatch(text)]
    if places:
        message = (
            "%s: %d text(s) are NaN or infinite as numbers are written, the first at %s. They are "
            "kept; remove rows whose text is missing"
        )
        logging.warning(message, source, len(places), places[0])
    if "pair_column" in values:
        warn_blank(f"{source}: second text", values["pair_column"], where)
    counts = Counter(values.get("id_column", ()))
    repeated = [f"{name!r} ({count} times)" for name, count in counts.items() if count > 1]
    if repeated:
        message = (
            "%s: %d id(s) stand in several rows: %s. All rows are kept; remove copies that should "
            "not count twice"
        )
        logging.warning(message, source, len(repeated), ", ".join(repeated[:3]))


def _format(source: str, files: list[File], format: str) -> str:
    if format != "auto":
        return format
    found = {table_format(file.path): file.path for file in files}
    if len(found) == 1 and None not in found:
        return next(iter(found))
    if set(found) == {None} and any(os.sep in file.name for file in files):
        return "folders"
    raise ValueError(
        f"{source}: cannot tell the format of {' and '.join(found.values())}. Choose files "
        'with --set=data.pattern=..., such as "*.csv", or name the format with '
        f"--set=data.format=..., one of {', '.join(FORMATS)}, folders."
    )


def _check_folders(source: str, files: list[File], columns: dict[str, str]) -> None:
    """Label folders stand side by side: of `aclImdb` itself, train and test would become one."""
    if extra := {"pair_column", "id_column"} & set(columns):
        raise ValueError(
            f"{source}: format 'folders' has one text per example and nothing else, so there is "
            f"no {' or '.join(sorted(extra))}. Use a CSV, TSV or JSONL file."
        )
    parents = {os.path.dirname(os.path.dirname(file.path)): file.path for file in files}
    if len(parents) > 1:
        first, second = sorted(parents.values())[:2]
        raise ValueError(
            f"{first} and {second}: the folders of the labels must stand side by side, "
            "LABEL/FILE. Choose the files with a glob, such as 'train/[np]*/*.txt'."
        )


def read_questions(source: str, data: DataConfig, data_dir: str | None = None) -> Questions:
    """Reads SQuAD's JSON from a file, folder or glob; offsets are in characters (code points)."""
    rows, problems, seen, left_out = [], [], {}, 0
    files = find_files(source, data, data_dir)
    for file, text in read_files(files, data):
        for path, context, entry in _entries(file.path, text):
            place = f"{file.path}: {path}"
            name = entry.get("id")
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise ValueError(f"{place}.id: {_found(entry, 'id')}. Give every question one.")
            name = str(name)
            if name in seen:
                raise ValueError(
                    f"{place}: the id {name!r} is also that of {seen[name]}. Scores are kept by "
                    "id: rename or remove one of the two."
                )
            seen[name] = place
            question = _string(entry, "question", place)
            answers, wrong = _checked_answers(entry, context, place, name)
            problems.extend(wrong)
            if answers or not wrong:
                texts, starts = [a for a, _ in answers], [s for _, s in answers]
                rows.append((name, question, context, texts, starts, f"{file.name}: {path}"))
            else:
                left_out += 1
    if problems:
        lines = "\n  ".join(problems[:3] + (["..."] if len(problems) > 3 else []))
        message = f"{len(problems)} answer(s) do not stand at their offset in the text:\n  {lines}"
        if data.mismatched == "error":
            raise ValueError(
                f"{source}: {message}\nCorrect them (offsets count characters), or leave "
                "these answers out with --set=data.mismatched=skip."
            )
        more = f"{left_out} question(s) have no other answer"
        logging.warning("%s: left out %s\n%s", source, message, more)
    if not rows:
        raise ValueError(
            f"{files[0].path}: no questions in {len(files)} file(s)"
            f"{' whose answers match their text' if problems else ''}. {_SQUAD}."
        )
    ids, questions, contexts, answers, starts, where = map(list, zip(*rows))
    warn_blank(f"{source}: question", questions, where)
    warn_blank(f"{source}: context", contexts, where)
    return Questions(ids, questions, contexts, answers, starts, where, len(problems), left_out)


def _entries(path: str, text: str) -> Iterator[tuple[str, str, dict]]:
    """(place, context, question entry) of every question."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        reason = "the file is empty" if not text.strip() else error.msg
        where = f"{path}:{error.lineno}:{error.colno}"
        raise ValueError(f"{where}: not JSON: {reason}. {_SQUAD}.") from error
    except RecursionError as error:
        raise ValueError(
            f"{path}: not JSON that can be read: nested too deep. {_SQUAD}."
        ) from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: a JSON {type(document).__name__}, not an object. {_SQUAD}.")
    for i, article in _items(document, "data", f"{path}: "):
        for j, paragraph in _items(article, "paragraphs", f"{path}: data[{i}]."):
            place = f"data[{i}].paragraphs[{j}]"
            context = _string(paragraph, "context", f"{path}: {place}")
            for k, entry in _items(paragraph, "qas", f"{path}: {place}."):
                yield f"{place}.qas[{k}]", context, entry


def _items(holder: dict, key: str, place: str, form: str = _SQUAD) -> Iterator[tuple[int, dict]]:
    """The objects in the list `key`, numbered; ValueError, with the `form`, if it is none."""
    values = holder.get(key)
    if not isinstance(values, list):
        raise ValueError(f"{place}{key}: {_found(holder, key)}, where a list is due. {form}.")
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{place}{key}[{index}]: not an object. {form}.")
        yield index, value


def _string(holder: dict, key: str, place: str, form: str = _SQUAD) -> str:
    """The string `key`; ValueError, with the `form`, if it is none."""
    value = holder.get(key)
    if type(value) is not str:  # a `Number` is one
        raise ValueError(f"{place}.{key}: {_found(holder, key)}, where a string is due. {form}.")
    # One for one, so that offsets stay.
    return replace_surrogates(value)


def _found(holder: dict, key: str) -> str:
    return f"found {str(holder[key])[:40]!r}" if key in holder else "missing"


def _checked_answers(
    entry: dict[str, Any], context: str, place: str, name: str
) -> tuple[list[tuple[str, int]], list[str]]:
    """The answers as (text, start), and a message for each one that does not match."""
    if entry.get("is_impossible") is True:
        return [], []
    answers, wrong = [], []
    for index, answer in _items(entry, "answers", f"{place}."):
        text = _string(answer, "text", f"{place}.answers[{index}]")
        start = answer.get("answer_start")
        if isinstance(start, bool) or not isinstance(start, int):
            raise ValueError(
                f"{place}.answers[{index}].answer_start: {_found(answer, 'answer_start')}, where "
                "the character offset of the answer in its context is due."
            )
        if text and start >= 0 and context.startswith(text, start):
            answers.append((text, start))
            continue
        there = context[start : start + len(text)] if start >= 0 else ""
        elsewhere = context.find(text) if text else -1
        hint = f"it stands at {elsewhere}" if elsewhere >= 0 else "it stands nowhere in the text"
        wrong.append(
            f"{place}: question {name!r}, answer {text[:60]!r} at offset {start}, where "
            f"{there[:60]!r} stands ({hint if text else 'the answer is empty'})"
        )
    return answers, wrong


# Conversations, and what of them the form of a chat can hold.

Conversation = tuple[Messages, str]  # and where it stands, "path:line"
CHAT_FORM = (
    'A conversation is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", '
    '"content": "..."}]}, or "conversations" of "from" and "value"'
)
_SHAREGPT = {"human": "user", "gpt": "assistant"}


def read_conversations(source: str, data: DataConfig, data_dir=None) -> list[Conversation]:
    """Reads JSON lines, or an array: a file, folder, glob, address or hfds://OWNER/NAME."""
    talks, size = [], 0
    for where, record in _records(source, data, data_dir):
        talks.append((_messages(record, where), where))
        size += sum(len(message["content"]) for message in talks[-1][0])
        data.limits.check("source_bytes", size, where)
    if not talks:
        raise ValueError(f"{source}: no conversations, the file is empty. {CHAT_FORM}.")
    return talks


def _records(source, data, data_dir) -> Iterator[tuple[str, dict[str, Any]]]:
    if source.startswith(HUGGING_FACE):
        yield from ((f"{source}, row {n}", row) for n, row in enumerate(open_dataset(source)))
        return
    for file in find_files(source, data, data_dir):
        format = row_format(file.path, data.format)
        if format not in ("jsonl", "json"):
            raise ValueError(
                f"{file.path}:1: task chat reads JSON lines, not {format}. {CHAT_FORM}."
            )
        ((_, text),) = read_files([file], data)
        for line, record in json_objects(file.path, text, data.limits, format):
            yield f"{file.path}:{line}", record


def _messages(record: dict[str, Any], where: str) -> list[dict[str, str]]:
    field, *keys = "messages", "role", "content"
    if field not in record and "conversations" in record:
        field, *keys = "conversations", "from", "value"
    messages = []
    for number, item in _items(record, field, f"{where}: ", CHAT_FORM):
        role, text = (_string(item, key, f"{where}: {field}[{number}]", CHAT_FORM) for key in keys)
        messages.append({"role": _SHAREGPT.get(role, role), "content": text})
    if not messages:
        raise ValueError(f"{where}: the conversation is empty. Remove it. {CHAT_FORM}.")
    return messages


def answers(form: ChatForm, messages: Messages, where: str) -> list[int]:
    """Which messages are to be learnt: the assistant's that a served model may be asked for;
    ValueError where there are none, or the form has no such role or no such order of roles.
    """
    found, before = [], START
    for number, role in enumerate(message["role"] for message in messages):
        if role in (START, GENERATE, END) or not form.has(before, role):
            known = ", ".join(sorted(form.joints))
            what = f"the model has no {role!r} after {before!r} in a conversation; it has {known}"
            where = f"{where}: messages[{number}].role"
            raise ValueError(f"{where}: {what}. Correct or remove the conversation.")
        if role == "assistant" and before not in (START, role) and form.has(before, GENERATE):
            found.append(number)
        before = role
    if not found:
        what = "no assistant's answer, so there is nothing to learn"
        raise ValueError(f"{where}: {what}. Correct or remove the conversation.")
    return found
