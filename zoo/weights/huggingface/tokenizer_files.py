"""Tokenizers as transformers keeps them: read into ours, and written for it to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import logging

from zoo.config import Fields
from zoo.files import BundleError, inside, replacing
from zoo.tokenizers import BytePairTokenizer, Tokenizer, WordPieceTokenizer
from zoo.tokenizers.bytepair.files import read_vocabulary
from zoo.tokenizers.tokenizer_json import added_token, cls_sep_template, tokenizer_json
from zoo.weights.families import HUGGINGFACE
from zoo.weights.huggingface.added_tokens import (
    AddedToken,
    read_added_tokens,
    read_token,
    with_added,
)

# Classes that do what tokenizer.json says; the others have rules of their own.
_GENERIC = "PreTrainedTokenizerFast"
_GENERICS = (_GENERIC, "TokenizersBackend")
_WORDPIECE_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_BYTEPAIR_NAMES = {
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
_END_OF_TEXT = "<|endoftext|>"
_ROLES = {"unk_token": "unknown"}  # the others are called as here, without "_token"


def read_tokenizer(folder: Path, model_type: str, lowercase: bool = False) -> Tokenizer:
    """The tokenizer in a folder of transformers.

    Which rules hold is decided as transformers 5 decides it: a class of the model's own, such as
    BertTokenizer, takes them from `tokenizer_config.json`, and from `tokenizer.json` only the
    vocabulary; the class PreTrainedTokenizerFast takes all from `tokenizer.json`. With `lowercase`
    texts are lowercased first, as sentence-transformers may.

    Raises:
        BundleError: no tokenizer, or one that asks for something that ours does not do; the
            message names the file.
    """
    config = Fields.read(inside(folder, "tokenizer_config.json"), optional=True)
    kind, own_class = HUGGINGFACE[model_type].tokenizer
    name = config.text("tokenizer_class", own_class)
    allowed = (own_class, *_GENERICS)
    # A BERT may say DistilBertTokenizer and the other way round: they are the same.
    if kind == "wordpiece":
        allowed += ("BertTokenizer", "DistilBertTokenizer")
    if name.removesuffix("Fast") not in allowed and name not in allowed:
        raise BundleError(
            f"{config.where}: tokenizer_class is {name!r}; supported for {model_type} are "
            f"{', '.join(dict.fromkeys(allowed))}"
        )
    generic = name in _GENERICS
    try:
        if kind == "wordpiece":
            return _wordpiece(folder, config, generic, lowercase)
        if lowercase:
            raise BundleError(
                f"{folder / 'sentence_bert_config.json'}: do_lower_case is supported for WordPiece "
                "tokenizers alone"
            )
        return _bytepair(folder, config, model_type, generic)
    except BundleError:
        raise
    except (ValueError, TypeError) as error:
        raise BundleError(f"{folder}: {error}") from error


def write_tokenizer(tokenizer: Tokenizer, folder: Path, model_type: str, max_length: int) -> None:
    """Writes the files from which transformers makes a tokenizer with the same ids."""
    if isinstance(tokenizer, WordPieceTokenizer):
        tokenizer.write_vocabulary(folder / "vocab.txt")
        _write_json(folder / "tokenizer.json", _wordpiece_json(tokenizer))
        plain = tokenizer.max_word_characters == 100  # what BertTokenizer has, whatever is written
        config = {
            **_WORDPIECE_NAMES,
            "do_lower_case": tokenizer.lowercase,
            "strip_accents": tokenizer.strip_accents,
            "tokenize_chinese_chars": tokenizer.split_cjk,
        }
    else:
        tokenizer.write_files(folder)
        config = {"add_prefix_space": tokenizer.add_prefix_space}
        if model_type == "roberta":
            config |= {f"{role}_token": name for role, name in tokenizer.roles.items()}
            config["unk_token"] = config.pop("unknown_token", tokenizer.end)
            config |= {"bos_token": config["cls_token"], "eos_token": tokenizer.end}
            expected = set(_BYTEPAIR_NAMES.values())
            plain = tokenizer.pair_separators == 2 and tokenizer.end == config["sep_token"]
        else:
            config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), tokenizer.end)
            expected, plain = {_END_OF_TEXT}, True
        plain = plain and set(tokenizer.special_tokens) == expected
    config["tokenizer_class"] = HUGGINGFACE[model_type].tokenizer[1] if plain else _GENERIC
    config["model_max_length"] = max_length
    if model_type != "bert":
        config["model_input_names"] = ["input_ids", "attention_mask"]
    _write_json(folder / "tokenizer_config.json", config)


def _wordpiece(folder: Path, config: Fields, generic: bool, lowercase: bool) -> WordPieceTokenizer:
    for field, name in _WORDPIECE_NAMES.items():
        _require_name(config, field, name)
    options: dict[str, Any] = {
        "lowercase": config.flag("do_lower_case", True),
        "strip_accents": config.flag("strip_accents", None),
        "split_cjk": config.flag("tokenize_chinese_chars", True),
    }
    path, vocab = inside(folder, "tokenizer.json"), inside(folder, "vocab.txt")
    added = read_added_tokens(folder, config)
    if path.is_file():
        ids, found_added, found = _read_wordpiece_json(path)
        names = {token.name for token in found_added}
        added = [*found_added, *(token for token in added if token.name not in names)]
        if generic:
            options = found
        elif any(found[key] != options[key] for key in options):
            logging.warning(
                "%s: its normalizer is not what %s says; the latter counts, as in transformers",
                path,
                config.where,
            )
    elif generic or not vocab.is_file():
        raise BundleError(f"{folder}: no tokenizer.json{'' if generic else ' and no vocab.txt'}")
    else:
        path = vocab
        read = WordPieceTokenizer.read_vocabulary(vocab)
        ids = {piece: index for index, piece in enumerate(read)}
        if len(ids) < len(read):
            WordPieceTokenizer(read)  # it says which piece comes twice
    if lowercase and not options["lowercase"]:
        # Before the tokenizer, so that it says nothing of accents.
        options |= {"lowercase": True, "strip_accents": bool(options["strip_accents"])}
    pieces = with_added(ids, added, str(path))
    names = {token.name: token.normalized for token in added}
    try:
        return WordPieceTokenizer(pieces, **options, added_tokens=names)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: {error}") from error


def _read_wordpiece_json(path: Path) -> tuple[dict[str, int], list[AddedToken], dict[str, Any]]:
    """The pieces and their ids, the added tokens, and the options of `WordPieceTokenizer`."""
    where = str(path)
    content = Fields.read(path)
    model = content.part("model")
    model.require("type", ("WordPiece",), "a BERT here reads WordPiece")
    model.require("unk_token", ("[UNK]",), "it is the name of the unknown piece")
    model.require("continuing_subword_prefix", ("##",), "it marks pieces within a word")
    normalizer = content.part("normalizer")
    normalizer.require("type", ("BertNormalizer",), "no other rules are known")
    normalizer.require("clean_text", (True,), "control characters are always removed")
    splitter = content.part("pre_tokenizer")
    splitter.require("type", ("BertPreTokenizer",), "no other rules are known")
    ids = model.part("vocab").values
    if not all(type(index) is int for index in ids.values()):
        raise BundleError(f"{where}: model.vocab: ids must be whole numbers")
    added = [read_token(token) for token in content.parts("added_tokens")]
    options = {
        "lowercase": normalizer.flag("lowercase", True),
        "strip_accents": normalizer.flag("strip_accents", None),
        "split_cjk": normalizer.flag("handle_chinese_chars", True),
        "max_word_characters": model.whole("max_input_chars_per_word", 100),
    }
    return ids, added, options


def _bytepair(folder: Path, config: Fields, model_type: str, generic: bool) -> BytePairTokenizer:
    options: dict[str, Any] = {}
    if not generic:
        options["add_prefix_space"] = config.flag("add_prefix_space", False)
    if model_type == "roberta":
        for field, name in _BYTEPAIR_NAMES.items():
            _require_name(config, field, name)
        roles = {_ROLES.get(k, k.removesuffix("_token")): v for k, v in _BYTEPAIR_NAMES.items()}
        options |= {"roles": roles, "end": "</s>", "parse_special": True}
        if not generic:
            options["pair_separators"] = 2
    path = inside(folder, "tokenizer.json")
    if path.is_file():
        return BytePairTokenizer.from_tokenizer_json(path, **options)
    files = [inside(folder, "vocab.json"), inside(folder, "merges.txt")]
    missing = [file.name for file in files if not file.is_file()]
    if generic or missing:
        raise BundleError(f"{folder}: no tokenizer.json, and no {' and no '.join(missing)}")
    names = [*_BYTEPAIR_NAMES.values()] if model_type == "roberta" else [_END_OF_TEXT]
    added = [token for token in read_added_tokens(folder, config) if token.name not in names]
    for token in added:
        if not token.special:
            raise BundleError(
                f"{token.where}: {token.name!r:.80} is not special, and only special tokens may be "
                "added to byte pairs: name it in additional_special_tokens of "
                "special_tokens_map.json"
            )
    if added:
        # transformers finds them in any text, and what is added is there to be found.
        options["parse_special"] = True
        ids = read_vocabulary(files[0])
        if not all(type(index) is int for index in ids.values()):
            raise BundleError(f"{files[0]}: ids must be whole numbers")
        more = [AddedToken(n, None, True, False, str(files[0])) for n in names if n not in ids]
        pieces = with_added(ids, [*added, *more], str(files[0]))
        known = {*names, *(token.name for token in added)}
        names = {piece: index for index, piece in enumerate(pieces) if piece in known}
    return BytePairTokenizer.from_files(*files, special_tokens=names, **options)


def _wordpiece_json(tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` that gives the same ids."""
    vocabulary = {piece: index for index, piece in enumerate(tokenizer.vocabulary)}
    ids, added = tokenizer.special_tokens, tokenizer.added_tokens
    # Those at the end of the vocabulary are pieces of no word.
    words = dict(vocabulary)
    for piece in reversed(tokenizer.vocabulary):
        if piece not in added:
            break
        del words[piece]
    return tokenizer_json(
        [
            added_token(
                name, index, normalized=added.get(name, False), special=not added.get(name, False)
            )
            for name, index in vocabulary.items()
            if name in ids or name in added
        ],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": tokenizer.split_cjk,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": tokenizer.lowercase,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=cls_sep_template(("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": tokenizer.max_word_characters,
            "vocab": words,
        },
    )


def _require_name(config: Fields, field: str, name: str) -> None:
    value = config.values.get(field)
    if isinstance(value, dict):  # with flags that say how blanks around it are taken
        value = value.get("content")
    if value not in (None, name):
        raise BundleError(f"{config.where}: {field} is {value!r}, and only {name!r} is supported")


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
