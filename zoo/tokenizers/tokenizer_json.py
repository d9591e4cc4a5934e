"""Parts of Hugging Face's `tokenizer.json` that both families of tokenizers write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def tokenizer_json(added_tokens: Iterable[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    """The file's content; `parts` are its normalizer, pre_tokenizer and so on."""
    head = {"version": "1.0", "truncation": None, "padding": None}
    return {**head, "added_tokens": list(added_tokens), **parts}


def added_token(
    name: str, index: int, lstrip: bool = False, normalized: bool = False, special: bool = True
) -> dict[str, Any]:
    """A token that is found in texts before they are split into words."""
    return {
        "id": index,
        "content": name,
        "single_word": False,
        "lstrip": lstrip,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    }


def cls_sep_template(cls: tuple[str, int], sep: tuple[str, int]) -> dict[str, Any]:
    """The post-processor of one text, "[CLS] A [SEP]", and of two, "[CLS] A [SEP] B [SEP]"."""

    def special(token: tuple[str, int], segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token[0], "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special(cls, 0), text("A", 0), special(sep, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), special(sep, 1)],
        "special_tokens": {
            name: {"id": name, "ids": [index], "tokens": [name]} for name, index in (cls, sep)
        },
    }
