"""Tokens that transformers keeps beside a vocabulary: which there are, and how they are found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, inside

# Lists of special tokens that have no role; the second name is that of transformers 5.
_ROLELESS = ("additional_special_tokens", "extra_special_tokens")


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A name that is found in a text before the text is cut into pieces."""

    name: str
    id: int | None  # None comes after all others
    special: bool  # it stands for no text
    normalized: bool  # it is looked for in the normalised text
    where: str  # file and field, for messages


def read_token(token: Fields, index: int | None = None) -> AddedToken:
    """An entry of `added_tokens` in a `tokenizer.json`, or, with its id, of `added_tokens_decoder`.

    Blanks around it, which it may take in, have no ids in WordPiece, and byte pairs check that.
    """
    name = token.text("content")
    if not name:
        raise BundleError(f"{token.where}: content is missing")
    index = token.whole("id", None, least=0) if index is None else index
    if index is None:
        raise BundleError(f"{token.where}: id is missing")
    token.require("single_word", (False,), "names are found within words, too")
    special = token.flag("special", False)
    normalized = token.flag("normalized", not special)
    return AddedToken(name, index, special, normalized, token.where)


def read_added_tokens(folder: Path, config: Fields) -> list[AddedToken]:
    """The added tokens in the files beside a vocabulary, as transformers gathers them.

    These are `added_tokens_decoder` in `tokenizer_config.json`, which is `config`, or, in folders
    of before 2023, `added_tokens.json`; then the special tokens without a role, which two more
    files may name.
    """
    sources = [config]
    added = []
    if config.values.get("added_tokens_decoder") is not None:
        decoder = config.part("added_tokens_decoder")
        for key in decoder.values:
            if not key.isdecimal() or len(key) > 10:
                raise BundleError(f"{decoder.where}: {key!r:.80} is no id")
            added.append(read_token(decoder.part(key), int(key)))
    else:
        sources.append(Fields.read(inside(folder, "special_tokens_map.json"), optional=True))
        special = {name for source in sources for name in _special_names(source)}
        ids = Fields.read(inside(folder, "added_tokens.json"), optional=True)
        for name in ids.values:
            index = ids.whole(name, None, least=0)
            if not name or index is None:
                raise BundleError(f"{ids.where}: {name!r:.80} needs an id")
            added.append(AddedToken(name, index, name in special, name not in special, ids.where))
    known = {token.name for token in added}
    for source in sources:
        for field in _ROLELESS:
            for name in _names(source, field):
                if name not in known:
                    known.add(name)
                    added.append(AddedToken(name, None, True, False, f"{source.where}: {field}"))
    return added


def with_added(ids: dict[str, int], added: list[AddedToken], where: str) -> list[str]:
    """The pieces of a vocabulary and the added tokens in the order of their ids, 0, 1, 2..."""
    ids = dict(ids)
    for token in added:
        # What the vocabulary has keeps its id.
        index = max(ids.values(), default=-1) + 1 if token.id is None else token.id
        if ids.setdefault(token.name, index) != index and token.id is not None:
            raise BundleError(
                f"{token.where}: {token.name!r:.80} has id {index} there, and {ids[token.name]} in "
                f"{where}"
            )
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        wrong = next(p for i, p in enumerate(pieces) if ids[p] != i)
        raise BundleError(
            f"{where}: model.vocab and added tokens: the ids are not 0 to {len(pieces) - 1}, each "
            f"once: {wrong!r:.80} has {ids[wrong]}"
        )
    return pieces


def _special_names(source: Fields) -> set[str]:
    names = {name for field in _ROLELESS for name in _names(source, field)}
    for field, value in source.values.items():
        if field.endswith("_token"):
            value = value.get("content") if isinstance(value, dict) else value
            names |= {value} if isinstance(value, str) else set()
    return names


def _names(source: Fields, field: str) -> list[str]:
    value: Any = source.values.get(field)
    if value is None or isinstance(value, dict):  # a dict has roles of its own for them
        value = list(value.values()) if value else []
    if not isinstance(value, list):
        raise BundleError(f"{source.where}: {field} must be a list. Received: {value!r:.80}")
    names = [item.get("content") if isinstance(item, dict) else item for item in value]
    for name in names:
        if not isinstance(name, str) or not name:
            raise BundleError(f"{source.where}: {field} must name tokens. Received: {name!r:.80}")
    return names
