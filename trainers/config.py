"""What a training run is: one nested dataclass, written to the workdir as `train_config.json`.

A recipe gives it, `--set=key.path=value` edits it, and a run under way refuses another one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from absl import logging

from trainers.data.config import DataConfig, require
from trainers.optim.config import OptimizerConfig
from trainers.optim.finetuning import FineTuneConfig
from zoo.config import STRICT, ConfigError, from_dict, to_dict
from zoo.models.configs import ModelConfig
from zoo.presets import preset_config
from zoo.text.config import TextConfig

CONFIG_FILE = "train_config.json"
_TEST_FRACTION = 0.1
_REPLACED = "data.train=%s: %s of it, drawn by chance, are the %s examples in place of %s"
# Groups whose keys depend on the model; what a list of known keys says of them.
_FREE = {"model": {"<field of the model config>": 0}, "head": {"<option of the head>": 0}}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        recipe: name of the recipe it came from.
        task: "lm" (next token), "mlm" (masked tokens), "classify", "pair", "tag", "span",
            "embed" or "regress".
        preset: name of the model's shape, `zoo.presets`; a model that starts from
            `finetune.init_from` has that one's shape.
        model: fields of the preset's config to replace, such as {"dropout": 0.1}.
        head: options of the task's head, such as {"pooling": "mean"}; see
        `zoo.models.encoder_heads`. data: DataConfig.
        text: TextConfig, how text is read, in training and when served (not task lm).
        optimizer: OptimizerConfig.
        finetune: FineTuneConfig, what to start from and what to train of it.
        batch_size: int, rows a step: windows of `context_length` tokens (lm, mlm), examples.
        steps: int, batches of the whole run; each is an update of the weights, unless
            `optimizer.accumulation_steps` gathers several.
        evaluate_every: int, steps between two evaluations on the whole validation split, each
            with a checkpoint; must divide `steps`.
        keep_checkpoints: int, newest checkpoints kept. Defaults to 2.
        select: "best" ends with the weights of the best evaluation, "last" with the last.
        monitor: the metric that tells the best, such as "val_accuracy"; "" is the task's own.
        patience: int, evaluations without a better one before training stops; None never stops.
        label_smoothing: float in [0, 1), share of the probability spread over all classes.
        temperature: float, of the contrastive loss (task embed).
        seed: int, of initial weights, data order and dropout.
        precision: Keras dtype policy, such as "float32" or "mixed_bfloat16"; "auto" is the one
            for the hardware, see `trainers.distribution.hardware`.
        jit_compile: bool, XLA for the training step on a CPU with TensorFlow: pays where all
            batches have one shape, as windows of text do. GPUs, TPUs and other backends always
            compile.
        remat: bool, computes the activations of transformer blocks again in the backward pass:
            less memory, some more time (13 to 22 % on a CPU).
        baseline: bool, whether the report trains a simple model beside this one.
        sample_prompts: texts that the report continues (lm) or fills (mlm); None takes them from
            the validation text, as do recipes whose data are replaced.
        sample_tokens: int, tokens of each continuation.
        sample_temperature: float.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    recipe: str
    data: DataConfig
    preset: str
    task: Literal["lm", "mlm", "classify", "pair", "tag", "span", "embed", "regress"] = "lm"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    finetune: FineTuneConfig = dataclasses.field(default_factory=FineTuneConfig)
    batch_size: int = 12
    steps: int = 2000
    evaluate_every: int = 250
    keep_checkpoints: int = 2
    select: Literal["best", "last"] = "best"
    monitor: str = ""
    patience: int | None = None
    label_smoothing: float = 0.0
    temperature: float = 0.05
    seed: int = 0
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16", "bfloat16"] = "float32"
    jit_compile: bool = True
    remat: bool = False
    baseline: bool = True
    sample_prompts: tuple[str, ...] | None = ("",)
    sample_tokens: int = 200
    sample_temperature: float = 0.8

    def __post_init__(self):
        for name in ("batch_size", "steps", "evaluate_every", "keep_checkpoints", "sample_tokens"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1", value)
        require(0 <= self.seed < 2**32, "seed must be in [0, 2^32)", self.seed)
        require(
            self.sample_temperature >= 0,
            "sample_temperature must be 0 or more",
            self.sample_temperature,
        )
        require(
            0 <= self.label_smoothing < 1, "label_smoothing must be in [0, 1)", self.label_smoothing
        )
        require(self.temperature > 0, "temperature must be above 0", self.temperature)
        require(
            self.patience is None or self.patience >= 1,
            "patience must be at least 1",
            self.patience,
        )
        if "vocabulary_size" in self.model:
            raise ConfigError("model.vocabulary_size cannot be set: the tokenizer decides it")
        if self.steps % self.evaluate_every:
            raise ConfigError(
                "steps must be a multiple of evaluate_every. "
                f"Received: steps={self.steps}, evaluate_every={self.evaluate_every}"
            )
        self._check_tokenizer()
        model = self.model_config(2)
        if self.data.order == "segments" and model.family != "lstm":
            raise ConfigError(
                'data.order="segments" carries a recurrent state, which only an LSTM has. '
                f"Received: preset={self.preset!r}; use data.order=windows"
            )
        if self.remat and model.family == "lstm":
            raise ConfigError("remat is for transformer blocks; an LSTM has none")

        if self.data.mixture and self.task not in ("lm", "mlm"):
            raise ConfigError(
                "data.mixture is for running text, tasks lm and mlm. "
                f"Received: task={self.task!r}; use data.train"
            )
        if self.data.document_mask and (self.task != "lm" or model.family != "gpt"):
            raise ConfigError(
                "data.document_mask is for task lm with a GPT, which has attention to mask. "
                f"Received: task={self.task!r}, preset={self.preset!r}"
            )

    def _check_tokenizer(self) -> None:
        own = ("character", "byte") if self.task == "lm" else ("wordpiece",)
        fits = (*own, "bytepair", "sentencepiece")
        if self.data.tokenizer not in fits:
            raise ConfigError(
                f"task {self.task!r} needs data.tokenizer={' or '.join(fits)}. "
                f"Received: {self.data.tokenizer!r}"
            )

    def model_config(self, vocabulary_size: int) -> ModelConfig:
        """The preset with `model`'s fields replaced, for a tokenizer's vocabulary.

        Raises:
            ConfigError: unknown preset or field, wrong type.
        """
        config = preset_config(self.preset)
        values = {**to_dict(config), **self.model, "vocabulary_size": vocabulary_size}
        return from_dict(type(config), values, where="model")


def with_overrides(config: TrainConfig, settings: list[str]) -> TrainConfig:
    """Applies `key.path=value` settings.

    A value is read as JSON where it is JSON (`3`, `0.1`, `true`, `null`, `["a"]`), else as text.
    Where `data.train` becomes another than the recipe's, the recipe's validation and test data are
    replaced by parts of it, unless they are set as well.

    Raises:
        ConfigError: no "=", unknown key (the known ones are listed), wrong type.

    Example: `with_overrides(config, ["steps=500", "model.num_layers=2", "data.train=my.txt"])`
    """
    values, given = to_dict(config), set()
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set={setting}: write --set=key.path=value")
        owner, kind = values, type(config)
        *parents, key = path.split(".")
        for parent in parents:
            if not isinstance(owner.get(parent), dict):
                raise ConfigError(f"--set={setting}: no group {parent!r}; known: {_keys(values)}")
            owner, kind = owner[parent], _hint(kind, parent)
        free = any(owner is values.get(group) for group in _FREE)
        if not free and key not in owner:
            raise ConfigError(f"--set={setting}: no key {path!r}; known: {_keys(values)}")
        owner[key] = _parse(text, _hint(kind, key))
        group = isinstance(owner[key], dict)
        given |= {f"{path}.{inner}" for inner in owner[key]} if group else {path}
    if isinstance(config, TrainConfig):
        _replace_splits(config.data, values["data"], given)
        data, recipe = values["data"], to_dict(config.data)
        own = isinstance(data, dict) and any(data[k] != recipe[k] for k in ("train", "mixture"))
        if own and "sample_prompts" not in given:
            values["sample_prompts"] = None  # the recipe's prompts are of its own text
    return from_dict(type(config), values, where="--set")


def _replace_splits(recipe: DataConfig, data: Any, given: set[str]) -> None:
    """Own training data take the recipe's other data with them, unless these were given too."""
    if not isinstance(data, dict) or data.get("train") in ("", recipe.train):
        return
    if "data.test_fraction" not in given and recipe.test and "data.test" not in given:
        data["test_fraction"] = _TEST_FRACTION
    for split in ("validation", "test"):
        replaced = getattr(recipe, split)
        if replaced is not None and f"data.{split}" not in given:
            data[split] = None
            share = data.get(f"{split}_fraction", recipe.validation_fraction)
            logging.info(_REPLACED, data["train"], share, split, replaced)


def read_config(workdir: Path) -> TrainConfig | None:
    """The config of the run in `workdir`, None if there is no run.

    Raises:
        ConfigError: the file is damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path}: not valid JSON ({error}); restore it or take another --workdir"
        ) from None
    require(isinstance(values, dict), f"{path} must hold a JSON object", values)
    return from_dict(TrainConfig, values, where=str(path))


def differing_keys(old: TrainConfig, new: TrainConfig) -> list[str]:
    """`key: old -> new` for each leaf that differs."""
    old_leaves, new_leaves = _leaves(to_dict(old)), _leaves(to_dict(new))
    return [
        f"{key}: {old_leaves.get(key)!r} -> {new_leaves.get(key)!r}"
        for key in sorted(set(old_leaves) | set(new_leaves))
        if old_leaves.get(key) != new_leaves.get(key)
    ]


def _hint(owner: Any, key: str) -> Any:
    """The declared type of a field, Any of one that is free or unknown."""
    return get_type_hints(owner).get(key, Any) if dataclasses.is_dataclass(owner) else Any


def _parse(text: str, hint: Any) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    # --set=data.test=2024 names a file, not a number; where both may stand it is a number.
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return text if str in kinds and type(value) not in (str, *kinds) else value


def _keys(values: dict[str, Any]) -> str:
    return ", ".join(sorted(_leaves({**values, **_FREE})))


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in values.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = list(value) if isinstance(value, tuple) else value
    return leaves
