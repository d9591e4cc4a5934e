"""Conversations with a model that has the signature `chat`: as inputs, and in a terminal."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from export.client.printing import readable, rows
from zoo.text.chat_form import MESSAGES

CHAT = "chat"
_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty")
_STOP_STRINGS = 4
_QUIT = "/quit"


def chat_inputs(
    messages: Sequence[Mapping[str, str | bytes]], options: Mapping[str, Any]
) -> dict[str, Any]:
    """One conversation and its options as inputs of `chat`; ValueError names a wrong message."""
    if isinstance(messages, Mapping | str | bytes):
        raise ValueError("messages are a list of messages; this is not one")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or {*message} != {"role", "content"}:
            raise ValueError(f"message {number} must have role and content. Received: {message!r}")
    # A first place without a message: with pad_variable_length_inputs, TensorFlow Serving fills up
    # a row with what is there.
    unused = max(MESSAGES - len(messages), 1)
    inputs: dict[str, Any] = {
        name: [[""] * unused + [message[name] for message in messages]]
        for name in ("role", "content")
    }
    for name, value in options.items():
        if name == "stop":
            strings = [value] if isinstance(value, str | bytes) else [*value]
            inputs[name] = [strings + [""] * (_STOP_STRINGS - len(strings))]
        else:
            inputs[name] = [float(value) if name in _FLOATS else value]
    return inputs


def converse(
    ask: Callable[[list[dict[str, bytes]]], Mapping[str, np.ndarray]], system: str, as_json: bool
) -> None:
    """Answers each line of stdin, until it ends or says /quit, with all that was said before."""
    messages = [{"role": b"system", "content": os.fsencode(system)}] if system else []
    for line in _lines():
        messages.append({"role": b"user", "content": line})
        outputs = ask(messages)
        messages.append({"role": b"assistant", "content": outputs["content"][0]})
        (row,) = rows(outputs)
        print(json.dumps(row, ensure_ascii=False) if as_json else readable(row), flush=True)


def _lines() -> Iterator[bytes]:
    """The lines of stdin that are not empty; in a terminal with a prompt before each."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.buffer.readline()
        text = line.strip()
        if not line or text == _QUIT.encode():
            return
        if text:
            yield text
