"""Tokenizers of decoders in a Hugging Face folder, where all that `tokenizer.json` says counts, and
their chat templates.

What ends an answer comes from `generation_config.json`, else `config.json`; what stands before a
text from `tokenizer_config.json` if that says so, as in transformers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, blaming, inside
from zoo.text.chat_form import ChatForm
from zoo.text.chat_template import chat_form
from zoo.tokenizers import ByteFallbackTokenizer, BytePairTokenizer
from zoo.tokenizers.bytefallback import read_byte_fallback
from zoo.tokenizers.bytepair.files import read_byte_pairs
from zoo.tokenizers.causal import CausalTokenizer

CHAT_TEMPLATE_FILE = "chat_template.jinja"
CAUSAL_KINDS = (BytePairTokenizer.kind, ByteFallbackTokenizer.kind)


def read_causal_tokenizer(folder: Path) -> CausalTokenizer:
    """The tokenizer of a language model, which finds its special tokens in texts.

    Raises:
        BundleError: there is no `tokenizer.json`, or a file asks for what is not known here.
    """
    path = inside(folder, "tokenizer.json")
    if not path.is_file():
        raise BundleError(f"{folder}: no tokenizer.json; transformers' save_pretrained writes one")
    falls_back = Fields.read(path).part("model").flag("byte_fallback", False)
    kind: type[CausalTokenizer] = ByteFallbackTokenizer if falls_back else BytePairTokenizer
    with blaming(path):
        options = read_byte_fallback(path) if falls_back else read_byte_pairs(path)
    options["parse_special"] = True
    ids = options["vocabulary"] | options["special_tokens"]
    config = Fields.read(inside(folder, "tokenizer_config.json"), optional=True)
    _require_added(config, ids)
    if {"add_bos_token", "add_eos_token"} & config.values.keys():
        config.require("add_eos_token", (False,), "an answer goes on where the text ends")
        options["start"] = _name(config, "bos_token") if config.flag("add_bos_token") else None
    end, names = _name(config, "eos_token"), _ends(folder, ids)
    ends = dict.fromkeys([*([end] if end else []), *names])
    special = [name for name in ends if name in options["special_tokens"]]
    if special:
        options["end"] = special[0]
    options["ends"] = [name for name in ends if name != options.get("end")]
    with blaming(path, TypeError):
        return kind(**options)


def read_chat_form(folder: Path) -> ChatForm | None:
    """The form of the chat template in a folder, None without a template.

    Raises:
        ChatTemplateError: the template has no form; the message says why.
        BundleError: a file cannot be read.
    """
    config = Fields.read(inside(folder, "tokenizer_config.json"), optional=True)
    source: Any = config.values.get("chat_template")
    if isinstance(source, list):  # several, of which one is for chats
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    path = inside(folder, CHAT_TEMPLATE_FILE)
    if path.is_file():  # transformers prefers it, too
        with blaming(path):
            source = path.read_text(encoding="utf-8")
    if source is None:
        return None
    if not isinstance(source, str):
        raise BundleError(f"{config.where}: chat_template must be text. Received: {source!r:.80}")
    tokens = {name: _name(config, name) or "" for name in ("bos_token", "eos_token")}
    return chat_form(source, **tokens)


def _name(config: Fields, field: str) -> str | None:
    """A token's name, which may stand among flags that say how blanks around it are taken."""
    value = config.values.get(field)
    return config.part(field).text("content") if isinstance(value, dict) else config.text(field)


def _ends(folder: Path, ids: Mapping[str, int]) -> list[str]:
    """The names of all tokens that end an answer."""
    names = {index: name for name, index in ids.items()}
    for file in ("generation_config.json", "config.json"):
        config = Fields.read(inside(folder, file), optional=True)
        value: Any = config.values.get("eos_token_id")
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        if unknown := [index for index in values if type(index) is not int or index not in names]:
            raise BundleError(
                f"{config.where}: eos_token_id: {unknown[0]!r:.80} is no id of tokenizer.json"
            )
        return [names[index] for index in values]
    return []


def _require_added(config: Fields, ids: Mapping[str, int]) -> None:
    """Refuses tokens that transformers would add to those of `tokenizer.json`."""
    if config.values.get("added_tokens_decoder") is None:
        return
    decoder = config.part("added_tokens_decoder")
    for key in decoder.values:
        name = decoder.part(key).text("content")
        if name not in ids or str(ids[name]) != key:
            raise BundleError(
                f"{decoder.where}: {name!r:.80} is not in tokenizer.json with id {key!r:.20}; save "
                "the tokenizer with transformers once more"
            )
