"""Files of tokenizers as Hugging Face's libraries, OpenAI and BERT's programs write them."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, blaming, replacing
from zoo.tokenizers.special_tokens import FLAGS

VERSION = "#version: 0.2"  # the first line of a `merges.txt`


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a `vocab.txt` or `merges.txt`; BundleError, naming the file, if not UTF-8."""
    with blaming(path), open(path, encoding="utf-8", newline="") as file:
        lines = file.read().split("\n")  # A piece may be a line separator of Unicode.
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Writes lines, each with a line feed; a reader never sees half of them."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.writelines(line + "\n" for line in lines)


def tokenizer_json(added_tokens: Iterable[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    """A `tokenizer.json`'s content; `parts` are its normalizer, pre_tokenizer and so on."""
    head = {"version": "1.0", "truncation": None, "padding": None}
    return {**head, "added_tokens": list(added_tokens), **parts}


def read_added_tokens(
    content: Fields,
) -> tuple[dict[str, int], dict[str, int], dict[str, list[str]]]:
    """Ids of the special tokens and of the others, and the flags of those that have some."""
    special: dict[str, int] = {}
    others: dict[str, int] = {}
    flags: dict[str, list[str]] = {}
    for token in content.parts("added_tokens"):
        name, index = token.text("content") or "", token.whole("id", least=0)
        token.require("single_word", (False,), f"{name!r:.80} is found within words, too")
        is_special = token.flag("special", False)
        (special if is_special else others)[name] = index
        own = [flag for flag in FLAGS if token.flag(flag, False)]
        if is_special and "normalized" in own:
            own.remove("normalized")  # a special name is none that normalising changes
        if own or not is_special:
            flags[name] = own
    return special, others, flags


def read_bpe(
    content: Fields, kind: str
) -> tuple[Fields, dict[str, int], dict[str, int], dict[str, list[str]]]:
    """The model of a `tokenizer.json`, ids of all pieces, those of special tokens, and flags."""
    model = content.part("model")
    model.require("type", ("BPE",), f"only BPE models are {kind}")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        model.require(field, (None, 0, ""), f"{kind} have none")
    if "merges" not in model.values:
        raise BundleError(f"{model.where}: merges is missing")
    special, others, flags = read_added_tokens(content)
    vocabulary = model.part("vocab").values
    for name, index in others.items():
        if vocabulary.get(name, index) != index:
            raise BundleError(
                f"{content.where}: added_tokens: {name!r:.80} has id {index}, but "
                f"{vocabulary[name]} in the vocabulary"
            )
    return model, vocabulary | others, special, flags


def read_steps(content: Fields, field: str, steps: str) -> list[Fields]:
    """The steps of a part, which may be a sequence with a list `steps`; none if it is not there."""
    if content.values.get(field) is None:
        return []
    part = content.part(field)
    return part.parts(steps) if part.text("type") == "Sequence" else [part]


def read_start(content: Fields) -> str | None:
    """The token that the post-processor puts before a single text, and nothing behind it."""
    for step in read_steps(content, "post_processor", "processors"):
        if step.text("type") != "TemplateProcessing":
            continue
        items = step.parts("single")
        kinds = ("SpecialToken", "Sequence")
        if len(items) == 2 and all(kind in item.values for kind, item in zip(kinds, items)):
            return items[0].part("SpecialToken").text("id")
    return None


def read_pair_separators(content: Fields, cls: str, sep: str) -> int | None:
    """How many `sep` stand between two texts, "cls A sep sep B sep"; None if nothing is said.

    Raises:
        BundleError: something else stands around texts.
    """
    for step in read_steps(content, "post_processor", "processors"):
        kind = step.text("type")
        if kind in ("BertProcessing", "RobertaProcessing"):
            return 1 if kind == "BertProcessing" else 2
        if kind != "TemplateProcessing":
            continue
        single, pair = (
            [next(iter(item.values.values()))["id"] for item in step.parts(field)]
            for field in ("single", "pair")
        )
        count = len(pair) - 4
        if single != [cls, "A", sep] or count < 1 or pair != [cls, "A", *[sep] * count, "B", sep]:
            raise BundleError(
                f"{step.where}: single is {single} and pair {pair}; only {cls} A {sep} and "
                f"{cls} A {sep} B {sep}, with any number of {sep} between, are known"
            )
        return count
    return None


def _template(
    single: Iterable[tuple[str, str]],
    second: Iterable[tuple[str, str]],
    ids: Mapping[str, int],
    segment: int = 1,
) -> dict[str, Any]:
    """The post-processor that makes of (kind, id) one text, and what a second one adds."""
    one = [{kind: {"id": name, "type_id": 0}} for kind, name in single]
    pair = [*one, *({kind: {"id": name, "type_id": segment}} for kind, name in second)]
    special = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in ids.items()}
    return {"type": "TemplateProcessing", "single": one, "pair": pair, "special_tokens": special}


def start_template(start: tuple[str, int]) -> dict[str, Any]:
    """The post-processor that puts a token before each text."""
    token = ("SpecialToken", start[0])
    return _template([token, ("Sequence", "A")], [token, ("Sequence", "B")], dict([start]))


def added_token(
    name: str,
    index: int,
    lstrip: bool = False,
    rstrip: bool = False,
    normalized: bool = False,
    special: bool = True,
) -> dict[str, Any]:
    """A token that is found in texts before they are split into words."""
    flags = {"lstrip": lstrip, "rstrip": rstrip, "normalized": normalized, "special": special}
    return {"id": index, "content": name, "single_word": False, **flags}


def added_tokens_json(
    ids: Mapping[str, int], special: Mapping[str, int], flags: Mapping[str, Iterable[str]]
) -> list[dict[str, Any]]:
    """The special tokens and those with flags, by their ids."""
    return [
        added_token(
            name, ids[name], special=name in special, **dict.fromkeys(flags.get(name, ()), True)
        )
        for name in sorted({*special, *flags}, key=ids.__getitem__)
    ]


def cls_sep_template(
    cls: tuple[str, int], sep: tuple[str, int], separators: int = 1
) -> dict[str, Any]:
    """The post-processor of one text, "[CLS] A [SEP]", and of two, "[CLS] A [SEP] B [SEP]"; with
    several separators between them both are of one segment.
    """
    first, end = ("SpecialToken", cls[0]), ("SpecialToken", sep[0])
    second = [*[end] * (separators - 1), ("Sequence", "B"), end]
    single = [first, ("Sequence", "A"), end]
    return _template(single, second, dict([cls, sep]), int(separators == 1))
