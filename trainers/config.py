"""What a training run is: one nested dataclass, written to the workdir as `train_config.json`.

A recipe gives it, `--set=key.path=value` edits it, and a run under way refuses another one. What is
read of data is in `trainers.data.config`, how text is read in `zoo.text.config`. Nothing here
imports TensorFlow or Keras: a mistake in a command is answered in half a second.
"""

import dataclasses
import inspect
import json
import re
import textwrap
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from absl import logging
from pydantic import Field

from trainers.data.config import SEQ2SEQ_TASKS, DataConfig, require, tokenizers_for
from zoo.config import ConfigError, Fraction, Size, config_dataclass, from_dict, to_dict
from zoo.models.configs import ModelConfig
from zoo.presets import preset_config
from zoo.text.config import Beams, LengthPenalty, Repeats, TextConfig

Task = Literal[
    "lm",
    "chat",
    "mlm",
    "classify",
    "pair",
    "tag",
    "span",
    "embed",
    "regress",
    "translate",
    "summarize",
]
TASK_NAMES: tuple[Task, ...] = get_args(Task)
CONFIG_FILE = "train_config.json"
_TEST_FRACTION = 0.1
_DISTILLED = ("classify", "pair", "tag", "embed")
_REPLACED = "data.train=%s: %s of it, drawn by chance, are the %s examples in place of %s"
# Groups whose keys depend on the model; what a list of known keys says of them.
_OPEN_GROUPS = {"model": {"<field of the model config>": 0}, "head": {"<option of the head>": 0}}

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
# Shares that may be all of it.
Share = Annotated[float, Field(gt=0, le=1)]


@config_dataclass
class OptimizerConfig:
    """Optimizer and learning-rate schedule; see `trainers.optim`.

    Attributes:
        name: "adamw" or "muon" (matrices by Muon, the rest by AdamW).
        learning_rate: the peak.
        schedule: "cosine", "linear", "exponential" or "constant" after the warm-up.
        warmup_steps: steps of linear rise from 0.
        final_fraction: share of the peak that the schedule ends at; above 0 if "exponential".
        decay_fraction: share of the run that decays: 1 decays from the end of the warm-up, 0.4
            holds the peak until the last 40 % of the steps.
        weight_decay: decoupled; norms and biases are left out.
        beta_1, beta_2: Adam's decay rates.
        momentum: Muon's.
        newton_schulz_steps: Muon's iterations towards an orthogonal update.
        adam_lr_ratio: learning rate of Muon's AdamW part over that of its matrices.
        global_clipnorm: gradients are scaled to this norm at most; None is off.
        layer_decay: learning rate of a block over that of the one above it, for fine-tuning.
        accumulation_steps: batches whose gradients are averaged into one update. A step is still
            one batch, here and in the whole config.

    Example: `OptimizerConfig(learning_rate=5e-5, schedule="linear", layer_decay=0.9)`
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive = 1e-3
    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    warmup_steps: Count = 100
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    decay_fraction: Share = 1.0
    weight_decay: NotNegative = 0.1
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.99
    momentum: Fraction = 0.95
    newton_schulz_steps: Size = 5
    adam_lr_ratio: NotNegative = 1.0
    global_clipnorm: Positive | None = 1.0
    layer_decay: Share = 1.0
    accumulation_steps: Size = 1

    def __post_init__(self) -> None:
        rule = 'optimizer.final_fraction must be above 0 where optimizer.schedule is "exponential"'
        holds = self.schedule != "exponential" or self.final_fraction > 0
        require(holds, f"{rule}, which never reaches 0", self.final_fraction)


_TO_ZERO: dict[str, Any] = {"schedule": "linear", "final_fraction": 0.0}


def muon(learning_rate: float, **options: Any) -> OptimizerConfig:
    """Muon with a linear decay to zero; BUILD_NOTES.md has the search that chose it."""
    options = {"name": "muon", "weight_decay": 0.0, **_TO_ZERO, **options}
    return OptimizerConfig(learning_rate=learning_rate, **options)


def adamw(learning_rate: float, **options: Any) -> OptimizerConfig:
    """AdamW with a linear decay to zero, as encoders are fine-tuned."""
    return OptimizerConfig(learning_rate=learning_rate, beta_2=0.98, **_TO_ZERO, **options)


@config_dataclass
class FineTuneConfig:
    """What of an earlier model is kept, and what of it is trained.

    Attributes:
        init_from: bundle folder whose backbone's weights are the initial ones; None is random.
        freeze: "none", "embeddings" (with their norm) or "backbone" (all but the head; a BERT
            pooler counts as the head's: masked-LM training leaves it as it began).
        freeze_layers: the lowest blocks to freeze, and the embeddings under them.
        drop_layers: top blocks of the initial model to leave out: the first ones carry most of
            what a small data set needs (Sajjad et al., 2020, arXiv:2004.03844).
        lora_rank: trains low-rank factors of the backbone's dense layers in place of the layers
            (see `zoo.models.lora`); None trains the layers themselves.
        lora_alpha: weight of the factors times `lora_rank`. None means `lora_rank`.

    Example: `FineTuneConfig(init_from="runs/bert", freeze_layers=2)`
    """

    init_from: str | None = None
    freeze: Literal["none", "embeddings", "backbone"] = "none"
    freeze_layers: Count = 0
    drop_layers: Count = 0
    lora_rank: Size | None = None
    lora_alpha: Positive | None = None

    def __post_init__(self) -> None:
        freezes = self.freeze != "none" or self.freeze_layers > 0
        lora, alpha = self.lora_rank is not None, self.lora_alpha is not None
        rule = "finetune.init_from must be a bundle folder, or null"
        require(self.init_from != "", rule, self.init_from)
        rule = "finetune.lora_alpha must be null where lora_rank is null"
        require(lora or not alpha, rule, self.lora_alpha)
        rule = "finetune.lora_rank must be null where freeze or freeze_layers is set: LoRA freezes"
        require(not (lora and freezes), f"{rule} the backbone itself", self.lora_rank)
        if self.init_from is None and (freezes or self.drop_layers or lora):
            raise ConfigError(
                "finetune.freeze, freeze_layers, drop_layers and lora_rank are for weights that "
                "were trained before: set finetune.init_from to the bundle they come from"
            )


@config_dataclass
class DistillConfig:
    """A trained model to learn from, for a smaller one (tasks classify, pair, tag and embed).

    Attributes:
        teacher: bundle of the same task and labels, anything that `zoo.load` takes; None: none.
        weight: share of the loss that compares logits with the teacher's (Tang et al., 2019,
            arXiv:1903.12136); the rest is that of the labels. Of vectors all of it compares.
        copies: copies of each text, changed as `data.augment` says, which the teacher answers and
            the student learns too; the texts themselves are not changed then.
        texts: lines of text without labels, which the teacher labels (task classify).

    Example: `DistillConfig(teacher="runs/minilm", copies=4)`
    """

    teacher: str | None = None
    weight: Annotated[float, Field(ge=0, le=1)] = 0.8
    copies: Count = 0
    texts: str | None = None

    def __post_init__(self) -> None:
        rule = "distill.copies and distill.texts are for a teacher: set distill.teacher"
        require(self.teacher is not None or not (self.copies or self.texts), rule, self.copies)


@config_dataclass
class Seq2SeqTraining:
    """How sources and targets are put together and how targets are written, to be scored.

    Attributes:
        prefix: text before every source, such as T5's "summarize: "; None is that of the weights
            to start from, else none.
        max_source: tokens of a source that are read, of a longer one the beginning; None: as many
            as the weights to start from or the context allow.
        max_target: tokens of a target, its end included, in training; longer ones are left out.
            None: as the context.
        validation_rows: pairs whose targets are written, greedily, at every evaluation; 0: none.
        report_rows: pairs whose targets are written for the report; None: all.
        num_beams, length_penalty, no_repeat_ngram_size: how targets are searched for in the report,
            and when served unless a request says otherwise, see `zoo.SearchConfig`. None: as with
            the weights to start from, else 4, 1 and 0.

    Example: `Seq2SeqTraining(prefix="summarize: ", max_source=512)`
    """

    prefix: str | None = None
    max_source: Size | None = None
    max_target: Size | None = None
    validation_rows: Count = 500
    report_rows: Size | None = None
    num_beams: Beams | None = None
    length_penalty: LengthPenalty | None = None
    no_repeat_ngram_size: Repeats | None = None


@config_dataclass
class TrainConfig:
    """A whole training run.

    Attributes:
        recipe: name of the recipe it came from.
        task: "lm" (next token), "chat" (answers in conversations), "mlm" (masked tokens),
            "classify", "pair", "tag", "span", "embed", "regress", "translate" or "summarize".
        preset: name of the model's shape, `zoo.presets`, unless `finetune.init_from` gives it.
        model: fields of the preset's config to replace, such as {"dropout": 0.1}.
        head: options of the task's head, such as {"pooling": "mean"}.
        text: how text is read, in training and when served (not tasks lm, chat, translate and
            summarize).
        seq2seq: Seq2SeqTraining, of tasks translate and summarize.
        finetune: what to start from and what to train of it.
        distill: DistillConfig, a model to learn from.
        batch_size: rows a step: windows of tokens (lm, chat, mlm), examples.
        steps: batches of the whole run; each is an update of the weights, unless
            `optimizer.accumulation_steps` gathers several.
        evaluate_every: steps between two evaluations on the whole validation split, each with a
            checkpoint; must divide `steps`.
        keep_checkpoints: newest checkpoints kept.
        select: "best" ends with the weights of the best evaluation, "last" with the last.
        monitor: the metric that tells the best, such as "val_accuracy"; "" is the task's own.
        patience: evaluations without a better one before training stops; None never stops.
        label_smoothing: share of the probability spread over all classes.
        ngrams: whether logistic regression on the tokens and token pairs of the texts is learned
            after the network, and their logits are added by the shares that the validation texts
            choose (task classify). transformers has no place for it.
        temperature: of the contrastive loss (task embed).
        seed: of initial weights, data order and dropout.
        precision: Keras dtype policy, such as "float32" or "mixed_bfloat16"; "auto" is the one
            for the hardware, see `trainers.distribution.hardware`.
        jit_compile: XLA for the training step on a CPU with TensorFlow: pays where all batches
            have one shape, as windows of text do. Other hardware and backends always compile.
        remat: computes the activations of transformer blocks again in the backward pass: less
            memory, some more time (13 to 22 % on a CPU).
        baseline: whether the report trains a simple model beside this one.
        sample_prompts: texts that the report continues (lm) or fills (mlm); None takes them from
            the validation text, as do recipes whose data are replaced.
        sample_tokens: tokens of each continuation.
        sample_temperature: of the logits, in sampling.
    """

    recipe: str
    data: DataConfig
    preset: str
    task: Task = "lm"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    seq2seq: Seq2SeqTraining = dataclasses.field(default_factory=Seq2SeqTraining)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    finetune: FineTuneConfig = dataclasses.field(default_factory=FineTuneConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    batch_size: Size = 12
    steps: Size = 2000
    evaluate_every: Size = 250
    keep_checkpoints: Size = 2
    select: Literal["best", "last"] = "best"
    monitor: str = ""
    patience: Size | None = None
    label_smoothing: Fraction = 0.0
    ngrams: bool = False
    temperature: Positive = 0.05
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16", "bfloat16"] = "float32"
    jit_compile: bool = True
    remat: bool = False
    baseline: bool = True
    sample_prompts: tuple[str, ...] | None = ("",)
    sample_tokens: Size = 200
    sample_temperature: NotNegative = 0.8

    def __post_init__(self) -> None:
        if "vocabulary_size" in self.model:
            raise ConfigError("model.vocabulary_size cannot be set: the tokenizer decides it")
        task, data, family = self.task, self.data, self.model_config().family
        rule = f"steps must be a multiple of evaluate_every, {self.evaluate_every}"
        require(self.steps % self.evaluate_every == 0, rule, self.steps)
        fits = tokenizers_for(task)
        rule = f"task {task!r} needs data.tokenizer={' or '.join(fits)}"
        require(data.tokenizer in fits, rule, data.tokenizer)
        rule = 'data.order="segments" carries a recurrent state, which only the preset of an LSTM'
        carries = data.order != "segments" or family == "lstm"
        require(carries, f"{rule} has; use data.order=windows", self.preset)
        rule = "remat is for transformer blocks; an LSTM has none"
        require(not self.remat or family != "lstm", rule, self.preset)
        rule = "data.mixture is for running text, tasks lm and mlm; use data.train"
        require(not data.mixture or task in ("lm", "mlm"), rule, task)
        rule = "data.document_mask is for task lm with a GPT, which has attention to mask"
        masks_fit = not data.document_mask or (task == "lm" and family == "gpt")
        require(masks_fit, rule, (task, self.preset))
        rule = f"distill.teacher is for tasks {', '.join(_DISTILLED)}"
        require(self.distill.teacher is None or task in _DISTILLED, rule, task)
        rule = "distill.copies changes texts of tables, as data.augment says, which changes nothing"
        unchanged = data.augment.is_off or task not in ("classify", "pair")
        require(not (self.distill.copies and unchanged), rule, self.distill.copies)
        taught_tags = task == "tag" and self.distill.teacher is not None
        rule = "data.augment changes words that the teacher has tagged: leave it off, for task tag"
        require(data.augment.is_off or not taught_tags, rule, data.augment)
        rule = "distill.texts are for task classify"
        require(self.distill.texts is None or task == "classify", rule, task)
        rule = "ngrams are for task classify"
        require(not self.ngrams or task == "classify", rule, task)
        column = data.pair_column
        if task in ("pair", "embed"):
            rule = f"task {task!r} needs data.pair_column, the column of the second text"
            require(column is not None, rule, column)
        if task in SEQ2SEQ_TASKS:
            rule = f"task {task!r} needs data.pair_column, the column of the targets, or as "
            rule += "data.train two text files, SOURCES,TARGETS"
            require(column is not None or "," in data.train, rule, column)
        else:
            rule = "data.reverse is for tasks translate and summarize"
            require(not data.reverse, rule, data.reverse)
        if task == "classify":
            rule = 'data.pair_column is for task "pair"; task "classify" reads one text'
            require(column is None, rule, column)
        if task == "regress":
            rule = "set text.pairs=true together with data.pair_column, or neither"
            require(self.text.pairs == (column is not None), rule, column)
        rule = 'data.prompt and data.pair_prompt are for task "embed"'
        require(task == "embed" or not (data.prompt or data.pair_prompt), rule, task)
        rule = 'task "embed" needs batch_size of 2 or more: others are contrasted'
        require(task != "embed" or self.batch_size > 1, rule, self.batch_size)

    def model_config(self, vocabulary_size: int | None = None) -> ModelConfig:
        """The preset with `model`'s fields replaced, for a tokenizer's vocabulary.

        None keeps the preset's own size of the vocabulary: enough to know all else of the shape.
        """
        preset = preset_config(self.preset)
        values = {**to_dict(preset), **self.model}
        if vocabulary_size is not None:
            values["vocabulary_size"] = vocabulary_size
        return from_dict(type(preset), values, where="model")


def with_overrides(config: TrainConfig, settings: list[str]) -> TrainConfig:
    """Applies `key.path=value` settings.

    A value is read as JSON where it is JSON (`3`, `0.1`, `true`, `null`, `["a"]`), else as text.
    Where `data.train` becomes another than the recipe's, the recipe's validation and test data are
    replaced by parts of it, unless they are set as well.

    Raises:
        ConfigError: no "=", unknown key (the known ones are listed), wrong type.

    Example:
        >>> config = TrainConfig("mine", DataConfig(train="my.txt"), "gpt_char_cpu")
        >>> with_overrides(config, ["steps=500", "model.num_layers=2"]).steps
        500
    """
    values, given = to_dict(config), set()
    known = ", ".join(sorted(_leaves({**values, **_OPEN_GROUPS})))
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set={setting}: write --set=key.path=value")
        owner, kind = values, type(config)
        *parents, key = path.split(".")
        for parent in parents:
            if not isinstance(owner.get(parent), dict):
                raise ConfigError(f"--set={setting}: no group {parent!r}; known: {known}")
            owner, kind = owner[parent], _hint(kind, parent)
        is_open = any(owner is values.get(group) for group in _OPEN_GROUPS)
        if not is_open and key not in owner:
            raise ConfigError(f"--set={setting}: no key {path!r}; known: {known}")
        owner[key] = _parse(text, _hint(kind, key))
        group = isinstance(owner[key], dict)
        given |= {f"{path}.{inner}" for inner in owner[key]} if group else {path}
    if isinstance(config, TrainConfig) and isinstance(values["data"], dict):
        _replace_recipe_data(config.data, values, given)
    return from_dict(type(config), values, where="--set")


def _replace_recipe_data(recipe: DataConfig, values: dict[str, Any], given: set[str]) -> None:
    """Own training data take the recipe's other data with them, unless these were given too."""
    data, before = values["data"], to_dict(recipe)
    own = any(data.get(key, before[key]) != before[key] for key in ("train", "mixture"))
    if own and "sample_prompts" not in given:
        values["sample_prompts"] = None  # the recipe's prompts are of its own text
    if data.get("train") in ("", recipe.train):
        return
    if "data.test_fraction" not in given and recipe.test and "data.test" not in given:
        data["test_fraction"] = _TEST_FRACTION
    for split in ("validation", "test"):
        replaced = before[split]
        if replaced is not None and f"data.{split}" not in given:
            data[split] = None
            share = data.get(f"{split}_fraction", recipe.validation_fraction)
            logging.info(_REPLACED, data["train"], share, split, replaced)


def read_config(workdir: Path) -> TrainConfig | None:
    """The config of the run in `workdir`, None if there is no run; ConfigError if it is damaged."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a JSON object ({error}); restore it or take another --workdir"
        ) from None
    return from_dict(TrainConfig, values, where=str(path))


def differing_keys(old: TrainConfig, new: TrainConfig) -> list[str]:
    """`key: old -> new` for each leaf that differs."""
    before, after = _leaves(to_dict(old)), _leaves(to_dict(new))
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _hint(owner: Any, key: str) -> Any:
    """The declared type of a field, Any of one that is unknown."""
    return get_type_hints(owner).get(key, Any) if dataclasses.is_dataclass(owner) else Any


def _parse(text: str, hint: Any) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    # --set=data.test=2024 names a file, not a number; where both may stand it is a number.
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return text if str in kinds and type(value) not in (str, *kinds) else value


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = list(value) if isinstance(value, tuple) else value
    return leaves


def config_keys(kind: type = TrainConfig, prefix: str = "") -> dict[str, tuple[str, str]]:
    """Every key of `--set` -> its default, "" where a value must be given, and its meaning."""
    keys: dict[str, tuple[str, str]] = {}
    meanings, hints, none = _meanings(kind), get_type_hints(kind), dataclasses.MISSING
    for field in dataclasses.fields(kind):
        key, default = prefix + field.name, field.default
        if dataclasses.is_dataclass(hints[field.name]):
            keys |= config_keys(hints[field.name], f"{key}.")
            continue
        if field.default_factory is not none:
            default = field.default_factory()
        keys[key] = "" if default is none else repr(default), meanings.get(field.name, "")
    return keys


def describe_keys() -> str:
    """What `--help_config` prints: every key with its default and meaning."""
    lines = ["Keys of --set=key=value with their defaults; recipes set some of them otherwise."]
    for key, (default, meaning) in config_keys().items():
        lines.append(f"\n{key}" + (f" = {default}" if default else ""))
        lines.append(textwrap.indent(textwrap.fill(meaning, 96), "    "))
    return "\n".join(lines)


def _meanings(kind: type) -> dict[str, str]:
    """Field -> what the class's docstring says of it under "Attributes:"."""
    doc = inspect.getdoc(kind) or ""
    block = re.search(r"^Attributes:\n((?:[ ]{4,}.*\n?|\n)*)", doc, re.MULTILINE)
    if block is None:
        return {}
    meanings: dict[str, str] = {}
    # A line begins with the field, or with several that share a meaning: "first, second: int".
    for field, meaning in re.findall(
        r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", block[1], re.MULTILINE
    ):
        meanings |= dict.fromkeys(field.split(", "), " ".join(meaning.split()))
    return meanings
