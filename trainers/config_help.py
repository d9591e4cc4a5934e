"""The list of `--set` keys that `--help_config` prints, from the docs of the config classes."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing

from trainers.config import TrainConfig

_WIDTH = 100


def config_keys(kind: type = TrainConfig, prefix: str = "") -> dict[str, tuple[str, str]]:
    """Every key of a config, as `--set` takes it.

    Args:
        kind: a config dataclass. prefix: str, before its names.

    Returns:
        key -> (default as JSON-like text, "" where a value must be given; its meaning).

    Example: `config_keys()["data.limits.row_bytes"][0]` is "16777216".
    """
    keys, meanings = {}, _meanings(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            keys |= config_keys(hints[field.name], f"{prefix}{field.name}.")
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = "" if default is dataclasses.MISSING else repr(default)
        keys[prefix + field.name] = shown, meanings.get(field.name, "")
    return keys


def describe_keys() -> str:
    """Text for people: every key with its default and meaning."""
    lines = ["Keys of --set=key=value with their defaults; recipes set some of them otherwise."]
    for key, (default, meaning) in config_keys().items():
        lines.append(f"\n{key}" + (f" = {default}" if default else ""))
        lines.append(textwrap.indent(textwrap.fill(meaning, _WIDTH - 4), "    "))
    return "\n".join(lines)


def _meanings(kind: type) -> dict[str, str]:
    """Field -> what the class's docstring says of it under "Attributes:"."""
    doc = inspect.getdoc(kind) or ""
    block = re.search(r"^Attributes:\n((?:[ ]{4,}.*\n?|\n)*)", doc, re.MULTILINE)
    if block is None:
        return {}
    text = block[1]
    names = "|".join(field.name for field in dataclasses.fields(kind))
    # Several may share a line, "first: int. second: int", or a meaning, "first, second: int".
    start = re.compile(rf"(?:^[ ]{{4}}|\. |; )((?:{names})(?:, (?:{names}))*):[ ]", re.MULTILINE)
    found = list(start.finditer(text))
    meanings = {}
    for number, match in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        meaning = " ".join(text[match.end() : end].split())
        meanings |= dict.fromkeys(match[1].split(", "), meaning)
    return meanings
