"""The settings of a job of preparing."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from trainers.data.config import DataConfig, require
from trainers.data.shard_format import RECORD_TOKENS
from zoo.config import STRICT

_OWN_TOKENIZERS = {"lm": ("character", "byte"), "mlm": ("wordpiece",)}


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Settings of a job; what they are decides every byte of the result.

    Attributes:
        data: DataConfig: source (`train`), validation, how text is read, the tokenizer.
        task: "lm" or "mlm", what the tokenizer is for: an encoder's has [MASK] and others.
        tokenizer_from: folder of a tokenizer or a bundle, None to make or train one.
        tokenizer_mb: float, megabytes of text that a vocabulary is trained on, from all parts of
            the source; characters are always counted in all of it. Defaults to 64.
        shard_mb: float, megabytes of text that make a shard. Defaults to 64.
        record_tokens: int, ids of a record. Defaults to 1024.
        seed: int, chooses the documents that validate.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    data: DataConfig
    task: Literal["lm", "mlm"] = "lm"
    tokenizer_from: str | None = None
    tokenizer_mb: float = 64.0
    shard_mb: float = 64.0
    record_tokens: int = RECORD_TOKENS
    seed: int = 0

    def __post_init__(self):
        alone = not self.data.mixture
        require(alone, "data.mixture: prepare each corpus by itself", self.data.named)
        require(self.shard_mb > 0, "shard_mb must be above 0", self.shard_mb)
        require(self.tokenizer_mb > 0, "tokenizer_mb must be above 0", self.tokenizer_mb)
        require(self.record_tokens >= 1, "record_tokens must be at least 1", self.record_tokens)
        require(0 <= self.seed < 2**32, "seed must be in [0, 2^32)", self.seed)
        fits = (*_OWN_TOKENIZERS[self.task], "bytepair", "sentencepiece")
        require(
            self.tokenizer_from is not None or self.data.tokenizer in fits,
            f"task {self.task!r} needs a tokenizer of kind {' or '.join(fits)}",
            self.data.tokenizer,
        )
