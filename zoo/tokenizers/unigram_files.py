"""SentencePiece's unigram models as Hugging Face's libraries keep them, in a `tokenizer.json`."""

import base64
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, write_json
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.charsmap import QUOTES, read_charsmap, with_rules_before
from zoo.tokenizers.files import (
    added_token,
    cls_sep_template,
    read_added_tokens,
    read_pair_separators,
    tokenizer_json,
)

_METASPACE = {
    "type": "Metaspace",
    "replacement": spm.SPACE,
    "prepend_scheme": "always",
    "split": True,
}
# What SentencePiece does with spaces: none at the ends, one between words.
_ENDS = {"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""}
_DOUBLE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
_SPACES = (
    _ENDS,
    _DOUBLE,
    {**_DOUBLE, "content": spm.SPACE},
    {"type": "Replace", "pattern": {"Regex": r"\n"}, "content": " "},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Strip", "strip_left": True, "strip_right": True},
)
# What comes before a table of characters, in this order.
_ORDER = ("Replace", "NFKD", "StripAccents", "Lowercase", "Precompiled")
_QUOTES = tuple(
    {"type": "Replace", "pattern": {"String": source}, "content": target}
    for source, target in QUOTES.items()
)
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def read_unigram(path: str | os.PathLike[str], special: Collection[str] = ()) -> bytes:
    """The SentencePiece model that a `tokenizer.json` describes.

    Special tokens, and `special` ones that it has but does not call so, are control pieces; other
    added tokens are user-defined.

    Raises:
        BundleError: it asks for what a SentencePiece model does not do; the message names the
            field.
    """
    content = Fields.read(Path(path))
    model = content.part("model")
    model.require("type", ("Unigram",), "only unigram models are read of SentencePiece")
    charsmap = _read_charsmap(content)
    _check_splitter(content)
    vocabulary: Any = model.values.get("vocab")
    if not isinstance(vocabulary, list) or not all(map(_is_piece, vocabulary)):
        raise BundleError(f"{model.where}: vocab must be a list of [piece, score]")
    unknown = model.whole("unk_id", least=0, most=len(vocabulary) - 1)
    if unknown is None:
        raise BundleError(f"{model.where}: unk_id is missing")
    bytes_too = model.flag("byte_fallback", False)
    pieces = [
        (text, float(score), spm.BYTE if bytes_too and _BYTE.fullmatch(text) else spm.NORMAL)
        for text, score in vocabulary
    ]
    controls, others, _ = read_added_tokens(content)
    for name, index in sorted((controls | others).items(), key=lambda item: item[1]):
        if index > len(pieces) or (index < len(pieces) and pieces[index][0] != name):
            raise BundleError(
                f"{content.where}: added_tokens: {name!r:.80} has id {index}, which is none of the "
                "vocabulary's, nor the one after it"
            )
        kind = spm.CONTROL if name in controls else spm.USER_DEFINED
        pieces[index : index + 1] = [(name, 0.0, kind)]
    pieces[unknown] = (pieces[unknown][0], 0.0, spm.UNKNOWN)
    for index, (name, _, kind) in enumerate(pieces):
        if name in special and kind == spm.NORMAL:
            pieces[index] = (name, 0.0, spm.CONTROL)
    return spm.write_unigram_model(pieces, charsmap)


def read_encoder_options(path: str | os.PathLike[str], roles: Mapping[str, str]) -> dict[str, Any]:
    """The options of `SentencePieceTokenizer` that a `tokenizer.json` decides, for an encoder.

    Raises:
        BundleError: other tokens than those of `roles` stand around texts.
    """
    content = Fields.read(Path(path))
    special, others, flags = read_added_tokens(content)
    # Names are looked for in the text as it is: normalising changes few.
    own = {name: [f for f in flags.get(name, ()) if f != "normalized"] for name in special | others}
    own = {name: found for name, found in own.items() if found or name in others}
    separators = read_pair_separators(content, roles["cls"], roles["sep"])
    counted = {} if separators is None else {"pair_separators": separators}
    return {"added_tokens": own, **counted}


def write_unigram(
    model: bytes,
    folder: str | os.PathLike[str],
    before: Sequence[int] = (),
    after: Sequence[int] = (),
    separators: int | None = None,
    flags: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Writes `tokenizer.json` of a SentencePiece model; ids `before` and `after` go around texts.

    Of an encoder `separators` stand between two texts. `flags` are those of added tokens.

    Raises:
        ValueError: a model that the format has no place for.
    """
    pieces, charsmap = spm.read_unigram_model(model)
    kinds = [kind for _, _, kind in pieces]
    added = [
        added_token(
            name,
            index,
            special=kind != spm.USER_DEFINED,
            **dict.fromkeys((flags or {}).get(name, ()), True),
        )
        for index, (name, _, kind) in enumerate(pieces)
        if kind in (spm.CONTROL, spm.UNKNOWN, spm.USER_DEFINED)
    ]
    processor = _template(pieces, before, after)
    splitter: dict[str, Any] = _METASPACE
    if separators is not None:
        steps_of_text = [{"type": "WhitespaceSplit"}, _METASPACE]
        splitter = {"type": "Sequence", "pretokenizers": steps_of_text}
        cls, sep = ((pieces[index][0], index) for index in (*before, *after))
        processor = cls_sep_template(cls, sep, separators)
    steps: list[dict[str, Any]] = [_ENDS, _DOUBLE]
    if charsmap:
        encoded = base64.b64encode(charsmap).decode("ascii")
        steps.insert(0, {"type": "Precompiled", "precompiled_charsmap": encoded})
        if QUOTES.keys() <= read_charsmap(charsmap).keys():
            # That library looks for one character at a time in the table.
            steps = [*_QUOTES, *steps]
    content = tokenizer_json(
        added,
        normalizer={"type": "Sequence", "normalizers": steps},
        pre_tokenizer=splitter,
        post_processor=processor,
        decoder=_METASPACE,
        model={
            "type": "Unigram",
            "unk_id": kinds.index(spm.UNKNOWN),
            "vocab": [[text, score] for text, score, _ in pieces],
            "byte_fallback": spm.BYTE in kinds,
        },
    )
    write_json(Path(folder) / "tokenizer.json", content, ensure_ascii=False)


def _is_piece(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and type(entry[1]) in (int, float)
    )


def _steps(content: Fields, name: str, parts: str) -> list[Fields]:
    """The steps of a part, which may be one, several, or none."""
    if content.values.get(name) is None:
        return []
    part = content.part(name)
    return part.parts(parts) if part.values.get("type") == "Sequence" else [part]


def _read_charsmap(content: Fields) -> bytes:
    """The table of characters, with what comes before it."""
    charsmap, before, last = b"", {}, -1
    for step in _steps(content, "normalizer", "normalizers"):
        kind = step.values.get("type")
        if step.values in _SPACES:
            continue
        if step.values not in (*_QUOTES, *({"type": one} for one in _ORDER)):
            if kind != "Precompiled":
                raise BundleError(
                    f"{step.where}: {step.values!r:.200} is no step of a SentencePiece model's "
                    "normalizer; known are Precompiled and the removal of spaces, and before them "
                    "quotation marks, NFKD and StripAccents, Lowercase"
                )
            encoded = step.text("precompiled_charsmap") or ""
            try:
                charsmap = base64.b64decode(encoded, validate=True)
            except ValueError as error:
                problem = f"{step.where}: precompiled_charsmap is no base64 ({error})"
                raise BundleError(problem) from error
        place = _ORDER.index(kind)
        after = "NFKD" if last == 1 else None
        if place < last or (kind == "StripAccents") != (after is not None):
            raise BundleError(
                f"{step.where}: {kind} stands in another order than {', '.join(_ORDER)}"
            )
        last = place
        before[kind] = True
    replaced = QUOTES if "Replace" in before else {}
    return with_rules_before(charsmap, "Lowercase" in before, "NFKD" in before, replaced)


def _check_splitter(content: Fields) -> None:
    steps = _steps(content, "pre_tokenizer", "pretokenizers")
    if steps and steps[0].values.get("type") == "WhitespaceSplit":
        steps = steps[1:]
    if len(steps) != 1 or steps[0].values.get("type") != "Metaspace":
        raise BundleError(
            f"{content.where}: pre_tokenizer must be Metaspace, perhaps after WhitespaceSplit"
        )
    steps[0].require("replacement", (spm.SPACE,), "it stands for a space")
    if steps[0].values.get("prepend_scheme") is None:  # before tokenizers 0.15
        steps[0].require("add_prefix_space", (True,), "a space stands before each text")
    else:
        steps[0].require("prepend_scheme", ("always", "first"), "a space stands before each text")
    steps[0].require("split", (True,), "no piece holds several words")


def _template(
    pieces: Sequence[tuple[str, float, int]], before: Sequence[int], after: Sequence[int]
) -> dict[str, Any]:
    """The post-processor that puts ids around a text."""

    def around(name: str) -> list[dict[str, Any]]:
        parts = [
            [{"SpecialToken": {"id": pieces[i][0], "type_id": 0}} for i in ids] for ids in sides
        ]
        return [*parts[0], {"Sequence": {"id": name, "type_id": 0}}, *parts[1]]

    sides = (before, after)
    special = {
        pieces[i][0]: {"id": pieces[i][0], "ids": [i], "tokens": [pieces[i][0]]}
        for i in (*before, *after)
    }
    pair = [*around("A"), *around("B")]
    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": pair,
        "special_tokens": special,
    }
