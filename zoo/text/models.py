"""Task name -> the class that puts strings around a model of that task."""

from __future__ import annotations

from zoo.text.answer import TextAnswerer
from zoo.text.base import TextEncoder
from zoo.text.classify import TextClassifier, TextEmbedder, TextRegressor
from zoo.text.fill_mask import MaskFiller
from zoo.text.tag import TextTagger

TEXT_MODELS: dict[str, type[TextEncoder]] = {
    "mlm": MaskFiller,
    "classify": TextClassifier,
    "pair": TextClassifier,
    "tag": TextTagger,
    "span": TextAnswerer,
    "embed": TextEmbedder,
    "regress": TextRegressor,
}
