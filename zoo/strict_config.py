"""Strict dataclass configs: a JSON round trip that checks every key and type.

Shared by model configs, training configs and the bundle's own `config.json`.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, TypeVar

import pydantic

ConfigT = TypeVar("ConfigT")

# Strict: "64" is not a number and 1.5 is not a layer count. `extra` makes unknown keys an error.
STRICT = pydantic.ConfigDict(extra="forbid", strict=True)


class ConfigError(ValueError):
    """A configuration value that is unknown, of the wrong type, or makes no sense."""


def to_dict(config: Any) -> dict[str, Any]:
    """A config (nested dataclasses included) as a JSON-ready dict.

    Example: `to_dict(GPTConfig(vocabulary_size=65))["num_layers"]  # 4`
    """
    return dataclasses.asdict(config)


def from_dict(config_class: type[ConfigT], values: dict[str, Any], where: str = "") -> ConfigT:
    """Builds `config_class` from a dict, checking every key and type.

    Args:
        config_class: a dataclass with `__pydantic_config__ = STRICT`.
        values: field names to values; nested dataclasses as nested dicts.
        where: what to blame in the message, such as a file name.

    Raises:
        ConfigError: unknown key (known ones are listed), missing key or wrong type.

    Example: `from_dict(GPTConfig, {"vocabulary_size": 65})`
    """
    try:
        # JSON has no tuples: "json" mode reads a list where a tuple is declared.
        return pydantic.TypeAdapter(config_class).validate_json(_to_json(values), strict=True)
    except pydantic.ValidationError as error:
        problems = [_explain(config_class, problem) for problem in error.errors()]
        prefix = f"{where}: " if where else ""
        raise ConfigError(prefix + "; ".join(problems)) from None


def _to_json(values: dict[str, Any]) -> bytes:
    return pydantic.TypeAdapter(dict).dump_json(values)


def _explain(config_class: type, problem: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        owner = config_class
        for part in problem["loc"][:-1]:
            owner = _nested_dataclass(owner, str(part)) or owner
        known = ", ".join(field.name for field in dataclasses.fields(owner))
        return f"unknown key {path!r}; known keys: {known}"
    if problem["type"] == "missing":
        return f"missing key {path!r}"
    cause = problem.get("ctx", {}).get("error")
    if cause is not None:
        return str(cause)
    return (
        f"{path or config_class.__name__}: {problem['msg']}. Received: {problem.get('input')!r:.80}"
    )


def _nested_dataclass(owner: type, name: str) -> type | None:
    hint = typing.get_type_hints(owner).get(name)
    candidates = (hint, *typing.get_args(hint))
    return next((c for c in candidates if dataclasses.is_dataclass(c)), None)
