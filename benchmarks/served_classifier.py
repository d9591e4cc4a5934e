"""A small text classifier to be served: random weights, a vocabulary of made-up words, texts."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path

import numpy as np

CLASSES = 8
_WORDS = 4000


def export_classifier(folder: Path, layers: int = 2) -> Path:
    """Writes `folder/1`, a SavedModel from raw text to label and scores; returns that path.

    The model is a BERT of width 128, like those published with 2 to 12 layers.

    Example: `export_classifier(Path("/tmp/classifier"))`
    """
    import keras

    import zoo
    from export.saved_model import export_saved_model
    from zoo.presets import PRESETS
    from zoo.tokenizers import WordPieceTokenizer

    keras.utils.set_random_seed(1)
    letters = [*string.ascii_lowercase, *string.digits]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *_words()]
    tokenizer = WordPieceTokenizer(pieces)
    config = dataclasses.replace(
        PRESETS["bert_tiny"].config,
        num_layers=layers,
        vocabulary_size=tokenizer.vocabulary_size,
        context_length=128,
        initializer_range=0.3,  # so that texts have scores far from each other's
    )
    model = zoo.build(config, "classify", {"num_classes": CLASSES})
    labels = [f"topic {number}" for number in range(CLASSES)]
    bundle = zoo.save(folder / "run", model, tokenizer, labels=labels)
    return export_saved_model(bundle, folder, version=1)


def make_texts(count: int, seed: int = 0) -> list[bytes]:
    """Different texts of 8 to 16 words."""
    generator, words = np.random.default_rng(seed), _words()
    texts: dict[bytes, None] = {}
    while len(texts) < count:
        chosen = generator.integers(len(words), size=generator.integers(8, 17))
        texts[" ".join(words[place] for place in chosen).encode()] = None
    return [*texts]


def answers_of(version: Path, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """What a session says of each text: labels (N,) of bytes and scores (N, C)."""
    from export.golden.replay import ask_servable
    from export.server.run.servable import Servable

    servable = Servable("expected", 1, str(version))
    answers = [
        ask_servable(servable, "predict", {"text": np.array(texts[start : start + 32], object)})
        for start in range(0, len(texts), 32)
    ]
    servable.close()
    labels, scores = (np.concatenate([answer[name] for answer in answers]) for name in _OUTPUTS)
    return labels, scores


_OUTPUTS = ("label", "scores")


def _words() -> list[str]:
    generator = np.random.default_rng(0)
    letters = np.array([*string.ascii_lowercase])
    words = {"".join(generator.choice(letters, generator.integers(3, 9))) for _ in range(_WORDS)}
    return sorted(words - {*letters})
