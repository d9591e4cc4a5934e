"""Configs as strict dataclasses, and JSON of unknown origin: every value checked, and an error
that names the field.
"""

import dataclasses
import functools
import json
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast, dataclass_transform

import pydantic
from pydantic import Field

from zoo.files import BundleError

ConfigT = TypeVar("ConfigT")

# Strict: "64" is not a number and 1.5 is not a layer count. `extra` makes unknown keys an error.
STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# Ids, positions and sizes are int32 in a graph.
Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
_RANGES = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}

# No file of a model is nested deeper than a dozen levels; Python's own limit comes at hundreds,
# and then wherever the value is looked at next.
_MAX_DEPTH = 64
# The largest vocabularies in use take some 35 MB. A list of empty lists needs 20 times its size.
_MAX_BYTES = 1 << 27


class ConfigError(ValueError):
    """A configuration value that is unknown, of the wrong type, or makes no sense."""


@dataclass_transform(frozen_default=True)
def config_dataclass(cls: type[ConfigT]) -> type[ConfigT]:
    """Makes a frozen dataclass whose types and ranges are checked; a ConfigError names the field.

    Ranges stand in annotations: `Size`, `Fraction`, or `Annotated[float, Field(gt=0)]`.
    """
    made = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(cls)
    checked_init = made.__init__

    @functools.wraps(checked_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked_init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigError(_explain(made, error)) from None

    made.__init__ = init  # type: ignore[method-assign]
    return cast(type[ConfigT], made)


def to_dict(config: Any) -> dict[str, Any]:
    """A config (nested dataclasses included) as a JSON-ready dict."""
    return dataclasses.asdict(config)


def from_dict(config_class: type[ConfigT], values: dict[str, Any], where: str = "") -> ConfigT:
    """A config from a nested dict, all checked; a ConfigError names `where` and the key."""
    try:
        # JSON has no tuples: "json" mode reads a list where a tuple is declared.
        content = pydantic.TypeAdapter(dict).dump_json(values)
        return pydantic.TypeAdapter(config_class).validate_json(content, strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: " * bool(where) + _explain(config_class, error)) from None


def _explain(config_class: type, error: pydantic.ValidationError) -> str:
    return "; ".join(_explain_one(config_class, problem) for problem in error.errors())


def _explain_one(config_class: type, problem: Mapping[str, Any]) -> str:
    place = list(problem["loc"])
    if place and isinstance(place[0], int):  # a positional argument
        place[0] = dataclasses.fields(config_class)[place[0]].name
    path = ".".join(map(str, place))
    context = problem.get("ctx", {})
    received = f"Received: {problem.get('input')!r:.80}"
    if problem["type"] == "unexpected_keyword_argument":
        owner = config_class
        for part in problem["loc"][:-1]:
            hint = typing.get_type_hints(owner).get(str(part))
            kinds = (kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type))
            owner = next(filter(dataclasses.is_dataclass, kinds), owner)
        known = [field.name for field in dataclasses.fields(owner)]
        return f"unknown key {path!r}; known keys: {', '.join(known)}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"missing key {path!r}"
    if "error" in context:  # from a __post_init__
        return str(context["error"])
    if problem["type"] in _RANGES:
        key, words = _RANGES[problem["type"]]
        limit = context[key]
        limit = int(limit) if limit == int(limit) else limit
        return f"{path} must be {words} {limit}. {received}"
    return f"{path or config_class.__name__}: {problem['msg']}. {received}"


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file, or a BundleError: not there, no JSON, too large or too deep."""
    path, problem = Path(path), f"nested too deep; at most {_MAX_DEPTH} levels are read"
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            problem = "a pipe, socket or device, and no file"
        elif path.is_file() and (size := path.stat().st_size) > _MAX_BYTES:
            problem = f"{size:,} bytes; at most {_MAX_BYTES:,} are read"
        else:
            content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
            if not _is_deep(content):
                return content
    except FileNotFoundError:
        problem = "no such file"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except RecursionError:
        pass
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        problem = f"not valid JSON ({error}). Fetch it again."
    raise BundleError(f"{path}: {problem}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _is_deep(content: Any) -> bool:
    level: list[dict | list] = [[content]]
    for _ in range(_MAX_DEPTH + 1):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [item for part in parts for item in part if isinstance(item, dict | list)]
    return bool(level)


class Fields:
    """A JSON object; a field missing or null is the default, and a BundleError blames `where`."""

    def __init__(self, values: Any, where: object):
        if not isinstance(values, dict):
            raise BundleError(f"{where}: not a JSON object. Fetch it again.")
        self.values = values
        self.where = str(where)

    @classmethod
    def read(cls, path: Path, optional: bool = False) -> "Fields":
        """The fields of a JSON file; none of a file that is `optional` and not there."""
        return cls({} if optional and not path.is_file() else read_json(path), path)

    def part(self, name: str) -> "Fields":
        """The fields of an object in a field, which must be there."""
        return Fields(self.values.get(name), f"{self.where}: {name}")

    def parts(self, name: str) -> "list[Fields]":
        """The fields of each object in a list."""
        items = self._typed(name, "a list", [], list)
        return [Fields(item, f"{self.where}: {name}[{i}]") for i, item in enumerate(items)]

    def text(self, name: str, default: str | None = None) -> Any:
        return self._typed(name, "a string", default, str)

    def flag(self, name: str, default: bool | None = None) -> Any:
        return self._typed(name, "true or false", default, bool)

    def whole(
        self, name: str, default: int | None = None, least: int = 1, most: int = 2**31 - 1
    ) -> Any:
        """A whole number from `least` to `most`."""
        meaning = f"a whole number from {least} to {most}"
        value = self._typed(name, meaning, default, int)
        return value if value is None or least <= value <= most else self._refuse(name, meaning)

    def number(self, name: str, default: float | None = None) -> Any:
        """A number; beyond 1e300 there is no float."""
        value = self._typed(name, "a number", default, int, float)
        if value is not None and not abs(value) < 1e300:
            self._refuse(name, "a number")
        return value if value is None else float(value)

    def require(self, name: str, allowed: Sequence[Any], why: str) -> Any:
        """One of `allowed`, the first if it is missing; the message says `why` no other."""
        value = self.values.get(name)
        value = allowed[0] if value is None else value
        if value not in allowed:
            known = ", ".join(repr(item) for item in allowed)
            raise BundleError(
                f"{self.where}: {name} is {value!r:.80}, and only {known} is supported: {why}"
            )
        return value

    def only(self, known: Iterable[str], why: str = "what it means is not known here") -> None:
        """Refuses fields that are not `known`, by name."""
        unknown = [f"{name!r:.80}" for name in self.values if name not in [*known]]
        if unknown:
            raise BundleError(f"{self.where}: unknown field {', '.join(unknown[:8])}: {why}")

    def _typed(self, name: str, meaning: str, default: Any, *kinds: type) -> Any:
        value = self.values.get(name)
        if value is None:
            return default
        return value if type(value) in kinds else self._refuse(name, meaning)

    def _refuse(self, name: str, meaning: str) -> NoReturn:
        received = f"Received: {self.values[name]!r:.80}"
        raise BundleError(f"{self.where}: {name} must be {meaning}. {received}")
