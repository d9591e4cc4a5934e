"""Tokenizers as transformers keeps them, read into ours."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from zoo.config import Fields
from zoo.files import BundleError, blaming, existing, inside
from zoo.models.configs import BertConfig
from zoo.tokenizers import BytePairTokenizer, MarianTokenizer, Tokenizer, WordPieceTokenizer
from zoo.tokenizers.files import read_lines
from zoo.weights.encoders import XLM_ROBERTA
from zoo.weights.families import HUGGINGFACE
from zoo.weights.huggingface.causal_tokenizers import read_causal_tokenizer
from zoo.weights.huggingface.sentencepiece_files import read_sentencepiece

# Classes that do what tokenizer.json says; the others have rules of their own.
GENERIC = "PreTrainedTokenizerFast"
_GENERICS = (GENERIC, "TokenizersBackend")
END_OF_TEXT = "<|endoftext|>"


@dataclasses.dataclass(frozen=True)
class _AddedToken:
    """A name that is found in a text before the text is cut into pieces."""

    name: str
    id: int | None  # None comes after all others
    special: bool  # it stands for no text
    normalized: bool  # it is looked for in the normalised text
    where: str  # file and field, for messages


def read_tokenizer(folder: Path, model_type: str, lowercase: bool = False) -> Tokenizer:
    """The tokenizer in a folder; with `lowercase`, sentence-transformers', of lowercased texts."""
    # As in transformers 5, a class of the model's own takes from tokenizer.json the vocabulary
    # only, and its rules from tokenizer_config.json; PreTrainedTokenizerFast takes all from the
    # former.
    config = Fields.read(inside(folder, "tokenizer_config.json"), optional=True)
    family = HUGGINGFACE[model_type]
    kind, own_class = family.tokenizer
    if kind == "causal":
        return read_causal_tokenizer(folder)
    name = config.text("tokenizer_class", own_class)
    allowed = (own_class, *_GENERICS)
    encodes = family.config is BertConfig
    if encodes and kind != "sentencepiece" and _is_unigram(folder, name):
        # Multilingual E5 is a BERT with XLM-R's tokenizer.
        family = XLM_ROBERTA
        kind, allowed = "sentencepiece", (*allowed, XLM_ROBERTA.tokenizer[1])
    elif kind == "sentencepiece" and not encodes:
        allowed += ("MT5Tokenizer", "MBart50Tokenizer")
    # A BERT may say DistilBertTokenizer and the other way round: they are the same.
    if kind == "wordpiece":
        allowed += ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
    if name.removesuffix("Fast") not in allowed and name not in allowed:
        raise BundleError(
            f"{config.where}: tokenizer_class is {name!r}; supported for {model_type} are "
            f"{', '.join(dict.fromkeys(allowed))}"
        )
    if lowercase and kind != "wordpiece":
        where = folder / "sentence_bert_config.json"
        raise BundleError(f"{where}: do_lower_case is supported for WordPiece tokenizers alone")
    found = Fields({k: _content(v) for k, v in config.values.items()}, config.where)
    for field, expected in family.special_tokens.items():
        found.require(field, (expected,), f"that is its name in {model_type}")
    with blaming(folder, TypeError):
        if kind == "sentencepiece":
            roles = encoder_roles(family.special_tokens) if encodes else None
            return read_sentencepiece(folder, config, name, roles, family.pair_separators)
        if kind == "marian":
            return _marian(folder, config)
        if kind == "wordpiece":
            return _wordpiece(folder, config, name in _GENERICS, lowercase)
        return _bytepair(folder, config, family.special_tokens, name in _GENERICS)


def _is_unigram(folder: Path, name: str) -> bool:
    """Whether a class, or the file that a generic one reads, is of a SentencePiece model."""
    if name not in _GENERICS:
        return name.removesuffix("Fast") == XLM_ROBERTA.tokenizer[1]
    content = Fields.read(inside(folder, "tokenizer.json"), optional=True)
    return bool(content.values) and content.part("model").text("type") == "Unigram"


def encoder_roles(special_tokens: Mapping[str, str]) -> dict[str, str]:
    """Role -> name of special tokens by their fields in tokenizer_config.json."""
    roles = {field.removesuffix("_token"): name for field, name in special_tokens.items()}
    roles["unknown"] = roles.pop("unk")
    return roles


def _wordpiece(folder: Path, config: Fields, generic: bool, lowercase: bool) -> WordPieceTokenizer:
    options: dict[str, Any] = {
        "lowercase": config.flag("do_lower_case", True),
        "strip_accents": config.flag("strip_accents"),
        "split_cjk": config.flag("tokenize_chinese_chars", True),
    }
    path, vocab = inside(folder, "tokenizer.json"), inside(folder, "vocab.txt")
    added = _read_added_tokens(folder, config)
    if path.is_file():
        ids, found_added, found = _read_wordpiece_json(path)
        names = {token.name for token in found_added}
        added = [*found_added, *(token for token in added if token.name not in names)]
        if generic:
            options = found
        elif any(found[key] != options[key] for key in options):
            why = "%s: its normalizer is not what %s says; the latter counts, as in transformers"
            logging.warning(why, path, config.where)
    elif generic or not vocab.is_file():
        raise BundleError(f"{folder}: no tokenizer.json{'' if generic else ' and no vocab.txt'}")
    else:
        path = vocab
        read = read_lines(vocab)
        ids = {piece: index for index, piece in enumerate(read)}
        if len(ids) < len(read):
            WordPieceTokenizer(read)  # it says which piece comes twice
    if lowercase and not options["lowercase"]:
        # Before the tokenizer, so that it says nothing of accents.
        options |= {"lowercase": True, "strip_accents": bool(options["strip_accents"])}
    pieces = _with_added(ids, added, path)
    names = {token.name: token.normalized for token in added}
    with blaming(path, TypeError):
        return WordPieceTokenizer(pieces, **options, added_tokens=names)


def _read_wordpiece_json(path: Path) -> tuple[dict[str, Any], list[_AddedToken], dict[str, Any]]:
    """The pieces and their ids, the added tokens, and the options of `WordPieceTokenizer`."""
    content = Fields.read(path)
    model, normalizer = content.part("model"), content.part("normalizer")
    why = "no other rules are known"
    for part, field, value in (
        (model, "type", "WordPiece"),
        (model, "unk_token", "[UNK]"),
        (model, "continuing_subword_prefix", "##"),
        (normalizer, "type", "BertNormalizer"),
        (normalizer, "clean_text", True),
        (content.part("pre_tokenizer"), "type", "BertPreTokenizer"),
    ):
        part.require(field, (value,), why)
    options = {
        "lowercase": normalizer.flag("lowercase", True),
        "strip_accents": normalizer.flag("strip_accents"),
        "split_cjk": normalizer.flag("handle_chinese_chars", True),
        "max_word_characters": model.whole("max_input_chars_per_word", 100),
    }
    added = [_read_token(token) for token in content.parts("added_tokens")]
    return model.part("vocab").values, added, options


def _marian(folder: Path, config: Fields) -> MarianTokenizer:
    config.require("separate_vocabs", (False,), "source and target have one vocabulary")
    names = ("vocab.json", "source.spm", "target.spm")
    advice = "Marian's tokenizer is these three: " + ", ".join(names)
    return MarianTokenizer.from_files(*(existing(folder, name, advice=advice) for name in names))


def _bytepair(
    folder: Path, config: Fields, special: dict[str, str], generic: bool
) -> BytePairTokenizer:
    options: dict[str, Any] = {}
    if special:
        options = {
            "roles": encoder_roles(special),
            "end": special["sep_token"],
            "parse_special": True,
        }
    if not generic:
        options["add_prefix_space"] = config.flag("add_prefix_space", False)
        options |= {"pair_separators": 2} if special else {}
    path = inside(folder, "tokenizer.json")
    if path.is_file():
        return BytePairTokenizer.from_tokenizer_json(path, **options)
    files = [inside(folder, "vocab.json"), inside(folder, "merges.txt")]
    missing = [file.name for file in files if not file.is_file()]
    if generic or missing:
        raise BundleError(f"{folder}: no tokenizer.json, and no {' and no '.join(missing)}")
    names: Any = [*special.values()] or [END_OF_TEXT]
    added = [token for token in _read_added_tokens(folder, config) if token.name not in names]
    for token in added:
        if not token.special:
            raise BundleError(
                f"{token.where}: {token.name!r:.80} is not special, and only special tokens may be "
                "added to byte pairs: name it in special_tokens_map.json: additional_special_tokens"
            )
    if added:
        # transformers finds them in any text, and what is added is there to be found.
        options["parse_special"] = True
        ids = Fields.read(files[0]).values
        more = [_AddedToken(n, None, True, False, str(files[0])) for n in names if n not in ids]
        pieces = _with_added(ids, [*added, *more], files[0])
        known = {*names, *(token.name for token in added)}
        names = {piece: index for index, piece in enumerate(pieces) if piece in known}
    return BytePairTokenizer.from_files(*files, special_tokens=names, **options)


def _read_token(token: Fields, index: int | None = None) -> _AddedToken:
    """An entry of a `tokenizer.json`'s `added_tokens`, or, by its id, `added_tokens_decoder`."""
    # Blanks around it, which it may take in, have no ids in WordPiece, and byte pairs check that.
    name = token.text("content")
    index = token.whole("id", least=0) if index is None else index
    if not name or index is None:
        raise BundleError(f"{token.where}: {'id' if name else 'content'} is missing")
    token.require("single_word", (False,), "names are found within words, too")
    special = token.flag("special", False)
    return _AddedToken(name, index, special, token.flag("normalized", not special), token.where)


def _read_added_tokens(folder: Path, config: Fields) -> list[_AddedToken]:
    """The added tokens in the files beside a vocabulary, as transformers gathers them."""
    sources, added = [config], []
    if config.values.get("added_tokens_decoder") is not None:
        decoder = config.part("added_tokens_decoder")
        for key in decoder.values:
            if not key.isdecimal() or len(key) > 10:
                raise BundleError(f"{decoder.where}: {key!r:.80} is no id")
            added.append(_read_token(decoder.part(key), int(key)))
    else:  # a folder of before 2023
        sources.append(Fields.read(inside(folder, "special_tokens_map.json"), optional=True))
        fields = [item for source in sources for item in source.values.items()]
        special = [_content(value) for field, value in fields if field.endswith("_token")]
        special += [name for source in sources for name, _ in _roleless(source)]
        ids = Fields.read(inside(folder, "added_tokens.json"), optional=True)
        for name in ids.values:
            index = ids.whole(name, least=0)
            if not name or index is None:
                raise BundleError(f"{ids.where}: {name!r:.80} needs an id")
            added.append(_AddedToken(name, index, name in special, name not in special, ids.where))
    for source in sources:
        for name, where in _roleless(source):
            if name not in [token.name for token in added]:
                added.append(_AddedToken(name, None, True, False, where))
    return added


def _roleless(source: Fields) -> Iterator[tuple[str, str]]:
    """Name and place of special tokens without a role; the second field is of transformers 5."""
    for field in ("additional_special_tokens", "extra_special_tokens"):
        value: Any = source.values.get(field) or []
        items = list(value.values()) if isinstance(value, dict) else value
        names = [_content(item) for item in items] if isinstance(items, list) else [None]
        if not all(isinstance(name, str) and name for name in names):
            raise BundleError(
                f"{source.where}: {field} must be a list of tokens. Received: {value!r:.80}"
            )
        yield from ((name, f"{source.where}: {field}") for name in names)


def _content(token: Any) -> Any:
    """A token's name, which may stand among flags that say how blanks around it are taken."""
    return token.get("content") if isinstance(token, dict) else token


def _with_added(ids: dict[str, Any], added: list[_AddedToken], where: Path) -> list[str]:
    """The pieces of a vocabulary and the added tokens in the order of their ids, 0, 1, 2..."""
    if not all(type(index) is int for index in ids.values()):
        raise BundleError(f"{where}: model.vocab: ids must be whole numbers")
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
    for index, piece in enumerate(pieces):
        if ids[piece] != index:
            raise BundleError(
                f"{where}: model.vocab and added tokens: the ids are not 0 to {len(pieces) - 1}, "
                f"each once: {piece!r:.80} has {ids[piece]}"
            )
    return pieces
