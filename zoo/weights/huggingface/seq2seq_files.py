"""How source and target are put together, as transformers keeps it: ids, prefixes and languages."""

import re
from pathlib import Path
from typing import Any

from absl import logging

from zoo.config import Fields
from zoo.files import BundleError, blaming, inside
from zoo.generation.options import MAX_BEAMS
from zoo.text.config import SearchConfig, Seq2SeqConfig
from zoo.tokenizers import SentencePieceTokenizer, Tokenizer

_LANGUAGE = re.compile("[a-z]{2,3}_[A-Z]{2}")
# How transformers may write, too, and what of it is none.
_NOT_READ = {
    "do_sample": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0,
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    **dict.fromkeys(("exponential_decay_length_penalty", "sequence_bias", "forced_decoder_ids")),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "penalty_alpha", "dola_layers")),
}


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
    target_start = (start,) if forced is None else (start, forced)
    return Seq2SeqConfig(
        prefix=_prefix(config, task),
        source_start=before,
        source_end=after,
        target_start=target_start,
        search=_search(generation if generation.values else config, len(target_start), end),
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
        "forced_eos_token_id": tokenizer.end_id if seq2seq.search.forced_end else None,
        "pad_token_id": getattr(tokenizer, "pad_id", start[0]),
    }


def _search(fields: Fields, given: int, end: int) -> SearchConfig:
    """How targets are searched for, by `generation_config.json` or, without one, `config.json`.

    There all `given` tokens that a target begins with count, or all but the first.
    """
    new = {
        "max_new_tokens": fields.whole("max_new_tokens", least=given),
        "min_new_tokens": fields.whole("min_new_tokens", least=0),
    }
    new = {name: value and value - (given - 1) for name, value in new.items()}
    if new["max_new_tokens"] is None and (most := fields.whole("max_length", least=given + 1)):
        new["max_new_tokens"] = most - given
    if new["min_new_tokens"] is None and (least := fields.whole("min_length", least=0)):
        new["min_new_tokens"] = least - given
    new["min_new_tokens"] = max(new["min_new_tokens"] or 0, 0)
    early = fields.values.get("early_stopping")
    if early != "never":
        early = fields.flag("early_stopping", False)
    forced = fields.values.get("forced_eos_token_id")
    if forced not in (None, end, [end]):
        raise BundleError(
            f"{fields.where}: forced_eos_token_id is {forced!r:.80}, and the tokenizer's end of "
            f"text has id {end}"
        )
    words = fields.values.get("bad_words_ids") or []
    single = isinstance(words, list) and all(
        isinstance(word, list) and len(word) == 1 and type(word[0]) is int for word in words
    )
    unread = [
        f"{name} {value!r:.40}"
        for name, none in {**_NOT_READ, **({} if single else {"bad_words_ids": None})}.items()
        if (value := fields.values.get(name)) not in (None, none)
    ]
    if unread:
        logging.warning(
            "%s: not read, so that other texts are written than by transformers: %s",
            *(fields.where, ", ".join(unread)),
        )
    with blaming(fields.where):
        return SearchConfig(
            **{name: value for name, value in new.items() if value is not None},
            num_beams=fields.whole("num_beams", 1, most=MAX_BEAMS),
            length_penalty=fields.number("length_penalty", 1.0),
            early_stopping=early,
            no_repeat_ngram_size=fields.whole("no_repeat_ngram_size", 0, least=0, most=32),
            forced_end=forced is not None,
            banned_ids=tuple(word[0] for word in words if word != [end]) if single else (),
            renormalize=fields.flag("renormalize_logits", False),
        )


def search_fields(seq2seq: Seq2SeqConfig) -> dict[str, Any]:
    """The fields of generation_config.json that say how targets are searched for."""
    search, default, given = seq2seq.search, SearchConfig(), len(seq2seq.target_start)
    fields = {
        name: getattr(search, name)
        for name in ("num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size")
        if getattr(search, name) != getattr(default, name)
    }
    for name in ("max_new_tokens", "min_new_tokens"):
        if getattr(search, name) != getattr(default, name):
            fields[name] = getattr(search, name) + given - 1
    if search.banned_ids:
        fields["bad_words_ids"] = [[index] for index in search.banned_ids]
    return fields | ({"renormalize_logits": True} if search.renormalize else {})


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
