"""How source and target are put together, as transformers keeps it: ids, prefixes and languages."""

import re
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, inside
from zoo.text.config import Seq2SeqConfig
from zoo.tokenizers import SentencePieceTokenizer, Tokenizer

_LANGUAGE = re.compile("[a-z]{2,3}_[A-Z]{2}")


def read_seq2seq(
    folder: Path, config: Fields, model_type: str, task: str, tokenizer: Tokenizer
) -> Seq2SeqConfig:
    """What the files of a folder say, of which `config` is config.json.

    Raises:
        BundleError: an id or a language is none of the tokenizer's, or there is no language; the
            message names the field.
    """
    generation = Fields.read(inside(folder, "generation_config.json"), optional=True)
    sources = (generation, config)
    _check_end(sources, tokenizer)
    start, forced = (_id(sources, f"{n}_token_id") for n in ("decoder_start", "forced_bos"))
    own = Fields.read(inside(folder, "tokenizer_config.json"), optional=True)
    end = tokenizer.end_id
    before, after = _of_template(folder) or ((), (end,))
    if tokenizer.kind == "bytepair":
        before, after = (tokenizer.cls_id,), (tokenizer.sep_id,)
    elif model_type == "mbart" and (
        name := own.text("tokenizer_class", "MBartTokenizer")
    ).startswith("MBart"):
        source = _language(own, "src_lang", tokenizer, "en_XX")
        is_later = name.startswith("MBart50")
        before, after = ((source,), (end,)) if is_later else ((), (end, source))
    if model_type == "mbart":
        # Of the first one the language begins a target, of mBART-50 it stands behind the end.
        known = (start, forced) if start == end else (start,)
        target = _language(own, "tgt_lang", tokenizer, None, known[-1])
        start, forced = (end, target) if start == end else (target, None)
    elif start is None:
        start = end if model_type == "bart" else getattr(tokenizer, "pad_id", end)
    return Seq2SeqConfig(
        prefix=_prefix(config, task),
        source_start=before,
        source_end=after,
        target_start=(start,) if forced is None else (start, forced),
    )


def seq2seq_ids(seq2seq: Seq2SeqConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Fields of config.json and generation_config.json that say the same.

    Raises:
        ValueError: ids that their files have no place for.
    """
    start, around = seq2seq.target_start, (seq2seq.source_start, seq2seq.source_end)
    if len(start) > 2:
        raise ValueError(f"seq2seq.target_start is {start}, and transformers has two ids at most")
    expected = around
    if tokenizer.kind == "bytepair":
        expected = ((tokenizer.cls_id,), (tokenizer.sep_id,))
    elif tokenizer.kind == "marian":
        expected = ((), (tokenizer.end_id,))
    if around != expected:
        raise ValueError(
            f"seq2seq: around sources stand {around}, and only {expected} with this tokenizer in "
            "transformers"
        )
    return {
        "decoder_start_token_id": start[0],
        "forced_bos_token_id": start[1] if len(start) > 1 else None,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_id,
        "forced_eos_token_id": None,
        "pad_token_id": getattr(tokenizer, "pad_id", start[0]),
    }


def seq2seq_tokens(tokenizer: SentencePieceTokenizer) -> dict[str, str]:
    """Names of special tokens in tokenizer_config.json."""
    names = {index: name for name, index in tokenizer.special_tokens.items()}
    ids = {"eos": tokenizer.end_id, "unk": tokenizer.unknown_id}
    ids["pad"] = getattr(tokenizer, "pad_id", tokenizer.end_id)
    return {f"{role}_token": names[index] for role, index in ids.items()}


def _id(sources: tuple[Fields, ...], name: str) -> Any:
    return next(
        (x for x in (source.whole(name, least=0) for source in sources) if x is not None), None
    )


def _check_end(sources: tuple[Fields, ...], tokenizer: Tokenizer) -> None:
    """Refuses an end of texts that is not the tokenizer's."""
    for source in sources:
        value = source.values.get("eos_token_id")
        if value is not None and value not in (tokenizer.end_id, [tokenizer.end_id]):
            raise BundleError(
                f"{source.where}: eos_token_id is {value!r:.80}, and the tokenizer's end of text "
                f"has id {tokenizer.end_id}"
            )


def _prefix(config: Fields, task: str) -> str:
    """What stands before each source: of a summary, what the model was trained with."""
    prefix = config.text("prefix", "")
    if task == "summarize" and config.values.get("task_specific_params"):
        params = config.part("task_specific_params")
        if params.values.get("summarization"):
            prefix = params.part("summarization").text("prefix", prefix)
    return prefix


def _of_template(folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The ids that the post-processor of `tokenizer.json` puts around one text."""
    content = Fields.read(inside(folder, "tokenizer.json"), optional=True)
    if not content.values.get("post_processor"):
        return None
    processor = content.part("post_processor")
    if processor.text("type") != "TemplateProcessing":
        return None
    sides: tuple[list[int], list[int]] = ([], [])
    seen = 0
    for item in processor.parts("single"):
        if "Sequence" in item.values:
            seen = 1
            continue
        name = item.part("SpecialToken").text("id", "")
        ids: Any = processor.part("special_tokens").part(name).values.get("ids")
        if not isinstance(ids, list) or not all(type(index) is int for index in ids):
            raise BundleError(f"{processor.where}: special_tokens: {name!r:.80} has no ids")
        sides[seen].extend(ids)
    return tuple(sides[0]), tuple(sides[1])


def _language(
    config: Fields, field: str, tokenizer: Tokenizer, default: str | None, known: int | None = None
) -> int:
    """The id of the language in a field; without one `known`, if it is a language's."""
    ids = {n: i for n, i in tokenizer.special_tokens.items() if _LANGUAGE.fullmatch(n)}
    name = config.text(field, default)
    if name is None and known in ids.values():
        return known
    if name not in ids:
        raise BundleError(
            f"{config.where}: {field} is {name!r:.80}; set it to one of {', '.join(sorted(ids))}"
        )
    return ids[name]
