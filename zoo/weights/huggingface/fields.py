"""Reading JSON files of other programs: every value checked, every error with file and field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.bundle_error import BundleError


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        BundleError: no such file, or not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BundleError(f"{path}: not valid JSON ({error}). Fetch it again.") from None


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

    def text(self, name: str, default: str | None = None) -> str | None:
        """A string, `default` where it is missing or null."""
        return self._typed(name, str, "a string", default)

    def flag(self, name: str, default: bool | None = None) -> bool | None:
        """True or false, `default` where it is missing or null."""
        return self._typed(name, bool, "true or false", default)

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int | None:
        """A whole number from `least` on, `default` where it is missing or null."""
        value = self._typed(name, int, "a whole number", default)
        if value is not None and (isinstance(value, bool) or value < least):
            raise BundleError(
                f"{self.where}: {name} must be a whole number from {least} on. Received: {value!r}"
            )
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        """A number, `default` where it is missing or null."""
        value = self._typed(name, int | float, "a number", default)
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
                f"{self.where}: {name} is {value!r}, and only {known} is supported: {why}"
            )
        return value

    def _typed(self, name: str, kind: Any, meaning: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise BundleError(f"{self.where}: {name} must be {meaning}. Received: {value!r}")
        return value
