"""Conversations from JSON lines of messages, and what of them the form of a chat can hold."""

from collections.abc import Iterator
from typing import Any

from trainers.data.config import DataConfig
from trainers.data.labeled import json_items, json_string
from trainers.data.rows import HUGGING_FACE, json_objects, open_dataset, row_format
from trainers.data.sources import find_files, read_files
from zoo.text.chat_form import END, GENERATE, START, ChatForm, Messages

Conversation = tuple[Messages, str]  # and where it stands, "path:line"
FORM = (
    'A conversation is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", '
    '"content": "..."}]}, or "conversations" of "from" and "value"'
)
_SHAREGPT = {"human": "user", "gpt": "assistant"}
_FIX = "Correct or remove the conversation"


def read_conversations(source: str, data: DataConfig, data_dir=None) -> list[Conversation]:
    """Reads JSON lines, or an array: a file, folder, glob, address or hfds://OWNER/NAME."""
    talks, size = [], 0
    for where, record in _records(source, data, data_dir):
        talks.append((_messages(record, where), where))
        size += sum(len(message["content"]) for message in talks[-1][0])
        data.limits.check("source_bytes", size, where)
    if not talks:
        raise ValueError(f"{source}: no conversations, the file is empty. {FORM}.")
    return talks


def _records(source, data, data_dir) -> Iterator[tuple[str, dict[str, Any]]]:
    if source.startswith(HUGGING_FACE):
        yield from ((f"{source}, row {n}", row) for n, row in enumerate(open_dataset(source)))
        return
    for file in find_files(source, data, data_dir):
        format = row_format(file.path, data.format)
        if format not in ("jsonl", "json"):
            raise ValueError(f"{file.path}:1: task chat reads JSON lines, not {format}. {FORM}.")
        ((_, text),) = read_files([file], data)
        for line, record in json_objects(file.path, text, data.limits, format):
            yield f"{file.path}:{line}", record


def _messages(record: dict[str, Any], where: str) -> list[dict[str, str]]:
    field, *keys = "messages", "role", "content"
    if field not in record and "conversations" in record:
        field, *keys = "conversations", "from", "value"
    messages = []
    for number, item in json_items(record, field, f"{where}: ", FORM):
        role, text = (json_string(item, key, f"{where}: {field}[{number}]", FORM) for key in keys)
        messages.append({"role": _SHAREGPT.get(role, role), "content": text})
    if not messages:
        raise ValueError(f"{where}: the conversation is empty. Remove it. {FORM}.")
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
            raise ValueError(f"{where}: messages[{number}].role: {what}. {_FIX}.")
        if role == "assistant" and before not in (START, role) and form.has(before, GENERATE):
            found.append(number)
        before = role
    if not found:
        raise ValueError(f"{where}: no assistant's answer, so there is nothing to learn. {_FIX}.")
    return found
