"""A model becomes a folder that transformers and sentence-transformers load."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from zoo.files import write_json
from zoo.models.configs import GPTConfig
from zoo.text.config import CleaningConfig, Seq2SeqConfig, TextConfig
from zoo.text.seq2seq import SEQ2SEQ_MODELS
from zoo.tokenizers import MarianTokenizer, SentencePieceTokenizer, Tokenizer, WordPieceTokenizer
from zoo.tokenizers.files import added_token, cls_sep_template, tokenizer_json
from zoo.tokenizers.unigram_files import write_unigram
from zoo.weights.assign import model_weights
from zoo.weights.families import HUGGINGFACE
from zoo.weights.family import SAME_HEAD, Tensors
from zoo.weights.huggingface.causal_tokenizers import CAUSAL_KINDS
from zoo.weights.huggingface.sentence_modules import sentence_module_files
from zoo.weights.huggingface.seq2seq_files import search_fields, seq2seq_ids, seq2seq_tokens
from zoo.weights.huggingface.tokenizer_files import END_OF_TEXT, GENERIC
from zoo.weights.safetensors_files import write_weights


def write_huggingface(
    folder: Path,
    model: keras.Model,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    text: TextConfig | None,
    seq2seq: Seq2SeqConfig | None = None,
) -> None:
    """Writes a model for transformers' `from_pretrained`; see `Bundle.save_huggingface`."""
    model_type = model_type_of(model, tokenizer.kind)
    family = HUGGINGFACE[model_type]
    skipped = tokenizer.pad_id + 1 if family.offset_positions else family.first_position
    ids = _token_ids(tokenizer, model_type, seq2seq)
    if text is not None and text.cleaning != CleaningConfig():
        logging.warning(
            "%s: the texts' cleaning (%s) is no part of transformers' files", folder, text.cleaning
        )
    write_weights(folder, tensors_of(model, model_type, skipped))
    write_tokenizer(tokenizer, folder, model_type, model.context_length, seq2seq)
    files = {}
    if model.task == "embed":
        width = model.backbone.output_dim
        files = sentence_module_files(model.head_config(), width, text)
    if model.task in ("lm", *SEQ2SEQ_MODELS):
        search = {} if seq2seq is None else search_fields(seq2seq)
        files["generation_config.json"] = ids | search
    own = {} if seq2seq is None else {"is_encoder_decoder": True, "prefix": seq2seq.prefix or None}
    # Last, so that a folder whose writing was interrupted does not load.
    files["config.json"] = {**config_of(model, model_type, labels, skipped), **ids, **own}
    for name, content in files.items():
        write_json(folder / name, content, indent=2, ensure_ascii=False)


def model_type_of(model: keras.Model, tokenizer_kind: str) -> str:
    """Which model of transformers a model is; a ValueError names the fields if none."""
    config = model.backbone.config
    if config.family not in ("gpt", "bert", "encoder_decoder"):
        raise ValueError(
            f"model.family is {config.family!r}: transformers has no such model; only gpt, bert "
            "and encoder_decoder can be saved for it"
        )
    types = [name for name, family in HUGGINGFACE.items() if isinstance(config, family.config)]
    if config.family == "bert":  # of those that are equally near, what it is by its segments
        by_tokenizer = {"wordpiece": "bert", "sentencepiece": "xlm-roberta"}
        one_segment = by_tokenizer.get(tokenizer_kind, "roberta")
        likely = {0: "distilbert", 1: one_segment}.get(config.num_segments, "bert")
        types.sort(key=lambda name: name != likely)
    problems = {name: problems_of(model, tokenizer_kind, name) for name in types}
    # The first that has none, or else the nearest.
    model_type = min(types, key=lambda name: len(problems[name]))
    if problems[model_type]:
        reasons = "; ".join(problems[model_type])
        raise ValueError(f"transformers' {model_type} cannot express this model: {reasons}")
    return model_type


def problems_of(model: keras.Model, tokenizer_kind: str, model_type: str) -> list[str]:
    """What a model of transformers has no choice in, and is otherwise here."""
    return [
        *HUGGINGFACE[model_type].not_expressed(model.backbone.config),
        *(
            f"{name} is {value!r}, not {' or '.join(map(repr, allowed))}"
            for name, value, allowed in _conditions(model, tokenizer_kind, model_type)
            if value not in allowed
        ),
    ]


def _conditions(
    model: keras.Model, tokenizer_kind: str, model_type: str
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(field, value, allowed values) beside the fields of the backbone's config."""
    config, task, family = model.backbone.config, model.task, HUGGINGFACE[model_type]
    if task == "mlm" and family.mlm_activation:
        yield "model.activation", config.activation, (family.mlm_activation,)
    kind = family.tokenizer[0]
    kinds: tuple[str, ...] = CAUSAL_KINDS if kind == "causal" else (kind,)
    if config.family == "bert" and kind == "wordpiece":
        kinds = (kind, SentencePieceTokenizer.kind)  # the tokenizer's own class says which
    yield "tokenizer", tokenizer_kind, kinds
    if task in ("lm", *SEQ2SEQ_MODELS):
        return
    head = model.head_config()
    if SAME_HEAD.get(task, task) == "classify":
        yield "head.ngrams", head.get("ngrams", 0), (0,)
        poolings = ("cls", "mean") if family.pooling_field else ("cls",)
        yield "head.pooling", head["pooling"], poolings
        has_pooler = "pooler" in family.heads["classify"]
        yield "model.use_pooler", config.use_pooler, (has_pooler,)
        if has_pooler:
            yield "model.pooler_activation", config.pooler_activation, (family.pooler_activation,)
    if task == "embed":
        yield "head.embedding_dim", head["embedding_dim"], (None,)
        if head["pooling"] == "cls":
            yield "model.use_pooler", config.use_pooler, (False,)
        elif family.bare_pooler and config.use_pooler:
            yield "model.pooler_activation", config.pooler_activation, ("tanh",)


def _architecture(model_type: str, task: str) -> str:
    """The class of transformers that does a task."""
    classes = HUGGINGFACE[model_type].classes
    return next(name for name, does in classes.items() if does == SAME_HEAD.get(task, task))


def _token_ids(
    tokenizer: Tokenizer, model_type: str, seq2seq: Seq2SeqConfig | None
) -> dict[str, int | list[int] | None]:
    """Fields of `config.json` that name ids."""
    if seq2seq is not None:
        return seq2seq_ids(seq2seq, tokenizer)
    if HUGGINGFACE[model_type].config is GPTConfig:
        start, ends = tokenizer.start_id, [*tokenizer.end_ids]
        # Said, because defaults such as Phi-3's 32000 need not be rows of this embedding.
        return {
            "bos_token_id": tokenizer.end_id if start is None else start,
            "eos_token_id": ends if len(ends) > 1 else tokenizer.end_id,
            "pad_token_id": None,
        }
    ids = {"pad_token_id": tokenizer.pad_id}
    if model_type in ("roberta", "xlm-roberta"):
        ids |= {"bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id}
    return ids


def config_of(
    model: keras.Model, model_type: str, labels: Sequence[str] = (), skipped: int = 0
) -> dict[str, Any]:
    """The content of `config.json`, without ids of tokens."""
    config, family = model.backbone.config, HUGGINGFACE[model_type]
    values: dict[str, Any] = {
        "architectures": [_architecture(model_type, model.task)],
        "model_type": model_type,
        "dtype": "float32",
        **family.write_options(config, skipped),
    }
    if model.task in ("lm", *SEQ2SEQ_MODELS):
        return values
    head_dropout = model.head_config().get("dropout", config.dropout)
    values |= {name: head_dropout for name, _ in family.head_dropout.values() if name}
    if family.pooling_field:
        values[family.pooling_field] = model.head_config().get("pooling", "cls")
    if model.task == "regress":
        labels, values["problem_type"] = ("LABEL_0",), "regression"
    elif model.task in ("classify", "pair"):
        values["problem_type"] = "single_label_classification"
    if labels:
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    return values


def tables_of(model: keras.Model, model_type: str, skipped: int = 0) -> dict[str, Tensors]:
    """Variable -> tensors, as the class that does the task names them."""
    family, config = HUGGINGFACE[model_type], model.backbone.config
    backbone = family.backbone_tensors(config, skipped)
    # Only the bare encoders and BERT's classifier have a pooler.
    pooler = model.task == "embed" and config.use_pooler and bool(family.bare_pooler)
    tables = backbone | family.head_tensors(config, model.task, True, pooler)
    if _architecture(model_type, model.task) == family.bare:
        return tables

    own = (family.untied_head, family.logit_bias)

    def named(variable: str, tensor: str) -> str:
        of_pooler = bool(family.bare_pooler) and tensor.startswith(f"{family.bare_pooler}.")
        in_base = variable in backbone or of_pooler
        return family.prefix * (in_base and tensor not in own) + tensor

    return {
        variable: dataclasses.replace(table, names=tuple(named(variable, n) for n in table.names))
        for variable, table in tables.items()
    }


def tensors_of(
    model: keras.Model, model_type: str, skipped: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each tensor of `model.safetensors`; `skipped` rows of positions."""
    tables, left_out = tables_of(model, model_type, skipped), []
    for name, variable in model_weights(model).items():
        if name not in tables:
            left_out.append(name)
            continue
        yield from tables[name].to_tensors(np.asarray(keras.ops.convert_to_numpy(variable)))
    if left_out:
        logging.info("transformers' %s has no %s: left out", model_type, ", ".join(left_out))


def write_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    model_type: str,
    max_length: int,
    seq2seq: Seq2SeqConfig | None = None,
) -> None:
    """Writes the files from which transformers makes a tokenizer with the same ids."""
    family = HUGGINGFACE[model_type]
    if isinstance(tokenizer, WordPieceTokenizer):
        tokenizer.write_vocabulary(folder / "vocab.txt")
        write_json(
            folder / "tokenizer.json", _wordpiece_json(tokenizer), indent=2, ensure_ascii=False
        )
        plain = tokenizer.max_word_characters == 100  # what BertTokenizer has, whatever is written
        config: dict[str, Any] = {
            **family.special_tokens,
            "do_lower_case": tokenizer.lowercase,
            "strip_accents": tokenizer.strip_accents,
            "tokenize_chinese_chars": tokenizer.split_cjk,
        }
    elif isinstance(tokenizer, SentencePieceTokenizer):
        # The classes of these models have rules of their own, too.
        config, plain = _write_sentencepiece(tokenizer, folder, seq2seq), False
    elif isinstance(tokenizer, MarianTokenizer):
        tokenizer.write_files(folder)
        config, plain = dict(family.special_tokens), True
    elif family.tokenizer[0] == "causal":
        # Classes of later decoders cut texts by rules of their own: only the generic one follows
        # tokenizer.json.
        tokenizer.write_files(folder)
        start, plain = tokenizer.start, False
        config = {"bos_token": tokenizer.end if start is None else start}
        config["eos_token"] = tokenizer.end
    else:
        tokenizer.write_files(folder)
        config = {"add_prefix_space": tokenizer.add_prefix_space}
        expected, plain = {*family.special_tokens.values()} or {END_OF_TEXT}, True
        if family.special_tokens:
            config |= {f"{role}_token": name for role, name in tokenizer.roles.items()}
            config["unk_token"] = config.pop("unknown_token", tokenizer.end)
            config |= {"bos_token": config["cls_token"], "eos_token": tokenizer.end}
            plain = tokenizer.pair_separators == 2 and tokenizer.end == config["sep_token"]
        else:
            config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), tokenizer.end)
        plain = plain and set(tokenizer.special_tokens) == expected
    config["tokenizer_class"] = family.tokenizer[1] if plain else GENERIC
    config["model_max_length"] = max_length
    segments = family.options.get("num_segments")
    if segments is None or segments.default < 2:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    write_json(folder / "tokenizer_config.json", config, indent=2, ensure_ascii=False)


def _write_sentencepiece(
    tokenizer: SentencePieceTokenizer, folder: Path, seq2seq: Seq2SeqConfig | None
) -> dict[str, str]:
    """Writes tokenizer.json; gives the fields of tokenizer_config.json that name tokens."""
    if seq2seq is not None:
        write_unigram(tokenizer.model, folder, seq2seq.source_start, seq2seq.source_end)
        return seq2seq_tokens(tokenizer)
    around, separators = ((tokenizer.cls_id,), (tokenizer.sep_id,)), tokenizer.pair_separators
    write_unigram(tokenizer.model, folder, *around, separators, tokenizer.added_tokens)
    names = seq2seq_tokens(tokenizer) | {f"{k}_token": n for k, n in tokenizer.roles.items()}
    names.pop("unknown_token", None)
    return names | {"bos_token": names["cls_token"]}


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
    found = {name: added.get(name, False) for name in vocabulary if name in ids or name in added}
    return tokenizer_json(
        [
            added_token(name, vocabulary[name], normalized=normal, special=not normal)
            for name, normal in found.items()
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
