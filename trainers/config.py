"""What a training run is: one nested dataclass, written to the workdir as `train_config.json`.

A recipe gives it, `--set=key.path=value` edits it, and a run under way refuses another one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from zoo.configs import ModelConfig
from zoo.presets import preset_config
from zoo.strict_config import STRICT, ConfigError, from_dict, to_dict

CONFIG_FILE = "train_config.json"


def _require(holds: bool, rule: str, value: Any) -> None:
    if not holds:
        raise ConfigError(f"{rule}. Received: {value!r}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it becomes token windows.

    Attributes:
        train: a file, glob, folder, or named corpus; see `trainers.data.sources`.
        validation: the same, for validation; None holds out part of `train`.
        validation_fraction: float, share of the characters held out. Defaults to 0.1.
        encoding: codec of the files. Defaults to "utf-8".
        invalid: "replace" puts U+FFFD for bytes that are not valid, "strict" stops.
        split: "files" makes each file a document, "lines" each line. Defaults to "files".
        pattern: of the files in a folder, such as "*.txt"; None takes every file.
        max_bytes: int, reads no more than that; None reads all.
        tokenizer: "character" (Unicode code points) or "byte" (needs no training).
        max_vocabulary_size: int, the most frequent characters only; None keeps all.
        min_count: int, characters seen less often become unknown. Defaults to 1.
        start_text: one token's text, read in place of an empty prompt; "" is the end-of-text
            token, which stands before every document of a corpus of several.
        order: "windows" draws windows in random order, each once an epoch; "segments" draws
            segments of consecutive windows, and carries the state of an LSTM from one window to
            the next of its segment (truncated back-propagation through time).
        segment_windows: int, windows of a segment. Defaults to 16.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    train: str
    validation: str | None = None
    validation_fraction: float = 0.1
    encoding: str = "utf-8"
    invalid: Literal["replace", "strict"] = "replace"
    split: Literal["files", "lines"] = "files"
    pattern: str | None = None
    max_bytes: int | None = None
    tokenizer: Literal["character", "byte"] = "character"
    max_vocabulary_size: int | None = None
    min_count: int = 1
    start_text: str = ""
    order: Literal["windows", "segments"] = "windows"
    segment_windows: int = 16

    def __post_init__(self):
        _require(bool(self.train), "data.train must name a text", self.train)
        _require(self.min_count >= 1, "data.min_count must be at least 1", self.min_count)
        windows = self.segment_windows
        _require(windows >= 1, "data.segment_windows must be at least 1", windows)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule; see `trainers.optimizers`.

    Attributes:
        name: "adamw" or "muon" (matrices by Muon, the rest by AdamW).
        learning_rate: float, the peak.
        schedule: "cosine", "linear" or "constant" after the warm-up.
        warmup_steps: int, steps of linear rise from 0.
        final_fraction: float, share of the peak that the schedule ends at.
        decay_fraction: float in (0, 1], share of the run that decays: 1 decays from the end of
            the warm-up, 0.4 holds the peak until the last 40 % of the steps.
        weight_decay: float, decoupled; norms and biases are left out.
        beta_1, beta_2: float, Adam's decay rates.
        momentum: float, Muon's.
        adam_lr_ratio: float, learning rate of Muon's AdamW part over that of its matrices.
        global_clipnorm: float, gradients are scaled to this norm at most; None is off.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1
    decay_fraction: float = 1.0
    weight_decay: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    momentum: float = 0.95
    adam_lr_ratio: float = 1.0
    global_clipnorm: float | None = 1.0

    def __post_init__(self):
        for name, holds, rule in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
            ("final_fraction", 0 <= self.final_fraction <= 1, "in [0, 1]"),
            ("decay_fraction", 0 < self.decay_fraction <= 1, "in (0, 1]"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("beta_1", 0 <= self.beta_1 < 1, "in [0, 1)"),
            ("beta_2", 0 <= self.beta_2 < 1, "in [0, 1)"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("adam_lr_ratio", self.adam_lr_ratio >= 0, "0 or more"),
            (
                "global_clipnorm",
                self.global_clipnorm is None or self.global_clipnorm > 0,
                "above 0",
            ),
        ):
            _require(holds, f"optimizer.{name} must be {rule}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        recipe: name of the recipe it came from.
        task: "lm".
        preset: name of the model's shape, `zoo.presets`.
        model: fields of the preset's config to replace, such as {"dropout": 0.1}.
        data: DataConfig.
        optimizer: OptimizerConfig.
        batch_size: int, windows of `context_length` tokens a step.
        steps: int, optimizer steps of the whole run.
        evaluate_every: int, steps between two evaluations on the whole validation split, each
            with a checkpoint; must divide `steps`.
        keep_checkpoints: int, newest checkpoints kept. Defaults to 2.
        select: "best" ends with the weights of the lowest validation loss, "last" with the last.
        seed: int, of initial weights, data order and dropout.
        precision: Keras dtype policy, such as "float32" or "mixed_bfloat16".
        jit_compile: bool, XLA for the training step on TensorFlow: pays for a GPT on a CPU, not
            for an LSTM. Other backends always compile.
        sample_prompts: texts that the report continues.
        sample_tokens: int, tokens of each continuation.
        sample_temperature: float.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    recipe: str
    data: DataConfig
    preset: str
    task: Literal["lm"] = "lm"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = 12
    steps: int = 2000
    evaluate_every: int = 250
    keep_checkpoints: int = 2
    select: Literal["best", "last"] = "best"
    seed: int = 0
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"] = "float32"
    jit_compile: bool = True
    sample_prompts: tuple[str, ...] = ("",)
    sample_tokens: int = 200
    sample_temperature: float = 0.8

    def __post_init__(self):
        for name in ("batch_size", "steps", "evaluate_every", "keep_checkpoints", "sample_tokens"):
            value = getattr(self, name)
            _require(value >= 1, f"{name} must be at least 1", value)
        _require(0 <= self.seed < 2**32, "seed must be in [0, 2^32)", self.seed)
        _require(
            self.sample_temperature >= 0,
            "sample_temperature must be 0 or more",
            self.sample_temperature,
        )
        if "vocabulary_size" in self.model:
            raise ConfigError("model.vocabulary_size cannot be set: the tokenizer decides it")
        if self.steps % self.evaluate_every:
            raise ConfigError(
                "steps must be a multiple of evaluate_every. "
                f"Received: steps={self.steps}, evaluate_every={self.evaluate_every}"
            )
        model = self.model_config(2)
        if self.data.order == "segments" and model.family != "lstm":
            raise ConfigError(
                'data.order="segments" carries a recurrent state, which only an LSTM has. '
                f"Received: preset={self.preset!r}; use data.order=windows"
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

    Raises:
        ConfigError: no "=", unknown key (the known ones are listed), wrong type.

    Example: `with_overrides(config, ["steps=500", "model.num_layers=2", "data.train=my.txt"])`
    """
    values = to_dict(config)
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set={setting}: write --set=key.path=value")
        owner = values
        *parents, key = path.split(".")
        for parent in parents:
            if not isinstance(owner.get(parent), dict):
                raise ConfigError(f"--set={setting}: no group {parent!r}; known: {_keys(values)}")
            owner = owner[parent]
        if owner is not values.get("model") and key not in owner:
            raise ConfigError(f"--set={setting}: no key {path!r}; known: {_keys(values)}")
        owner[key] = _parse(text, owner.get(key))
    return from_dict(TrainConfig, values, where="--set")


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
    _require(isinstance(values, dict), f"{path} must hold a JSON object", values)
    return from_dict(TrainConfig, values, where=str(path))


def differing_keys(old: TrainConfig, new: TrainConfig) -> list[str]:
    """`key: old -> new` for each leaf that differs."""
    old_leaves, new_leaves = _leaves(to_dict(old)), _leaves(to_dict(new))
    return [
        f"{key}: {old_leaves.get(key)!r} -> {new_leaves.get(key)!r}"
        for key in sorted(set(old_leaves) | set(new_leaves))
        if old_leaves.get(key) != new_leaves.get(key)
    ]


def _parse(text: str, current: Any) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    # --set=data.train=2024 names a file, not a number.
    return text if isinstance(current, str) and not isinstance(value, str | None) else value


def _keys(values: dict[str, Any]) -> str:
    return ", ".join(sorted(_leaves({**values, "model": {"<field of the model config>": 0}})))


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in values.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = list(value) if isinstance(value, tuple) else value
    return leaves
