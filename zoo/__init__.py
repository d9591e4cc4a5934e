"""Keras text models: build one, train it with `fit` or `trainers`, save it as a bundle.

    model = zoo.build("gpt_char_cpu", vocabulary_size=tokenizer.vocabulary_size)
    zoo.save("runs/mine", model, tokenizer)
    zoo.load("runs/mine").lm.generate(["ROMEO:"])

Model code runs on every Keras backend. Each name is imported when it is first used: configs and
presets need no Keras, models no TensorFlow, tokenizers and bundles both.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.bundle import Bundle, save
    from zoo.config import ConfigError
    from zoo.files import BundleError
    from zoo.loading import load
    from zoo.models.bert import BertBackbone
    from zoo.models.build import HEADS, build
    from zoo.models.configs import (
        BertConfig,
        EncoderDecoderConfig,
        GPTConfig,
        LSTMConfig,
        LSTMEncoderDecoderConfig,
    )
    from zoo.models.encoder_decoder import EncoderDecoderBackbone
    from zoo.models.gpt import GPTBackbone
    from zoo.models.heads import (
        CausalLM,
        Classifier,
        MaskedLM,
        PairClassifier,
        Regressor,
        SentenceEncoder,
        SpanPredictor,
        Summarizer,
        Tagger,
        Translator,
    )
    from zoo.models.lstm import LSTMBackbone
    from zoo.models.lstm_encoder_decoder import LSTMEncoderDecoderBackbone
    from zoo.presets import PRESETS, preset_config
    from zoo.text.chat import TextChat
    from zoo.text.config import CleaningConfig, SearchConfig, Seq2SeqConfig, TextConfig
    from zoo.text.lm import TextLM
    from zoo.text.seq2seq import TextSummarizer, TextTranslator
    from zoo.tokenizers import (
        ByteFallbackTokenizer,
        BytePairTokenizer,
        ByteTokenizer,
        CharacterTokenizer,
        SentencePieceTokenizer,
        WordPieceTokenizer,
        load_tokenizer,
    )

# The same once more, for the time when a name is used.
_MODULE_OF = {
    name: module
    for module, names in {
        "zoo.bundle": "Bundle save",
        "zoo.config": "ConfigError",
        "zoo.files": "BundleError",
        "zoo.loading": "load",
        "zoo.models.bert": "BertBackbone",
        "zoo.models.build": "HEADS build",
        "zoo.models.configs": "BertConfig EncoderDecoderConfig GPTConfig LSTMConfig "
        "LSTMEncoderDecoderConfig",
        "zoo.models.encoder_decoder": "EncoderDecoderBackbone",
        "zoo.models.gpt": "GPTBackbone",
        "zoo.models.heads": "CausalLM Classifier MaskedLM PairClassifier Regressor SentenceEncoder "
        "SpanPredictor Summarizer Tagger Translator",
        "zoo.models.lstm": "LSTMBackbone",
        "zoo.models.lstm_encoder_decoder": "LSTMEncoderDecoderBackbone",
        "zoo.presets": "PRESETS preset_config",
        "zoo.text.chat": "TextChat",
        "zoo.text.config": "CleaningConfig SearchConfig Seq2SeqConfig TextConfig",
        "zoo.text.lm": "TextLM",
        "zoo.text.seq2seq": "TextSummarizer TextTranslator",
        "zoo.tokenizers": "ByteFallbackTokenizer BytePairTokenizer ByteTokenizer "
        "CharacterTokenizer SentencePieceTokenizer WordPieceTokenizer load_tokenizer",
    }.items()
    for name in names.split()
}
__all__ = sorted(_MODULE_OF)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    if sys.modules.get("keras"):
        _register_models()
    return value


def _register_models() -> None:
    """Lets `keras.saving.load_model` find our classes."""
    importlib.import_module("zoo.models.build")


class _WhenKerasIsImported(importlib.abc.MetaPathFinder):
    """Registers our classes as soon as Keras is there, and does not import it for that."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            # A module of ours that is being imported asked for Keras: the rest follows it.
            ours = [sys.modules[name] for name in [*sys.modules] if name.startswith("zoo.")]
            if not any(getattr(one.__spec__, "_initializing", False) for one in ours):
                _register_models()

        spec.loader.exec_module = exec_module
        return spec


if sys.modules.get("keras"):
    _register_models()
else:
    sys.meta_path.insert(0, _WhenKerasIsImported())
