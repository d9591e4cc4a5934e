"""Reading JSON of unknown origin: every value checked, every error with file and field."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from zoo.bundle_error import BundleError

# No file of a model is nested deeper than a dozen levels; Python's own limit comes at hundreds,
# and then wherever the value is looked at next.
_DEEPEST = 64
# The largest vocabularies in use take some 35 MB. A list of empty lists needs 20 times its size.
_LARGEST = 1 << 27


def read_json(path: str | os.PathLike[str], largest: int = _LARGEST) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        largest: int, bytes that it may have. Defaults to 128 MiB.

    Raises:
        BundleError: no such file, too large, not JSON in UTF-8 (NaN and Infinity are none), or
            nested more than 64 deep; the message names the file.

    Example: `read_json("downloads/bert/config.json")["model_type"]`
    """
    path = Path(path)
    try:
        size = path.stat().st_size if path.is_file() else None
        if size is not None and size > largest:
            raise BundleError(f"{path}: {size:,} bytes; at most {largest:,} are read")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise BundleError(f"{path}: nested too deep; at most {_DEEPEST} levels are read") from None
    except BundleError:
        raise
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BundleError(f"{path}: not valid JSON ({error}). Fetch it again.") from None
    if _is_deep(content):
        raise BundleError(f"{path}: nested too deep; at most {_DEEPEST} levels are read")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _is_deep(content: Any) -> bool:
    level = [[content]]
    for _ in range(_DEEPEST + 1):
        items = (item for part in level for item in _items(part))
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _items(part: dict | list) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


class Fields:
    """A JSON object whose fields are asked for one by one.

    Args:
        values: the object. where: what to blame in messages, such as the file.

    Raises:
        BundleError: not an object.
    """

    def __init__(self, values: Any, where: str):
        if not isinstance(values, dict):
            raise BundleError(f"{where}: not a JSON object. Fetch it again.")
        self.values = values
        self.where = where

    @classmethod
    def read(cls, path: Path) -> Fields:
        """The fields of a JSON file; raises as `read_json`."""
        return cls(read_json(path), str(path))

    def part(self, name: str) -> Fields:
        """The fields of an object in a field.

        Raises:
            BundleError: it is missing, or no object.
        """
        return Fields(self.values.get(name), f"{self.where}: {name}")

    def parts(self, name: str) -> list[Fields]:
        """The fields of each object in a list, which may be missing or null.

        Raises:
            BundleError: no list, or one of something else.
        """
        items = self._typed(name, list, "a list", [])
        return [Fields(item, f"{self.where}: {name}[{i}]") for i, item in enumerate(items)]

    def text(self, name: str, default: str | None = None) -> str | None:
        """A string, `default` where it is missing or null."""
        return self._typed(name, str, "a string", default)

    def flag(self, name: str, default: bool | None = None) -> bool | None:
        """True or false, `default` where it is missing or null."""
        return self._typed(name, bool, "true or false", default)

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int | None:
        """A whole number from `least` to 2**31 - 1, `default` where it is missing or null."""
        value = self._typed(name, int, "a whole number", default)
        if value is not None and (isinstance(value, bool) or not least <= value < 2**31):
            reach = "on" if isinstance(value, bool) or value < least else "to 2147483647"
            raise BundleError(
                f"{self.where}: {name} must be a whole number from {least} {reach}. "
                f"Received: {value!r:.80}"
            )
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        """A number, `default` where it is missing or null."""
        value = self._typed(name, int | float, "a number", default)
        # Beyond this no float is exact, and beyond 1e308 there is none.
        if isinstance(value, bool) or (value is not None and not abs(value) < 1e300):
            raise BundleError(f"{self.where}: {name} must be a number. Received: {value!r:.80}")
        return value if value is None else float(value)

    def require(self, name: str, allowed: Sequence[Any], why: str) -> Any:
        """A value that must be one of `allowed`, the first one where it is missing or null.

        Raises:
            BundleError: another value; `why` says what it would do.
        """
        value = self.values.get(name)
        value = allowed[0] if value is None else value
        if value not in allowed:
            known = ", ".join(repr(item) for item in allowed)
            raise BundleError(
                f"{self.where}: {name} is {value!r:.80}, and only {known} is supported: {why}"
            )
        return value

    def _typed(self, name: str, kind: Any, meaning: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise BundleError(f"{self.where}: {name} must be {meaning}. Received: {value!r:.80}")
        return value
