"""Tokenizers in the metadata of a GGUF file, read into ours."""

from collections.abc import Sequence
from typing import Any

from absl import logging

from zoo.config import Fields
from zoo.files import BundleError
from zoo.text.chat_form import ChatForm
from zoo.text.chat_template import chat_form
from zoo.tokenizers import ByteFallbackTokenizer, BytePairTokenizer
from zoo.tokenizers.causal import CausalTokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_SPACE = "\u2581"
# `tokenizer.ggml.pre` -> how texts are split.
_PATTERNS = {
    **dict.fromkeys(("gpt-2", "gpt2", "default"), "gpt2"),
    **dict.fromkeys(("smollm", "starcoder"), "smollm"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), "llama3"),
    "qwen2": "qwen2",
}
# Llama 3's own: pieces count before merges, and a token stands before every text.
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_END_FIELDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Tokens that end an answer whether or not a file says so.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
# Of Phi-3's tokens those that leave a blank behind them alone.
_PHI3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")


def read_gguf_tokenizer(metadata: Fields, architecture: str) -> CausalTokenizer:
    """The tokenizer of a language model, which finds its special tokens in texts.

    Raises:
        BundleError: a kind of tokenizer or a rule of splitting that is not known here, or metadata
            that do not belong together.
    """
    fields = _tokenizer_fields(metadata)
    kind = fields.require("model", ("gpt2", "llama"), "no other kind of tokenizer is known")
    fields.require("add_eos_token", (False,), "an answer goes on where the text ends")
    for field in ("precompiled_charsmap", "remove_extra_whitespaces"):
        fields.require(field, (None, False), "texts are kept as they are")
    pieces = _list(fields, "tokens", str)
    kinds = _list(fields, "token_type", int, "whole numbers")
    if len(kinds) != len(pieces):
        raise BundleError(
            f"{fields.where}: {len(pieces)} tokens and {len(kinds)} values of token_type"
        )
    while kinds and kinds[-1] == _UNUSED:  # rows of the embedding that no token has
        kinds.pop()
        pieces.pop()
    if kind == "llama":  # blanks stand in these names as in a text
        pieces = [
            piece.replace(" ", _SPACE) if type_ == _USER_DEFINED else piece
            for piece, type_ in zip(pieces, kinds)
        ]
    special = {p: i for i, p in enumerate(pieces) if kinds[i] in (_UNKNOWN, _CONTROL)}
    added: dict[str, list[str]] = {p: [] for i, p in enumerate(pieces) if kinds[i] == _USER_DEFINED}
    options = {"vocabulary": pieces, "special_tokens": special, "added_tokens": added}
    options |= {"parse_special": True, **_ends(fields, pieces, special)}
    if kind == "llama":
        if architecture == "phi3":
            stripped = [name for name in special if name not in _PHI3_PLAIN]
            added |= {name: ["rstrip"] for name in stripped}
        scores = fields.values.get("scores")
        if not isinstance(scores, list) or len(scores) < len(pieces):
            raise BundleError(f"{fields.where}: scores must be a number for each token")
        return ByteFallbackTokenizer(
            **options,
            merges=_merges(pieces, kinds, scores),
            prefix="prepend" if fields.flag("add_space_prefix", True) else "never",
            start=_start(fields, pieces, default=True),
        )
    rule = fields.text("pre", "default")
    if rule not in _PATTERNS:
        raise BundleError(
            f"{fields.where}: pre is {rule!r:.80}; known rules are {', '.join(_PATTERNS)}"
        )
    if rule == "default":
        logging.warning(
            "%s: pre is not told, as in files of before May 2024: texts are split as GPT-2 does, "
            "which may not be what the model was trained with",
            fields.where,
        )
    return BytePairTokenizer(
        **options,
        merges=_list(fields, "merges", str),
        pattern=_PATTERNS[rule],
        nfc=rule == "qwen2",
        ignore_merges=rule in _LLAMA3,
        start=_start(fields, pieces, default=rule in _LLAMA3),
    )


def read_gguf_chat_form(metadata: Fields) -> ChatForm | None:
    """The form of the chat template in the metadata, None without a template.

    Raises:
        ChatTemplateError: the template has no form; the message says why.
    """
    source = metadata.text("tokenizer.chat_template")
    if source is None:
        return None
    fields = _tokenizer_fields(metadata)
    pieces = _list(fields, "tokens", str)
    names = (_named(fields, f"{token}_token_id", pieces) or "" for token in ("bos", "eos"))
    return chat_form(source, *names)


def _tokenizer_fields(metadata: Fields) -> Fields:
    start = "tokenizer.ggml."
    values = metadata.values.items()
    own = {key.removeprefix(start): value for key, value in values if key.startswith(start)}
    return Fields(own, f"{metadata.where}: tokenizer.ggml")


def _list(fields: Fields, name: str, kind: type, meaning: str = "strings") -> list:
    """A list of values of one type."""
    values = fields.values.get(name)
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise BundleError(f"{fields.where}: {name} must be a list of {meaning}")
    return [*values]


def _named(fields: Fields, field: str, pieces: Sequence[str]) -> str | None:
    """The piece whose id a field has, None if there is no such field."""
    index = fields.whole(field, least=0, most=max(len(pieces) - 1, 0))
    return None if index is None else pieces[index]


def _start(fields: Fields, pieces: Sequence[str], default: bool) -> str | None:
    """The token that stands before every text."""
    return _named(fields, "bos_token_id", pieces) if fields.flag("add_bos_token", default) else None


def _ends(fields: Fields, pieces: Sequence[str], special: dict[str, int]) -> dict[str, Any]:
    """The options `end` and `ends`."""
    named = [_named(fields, field, pieces) for field in _END_FIELDS]
    ends = [*dict.fromkeys([*named, *(name for name in _TURN_ENDS if name in special)])]
    found = [name for name in ends if name is not None]
    if named[0] is None:
        raise BundleError(f"{fields.where}: eos_token_id is missing: nothing would end a text")
    return {"end": found[0], "ends": found[1:]}


def _merges(pieces: list[str], kinds: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """What SentencePiece's scores say as merges: the pieces of the highest score come first."""
    # A user's own piece is found before all others.
    ranks = {
        piece: float("inf") if kind == _USER_DEFINED else score
        for piece, kind, score in zip(pieces, kinds, scores)
        if kind in (_NORMAL, _USER_DEFINED)
    }
    merges = [
        (piece[:cut], piece[cut:])
        for piece in ranks
        for cut in range(1, len(piece))
        if piece[:cut] in ranks and piece[cut:] in ranks
    ]
    # Of the pairs that make one piece the one with the longer left part is first.
    merges.sort(key=lambda pair: (-ranks[pair[0] + pair[1]], -len(pair[0]), -len(pair[1])))
    return merges
