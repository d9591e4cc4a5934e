"""Task name -> the class that puts strings around a model of that task."""

from __future__ import annotations

from zoo.fill_mask import MaskFiller
from zoo.text_answers import TextAnswerer
from zoo.text_classification import TextClassifier, TextRegressor
from zoo.text_embedding import TextEmbedder
from zoo.text_encoder import TextEncoder
from zoo.text_tagging import TextTagger

TEXT_MODELS: dict[str, type[TextEncoder]] = {
    "mlm": MaskFiller,
    "classify": TextClassifier,
    "pair": TextClassifier,
    "tag": TextTagger,
    "span": TextAnswerer,
    "embed": TextEmbedder,
    "regress": TextRegressor,
}
