"""Keras text models: build one, train it with `fit` or `trainers`, save it as a bundle.

    model = zoo.build("gpt_char_cpu", vocabulary_size=tokenizer.vocabulary_size)
    zoo.save("runs/mine", model, tokenizer)
    zoo.load("runs/mine").lm.generate(["ROMEO:"])

Model code runs on every Keras backend. Names that need TensorFlow (tokenizers, bundles) are
imported when first used, so `import zoo` and `zoo.build` work without it.
"""

import importlib

from zoo.models.bert import BertBackbone
from zoo.models.causal_lm import CausalLM
from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig
from zoo.models.encoder_heads import (
    Classifier,
    MaskedLM,
    PairClassifier,
    Regressor,
    SentenceEncoder,
    SpanPredictor,
    Tagger,
)
from zoo.models.gpt import GPTBackbone
from zoo.models.lstm import LSTMBackbone
from zoo.presets import HEADS, PRESETS, build, preset_config
from zoo.strict_config import ConfigError

_NEED_TENSORFLOW = {
    "Bundle": "zoo.bundle",
    "BundleError": "zoo.bundle",
    "load": "zoo.bundle",
    "save": "zoo.bundle",
    "CleaningConfig": "zoo.text.cleaning",
    "TextConfig": "zoo.text.base",
    "TextLM": "zoo.text.lm",
    "BytePairTokenizer": "zoo.tokenizers",
    "ByteTokenizer": "zoo.tokenizers",
    "CharacterTokenizer": "zoo.tokenizers",
    "SentencePieceTokenizer": "zoo.tokenizers",
    "WordPieceTokenizer": "zoo.tokenizers",
    "load_tokenizer": "zoo.tokenizers",
}

__all__ = [
    "HEADS",
    "PRESETS",
    "BertBackbone",
    "BertConfig",
    "Bundle",
    "BundleError",
    "BytePairTokenizer",
    "ByteTokenizer",
    "CausalLM",
    "CharacterTokenizer",
    "Classifier",
    "CleaningConfig",
    "ConfigError",
    "GPTBackbone",
    "GPTConfig",
    "LSTMBackbone",
    "LSTMConfig",
    "MaskedLM",
    "PairClassifier",
    "Regressor",
    "SentenceEncoder",
    "SentencePieceTokenizer",
    "SpanPredictor",
    "Tagger",
    "TextConfig",
    "TextLM",
    "WordPieceTokenizer",
    "build",
    "load",
    "load_tokenizer",
    "preset_config",
    "save",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEED_TENSORFLOW})


def __getattr__(name: str):
    if name in _NEED_TENSORFLOW:
        return getattr(importlib.import_module(_NEED_TENSORFLOW[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
