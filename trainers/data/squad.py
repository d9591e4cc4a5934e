"""Questions with the spans that answer them, from JSON in the form of SQuAD 1.1 or 2.0.

{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...",
"answers": [{"text": "...", "answer_start": 12}], "is_impossible": false}]}]}]}

Offsets are in characters (code points) of the context, as in SQuAD, DRCD and XQuAD. A question
that "is_impossible", or whose list of answers is empty, has no answer.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

from absl import logging

from trainers.data.config import DEFAULT_LIMITS, Limits
from trainers.data.examples import Questions, warn_blank
from trainers.data.sources import find_files, read_files
from trainers.data.text import replace_surrogates

_FORM = "SQuAD is {data: [{paragraphs: [{context, qas: [{id, question, answers}]}]}]}"


def read_questions(
    source: str,
    *,
    data_dir: str | None = None,
    pattern: str | None = None,
    mismatched: Literal["error", "skip"] = "error",
    encoding: str = "utf-8",
    invalid: Literal["replace", "strict"] = "replace",
    limits: Limits = DEFAULT_LIMITS,
) -> Questions:
    """Reads questions, their texts and their answers.

    Args:
        source: a file, folder or glob, as in `sources.read_documents`; gzip too.
        data_dir: where relative paths are looked for after the working directory.
        pattern: which files of a folder or glob, such as "*.json". Default: all.
        mismatched: what becomes of answers that do not stand at their offset in the text.
            "error" raises with their number; "skip" leaves them out, and questions with no
            other answer, with a warning; the numbers are `Questions.mismatched` and
            `Questions.left_out`.
        encoding: of the files.
        invalid: what becomes of invalid bytes, see `text.decode`.
        limits: of all files together.
    """
    if mismatched not in ("error", "skip"):
        raise ValueError(f"mismatched={mismatched!r}: use 'error' or 'skip'.")
    rows, problems, seen, left_out = [], [], {}, 0
    files = find_files(source, data_dir, pattern)
    for file, text in read_files(files, encoding=encoding, invalid=invalid, limits=limits):
        for path, context, entry in _entries(file.path, _parse(file.path, text)):
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
            answers, wrong = _answers(entry, context, place, name)
            problems.extend(wrong)
            if answers or not wrong:
                texts, starts = [a for a, _ in answers], [s for _, s in answers]
                rows.append((name, question, context, texts, starts, f"{file.name}: {path}"))
            else:
                left_out += 1
    if problems:
        _report(source, problems, left_out, mismatched)
    if not rows:
        raise ValueError(
            f"{files[0].path}: no questions in {len(files)} file(s)"
            f"{' whose answers match their text' if problems else ''}. {_FORM}."
        )
    ids, questions, contexts, answers, starts, where = map(list, zip(*rows))
    warn_blank(f"{source}: question", questions, where)
    warn_blank(f"{source}: context", contexts, where)
    return Questions(ids, questions, contexts, answers, starts, where, len(problems), left_out)


def _parse(path: str, text: str) -> Any:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        reason = "the file is empty" if not text.strip() else error.msg
        raise ValueError(
            f"{path}:{error.lineno}:{error.colno}: not JSON: {reason}. {_FORM}."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path}: not JSON that can be read: nested too deep. {_FORM}.") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: a JSON {type(document).__name__}, not an object. {_FORM}.")
    return document


def _entries(path: str, document: dict) -> Iterator[tuple[str, str, dict]]:
    """(place, context, question entry) of every question."""
    for i, article in _items(document, "data", f"{path}: "):
        for j, paragraph in _items(article, "paragraphs", f"{path}: data[{i}]."):
            place = f"data[{i}].paragraphs[{j}]"
            context = _string(paragraph, "context", f"{path}: {place}")
            for k, entry in _items(paragraph, "qas", f"{path}: {place}."):
                yield f"{place}.qas[{k}]", context, entry


def _items(holder: dict, key: str, place: str) -> Iterator[tuple[int, dict]]:
    values = holder.get(key)
    if not isinstance(values, list):
        raise ValueError(f"{place}{key}: {_found(holder, key)}, where a list is due. {_FORM}.")
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{place}{key}[{index}]: not an object. {_FORM}.")
        yield index, value


def _string(holder: dict, key: str, place: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{place}.{key}: {_found(holder, key)}, where a string is due. {_FORM}.")
    # One for one, so that offsets stay.
    return replace_surrogates(value)


def _found(holder: dict, key: str) -> str:
    return f"found {str(holder[key])[:40]!r}" if key in holder else "missing"


def _answers(
    entry: dict, context: str, place: str, name: str
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


def _report(source: str, problems: list[str], left_out: int, mismatched: str) -> None:
    lines = "\n  ".join(problems[:3] + (["..."] if len(problems) > 3 else []))
    message = f"{len(problems)} answer(s) do not stand at their offset in the text:\n  {lines}"
    if mismatched == "error":
        raise ValueError(
            f"{source}: {message}\nCorrect them (offsets count characters, not bytes), or leave "
            "these answers out with --set=data.mismatched=skip."
        )
    logging.warning(
        "%s: left out %s\n%d question(s) have no other answer", source, message, left_out
    )
